"""Intrinsic dimension and the neighbours that it reads."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from diagnostics.measures.geometry import distinct_samples, mle_dimension, two_nn
from diagnostics.measures.geometry import pooled as dimension_module
from diagnostics.measures.geometry.pooled import MleDimension, TwoNn, distinct, nearest_distances
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

skdim = pytest.importorskip("skdim", reason="scikit-dimension is the oracle")


def taps(groups=None, **arrays):
    return MemoryActivations({name: array[:, None] for name, array in arrays.items()}, groups=groups)


def brute(x, k):
    gaps = cdist(x, x)
    np.fill_diagonal(gaps, np.inf)
    return np.sort(gaps, axis=1)[:, :k]


@pytest.mark.parametrize("block", [50, 2**23])
def test_nearest_distances_are_those_of_all_pairs(monkeypatch, block):
    monkeypatch.setattr(dimension_module, "BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(0)
    for n, k in ((40, 3), (40, 39), (4, 3), (2, 1)):
        x = rng.normal(size=(n, 5)) + 100
        assert nearest_distances(torch.from_numpy(x), k).numpy() == pytest.approx(brute(x, k), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_nearest_distances_of_near_duplicates_lose_no_digits(shift):
    """1e-9 apart at norm 1: the product form knows such distances to no digit, and more are alike than are looked at."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(10, 3)), 30, axis=0) + 1e-9 * rng.normal(size=(300, 3)) + shift
    x = np.unique(x, axis=0)
    result = nearest_distances(torch.from_numpy(x), 5).numpy()
    assert result == pytest.approx(cKDTree(x).query(x, 6)[0][:, 1:], rel=1e-12)
    tiny = np.concatenate([rng.normal(size=(20, 2)), 1e-20 * rng.normal(size=(20, 2))])
    assert nearest_distances(torch.from_numpy(tiny), 2).numpy() == pytest.approx(brute(tiny, 2), rel=1e-9, abs=1e-30)


def test_distinct_keeps_the_first_of_equal_rows():
    x = torch.tensor([[2.0, 0.0], [1, 1], [2, -0.0], [1, 1], [0, 5], [2, 0]])
    assert distinct(x).tolist() == [0, 1, 4]


@pytest.mark.parametrize("d", [2, 6, 30])
def test_agree_with_scikit_dimension(d):
    x = np.random.default_rng(d).normal(size=(400, d)) * np.linspace(1, 3, d) + 7
    assert two_nn(x) == pytest.approx(skdim.id.TwoNN().fit_transform(x), rel=1e-8)
    censored = skdim.id.TwoNN(method="mle", discard_fraction=0).fit_transform(x)
    assert two_nn(x, fit="mle") == pytest.approx(censored, rel=1e-8)
    for k in (5, 20):
        oracle = skdim.id.MLE().fit(x, n_neighbors=k, comb="mle").dimension_
        assert mle_dimension(x, k=k) == pytest.approx(oracle, rel=1e-8)


def test_are_their_formulas():
    x = np.random.default_rng(0).normal(size=(50, 3))
    nearest = brute(x, 6)
    log_mu = np.log(nearest[:, 1] / nearest[:, 0])
    assert two_nn(x, fit="mle") == pytest.approx(49 / log_mu.sum(), rel=1e-9)
    inverse = [np.mean([np.log(row[5] / row[j]) for j in range(5)]) for row in nearest]
    assert mle_dimension(x, k=6) == pytest.approx(1 / np.mean(inverse), rel=1e-9)


@pytest.mark.parametrize(("d", "mean", "sd"), [(2, 1.97, 0.077), (5, 4.65, 0.19), (10, 8.49, 0.34)])
def test_the_other_fit_finds_as_much_in_a_cube(d, mean, sd):
    values = [two_nn(np.random.default_rng(seed).random((1000, d)), fit="mle") for seed in range(8)]
    assert np.mean(values) == pytest.approx(mean, abs=4 * sd / math.sqrt(8))
    assert np.abs(np.array(values) - mean).max() < 4 * sd


def test_a_curved_sheet_in_many_dimensions_is_two_dimensional():
    rng = np.random.default_rng(0)
    angle, height = 1.5 * np.pi * (1 + 2 * rng.random(1500)), 21 * rng.random(1500)
    roll = np.stack([angle * np.cos(angle), height, angle * np.sin(angle)], axis=1)
    x = roll @ np.linalg.qr(rng.normal(size=(40, 3)))[0].T
    assert two_nn(x) == pytest.approx(2, abs=0.25)
    assert mle_dimension(x) == pytest.approx(2, abs=0.25)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_invariances_and_non_invariances(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 4))
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * scale
    for dimension in (two_nn, lambda z: two_nn(z, fit="mle"), lambda z: mle_dimension(z, k=5)):
        assert dimension(turned) == pytest.approx(dimension(x), rel=1e-6)
        assert dimension(x + 1e4) == pytest.approx(dimension(x), rel=1e-6)
        assert dimension(x[rng.permutation(60)]) == pytest.approx(dimension(x), rel=1e-6)
        assert dimension(x * [1, 1, 1e-3, 1e-3]) < 0.8 * dimension(x)


@pytest.mark.parametrize("single", [False, True])
def test_distances_that_differ_by_rounding_are_equal(single):
    lattice = np.array(list(itertools.product(range(5), repeat=3)), dtype=float)
    turned = 0.1 * lattice @ np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0][:3]
    x = turned.astype(np.float32) if single else turned
    assert np.isnan(two_nn(x)) and np.isnan(two_nn(x, fit="mle")), "every second neighbour is as near as the first"
    assert mle_dimension(x, k=5) == pytest.approx(mle_dimension(lattice, k=5), rel=1e-5)


