import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes

from diagnostics.measures.similarity.decomposed import AngularDistance, Procrustes, angular_distance, procrustes
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

BOTH = (procrustes, angular_distance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthonormal(n, k, seed=0):
    """Centred orthonormal columns."""
    return np.linalg.qr(np.hstack([np.ones((n, 1)), normal(n, k, seed=seed)]))[0][:, 1:]


def rotation(p, seed=0):
    return np.linalg.qr(normal(p, p, seed=seed))[0]


def by_definition(x, y):
    """Through the nuclear norm as the trace of a matrix square root."""
    x, y = (side - side.mean(axis=0) for side in (x, y))
    product = x.T @ y / np.linalg.norm(x) / np.linalg.norm(y)
    nuclear = np.sqrt(np.linalg.eigvalsh(product @ product.T).clip(0)).sum()
    return math.sqrt(2 - 2 * nuclear)


def run(**taps):
    return MemoryActivations({name: x[:, None, :] for name, x in taps.items()})


def test_subspaces_of_equal_axes():
    columns = orthonormal(20, 6)
    assert procrustes(columns[:, :3], columns[:, 3:]) == pytest.approx(math.sqrt(2), abs=1e-9)
    assert angular_distance(columns[:, :3], columns[:, 3:]) == pytest.approx(math.pi / 2, abs=1e-9)
    # m of k equal axes shared: nu = m / k.
    assert procrustes(columns[:, :3], columns[:, 2:5]) == pytest.approx(math.sqrt(2 - 2 / 3), abs=1e-9)


@pytest.mark.parametrize(("n", "p", "q"), [(30, 5, 5), (30, 4, 9), (12, 30, 7), (12, 7, 30), (8, 40, 50)])
def test_is_the_definition_for_any_widths(n, p, q):
    x, y = normal(n, p) * np.geomspace(1, 9, p) + 3, normal(n, q, seed=1)
    y[:, :4] += x[:, :4]
    assert procrustes(x, y) == pytest.approx(by_definition(x, y), abs=1e-7)
    assert procrustes(y, x) == pytest.approx(procrustes(x, y), abs=1e-12)
    assert angular_distance(x, y) == pytest.approx(math.acos(1 - procrustes(x, y) ** 2 / 2), abs=1e-9)


def test_agrees_with_scipy():
    x, y = normal(30, 4), normal(30, 4, seed=1)
    # scipy's disparity also fits a scale: 1 - nu^2.
    nuclear = 1 - procrustes(x, y) ** 2 / 2
    assert scipy_procrustes(x, y)[2] == pytest.approx(1 - nuclear**2, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), [(30, 5), (9, 40)])
def test_a_copy_is_0_to_many_digits_and_a_near_copy_has_its_distance(n, p):
    x = normal(n, p) * np.geomspace(1, 30, p)
    turned = x @ rotation(p, 1) * 7 + 3
    for distance in BOTH:
        assert distance(x, x) < 1e-8
        assert distance(x, turned) < 1e-8
        assert distance(x, np.hstack([turned, np.zeros((n, 3))])) < 1e-8
        assert distance(x + 1e4, turned) < 1e-8
    # Mixing in the share e of something orthogonal of the same norm: d = 2 sin(atan(e) / 2), angle atan(e).
    columns = orthonormal(30, 2)
    for e in (1e-10, 1e-7, 1e-5, 1e-3, 9e-3, 0.011, 0.1):
        mixed = columns[:, :1] + e * columns[:, 1:]
        assert angular_distance(columns[:, :1], mixed) == pytest.approx(math.atan(e), rel=1e-5, abs=1e-15)
        # And with one side wider: the share leads out of the other's space.
        wide = np.hstack([columns[:, :1], e * columns[:, 1:]])
        assert angular_distance(columns[:, :1], wide) == pytest.approx(math.atan(e), rel=1e-5, abs=1e-15)
        assert angular_distance(wide, columns[:, :1]) == pytest.approx(math.atan(e), rel=1e-5, abs=1e-15)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-150, 150), st.sampled_from([0.0, 10.0, 100.0, 1e4]))
