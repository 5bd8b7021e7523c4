import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.geometry.spectrum import ParticipationRatio, RankMe, participation_ratio, rankme
from diagnostics.measures.intervals import bootstrap_mean_interval, group_blocks, jackknife_log_interval

from memory import MemoryActivations


def with_singular_values(values, n, d, centred=False, seed=0):
    rng = np.random.default_rng(seed)
    lead = [np.ones((n, 1))] if centred else []
    u = np.linalg.qr(np.hstack([*lead, rng.normal(size=(n, len(values)))]))[0][:, len(lead) :]
    v = np.linalg.qr(rng.normal(size=(d, len(values))))[0]
    return u * np.asarray(values, dtype=float) @ v.T


def test_rankme_known_answers():
    assert rankme(np.diag([3.0, 1.0])) == pytest.approx(1.754765, abs=1e-5)
    assert rankme(with_singular_values((3, 1), 30, 2)) == pytest.approx(1.754765, abs=1e-5)
    # Zero singular values weigh exp(-d 1e-7 log 1e-7) together.
    assert rankme(with_singular_values((1,) * 7, 50, 9)) == pytest.approx(7, abs=1e-3)
    assert rankme(with_singular_values((1,) * 7, 9, 50)) == pytest.approx(7, abs=1e-3)


def test_rankme_is_the_papers_formula_uncentred():
    z = np.random.default_rng(0).normal(size=(40, 6)) + 5
    s = np.linalg.svd(z, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert rankme(z) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert rankme(z - z.mean(axis=0)) > rankme(z) + 1


@pytest.mark.parametrize(("values", "expected"), [((9, 1), 1.219512), ((4, 2, 1, 1), 2.909091)])
@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_participation_ratio_known_answers(values, expected, shape):
    x = with_singular_values(np.sqrt(values), *shape, centred=True)
    assert participation_ratio(x + 1e4) == pytest.approx(expected, abs=1e-6)


def test_participation_ratio_reads_eigenvalues_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9) + 3
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000))
def test_rotation_and_scale_change_nothing(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5)) * [5, 2, 1, 1, 0.1] + 1
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * scale
    for functional in (rankme, participation_ratio):
        assert functional(turned) == pytest.approx(functional(x), rel=1e-9)
        assert functional(x[rng.permutation(20)]) == pytest.approx(functional(x), rel=1e-9)
    assert participation_ratio(x + 100) == pytest.approx(participation_ratio(x), rel=1e-9)


def test_no_value_is_nan_and_bad_input_is_said():
    assert np.isnan(rankme(np.zeros((5, 3))))
    # Ten times .1 do not add up to 1 in floating point; a difference from such a mean is no variance.
    assert np.isnan(participation_ratio(np.full((10, 3), 0.1)))
    with pytest.raises(DiagnosticsError, match=r"shape \(1, 3\).*at least 2"):
        participation_ratio(np.ones((1, 3)))
    with pytest.raises(DiagnosticsError, match="NaN"):
        rankme(np.array([[1.0, np.nan]]))


def test_jackknife_of_a_mean_is_the_textbook_interval():
    values = np.random.default_rng(0).normal(10, 1, size=20)
    left_out = np.array([np.delete(values, i).mean() for i in range(20)])
    low, high = jackknife_log_interval(values.mean(), left_out, np.ones(20))
    spread = values.std(ddof=1) / np.sqrt(20) * 2.0930241
    assert low == pytest.approx(values.mean() - spread, rel=0.005)
    assert high == pytest.approx(values.mean() + spread, rel=0.005)
    assert np.isnan(jackknife_log_interval(1.0, np.array([1.0]), np.array([3]))).all()


def test_blocks_keep_groups_whole():
    groups = np.array([f"g{i // 3}" for i in range(100)], dtype=object)
    blocks = group_blocks(groups, 20, 0)
    assert len(set(blocks)) == 20
    assert all(len(set(blocks[groups == g])) == 1 for g in set(groups))
    assert len(set(group_blocks(groups[:6], 20, 0))) == 2


def test_bootstrap_resamples_groups():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=40)
    values = np.repeat(effect, 25)[:, None]
    groups = np.repeat([f"g{i}" for i in range(40)], 25)
    low, high = bootstrap_mean_interval(values, groups, 0)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * effect.std() / np.sqrt(40), rel=0.1)
    narrow = bootstrap_mean_interval(values, np.arange(1000).astype(str), 0)
    assert narrow[1][0] - narrow[0][0] < (high[0] - low[0]) / 3
    assert np.isnan(bootstrap_mean_interval(values[:25], groups[:25], 0)).all()


@pytest.mark.parametrize("shape", [(60, 6), (30, 40), (41, 40)])
@pytest.mark.parametrize(("measure", "plain"), [(RankMe(), rankme), (ParticipationRatio(), participation_ratio)])
def test_measure_equals_plain_and_its_downdates_equal_leaving_out(measure, plain, shape):
    rng = np.random.default_rng(0)
    n, d = shape
    x = rng.normal(size=(n, 1, d)) * np.linspace(0.1, 3, d) + 2
    groups = np.array([f"g{i // 2}" for i in range(n)], dtype=object)
    found = measure.compute(MemoryActivations({"a": x, "b": x * 2}, groups=groups), None, 5)
    assert found.score.values == pytest.approx([plain(x[:, 0])] * 2, rel=1e-12)
    blocks = group_blocks(groups, 20, 5)
    numbers, sizes = np.unique(blocks, return_counts=True)
    left_out = np.array([plain(x[blocks != b, 0]) for b in numbers])
    expected = jackknife_log_interval(plain(x[:, 0]), left_out, sizes)
    assert (found.low[0].item(), found.high[0].item()) == pytest.approx(expected, rel=1e-4)
    assert found.attrs["n"] == n
    assert measure.higher_is_better is None
    assert found.ceiling[0].item() == min(n - (measure.name == "participation_ratio"), d)


def test_measure_reads_the_first_pooling_and_names_the_tap():
    x = np.random.default_rng(0).normal(size=(20, 3, 4))
    found = ParticipationRatio().compute(MemoryActivations({"a": x}, poolings=("last", "mean")), None, 0)
    assert found.score.item() == pytest.approx(participation_ratio(x[:, -1]))
    assert found.attrs["pooling"] == "last"
    x[3, 0, 0] = np.nan
    with pytest.raises(DiagnosticsError, match="Tap a for rankme"):
        RankMe().compute(MemoryActivations({"a": x}), None, 0)


def test_interval_covers():
    """The population value of Gaussian rows is near that of a very large sample; n is large beside d."""
    scales = np.array([3.0, 2, 1, 1, 0.5])
    truth = (scales**2).sum() ** 2 / (scales**4).sum()
    inside = 0
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=(400, 1, 5)) * scales
        found = ParticipationRatio().compute(MemoryActivations({"a": x}), None, seed)
        inside += bool(found.low.item() <= truth <= found.high.item())
    assert 86 <= inside <= 100
