"""Observations: recorded once beside the activations, whole or not at all, and read by measures with the reason where not."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn
from torch.nn import functional as F

import diagnostics as dx
from diagnostics import DiagnosticsError
from diagnostics.activations.contract import Observation
from diagnostics.activations.extract import extract
from diagnostics.activations.observe import observe
from diagnostics.activations.plan import row_order
from diagnostics.activations.store import Store
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.errors import StorageError
from diagnostics.measures.locality import attention_distance
from diagnostics.measures.locality.heads import AttentionDistance
from diagnostics.progress import Progress
from tests.support.refusals import refusal
from tests.support.stores import digests, planned
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

N = 30


class Looking(nn.Module):
    """A residual block of one self-attention with two heads."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        with torch.no_grad():
            self.qkv.weight *= 4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def looking() -> dx.TorchEncoder:
    """`tiny_image_encoder` (2 prefix tokens, a grid of 4 x 4) with attention in two of its three blocks."""
    encoder = tiny_image_encoder()
    torch.manual_seed(0)
    for i in (0, 2):
        encoder.module.blocks[i] = Looking()
    return encoder


class Means(Observation):
    """Mean and spread of each tap's tokens, for 20 samples."""

    name: ClassVar[str] = "means"
    samples = 20

    def __init__(self) -> None:
        self.calls: list[int] = []

    def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
        self.calls.append(len(batch))
        return encoder.capture(batch, reduce=lambda tap, x: torch.stack([x.mean((1, 2)), x.std((1, 2))], 1).double())


def extracted(path: Path, encoder: Encoder | None = None, n: int = N) -> Store:
    encoder = encoder or looking()
    return extract(encoder, tiny_dataset(n, "image"), path, planned(encoder, n))


def record(store: Store, what: Observation, encoder: Encoder | None = None, **options: Any) -> None:
    observe(encoder or looking(), tiny_dataset(N, "image"), store, [what], **{"version": "1", **options})


def test_the_first_rows_are_recorded_as_they_are(tmp_path: Path) -> None:
    store, what = extracted(tmp_path / "run"), Means()
    before = digests(store.path)
    seen: list[Progress] = []
    record(store, what, watch=seen.append)
    result = Store(store.path).observation_arrays("means")
    assert list(result) == [tap.name for tap in store.taps]
    tokens = np.concatenate([block for _, block in store.token_blocks("blocks.0")])[:20]
    prefix = zarr.open_group(store.path, mode="r")["taps/blocks.0/prefix"][:20]
    whole = np.concatenate([prefix, tokens], axis=1)
    assert result["blocks.0"].dtype == np.float32
    np.testing.assert_allclose(result["blocks.0"][:, 0], whole.mean((1, 2)), rtol=1e-4, atol=1e-6)
    assert what.calls == [13, 7]
    assert [(e.step, e.done, e.total) for e in seen] == [("observing means of tiny-image", d, 20) for d in (13, 20)]
    after = digests(store.path)
    assert {name: after[name] for name in before} == before
    assert set(zarr.open_group(store.path / "observed" / "means", mode="r").array_keys()) == set(result)


def test_it_depends_on_neither_batches_nor_workers(tmp_path: Path) -> None:
    result: list[np.ndarray] = []
    for name, options in (("a", {}), ("b", {"batch_size": 3}), ("c", {"workers": 1})):
        store = extracted(tmp_path / name)
        record(store, Means(), **options)
        result.append(store.observation_arrays("means")["norm"])
    for other in result[1:]:
        np.testing.assert_allclose(result[0], other, atol=1e-5)


def test_what_is_there_is_not_seen_again(tmp_path: Path) -> None:
    store, what, encoder = extracted(tmp_path / "run"), Means(), looking()
    record(store, what, encoder)
    encoder.module.passes = 0
    record(Store(store.path), what, encoder)
    assert encoder.module.passes == 0
    more = Means()
    more.samples = 25
    record(store, more, encoder)
    assert len(store.observation_arrays("means")["norm"]) == 25, "more rows replace fewer"
    record(store, what, encoder)
    assert len(store.observation_arrays("means")["norm"]) == 25, "and serve those who want fewer"
    assert list((store.path / "observed").glob(".*")) == []


