"""Functionals of the spectrum, their run measures, and the intervals of measures without a target."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.geometry import (
    alpha_req,
    effective_rank,
    nesum,
    participation_ratio,
    rankme,
    stable_rank,
)
from diagnostics.measures.geometry.spectrum import (
    AlphaReq,
    EffectiveRank,
    NeSum,
    ParticipationRatio,
    RankMe,
    StableRank,
    influence,
    singular_values_and_parts,
    spectrum_of_products,
)
from diagnostics.measures.statistics import (
    bootstrap_mean_interval,
    group_blocks,
    influence_interval,
    jackknife_interval,
    subset_interval,
)
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

UNCENTRED = (rankme, effective_rank, stable_rank)
CENTRED = (nesum, participation_ratio)
MEASURES = [
    (RankMe(), rankme),
    (EffectiveRank(), effective_rank),
    (StableRank(), stable_rank),
    (NeSum(), nesum),
    (ParticipationRatio(), participation_ratio),
]


def with_singular_values(values, n, d, centred=False, seed=0):
    rng = np.random.default_rng(seed)
    lead = [np.ones((n, 1))] if centred else []
    u = np.linalg.qr(np.hstack([*lead, rng.normal(size=(n, len(values)))]))[0][:, len(lead) :]
    v = np.linalg.qr(rng.normal(size=(d, len(values))))[0]
    return u * np.asarray(values, dtype=float) @ v.T


def taps(groups=None, **arrays):
    return MemoryActivations({name: array[:, None] for name, array in arrays.items()}, groups=groups)


def test_rankme_in_closed_form():
    """Singular values, not eigenvalues and not centred: reptrix returned 1.3842 for (3, 1)."""
    assert rankme(np.diag([3.0, 1.0])) == pytest.approx(1.754765, abs=1e-5)
    assert rankme(with_singular_values((3, 1), 30, 2)) == pytest.approx(1.754765, abs=1e-5)
    # Zero singular values weigh exp(-d 1e-7 log 1e-7) together.
    assert rankme(with_singular_values((1,) * 7, 50, 9)) == pytest.approx(7, abs=1e-3)
    assert rankme(with_singular_values((1,) * 7, 9, 50)) == pytest.approx(7, abs=1e-3)


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_others_in_closed_form(shape):
    assert effective_rank(with_singular_values((3, 1), *shape)) == pytest.approx(1.754765, abs=5e-7)
    assert stable_rank(with_singular_values((2, 1, 1), *shape)) == pytest.approx(1.5, rel=1e-12)
    assert nesum(with_singular_values(np.sqrt((4, 2, 1, 1)), *shape, centred=True) + 1e4) == pytest.approx(2, abs=1e-6)
    for values, expected in (((9, 1), 1.219512), ((4, 2, 1, 1), 2.909091)):
        x = with_singular_values(np.sqrt(values), *shape, centred=True)
        assert participation_ratio(x + 1e4) == pytest.approx(expected, abs=1e-6)


def test_alpha_req_of_a_power_law():
    x = with_singular_values(np.arange(1, 121) ** (-1.3 / 2), 300, 130, centred=True)
    assert alpha_req(x) == pytest.approx(1.3, abs=1e-9)
    assert alpha_req(x + 1e3) == pytest.approx(1.3, abs=1e-6)
    assert alpha_req(x, ranks=(1, 120)) == pytest.approx(1.3, abs=1e-9)


def test_alpha_req_range_weights_and_repeats():
    """Weights 1 / i over ranks counted from 1; asking twice is the same (reptrix shifted its range at every call)."""
    x = np.random.default_rng(0).normal(size=(200, 30)) * np.arange(1, 31) ** -0.7
    rank = np.arange(3, 21)
    height = np.log(np.linalg.eigvalsh(np.cov(x.T))[::-1][2:20])
    # polyfit weighs residuals, not their squares.
    expected = -np.polyfit(np.log(rank), height, 1, w=rank**-0.5)[0]
    ranks = (3, 20)
    assert alpha_req(x, ranks=ranks) == pytest.approx(expected, rel=1e-10)
    assert alpha_req(x, ranks=ranks) == pytest.approx(expected, rel=1e-10)
    assert ranks == (3, 20)


def test_alpha_req_has_no_value_where_the_spectrum_ends_inside_the_range():
    x = np.random.default_rng(0).normal(size=(200, 30))
    assert np.isnan(alpha_req(x))
    assert np.isnan(alpha_req(x[:20], ranks=(3, 20)))
    assert np.isfinite(alpha_req(x[:21], ranks=(3, 20)))
    assert np.isnan(alpha_req(np.hstack([x[:, :5], x[:, :5]]), ranks=(2, 6)))
    for ranks in ((0, 5), (5, 5), (9, 2)):
        with refusal("bad-value", "ranks"):
            alpha_req(x, ranks=ranks)


def test_each_functional_is_its_formula():
    x = np.random.default_rng(0).normal(size=(50, 8)) * np.arange(1, 9) + 3
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / sigma.sum()
    q = p + 1e-7
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert rankme(x) == pytest.approx(np.exp(-(q * np.log(q)).sum()), rel=1e-12)
    assert effective_rank(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert stable_rank(x) == pytest.approx((np.linalg.norm(x) / np.linalg.norm(x, 2)) ** 2, rel=1e-12)
    assert nesum(x) == pytest.approx(values.sum() / values.max(), rel=1e-12)
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_rotation_scale_and_order_change_nothing_and_a_shift_only_what_is_not_centred(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5)) * [5, 2, 1, 1, 0.1] + 1
    turned = x @ np.linalg.qr(rng.normal(size=(5, 5)))[0] * scale
    for functional in (*UNCENTRED, *CENTRED, lambda z: alpha_req(z, ranks=(1, 5))):
        assert functional(turned) == pytest.approx(functional(x), rel=1e-9)
        assert functional(x[rng.permutation(20)]) == pytest.approx(functional(x), rel=1e-9)
    for functional in (*CENTRED, lambda z: alpha_req(z, ranks=(1, 5))):
        assert functional(x + 1e4) == pytest.approx(functional(x), rel=1e-6)
        assert functional(x * [10, 1, 1, 1, 1]) != pytest.approx(functional(x), rel=1e-3)
    for functional in UNCENTRED:
        assert functional(x + 1e4) == pytest.approx(1, abs=0.02)
        assert functional(x) > 1.1


def test_extremes_of_scale_and_shape():
    x = np.random.default_rng(0).normal(size=(30, 4))
    for functional in (*UNCENTRED, *CENTRED):
        for scale in (1e-160, 1e160):
            assert functional(x * scale) == pytest.approx(functional(x), rel=1e-9)
        with_constants = np.hstack([x, np.zeros((30, 2))])
        assert functional(with_constants) == pytest.approx(functional(x), rel=1e-5)
    for functional in CENTRED:
        assert functional(np.hstack([x, np.full((30, 2), 0.1)])) == pytest.approx(functional(x), rel=1e-12)
    for functional in UNCENTRED:
        assert functional(x[:1]) == pytest.approx(1, abs=1e-5)


def test_no_value_is_nan_and_bad_input_is_said():
    for functional in UNCENTRED:
        assert np.isnan(functional(np.zeros((5, 3))))
    for functional in (*CENTRED, alpha_req):
        # Ten times .1 do not add up to 1 in floating point; a difference from such a mean is no variance.
        assert np.isnan(functional(np.full((10, 3), 0.1)))
        with refusal("bad-shape", "(1, 3)", "2"):
            functional(np.ones((1, 3)))
    for functional in (*UNCENTRED, *CENTRED, alpha_req):
        with refusal("not-finite"):
            functional(np.array([[1.0, np.nan], [1, 2]]))
        with refusal("bad-shape", "(3,)"):
            functional(np.ones(3))


@pytest.mark.parametrize("shape", [(30, 6), (12, 20)])
@pytest.mark.parametrize(("measure", "plain"), MEASURES)
def test_influence_is_the_derivative_by_a_rows_weight(measure, plain, shape):
    """A row of weight 1 + e counts as one multiplied by the root of that, about the mean weighted alike."""
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(0.2, 2, shape[1]) + 1
    result = influence(measure.of_sigma, *singular_values_and_parts(torch.from_numpy(x), centred=measure.centred))
    assert float(result.sum()) == pytest.approx(0, abs=1e-6)
    for row in (0, 7):
        ends = []
        for step in (1e-4, -1e-4):
            weight = np.ones(len(x))
            weight[row] += step
            moved = x - weight @ x / weight.sum() if measure.centred else x
            sigma = np.linalg.svd(moved * np.sqrt(weight)[:, None], compute_uv=False)
            ends.append(float(measure.of_sigma(torch.from_numpy(sigma[: min(shape[0] - measure.centred, shape[1])]))))
        assert float(result[row]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("shape", [(60, 6), (30, 40)])
@pytest.mark.parametrize(("measure", "plain"), MEASURES)
def test_measure_equals_plain(measure, plain, shape):
    rng = np.random.default_rng(0)
    n, d = shape
    x = rng.normal(size=(n, d)) * np.linspace(0.1, 3, d) + 2
    groups = [f"g{i // 2}" for i in range(n)]
    result = measure.compute(taps(groups, a=x, b=x * 2), None, 5)
    assert result.score.values == pytest.approx([plain(x)] * 2, rel=1e-10)
    assert (result.low < result.score).all() and (result.score < result.high).all()
    assert result.line_ceiling[0].item() == min(n - measure.centred, d)
    noise = [plain(rng.normal(size=(n, d))) for _ in range(20)]
    assert result.line_noise[0].item() == pytest.approx(np.mean(noise), abs=5 * np.std(noise))
    assert (result.score < result.line_noise).all()
    assert result.attrs["n"] == n and result.attrs["reason"] == ""
    assert measure.higher_is_better is None


def test_groups_widen_the_interval():
    """Ten copies of a row in one group are one row."""
    x = np.random.default_rng(0).normal(size=(40, 4)) * [3, 2, 1, 1]
    once = ParticipationRatio().compute(taps(a=x), None, 0)
    copies = taps([f"g{i // 10}" for i in range(400)], a=np.repeat(x, 10, axis=0))
    result = ParticipationRatio().compute(copies, None, 0)
    for end in ("low", "score", "high"):
        assert result[end].item() == pytest.approx(once[end].item(), rel=1e-9)
    blind = ParticipationRatio().compute(taps(a=np.repeat(x, 10, axis=0)), None, 0)
    assert blind.high.item() - blind.low.item() < 0.4 * (once.high.item() - once.low.item())


def test_spectrum_points_at_the_planted_collapse():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(200, 30))
    flat = wide @ np.diag([1.0] * 3 + [0.01] * 27)
    turned = 5 * wide @ np.linalg.qr(rng.normal(size=(30, 30)))[0]
    for measure, _ in MEASURES:
        result = measure.compute(taps(wide=wide, flat=flat, turned=turned), None, 0).score.values
        assert result[1] < result[0] / 3
        assert result[2] == pytest.approx(result[0], rel=1e-9)
    decay = np.arange(1, 121)
    result = AlphaReq().compute(
        taps(slow=rng.normal(size=(600, 120)) * decay**-0.2, fast=rng.normal(size=(600, 120)) * decay**-1.0), None, 0
    )
    assert result.high[0].item() < result.low[1].item()


def test_measure_reads_the_first_pooling_and_says_what_has_no_value():
    x = np.random.default_rng(0).normal(size=(20, 3, 4))
    result = ParticipationRatio().compute(MemoryActivations({"a": x}, poolings=("last", "mean")), None, 0)
    assert result.score.item() == pytest.approx(participation_ratio(x[:, -1]))
    assert result.attrs["pooling"] == "last"
    short = AlphaReq().compute(MemoryActivations({"a": x}), None, 0)
    assert np.isnan(short.score.item()) and "a: 4 eigenvalues" in short.attrs["reason"]
    flat = ParticipationRatio().compute(MemoryActivations({"a": np.ones((9, 1, 2)), "b": x[:9, :1]}), None, 0)
    assert np.isnan(flat.score[0].item()) and flat.attrs["reason"] == "a: all samples are equal"
    one = RankMe().compute(MemoryActivations({"a": x}, groups=["g"] * 20), None, 0)
    assert np.isfinite(one.score.item()) and np.isnan(one.low.item()) and "one group" in one.attrs["reason"]
    x[3, 0, 0] = np.nan
    with refusal("not-finite", "Tap a", "rankme"):
        RankMe().compute(MemoryActivations({"a": x}), None, 0)


@pytest.mark.parametrize("per_group", [1, 4])
@pytest.mark.parametrize("measure", [RankMe(), ParticipationRatio(), NeSum()])
def test_interval_covers(measure, per_group):
    """The mean of the statistic at this n, over independent groups of like samples."""
    values, lows, highs = [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.normal(size=(200 // per_group, 5)), per_group, axis=0) * (per_group > 1)
        x = (shared + rng.normal(size=(200, 5))) * [3, 2, 1, 1, 0.5] + 0.5
        result = measure.compute(taps([f"g{i // per_group}" for i in range(200)], a=x), None, 0)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    inside = ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean()
    assert 0.89 <= inside <= 0.995
    assert np.mean(np.subtract(highs, lows)) == pytest.approx(2 * 2 * np.std(values), rel=0.2)


def test_jackknife_of_a_mean_is_the_textbook_interval():
    values = np.random.default_rng(0).normal(10, 1, size=20)
    left_out = np.array([np.delete(values, i).mean() for i in range(20)])
    spread = values.std(ddof=1) / np.sqrt(20) * 2.0930241
    low, high = jackknife_interval(values.mean(), left_out, np.ones(20), logarithm=False)
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), rel=1e-7)
    low, high = jackknife_interval(values.mean(), left_out, np.ones(20))
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), rel=0.005)
    assert np.isnan(jackknife_interval(1.0, np.array([1.0]), np.array([3]))).all()
    assert np.isnan(jackknife_interval(1.0, np.array([1.0, -1.0]), np.array([3, 3]))).all()
    assert np.isfinite(jackknife_interval(1.0, np.array([1.0, -1.0]), np.array([3, 3]), logarithm=False)).all()


def test_linearised_interval_of_a_mean_is_the_textbook_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(10, 1, size=20)
    influences = (values - values.mean()) / 20
    names = np.arange(20).astype(str)
    spread = values.std(ddof=1) / np.sqrt(20) * 2.0930241
    low, high = influence_interval(values.mean(), influences, names, logarithm=False)
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), rel=1e-7)
    low, high = influence_interval(values.mean(), influences, names)
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), rel=0.005)
    # Rows of a group add up before they are squared.
    doubled = influence_interval(10.0, np.repeat(influences, 2) / 2, np.repeat(names, 2), logarithm=False)
    assert doubled == pytest.approx(influence_interval(10.0, influences, names, logarithm=False))
    assert np.isnan(influence_interval(1.0, np.zeros(3), np.array(["g"] * 3))).all()
    assert np.isnan(influence_interval(float("nan"), np.zeros(3), np.arange(3))).all()


def test_subset_interval():
    parts = np.exp([0.1, -0.1, 0.3, 0.0])
    reach = 3.1824463 * np.log(parts).std(ddof=1) / 2
    assert subset_interval(2.0, parts) == pytest.approx((2 * np.exp(-reach), 2 * np.exp(reach)), rel=1e-6)
    assert subset_interval(2.0, np.append(parts, np.nan)) == pytest.approx(subset_interval(2.0, parts))
    assert np.isnan(subset_interval(2.0, parts[:1])).all()


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("measure", [RankMe, EffectiveRank, StableRank])
@pytest.mark.parametrize("decades", [1, 2, 4, 6, 8, 10, "half of them 0"])
def test_products_give_the_spectrum_or_say_that_they_cannot(decades, measure, shape):
    rng = np.random.default_rng(0)
    count = min(shape)
    half = np.pad(np.linspace(2, 1, count // 2), (0, count // 2))
    sigma = half if isinstance(decades, str) else np.logspace(0, -decades, count)
    left, right = (np.linalg.qr(rng.standard_normal((size, count)))[0] for size in shape)
    x = torch.from_numpy(left * sigma @ right.T) * 1e-100
    exact = float(measure.of_sigma(torch.from_numpy(sigma)))
    found = spectrum_of_products(measure.of_sigma, x, centred=False)
    if found is not None:
        assert float(measure.of_sigma(found[0])) == pytest.approx(exact, rel=1e-6)
        of_rows = influence(measure.of_sigma, *singular_values_and_parts(x, centred=False))
        np.testing.assert_allclose(influence(measure.of_sigma, *found), of_rows, rtol=1e-5, atol=1e-6)
    # What reads the largest alone is not disturbed by the small ones.
    if decades in (1, 2, 4) or measure is StableRank:
        assert found is not None
    if decades == 10 and measure is not StableRank:
        assert found is None
    assert measure().read(x)[0] == pytest.approx(exact, rel=1e-6)


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


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (30, 30)])
def test_the_participation_ratio_is_that_of_the_spectrum_and_so_is_each_samples_influence(
    shape: tuple[int, int],
) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape) * np.linspace(0.1, 3, shape[1]) + 7)
    measure = ParticipationRatio()
    score, by_sample, lacks = measure.read(x)
    sigma, parts = singular_values_and_parts(x, centred=True)
    assert score == pytest.approx(float(measure.of_sigma(sigma)), rel=1e-12)
    np.testing.assert_allclose(by_sample, influence(measure.of_sigma, sigma, parts), rtol=1e-9, atol=1e-12)
    assert lacks == ""
