"""The rule that chooses a tap: planted losses whose answers are known, and that no loss on test enters."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from diagnostics.activations.contract import StoredTarget
from diagnostics.encoders.taps import Grid
from diagnostics.measures.apply import choose_taps, common_tap, measure_all, with_choice
from diagnostics.measures.base import Arrays, Measure
from diagnostics.measures.dynamics import ForecastProbe
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.nearest import KnnProbe
from diagnostics.measures.statistics import Losses, resample_counts, resample_scores
from diagnostics.measures.tap_choice import TapChoice, choose_tap, confidence_set, standard_error
from diagnostics.runs.pages.answer_in_words import answer
from diagnostics.runs.results.profile import Profile
from diagnostics.vocabulary import Kind

UNITS = 400
DEPTH = np.array([0.0, 0.5, 0.75, 1.0])


def answers(ahead: int, behind: int) -> Losses:
    """Wrong answers of four taps on 400 units.

    The third alone is right on `ahead` of them, the output, which is last, on `behind`; the first two taps are wrong on
    most.
    """
    wrong = np.zeros((4, UNITS))
    wrong[:2, :300] = 1
    wrong[2, :behind] = 1
    wrong[3, behind : ahead + behind] = 1
    return Losses(wrong, np.ones_like(wrong))


def chosen(
    losses: Losses, output: int = 3, depth: np.ndarray = DEPTH, share: bool = True, favour: bool = True
) -> TapChoice:
    choice = choose_tap(replace(losses, counts=share), output, depth, 0, favour=favour)
    assert choice is not None
    return choice


# Of 36 units on which the two differ, six more are one standard error: sqrt((36 - 6² / 400) · 400 / 399) = 6.
@pytest.mark.parametrize(("ahead", "behind", "tap"), [(22, 14, 2), (20, 16, 3), (14, 22, 3)])
def test_a_tap_is_taken_where_it_is_ahead_of_the_output_by_more_than_a_standard_error(
    ahead: int, behind: int, tap: int
) -> None:
    choice = chosen(answers(ahead, behind))
    assert (choice.tap, choice.best) == (tap, 2)
    # Without favour the better one, whatever the error.
    assert chosen(answers(ahead, behind), favour=False).tap == (2 if ahead > behind else 3)


@pytest.mark.parametrize("favour", [True, False])
def test_of_equal_taps_the_output_is_taken(favour: bool) -> None:
    same = answers(0, 0)
    choice = chosen(same, favour=favour)
    assert (choice.tap, choice.alike) == (3, (2, 3))


@pytest.mark.parametrize(("ahead", "tap"), [(0.0009, 3), (0.0011, 2)])
def test_a_tap_that_is_ahead_by_what_no_score_shows_is_not_taken(ahead: float, tap: int) -> None:
    same = answers(0, 0)
    same.loss[2] -= ahead  # in every unit, so that the standard error is 0
    assert chosen(same).tap == tap


def test_the_output_is_favoured_over_what_comes_before_it_alone() -> None:
    # The last block before a norm is as deep as that; the other views of raw input come after the first.
    assert chosen(answers(20, 16), depth=np.array([0.0, 0.0, 1.0, 1.0])).tap == 3
    assert chosen(answers(20, 16), depth=np.zeros(4)).tap == 3
    behind = Losses(answers(20, 16).loss[[3, 0, 1, 2]], np.ones((4, UNITS)))
    assert chosen(behind, output=0, depth=np.zeros(4)).tap == 3


def test_taps_behind_the_output_are_no_candidates() -> None:
    choice = chosen(answers(0, 0), output=1)
    assert (choice.tap, choice.best, choice.alike) == (1, 0, (0, 1))


def test_what_has_no_score_is_no_candidate() -> None:
    losses = answers(0, 30)
    losses.loss[3] = np.nan
    choice = chosen(losses)
    assert (choice.tap, choice.best, 3 in choice.alike) == (2, 2, False), "an output without a score"
    losses.loss[:3] = np.nan
    assert choose_tap(losses, 3, DEPTH, 0) is None
    losses.loss[3] = 0.5
    assert chosen(losses) == TapChoice(3, None, (3,)), "the output alone"


def test_one_heavy_unit_does_not_decide() -> None:
    squares = np.ones((4, UNITS))
    squares[2] = 0.5
    squares[2, 7] = 1e4
    assert Losses(squares, np.ones_like(squares)).scores.argmax() != 2, "it would"
    assert chosen(Losses(squares, np.ones_like(squares)), share=False).tap == 2


def test_wrong_answers_are_not_clipped() -> None:
    # Below the 95th percentile there are none, at any of the two.
    assert chosen(answers(8, 0)).tap == 2


def test_squared_errors_of_several_parts_count_alike() -> None:
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((4, UNITS, 2)) ** 2
    # In all the third is worse, for the second part is large.
    errors *= np.array([[2, 2], [2, 2], [0.2, 1.1], [1, 1]])[:, None] * [1, 100]
    assert chosen(Losses(errors, np.broadcast_to([1.0, 100.0], errors.shape)), share=False).tap == 2


def unequal_parts(units: int, seed: int = 0) -> Losses:
    """Losses of two taps in three parts, whose references differ from unit to unit; the last part is in half of the units."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0.5, 1.5, (units, 3)) * (rng.random((units, 3)) < [1, 1, 0.5])
    hard = rng.uniform(0, 0.4, (units, 1))
    return Losses((hard + rng.uniform(0, 0.4, (2, units, 3))) * reference, np.broadcast_to(reference, (2, units, 3)))