def test_what_another_observation_of_that_name_or_version_recorded_is_not_taken_for_it(tmp_path: Path) -> None:
    class Others(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            return {tap: 0 * values + 7 for tap, values in super().observe(encoder, batch, taps).items()}

    store = extracted(tmp_path / "run")
    record(store, Others())
    assert (store.observation_arrays("means")["norm"] == 7).all()
    record(store, Means())
    assert not (store.observation_arrays("means")["norm"] == 7).any()
    what = Means()
    record(store, what, version="9.9")
    assert what.calls == [13, 7]


def test_fewer_samples_than_wanted_are_all(tmp_path: Path) -> None:
    encoder = looking()
    store = extract(encoder, tiny_dataset(12, "image"), tmp_path / "run", planned(encoder, 12))
    observe(encoder, tiny_dataset(12, "image"), store, [Means()], version="1")
    assert len(store.observation_arrays("means")["norm"]) == 12


def test_the_reason_is_kept_and_holds(tmp_path: Path) -> None:
    class Never(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            self.calls.append(1)
            raise DiagnosticsError("nothing to be seen here.")

    store, what = extracted(tmp_path / "run"), Never()
    record(store, what)
    for opened in (store, Store(store.path)):
        with pytest.raises(DiagnosticsError, match=r"^nothing to be seen here\.$"):
            opened.observation_arrays("means")
    record(store, what)
    assert len(what.calls) == 1
    # Another version of the code may see more.
    record(store, what, version="9.9")
    assert len(what.calls) == 2
    # And an observation that succeeds replaces the reason.
    store.put_observed("means", {}, {"samples": 1, "reason": "old", "left_out": {}, "state": {}})
    record(store, Means())
    assert len(store.observation_arrays("means")["norm"]) == 20


def test_a_failure_of_any_other_kind_is_told_and_tried_again(tmp_path: Path) -> None:
    class Failing(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            if self.calls:
                return super().observe(encoder, batch, taps)
            self.calls.append(0)
            raise RuntimeError("out of memory")

    store, what = extracted(tmp_path / "run"), Failing()
    record(store, what)
    with pytest.raises(DiagnosticsError, match=r"tiny-image fails on means: RuntimeError: out of memory"):
        store.observation_arrays("means")
    again = Store(store.path)
    record(again, what)
    assert len(again.observation_arrays("means")["norm"]) == 20


def test_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            if self.calls:
                raise KeyboardInterrupt
            return super().observe(encoder, batch, taps)

    store = extracted(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        record(store, Interrupted())
    assert not (store.path / "observed").exists()

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "create_array", full)
        with refusal("no-space", "while writing means", kind=StorageError):
            record(store, Means())
    assert [path.name for path in (store.path / "observed").iterdir()] == ["zarr.json"]
    record(store, Means())
    assert len(store.observation_arrays("means")["norm"]) == 20


@pytest.mark.parametrize("name", ["../means", ".means", "a/b", ""])
def test_names_of_plugins_never_become_other_paths(tmp_path: Path, name: str) -> None:
    class Odd(Means):
        pass

    Odd.name = name
    store = extracted(tmp_path / "run")
    with refusal("bad-value", "cannot be stored"):
        record(store, Odd())
    with refusal("not-measured"):
        store.observation_arrays("../taps")
    assert not (store.path / "observed").exists()


def test_two_of_one_name_are_named(tmp_path: Path) -> None:
    class Other(Means):
        pass

    store = extracted(tmp_path / "run")
    with refusal("duplicate", "means"):
        observe(looking(), tiny_dataset(N, "image"), store, [Means(), Other()], version="1")
    # Several measures may read one.
    what = Means()
    observe(looking(), tiny_dataset(N, "image"), store, [what, Means(), what], version="1")
    assert what.calls == [13, 7]


def test_what_an_observation_gives_is_checked(tmp_path: Path) -> None:
    class Odd(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            return {"embed": torch.zeros(3, 2)}

    class Changing(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            n = len(batch)
            result = {"embed": torch.zeros(n, n), "norm": torch.zeros(n, 4), "elsewhere": torch.zeros(n)}
            return Captured(result, {"blocks.1": "not there"})

    class Elsewhere(Means):
        def observe(self, encoder: Encoder, batch: Any, taps: Sequence[str]) -> Mapping[str, Tensor]:
            return {"elsewhere": torch.zeros(len(batch))}

    for i, (what, message) in enumerate(
        ((Odd(), r"shape \(3, 2\) for 13 samples at tap embed"), (Elsewhere(), "gives no means at"))
    ):
        store = extracted(tmp_path / str(i))
        record(store, what)
        with pytest.raises(DiagnosticsError, match=message):
            store.observation_arrays("means")
    store = extracted(tmp_path / "changing")
    record(store, Changing())
    result = store.observation_arrays("means")
    assert list(result) == ["norm"]
    assert result.left_out == {
        "embed": "it differs among batches",
        "blocks.0": "nothing was recorded",
        "blocks.1": "not there",
        "blocks.2": "nothing was recorded",
    }


@pytest.mark.parametrize("what", ["array", "chunk", "about", "byte"])
def test_damage_is_said(tmp_path: Path, what: str) -> None:
    store = extracted(tmp_path / "run")
    record(store, Means())
    place = store.path / "observed" / "means"
    chunk = next(path for path in (place / "norm").rglob("*") if path.is_file() and path.name != "zarr.json")
    if what == "array":
        (place / "norm" / "zarr.json").unlink()
    elif what == "chunk":
        chunk.unlink()
    elif what == "about":
        (place / "zarr.json").write_text("{")
    else:
        data = bytearray(chunk.read_bytes())
        data[5] ^= 1
        chunk.write_bytes(data)
    with refusal("damaged", "observed/means", kind=StorageError):
        Store(store.path).observation_arrays("means")


def test_nan_is_a_value_here(tmp_path: Path) -> None:
    store = extracted(tmp_path / "run")
    values = np.full((20, 2), np.nan, dtype=np.float32)
    store.put_observed("holes", {"norm": values}, {"samples": 20, "reason": "", "left_out": {}, "state": {}})
    np.testing.assert_array_equal(Store(store.path).observation_arrays("holes")["norm"], values)


def test_a_run_measures_attention_of_the_encoder_and_of_its_weight_controls(tmp_path: Path) -> None:
    encoder, dataset = looking(), tiny_dataset(N, "image")
    run = dx.run(
        encoder, dataset, out=tmp_path / "run", measures=["attention_distance"], report=False, control_measures="all"
    )
    profile = run.profile("attention_distance")
    score = dict(zip(profile.taps, profile.data["score"].values, strict=True))
    batch = torch.stack([encoder.preprocess(dataset[int(i)]) for i in row_order(N)])
    weights = encoder.attention(batch)
    for name in ("blocks.0", "blocks.2"):
        direct = attention_distance(weights[name][..., 2:, 2:], (4, 4))
        assert score[name] == pytest.approx(direct.mean(), rel=1e-4)
        np.testing.assert_allclose(profile.data["by_head"].sel(tap=name).values, direct.mean(0), rtol=1e-4)
    assert np.isnan([score[name] for name in ("embed", "blocks.1", "norm")]).all()
    assert "blocks.1: no attention inside" in profile.data.attrs["reason"]
    assert "attention_distance" in run.index.names("fresh_weights")
    assert "attention_distance" not in run.index.names("raw_input")
    fresh = run.controls["fresh_weights"]["attention_distance"]["score"].values
    assert np.isfinite(fresh[1]) and abs(fresh[1] - score["blocks.0"]) > 1e-4
    assert not (run.path / "controls" / "raw_input").exists(), "which has no attention"
    assert run.skipped == {}


def test_another_live_measure_later_costs_its_own_pass_alone(tmp_path: Path) -> None:
    encoder, dataset = looking(), tiny_dataset(N, "image")
    options: dict[str, Any] = {"out": tmp_path / "run", "controls": False, "report": False}
    dx.run(encoder, dataset, measures=["rankme"], **options)
    before = digests(tmp_path / "run" / "taps")
    for measures, passes in (
        (["attention_distance"], 3),
        (["attention_distance", "attention_entropy"], 0),
        (["receptive_field"], 1),
        (["attention_distance", "receptive_field", "global_token_mass"], 0),
    ):
        encoder.module.passes = 0
        run = dx.run(encoder, dataset, measures=measures, **options)
        assert encoder.module.passes == 1 + passes, "the example, and batches of at most 13"
        assert set(run.index.names(pairwise=False)) >= {"rankme", *measures}
    assert digests(tmp_path / "run" / "taps") == before


@pytest.mark.slow
def test_without_attention_the_run_goes_on_and_says_why(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    options: dict[str, Any] = {"out": tmp_path / "run", "measures": ["standard"], "report": False}
    run = dx.run(encoder, tiny_dataset(N), **options)
    assert "no attention inside" in run.skipped["attention_distance"]
    assert run.skipped["attention_distance"].startswith("tiny gives no attention")
    encoder.module.passes = 0
    dx.run(encoder, tiny_dataset(N), **options)
    assert encoder.module.passes == 4, (
        "over the example alone: whether it gives the same, whether controls give it too, and what weights each of two controls leaves"
    )
    # Who asks for nothing else is refused; beside others it is left out.
    with refusal("not-measured", "attention_distance", "no attention inside"):
        dx.run(encoder, tiny_dataset(N), **{**options, "measures": "attention_distance"})
    run = dx.run(encoder, tiny_dataset(N), **{**options, "measures": "rankme,attention_distance"})
    assert "no attention inside" in run.skipped["attention_distance"]


class Spoilt(Looking):
    """Its second pass has NaN in the third sample's queries of head 1, token 6."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4).clone()
        if self.passes == 2:
            q[2, 1, 6, 0] = torch.nan
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def test_a_sample_whose_queries_are_nan_is_named_by_its_id(tmp_path: Path) -> None:
    store, encoder = extracted(tmp_path / "run"), looking()
    encoder.module.blocks[2] = Spoilt()
    record(store, AttentionDistance.observation, encoder)
    named = rf"tap blocks.2 has queries .* head 1, token 6: look .*\. Sample 2 of this batch is {store.ids[13 + 2]}\.$"
    with pytest.raises(DiagnosticsError, match=named):
        Store(store.path).observation_arrays("attention")


def test_attention_distance_points_at_the_block_that_looks_far(tmp_path: Path) -> None:
    """Planted: one block looks at its right neighbour, the other half the grid away along both axes."""

    class Pointing(nn.Module):
        def __init__(self, order: np.ndarray) -> None:
            super().__init__()
            bias = torch.full((18, 18), -1e4)
            bias[torch.arange(2), torch.arange(2)] = 0
            bias[2 + torch.arange(16), 2 + torch.from_numpy(order)] = 0
            self.register_buffer("bias", bias)

        def forward(self, x: Tensor) -> Tensor:
            y = x[:, None] * 0.1
            return x + F.scaled_dot_product_attention(y, y, y, self.bias)[:, 0]

    encoder = looking()
    places = np.arange(16).reshape(4, 4)
    encoder.module.blocks[0] = Pointing(np.roll(places, -1, axis=1).ravel())
    encoder.module.blocks[2] = Pointing(np.roll(places, (2, 2), axis=(0, 1)).ravel())
    store = extracted(tmp_path / "run", encoder)
    observe(encoder, tiny_dataset(N, "image"), store, [AttentionDistance.observation], version="1")
    result = AttentionDistance().compute(store, None, 0)
    np.testing.assert_allclose(result["score"].values[[1, 3]], [1.5, np.sqrt(8)], atol=1e-3)
