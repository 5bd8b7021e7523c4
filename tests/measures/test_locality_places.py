"""Moran's I, neighbour consistency and outlier tokens."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diagnostics.measures.locality import blocks
from diagnostics.measures.locality.autocorrelation import (
    MoransI,
    NeighbourConsistency,
    morans_i,
    neighbour_chance,
    neighbour_consistency,
    null_morans_i,
)
from diagnostics.measures.locality.single_tokens import OutlierTokenShare, outlier_tokens
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

y, x = np.divmod(np.arange(256), 16)
GRIDS = [(11,), (1, 9), (4, 5), (3, 2, 4)]


def chebyshev(grid):
    at = np.array(list(itertools.product(*map(range, grid))))
    return np.abs(at[:, None] - at).max(axis=2)


def manhattan(grid):
    at = np.array(list(itertools.product(*map(range, grid))))
    return np.abs(at[:, None] - at).sum(axis=2)


# Moran's I


def test_morans_i_of_a_ramp_far_from_zero_and_of_no_order():
    assert morans_i(x + 1e4, (16, 16)) == pytest.approx(morans_i(x, (16, 16)), abs=1e-9)
    assert null_morans_i((16, 16)) == pytest.approx(-0.003922, abs=1e-6)
    assert isinstance(morans_i(x, (16, 16)), float)


@pytest.mark.parametrize("grid", GRIDS)
def test_morans_i_is_the_quadratic_form_averaged_by_variance(grid):
    tokens = np.random.default_rng(0).normal(size=(3, int(np.prod(grid)), 4)) * [1, 2, 5, 0.1] + 3
    weights = (manhattan(grid) == 1).astype(float)
    for sample, result in zip(tokens, morans_i(tokens, grid), strict=True):
        z = sample - sample.mean(axis=0)
        variance = (z**2).sum(axis=0)
        each = len(z) / weights.sum() * np.diag(z.T @ weights @ z) / variance
        assert result == pytest.approx(np.average(each, weights=variance), abs=1e-12)


def test_morans_i_over_all_orders_averages_to_the_null():
    values = np.random.default_rng(0).normal(size=6)
    orders = values[np.array(list(itertools.permutations(range(6))))][:, :, None]
    assert morans_i(orders, (2, 3)).mean() == pytest.approx(null_morans_i((2, 3)), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_morans_i_ignores_rotation_scale_and_shift_but_not_the_scale_of_a_feature_or_the_places(seed, scale):
    rng = np.random.default_rng(seed)
    tokens = np.cumsum(rng.normal(size=(20, 3)), axis=0)
    result = morans_i(tokens, (20,))
    turned = tokens @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * scale + 100
    assert morans_i(turned, (20,)) == pytest.approx(result, abs=1e-8)
    assert morans_i(tokens[::-1], (20,)) == pytest.approx(result, abs=1e-12)
    # The feature with by far the largest variance decides.
    noise = rng.normal(size=20)
    both = np.column_stack([tokens[:, 0], 1e4 * noise])
    assert morans_i(both, (20,)) == pytest.approx(morans_i(noise, (20,)), abs=1e-3)
    shuffled = [morans_i(rng.permutation(tokens[:, 0]), (20,)) for _ in range(20)]
    assert morans_i(np.sort(tokens[:, 0]), (20,)) > np.mean(shuffled) + 0.3


def test_morans_i_without_value():
    # Ten times .1 do not add up to 1.
    assert np.isnan(morans_i(np.full((10, 3), 0.1), (10,)))
    assert np.isnan(morans_i(np.ones((1, 3)), (1,)))
    assert morans_i(np.stack([np.ones(4), np.arange(4)])[:, :, None], (4,)) == pytest.approx(
        [np.nan, 1 / 3], nan_ok=True
    )
    with refusal("bad-shape", "(9, 3)", "(4, 4)"):
        morans_i(np.ones((9, 3)), (4, 4))
    with refusal("not-finite"):
        morans_i(np.array([1, np.nan]), (2,))


# Neighbour consistency


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("radius", [1, 2])
def test_chance_counts_neighbours_and_equal_tokens_give_it(grid, radius):
    tokens = int(np.prod(grid))
    within = (chebyshev(grid) <= radius).sum() - tokens
    assert neighbour_chance(grid, radius) == pytest.approx(within / tokens / (tokens - 1), abs=1e-15)
    # The last are alike but for rounding.
    rng = np.random.default_rng(0)
    for equal in (np.full((tokens, 3), 0.1), np.eye(tokens), np.outer(rng.uniform(1, 2, tokens), rng.normal(size=7))):
        result = neighbour_consistency(equal, grid, k=5, radius=radius)
        assert result == pytest.approx(neighbour_chance(grid, radius), abs=1e-12)
    assert neighbour_chance((16, 16)) < 8 / 255


def test_consistency_known_answers():
    turning = np.column_stack([np.cos(np.arange(12) / 10), np.sin(np.arange(12) / 10)])
    assert neighbour_consistency(turning, (12,), k=2, radius=2) == pytest.approx(1)
    # Only the two ends have a neighbour's neighbour among their nearest.
    assert neighbour_consistency(turning, (12,), k=2, radius=1) == pytest.approx(11 / 12)
    # Of the 30 in the same row or column, all alike, 3.75 lie beside a token on average.
    assert neighbour_consistency(np.hstack([np.eye(16)[y], np.eye(16)[x]]), (16, 16)) == pytest.approx(0.125, abs=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_consistency_equals_sorting(grid):
    tokens = np.random.default_rng(0).normal(size=(3, int(np.prod(grid)), 4)) + 0.5
    near = chebyshev(grid) <= 1
    for sample, result in zip(tokens, neighbour_consistency(tokens, grid, k=4), strict=True):
        unit = sample / np.linalg.norm(sample, axis=1, keepdims=True)
        cosine = unit @ unit.T
        shares = []
        for i in range(len(unit)):
            others = [j for j in np.argsort(-cosine[i]) if j != i][:4]
            shares.append(near[i, others].mean())
        assert result == pytest.approx(np.mean(shares), abs=1e-12)


def test_ties_count_as_if_broken_at_random():
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.integers(0, 2, size=(20, 2)), np.ones((20, 1))], axis=1)
    jittered = tokens + 1e-4 * rng.normal(size=(4000, 20, 3))
    broken = neighbour_consistency(jittered, (4, 5), k=3)
    assert broken.std() > 0.01
    assert neighbour_consistency(tokens, (4, 5), k=3) == pytest.approx(broken.mean(), abs=0.004)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_consistency_ignores_rotation_and_lengths_but_not_places(seed, scale):
    rng = np.random.default_rng(seed)
    tokens = np.cumsum(rng.normal(size=(30, 3)), axis=0)
    result = neighbour_consistency(tokens, (30,))
    turned = tokens @ np.linalg.qr(rng.normal(size=(3, 3)))[0] * scale * rng.uniform(0.5, 2, size=(30, 1))
    assert neighbour_consistency(turned, (30,)) == pytest.approx(result, abs=1e-9)
    shuffled = [neighbour_consistency(rng.permutation(tokens), (30,)) for _ in range(5)]
    assert result > np.mean(shuffled)


def test_consistency_depends_on_where_the_origin_lies():
    values = np.cumsum(np.random.default_rng(0).normal(size=30))
    near, far = (neighbour_consistency(np.column_stack([values, np.full(30, at)]), (30,)) for at in (0, 1e3))
    # From the origin itself only two directions are seen.
    assert near < far - 0.05


def test_consistency_without_value():
    tokens = np.random.default_rng(0).normal(size=(9, 3))
    kept = neighbour_consistency(np.delete(tokens, 8, axis=0), (8,))
    tokens[8] = 0
    assert neighbour_consistency(tokens, (9,)) == pytest.approx(kept, abs=1e-12)
    tokens[5:] = 0
    assert np.isnan(neighbour_consistency(tokens, (9,)))
    assert np.isfinite(neighbour_consistency(tokens, (9,), k=4))
    for k, radius in ((9, 1), (0, 1), (2, 0)):
        with refusal("bad-value", "(9, 3)"):
            neighbour_consistency(tokens, (9,), k=k, radius=radius)


# Outlier tokens


def planted(n=20, tokens=100, share=0.02, seed=0, factor=10.0):
    """Tokens of norm about 1, and the 2 % of them that are ten times as long."""
    rng = np.random.default_rng(seed)
    created = rng.normal(size=(n, tokens, 64))
    created /= np.linalg.norm(created, axis=2, keepdims=True) / rng.normal(1, 0.05, size=(n, tokens, 1))
    mask = rng.permuted(np.arange(tokens) < share * tokens + np.zeros((n, 1)), axis=1)
    created[mask] *= factor
    return created, mask


def test_planted_outliers_are_all_found_and_nothing_else():
    created, mask = planted()
    result = outlier_tokens(created, (10, 10))
    np.testing.assert_array_equal(result.mask, mask)
    assert result.share == pytest.approx(0.02)
    assert result.median_norm == pytest.approx(1, abs=0.01)
    assert 9 < result.largest_over_median < 13
    assert result.gap > 6
    assert result.bimodality > 0.95
    norms = np.linalg.norm(created, axis=2)
    threshold = np.median(norms) + 6 * stats.median_abs_deviation(norms, axis=None, scale="normal")
    assert result.threshold == pytest.approx(threshold, rel=1e-5)
    one = outlier_tokens(norms[3])
    assert one.mask.shape == (100,)
    assert one.share == pytest.approx(0.02)
    assert np.isnan(one.cosine_rest)
    np.testing.assert_array_equal(outlier_tokens(norms[:, :, None]).mask, mask)


def test_gaussian_norms_have_no_outliers_beyond_six_and_some_beyond_three():
    norms = np.random.default_rng(0).normal(20, 1, size=200_000)
    result = outlier_tokens(norms)
    assert result.share == 0
    assert result.bimodality == pytest.approx(1 / 3, abs=0.01)
    assert np.isnan([result.gap, result.cosine_outliers]).all()
    assert outlier_tokens(norms, k=3).share == pytest.approx(stats.norm.sf(3), rel=0.2)


def test_bimodality_known_answers():
    assert outlier_tokens(np.repeat([1.0, 7.0], [95, 5])).bimodality == pytest.approx(1, abs=1e-12)
    assert outlier_tokens(np.linspace(1, 2, 20001)).bimodality == pytest.approx(5 / 9, abs=1e-4)
    norms = np.random.default_rng(0).gamma(3, size=500)
    sarle = (stats.skew(norms) ** 2 + 1) / stats.kurtosis(norms, fisher=False)
    assert outlier_tokens(norms).bimodality == pytest.approx(sarle, rel=1e-12)


def test_tokens_of_one_length_have_no_outliers():
    tokens = np.random.default_rng(0).normal(size=(40, 50, 16))
    tokens = (tokens / np.linalg.norm(tokens, axis=2, keepdims=True)).astype(np.float32)
    assert outlier_tokens(np.full(50, 0.1)).share == 0
    assert outlier_tokens(tokens).share == 0
    assert np.isnan(outlier_tokens(tokens).bimodality)
    tokens[0, 0] *= 10
    assert outlier_tokens(tokens).mask.sum() == 1
    assert np.isnan(outlier_tokens(np.zeros((5, 3))).share)
    assert not outlier_tokens(np.zeros((5, 3))).mask.any()


@pytest.mark.parametrize("grid", GRIDS)
def test_cosines_with_neighbours_equal_loops(grid):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(int(np.prod(grid)), 4)) + 1
    tokens[[2, 5]] *= 1000
    beside = manhattan(grid) == 1
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    each = np.array([np.mean([unit[i] @ unit[j] for j in np.flatnonzero(row)]) for i, row in enumerate(beside)])
    result = outlier_tokens(tokens, grid)
    assert np.flatnonzero(result.mask).tolist() == [2, 5]
    assert result.cosine_outliers == pytest.approx(each[[2, 5]].mean(), abs=1e-12)
    assert result.cosine_rest == pytest.approx(np.delete(each, [2, 5]).mean(), abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_outliers_ignore_rotation_scale_and_order_but_not_shift(seed, scale):
    rng = np.random.default_rng(seed)
    created, mask = planted(n=4, seed=seed)
    turned = created @ np.linalg.qr(rng.normal(size=(64, 64)))[0] * scale
    result, other = outlier_tokens(created, (10, 10)), outlier_tokens(turned, (10, 10))
    np.testing.assert_array_equal(other.mask, mask)
    assert other.median_norm == pytest.approx(result.median_norm * scale, rel=1e-9)
    assert (other.largest_over_median, other.gap, other.cosine_rest) == pytest.approx(
        (result.largest_over_median, result.gap, result.cosine_rest), rel=1e-7, abs=1e-9
    )
    order = rng.permutation(100)
    np.testing.assert_array_equal(outlier_tokens(created[:, order]).mask, mask[:, order])
    assert (outlier_tokens(created + 1000).mask != mask).any()


def test_outliers_refuse_what_they_cannot_read():
    with refusal("bad-value", "0"):
        outlier_tokens(np.ones(5), k=0)
    with refusal("bad-shape", "(5, 2)", "(2, 2)"):
        outlier_tokens(np.ones((5, 2)), (2, 2))


# All three


def test_torch_or_numpy_in_blocks_of_any_size_and_nothing_is_changed(monkeypatch):
    tokens = np.random.default_rng(0).normal(size=(5, 20, 4))
    tokens[2, 3] *= 50
    kept = tokens.copy()

    def all_three(given):
        return (
            morans_i(given, (4, 5)),
            neighbour_consistency(given, (4, 5)),
            outlier_tokens(given, (4, 5)).cosine_rest,
            outlier_tokens(given, (4, 5)).mask,
        )

    expected = all_three(tokens)
    monkeypatch.setattr(blocks, "_MOST", 100)
    monkeypatch.setattr(blocks, "_NEAR", 900)
    with torch.device("meta"):
        result = all_three(torch.from_numpy(tokens).requires_grad_())
    for one, other in zip(expected, result, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)
    np.testing.assert_array_equal(tokens, kept)


def taps(n=40, seed=0):
    """Noise, a smooth field, and the same field with the places of every sample shuffled, on 6 x 8."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, 48, 5))
    smooth = np.cumsum(np.cumsum(rng.normal(size=(n, 6, 8, 5)), axis=1), axis=2).reshape(n, 48, 5)
    scrambled = np.stack([sample[rng.permutation(48)] for sample in smooth])
    return {"noise": noise, "smooth": smooth, "scrambled": scrambled, "one": rng.normal(size=(n, 1, 5))}


