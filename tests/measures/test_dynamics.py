from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.dynamics import (
    EventProbe,
    ForecastProbe,
    LinearPredictability,
    Straightness,
    _auc,
    linear_predictability,
    mase,
    seasonal_naive,
    straightness,
)
from tests.support.memory import MemoryActivations, label_target, thirds
from tests.support.refusals import refusal

RNG = np.random.default_rng


# Forecasts


def test_seasonal_naive_repeats_the_last_season() -> None:
    series = np.arange(10.0)
    np.testing.assert_array_equal(seasonal_naive(series, 3), [9, 9, 9])
    np.testing.assert_array_equal(seasonal_naive(series, 7, 3), [7, 8, 9, 7, 8, 9, 7])
    np.testing.assert_array_equal(seasonal_naive(np.stack([series, -series]), 2, 2), [[8, 9], [-8, -9]])


def test_mase_of_the_naive_forecast_of_a_season_with_a_trend_is_one_and_a_shift_counts_in_scales() -> None:
    # Every value is the one a season before plus 4: the naive forecast errs as much as in the history.
    series = np.arange(24.0) + np.tile([0.0, 5.0, -3.0, 2.0], 6)
    history, truth = series[None, :20], series[None, 20:]
    assert mase(seasonal_naive(history, 4, 4), truth, history, 4)[0] == pytest.approx(1, abs=1e-12)
    assert mase(truth + 2.5, truth, history, 4)[0] == pytest.approx(2.5 / 4, abs=1e-12)
    assert np.isnan(mase([[1.0]], [[2.0]], np.ones((1, 5)))[0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: seasonal_naive(np.zeros((2, 3)), 2, 4), "at least one season"),
        (lambda: seasonal_naive(np.zeros((2, 3)), 0), "horizon of 1"),
        (lambda: mase(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros((2, 9))), "do not fit"),
        (lambda: mase(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 4)), 4), "do not fit a season"),
        (lambda: mase(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 4)), 0), "do not fit a season"),
        (lambda: straightness(np.zeros((2, 5))), "at least 3 times"),
        (lambda: straightness(np.full((4, 5), np.nan)), "NaN or infinity"),
        (lambda: linear_predictability(np.zeros((4, 1, 3)), ["train"] * 4), "at least 2 times"),
        (lambda: linear_predictability(np.zeros((4, 5, 3)), ["train"] * 4), "all three"),
        (lambda: linear_predictability(np.zeros((3, 5, 0)), ["train", "val", "test"]), "sample, time, feature"),
        (lambda: linear_predictability(np.full((3, 5, 3), np.inf), ["train", "val", "test"]), "NaN or infinity"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        call()


def _future(n: int = 600, horizons: int = 3) -> tuple[dict[str, np.ndarray], StoredTarget]:
    rng = RNG(1)
    values = rng.normal(size=(n, horizons))
    naive = values + np.array([0.5, 1.0, 2.0]) * rng.choice([-1, 1], size=(n, horizons))
    mixing = rng.normal(size=(horizons, 6))
    taps = {
        "none": rng.normal(size=(n, 1, 6)),
        "knows": (values @ mixing + 0.02 * rng.normal(size=(n, 6)))[:, None],
        # Holds the naive forecast and nothing more.
        "naive": (naive @ mixing)[:, None],
    }
    return taps, StoredTarget("ahead", "future", values, naive=naive)


def test_forecast_skill_is_found_where_the_future_was_planted() -> None:
    taps, target = _future()
    result = ForecastProbe().compute(MemoryActivations(taps), target, 0)
    done = measure_all([ForecastProbe()], MemoryActivations(taps), {"ahead": target}).results["forecast_probe/ahead"]
    assert done.attrs["chosen_tap"] == "knows" and done.attrs["score_name"] == "skill"
    score = dict(zip(["none", "knows", "naive"], done["score"].values, strict=True))
    assert score["knows"] > 0.95
    # Predicting the mean, |y| = .8 on average, against naive errors of .5, 1 and 2.
    assert score["none"] == pytest.approx(np.mean(1 - 0.8 / np.array([0.5, 1, 2])), abs=0.15)
    assert score["naive"] < 0.6
    # An oracle for the score: means over test of absolute errors.
    assert result.skill_by_horizon.shape == (3, 3)
    np.testing.assert_allclose(result.skill_by_horizon.mean("horizon"), done["score"], atol=1e-12)
    test = thirds(600) == "test"
    assert target.naive is not None
    np.testing.assert_allclose(
        result.reference_loss.sum("unit")[0], np.abs(target.naive - target.values)[test].sum(axis=0), rtol=1e-12
    )


def test_a_future_without_naive_forecasts_is_not_read_and_asking_for_it_says_so() -> None:
    taps, target = _future()
    bare = StoredTarget("ahead", "future", target.values)
    silent = measure_all([ForecastProbe()], MemoryActivations(taps), {"ahead": bare})
    assert not silent.results and not silent.skipped
    asked = measure_all([ForecastProbe()], MemoryActivations(taps), {"ahead": bare}, asked=["forecast_probe"])
    assert "kind future" in asked.skipped["forecast_probe"]
    with refusal("bad-target", "naive"):
        ForecastProbe().compute(MemoryActivations(taps), bare, 0)


# Paths


def test_straightness_of_polygons_a_walk_noise_on_a_line_and_pauses() -> None:
    for m in (3, 4):
        angle = 2 * np.pi * np.arange(m + 2) / m
        polygon = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        assert straightness(polygon) == pytest.approx(np.cos(2 * np.pi / m), abs=1e-12)
    noise = RNG(0).normal(size=(200, 30, 64))
    assert straightness(noise.cumsum(axis=1)).mean() == pytest.approx(0, abs=0.01)
    # In one dimension successive steps are correlated by -1/2, so turns are twice as likely: 2/3 against 1/3.
    assert straightness(RNG(1).normal(size=(300, 30, 1))).mean() == pytest.approx(-1 / 3, abs=0.02)
    assert np.isnan(straightness(np.ones((5, 3))))
    # A pause has no direction: the pairs beside it are left out.
    assert straightness(np.array([[0.0], [1.0], [2.0], [2.0], [2.0]])) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_straightness_does_not_see_rotation_scale_and_shift_but_order(seed: int) -> None:
    rng = RNG(seed)
    path = rng.normal(size=(3, 8, 5)).cumsum(axis=1)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    expected = straightness(path)
    np.testing.assert_allclose(straightness(3.7 * path @ rotation + 1e4), expected, atol=1e-7)
    np.testing.assert_allclose(straightness(path[:, ::-1]), expected, atol=1e-12)
    assert not np.allclose(straightness(path[:, rng.permutation(8)]), expected, atol=1e-3)
    steps = np.diff(path, axis=1)
    cosines = (
        (steps[:, 1:] * steps[:, :-1]).sum(2)
        / np.linalg.norm(steps[:, 1:], axis=2)
        / np.linalg.norm(steps[:, :-1], axis=2)
    )
    np.testing.assert_allclose(expected, cosines.mean(axis=1), atol=1e-12)


def _rotating(n: int, seed: int, noise: float = 0.0) -> np.ndarray:
    rng = RNG(seed)
    a = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    z = [rng.normal(size=(n, 4))]
    for _ in range(11):
        z.append(z[-1] @ a + noise * rng.normal(size=(n, 4)))
    return np.stack(z, axis=1)


def test_linear_predictability_of_a_rotation_noise_and_a_walk() -> None:
    split = thirds(50)
    turned, still = linear_predictability(_rotating(50, 0) + 1e4, split)
    assert turned == pytest.approx(1, abs=1e-6) and still < 0.5
    predicted, still = linear_predictability(RNG(0).normal(size=(50, 12, 4)), split)
    assert predicted == pytest.approx(0, abs=0.05)
    # Two independent draws of variance 1 differ by variance 2.
    assert still == pytest.approx(-1, abs=0.15)
    walk = RNG(1).normal(size=(50, 60, 2)).cumsum(axis=1)
    predicted, still = linear_predictability(walk, split)
    assert predicted == pytest.approx(still, abs=0.02) and still > 0.9
    # Half of the next step is noise of the same variance as what is known: z' = Az + e with |Az|^2 = |e|^2.
    first = RNG(2).normal(size=(400, 4))
    pairs = np.stack(
        [first, first @ np.linalg.qr(RNG(3).normal(size=(4, 4)))[0] + RNG(4).normal(size=(400, 4))], axis=1
    )
    assert linear_predictability(pairs, thirds(400))[0] == pytest.approx(0.5, abs=0.05)


def test_linear_predictability_equals_a_direct_least_squares_line() -> None:
    x, split = RNG(5).normal(size=(60, 9, 3)).cumsum(axis=1), thirds(60)
    before, after = x[:, :-1], x[:, 1:]
    fit, test = np.isin(split, ("train", "val")), split == "test"
    design = np.c_[before[fit].reshape(-1, 3), np.ones(fit.sum() * 8)]
    w = np.linalg.lstsq(design, after[fit].reshape(-1, 3), rcond=None)[0]
    guess = np.c_[before[test].reshape(-1, 3), np.ones(test.sum() * 8)] @ w
    truth = after[test].reshape(-1, 3)
    expected = 1 - ((truth - guess) ** 2).sum() / ((truth - after[fit].reshape(-1, 3).mean(0)) ** 2).sum()
    assert linear_predictability(x, split, (1e-12,))[0] == pytest.approx(expected, abs=1e-6)


def _moving() -> MemoryActivations:
    rng = RNG(6)
    line = np.arange(12)[None, :, None] * rng.normal(size=(40, 1, 4)) + rng.normal(size=(40, 1, 4))
    taps = {
        "noise": rng.normal(size=(40, 12, 64)),
        "line": line,
        "turn": _rotating(40, 7),
        "pooled": rng.normal(size=(40, 1, 4)),
    }
    return MemoryActivations(taps, {"noise": (12,), "line": (12,), "turn": (12,), "pooled": (1,)}, block=7)


def test_paths_at_taps() -> None:
    activations = _moving()
    # MemoryActivations names a single axis x; these run in time.
    from dataclasses import replace

    activations.taps = tuple(replace(tap, grid=replace(tap.grid, axes=("t",))) for tap in activations.taps)
    straight = Straightness().compute(activations, None, 0)
    assert straight.score[0] == pytest.approx(-0.5, abs=0.05) and straight.score[1] == pytest.approx(1)
    assert np.isnan(straight.score[3]) and "pooled: 1 step(s) in time" in straight.attrs["reason"]
    assert (straight.low[0] < straight.score[0] < straight.high[0]) and straight.attrs["n"] == 40
    linear = LinearPredictability().compute(activations, None, 0)
    assert abs(linear.score[0]) < 0.1 and linear.score[2] > 0.999 and np.isnan(linear.score[3])
    assert linear.line_persistence[2] < 0.5 < linear.score[2]
    with refusal("no-tokens"):
        Straightness().compute(MemoryActivations({"a": np.zeros((6, 4, 2))}), None, 0)
    activations.token_samples = 0
    with refusal("no-tokens"):
        LinearPredictability().compute(activations, None, 0)


# Events


def _events(n: int = 60, tokens: int = 20) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = RNG(8)
    events = (rng.random((n, tokens)) < 0.08).astype(float)
    events[0, :3] = np.nan
    direction = rng.normal(size=5)
    known = np.nan_to_num(events)[:, :, None]
    taps = {
        "noise": rng.normal(size=(n, tokens, 5)),
        "holds": rng.normal(size=(n, tokens, 5)) + 3 * known * direction,
        "other_grid": rng.normal(size=(n, 4, 5)),
        "erased": rng.normal(size=(n, tokens, 5)),
    }
    return taps, events


def test_events_are_found_at_the_planted_tap_and_nowhere_else() -> None:
    taps, events = _events()
    target = StoredTarget("change", "event", np.empty(0), on_grid={(20,): events})
    activations = MemoryActivations(taps)
    done = measure_all([EventProbe()], activations, {"change": target}).results["event_probe/change"]
    score = done["score"].values
    assert done.attrs["chosen_tap"] == "holds" and score[1] > 0.9 and done.auc[1] > 0.95
    for i in (0, 3):
        assert 0.35 < score[i] < 0.65 and 0.3 < done.auc[i] < 0.7
    assert np.isnan(score[2]) and "other_grid" in done.attrs["reason"]
    assert done.attrs["score_name"] == "balanced accuracy" and (done.line_chance == 0.5).all()
    # The score is the balanced accuracy of scikit-learn on what the probe said.
    wrong, total = (done[name].values[1].sum(0) for name in ("loss", "reference_loss"))
    test = events[activations.split == "test"]
    assert total.tolist() == [(test == 0).sum(), (test == 1).sum()]
    truth = np.repeat([0, 1], total.astype(int))
    reported = np.concatenate([np.arange(total[0]) < wrong[0], np.arange(total[1]) >= wrong[1]]).astype(int)
    assert score[1] == pytest.approx(balanced_accuracy_score(truth, reported))


def test_area_under_the_curve_equals_scikit_learn() -> None:
    rng = RNG(0)
    margin, label = np.round(rng.normal(size=200), 1), rng.integers(0, 2, 200)
    assert _auc(margin, label) == pytest.approx(roc_auc_score(label, margin), abs=1e-12)


def test_a_target_without_events_says_so() -> None:
    taps, events = _events()
    empty = StoredTarget("change", "event", np.empty(0), on_grid={(20,): np.zeros_like(events)})
    with refusal("too-few", "no event", "train"):
        EventProbe().compute(MemoryActivations(taps), empty, 0)
    nowhere = StoredTarget("change", "event", np.empty(0), on_grid={(7,): np.zeros((60, 7))})
    with refusal("no-grid"):
        EventProbe().compute(MemoryActivations(taps), nowhere, 0)


@pytest.mark.parametrize("scale", [1e-200, 1e-160, 1e160, 1e200])
def test_straightness_at_scales_whose_squares_are_no_numbers(scale: float) -> None:
    path = RNG(3).normal(size=(2, 9, 4))
    assert straightness(path * scale) == pytest.approx(straightness(path), abs=1e-12)


def test_a_horizon_whose_naive_forecast_never_errs_counts_neither_on_val_nor_on_test() -> None:
    taps, target = _future()
    assert target.naive is not None
    result = ForecastProbe().compute(
        MemoryActivations(taps), StoredTarget("ahead", "future", target.values, naive=target.naive), 0
    )
    first = StoredTarget("ahead", "future", target.values[:, :1], naive=target.naive[:, :1])
    alone = ForecastProbe().compute(MemoryActivations(taps), first, 0)
    naive = np.concatenate([target.naive[:, :1], target.values[:, 1:]], axis=1)
    mixed = ForecastProbe().compute(
        MemoryActivations(taps), StoredTarget("ahead", "future", target.values, naive=naive), 0
    )
    assert result["val_score"].values != pytest.approx(alone["val_score"].values)
    assert mixed["val_score"].values == pytest.approx(alone["val_score"].values, rel=1e-9)
    assert np.isnan(mixed["skill_by_horizon"].values[:, 1:]).all()


def test_latent_measures_name_the_tap_that_is_not_finite_and_say_why_a_still_tap_has_no_value() -> None:
    moving = RNG(4).normal(size=(20, 5, 3))
    spoilt = moving.copy()
    spoilt[3, 1, 1] = np.nan
    grid = {"good": (5, 1, 1), "other": (5, 1, 1)}
    for measure in (Straightness(), LinearPredictability()):
        with refusal("not-finite", "other"):
            measure.compute(MemoryActivations({"good": moving, "other": spoilt}, grid), None, 0)
    still = MemoryActivations({"good": moving, "other": np.full((20, 5, 3), 0.1)}, grid)
    result = LinearPredictability().compute(still, None, 0)
    assert np.isnan(result["score"].values[1])
    assert result.attrs["reason"] == "other: all steps are alike"


def test_a_probe_whose_result_lacks_what_is_judged_costs_only_its_own_result() -> None:
    class Lacking(EventProbe):
        name = "lacking"
        kinds = ("label",)

        def compute(self, activations: Any, target: StoredTarget | None, seed: int) -> xr.Dataset:
            taps = [tap.name for tap in activations.taps]
            ones = (("tap", "unit"), np.ones((len(taps), 4)))
            val = ("tap", np.ones(len(taps)))
            return xr.Dataset({"loss": ones, "reference_loss": ones, "val_score": val}, coords={"tap": taps})

    rng = RNG(5)
    activations = MemoryActivations({"a": rng.normal(size=(20, 5, 3))}, {"a": (5, 1, 1)})
    targets = {"kind": label_target(np.arange(20) % 2)}
    done = measure_all([Lacking(), Straightness()], activations, targets, what="a model")
    assert list(done.results) == ["straightness"]
    assert done.skipped["lacking/kind"].startswith("Measure lacking does not state units_train and units_val")
    assert done.failed == {"lacking/kind"}
