"""The rule that chooses a tap: planted losses whose answers are known, and what it must not do."""

from __future__ import annotations

import numpy as np
import pytest

from diagnostics.measures.statistics import Losses
from diagnostics.measures.tap_choice import choose_tap

UNITS = 400
DEPTH = np.array([0.0, 0.5, 0.75, 1.0])


def losses(*right: float, units: int = UNITS, seed: int = 0) -> Losses:
    """Wrong answers of taps with these accuracies; the same units are hard for all taps."""
    hard = np.random.default_rng(seed).permutation((np.arange(units) + 0.5) / units)
    return Losses((hard[None] > np.array(right)[:, None]).astype(float), np.ones((len(right), units)))


def chosen(*right: float, output: int = 3, depth: np.ndarray = DEPTH, val: Losses | None = None):
    return choose_tap(val or losses(*right), losses(*right, seed=1), output, depth, 4 * UNITS, 0, share=True)


def test_a_tap_that_the_output_hides_is_chosen_in_every_resample() -> None:
    choice = chosen(0.3, 0.9, 0.7, 0.6)
    assert choice is not None
    assert (choice.tap, choice.changed, choice.rival, choice.cost) == (1, 0.0, None, 0.0)


def test_the_output_is_chosen_where_no_hidden_gap_is_shown() -> None:
    choice = chosen(0.3, 0.805, 0.7, 0.8)
    assert choice is not None and choice.tap == 3


def test_the_earliest_within_one_standard_error_is_chosen() -> None:
    # One unit in 400 separates taps 1 and 2: less than the standard error of their difference, about 1 / 400 ** .5 / 20.
    choice = chosen(0.3, 0.9, 0.9025, 0.6)
    assert choice is not None and choice.tap == 1
    # Ten units do not lie within it.
    choice = chosen(0.3, 0.9, 0.925, 0.6)
    assert choice is not None and choice.tap == 2


def test_a_cheaper_tap_may_cost_next_to_nothing_however_wide_the_error() -> None:
    # 20 val units: a difference of .05 is far within one standard error.
    val = losses(0.3, 0.85, 0.9, 0.6, units=20)
    choice = chosen(0.3, 0.85, 0.9, 0.6, val=val)
    assert choice is not None and choice.tap == 2


def test_taps_behind_the_output_are_never_chosen() -> None:
    choice = chosen(0.3, 0.6, 0.6, 0.95, output=2)
    assert choice is not None and choice.tap == 2


def test_an_earlier_tap_is_taken_on_the_trunk_only() -> None:
    head = np.array([0.0, 1.2, 0.75, 1.5])
    choice = chosen(0.3, 0.9, 0.9025, 0.6, depth=head)
    assert choice is not None and choice.tap == 2
    choice = chosen(0.3, 0.9, 0.5, 0.6, depth=head)
    assert choice is not None and choice.tap == 1, "the best tap itself may lie in a head"


def test_how_often_another_tap_is_chosen_and_what_it_costs() -> None:
    # On val taps 1 and 2 tie, each right on other units; on test tap 2 is worse by .1. The first is chosen unless the second is
    # better by more than .01: with a standard error of (2 x .8 x .2 / 400) ** .5 = .028, and steps of 1 / 400, in 34.5 % of resamples.
    val = Losses(np.vstack([losses(p, seed=i).loss for i, p in enumerate((0.3, 0.8, 0.8, 0.5))]), np.ones((4, UNITS)))
    choice = chosen(0.3, 0.9, 0.8, 0.5, val=val)
    assert choice is not None
    assert choice.changed == pytest.approx(0.345, abs=0.03)
    assert (choice.tap, choice.rival, choice.cost) == (1, 2, pytest.approx(0.1))


def test_a_tap_without_a_score_is_never_chosen_and_none_is_without_any() -> None:
    val = losses(0.3, 0.9, 0.7, 0.6)
    val.loss[1] = np.nan
    choice = chosen(0.3, 0.9, 0.7, 0.6, val=val)
    assert choice is not None and choice.tap == 2
    val.loss[:] = np.nan
    assert chosen(0.3, 0.9, 0.7, 0.6, val=val) is None


def test_squared_errors_of_several_parts_count_alike() -> None:
    rng = np.random.default_rng(0)
    errors = rng.standard_normal((4, UNITS, 2)) ** 2 * np.array([1.0, 0.1, 0.5, 0.9])[:, None, None] * [1.0, 100.0]
    sides = Losses(errors, np.broadcast_to([1.0, 100.0], errors.shape))
    choice = choose_tap(sides, sides, 3, DEPTH, UNITS, 0)
    assert choice is not None and (choice.tap, choice.changed) == (1, 0.0)
