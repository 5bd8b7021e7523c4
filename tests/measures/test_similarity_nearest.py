import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.similarity import pairs
from diagnostics.measures.similarity.kernels import cka
from diagnostics.measures.similarity.pairs import Cknna, MutualKnn, cknna, mutual_knn
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def direct_sets(x, k):
    """For each sample all sets of k nearest that breaking ties can leave, each as likely as the others."""
    cosines = (unit(x) @ unit(x).T).round(9)
    np.fill_diagonal(cosines, -np.inf)
    created = []
    for row in cosines:
        last = np.sort(row)[-k]
        sure, tied = np.flatnonzero(row > last), np.flatnonzero(row == last)
        created.append([{*sure, *some} for some in itertools.combinations(tied, k - len(sure))])
    return created


def direct_mutual(x, y, k):
    pairs = zip(direct_sets(x, k), direct_sets(y, k), strict=True)
    return np.mean([np.mean([len(a & b) / k for a in first for b in second]) for first, second in pairs])


def direct_cknna(x, y, k):
    """HSIC_1 of dense kernels, each averaged over all ways of breaking ties."""
    n = len(x)

    def chance(side):
        return np.array([[np.mean([j in some for some in sets]) for j in range(n)] for sets in direct_sets(side, k)])

    def hsic(a, b):
        return np.trace(a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)

    near, other_near = chance(x), chance(y)
    a, b = unit(x) @ unit(x).T, unit(y) @ unit(y).T
    both = near * other_near
    return hsic(a * both, b * both) / np.sqrt(hsic(a * near, a * near) * hsic(b * other_near, b * other_near))


def test_the_length_of_a_row_does_not_count():
    x = np.random.default_rng(0).normal(size=(50, 6))
    lengths = np.arange(1, 51)[:, None]
    assert mutual_knn(x, x * lengths, k=5) == 1
    assert cknna(x, x * lengths, k=5) == pytest.approx(1, abs=1e-12)


def test_cknna_of_independent_sides_is_about_0():
    assert abs(cknna(*np.random.default_rng(0).normal(size=(2, 1024, 16)))) < 0.05


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
    x[3] = x[5] = x[9]
    y[[0, 1, 5]] = y[2]
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


def blank(x, rng):
    return x * (rng.random(len(x)) > 0.3)[:, None]


N_TIED = 150
TIED = {
    "sign of one feature": lambda rng: np.sign(rng.normal(size=(N_TIED, 1))),
    "one-hot": lambda rng: np.eye(64)[rng.integers(0, 64, N_TIED)],
    "30 % zero rows": lambda rng: blank(rng.normal(size=(N_TIED, 16)), rng),
    "scalar": lambda rng: np.round(2 * rng.normal(size=(N_TIED, 1))),
}


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("measure", [MutualKnn(), Cknna()])
def test_unrelated_sides_with_ties_are_at_chance(name, measure):
    trials, most = (20, 4) if measure.name == "mutual_knn" else (10, 3)
    values, low = [], 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        sides = {"a": TIED[name](rng)[:, None], "b": TIED[name](rng)[:, None]}
        result = measure.compute(MemoryActivations(sides), None, seed).sel(tap="a", tap_other="b")
        values.append(result.matrix.item())
        low += result.p.item() <= 0.05
    # One of 20 is expected; more than this has a probability of .003 (of 10: .001).
    assert low <= most
    if measure.name == "mutual_knn":
        assert np.mean(values) == pytest.approx(10 / 149, rel=0.05)


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("measure", [MutualKnn(), Cknna()])
def test_related_sides_with_ties_are_seen(name, measure):
    rng = np.random.default_rng(0)
    x = TIED[name](rng)
    # The same but for every fifth sample, and in another basis.
    y = np.where(rng.random((N_TIED, 1)) < 0.8, x, TIED[name](rng))
    y = y @ np.linalg.qr(rng.normal(size=(x.shape[1], x.shape[1])))[0]
    result = measure.compute(MemoryActivations({"a": x[:, None], "b": y[:, None]}), None, 0)
    assert result.p.sel(tap="a", tap_other="b").item() == 0.01


