"""The store: layout that plain zarr and xarray open, identity, damage, and shards written as Zarr's own codec reads them."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from diagnostics import Target, split_groups
from diagnostics.activations import shards
from diagnostics.activations.contract import shuffle
from diagnostics.activations.extract import extract
from diagnostics.activations.folder import Folder, check_room, lock, pages
from diagnostics.activations.plan import row_order
from diagnostics.activations.shards import Layout, ShardBuffer, ShardReader
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal
from tests.support.stores import BUDGET, planned
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    encoder, dataset = tiny_image_encoder(), tiny_dataset(20, "image")
    return extract(encoder, dataset, tmp_path / "run", planned(encoder, 20), batch_size=4)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    tokens=st.integers(1, 9),
    features=st.integers(1, 4),
    block=st.integers(1, 9),
    n=st.integers(1, 11),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_zarr_reads_shards_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: int, tokens: int, features: int, block: int, n: int, dtype: str
) -> None:
    block = min(block, tokens)
    values = np.random.default_rng(0).standard_normal((n, tokens, features)).astype(dtype)
    folder = tmp_path_factory.mktemp("shard")
    owner = Folder(folder)
    array = zarr.create_array(
        folder / "a",
        shape=values.shape,
        dtype=dtype,
        chunks=(rows, block, features),
        shards=(rows, -(-tokens // block) * block, features),
        compressors=Crc32cCodec(),
        fill_value=np.nan,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    layout = Layout("a", n, rows, tokens, features, block, dtype)
    buffer = ShardBuffer(layout)
    for shard in range(layout.shards):
        part = values[shard * rows : (shard + 1) * rows]
        for row in range(len(part)):
            buffer.put(row, torch.from_numpy(part[row : row + 1].astype(np.float32)))
        np.testing.assert_array_equal(buffer.rows(len(part)), part)
        buffer.write(owner, b"run", shard)
    np.testing.assert_array_equal(array[:], values)
    reader = ShardReader(owner, b"run", layout)
    by_chunk = [reader.chunk(chunk) for chunk in range(layout.chunks)]
    np.testing.assert_array_equal(np.concatenate(by_chunk, axis=1), values)
    by_shard = [reader.shard(shard).copy() for shard in range(layout.shards)]
    np.testing.assert_array_equal(np.concatenate(by_shard), values)


@pytest.mark.parametrize("direct", [True, False])
def test_reading_past_the_cache_is_reading(stored: Store, monkeypatch: pytest.MonkeyPatch, direct: bool) -> None:
    """Also where a disk refuses it; and what is too large to stay in memory is read as what is not."""
    expected = list(stored.feature_blocks("norm"))
    monkeypatch.setattr("diagnostics.activations.store.MOST_TOKENS", 0)
    flag = getattr(os, "O_DIRECT", 0)
    opened, kept = [], os.open

    def refusing(path: Path, flags: int, *mode: int, **at: int) -> int:
        opened.append(flags)
        if flag and flags & flag and not direct:
            raise OSError(errno.EINVAL, "no direct reading here")
        return kept(path, flags, *mode, **at)

    monkeypatch.setattr(os, "open", refusing)
    for result, values in zip(stored.feature_blocks("norm"), expected, strict=True):
        np.testing.assert_array_equal(result, values)
    assert opened


def test_tokens_of_a_tap_are_read_once_for_all_measures(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Store(stored.path)
    first = [block for _, block in fresh.token_blocks("norm")]
    assert list(fresh.feature_blocks("norm"))
    monkeypatch.setattr(ShardReader, "shard", None)
    monkeypatch.setattr(ShardReader, "chunk", None)
    for kept, (_, block) in zip(first, fresh.token_blocks("norm"), strict=True):
        np.testing.assert_array_equal(kept, block)
        # Whoever writes into its own changes nobody's.
        kept[:] = 0
    assert any(block.any() for _, block in fresh.token_blocks("norm"))
    assert all(block.flags.writeable for block in fresh.feature_blocks("norm"))


def test_taps_that_are_read_in_turn_are_each_read_right(stored: Store) -> None:
    names = [tap.name for tap in stored.taps[:2]]
    alone = [[block for _, block in Store(stored.path).token_blocks(name)] for name in names]
    fresh = Store(stored.path)
    for _ in range(2):
        together = zip(*(fresh.token_blocks(name) for name in names), strict=True)
        for shard, blocks in enumerate(together):
            for each, (_, block) in zip(alone, blocks, strict=True):
                np.testing.assert_array_equal(block, each[shard])


def test_memory_to_read_into_is_taken_once_and_never_shared(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tap.name for tap in stored.taps[:2]]
    alone = [[block for _, block in Store(stored.path).token_blocks(name)] for name in names]
    assert len(alone[0]) > 1
    taken: list[int] = []
    monkeypatch.setattr("diagnostics.activations.store.MOST_TOKENS", 0)
    monkeypatch.setattr(shards, "pages", lambda length: taken.append(length) or pages(length))
    opened = Store(stored.path)
    for _ in range(3):
        for name in names:
            list(opened.token_blocks(name))
    assert len(taken) == 1
    # Two arrays in turn, one of which is left in the middle.
    first, second = (opened.token_blocks(name) for name in names)
    together = [(one, other) for (_, one), (_, other) in zip(first, second, strict=True)]
    for result, expected in zip(zip(*together, strict=True), alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(result), np.concatenate(expected))
    assert len(taken) == 2
    left = opened.token_blocks(names[0])
    next(left)
    np.testing.assert_array_equal(
        np.concatenate([block for _, block in opened.token_blocks(names[1])]), np.concatenate(alone[1])
    )
    np.testing.assert_array_equal(next(left)[1], alone[0][1])


def test_a_missing_or_short_shard_is_noticed_by_its_features(stored: Store) -> None:
    path = stored.path / "taps" / "norm" / "tokens" / "c.1.0.0"
    whole = path.read_bytes()
    for kept in (whole[:100], whole[:-1], whole + b"x", None):
        path.unlink() if kept is None else path.write_bytes(kept)
        with refusal("damaged", "taps/norm/tokens"):
            list(stored.feature_blocks("norm"))


def test_stored_values_are_the_encoders(stored: Store) -> None:
    encoder, dataset = tiny_image_encoder(), tiny_dataset(20, "image")
    order = row_order(20)
    assert list(stored.ids) == [dataset.ids[i] for i in order]
    batch = torch.stack([encoder.preprocess(dataset[int(i)]) for i in order])
    for tap, values in encoder.capture(batch).items():
        tokens = np.concatenate([block for _, block in stored.token_blocks(tap)])
        np.testing.assert_allclose(tokens, values[:, 2:].numpy(), atol=1e-6)
        side_by_side = np.concatenate([values[:, 2:].mean(1).numpy(), values[:, 0].numpy()], axis=1)
        np.testing.assert_allclose(stored.pooled(tap), side_by_side, atol=1e-6)
        np.testing.assert_allclose(stored.pooled(tap, "prefix"), values[:, 0].numpy(), atol=1e-6)
        features = np.concatenate(list(stored.feature_blocks(tap)), axis=1)
        everything = np.concatenate([values[:, 2:].flatten(1).numpy(), values[:, :2].flatten(1).numpy()], axis=1)
        np.testing.assert_allclose(features, everything, atol=1e-6)


@pytest.mark.parametrize("n", [40, 200, 400, 1797])
def test_first_rows_are_a_random_subset_of_all_splits(n: int) -> None:
    """Rows and splits are drawn from one kind of generator with small seeds: one stream for both would sort rows by split."""
    for seed in range(3):
        split = split_groups([f"{i:05d}" for i in range(n)], seed)[row_order(n)]
        first = split[: n // 3]
        shares = [(first == name).mean() for name in ("train", "val", "test")]
        np.testing.assert_allclose(shares, [0.6, 0.2, 0.2], atol=4 * np.sqrt(0.24 / len(first)))


def test_targets_lie_beside_their_rows(stored: Store) -> None:
    dataset = tiny_dataset(20, "image")
    order = row_order(20)
    targets = stored.targets()
    np.testing.assert_array_equal(targets["kind"].values, dataset.targets["kind"].values[order])
    np.testing.assert_array_equal(targets["level"].values, dataset.targets["level"].values[order])
    cells = dataset.targets["height"].values[order].reshape(20, 4, 4, 4, 4).mean(axis=(2, 4)).reshape(20, 16)
    np.testing.assert_allclose(targets["height"].on_grid[4, 4], cells, atol=1e-12)


def test_layout_is_explicit_and_opens_in_plain_zarr_and_xarray(stored: Store) -> None:
    array = zarr.open_group(stored.path, mode="r")["taps/blocks.1/tokens"]
    assert isinstance(array, zarr.Array)
    assert array.shards == (8, 16, 8)
    assert array.chunks == (8, 16, 8)
    np.testing.assert_array_equal(array[:], np.concatenate([block for _, block in stored.token_blocks("blocks.1")]))
    assert array.metadata.dimension_names == ("token_sample", "token", "feature")
    tree = xr.open_datatree(stored.path, engine="zarr", consolidated=False)
    assert tree["taps/blocks.1"]["pooled"].dims == ("sample", "pooling", "feature")
    assert tree["samples"]["id"].dims == ("sample",)


def test_half_of_the_budget_keeps_whole_shards_of_tokens(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(40)
    each = 4 * sum(tap.tokens * tap.features for tap in encoder.taps)
    store_plan = planned(encoder, 40, budget=each * 21)
    assert store_plan.token_samples == 16
    store = extract(encoder, dataset, tmp_path / "run", store_plan)
    assert sum(len(block) for _, block in store.token_blocks("norm")) == 16
    assert len(store.pooled("norm")) == 40


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": tiny_encoder(1)}, "weights"),
        ({"encoder": tiny_encoder(mean=0.1)}, "preprocessing"),
        ({"encoder": tiny_encoder(configuration="other")}, "configuration"),
        ({"dataset": tiny_dataset(20, seed=1)}, "dataset"),
        ({"precision": "float16"}, "precision"),
        ({"taps": 2}, "taps"),
        ({"budget": 0}, "tokens"),
        ({"output": "blocks.0"}, "output tap"),
    ],
)
def test_a_store_of_other_activations_is_refused_by_name(tmp_path: Path, change: dict, named: str) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(20)
    extract(encoder, dataset, tmp_path / "run", planned(encoder, 20))
    encoder, dataset = change.get("encoder", encoder), change.get("dataset", dataset)
    encoder = encoder.replace(output_tap=change.get("output", encoder.output_tap))
    taps = encoder.taps[-change.get("taps", len(encoder.taps)) :]
    store_plan = planned(
        encoder.with_taps(taps), 20, change.get("budget", BUDGET), precision=change.get("precision", "float32")
    )
    with refusal("other-run", f"its {named}"):
        extract(encoder, dataset, tmp_path / "run", store_plan)


def test_batch_size_and_workers_are_not_part_of_the_identity(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(20)
    extract(encoder, dataset, tmp_path / "run", planned(encoder, 20), batch_size=3)
    extract(encoder, dataset, tmp_path / "run", planned(encoder, 20), batch_size=5, workers=2)


def test_a_batch_larger_than_the_dataset_is_the_dataset(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(20)
    huge, whole = (
        extract(encoder, dataset, tmp_path / str(size), planned(encoder, 20), batch_size=size)
        for size in (99_999_999_999, 20)
    )
    for tap in encoder.taps:
        np.testing.assert_array_equal(huge.pooled(tap.name), whole.pooled(tap.name))


def chunk_files(run: Path) -> list[Path]:
    return sorted(path for path in (run / "taps").rglob("*") if path.name.startswith("c."))


@pytest.mark.parametrize("kind", ["pooled", "tokens", "prefix"])
def test_one_damaged_byte_is_noticed_when_read(stored: Store, kind: str) -> None:
    path = stored.path / "taps" / "blocks.1" / kind / "c.1.0.0"
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with refusal("damaged", "taps/blocks.1"):
        stored.pooled("blocks.1") if kind == "pooled" else list(stored.feature_blocks("blocks.1"))


def test_a_truncated_file_is_noticed_when_read(stored: Store) -> None:
    path = stored.path / "taps" / "norm" / "tokens" / "c.0.0.0"
    path.write_bytes(path.read_bytes()[:100])
    with refusal("damaged"):
        list(stored.token_blocks("norm"))


def test_any_missing_file_is_noticed_on_opening(stored: Store) -> None:
    for path in chunk_files(stored.path):
        kept = path.read_bytes()
        path.unlink()
        with refusal("damaged"):
            Store(stored.path).check_whole()
        path.write_bytes(kept)
    Store(stored.path).check_whole()


@pytest.mark.parametrize("name", ["id", "split", "targets/kind", "targets/height/4x4"])
def test_a_missing_column_of_samples_is_noticed(stored: Store, name: str) -> None:
    shutil.rmtree(stored.path / "samples" / name / "c")
    with refusal("damaged"):
        Store(stored.path).targets()


def test_a_target_that_is_nowhere_known_is_not_damage(tmp_path: Path) -> None:
    encoder, dataset = tiny_encoder(), tiny_dataset(20)
    dataset.targets["level"].values[:] = np.nan
    store = extract(encoder, dataset, tmp_path / "run", planned(encoder, 20))
    assert np.isnan(store.targets()["level"].values).all()


def test_targets_come_back_as_they_were_given(tmp_path: Path) -> None:
    """Also numbers of objects beyond 16 bits, and what lies on no tap's grid."""
    encoder, dataset = tiny_image_encoder(), tiny_dataset(20, "image")
    rng = np.random.default_rng(0)
    masks = rng.choice([-1, 0, 1, 40000, 2**16 + 3], size=(20, 16, 16))
    given = {
        "masks": Target("masks", masks),
        "caption": Target("caption", rng.normal(size=(20, 3))),
        "future": Target("future", rng.normal(size=(20, 2)), naive=rng.normal(size=(20, 2))),
        "angle": Target("state", rng.normal(size=20), period=2 * np.pi),
        "video": Target("token_label", rng.integers(0, 3, (20, 2, 16, 16))),
        "event": Target("event", rng.integers(0, 2, (20, 5))),
    }
    dataset.targets.update(given)
    store = extract(encoder, dataset, tmp_path / "run", planned(encoder, 20))
    result, order = Store(store.path).targets(), row_order(20)
    for name in ("masks", "caption", "future", "angle"):
        np.testing.assert_array_equal(result[name].values, given[name].values[order])
        assert (result[name].period, result[name].kind) == (given[name].period, given[name].kind)
    np.testing.assert_array_equal(result["future"].naive, given["future"].naive[order])
    for name in ("video", "event"):
        assert not result[name].on_grid
        assert not shuffle(store, result)[name].on_grid