@pytest.mark.parametrize(
    ("measure", "plain", "line"),
    [
        (MoransI(), morans_i, null_morans_i((6, 8))),
        (NeighbourConsistency(), neighbour_consistency, neighbour_chance((6, 8))),
    ],
)
def test_only_the_smooth_tap_departs_from_its_line(measure, plain, line):
    grids = dict.fromkeys(("noise", "smooth", "scrambled"), (6, 8))
    given = MemoryActivations(taps(), grids)
    result = measure.compute(given, None, 0)
    name = next(str(v) for v in result if str(v).startswith("line_"))
    assert result[name].values == pytest.approx([line] * 3 + [np.nan], nan_ok=True)
    for tap in ("noise", "scrambled"):
        at = result.sel(tap=tap)
        assert at.low < line < at.high
    assert result.low.sel(tap="smooth") > line + 0.2
    expected = np.mean(plain(given.arrays["smooth"].astype(np.float32), (6, 8)))
    assert result.score.sel(tap="smooth").item() == pytest.approx(expected, abs=1e-12)
    assert np.isnan(result.score.sel(tap="one").item())
    assert "one: " in result.attrs["reason"]
    assert result.attrs["n"] == 40
    assert not measure.standard
    assert result.identical(measure.compute(given, None, 0))
    with refusal("no-tokens", measure.name):
        measure.compute(MemoryActivations(taps(4), grids, token_samples=0), None, 0)


