import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import pdist

from diagnostics.measures.similarity.decomposed import Gulp, gulp
from diagnostics.measures.similarity.pairs import Rsa, compare_rdms, rdm, rsa
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

METHODS = ("spearman", "pearson", "kendall", "cosine")
DISTANCES = ("euclidean", "correlation", "cosine")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthonormal(n, k, seed=0):
    """Centred orthonormal columns."""
    return np.linalg.qr(np.hstack([np.ones((n, 1)), normal(n, k, seed=seed)]))[0][:, 1:]


def rotation(p, seed=0):
    return np.linalg.qr(normal(p, p, seed=seed))[0]


def related(n=20, p=5, q=7, seed=0):
    x, y = normal(n, p, seed=seed), normal(n, q, seed=seed + 1)
    y[:, :3] += 2 * x[:, :3]
    return x, y


def run(**taps):
    return MemoryActivations({name: x[:, None, :] for name, x in taps.items()})


# Representational similarity analysis


@pytest.mark.parametrize("distance", DISTANCES)
def test_rdm_is_scipys(distance):
    x = normal(9, 4) + 1
    assert rdm(x, distance=distance) == pytest.approx(pdist(x, distance), abs=1e-12)
    # Duplicates are 0 apart, exactly, whatever is common to all.
    assert rdm(np.vstack([x, x]) + 1e4, distance=distance)[8] == 0


def test_rdm_tells_near_samples_apart():
    """By inner products, 1 - r of 1e-18 is rounding."""
    x = np.vstack([normal(1, 6)] * 3)
    x[1, 0] += 1e-9
    x[2, 0] += 2e-9
    near = rdm(x, distance="correlation")
    assert near[1] / near[0] == pytest.approx(4, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 6))
def test_comparisons_are_scipys_with_ties(seed, entries, values):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, values + 1, entries) / 3, rng.integers(0, 9, entries) / 7
    result = {method: compare_rdms(a, b, method=method) for method in METHODS}
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert all(np.isnan(result[method]) for method in METHODS[:3])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert result["spearman"] == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        assert result["pearson"] == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
    signs = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in itertools.combinations(range(entries), 2)]
    assert result["kendall"] == pytest.approx(np.mean(signs), abs=1e-12)
    assert result["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)


@pytest.mark.parametrize(
    ("method", "theirs"), [("spearman", "spearman"), ("pearson", "corr"), ("kendall", "tau-a"), ("cosine", "cosine")]
)
@pytest.mark.parametrize("distance", ["euclidean", "correlation"])
def test_rsa_is_rsatoolbox(method, theirs, distance):
    import rsatoolbox

    x, y = related()
    sides = [rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(side), method=distance) for side in (x, y)]
    if distance == "euclidean":
        # theirs is squared, and divided by the number of features.
        sides = [rsatoolbox.rdm.RDMs(np.sqrt(side.dissimilarities)) for side in sides]
    expected = float(rsatoolbox.rdm.compare(*sides, method=theirs)[0, 0])
    assert rsa(x, y, distance=distance, method=method) == pytest.approx(expected, abs=1e-7)