def test_damaged_metadata_is_one_sentence(stored: Store) -> None:
    (stored.path / "zarr.json").write_text('{"zarr_format": 3, "node')
    with refusal("damaged"):
        Store(stored.path)


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    zarr.open_group(tmp_path / "group", mode="w")
    for name in ("nothing", "file", "group"):
        with pytest.raises(DiagnosticsError, match="not a run"):
            Store(tmp_path / name)


def test_a_folder_of_other_things_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    encoder = tiny_encoder()
    with refusal("occupied"):
        extract(encoder, tiny_dataset(20), tmp_path / "mine", planned(encoder, 20))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with lock(tmp_path / "run"), refusal("in-use"), lock(tmp_path / "run"):
        pass
    with lock(tmp_path / "run"):
        pass


def test_a_full_disk_is_seen_before_the_first_byte(tmp_path: Path) -> None:
    with refusal("no-space"):
        check_room(tmp_path / "run", shutil.disk_usage(tmp_path).free * 2)


def test_float16_that_overflows_is_refused_with_tap_and_sample(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.module.blocks[1].outer.bias[:] = 1e5
    dataset = tiny_dataset(20)
    with refusal("not-finite", "blocks.1"):
        extract(encoder, dataset, tmp_path / "half", planned(encoder, 20, precision="float16"))
    assert not (tmp_path / "half").exists()
    extract(encoder, dataset, tmp_path / "single", planned(encoder, 20))


def test_attributes_hold_no_path_of_the_machine(stored: Store) -> None:
    assert str(stored.path.parent) not in json.dumps(stored.attrs)
