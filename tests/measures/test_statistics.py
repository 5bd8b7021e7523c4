"""Intervals and selection: coverage by simulation, and no hidden gap where all taps are equally good."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from diagnostics.measures.probes import RidgePath
from diagnostics.measures.statistics import (
    OUTLYING,
    Interval,
    Losses,
    effective_units,
    heaviest_units,
    interval,
    jackknife_interval,
    profile_intervals,
    rank_correlation,
    resample_counts,
    resample_scores,
    scores,
)
from diagnostics.measures.tap_choice import choose_tap
from diagnostics.measures.verdict import largest_upper_end, paired_differences


def test_score_is_r2_and_accuracy() -> None:
    rng = np.random.default_rng(0)
    y, guess = rng.standard_normal((2, 50))
    r2 = 1 - ((y - guess) ** 2).sum() / ((y - 0.3) ** 2).sum()
    assert scores((y - guess)[None] ** 2, (y - 0.3)[None] ** 2)[0] == pytest.approx(r2, abs=1e-12)
    wrong = np.array([[0, 1, 1, 0, 0.0]])
    assert scores(wrong, np.ones((1, 5)))[0] == pytest.approx(0.6)


def test_resampling_draws_units_not_rows() -> None:
    counts = resample_counts(7, 0)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.var(axis=0).mean() == pytest.approx(1 - 1 / 7, rel=0.1)


@pytest.mark.parametrize("units", [300, 9000])
def test_blocks_of_resamples_are_those_of_one_draw_and_bounded_in_memory(units: int) -> None:
    rng = np.random.default_rng(4)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=60)
    np.testing.assert_array_equal(resample_counts(units, 4, 60), drawn)
    loss = np.random.default_rng(0).integers(0, 2, (3, units)).astype(float)
    tracemalloc.start()
    replicates = Losses(loss, np.ones_like(loss)).resample(4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(replicates[:60], 1 - drawn @ loss.T / units, rtol=1e-12)
    assert peak < 20e6


def test_interval_of_a_mean_is_near_the_t_interval() -> None:
    """An oracle: for the mean of normal values the expanded percentile interval approximates Student's."""
    values = np.random.default_rng(1).standard_normal(15)
    replicates = resample_counts(15, 0) @ values / 15
    low, high = interval(values.mean(), replicates, 15)
    t = stats.t.interval(0.95, 14, values.mean(), stats.sem(values))
    assert low == pytest.approx(t[0], abs=0.12)
    assert high == pytest.approx(t[1], abs=0.12)
    plain = np.quantile(replicates, [0.025, 0.975])
    assert high - low > plain[1] - plain[0]


def test_one_unit_has_no_interval() -> None:
    _, low, high = profile_intervals(np.ones((2, 1)), np.full((2, 1), 4.0), 10, 0)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_coverage_of_a_score_interval() -> None:
    """R2 of a fixed readout with known population value 0.75, 60 test units: the interval holds it in about 95 %."""
    rng, held, runs = np.random.default_rng(2), 0, 400
    for run in range(runs):
        signal, noise = rng.standard_normal((2, 60))
        y = np.sqrt(3) * signal + noise
        _, low, high = profile_intervals((noise**2)[None], (y**2)[None], 10**9, run)
        held += low[0] <= 0.75 <= high[0]
    assert 0.92 <= held / runs <= 0.99


@pytest.mark.parametrize("units", [2, 16, 80])
def test_a_share_at_the_border_has_the_exact_end(units: int) -> None:
    """An oracle: scipy's Clopper-Pearson interval for n of n and 0 of n; nothing fitted, so nothing is spread."""
    loss, reference = np.stack([np.zeros(units), np.ones(units)]), np.ones((2, units))
    score, low, high = profile_intervals(loss, reference, 0, 0, share=True)
    np.testing.assert_array_equal(score, [1, 0])
    for i, right in enumerate((units, 0)):
        exact = stats.binomtest(right, units).proportion_ci(0.95, "exact")
        assert (low[i], high[i]) == pytest.approx((exact.low, exact.high))
    # Units of many samples count once each.
    many = profile_intervals(5 * loss, 5 * reference, 0, 0, share=True)
    np.testing.assert_allclose(many, (score, low, high))
    # Spread for the training set's share, never beyond the other border.
    spread = profile_intervals(loss, reference, 4 * units, 0, share=True)
    assert 1 - spread[1][0] == pytest.approx(min(np.sqrt(1.25) * (1 - low[0]), 1))
    assert spread[2][1] == pytest.approx(1 - spread[1][0])


