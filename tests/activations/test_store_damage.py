"""What is not as it was written is noticed: shards in each other's place, flipped bits, attributes that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagnostics import Target
from diagnostics.activations.extract import extract
from diagnostics.activations.folder import Folder
from diagnostics.activations.metadata import write_group
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError, StorageError
from tests.support.refusals import refusal
from tests.support.stores import planned
from tests.support.tiny import tiny_dataset, tiny_image_encoder

N = 40
ABOUT = {"samples": N, "reason": "", "left_out": {}, "state": {"by": "a test", "version": "1"}}


def new_store(path: Path, seed: int = 0) -> Store:
    """A small store with tokens, prefix tokens, two targets of a kind, a dense one, and an observation."""
    encoder, dataset = tiny_image_encoder(seed, blocks=1), tiny_dataset(N, "image")
    dataset.targets["other"] = Target("value", np.arange(N) / N)
    store = extract(encoder, dataset, path, planned(encoder, N), batch_size=8)
    rng = np.random.default_rng(seed)
    store.put_observed("seen", {tap.name: rng.normal(size=(N, 3)).astype(np.float32) for tap in store.taps}, ABOUT)
    return store


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of other weights, not to be written to."""
    folder = tmp_path_factory.mktemp("kept")
    return new_store(folder / "one").path, new_store(folder / "other", 1).path


@pytest.fixture
def run(kept: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept[0], tmp_path / "run"))


def everything(path: Path) -> dict[str, np.ndarray]:
    """All that a store hands out."""
    store = Store(path)
    store.check_whole()
    values: dict[str, np.ndarray] = {"id": store.ids, "split": store.split, "group": store.groups}
    for tap in store.taps:
        values[f"pooled {tap.name}"] = store.pooled(tap.name)
        values[f"tokens {tap.name}"] = np.concatenate([block for _, block in store.token_blocks(tap.name)])
        values[f"features {tap.name}"] = np.concatenate(list(store.feature_blocks(tap.name)), axis=1)
    for name, target in store.targets().items():
        values[f"target {name}"] = target.values
        values |= {f"target {name} {shape}": on_grid for shape, on_grid in target.on_grid.items()}
    values |= {f"seen {tap}": array for tap, array in store.observation_arrays("seen").items()}
    facts = [store.identity, store.poolings, [str(tap) for tap in store.taps], store.output_tap, store.token_samples]
    values["facts"] = np.array([repr(facts), repr([(t.units, t.classes) for t in store.targets().values()])])
    return values


def noticed_or_the_same(path: Path, before: dict[str, np.ndarray]) -> bool:
    """Whether an error of ours came; with any other error, or other values, the test fails."""
    try:
        after = everything(path)
    except DiagnosticsError:
        return True
    assert after.keys() == before.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
    return False


