"""Token orders, rows folded into the batch, time first, nested outputs, and masks that pooling respects."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder
from diagnostics.activations.plan import row_order
from diagnostics.encoders.modules import pool
from tests.support.masked import masked_encoder, ragged_dataset
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset

ONES = Grid((3,), ("t",))


def captured(value: Any, grid: Grid, features: int = 2, **site: Any) -> Tensor:
    """What a tap hands over of a module that gives `value`."""

    class Gives(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return value

    tap = Tap("here", 0.5, "trunk", features, grid, Site("", **site))
    return TorchEncoder("gives", "series", Gives(), [tap], "here", example=np.zeros(1)).capture(torch.zeros(1))["here"]


def numbered(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).reshape(shape)


def test_special_tokens_at_the_end_come_first() -> None:
    x = numbered(2, 4, 2)
    outcome = captured(x, Grid((3,), ("t",), 1), order=(3, 0, 1, 2))
    assert torch.equal(outcome, torch.cat([x[:, 3:], x[:, :3]], dim=1))


def test_patches_through_time_are_put_into_raster_order() -> None:
    t, y, x = 2, 3, 4
    lying = numbered(5, y, x, t, 2)  # patch by patch, each through time
    order = [(j * x + k) * t + i for i in range(t) for j in range(y) for k in range(x)]
    outcome = captured(lying.reshape(5, -1, 2), Grid((t, y, x), ("t", "y", "x")), order=tuple(order))
    assert torch.equal(outcome.reshape(5, t, y, x, 2), lying.permute(0, 3, 1, 2, 4))


def test_an_order_counts_behind_the_padding() -> None:
    x = numbered(1, 5, 2)
    outcome = captured(x, ONES, padding=2, order=(2, 1, 0))
    assert torch.equal(outcome, x[:, [4, 3, 2]])


def test_trailing_tokens_are_dropped() -> None:
    x = numbered(2, 6, 2)
    assert torch.equal(captured(x, ONES, trailing=3), x[:, :3])
    assert torch.equal(captured(x, ONES, padding=1, trailing=2, order=(2, 1, 0)), x[:, [3, 2, 1]])
    with refusal("bad-tap", "3"):
        captured(x, ONES, trailing=2)


def test_an_order_on_a_map() -> None:
    x = numbered(2, 2, 3, 3)
    order = (0, 3, 6, 1, 4, 7, 2, 5, 8)
    outcome = captured(x, Grid((3, 3), ("y", "x")), layout="channels_first", order=order)
    assert torch.equal(outcome, x.permute(0, 3, 2, 1).reshape(2, 9, 2))
    with refusal("bad-tap"):
        captured(numbered(2, 2, 2, 3), Grid((3, 2), ("y", "x")), layout="channels_first", order=(0, 3, 1, 4, 2, 5))


def test_rows_become_the_first_axis_and_their_prefix_is_averaged() -> None:
    x = numbered(2, 3, 1 + 4, 2)  # samples, frames, tokens
    outcome = captured(x.flatten(0, 1), Grid((3, 2, 2), ("t", "y", "x"), 1), rows=3)
    assert torch.equal(outcome[:, 0], x[:, :, 0].mean(1))
    assert torch.equal(outcome[:, 1:], x[:, :, 1:].flatten(1, 2))


def test_rows_of_features_and_of_maps() -> None:
    x = numbered(2, 3, 4)
    assert torch.equal(captured(x.flatten(0, 1), Grid((3,), ("v",)), 4, layout="features", rows=3), x)
    maps = numbered(2, 3, 5, 2, 2)
    outcome = captured(maps.flatten(0, 1), Grid((3, 2, 2), ("t", "y", "x")), 5, layout="channels_first", rows=3)
    assert torch.equal(outcome, maps.permute(0, 1, 3, 4, 2).reshape(2, 12, 5))


def test_time_first() -> None:
    x = numbered(3, 4, 2)
    assert torch.equal(captured(x, ONES, layout="time_first"), x.transpose(0, 1))


@dataclass
class Output:
    hidden: Tensor
    extra: Tensor


@pytest.mark.parametrize(
    "nest",
    [
        lambda x: {"hidden": x, "other": 2 * x},
        lambda x: OrderedDict(hidden=(x, 2 * x)),
        lambda x: Output(x, 2 * x),
        lambda x: ((x, x + 1), x + 2),
    ],
)
def test_the_first_tensor_of_what_a_module_gives(nest: Any) -> None:
    x = numbered(2, 3, 2)
    assert torch.equal(captured(nest(x), ONES), x)


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ({"order": (0, 0, 1)}, "no permutation"),
        ({"order": (1, 2, 3)}, "no permutation"),
        ({"rows": 0}, "0 rows"),
        ({"padding": -1}, "-1 tokens"),
        ({"trailing": -1}, "-1 trailing"),
    ],
)
def test_sites_that_cannot_be(site: dict[str, Any], says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        Site("blocks", **site)


def test_rows_that_do_not_fit_the_grid() -> None:
    with refusal("no-grid", "4"):
        Tap("here", 0.5, "trunk", 2, Grid((3,), ("t",)), Site("", rows=4))


@pytest.mark.parametrize(
    ("shape", "grid", "site"),
    [
        ((2, 4, 2), ONES, {"order": (3, 0, 1, 2)}),  # one more token than the grid
        ((2, 3, 2), ONES, {"order": (1, 0)}),  # an order of fewer tokens than there are
        ((5, 2, 2), Grid((3, 2), ("v", "t")), {"rows": 3}),  # five rows are no samples of three
        ((6, 3, 2), Grid((3, 2), ("v", "t")), {"rows": 3}),
        ((4, 3, 2), ONES, {"layout": "time_first"}),
    ],
)
def test_tensors_that_do_not_fit(shape: tuple[int, ...], grid: Grid, site: dict[str, Any]) -> None:
    with refusal("bad-tap"):
        captured(numbered(*shape), grid, **site)


def test_the_order_is_part_of_what_a_site_says() -> None:
    texts = {str(Site("a", order=order)) for order in ((), (0, 1, 2), (1, 0, 2), (2, 1, 0))} | {str(Site("a", rows=2))}
    assert len(texts) == 5


# Masks


def test_pooling_skips_tokens_that_stand_for_no_data() -> None:
    tap = Tap("here", 0.5, "trunk", 2, Grid((4,), ("t",), 1))
    x = numbered(3, 5, 2)
    valid = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    wild = x.clone()
    wild[:, 1:][~valid] = torch.nan
    outcome = pool(tap, wild, ("mean", "last", "prefix"), valid)
    grid = x[:, 1:]
    for i, (first, last) in enumerate([(1, 2), (0, 3), (3, 3)]):
        torch.testing.assert_close(outcome[i, 0], grid[i, first : last + 1].mean(0))
        assert torch.equal(outcome[i, 1], grid[i, last])
        assert torch.equal(outcome[i, 2], x[i, 0])


def test_all_valid_is_no_mask_and_none_valid_is_nan() -> None:
    tap = Tap("here", 0.5, "trunk", 2, Grid((4,), ("t",)))
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    every = torch.ones(3, 4, dtype=torch.bool)
    assert torch.equal(pool(tap, x, ("mean", "last"), every), pool(tap, x, ("mean", "last")))
    every[1] = False
    outcome = pool(tap, x, ("mean", "last"), every)
    assert outcome[1].isnan().all() and outcome[[0, 2]].isfinite().all()


def test_padded_ends_all_at_the_last_step() -> None:
    subject = dx.pad_series([np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])])
    np.testing.assert_array_equal(subject, np.array([[np.nan, 1, 2], [3, 4, 5]], dtype=np.float32))
    assert dx.pad_series([np.ones((2, 3)), np.ones((4, 3))]).shape == (2, 4, 3)
    for bad in ([np.ones(2), np.ones((2, 1))], [np.ones((2, 3)), np.ones((2, 2))], [np.ones((1, 1, 1))]):
        with refusal("bad-shape"):
            dx.pad_series(bad)


def test_a_run_on_samples_of_unequal_length_pools_their_own_steps(tmp_path: Any) -> None:
    data, cut = ragged_dataset()
    encoder = masked_encoder(data[0].shape[0])
    run = dx.run(encoder, data, out=tmp_path / "run", controls=False, report=False)
    store = run.store
    pooled, last = (store.pooled("second", pooling) for pooling in ("mean", "last"))
    for row, i in enumerate(row_order(len(data))):
        single = masked_encoder(len(cut[i]))
        alone = single.capture({k: v[None] for k, v in single.preprocess(cut[i]).items()})["second"]
        np.testing.assert_allclose(pooled[row], alone.mean(1)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last[row], alone[0, -1], rtol=1e-5, atol=1e-6)
    assert store.token_samples == 0
    skipped = run.to_json()["skipped"]
    assert any("unequal length" in reason for reason in skipped.values())
    assert not any("token budget" in reason for reason in skipped.values())


def test_a_measure_of_tokens_asked_for_by_name_says_why_not(tmp_path: Any) -> None:
    data, _ = ragged_dataset()
    with refusal("not-measured", "self_similarity", "unequal length"):
        dx.run(masked_encoder(32), data, out=tmp_path / "run", measures="self_similarity", controls=False)


def test_a_sample_without_data_is_named(tmp_path: Any) -> None:
    data, _ = ragged_dataset()
    data.samples[3] = np.nan
    with refusal("no-tokens", "s3", "first", "masked"):
        dx.run(masked_encoder(32), data, out=tmp_path / "run", controls=False)


def test_audio_of_another_rate_is_refused(tmp_path: Any) -> None:
    whole = tiny_dataset(20)
    data = dx.Dataset("sound", "series", whole.samples, whole.ids, list(whole.split), whole.targets, rate=8000.0)
    encoder = masked_encoder(32).replace(rate=16000.0)
    with refusal("bad-sample", "16000", "sound", "8000"):
        dx.run(encoder, data, out=tmp_path / "run")
    same = dx.Dataset("sound", "series", whole.samples, whole.ids, list(whole.split), whole.targets, rate=16000.0)
    assert same.fingerprint != data.fingerprint


@pytest.mark.parametrize("missing", [1, 11, 30])
def test_the_last_token_under_left_padding_is_the_last_of_the_data(missing: int) -> None:
    """By what the unpadded series gives, alone and in a batch with a whole one; no count of tokens is a place here."""
    series = np.sin(np.arange(32, dtype=np.float32))
    padded = np.where(np.arange(32) < missing, np.nan, series)
    alone = masked_encoder(32 - missing).transform([series[missing:]], "second", pooling=("mean", "last"))
    batch = masked_encoder(32).transform([padded, series], "second", pooling=("mean", "last"))
    np.testing.assert_allclose(batch[0], alone[0], rtol=1e-5)
    valid = torch.from_numpy(np.isfinite(padded))[None]
    tap = Tap("here", 0.5, "trunk", 1, Grid((32,), ("t",)))
    places = torch.arange(32.0)[None, :, None]
    mean, last = pool(tap, places, ("mean", "last"), valid)[0, :, 0].tolist()
    assert (mean, last) == (pytest.approx((missing + 31) / 2), 31.0)