@pytest.mark.parametrize("right", range(5))
def test_ends_of_a_share_and_of_a_difference_of_two_stop_at_their_bounds(right: int) -> None:
    """Of 4 units, whose ends are widened by what was fitted on few."""
    wrong = np.stack([np.arange(4) >= right, np.arange(4) < right]).astype(float)
    for losses in (wrong, np.stack([wrong, 0 * wrong], axis=2)):
        sides = Losses(losses, np.ones_like(losses), counts=True)
        score, low, high = sides.intervals(3, 0)
        assert (low >= 0).all() and (high <= 1).all() and (low <= score).all()
        gap = paired_differences(sides.at([0]), sides.at([1]), 3, 0)[0]
        assert -1 <= gap.low <= gap.value <= gap.high <= 1
    # Squared errors have no lower bound.
    assert profile_intervals(np.array([[0.0, 1.0, 1.0, 2.0]]), np.ones((1, 4)), 3, 0)[1][0] < 0


def test_what_is_no_share_has_the_bootstraps_interval() -> None:
    _, low, high = profile_intervals(np.zeros((1, 20)), np.ones((1, 20)), 60, 0)
    assert (low[0], high[0]) == (1, 1)
    _, low, _ = profile_intervals(np.zeros((1, 1)), np.ones((1, 1)), 3, 0, share=True)
    assert np.isnan(low[0]), "one unit has no interval"
    # Far from the border half a unit more of each kind changes next to nothing.
    wrong = np.resize([0.0, 0.0, 1.0], (1, 300))
    plain, share = (profile_intervals(wrong, np.ones((1, 300)), 1200, 0, share) for share in (False, True))
    np.testing.assert_allclose(plain, share, atol=0.004)
    assert share[2][0] - share[1][0] < 1.02 * (plain[2][0] - plain[1][0])


@pytest.mark.parametrize(("parts", "units"), [(1, 60), (3, 20), (12, 5)])
def test_equal_parts_that_are_all_right_are_as_sure_as_their_units_together(parts: int, units: int) -> None:
    """An oracle: the interval of Jeffreys for n of n units, n = parts x units, in scipy's beta distribution."""
    reference = np.kron(np.eye(parts), np.ones((units, 1)))[None]
    drawn = resample_scores(0 * reference, reference, resample_counts(parts * units, 0), 0, share=True)[:, 0]
    # What a resample lacks at random (a part of 5 units has 3 or 7 in one) spreads the draws a little more.
    for level in (0.025, 0.1, 0.5):
        short = 1 - stats.beta(parts * units + 0.5, 0.5).ppf(level)
        assert 1 - np.quantile(drawn, level) == pytest.approx(short, rel=0.25)


