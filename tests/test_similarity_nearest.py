import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.similarity import nearest
from diagnostics.measures.similarity.kernels import cka
from diagnostics.measures.similarity.nearest import Cknna, MutualKnn, cknna, mutual_knn

from memory import MemoryActivations


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def direct_neighbours(x, k):
    """Sets of the k nearest by sorting (cosine, index) sample by sample."""
    cosines = unit(x) @ unit(x).T
    return [
        set(sorted((j for j in range(len(x)) if j != i), key=lambda j: (-round(cosines[i, j], 9), j))[:k])
        for i in range(len(x))
    ]


def direct_mutual(x, y, k):
    pairs = zip(direct_neighbours(x, k), direct_neighbours(y, k), strict=True)
    return np.mean([len(a & b) / k for a, b in pairs])


def direct_cknna(x, y, k):
    """HSIC_1 of dense masked kernels."""
    n = len(x)

    def masked(side, near, other_near):
        cosines = unit(side) @ unit(side).T
        return np.array([[cosines[i, j] * (j in near[i] and j in other_near[i]) for j in range(n)] for i in range(n)])

    def hsic(a, near_a, b, near_b):
        k_, m_ = masked(a, near_a, near_b), masked(b, near_a, near_b)
        trace = np.trace(k_ @ m_)
        return trace + k_.sum() * m_.sum() / ((n - 1) * (n - 2)) - 2 * (k_ @ m_).sum() / (n - 2)

    a, b = direct_neighbours(x, k), direct_neighbours(y, k)
    return hsic(x, a, y, b) / np.sqrt(hsic(x, a, x, a) * hsic(y, b, y, b))


def test_identical_is_one():
    x = np.random.default_rng(0).normal(size=(50, 6))
    assert mutual_knn(x, x, k=5) == 1
    assert cknna(x, x, k=5) == pytest.approx(1, abs=1e-12)
    assert mutual_knn(x, x * np.arange(1, 51)[:, None], k=5) == 1, "the length of a row does not count"


def test_independent_is_chance():
    x, y = np.random.default_rng(0).normal(size=(2, 1024, 16))
    assert pytest.approx(0.009775, abs=1e-6) == 10 / 1023
    # 10,240 neighbours, each there with probability .0098.
    assert mutual_knn(x, y) == pytest.approx(10 / 1023, abs=4 * np.sqrt(0.0098 / 10240))
    assert abs(cknna(x, y)) < 0.05


def test_all_neighbours_make_it_debiased_cka():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5)) + 1
    y = x[:, :4] + rng.normal(size=(30, 4))
    assert cknna(x, y, k=29) == pytest.approx(cka(unit(x), unit(y)), abs=1e-12)
    assert abs(cknna(x, y, k=5) - cknna(x, y, k=29)) > 0.01


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 13))
def test_equals_the_direct_formula(seed, k):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(14, 3))
    y = x + rng.normal(size=(14, 3))
    x[3] = x[5]
    assert mutual_knn(x, y, k=k) == pytest.approx(direct_mutual(x, y, k), abs=1e-12)
    assert cknna(x, y, k=k) == pytest.approx(direct_cknna(x, y, k), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000))
def test_invariances(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(25, 6))
    y = x + rng.normal(size=(25, 6))
    turned = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0] * scale
    order = rng.permutation(25)
    for function in (mutual_knn, cknna):
        assert function(turned, y, k=4) == pytest.approx(function(x, y, k=4), abs=1e-9)
        assert function(x[order], y[order], k=4) == pytest.approx(function(x, y, k=4), abs=1e-9)
    assert mutual_knn(y, x, k=4) == mutual_knn(x, y, k=4)


def test_is_not_invariant_to_shifts_and_linear_maps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    for function in (mutual_knn, cknna):
        assert function(x, x + 3) < 0.9
        assert function(x, x * [1, 1, 1, 30]) < 0.9


def test_ties_go_to_the_earlier_sample_whatever_the_block(monkeypatch):
    x = np.repeat(np.random.default_rng(0).normal(size=(6, 33)), 8, axis=0)
    found = nearest.neighbours(torch.tensor(x), 3)
    for i, row in enumerate(found.nearest.tolist()):
        first = i // 8 * 8
        assert row == [j for j in range(first, first + 8) if j != i][:3]
    monkeypatch.setattr(nearest, "BLOCK", 5 * len(x))
    again = nearest.neighbours(torch.tensor(x), 3)
    assert torch.equal(again.nearest, found.nearest)