def test_tau_of_many_entries():
    a, b = normal(5000).round(1), normal(5000, seed=1)
    b += a
    ties = np.unique(a, return_counts=True)[1]
    pairs = 5000 * 4999 / 2
    share = math.sqrt(1 - (ties * (ties - 1) / 2).sum() / pairs)
    assert compare_rdms(a, b, method="kendall") == pytest.approx(stats.kendalltau(a, b)[0] * share, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_rsa_invariances(seed, scale):
    x, y = related(seed=seed)
    order = np.random.default_rng(seed).permutation(20)
    turn = rotation(5, seed)
    for distance, method in itertools.product(DISTANCES, METHODS):
        expected = rsa(x, y, distance=distance, method=method)
        same = {"distance": distance, "method": method}
        assert rsa(x * scale, y, **same) == pytest.approx(expected, abs=1e-9)
        assert rsa(x[order], y[order], **same) == pytest.approx(expected, abs=1e-9)
        assert rsa(x[order], y, **same) != pytest.approx(expected, abs=1e-6) or (order == np.arange(20)).all()
        assert rsa(x, x, **same) == pytest.approx(1, abs=1e-12)
        # Correlations take off the mean over features, which a rotation mixes in.
        turned = rsa(x @ turn, y, **same)
        assert (turned != pytest.approx(expected, abs=1e-6)) == (distance == "correlation")
        # One shift for all samples: only the Euclidean distance stays.
        moved = rsa(x + np.array([3, 1, 0, 0, -2]), y, **same)
        assert (moved == pytest.approx(expected, abs=1e-9)) == (distance == "euclidean")
    assert rsa(x + 1e4, y) == pytest.approx(rsa(x, y), abs=1e-9)
    assert rsa(x + 1e4, y, distance="euclidean") == pytest.approx(rsa(x, y, distance="euclidean"), abs=1e-9)


def test_distances_that_are_equal_but_for_rounding_are_ties():
    """Corners of a simplex are equally far apart however they are turned: no order of them is to be found."""
    x, y = np.eye(12) @ rotation(12), np.eye(12) @ rotation(12, 1)
    for method in METHODS[:3]:
        assert np.isnan(rsa(x, y, distance="euclidean", method=method))
    # Two levels, blurred by rounding in 12 digits.
    levels = np.repeat([1.0, 2.0], 50)
    noise = 1 + normal(100) * 1e-15
    other = normal(100, seed=1)
    for method in ("spearman", "kendall"):
        assert compare_rdms(levels * noise, other, method=method) == compare_rdms(levels, other, method=method)


def test_rsa_without_a_value_is_nan_and_bad_input_is_said():
    x = normal(6, 3)
    flat_sample = np.vstack([x, [[2.0, 2, 2]]])
    assert np.isnan(rdm(flat_sample, distance="correlation")).sum() == 6
    assert np.isfinite(rdm(flat_sample, distance="cosine")).all()
    assert np.isnan(rsa(flat_sample, normal(7, 3)))
    assert np.isnan(rsa(x[:, :1], x))
    assert np.isnan(rdm(np.vstack([x, np.zeros((1, 3))]), distance="cosine")).sum() == 6
    assert np.isnan(rsa(np.full((6, 3), 0.1), x, distance="euclidean"))
    assert rdm(x[:2]).shape == (1,) and np.isnan(compare_rdms([1.0], [2.0]))
    assert np.isnan(compare_rdms([0, 0.0], [1, 2.0], method="cosine"))
    assert np.isnan(compare_rdms([1, np.nan, 2], [1, 2, 3.0]))
    with refusal("bad-shape", "(3,)", "(2,)"):
        compare_rdms([1, 2, 3.0], [1, 2.0])
    with refusal("bad-shape", "compare_rdms"):
        compare_rdms(np.eye(3), np.eye(3))
    with refusal("bad-shape", "3"):
        rsa(x[:2], x[:2])
    with refusal("bad-shape", "x and y"):
        rsa(x, x[:5])
    with refusal("unknown-name", "manhattan"):
        rsa(x, x, distance="manhattan")
    with refusal("unknown-name", "tau"):
        rsa(x, x, method="tau")


def test_rsa_in_torch():
    x, y = related()
    before = x.copy()
    for distance, method in itertools.product(DISTANCES, METHODS):
        with torch.device("meta"):
            result = rsa(torch.from_numpy(x), torch.from_numpy(y), distance=distance, method=method)
        assert type(result) is float and result == rsa(x, y, distance=distance, method=method)
    assert np.array_equal(x, before)
    assert isinstance(rdm(torch.from_numpy(x)), np.ndarray)


def test_rsa_measure():
    x = normal(25, 6)
    # The corners of a simplex, each sample's mean over features the same.
    taps = {
        "a": x,
        "b": normal(25, 4, seed=1),
        "c": x + 0.5 * normal(25, 6, seed=2),
        "one": x[:, :1],
        "even": np.eye(25),
    }
    taps |= {"flat": np.full((25, 3), 0.1)}
    result = Rsa().compute(run(**taps), None, 0)
    expected = np.array([[rsa(one, other) for other in taps.values()] for one in taps.values()])
    assert result.matrix.values == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert float(result.p.sel(tap="a", tap_other="c")) == pytest.approx(1 / 100)
    assert float(result.p.sel(tap="a", tap_other="b")) > 0.1
    reasons = result.attrs["reason"].split("; ")
    assert [reason.split(":")[0] for reason in reasons] == ["one", "even", "flat"]
    assert "one value in all features" in reasons[0] and "equally unlike" in reasons[1]
    assert not Rsa.standard


@pytest.mark.parametrize("measure", [Rsa(), Gulp()])
def test_permuting_what_is_prepared_is_preparing_what_is_permuted(measure):
    taps = [torch.from_numpy(side) for side in (*related(), normal(20, 3, seed=9))]
    created = [measure.prepare(x) for x in taps]
    draws = [torch.from_numpy(np.random.default_rng(i).permutation(20)) for i in range(3)]
    draws.append(torch.arange(20))
    all_pairs = list(measure.shuffle(created[:2], created, iter(draws), False))
    for order, values in zip(draws, all_pairs, strict=True):
        for i, j in itertools.product(range(2), range(3)):
            result = measure.compare(created[i], measure.permute(created[j], order))
            assert result == pytest.approx(measure.compare(created[i], measure.prepare(taps[j][order])), abs=1e-12)
            assert result == pytest.approx(values[i, j], abs=1e-6)


# GULP


def gulp_directly(x, y, regularization):
    """The traces of the paper, from covariances of features of total variance 1."""

    def normed(side):
        side = side - side.mean(axis=0)
        return side * np.sqrt(len(side)) / np.linalg.norm(side)

    x, y = normed(x), normed(y)
    n = len(x)
    xx, yy, xy = x.T @ x / n, y.T @ y / n, x.T @ y / n
    mine = np.linalg.inv(xx + regularization * np.eye(len(xx)))
    yours = np.linalg.inv(yy + regularization * np.eye(len(yy)))
    own = np.trace(mine @ xx @ mine @ xx) + np.trace(yours @ yy @ yours @ yy)
    return math.sqrt(own - 2 * np.trace(mine @ xy @ yours @ xy.T))


@pytest.mark.parametrize("regularization", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 7), (10, 5, 7), (10, 30, 4), (8, 30, 40)])
def test_gulp_is_the_papers_formula(n, p, q, regularization):
    x, y = related(n, p, q)
    assert gulp(x + 3, y, regularization=regularization) == pytest.approx(gulp_directly(x, y, regularization), rel=1e-6)