def classes(
    rng: np.random.Generator, draws: int, counts: tuple[int, ...], right: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Wrong answers and units [draw, unit, class] each, of classes with so many units and such a recall."""
    units = np.broadcast_to(np.repeat(np.eye(len(counts)), counts, axis=0), (draws, sum(counts), len(counts)))
    return (rng.random(units.shape) > right) * units, units


@pytest.mark.parametrize("counts", [(190, 10), (72, 8), (21, 4)])
def test_coverage_of_a_mean_over_classes_of_which_one_is_rare(counts: tuple[int, int]) -> None:
    """Balanced accuracy .925, recalls .95 and .9.

    Where all units of the rare class are right (.35 to .66 of draws) the bootstrap sees no variance there, and covered
    .64, .68 and .77.
    """
    draws = 500
    wrong, units = classes(np.random.default_rng(0), draws, counts, (0.95, 0.9))
    score, low, high = profile_intervals(wrong, units, 4 * sum(counts), 0, share=True)
    held = ((low <= 0.925) & (high >= 0.925)).mean()
    assert held >= 0.93
    assert (low <= score).all()
    assert (score <= high).all()
    assert (high[score == 1] == 1).all()
    if counts[1] == 4:
        assert (low[score == 1] < 0.9).all() and (score == 1).sum() > 10


def test_intervals_of_shares_are_not_wider_for_nothing() -> None:
    """Where no class is rare and none near its border: .95 without the training set's share, .972 with it."""
    draws = 800
    wrong, units = classes(np.random.default_rng(1), draws, (60, 60), (0.8, 0.7))
    for fit, level in ((0, 0.95), (480, 0.972)):
        _, low, high = profile_intervals(wrong, units, fit, 0, share=True)
        held = ((low <= 0.75) & (high >= 0.75)).mean()
        assert abs(held - level) <= 3 * np.sqrt(level * (1 - level) / draws)
        _, plain_low, plain_high = profile_intervals(wrong, units, fit, 0)
        assert np.median(high - low) < 1.02 * np.median(plain_high - plain_low)


@pytest.mark.parametrize("units", [50, 80])
def test_coverage_of_accuracy_near_1_where_samples_come_in_groups(units: int) -> None:
    """Five samples a unit that go together (correlation .3), accuracy .98: the bootstrap alone covered .90 and .91."""
    draws, rng = 1000, np.random.default_rng(2)
    right = rng.binomial(5, rng.beta(0.98 * 7 / 3, 0.02 * 7 / 3, (draws, units)))
    reference = np.full((draws, units), 5.0)
    _, low, high = profile_intervals(reference - right, reference, 4 * units, 0, share=True)
    assert ((low <= 0.98) & (high >= 0.98)).mean() >= 0.93
    # Answers that do not go together are worth more: the interval of as many single samples is no wider.
    alone = 5.0 - rng.binomial(5, 0.95, (200, units))
    _, low, high = profile_intervals(alone, reference[:200], 0, 0, share=True)
    single = 1.96 * np.sqrt(0.95 * 0.05 / (5 * units))
    assert np.median(high - low) < 1.3 * 2 * single


def test_a_class_of_2_1_or_no_unit_of_test() -> None:
    widths = []
    for held in (4, 2, 1):
        wrong, units = np.zeros((2, 1, 24 + held, 2))
        wrong[0, :3, 0], units[0, :24, 0], units[0, 24:, 1] = 1, 1, 1
        score, low, high = profile_intervals(wrong, units, 0, 0, share=True)
        assert score[0] == pytest.approx(1 - 3 / 24 / 2)
        assert low[0] < 0.85 < score[0] < high[0] <= 1
        widths.append(high[0] - low[0])
    assert widths == sorted(widths)
    # A class that is nowhere counts nothing; classes of one unit each leave no interval.
    nowhere = (
        np.concatenate([wrong, np.zeros((1, 25, 1))], axis=2),
        np.concatenate([units, np.zeros((1, 25, 1))], axis=2),
    )
    for plain, more in zip(profile_intervals(wrong, units, 0, 0), profile_intervals(*nowhere, 0, 0), strict=True):
        np.testing.assert_array_equal(plain, more)
    assert np.isfinite(profile_intervals(*nowhere, 0, 0, share=True)).all()
    assert np.isnan(profile_intervals(np.zeros((1, 3, 3)), np.eye(3)[None], 0, 0, share=True)[1:]).all()


def test_two_taps_that_agree_on_few_units_are_not_shown_to_be_alike() -> None:
    """Accuracies .95 and .85 of 16 units: in a seventh of draws they agree on all, and the bootstrap says 0 [0, 0]."""
    rng, draws = np.random.default_rng(5), 400
    missed, plain, wrongly = 0, 0, 0
    ones = np.ones((1, 16))
    for _ in range(draws):
        shared = rng.standard_normal(16) * np.sqrt(0.7)
        one, other, alike = shared + rng.standard_normal((3, 16)) * np.sqrt(0.3)
        wrong = [(x > stats.norm.ppf(p)).astype(float) for x, p in ((one, 0.95), (other, 0.85), (alike, 0.85))]
        first, second, third = (Losses(x[None], ones, counts=True) for x in wrong)
        (gap,) = paired_differences(first, second, 64, 0)
        missed += not gap.low <= 0.1 <= gap.high
        (gap,) = paired_differences(Losses(wrong[0][None], ones), Losses(wrong[1][None], ones), 64, 0)
        plain += not gap.low - 1e-9 <= 0.1 <= gap.high + 1e-9
        (gap,) = paired_differences(second, third, 64, 0)
        wrongly += not gap.low <= 0 <= gap.high
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / draws)
    assert missed / draws <= limit
    assert wrongly / draws <= limit
    assert plain / draws > 0.1, "the test would not notice that agreement is taken for certainty"