def exchanged(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


@pytest.mark.parametrize("kind", ["pooled", "tokens", "prefix"])
@pytest.mark.parametrize("how", ["two shards of a tap", "two taps", "another run"])
def test_a_shard_in_anothers_place_is_refused(run: Path, kept: tuple[Path, Path], kind: str, how: str) -> None:
    """Each with good checksums, of the right length, and where Zarr alone would read it."""
    place = run / "taps" / "blocks.0" / kind / "c.0.0.0"
    if how == "another run":
        shutil.copy(kept[1] / "taps" / "blocks.0" / kind / "c.0.0.0", place)
    else:
        exchanged(
            place,
            place.with_name("c.1.0.0") if how == "two shards of a tap" else run / "taps" / "norm" / kind / place.name,
        )
    store = Store(run)
    store.check_whole()
    with refusal("damaged", f"taps/blocks.0/{kind}", kind=StorageError):
        store.pooled("blocks.0") if kind == "pooled" else list(store.feature_blocks("blocks.0"))
    if kind == "tokens":
        with refusal("damaged", "taps/blocks.0/tokens", kind=StorageError):
            list(store.token_blocks("blocks.0"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("id", "group"), ("split", "group"), ("targets/level", "targets/other")],
)
def test_samples_and_targets_in_each_others_place_are_refused(run: Path, one: str, other: str) -> None:
    exchanged(
        *(next(path for path in (run / "samples" / name / "c").rglob("*") if path.is_file()) for name in (one, other))
    )
    with pytest.raises(StorageError, match=f"samples/{one}|samples/{other}"):
        Store(run).targets()


def test_targets_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    encoder, dataset = tiny_image_encoder(blocks=1), tiny_dataset(N, "image", seed=1)
    other = extract(encoder, dataset, tmp_path / "other", planned(encoder, N)).path
    shutil.rmtree(run / "samples" / "targets" / "level")
    shutil.copytree(other / "samples" / "targets" / "level", run / "samples" / "targets" / "level")
    with refusal("damaged", "samples/targets/level", kind=StorageError):
        Store(run).targets()


@pytest.mark.parametrize("how", ["two taps", "another run's tap", "all of another run", "another name"])
def test_an_observation_in_anothers_place_is_refused(run: Path, kept: tuple[Path, Path], how: str) -> None:
    place, name = run / "observed" / "seen", "seen"
    chunk = Path("norm", "c.0.0")
    if how == "two taps":
        exchanged(place / chunk, place / "embed" / "c.0.0")
    elif how == "another run's tap":
        shutil.copy(kept[1] / "observed" / "seen" / chunk, place / chunk)
    elif how == "all of another run":
        shutil.rmtree(place)
        shutil.copytree(kept[1] / "observed" / "seen", place)
    else:
        name = "other"
        place.rename(place.with_name(name))
    with refusal("damaged", f"observed/{name}", kind=StorageError):
        Store(run).observation_arrays(name)


def flip(path: Path, rng: np.random.Generator) -> Callable[[], None]:
    """One bit of a file; gives what puts it right again."""
    whole = path.read_bytes()
    data = bytearray(whole)
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return lambda: path.write_bytes(whole) and None


@pytest.mark.parametrize("which", ["root", "arrays and groups"])
def test_a_flipped_bit_of_metadata_is_noticed_or_changes_nothing(run: Path, which: str) -> None:
    before, rng = everything(run), np.random.default_rng(0)
    files = [run / "zarr.json"] if which == "root" else sorted({*run.rglob("zarr.json")} - {run / "zarr.json"})
    noticed = 0
    for _ in range(60):
        path = files[int(rng.integers(len(files)))]
        repair = flip(path, rng)
        here = noticed_or_the_same(run, before)
        noticed += here
        # Of the groups that hold nothing but others, only Zarr reads the metadata.
        assert here or path == run / "observed" / "zarr.json"
        repair()
    assert noticed > 50
    assert not noticed_or_the_same(run, before)


def test_a_flipped_bit_of_data_is_noticed(run: Path) -> None:
    before, rng = everything(run), np.random.default_rng(0)
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "zarr.json")
    for _ in range(60):
        repair = flip(files[int(rng.integers(len(files)))], rng)
        assert noticed_or_the_same(run, before)
        repair()


def test_a_flipped_bit_of_a_half_written_store_is_noticed_or_made_good(tmp_path: Path, kept: tuple[Path, Path]) -> None:
    """The same command then ends in an error of ours, or in the values of an undisturbed run; never in others."""
    encoder, dataset = tiny_image_encoder(blocks=1), tiny_dataset(N, "image")
    dataset.targets["other"] = Target("value", np.arange(N) / N)

    def watch(event: Any) -> None:
        if getattr(event, "done", 0) == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(encoder, dataset, tmp_path / "half", planned(encoder, N), batch_size=8, watch=watch)
    assert Store(tmp_path / "half").rows_done == 24
    assert [path.name for path in (tmp_path / "half").glob(".pooled.*")] == [".pooled.1.partial"]
    before, rng = everything(kept[0]), np.random.default_rng(0)
    files = sorted(path for path in (tmp_path / "half").rglob("*") if path.is_file())
    noticed = made_good = 0
    for i in range(25):
        run = Path(shutil.copytree(tmp_path / "half", tmp_path / f"half{i}"))
        # The journal every fifth time: it is one file of many.
        path = (
            next(run.glob(".pooled.*"))
            if i % 5 == 0
            else run / files[int(rng.integers(len(files)))].relative_to(tmp_path / "half")
        )
        done_again = path.name.startswith((".pooled.", "c."))
        flip(path, rng)
        try:
            extract(encoder, dataset, run, planned(encoder, N), batch_size=8)
            shutil.copytree(kept[0] / "observed", run / "observed")
        except DiagnosticsError:
            noticed += 1
            assert not done_again, "a damaged journal or shard"
            continue
        here = noticed_or_the_same(run, before)
        noticed += here
        made_good += not here
        assert not (here and done_again)
    assert noticed + made_good == 25 and noticed > 8 < made_good


