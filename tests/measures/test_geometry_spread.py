"""Uniformity, mean cosine and massive activations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive

from diagnostics.measures.geometry import massive_activations, mean_cosine, uniformity
from diagnostics.measures.geometry import pooled as spread_module
from diagnostics.measures.geometry.pooled import MeanCosine, Uniformity
from diagnostics.measures.geometry.tokens import MassiveActivations
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def taps(groups=None, **arrays):
    return MemoryActivations({name: array[:, None] for name, array in arrays.items()}, groups=groups)


def circle(n):
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_uniformity_in_closed_form():
    assert uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    assert uniformity(np.array([[1.0, 2], [-1, -2]]), t=3) == pytest.approx(-12, abs=1e-12)
    n = 3000
    whole = math.log(ive(0, 4))
    assert uniformity(circle(n)) == pytest.approx(math.log((n * math.exp(whole) - 1) / (n - 1)), abs=1e-9)


def test_mean_cosine_in_closed_form():
    assert mean_cosine(np.ones((5, 3)) * np.arange(1, 6)[:, None]) == pytest.approx(1, abs=1e-12)
    simplex = np.eye(6) - 1 / 6
    assert mean_cosine(simplex) == pytest.approx(-1 / 5, abs=1e-12)


@pytest.mark.parametrize("block", [30, 2**23])
def test_are_their_formulas(monkeypatch, block):
    monkeypatch.setattr(spread_module, "BLOCK_ELEMENTS", block)
    x = np.random.default_rng(0).normal(size=(25, 4)) + 0.5
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(25) for j in range(i + 1, 25)]
    kernel = [math.exp(-3 * ((unit[i] - unit[j]) ** 2).sum()) for i, j in pairs]
    assert uniformity(x, t=3) == pytest.approx(math.log(np.mean(kernel)), rel=1e-12)
    assert mean_cosine(x) == pytest.approx(np.mean([unit[i] @ unit[j] for i, j in pairs]), rel=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_invariances_and_non_invariances(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(15, 4))
    turned = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] * scale * rng.uniform(0.1, 10, size=(15, 1))
    for functional in (uniformity, mean_cosine):
        assert functional(turned) == pytest.approx(functional(x), rel=1e-9, abs=1e-12)
        assert functional(x[rng.permutation(15)]) == pytest.approx(functional(x), rel=1e-9, abs=1e-12)
    # Not centred: what all share decides.
    assert uniformity(x + 1e4) == pytest.approx(0, abs=1e-5) and uniformity(x) < -0.5
    assert mean_cosine(x + 1e4) == pytest.approx(1, abs=1e-5) and mean_cosine(x) < 0.7


def test_samples_without_direction_are_left_out():
    x = np.random.default_rng(0).normal(size=(10, 3))
    for functional in (uniformity, mean_cosine):
        assert functional(np.concatenate([x, np.zeros((3, 3))])) == pytest.approx(functional(x), rel=1e-12)
        assert functional(x * 1e-170) == pytest.approx(functional(x), rel=1e-12)
        assert functional(x * 1e170) == pytest.approx(functional(x), rel=1e-12)
        assert np.isnan(functional(np.zeros((4, 2))))
        assert np.isnan(functional(np.array([[1.0, 1], [0, 0]])))
        with refusal("bad-shape", "(1, 3)", "2"):
            functional(np.ones((1, 3)))
        with refusal("not-finite"):
            functional(np.array([[np.nan], [1.0]]))
    with refusal("bad-value", "t is"):
        uniformity(x, t=0)


def test_massive_activations_known_answers():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6))
    x[:, 4] = 3 * x[:, 4] + 300
    result = massive_activations(x)
    assert result.ratio == pytest.approx(x.mean(axis=0) ** 2 / x.var(axis=0), rel=1e-12)
    assert result.feature == 4 and result.largest == result.ratio[4] == pytest.approx(1e4, rel=0.2)
    assert result.peak == pytest.approx(np.abs(x).max() / np.median(np.abs(x)), rel=1e-12)
    assert massive_activations(x[:, :4]).largest < 0.1
    exact = massive_activations(np.array([[1.0, 5], [3, 5], [5, 5]]))
    assert exact.ratio[0] == pytest.approx(9 / (8 / 3)) and np.isnan(exact.ratio[1])


def test_massive_activations_without_value():
    never = massive_activations(np.full((10, 2), 0.1))
    assert np.isnan(never.ratio).all() and np.isnan(never.largest) and never.feature == -1 and never.peak == 1
    assert np.isnan(massive_activations(np.eye(9)).peak)
    with refusal("bad-shape", "2"):
        massive_activations(np.ones((1, 2)))
    shifted = massive_activations(np.random.default_rng(0).normal(size=(50, 2)) + 1e6)
    assert shifted.largest == pytest.approx(1e12, rel=0.5)


@pytest.mark.parametrize(("measure", "plain"), [(Uniformity(), uniformity), (MeanCosine(), mean_cosine)])
def test_measure_points_at_the_planted_tap(measure, plain):
    rng = np.random.default_rng(0)
    even = rng.normal(size=(300, 8))
    result = measure.compute(taps(even=even, cone=even + 2, turned=7 * even[:, ::-1]), None, 0)
    assert result.score.values == pytest.approx([plain(even), plain(even + 2), plain(even)], rel=1e-9, abs=1e-12)
    assert result.high[0].item() < result.low[1].item()
    assert result.low[0].item() <= result.line_noise[0].item() <= result.high[0].item()
    assert result.attrs["reason"] == "" and result.attrs["n"] == 300


def test_the_line_of_noise_is_the_mean_over_directions():
    x = np.random.default_rng(0).normal(size=(2000, 3))
    result = Uniformity().compute(taps(a=x), None, 0)
    assert result.line_noise.item() == pytest.approx(result.score.item(), abs=0.02)
    # In three dimensions the cosine is uniform: the mean of exp(4 (c - 1)) over [-1, 1].
    assert result.line_noise.item() == pytest.approx(math.log((1 - math.exp(-8)) / 8), abs=1e-12)


def test_measure_says_which_samples_have_no_direction():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:2] = 0
    result = MeanCosine().compute(taps(a=x, b=np.zeros((20, 3))), None, 0)
    assert result.score[0].item() == pytest.approx(mean_cosine(x[2:]))
    assert np.isnan(result.score[1].item())
    assert result.attrs["reason"] == (
        "a: 2 of 20 samples have length zero and are left out; b: 20 of 20 samples have length zero"
    )


@pytest.mark.parametrize("per_group", [1, 4])
@pytest.mark.parametrize("measure", [Uniformity(), MeanCosine()])
def test_interval_covers(measure, per_group):
    values, lows, highs = [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.normal(size=(160 // per_group, 4)), per_group, axis=0) * (per_group > 1)
        x = shared + rng.normal(size=(160, 4)) + [1, 0, 0, 0]
        result = measure.compute(taps([f"g{i // per_group}" for i in range(160)], a=x), None, 0)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    assert 0.89 <= ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean() <= 0.995


def test_massive_measure_finds_the_planted_feature():
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(40, 9, 5)) + rng.normal(size=(40, 1, 5))
    planted = plain.copy()
    planted[..., 3] += 200
    constant = plain.copy()
    constant[..., 1] = 0.1
    activations = MemoryActivations({"plain": plain, "planted": planted, "constant": constant})
    result = MassiveActivations().compute(activations, None, 0)
    kept = planted.astype(np.float32).reshape(-1, 5)
    whole = massive_activations(kept)
    assert result.score[1].item() == pytest.approx(whole.largest, rel=1e-9)
    assert result.feature[1].item() == 3
    assert result.low[1].item() > 100 * result.high[0].item()
    assert result.peak[0].item() < 10 < 50 < result.peak_low[1].item()
    each = [massive_activations(sample).peak for sample in planted.astype(np.float32)]
    assert result.peak[1].item() == pytest.approx(np.mean(each), rel=1e-9)
    assert result.constant.values.tolist() == [0, 0, 1]
    assert "grid tokens" in result.attrs["pooling"]


def test_massive_measure_without_value():
    x = np.random.default_rng(0).normal(size=(10, 4, 3))
    result = MassiveActivations().compute(MemoryActivations({"a": np.full((10, 4, 3), 0.1), "b": x}), None, 0)
    assert np.isnan(result.score[0].item()) and result.attrs["reason"] == "a: no feature varies"
    assert np.isfinite(result.score[1].item())
    with refusal("no-tokens", "massive_activations"):
        MassiveActivations().compute(MemoryActivations({"a": x}, token_samples=0), None, 0)


def test_massive_interval_covers():
    """Tokens of a sample are alike: an interval over tokens would be far too narrow."""
    values, lows, highs = [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        x = 0.5 * rng.normal(size=(50, 8, 3)) + rng.normal(size=(50, 1, 3))
        x[..., 2] += 5
        result = MassiveActivations().compute(MemoryActivations({"a": x}, block=50), None, 0)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    assert 0.89 <= ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean() <= 0.995