def test_coverage_of_a_share_near_the_border() -> None:
    """20 units, true accuracy .97: without the exact end the interval fails whenever all are right, so in .54 of runs."""
    rng, runs, covered, plain = np.random.default_rng(4), 400, 0, 0
    reference = np.ones((1, 20))
    for run in range(runs):
        wrong = rng.binomial(1, 0.03, (1, 20)).astype(float)
        _, low, high = profile_intervals(wrong, reference, 0, run, share=True)
        covered += bool(low[0] <= 0.97 <= high[0])
        _, low, high = profile_intervals(wrong, reference, 0, run)
        plain += bool(low[0] <= 0.97 <= high[0])
    assert covered / runs > 0.95
    assert plain / runs < 0.55


def test_parts_are_averaged_and_one_that_is_nowhere_does_not_count() -> None:
    # Intersection over union of two classes from two images, a third class that is in neither.
    union = np.array([[[4.0, 4.0, 0.0], [2.0, 6.0, 0.0]]])
    both = np.array([[[3.0, 1.0, 0.0], [0.0, 5.0, 0.0]]])
    assert scores(union - both, union)[0] == pytest.approx((3 / 6 + 6 / 10) / 2)
    assert np.isnan(scores(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)))[0])
    # A tap that could not be probed has no score, whatever its reference.
    assert np.isnan(scores(np.full((1, 2, 3), np.nan), union)[0])
    one_part = np.random.default_rng(0).random((2, 2, 5, 1))
    np.testing.assert_allclose(scores(*one_part), scores(one_part[0, ..., 0], one_part[1, ..., 0]))


def test_effective_units_are_those_that_hold_the_rarest_part() -> None:
    assert effective_units(np.ones((3, 20))) == pytest.approx(20)
    everywhere = np.ones((1, 25, 2))
    assert effective_units(everywhere) == pytest.approx(49)  # two independent means of 25: 48 degrees of freedom
    rare = everywhere.copy()
    rare[0, 4:, 1] = 0
    assert effective_units(rare) == pytest.approx((1 / 25 + 1 / 4) ** 2 / (1 / 25**2 / 24 + 1 / 4**2 / 3) + 1)
    assert effective_units(np.array([[0.0, 1.0, 0.0]])) == 0


def test_coverage_where_one_part_lies_in_few_units() -> None:
    rng = np.random.default_rng(0)
    covered, plain, runs = 0, 0, 300
    for run in range(runs):
        count = rng.poisson(4, size=(1, 25, 2)).astype(float)
        count[..., 1] = rng.binomial(1, 0.2, size=(1, 25))
        wrong = rng.binomial(count.astype(int), np.array([0.2, 0.4])).astype(float)
        score, low, high = profile_intervals(wrong, count, 0, run)
        covered += bool(low[0] <= 0.7 <= high[0])
        ends = interval(score, scores(wrong, count, resample_counts(25, run)), 25)
        plain += bool(ends[0][0] <= 0.7 <= ends[1][0])
    # 300 runs: a standard error of .013 at .95. Counting all 25 units is what this guards against.
    assert covered / runs > 0.89
    assert plain / runs < covered / runs - 0.04