def changed(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set, or with `...` remove, what stands in the attributes under a dotted key."""

    def change(attrs: dict[str, Any]) -> None:
        *above, last = key.split(".")
        for name in above:
            attrs = attrs[int(name)] if isinstance(attrs, list) else attrs[name]
        if value is ...:
            del attrs[last]
        else:
            attrs[last] = value

    return change


CHANGES: dict[str, Any] = {
    **{f"no {key}": changed(key, ...) for key in ("plan", "identity", "complete", "targets", "witness", "files")},
    **{
        f"{key} is {value!r}": changed(key, value)
        for key in ("plan", "identity", "complete", "targets", "files")
        for value in (None, 7, "text", [1])
    },
    "samples 10**12": changed("plan.samples", 10**12),
    "samples and tokens 10**12": lambda attrs: attrs["plan"].update(samples=10**12, token_samples=10**12),
    "samples 1e3": changed("plan.samples", 1e3),
    "samples true": changed("plan.samples", True),
    "shard 0": changed("plan.shard", 0),
    "shard -8": changed("plan.shard", -8),
    "pooled shard 0": changed("plan.pooled_shard", 0),
    "pooled shard 10**15": changed("plan.pooled_shard", 8 * 10**15),
    "another pooled shard": changed("plan.pooled_shard", 24),
    "more tokens than samples": changed("plan.token_samples", 48),
    "precision": changed("plan.precision", "float8"),
    "no taps": changed("plan.taps", []),
    "a tap twice": lambda attrs: attrs["plan"]["taps"].append(attrs["plan"]["taps"][0]),
    "a tap elsewhere": changed("plan.taps.0.name", "../../elsewhere"),
    "a tap of 10**15 features": changed("plan.taps.0.features", 10**15),
    "a tap of depth nan": changed("plan.taps.0.depth", float("nan")),
    "a grid without axes": changed("plan.taps.0.grid.axes", []),
    "another output tap": changed("plan.output_tap", "nowhere"),
    "another pooling": changed("plan.poolings", ["median"]),
    "a target elsewhere": lambda attrs: attrs["targets"].update({"../../x": attrs["targets"]["level"]}),
    "a target that is not there": lambda attrs: attrs["targets"].update(more=attrs["targets"]["level"]),
    "a kind that nobody knows": changed("targets.level.kind", "colour"),
    "a grid elsewhere": changed("targets.height.grids", ["../4x4"]),
    "the identity of another": changed("identity.weights", "another"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "sealed again"])
def test_attributes_that_cannot_be_end_in_one_sentence(run: Path, name: str, sealed: bool) -> None:
    """Also where whoever changed them made the digest fit."""
    document = json.loads((run / "zarr.json").read_text())
    CHANGES[name](document["attributes"])
    if sealed:
        write_group(Folder(run), document["attributes"])
    else:
        (run / "zarr.json").write_text(json.dumps(document))
    with refusal("damaged") as error:
        everything(run)
    assert "\n" not in str(error.value)


def test_a_shared_run_of_more_parts_than_anyone_looks_for_ends_in_one_sentence(run: Path) -> None:
    document = json.loads((run / "zarr.json").read_text())
    document["attributes"].update(shared="a", complete=False)
    document["attributes"]["plan"]["samples"] = 10**12
    write_group(Folder(run), document["attributes"])
    with refusal("unfinished", "16384"):
        everything(run)


def test_attributes_of_others_are_noticed(run: Path) -> None:
    document = json.loads((run / "zarr.json").read_text())
    document["attributes"]["note"] = "mine"
    (run / "zarr.json").write_text(json.dumps(document))
    with refusal("damaged", "zarr.json", kind=StorageError):
        Store(run)


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[]", b"7", b"\xff\xfe", b'{"attributes": 7}', b"[" * 10**6, b'{"a":' * 10**6, b"9" * 10**5,
     b'{"attributes": {"diagnostics_format": 2, "digest": 7}}', b'{"attributes": {"diagnostics_format": 2}}'],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_metadata_that_is_none_ends_in_one_sentence(run: Path, text: bytes) -> None:
    (run / "zarr.json").write_bytes(text)
    with pytest.raises(DiagnosticsError, match=r"damaged or was copied in part|not a run of this version"):
        Store(run)


def test_metadata_that_is_huge_is_not_read(run: Path) -> None:
    with (run / "zarr.json").open("r+b") as file:
        file.truncate(10**12)  # a hole: it takes no room on disk
    with refusal("damaged", "zarr.json", kind=StorageError):
        Store(run)


def test_a_store_of_the_former_format_is_refused(run: Path) -> None:
    document = json.loads((run / "zarr.json").read_text())
    document["attributes"]["diagnostics_format"] = 1
    (run / "zarr.json").write_text(json.dumps(document))
    with refusal("other-version", "7"):
        Store(run)
