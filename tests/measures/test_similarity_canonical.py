import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from diagnostics.measures.similarity.decomposed import Cca, Pwcca, Svcca, canonical_correlations, cca, pwcca, svcca
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

ALL = (cca, svcca, pwcca)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def orthonormal(n, k, seed=0):
    """Centred orthonormal columns."""
    return np.linalg.qr(np.hstack([np.ones((n, 1)), normal(n, k, seed=seed)]))[0][:, 1:]


def invertible(p, seed=0, condition=100.0):
    u, _, v = np.linalg.svd(normal(p, p, seed=seed))
    return u * np.geomspace(1, condition, p) @ v


def by_covariances(x, y):
    """Canonical correlations as the generalised eigenvalues of covariances."""
    c = np.cov(np.hstack([x, y]).T)
    p, q = x.shape[1], y.shape[1]
    xx, yy, xy = c[:p, :p], c[p:, p:], c[:p, p:]
    values = linalg.eigh(xy @ np.linalg.solve(yy, xy.T), xx, eigvals_only=True)[::-1]
    return np.sqrt(values[: min(p, q)].clip(0))


def pwcca_directly(x, y):
    """Weights from x through the canonical coefficients of a whitened x."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    white = x @ linalg.inv(linalg.sqrtm(x.T @ x).real)
    yours = y @ linalg.inv(linalg.sqrtm(y.T @ y).real)
    u, rho, _ = np.linalg.svd(white.T @ yours, full_matrices=False)
    weights = np.abs((white @ u).T @ x).sum(axis=1)
    return weights @ rho / weights.sum()


def components(x, variance):
    x = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x)
    share = np.cumsum(values[::-1]) / values.sum()
    return x @ vectors[:, ::-1][:, : np.searchsorted(share, variance) + 1]


def pair(n=60, p=4, q=7, seed=0):
    x = normal(n, p, seed=seed) @ invertible(p, seed, 10)
    return x, np.hstack([x[:, :2], np.zeros((n, q - 2))]) + normal(n, q, seed=seed + 1)


def run(**taps):
    return MemoryActivations({name: x[:, None, :] for name, x in taps.items()})


def test_canonical_correlations_are_those_of_the_covariances():
    x, y = pair()
    result = canonical_correlations(x, y)
    assert result == pytest.approx(by_covariances(x, y), abs=1e-10)
    assert result.shape == (4,) and (np.diff(result) <= 0).all()
    assert canonical_correlations(y, x) == pytest.approx(result, abs=1e-12)
    assert cca(x, y) == pytest.approx(result.mean(), rel=1e-12)


def test_one_feature_a_side_is_pearsons_r():
    x, y = np.array([[0.0], [1], [3]]), np.array([[1.0], [0], [3]])
    assert cca(x, y) ** 2 == pytest.approx(0.617347, abs=1e-6)


@pytest.mark.parametrize("functional", [cca, pwcca, lambda x, y: svcca(x, y, variance=1.0)])
def test_an_invertible_map_changes_nothing(functional):
    x = normal(50, 6)
    assert functional(x, x @ invertible(6, 1, 1e4) + 1e4) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("k", "m"), [(6, 2), (5, 5), (4, 0)])
def test_projections_that_share_m_of_k_directions(k, m):
    columns = orthonormal(40, 2 * k)
    x, y = columns[:, :k], np.hstack([columns[:, :m], columns[:, k : 2 * k - m]])
    for functional in (cca, svcca):
        assert functional(x, y) == pytest.approx(m / k, abs=1e-9)
    # With equal correlations among others the variates are any of the plane, and so are the weights.
    assert pwcca(x, y) == pytest.approx(m / k, abs=1e-9 if m in (0, k) else 0.15)


def test_unrelated_data_reach_the_larger_width_over_n_in_the_mean():
    """Mean squared correlation of independent data with 500 samples, 20 and 30 features."""
    squares = [
        (canonical_correlations(normal(500, 20, seed=i), normal(500, 30, seed=100 + i)) ** 2).mean() for i in range(20)
    ]
    assert np.mean(squares) == pytest.approx(30 / 499, abs=0.0015)


@pytest.mark.parametrize("functional", [canonical_correlations, cca, pwcca, lambda x, y: svcca(x, y, variance=1.0)])
def test_ranks_that_add_up_to_n_are_warned_of(functional):
    for n, p, q in ((40, 64, 64), (20, 10, 10), (20, 30, 1)):
        with pytest.warns(
            UserWarning, match=rf"of {n} samples with ranks {min(p, n - 1)} and {q if q < n else n - 1} is no finding"
        ):
            functional(normal(n, p), normal(n, q, seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        functional(normal(21, 10), normal(21, 10, seed=1))
        # One side constant: no value, so nothing to warn of.
        functional(np.zeros((8, 3)), normal(8, 20))


def test_few_components_need_no_warning():
    x = normal(40, 64) * 10.0 ** -np.arange(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert svcca(x, x) == pytest.approx(1)
    with pytest.warns(UserWarning, match="svcca of 40 samples"):
        svcca(normal(40, 64), normal(40, 64, seed=1))


@pytest.mark.filterwarnings("ignore:.*is no finding")
def test_no_more_samples_than_features_is_one_whatever_the_data():
    for functional in (cca, pwcca):
        assert functional(normal(20, 30), normal(20, 25, seed=1)) == pytest.approx(1, abs=1e-9)
        # n = p + q: the spaces have one direction too many.
        assert canonical_correlations(normal(20, 10), normal(20, 10, seed=1))[0] == pytest.approx(1, abs=1e-9)
        assert canonical_correlations(normal(21, 10), normal(21, 10, seed=1))[0] < 1 - 1e-4


def test_svcca_keeps_a_share_of_the_variance():
    """Table 2.0: only the leading component is shared, 20 are not; a package that keeps one component finds .9999."""
    shared = normal(500, 1) * 10
    x, y = np.hstack([shared, normal(500, 20, seed=1)]), np.hstack([shared, normal(500, 20, seed=2)])
    kept = [components(side, 0.99) for side in (x, y)]
    assert [side.shape[1] for side in kept] == [20, 20]
    assert svcca(x, y) == pytest.approx(by_covariances(*kept).mean(), abs=1e-9)
    assert svcca(x, y) == pytest.approx(0.2088, abs=0.01)
    assert svcca(x, y, variance=0.5) == pytest.approx(by_covariances(shared, shared).mean(), abs=0.01)
    assert svcca(x, y, variance=0.5) > 0.99


def test_svcca_counts_squares_and_meets_an_exact_share():
    # Variances 90, 9, 1: 99 % is two components; of the summed singular values two hold 93 %.
    x = orthonormal(30, 3) * np.sqrt([90, 9, 1])
    y = orthonormal(30, 3, seed=1)
    assert svcca(x, y) == pytest.approx(by_covariances(x[:, :2], y).mean(), abs=1e-9)
    assert svcca(x, y, variance=0.9900001) == pytest.approx(by_covariances(x, y).mean(), abs=1e-9)


@pytest.mark.parametrize(("p", "q"), [(4, 7), (7, 4), (5, 5)])
def test_pwcca_weighs_by_x_however_wide_it_is(p, q):
    """Table 2.0: the branch for a wider x, which a package takes from the wrong side."""
    x, y = normal(60, p) * np.geomspace(1, 9, p), normal(60, q, seed=1)
    y[:, :3] += x[:, :3]
    assert pwcca(x, y) == pytest.approx(pwcca_directly(x, y), rel=1e-9)
    assert abs(pwcca(x, y) - pwcca(y, x)) > 1e-3
    # A map of y leaves it; one of x does not.
    assert pwcca(x, y @ invertible(q, 2)) == pytest.approx(pwcca(x, y), abs=1e-9)
    assert abs(pwcca(x @ invertible(p, 2, 1e3), y) - pwcca(x, y)) > 1e-3


def test_pwcca_follows_what_the_features_carry():
    columns = orthonormal(50, 6)
    x, y = columns[:, :2] * [9, 1], columns[:, [0, 2]]
    assert pwcca(x, y) == pytest.approx(0.9, abs=1e-9)
    assert cca(x, y) == pytest.approx(0.5, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(-150, 150), st.sampled_from([0.0, 10.0, 100.0, 1e4]))
def test_invariances(seed, power, shift):
    x, y = pair(seed=seed)
    order = np.random.default_rng(seed).permutation(60)
    for functional in ALL:
        expected = functional(x, y)
        assert functional(x * 10.0**power, y + shift) == pytest.approx(expected, abs=1e-8)
        assert functional(x + shift, y * 10.0**power) == pytest.approx(expected, abs=1e-8)
        assert functional(x[order], y[order]) == pytest.approx(expected, abs=1e-9)
        assert abs(functional(x[order], y) - expected) > 1e-6 or (order == np.arange(60)).all()
        assert 0 <= expected <= 1
    turn = np.linalg.qr(normal(4, 4, seed=seed))[0]
    assert svcca(x @ turn, y) == pytest.approx(svcca(x, y), abs=1e-9)
    assert cca(x @ invertible(4, seed), y @ invertible(7, seed)) == pytest.approx(cca(x, y), abs=1e-8)


def test_svcca_is_not_invariant_to_every_map():
    x, y = pair()
    stretched = x @ invertible(4, 3, 1e3)
    assert abs(svcca(stretched, y) - svcca(x, y)) > 0.01


def test_directions_that_are_rounding_do_not_count():
    x, y = normal(50, 3), normal(50, 4, seed=1)
    expected = cca(x, y)
    repeated = np.hstack([x, x[:, :1], x @ normal(3, 5, seed=2), np.full((50, 1), 0.1)])
    assert canonical_correlations(repeated, y).shape == (3,)
    for same in (repeated, repeated + 1e4, repeated.astype(np.float32), (repeated + 1).astype(np.float32)):
        assert cca(same, y) == pytest.approx(expected, abs=1e-5)
    assert pwcca(repeated, y) == pytest.approx(pwcca(repeated + 1e4, y), abs=1e-8)


@pytest.mark.parametrize("functional", ALL)
def test_no_value_is_nan_and_bad_input_is_said(functional):
    x = normal(10, 3)
    for flat in (np.full((10, 2), 0.1), np.full((10, 2), 1e4) + np.arange(10)[:, None] * 1e-12, np.zeros((10, 1))):
        assert np.isnan(functional(x, flat)) and np.isnan(functional(flat, x))
    assert canonical_correlations(x, np.zeros((10, 2))).shape == (0,)
    with refusal("bad-shape", "(1, 3)", "2"):
        functional(x[:1], x[:1])
    with refusal("bad-shape", "(10, 3) and (9, 3)"):
        functional(x, x[:9])
    with refusal("not-finite"):
        functional(x, np.where(x > 1, np.inf, x))
    for share in (0, 1.1, float("nan")):
        with refusal("bad-value", "svcca"):
            svcca(x, x, variance=share)


@pytest.mark.parametrize("functional", ALL)
def test_torch_and_numpy_agree_and_input_stays(functional):
    x, y = pair()
    before = x.copy(), y.copy()
    with torch.device("meta"):
        result = functional(torch.from_numpy(x), torch.from_numpy(y))
    assert type(result) is float and result == functional(x, y)
    assert np.array_equal(x, before[0]) and np.array_equal(y, before[1])


@pytest.mark.parametrize(("measure", "plain"), [(Cca(), cca), (Svcca(), svcca), (Pwcca(), pwcca)])
def test_measure_equals_the_plain_function_and_finds_the_planted_pair(measure, plain):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(90, 5)) * [3, 2, 1, 1, 1], rng.normal(size=(90, 6))
    taps = {"a": x, "b": noise, "c": np.hstack([x[:, :4], rng.normal(size=(90, 3))]) + 3}
    result = measure.compute(run(**taps), None, 0)
    assert result.matrix.values == pytest.approx(
        np.array([[plain(one, other) for other in taps.values()] for one in taps.values()]), abs=1e-9
    )
    # The planted pair is beyond chance, both ways; the control is not.
    p = result.p.sel(tap="a")
    assert float(p.sel(tap_other="c")) == pytest.approx(1 / 20) == float(result.p.sel(tap="c", tap_other="a"))
    assert float(p.sel(tap_other="b")) > 0.1
    assert measure.symmetric == np.allclose(result.matrix, result.matrix.T, atol=1e-9)
    assert result.attrs["n"] == 90 and not measure.standard and "reason" not in result.attrs


@pytest.mark.parametrize("measure", [Cca(), Svcca(), Pwcca()])
def test_permuting_what_is_prepared_is_preparing_what_is_permuted(measure):
    x, y = map(torch.from_numpy, pair())
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    other = measure.prepare(y)
    result = measure.compare(measure.permute(measure.prepare(x), order), other)
    assert result == pytest.approx(measure.compare(measure.prepare(x[order]), other), abs=1e-12)
    assert abs(result - measure.compare(measure.prepare(x), other)) > 1e-3
    (shuffled,) = measure.shuffle([other], [measure.prepare(x)], iter([order]), False)
    assert shuffled[0, 0] == pytest.approx(measure.compare(other, measure.prepare(x[order])), abs=1e-5)


def test_a_tap_that_fills_half_of_the_sample_space_has_no_value_and_says_so():
    taps = {"wide": normal(30, 40), "half": normal(30, 15, seed=1), "low": normal(30, 2, seed=2) @ normal(2, 40)}
    taps |= {"flat": np.full((30, 3), 0.1) + normal(30, 3) * 1e-8, "fits": normal(30, 14, seed=3)}
    result = Cca().compute(run(**taps), None, 0)
    bad = np.array([True, True, False, True, False])
    assert (np.isnan(result.matrix.values) == (bad[:, None] | bad)).all()
    reasons = result.attrs["reason"].split("; ")
    assert [reason.split(":")[0] for reason in reasons] == ["wide", "half", "flat"]
    assert "29 directions" in reasons[0] and "more than 58 samples, or svcca" in reasons[0]
    assert "do not differ" in reasons[2]
    # SVCCA has one where few components hold the variance.
    steep = {"a": normal(30, 40) * np.geomspace(1, 1e-4, 40), "b": normal(30, 40, seed=1)}
    assert np.isfinite(Svcca().compute(run(**steep), None, 0).matrix.values).tolist() == [[True, False], [False, False]]


def test_the_reason_says_what_the_measure_reads_at_most():
    assert "(pwcca reads at most 1024)" in Pwcca().reason(torch.from_numpy(normal(1024, 520)))


@pytest.mark.parametrize("measure", [Cca(), Svcca(), Pwcca()])
def test_a_large_constant_feature_does_not_make_the_others_alike(measure):
    x, y = normal(60, 4) * 1e-3, normal(60, 3, seed=1)
    massive = np.hstack([x, np.full((60, 1), 5e3)])
    result, plain = (measure.compute(run(x=side, y=y), None, 0) for side in (massive, x))
    assert "reason" not in result.attrs
    assert result.matrix.values == pytest.approx(plain.matrix.values, abs=1e-9)