def test_invariances(seed, power, shift):
    x, y, z = (normal(25, p, seed=seed + p) for p in (4, 6, 3))
    y[:, :4] += x
    order = np.random.default_rng(seed).permutation(25)
    for distance in BOTH:
        expected = distance(x, y)
        assert distance(x @ rotation(4, seed) * 10.0**power, y + shift) == pytest.approx(expected, abs=1e-8)
        assert distance(x[order], y[order]) == pytest.approx(expected, abs=1e-9)
        assert distance(x[order], y) > expected
        # Not invariant to any other map.
        assert abs(distance(x * [9, 1, 1, 1], y) - expected) > 1e-4
        assert distance(x, z) <= expected + distance(y, z) + 1e-12


def test_triangle_inequality_where_it_is_tight():
    """On the arc from a to c, angles add up and chords do not."""
    columns = orthonormal(10, 2)
    a, b, c = (columns @ [[math.cos(t)], [math.sin(t)]] for t in (0.0, 0.4, 1.0))
    assert angular_distance(a, b) + angular_distance(b, c) == pytest.approx(angular_distance(a, c), abs=1e-12)
    assert procrustes(a, b) + procrustes(b, c) > procrustes(a, c) + 0.01
    assert procrustes(a, b) ** 2 + procrustes(b, c) ** 2 < procrustes(a, c) ** 2


def test_unrelated_wide_features_come_near():
    assert procrustes(normal(10, 2000), normal(10, 2000, seed=1)) < 0.2
    assert procrustes(normal(500, 3), normal(500, 3, seed=1)) > 1.3


@pytest.mark.parametrize("distance", BOTH)
def test_no_value_is_nan_and_bad_input_is_said(distance):
    x = normal(10, 3)
    for flat in (np.full((10, 2), 0.1), np.full((10, 2), 1e4) + np.arange(10)[:, None] * 1e-12, np.zeros((10, 40))):
        assert np.isnan(distance(x, flat)) and np.isnan(distance(flat, x))
    with refusal("bad-shape", "(1, 3)", "2"):
        distance(x[:1], x[:1])
    with refusal("bad-shape", "x and y"):
        distance(x, x[:9])
    with refusal("not-finite"):
        distance(np.where(x > 1, np.nan, x), x)


@pytest.mark.parametrize("distance", BOTH)
@pytest.mark.parametrize("p", [4, 30])
def test_torch_and_numpy_agree_and_input_stays(distance, p):
    x, y = normal(12, p), normal(12, p, seed=1)
    before = x.copy()
    with torch.device("meta"):
        result = distance(torch.from_numpy(x), torch.from_numpy(y))
        assert distance(torch.from_numpy(x), torch.from_numpy(x)) < 1e-8
    assert type(result) is float and result == distance(x, y)
    assert np.array_equal(x, before)


@pytest.mark.parametrize(("measure", "plain"), [(Procrustes(), procrustes), (AngularDistance(), angular_distance)])
def test_measure_equals_the_plain_function_and_finds_the_planted_pair(measure, plain):
    x, noise = normal(40, 5) * [3, 2, 1, 1, 1], normal(40, 60, seed=1)
    taps = {"a": x, "b": noise, "c": x @ rotation(5) + 0.3 * normal(40, 5, seed=2), "flat": np.full((40, 3), 0.1)}
    result = measure.compute(run(**taps), None, 0)
    expected = np.array([[plain(one, other) for other in taps.values()] for one in taps.values()])
    assert result.matrix.values == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert float(result.p.sel(tap="a", tap_other="c")) == pytest.approx(1 / 20)
    assert float(result.p.sel(tap="a", tap_other="b")) > 0.1
    assert result.attrs["alike"] == "smaller" and not measure.standard
    assert result.attrs["reason"] == "flat: its samples do not differ"


@pytest.mark.parametrize("p", [4, 40])
@pytest.mark.parametrize("measure", [Procrustes(), AngularDistance()])
def test_permuting_what_is_prepared_is_preparing_what_is_permuted(measure, p):
    x, y = torch.from_numpy(normal(25, p)), torch.from_numpy(normal(25, 6, seed=1))
    y[:, :4] += x[:, :4]
    order = torch.from_numpy(np.random.default_rng(0).permutation(25))
    other = measure.prepare(y)
    result = measure.compare(measure.permute(measure.prepare(x), order), other)
    assert result == pytest.approx(measure.compare(measure.prepare(x[order]), other), abs=1e-12)
    assert abs(result - measure.compare(measure.prepare(x), other)) > 1e-3
    (shuffled,) = measure.shuffle([other], [measure.prepare(x)], iter([order]), False)
    assert shuffled[0, 0] == pytest.approx(measure.compare(other, measure.prepare(x[order])), abs=1e-5)