def test_gulp_in_closed_form():
    x, columns = normal(40, 5), orthonormal(40, 7)
    assert gulp(x, x @ normal(5, 5, seed=1) + 1e4, regularization=0) < 1e-8
    # Orthogonal sides of equal variances 1 / k: each direction counts (1 / k / (1 / k + lambda))^2.
    assert gulp(columns[:, :3], columns[:, 3:]) ** 2 == pytest.approx(
        3 * (1 / 3 / (1 / 3 + 0.01)) ** 2 + 4 * (0.25 / 0.26) ** 2, abs=1e-9
    )
    # A large lambda leaves the distance of the kernels, that is CKA: the pair of measures.md has 10 / 14.
    x, y = columns[:, :3] * np.sqrt([3, 2, 1]), columns[:, :3] * np.sqrt([1, 2, 3])
    far = gulp(x, y, regularization=1e6) * 1e6
    assert far**2 == pytest.approx(14 / 36 * 2 * (1 - 10 / 14), rel=1e-4)


def test_gulp_bounds_what_ridge_predicts_differently():
    x, y = related(30)
    x, y = (side - side.mean(axis=0) for side in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    hats = [side @ np.linalg.solve(side.T @ side + 0.01 * np.eye(side.shape[1]), side.T) for side in (x, y)]
    apart = hats[0] - hats[1]
    assert np.linalg.norm(apart) == pytest.approx(gulp(x, y), rel=1e-9)
    targets = normal(30, 50)
    assert (np.linalg.norm(apart @ targets, axis=0) <= gulp(x, y) * np.linalg.norm(targets, axis=0)).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-150, 150), st.sampled_from([0.0, 10.0, 100.0, 1e4]))