def test_nothing_to_compare_is_nan():
    x = np.random.default_rng(0).normal(size=(12, 3))
    for function in (mutual_knn, cknna):
        assert np.isnan(function(x, np.full((12, 2), 0.1), k=3))
        assert np.isnan(function(x, np.zeros((12, 2)), k=3))
        assert np.isnan(function(x, np.arange(1, 13)[:, None] * np.array([[0.1, 0.3]]), k=3)), "one direction"
    assert np.isnan(cknna(x, np.eye(12), k=3)), "all cosines are 0"


def test_bad_input():
    x = np.random.default_rng(0).normal(size=(8, 3))
    for function, k in ((mutual_knn, 8), (mutual_knn, 0), (cknna, 1), (cknna, 8)):
        with pytest.raises(DiagnosticsError, match=f"k is {k} for 8 samples"):
            function(x, x, k=k)
    with pytest.raises(DiagnosticsError, match="same samples"):
        mutual_knn(x, x[:5], k=2)
    with pytest.raises(DiagnosticsError, match="at least 4"):
        cknna(x[:3], x[:3], k=2)
    with pytest.raises(DiagnosticsError, match="NaN"):
        mutual_knn(x, x * np.inf, k=2)


def test_torch_gives_what_numpy_gives():
    x, y = np.random.default_rng(0).normal(size=(2, 20, 5))
    with torch.device("meta"):
        for function in (mutual_knn, cknna):
            assert function(torch.tensor(x, device="cpu"), torch.tensor(y, device="cpu"), k=4) == function(x, y, k=4)


def planted(n=60):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(n, 2, 8))
    return {"a": a, "like_a": a + 0.3 * rng.normal(size=a.shape), "else": rng.normal(size=a.shape), "flat": a * 0 + 1}


@pytest.mark.parametrize(("measure", "plain"), [(MutualKnn(), mutual_knn), (Cknna(), cknna)])
def test_measures_point_at_the_planted_pair(measure, plain):
    arrays = planted()
    found = measure.compute(MemoryActivations(arrays), None, 0)
    expected = plain(arrays["a"].mean(axis=1), arrays["like_a"].mean(axis=1))
    assert found.matrix.sel(tap="a", tap_other="like_a").item() == pytest.approx(expected, abs=1e-12)
    assert found.p.sel(tap="a", tap_other="like_a").item() == 0.01
    assert found.p.sel(tap="a", tap_other="else").item() > 0.05
    assert found.attrs["reason"] == "flat: all samples point one way"
    assert np.isnan(found.matrix.sel(tap="flat").values).all()
    assert found.attrs["k"] == 10
    if measure.name == "mutual_knn":
        assert found.attrs["chance"] == pytest.approx(10 / 59)


@pytest.mark.parametrize("measure", [MutualKnn(), Cknna()])
def test_permuting_what_is_prepared_is_preparing_what_is_permuted(measure):
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30, 4)))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    a, b = measure.prepared(x), measure.prepared(y)
    expected = measure.compared(a, measure.prepared(y[order]))
    assert measure.compared(a, measure.permuted(b, order)) == pytest.approx(expected, abs=1e-12)
    assert expected != pytest.approx(measure.compared(a, b), abs=1e-6)


def test_measure_with_too_few_samples_is_refused():
    with pytest.raises(DiagnosticsError, match="at least 12"):
        MutualKnn().compute(MemoryActivations(planted(11)), None, 0)


@pytest.mark.parametrize("shift", [1e5, 1e6, 1e7])
def test_a_shift_that_turns_all_samples_nearly_one_way_makes_no_neighbours_alike(shift):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(2, 200, 8)) + shift

    def nearest_of(side):
        directions = side.astype(np.longdouble)
        directions /= np.sqrt((directions**2).sum(axis=1, keepdims=True))
        apart = ((directions[:, None] - directions) ** 2).sum(axis=2)
        np.fill_diagonal(apart, np.inf)
        return [set(row) for row in np.argsort(apart, axis=1)[:, :10]]

    exact = np.mean([len(a & b) / 10 for a, b in zip(nearest_of(x), nearest_of(y), strict=True)])
    assert mutual_knn(x, y) == pytest.approx(exact, abs=0.01)
    assert cknna(x, y) < 0.2


def test_all_neighbours_of_a_shift_that_leaves_rounding_are_nothing_to_compare():
    x, y = np.random.default_rng(9).normal(size=(2, 30, 4)) + 1e4
    assert np.isnan(cknna(x, y, k=29))