@pytest.mark.parametrize("name", TIED)
def test_ties_are_broken_at_random_on_average(name):
    rng = np.random.default_rng(3)
    x, y = TIED[name](rng), TIED[name](rng)

    def drawn(side):
        # Rounded, so that equal cosines tie; then the order of equal ones is a random one, row by row.
        length = np.linalg.norm(side, axis=1, keepdims=True)
        directions = side / np.where(length > 0, length, 1)
        cosines = (directions @ directions.T).round(9)
        np.fill_diagonal(cosines, -np.inf)
        near = np.zeros(cosines.shape)
        order = np.lexsort((rng.random(cosines.shape), -cosines), axis=1)[:, :10]
        np.put_along_axis(near, order, 1, axis=1)
        return near

    shares = [(drawn(x) * drawn(y)).sum() / (10 * N_TIED) for _ in range(200)]
    assert mutual_knn(x, y) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / np.sqrt(200))


def test_of_equal_samples_neighbours_are_known_only_as_far_as_ties_leave_them():
    x = np.repeat(np.random.default_rng(0).normal(size=(6, 33)), 4, axis=0)
    assert mutual_knn(x, x, k=1) == pytest.approx(1 / 3), "each of three others is as near"
    assert mutual_knn(x, x, k=2) == pytest.approx(2 / 3)
    assert mutual_knn(x, x, k=3) == 1, "all three are neighbours"


@pytest.mark.parametrize("single", [False, True])
def test_cosines_that_differ_by_rounding_tie(single):
    rng = np.random.default_rng(0)
    x, y = np.eye(7)[rng.integers(0, 7, (2, 80))]
    expected = mutual_knn(x, y, k=15), cknna(x, y, k=15)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0][:7]
    x = x @ turn * rng.uniform(0.1, 10, (80, 1))
    x = x.astype(np.float32) if single else x
    assert mutual_knn(x, y, k=15) == pytest.approx(expected[0], abs=1e-12)
    assert cknna(x, y, k=15) == pytest.approx(expected[1], abs=1e-6)


@pytest.mark.parametrize(("constant", "value"), [("BLOCK", 5 * 60), ("TABLE_ROWS", 0)])
def test_neither_blocks_nor_the_way_of_looking_up_change_anything(monkeypatch, constant, value):
    rng = np.random.default_rng(1)
    x, y = blank(rng.normal(size=(60, 4)), rng), np.sign(rng.normal(size=(60, 2)))
    before = [(mutual_knn(x, y), cknna(x, y), measured(MutualKnn(), x, y), measured(Cknna(), x, y))]
    monkeypatch.setattr(pairs, constant, value)
    after = [(mutual_knn(x, y), cknna(x, y), measured(MutualKnn(), x, y), measured(Cknna(), x, y))]
    np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_allclose(before[0][2:], before[0][:2], atol=1e-12)


def measured(measure, x, y):
    return measure.compare(measure.prepare(torch.tensor(x)), measure.prepare(torch.tensor(y)))


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
        with refusal("bad-value", k):
            function(x, x, k=k)
    with refusal("bad-shape", "x and y"):
        mutual_knn(x, x[:5], k=2)
    with refusal("bad-shape", "4"):
        cknna(x[:3], x[:3], k=2)
    with refusal("not-finite"):
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
    result = measure.compute(MemoryActivations(arrays), None, 0)
    expected = plain(arrays["a"].mean(axis=1), arrays["like_a"].mean(axis=1))
    assert result.matrix.sel(tap="a", tap_other="like_a").item() == pytest.approx(expected, abs=1e-12)
    assert result.p.sel(tap="a", tap_other="like_a").item() == 0.01
    assert result.p.sel(tap="a", tap_other="else").item() > 0.05
    assert result.attrs["reason"] == "flat: all samples point one way"
    assert np.isnan(result.matrix.sel(tap="flat").values).all()
    assert result.attrs["k"] == 10
    if measure.name == "mutual_knn":
        assert result.attrs["chance"] == pytest.approx(10 / 59)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("measure", [MutualKnn(), Cknna()])
def test_permuting_what_is_prepared_is_preparing_what_is_permuted(measure, tied):
    x, y = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 30, 4)))
    if tied:
        x, y = x.round(), y.round()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    a, b = measure.prepare(x), measure.prepare(y)
    expected = measure.compare(a, measure.prepare(y[order]))
    assert measure.compare(a, measure.permute(b, order)) == pytest.approx(expected, abs=1e-12)
    assert measure.compare(measure.permute(b, order), a) == pytest.approx(
        measure.compare(measure.prepare(y[order]), a), abs=1e-12
    )
    assert expected != pytest.approx(measure.compare(a, b), abs=1e-6)


def test_measure_with_too_few_samples_is_refused():
    with refusal("too-few", "12"):
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
