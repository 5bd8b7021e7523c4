"""Intervals and selection: coverage by simulation, and no hidden gap where all taps are equally good."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diagnostics.measures.probes import RidgePath
from diagnostics.statistics import (
    effective_units,
    interval,
    paired_difference,
    profile_intervals,
    resample_counts,
    scores,
    select,
)


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


def test_only_a_share_at_the_border_has_another_interval() -> None:
    rng = np.random.default_rng(0)
    inside = rng.binomial(1, 0.5, (1, 20)).astype(float)
    for loss in (inside, rng.random((1, 20))):
        for plain, share in zip(
            profile_intervals(loss, np.ones((1, 20)), 60, 0),
            profile_intervals(loss, np.ones((1, 20)), 60, 0, share=True),
            strict=True,
        ):
            np.testing.assert_array_equal(plain, share)
    _, low, high = profile_intervals(np.zeros((1, 20)), np.ones((1, 20)), 60, 0)
    assert (low[0], high[0]) == (1, 1), "what is no share stays as it was"
    _, low, _ = profile_intervals(np.zeros((1, 1)), np.ones((1, 1)), 3, 0, share=True)
    assert np.isnan(low[0]), "one unit has no interval"
    # Two taps that are right everywhere: the scores have width, their paired difference none.
    chosen = select(["a", "b"], "b", np.ones(2), np.zeros((2, 16)), np.ones((2, 16)), 64, 0, share=True)
    assert chosen is not None
    assert chosen.best.low == chosen.output.low < 0.8
    assert (chosen.hidden_gap.low, chosen.hidden_gap.high) == (0, 0)


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


def test_a_draw_without_a_reference_is_left_out() -> None:
    loss, reference = np.array([[0.0, 0.5, 0.2, 0.1]]), np.array([[0.0, 1.0, 1.0, 0.0]])
    score, low, high = profile_intervals(loss, reference, 10, 0)
    assert score[0] == pytest.approx(1 - 0.8 / 2)
    assert low[0] < score[0] < high[0]


def test_gap_is_paired_and_best_is_chosen_on_val() -> None:
    rng = np.random.default_rng(3)
    reference = np.ones((3, 80))
    shared = rng.uniform(0, 1, 80)
    loss = np.stack([shared * 0.5, shared * 0.9, shared])
    found = select(["a", "b", "c"], "c", np.array([0.1, 0.9, 0.2]), loss, reference, 10**9, 0)
    assert found is not None
    assert found.best_tap == "b", "tap a is best on test, and test may not choose"
    assert found.hidden_gap.value == pytest.approx(0.1 * shared.mean())
    # The units vary far more than the difference between taps: only a paired interval excludes 0.
    assert found.hidden_gap.low > 0
    assert found.best.low < found.output.value


def test_the_output_as_best_tap_hides_nothing() -> None:
    loss = np.random.default_rng(0).uniform(size=(2, 30))
    found = select(["a", "b"], "b", np.array([0.1, 0.2]), loss, np.ones((2, 30)), 60, 0)
    assert found is not None
    assert (found.hidden_gap.value, found.hidden_gap.low, found.hidden_gap.high) == (0, 0, 0)


def test_no_score_no_selection() -> None:
    nothing = np.full(2, np.nan)
    assert select(["a", "b"], "b", nothing, np.ones((2, 9)), np.ones((2, 9)), 9, 0) is None


# The winner's curse: 12 taps that carry the same signal with the same noise, through the whole protocol.
TAPS, RUNS, WIDTH, SIGNAL = 12, 400, 24, 6


def equal_taps(rng: np.random.Generator, n: int = 200) -> tuple[np.ndarray, list[np.ndarray]]:
    """y [n] and features [n, WIDTH] of each tap: rotations of one signal, each with noise of its own."""
    latent = rng.standard_normal((n, SIGNAL))
    y = latent @ np.full(SIGNAL, 1 / np.sqrt(SIGNAL)) + 0.5 * rng.standard_normal(n)
    taps = []
    for _ in range(TAPS):
        turn = np.linalg.qr(rng.standard_normal((WIDTH, SIGNAL)))[0].T
        taps.append(2 * latent @ turn + rng.standard_normal((n, WIDTH)))
    return y, taps


def probe(
    y: np.ndarray, taps: list[np.ndarray], penalties: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Val score, test losses and reference losses: fit on 60 %, choose on 20 %, refit, read once on 20 %."""
    train, val, fit, test = (slice(0, 120), slice(120, 160), slice(0, 160), slice(160, 200))
    val_score, loss = [], []
    for x in taps:
        tried = RidgePath.from_data(x[train], y[train, None]).predict(x[val], penalties)[..., 0]
        errors = ((tried - y[val]) ** 2).mean(axis=1)
        val_score.append(1 - errors.min() / ((y[val] - y[train].mean()) ** 2).mean())
        again = RidgePath.from_data(x[fit], y[fit, None]).predict(x[test], (penalties[int(errors.argmin())],))
        loss.append((again[0, :, 0] - y[test]) ** 2)
    reference = np.tile((y[test] - y[fit].mean()) ** 2, (TAPS, 1))
    return np.array(val_score), np.array(loss), reference


def test_equal_taps_show_a_hidden_gap_in_at_most_about_5_percent_of_runs() -> None:
    rng = np.random.default_rng(4)
    names = [str(i) for i in range(TAPS)]
    excluded = naive = 0
    for run in range(RUNS):
        val_score, loss, reference = probe(*equal_taps(rng), penalties=(1e-3, 1e-2, 1e-1))
        found = select(names, names[-1], val_score, loss, reference, 160, run)
        assert found is not None
        excluded += not found.hidden_gap.low <= 0 <= found.hidden_gap.high
        # The negative control: choosing on test, as layer searches by hand do, finds gaps that are not there.
        best = int(scores(loss, reference).argmax())
        cursed = paired_difference(loss[best], reference[best], loss[-1], reference[-1], 160, run)
        naive += cursed.low > 0
    # 5 % and two standard errors of 400 runs.
    assert excluded / RUNS <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)
    assert naive / RUNS > 0.1, "the test would not notice the winner's curse"