def test_the_standard_error_is_that_of_units_left_out_and_of_resamples() -> None:
    pair = unequal_parts(80)
    without = [np.delete(np.arange(80), unit) for unit in range(80)]
    left = np.array([np.subtract(*Losses(pair.loss[:, rows], pair.reference[:, rows]).scores) for rows in without])
    jackknife = np.sqrt(79 / 80 * ((left - left.mean()) ** 2).sum())
    assert standard_error(pair) == pytest.approx(jackknife, rel=0.02)
    resampled = resample_scores(pair.loss, pair.reference, resample_counts(80, 0), 0)
    assert standard_error(pair) == pytest.approx(np.diff(resampled, axis=1).std(), rel=0.1)
    means = Losses(pair.loss[:, :12, 0], np.ones((2, 12)))
    assert standard_error(means) == pytest.approx(np.subtract(*means.loss).std(ddof=1) / np.sqrt(12)), (
        "of a mean exactly"
    )
    assert standard_error(unequal_parts(1)) == np.inf, "one unit has no spread"


# What is not worse than the tap chosen


def test_the_set_has_the_taps_that_cannot_be_told_from_the_best_and_no_other() -> None:
    rng = np.random.default_rng(0)
    errors = rng.random((5, UNITS)) * np.array([1.0, 1.02, 1.3, 1.0, 3.0])[:, None]
    sides = Losses(errors, np.ones_like(errors))
    assert confidence_set(sides, np.array([0, 1, 2, 4]), 0) == [0, 1], "3 is no candidate"
    few = Losses(errors[:, :20], np.ones((5, 20)))
    assert confidence_set(few, np.arange(5), 0) == [0, 1, 2, 3]
    assert confidence_set(few.at([0, 4]), np.arange(2), 0) == [0]
    one = Losses(errors[:, :1], np.ones((5, 1)))
    assert confidence_set(one, np.arange(5), 0) == [0, 1, 2, 3, 4], "a single unit tells no taps apart"


@pytest.mark.slow
def test_the_set_holds_the_best_tap_in_nine_of_ten_draws_and_more() -> None:
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        shared, own = rng.standard_normal((1, 60)), rng.standard_normal((8, 60))
        errors = (0.8 * shared + 0.6 * own) ** 2 + 0.02 * np.arange(8)[:, None]
        held += 0 in confidence_set(Losses(errors, np.ones_like(errors)), np.arange(8), seed)
    assert held >= 180


# No loss on test


N = 150
SPLIT = np.resize(["train", "train", "train", "val", "test"], N)
TEST = SPLIT == "test"


class Tokens(Arrays):
    """Arrays whose samples are also maps of 4 tokens, each the pooled values and what a cell adds."""

    token_samples = N

    def __init__(self, taps: dict[str, np.ndarray], cells: dict[str, np.ndarray]) -> None:
        super().__init__(taps, list(SPLIT))
        self.taps = [dataclasses.replace(tap, grid=Grid((2, 2), ("y", "x"))) for tap in self.taps]
        self.cells = cells

    def token_blocks(self, tap: str):
        yield slice(0, N), self.cells[tap].astype(np.float32)