def test_measures_say_why_a_sample_has_no_value_and_where_it_is_broken():
    arrays = taps(10)
    arrays["smooth"][3] = 0
    grids = dict.fromkeys(("noise", "smooth", "scrambled"), (6, 8))
    assert (
        "smooth: 1 of 10 samples have equal tokens"
        in MoransI().compute(MemoryActivations(arrays, grids), None, 0).attrs["reason"]
    )
    result = NeighbourConsistency().compute(MemoryActivations(arrays, grids), None, 0)
    assert "smooth: 1 of 10 samples have fewer than 6 tokens with a direction" in result.attrs["reason"]
    assert np.isfinite(result.score.sel(tap="smooth").item())
    arrays["smooth"][3, 0, 0] = np.nan
    for measure in (MoransI(), NeighbourConsistency(), OutlierTokenShare()):
        with refusal("not-finite", measure.name, "tap smooth"):
            measure.compute(MemoryActivations(arrays, grids), None, 0)


def test_a_stripe_of_global_tokens_is_found_at_its_tap_and_place_only():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(30, 48, 32)) for name in ("a", "b", "c")}
    stripe = np.arange(48) % 8 == 3
    direction = rng.normal(size=32)
    arrays["b"][:, stripe] += 20 * direction
    arrays["zero"] = np.zeros((30, 48, 4))
    given = MemoryActivations(arrays, dict.fromkeys(arrays, (6, 8)))
    result = OutlierTokenShare().compute(given, None, 0)
    assert result.score.values == pytest.approx([0, 1 / 8, 0, np.nan], nan_ok=True)
    at = result.sel(tap="b")
    np.testing.assert_array_equal(at.share_by_place.values, stripe)
    assert int(at.place) % 8 == 3
    assert at.place_share == 1
    # Above and below lie tokens of the stripe, left and right others.
    assert at.cosine_outliers.item() > 0.3 > abs(at.cosine_rest.item() - 0) - 0.1
    assert at.bimodality.item() > 0.9 > 0.5 > result.bimodality.sel(tap="a").item()
    assert np.isnan(result.place.sel(tap="a").item())
    assert "zero: at least half" in result.attrs["reason"]
    assert result.low.sel(tap="b").item() == pytest.approx(1 / 8)
    plain = outlier_tokens(arrays["b"].astype(np.float32), (6, 8))
    for name in (
        "median_norm",
        "threshold",
        "largest_over_median",
        "gap",
        "cosine_outliers",
        "cosine_rest",
        "bimodality",
    ):
        assert at[name].item() == pytest.approx(getattr(plain, name), rel=1e-12)
    assert result.identical(OutlierTokenShare().compute(given, None, 0))


def test_the_interval_of_the_share_is_over_groups():
    created, mask = planted(n=40)
    hit = np.arange(40) < 8
    created[~hit] /= np.where(mask[~hit], 10, 1)[:, :, None]
    wide = OutlierTokenShare().compute(
        MemoryActivations({"a": created}, groups=[f"g{i // 8}" for i in range(40)]), None, 0
    )
    narrow = OutlierTokenShare().compute(MemoryActivations({"a": created}), None, 0)
    assert wide.score.item() == narrow.score.item() == pytest.approx(0.02 / 5)
    assert (wide.high - wide.low).item() > 1.5 * (narrow.high - narrow.low).item()