def test_what_the_few_carry() -> None:
    loss = np.ones(100)
    loss[[3, 50, 51, 70, 99]] = 20
    assert heaviest_units(loss) == (5, pytest.approx(100 / 195))
    # Parts count alike, whatever their units; one that is nowhere does not count.
    parts = np.stack([loss, np.full(100, 7.0), np.zeros(100)], axis=1)
    assert heaviest_units(parts) == (5, pytest.approx((100 / 195 + 5 / 100) / 2))
    for unknown in (loss[:39], np.zeros(100), np.where(loss > 1, np.nan, 1.0)):
        assert np.isnan(heaviest_units(unknown)[1])


def test_a_draw_without_a_reference_is_left_out() -> None:
    loss, reference = np.array([[0.0, 0.5, 0.2, 0.1]]), np.array([[0.0, 1.0, 1.0, 0.0]])
    score, low, high = profile_intervals(loss, reference, 10, 0)
    assert score[0] == pytest.approx(1 - 0.8 / 2)
    assert low[0] < score[0] < high[0]


def test_gaps_are_paired() -> None:
    shared = np.random.default_rng(3).uniform(0, 1, 80)
    sides = Losses(np.stack([shared * 0.5, shared * 0.9, shared]), np.ones((3, 80)))
    gaps = paired_differences(sides.at([0, 1]), sides.at([2]), 10**9, 0)
    assert [gap.value for gap in gaps] == pytest.approx([0.5 * shared.mean(), 0.1 * shared.mean()])
    # The units vary far more than the difference between taps: only a paired interval excludes 0.
    assert gaps[1].low > 0
    score, low, _ = profile_intervals(sides.loss[[1]], sides.reference[[1]], 10**9, 0)
    assert low[0] < score[0] - gaps[1].value


def test_the_bound_of_all_gaps_is_the_largest_upper_end_and_not_below_0() -> None:
    below, wide, unknown = Interval(-0.5, -0.6, -0.4), Interval(-0.1, -0.4, 0.2), Interval(0.3, np.nan, np.nan)
    assert largest_upper_end([below, wide]) == 0.2
    assert largest_upper_end([below]) == 0, "the output itself is a tap"
    assert largest_upper_end([wide, Interval(np.nan, np.nan, np.nan)]) == 0.2, "a tap without a score has no gap"
    assert np.isnan(largest_upper_end([wide, unknown])) and np.isnan(largest_upper_end([]))


@pytest.mark.slow
def test_the_bound_is_below_the_largest_gap_in_at_most_2_5_percent_of_draws() -> None:
    """Taps whose gaps are 0 but one, which is .1; which tap is best on 20 other units is often another."""
    rng = np.random.default_rng(0)
    runs, wrong, naive = 400, 0, 0
    gaps = np.array([0.1, *[0.0] * 10])
    for run in range(runs):
        losses = []
        for units in (20, 80):
            shared, own = rng.standard_normal((1, units)), rng.standard_normal((12, units))
            scale = np.sqrt(0.5 * (1 - np.append(gaps, 0) / 0.5))[:, None]
            losses.append(Losses((scale * (0.8 * shared + 0.6 * own)) ** 2, np.ones((12, units))))
        val, test = losses
        found = paired_differences(test.at(range(11)), test.at([11]), 0, run)
        wrong += largest_upper_end(found) < 0.1
        naive += found[int(val.scores[:-1].argmax())].high < 0.1
    # 2.5 % and two standard errors of so many runs.
    assert wrong / runs <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / runs)
    assert naive / runs > 0.1, "the test would not notice a bound by the gap of one tap"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lognormal", "classes"])
def test_the_bound_is_below_the_gap_of_two_taps_in_at_most_2_5_percent_of_draws(kind: str) -> None:
    """The hardest case: one tap beside the output, .05 better, whose errors on a unit go together (.9)."""
    rng, runs, wrong, plain = np.random.default_rng(1), 1500, 0, 0
    scores_of, counts = np.array([0.65, 0.6])[:, None], kind == "classes"
    for _ in range(runs):
        shared, own = rng.standard_normal((2, 1, 30)), rng.standard_normal((2, 2, 30))
        error, scale = np.sqrt(0.9) * shared + np.sqrt(0.1) * own
        square = error**2 * np.exp(scale - 0.5) * (1 - scores_of)
        loss = (error > stats.norm.ppf(scores_of)).astype(float) if counts else square
        sides = Losses(loss, np.broadcast_to(np.ones(30) if counts else rng.chisquare(1, 30), loss.shape), counts)
        pair = sides.at([0]), sides.at([1]), 120, 0
        wrong += largest_upper_end(paired_differences(*pair, student=True)) < 0.05
        plain += paired_differences(*pair)[0].high < 0.05
    limit = 0.025 + 2 * np.sqrt(0.025 * 0.975 / runs)
    assert wrong / runs <= limit
    assert plain / runs > limit, "the test would not notice that the bound is the bootstrap's alone"