def planted(kind: Kind, seed: int) -> tuple[Tokens, StoredTarget]:
    """Taps that hold a target about alike, so that other losses would choose others."""
    rng = np.random.default_rng(seed)
    strengths = rng.uniform(0.6, 1.0, 5)
    grid = rng.standard_normal((N, 4))
    future = rng.standard_normal((N, 2))
    label = rng.integers(3, size=N)
    signal = {"value": grid[:, :1], "label": np.eye(3)[label], "future": future}.get(kind, grid[:, :1])
    values = {"value": grid[:, 0], "label": label, "future": future}.get(kind, np.zeros(0))
    taps = {f"t{i}": np.pad(x * signal, ((0, 0), (0, 4))) for i, x in enumerate(strengths)}
    cells = {f"t{i}": np.pad(x * grid[..., None], ((0, 0), (0, 0), (0, 4))) for i, x in enumerate(strengths)}
    taps, cells = ({k: x + rng.standard_normal(x.shape) for k, x in each.items()} for each in (taps, cells))
    target = StoredTarget(
        "y",
        kind,
        values,
        naive=np.zeros_like(future) if kind == "future" else None,
        on_grid={(2, 2): grid} if kind == "token_value" else {},
    )
    return Tokens(taps, cells), target


def other_test(activations: Tokens, target: StoredTarget) -> tuple[Tokens, StoredTarget]:
    """The same but in test, whose targets are permuted and whose features are garbage."""
    rng = np.random.default_rng(99)
    order = np.arange(N)
    order[TEST] = rng.permutation(order[TEST])
    taps, cells = (
        {
            k: np.where(TEST.reshape(-1, *[1] * (x.ndim - 1)), 100 * rng.standard_normal(x.shape), x)
            for k, x in each.items()
        }
        for each in (activations.values, activations.cells)
    )
    garbled = Tokens(taps, cells)
    garbled.choose_on = activations.choose_on
    changed = dataclasses.replace(
        target,
        values=target.values[order] if len(target.values) else target.values,
        on_grid={shape: values[order] for shape, values in target.on_grid.items()},
    )
    return garbled, changed


@pytest.mark.parametrize("choose_on", ["fit", "val"])
@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        (LinearProbe(), "value"),
        (LinearProbe(), "label"),
        (KnnProbe(), "label"),
        (ForecastProbe(), "future"),
        (LinearProbe(), "token_value"),
    ],
)
def test_no_loss_on_test_enters_the_choice(probe: Measure, kind: Kind, choose_on: str) -> None:
    taken: set[str] = set()
    for seed in range(4):
        activations, target = planted(kind, seed)
        activations.choose_on = choose_on
        key = f"{probe.name}/y"
        kept, other = (
            measure_all([probe], each, {"y": of}).results[key]
            for each, of in ((activations, target), other_test(activations, target))
        )
        assert not np.allclose(kept["loss"], other["loss"]), "test is another"
        for name in ("chosen_tap", "best_tap", "tap_set"):
            assert kept.attrs[name] == other.attrs[name]
        taken.add(kept.attrs["best_tap"])
    assert len(taken) > 1, "draws choose different taps"


# Few units of train and val


def measured(
    scores: list[float], units: int, test: list[float] | None = None, measure: str = "linear_probe"
) -> xr.Dataset:
    """A probe's result at three taps with these scores out of fold on this many units, and on 20 of test."""
    axes = ("tap", "fit_unit"), ("tap", "unit")
    noise = [0.01 * np.resize([-1.0, 1.0], n) for n in (units, 20)]
    losses = [1 - np.array(of)[:, None] + off for of, off in zip((scores, test or scores), noise, strict=True)]
    data = {
        name: (along, values)
        for along, loss, names in zip(
            axes, losses, (("oof_loss", "oof_reference"), ("loss", "reference_loss")), strict=True
        )
        for name, values in zip(names, (loss, np.ones_like(loss)), strict=True)
    }
    attrs = {
        "measure": measure,
        "output_tap": "t2",
        "seed": 0,
        "losses": "squares",
        "units_train": units - units // 4,
        "units_val": units // 4,
    }
    return xr.Dataset(data, {"tap": ["t0", "t1", "t2"], "depth": ("tap", [0.0, 0.5, 1.0])}, attrs)


def taps_chosen(results: dict[str, xr.Dataset]) -> dict[str, str]:
    return {key: result.attrs["chosen_tap"] for key, result in choose_taps(results).items()}