def test_gulp_invariances(seed, power, shift):
    x, y = related(seed=seed)
    z = normal(20, 3, seed=seed + 9)
    order = np.random.default_rng(seed).permutation(20)
    expected = gulp(x, y)
    assert gulp(x @ rotation(5, seed) * 10.0**power, y + shift) == pytest.approx(expected, abs=1e-8)
    assert gulp(x[order], y[order]) == pytest.approx(expected, abs=1e-9)
    assert abs(gulp(x[order], y) - expected) > 1e-6 or (order == np.arange(20)).all()
    assert gulp(x, x @ rotation(5, seed) * 3 + shift) < 1e-8
    # Other maps count where lambda does; by how much depends on what is stretched.
    stretched = x * [30, 1, 1, 1, 1]
    assert abs(gulp(stretched, y) - expected) > 1e-6
    assert gulp(stretched, y, regularization=0) == pytest.approx(gulp(x, y, regularization=0), abs=1e-9)
    for value in (0, 1e-2, 1):
        sides = [gulp(a, b, regularization=value) for a, b in ((x, y), (y, z), (x, z))]
        assert sides[2] <= sides[0] + sides[1] + 1e-12


def test_gulp_without_a_value_is_nan_and_bad_input_is_said():
    x = normal(10, 3)
    for flat in (np.full((10, 2), 0.1), np.zeros((10, 40))):
        assert np.isnan(gulp(x, flat)) and np.isnan(gulp(flat, x))
    assert np.isfinite(gulp(np.hstack([x, x]), x, regularization=0))
    with refusal("too-few", "10", "12"):
        gulp(x, normal(10, 12), regularization=0)
    for value in (-1, float("nan"), float("inf")):
        with refusal("bad-value", "gulp"):
            gulp(x, x, regularization=value)
    with refusal("bad-shape", "2"):
        gulp(x[:1], x[:1])
    with refusal("not-finite"):
        gulp(x, np.where(x > 1, np.inf, x))


@pytest.mark.parametrize("n", [9, 40])
def test_gulp_in_torch(n):
    x, y = related(n)
    before = x.copy()
    with torch.device("meta"):
        result = gulp(torch.from_numpy(x), torch.from_numpy(y))
    assert type(result) is float and result == gulp(x, y)
    assert np.array_equal(x, before)


def test_gulp_measure():
    x = normal(25, 6)
    taps = {"a": x, "b": normal(25, 6, seed=1), "c": x + 0.3 * normal(25, 6, seed=2), "flat": np.full((25, 3), 0.1)}
    result = Gulp().compute(run(**taps), None, 0)
    expected = np.array([[gulp(one, other) for other in taps.values()] for one in taps.values()])
    assert result.matrix.values == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert float(result.p.sel(tap="a", tap_other="c")) == pytest.approx(1 / 100)
    assert float(result.p.sel(tap="a", tap_other="b")) > 0.1
    assert result.attrs["reason"] == "flat: its samples do not differ"
    assert result.attrs["alike"] == "smaller" and not Gulp.standard