def test_copies_that_differ_by_rounding_are_copies():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 64)) @ rng.normal(size=(64, 64)) + 3).astype(np.float32)
    copies = x[:80] * (1 + 1.2e-7 * rng.integers(-1, 2, (80, 64))).astype(np.float32)
    assert (copies != x[:80]).any(axis=1).all()
    twice = np.concatenate([x, copies])
    for dimension in (two_nn, mle_dimension, lambda z: two_nn(z, fit="mle")):
        assert dimension(twice) == pytest.approx(dimension(x), rel=1e-9)
    assert distinct_samples(twice) == 200
    assert distinct_samples(twice.astype(np.float64) + 1e-9 * rng.normal(size=twice.shape)) == 280


def test_duplicates_are_dropped_and_counted():
    """The ratio of a copy would be infinite, or NaN where there are three."""
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    twice = np.concatenate([x, x[:50], x[:20]])
    for dimension in (two_nn, mle_dimension, lambda z: two_nn(z, fit="mle")):
        assert dimension(twice) == pytest.approx(dimension(x), rel=1e-9)
    assert distinct_samples(twice) == 200
    assert np.isnan(two_nn(np.ones((9, 2)))) and np.isnan(mle_dimension(np.ones((30, 2))))
    assert np.isnan(two_nn(x[[0, 1] * 5]))


def test_constant_features_change_nothing():
    x = np.random.default_rng(0).normal(size=(100, 3))
    assert two_nn(np.hstack([x, np.full((100, 2), 0.1)])) == pytest.approx(two_nn(x), rel=1e-9)


def test_a_lattice_has_no_value():
    lattice = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(-1, 2)
    assert np.isnan(two_nn(lattice)) and np.isnan(two_nn(lattice, fit="mle")) and np.isnan(mle_dimension(lattice, k=2))


def test_bad_input_is_said():
    x = np.random.default_rng(0).normal(size=(20, 3))
    with refusal("bad-shape", "(2, 3)", "3"):
        two_nn(x[:2])
    with refusal("bad-shape", "(20, 3)", "21"):
        mle_dimension(x)
    with refusal("bad-value", "k is"):
        mle_dimension(x, k=1)
    with refusal("bad-value", "fit"):
        two_nn(x, fit="line")
    x[0, 0] = np.inf
    with refusal("not-finite"):
        two_nn(x)


@pytest.mark.parametrize(("measure", "plain"), [(TwoNn(), two_nn), (MleDimension(), mle_dimension)])
def test_measure_points_at_the_planted_tap(measure, plain):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(600, 10))
    flat = np.tanh(wide[:, :2] @ rng.normal(size=(2, 10)))
    turned = 3 * wide @ np.linalg.qr(rng.normal(size=(10, 10)))[0] + 5
    result = measure.compute(taps(wide=wide, flat=flat, turned=turned), None, 0)
    assert result.score.values == pytest.approx([plain(wide), plain(flat), plain(wide)], rel=1e-6)
    assert result.high[1].item() < result.low[0].item()
    assert result.high[1].item() < 3
    # In many dimensions more samples give more.
    assert result.quarter[0].item() < result.score[0].item()
    assert result.attrs["n"] == 600 and result.attrs["reason"] == ""


def test_measure_counts_duplicates_and_says_what_has_no_value():
    x = np.random.default_rng(0).normal(size=(200, 3))
    result = TwoNn().compute(taps(a=np.concatenate([x, x[:50]]), b=np.ones((250, 3))), None, 0)
    assert result.duplicates.values.tolist() == [50, 249]
    assert result.score[0].item() == pytest.approx(two_nn(x), rel=1e-9)
    assert result.mle[0].item() == pytest.approx(two_nn(x, fit="mle"), rel=1e-9)
    assert np.isnan(result.score[1].item()) and result.attrs["reason"] == "b: 1 distinct samples, and it needs 3"
    few = TwoNn().compute(taps(["g"] * 200, a=x), None, 0)
    assert np.isfinite(few.score.item()) and np.isnan(few.low.item()) and "of too few groups" in few.attrs["reason"]
    with refusal("bad-shape", "(9, 3)", "21"):
        MleDimension().compute(taps(a=x[:9]), None, 0)


@pytest.mark.parametrize("per_group", [1, 3])
@pytest.mark.parametrize("measure", [TwoNn(), MleDimension()])
def test_interval_covers(measure, per_group):
    values, lows, highs = [], [], []
    for seed in range(50):
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.normal(size=(600 // per_group, 3)), per_group, axis=0) * (per_group > 1)
        x = shared + rng.normal(size=(600, 3))
        result = measure.compute(taps([f"g{i // per_group}" for i in range(600)], a=x), None, seed)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    assert 0.88 <= ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean() <= 1
    # 2.26, the t quantile of ten parts, standard deviations either way; not twice that, as a jackknife gives.
    assert np.mean(np.subtract(highs, lows)) == pytest.approx(2 * 2.26 * np.std(values), rel=0.3)


def test_many_samples_take_no_square_of_memory(monkeypatch):
    """Blocks bound what is held: at 3,000 samples a matrix of all pairs would be 9 million numbers."""
    largest = 0
    original = torch.addmm

    def watched(*args, **kwargs):
        nonlocal largest
        out = original(*args, **kwargs)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(torch, "addmm", watched)
    monkeypatch.setattr(dimension_module, "BLOCK_ELEMENTS", 10**5)
    x = np.random.default_rng(0).normal(size=(3000, 4))
    assert two_nn(x) == pytest.approx(4, abs=0.4)
    assert 0 < largest <= 10**5