# The winner's curse: 12 taps that carry the same signal with the same noise, through the whole protocol.
TAPS, RUNS, WIDTH, SIGNAL = 12, 120, 24, 6


def equal_taps(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, list[np.ndarray]]:
    """y [n] and features [n, WIDTH] of each tap: rotations of one signal, each with noise of its own."""
    latent = rng.standard_normal((n, SIGNAL))
    y = latent @ np.full(SIGNAL, 1 / np.sqrt(SIGNAL)) + 0.5 * rng.standard_normal(n)
    taps = []
    for _ in range(TAPS):
        turn = np.linalg.qr(rng.standard_normal((WIDTH, SIGNAL)))[0].T
        taps.append(2 * latent @ turn + rng.standard_normal((n, WIDTH)))
    return y, taps


def probe(y: np.ndarray, taps: list[np.ndarray], penalties: tuple[float, ...]) -> tuple[Losses, Losses]:
    """Losses on val and on test: fit on 60 %, choose on 20 %, refit, read once on 20 %."""
    train, val, fit, test = (slice(0, 120), slice(120, 160), slice(0, 160), slice(160, 200))
    chosen, loss = [], []
    for x in taps:
        tried = RidgePath.from_data(x[train], y[train, None]).predict(x[val], penalties)[..., 0]
        errors = (tried - y[val]) ** 2
        best = int(errors.mean(axis=1).argmin())
        chosen.append(errors[best])
        again = RidgePath.from_data(x[fit], y[fit, None]).predict(x[test], (penalties[best],))
        loss.append((again[0, :, 0] - y[test]) ** 2)
    references = ((y[rows] - y[of].mean()) ** 2 for rows, of in ((val, train), (test, fit)))
    on_val, on_test = (
        Losses(np.array(each), np.tile(reference, (TAPS, 1)))
        for each, reference in zip((chosen, loss), references, strict=True)
    )
    return on_val, on_test


def test_equal_taps_show_a_hidden_gap_in_at_most_about_5_percent_of_runs() -> None:
    rng = np.random.default_rng(4)
    excluded = naive = 0
    for run in range(RUNS):
        val, test = probe(*equal_taps(rng), penalties=(1e-3, 1e-2, 1e-1))
        choice = choose_tap(val, TAPS - 1, np.linspace(0, 1, TAPS), run)
        assert choice is not None and choice.best is not None
        # The negative control: choosing on test, as layer searches by hand do, finds gaps that are not there.
        pair = [choice.best, int(test.scores.argmax())]
        gap, cursed = paired_differences(test.at(pair), test.at([TAPS - 1]), 160, run)
        excluded += not gap.low <= 0 <= gap.high
        naive += cursed.low > 0
    # 5 % and two standard errors of so many runs.
    assert excluded / RUNS <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)
    assert naive / RUNS > 0.1, "the test would not notice the winner's curse"


