"""Matrix entropy and curvature of the tokens of a sample."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.geometry import curvature, matrix_entropy
from diagnostics.measures.geometry.tokens import Curvature, MatrixEntropy
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def polygon(m):
    angle = 2 * np.pi * np.arange(m + 2) / m
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_matrix_entropy_in_closed_form():
    for order in (0.5, 1.0, 2.0, 50.0):
        assert matrix_entropy(np.eye(6), order=order) == pytest.approx(math.log(6), rel=1e-12)
        assert matrix_entropy(np.eye(9)[:4] * 7, order=order) == pytest.approx(math.log(4), rel=1e-12)
        assert matrix_entropy(np.outer([1, 2, 3.0], [1, -1]), order=order) == pytest.approx(0, abs=1e-12)
    assert matrix_entropy(np.eye(9)[:4], normalised=True) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("order", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(12, 4), (4, 12)])
def test_matrix_entropy_is_its_formula_from_either_gram_matrix(order, shape):
    x = np.random.default_rng(0).normal(size=shape) + 0.3
    for kernel in (x @ x.T, x.T @ x):
        p = np.linalg.eigvalsh(kernel / np.trace(kernel))
        p = p[p > 1e-12]
        expected = -(p * np.log(p)).sum() if order == 1 else np.log((p**order).sum()) / (1 - order)
        assert matrix_entropy(x, order=order) == pytest.approx(expected, rel=1e-9)
        assert matrix_entropy(x, order=order, normalised=True) == pytest.approx(expected / math.log(4), rel=1e-9)


def test_matrix_entropy_by_sample():
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    x[1] = 0
    result = matrix_entropy(x)
    assert isinstance(result, np.ndarray) and result.shape == (3,)
    assert np.isnan(result[1])
    assert result[[0, 2]] == pytest.approx([matrix_entropy(x[0]), matrix_entropy(x[2])], rel=1e-12)
    assert isinstance(matrix_entropy(x[0]), float)
    assert matrix_entropy(x[:, :1]) == pytest.approx([0, np.nan, 0], abs=1e-12, nan_ok=True)
    assert np.isnan(matrix_entropy(x[0, :1], normalised=True))


def test_curvature_in_closed_form():
    """Between successive differences; between the tokens themselves, points on a line gave .0749."""
    line = np.outer(np.arange(1.0, 8), [1, 2, 3]) + np.array([5.0, 0, 0])
    assert curvature(line) == pytest.approx(0, abs=1e-12)
    assert curvature(np.cumsum(np.arange(7.0))[:, None] * [[1, 2]]) == pytest.approx(0, abs=1e-12)
    for m in (3, 5, 40):
        assert curvature(polygon(m)) == pytest.approx(2 * math.pi / m, rel=1e-9)
    assert curvature(np.array([[0.0], [1], [0], [1]])) == pytest.approx(math.pi, rel=1e-12)


def test_curvature_is_its_formula():
    x = np.random.default_rng(0).normal(size=(9, 4))
    v = np.diff(x, axis=0)
    angles = [math.acos(v[k] @ v[k + 1] / np.linalg.norm(v[k]) / np.linalg.norm(v[k + 1])) for k in range(len(v) - 1)]
    assert curvature(x) == pytest.approx(np.mean(angles), rel=1e-9)
    assert curvature(np.stack([x, x[::-1]])) == pytest.approx([np.mean(angles)] * 2, rel=1e-9)


def test_curvature_of_tokens_that_stand_still():
    assert curvature(np.array([[0.0, 0], [1, 0], [1, 0], [1, 1], [1, 2]])) == pytest.approx(0)
    assert np.isnan(curvature(np.ones((5, 2))))
    assert np.isnan(curvature(np.ones((2, 2)))) and np.isnan(curvature(np.ones((1, 2))))
    tiny = polygon(8) * 1e-170
    assert curvature(tiny) == pytest.approx(2 * math.pi / 8, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_invariances_and_non_invariances(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, 5))
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * scale
    mixed = x[rng.permutation(8)]
    for functional in (matrix_entropy, curvature):
        assert functional(turned) == pytest.approx(functional(x), rel=1e-9)
    assert matrix_entropy(mixed) == pytest.approx(matrix_entropy(x), rel=1e-9)
    assert curvature(x[::-1]) == pytest.approx(curvature(x), rel=1e-9)
    assert curvature(x + 1e4) == pytest.approx(curvature(x), rel=1e-6)
    # Uncentred: a token that all share takes all.
    assert matrix_entropy(x + 1e4) < 1e-4 < matrix_entropy(x)
    line = np.outer(np.arange(8), np.ones(5))
    assert curvature(line[[0, 4, 1, 5, 2, 6, 3, 7]]) > 1


def test_bad_input_is_said():
    for functional in (matrix_entropy, curvature):
        with refusal("bad-shape", "(3,)"):
            functional(np.ones(3))
        with refusal("not-finite"):
            functional(np.array([[1.0, np.nan]]))
    for order in (0, -1, math.inf, math.nan):
        with refusal("bad-value", "order"):
            matrix_entropy(np.ones((2, 2)), order=order)


def test_measures_point_at_the_planted_tap():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(30, 12, 40))
    path = np.arange(12)[None, :, None] * rng.normal(size=(30, 1, 40)) * 3 + 0.1 * noise
    alike = rng.normal(size=(30, 1, 40)) + 0.05 * noise
    activations = MemoryActivations({"noise": noise, "path": path, "alike": alike})
    bent = Curvature().compute(activations, None, 0)
    assert bent.score.values == pytest.approx([curvature(x.astype(np.float32)).mean() for x in (noise, path, alike)])
    assert bent.high[1].item() < 0.1 < bent.low[0].item()
    # Independent tokens, with or without a common one: near 2 pi / 3.
    for tap in (0, 2):
        assert bent.score[tap].item() == pytest.approx(bent.line_noise[tap].item(), abs=0.05)
    assert "raster" in bent.attrs["pooling"] and bent.attrs["reason"] == "" and bent.attrs["n"] == 30
    spread = MatrixEntropy().compute(activations, None, 0)
    assert spread.score[0].item() == pytest.approx(matrix_entropy(noise.astype(np.float32)).mean())
    assert spread.high[2].item() < 0.2 < spread.low[0].item() < spread.line_ceiling[0].item()
    assert spread.line_ceiling.values == pytest.approx([math.log(12)] * 3)


def test_measures_say_what_has_no_value():
    x = np.random.default_rng(0).normal(size=(10, 4, 3))
    x[:2] = 0
    activations = MemoryActivations({"a": x, "b": np.zeros((10, 4, 3)), "c": x[2:3].repeat(10, axis=0)[:, :2]})
    spread = MatrixEntropy().compute(activations, None, 0)
    assert spread.score[0].item() == pytest.approx(matrix_entropy(x[2:].astype(np.float32)).mean())
    assert np.isnan(spread.score[1].item())
    assert spread.attrs["reason"] == "a: 2 of 10 samples: all tokens are zero; b: all tokens are zero"
    bent = Curvature().compute(activations, None, 0)
    assert np.isnan(bent.score[2].item()) and "c: 2 tokens, and an angle takes three" in bent.attrs["reason"]
    for measure in (Curvature(), MatrixEntropy()):
        with refusal("no-tokens", measure.name):
            measure.compute(MemoryActivations({"a": x}, token_samples=0), None, 0)
        broken = MemoryActivations({"a": np.where(x == 0, np.nan, x)})
        with refusal("not-finite", measure.name):
            measure.compute(broken, None, 0)


@pytest.mark.parametrize("measure", [Curvature(), MatrixEntropy()])
def test_intervals_are_over_groups(measure):
    """Groups of equal samples: an interval over samples would be too narrow by half."""
    values, lows, highs = [], [], []
    for seed in range(80):
        x = np.random.default_rng(seed).normal(size=(30, 5, 3)).repeat(4, axis=0)
        activations = MemoryActivations({"a": x}, groups=[f"g{i // 4}" for i in range(120)], block=120)
        result = measure.compute(activations, None, 0)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    assert 0.87 <= ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean() <= 1