def test_fewer_than_ten_units_take_the_tap_of_the_other_targets() -> None:
    own, other = [0.9, 0.1, 0.2], [0.1, 0.6, 0.2]
    assert taps_chosen({"few": measured(own, 9), "many": measured(other, 40)}) == {"few": "t1", "many": "t1"}
    assert taps_chosen({"few": measured(own, 10), "many": measured(other, 40)})["few"] == "t0", "ten are enough"
    # Alone, beside another with as few, or beside what another probe reads, its own best, whatever the error.
    assert taps_chosen({"few": measured(own, 9), "also": measured(other, 9)}) == {"few": "t0", "also": "t1"}
    assert taps_chosen({"few": measured(own, 9), "many": measured(other, 40, measure="knn_probe")})["few"] == "t0"
    barely = [0.1, 0.2, 0.2 - 1e-6]
    assert taps_chosen({"few": measured(barely, 9)})["few"] == "t1"


def test_one_tap_for_all_is_that_of_the_smallest_mean_standardised_loss() -> None:
    # By the sum of losses the second would be best; what the first target loses is small at every tap.
    first, second = measured([0.98, 0.9, 0.9], 40), measured([0.2, 0.3, 0.1], 40)
    assert common_tap([first, second]) == 0
    assert common_tap([second]) == 1
    assert common_tap([]) is None
    deeper = second.assign_attrs(output_tap="t0")
    assert common_tap([deeper]) == 0, "none behind the output"
    first["oof_loss"][0] = np.nan
    assert common_tap([first, second]) == 1, "without a score for all"


def test_a_probe_that_gives_scores_on_val_alone_takes_the_best_of_them() -> None:
    data = measured([0.5, 0.8, 0.6], 40).drop_vars(["oof_loss", "oof_reference"])
    result = choose_taps({"y": data.assign(val_score=("tap", [0.5, 0.8, 0.6]))})["y"]
    assert (result.attrs["chosen_tap"], result.attrs["best_tap"]) == ("t1", "t1")


# What test says of the choice


def test_the_bound_is_the_largest_upper_end_of_the_taps_that_the_output_can_hide() -> None:
    # On test the first tap is ahead, which was not chosen.
    result = choose_taps({"y": measured([0.2, 0.9, 0.5], 40, [0.8, 0.55, 0.5])})["y"]
    assert (result.attrs["chosen_tap"], result.attrs["best_tap"]) == ("t1", "t1")
    assert result.attrs["hidden_gap"] == pytest.approx(0.05)
    assert result.attrs["gap_bound"] == pytest.approx(0.3), "the same in every unit, so that it has no width"
    behind = measured([0.2, 0.9, 0.5], 40, [0.55, 0.5, 0.9]).assign_attrs(output_tap="t1")
    assert choose_taps({"y": behind})["y"].attrs["gap_bound"] == pytest.approx(0.05), "without what lies behind"


def test_a_result_of_an_older_version_is_chosen_on_val_and_says_so() -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal(300)
    taps = {
        name: (size * y + rng.standard_normal(300))[:, None] for name, size in {"a": 0.3, "b": 3.0, "c": 1.0}.items()
    }
    activations = Arrays(taps, np.repeat(["train", "val", "test"], [180, 60, 60]).tolist())
    new = measure_all([LinearProbe()], activations, {"y": StoredTarget("y", "value", y)}).results["linear_probe/y"]
    stated = ("chosen_tap", "tap_set", "chosen_on", "hidden_gap", "gap_bound")
    kept = {key: value for key, value in new.attrs.items() if key not in stated}
    old = new.drop_attrs(deep=False).assign_attrs(kept | {"best_tap": "a"})
    read = Profile.of("linear_probe", "y", with_choice(old), {})
    assert (read.chosen_tap, read.best_tap, read.hidden_gap) == (
        "b",
        "b",
        Profile.of("linear_probe", "y", new, {}).hidden_gap,
    )
    assert read.chosen_on == "val, by an older version: run again"
    assert "y: the layer was chosen on val, by an older version: run again." in answer([read])
    # A plugin's probe need not say on what it chose.
    strange = new.drop_attrs(deep=False).assign_attrs({k: v for k, v in new.attrs.items() if k != "chosen_on"})
    assert Profile.of("linear_probe", "y", with_choice(strange), {}).chosen_on == "val"