def test_a_skewed_target_is_known_by_its_values_before_its_interval_fails() -> None:
    """A fixed readout of R2 .75 with errors of one size; the same readout of the logarithm's values is not flagged."""
    rng, draws, units = np.random.default_rng(0), 300, 320
    for values, flagged, held in (
        (rng.standard_normal((2, draws, units)), (0, 0.01), (0.93, 1)),
        (rng.lognormal(0, 1.5, (2, draws, units)), (0.99, 1), (0, 0.7)),
    ):
        share = np.array([heaviest_units((row - row.mean()) ** 2)[1] for row in values[0]])
        assert flagged[0] <= np.mean(share > OUTLYING) <= flagged[1]
        variance = 1.0 if held[1] == 1 else (np.exp(2.25) - 1) * np.exp(2.25)
        test = values[1, :, : units // 4]
        loss = 0.25 * variance * rng.standard_normal(test.shape) ** 2
        _, low, high = profile_intervals(loss, (test - values[0].mean(axis=1, keepdims=True)) ** 2, units, 0)
        assert held[0] <= np.mean((low <= 0.75) & (high >= 0.75)) <= held[1]


def test_the_rank_correlation_is_spearmans_in_every_resample() -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(12), 3)
    truth = rng.integers(0, 8, 36).astype(float)  # ties
    prediction = np.stack([truth + rng.standard_normal(36), rng.integers(0, 3, 36), np.zeros(36), np.full(36, np.nan)])
    value, low, high = rank_correlation(prediction, truth, unit, seed=3)
    counts = resample_counts(12, 3).astype(int)
    for tap in (0, 1):
        assert value[tap] == pytest.approx(stats.spearmanr(prediction[tap], truth)[0])
        drawn = [
            stats.spearmanr(np.repeat(prediction[tap], times), np.repeat(truth, times))[0] for times in counts[:, unit]
        ]
        ends = interval(value[tap], np.array(drawn), 12)
        assert (low[tap], high[tap]) == pytest.approx((float(ends[0]), min(1.0, float(ends[1]))))
    assert np.isnan([*value[2:], *low[2:], *high[2:]]).all()
    # Neither a scale nor a logarithm matters.
    again = rank_correlation(np.exp(prediction[:1]), truth**3, unit, seed=3)
    assert [float(x[0]) for x in again] == pytest.approx([value[0], low[0], high[0]])
    one = rank_correlation(truth[None], truth, np.zeros(36), seed=0)
    assert one[0][0] == pytest.approx(1) and np.isnan([one[1][0], one[2][0]]).all()
    perfect = rank_correlation(np.stack([truth, -truth]), truth, unit, seed=0)
    assert np.array(perfect) == pytest.approx(np.array([[1, -1]] * 3))


def test_coverage_of_the_rank_correlation() -> None:
    """Normal values: Spearman's population value is 6 / pi asin(r / 2); of their exponentials it is the same."""
    rng, held, runs = np.random.default_rng(0), 0, 200
    truth = 6 / np.pi * np.arcsin(np.sqrt(0.75) / 2)
    for _ in range(runs):
        values = rng.standard_normal(60)
        guess = np.exp(values + rng.standard_normal(60) / np.sqrt(3))
        _, low, high = rank_correlation(guess[None], values, np.arange(60), 0)
        held += bool(low[0] <= truth <= high[0])
    # A standard error of .015 at .95.
    assert held / runs > 0.9


@pytest.mark.parametrize("logarithm", [False, True])
def test_a_mean_without_each_block_has_the_interval_of_the_means_of_blocks(logarithm: bool) -> None:
    """Of a mean, the pseudo-values are the means of the blocks and their centre is the mean, whatever the sizes."""
    rows = np.random.default_rng(3).gamma(2.0, size=60)
    for sizes in (np.full(6, 10), np.array([4, 8, 20, 6, 10, 12])):
        blocks = np.split(rows, sizes.cumsum()[:-1])
        without = np.array([np.concatenate([*blocks[:j], *blocks[j + 1 :]]).mean() for j in range(len(blocks))])
        means, mean = np.array([block.mean() for block in blocks]), rows.mean()
        if len(set(sizes)) == 1:
            wanted = stats.t.interval(0.95, 5, mean, stats.sem(means))
        else:
            error = np.sqrt(sum((m - mean) ** 2 * n / (60 - n) for m, n in zip(means, sizes, strict=True)) / 6)
            wanted = mean + np.array([-1, 1]) * stats.t.ppf(0.975, 5) * error
        of = np.exp if logarithm else np.asarray
        found = jackknife_interval(float(of(mean)), of(without), sizes, logarithm=logarithm)
        np.testing.assert_allclose(found, of(wanted), rtol=1e-12)
