"""Paired differences of groups of runs on the same samples: chosen tap, output, hidden gap, and along depth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import Estimate, Part, estimate_sum, flipped, holm, part_score
from diagnostics.runs.comparison.probe_losses import ProbeLosses, by_depth, near, shared_depths

Quantity = Literal["chosen tap", "output", "hidden gap"]
QUANTITIES: Mapping[Quantity, Callable[[ProbeLosses], Part]] = {
    "chosen tap": lambda run: (run.at_chosen,),
    "output": lambda run: (run.at_output,),
    "hidden gap": lambda run: (run.at_best, run.at_output),
}
ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """By how much the first group, named later, beats the second in one quantity of one profile."""

    profile: str
    first: str
    second: str
    quantity: Quantity
    estimate: Estimate
    p_corrected: float = float("nan")
    """Holm's, over all differences of the comparison."""

    @property
    def survives(self) -> bool:
        """Whether it is shown, all comparisons together (0.05)."""
        return bool(self.p_corrected < ALPHA)

    @property
    def outcome(self) -> Literal["gained", "lost", "grew", "shrank", "cannot tell"]:
        """What the later group is shown to have gained or lost, all comparisons together; a hidden gap, which is no gain, grew or shrank."""
        if not self.survives:
            return "cannot tell"
        more, less = ("grew", "shrank") if self.quantity == "hidden gap" else ("gained", "lost")
        return more if self.estimate.value > 0 else less


@dataclass(frozen=True)
class CurveDifference:
    """Where along the trunk two groups differ in one profile: first minus second.

    `difference`, `p` [depth]; p is corrected for all depths, profiles and pairs of the comparison together. NaN where a
    probe's scores have no reference that all taps share, so that units cannot be exchanged.
    """

    profile: str
    first: str
    second: str
    depths: np.ndarray
    difference: np.ndarray
    p: np.ndarray

    @property
    def at(self) -> int | None:
        """Where they differ most, of the depths at which that is shown (0.05); None where it is at none."""
        shown = np.flatnonzero(self.p < ALPHA)
        return int(shown[np.abs(self.difference[shown]).argmax()]) if shown.size else None


Groups = Mapping[str, Sequence[ProbeLosses]]
"""The probe losses of one profile by group, one a seed."""


Matched = Mapping[tuple[str, str], Sequence[tuple[int, int]]]
"""Which run of a group goes with which of another (places in their lists): an alignment's with what it was made from.
Such pairs of groups are compared run by run; those of trainings that have nothing to do with each other are not in it."""


def differences_of(by_profile: Mapping[str, Groups], seed: int, matched: Matched) -> list[Difference]:
    """All pairs of groups in all quantities and profiles, corrected together."""
    differences = [
        Difference(profile, *pair, quantity, _between(groups, pair, quantity, seed, matched))
        for profile, groups in by_profile.items()
        for pair in pairs_of(groups)
        for quantity in QUANTITIES
    ]
    corrected = holm(np.array([difference.estimate.p for difference in differences]))
    return [replace(difference, p_corrected=float(p)) for difference, p in zip(differences, corrected, strict=True)]


def pairs_of(groups: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs of groups, the one named later first: differences read after minus before."""
    return [(after, before) for before, after in combinations(groups, 2)]


def _runs_to_compare(groups: Groups, pair: tuple[str, str], matched: Matched) -> tuple[list[ProbeLosses], ...]:
    """The runs of two groups; where they correspond one by one, only those with a counterpart, in the same order."""
    if pair not in matched:
        return tuple(list(groups[name]) for name in pair)
    return tuple([groups[name][places[side]] for places in matched[pair]] for side, name in enumerate(pair))


def _between(groups: Groups, pair: tuple[str, str], quantity: Quantity, seed: int, matched: Matched) -> Estimate:
    """The first group's mean over seeds minus the second's."""
    sides = _runs_to_compare(groups, pair, matched)
    ours, theirs = ([QUANTITIES[quantity](run) for run in runs] for runs in sides)
    by_pair = None
    if pair in matched:
        by_pair = [[part_score(a) - part_score(b) for a, b in zip(ours, theirs, strict=True)]]
    difference = estimate_sum([(ours, 1.0), (theirs, -1.0)], seed, by_pair)
    over = difference.over_samples
    if difference.over_both is None and over.low == over.high == over.value != 0:
        # Where all units agree, resampling them shows no width, but the width is unknown and not 0.
        return Estimate(Interval(over.value, float("nan"), float("nan")), None, difference.p)
    return difference


def curve_differences(by_profile: Mapping[str, Groups], seed: int, matched: Matched) -> list[CurveDifference]:
    """Where along the trunk each pair of groups differs; over samples, for the encoders as they are (not over seeds)."""
    curves: list[CurveDifference] = []
    by_unit: list[np.ndarray] = []
    units: list[Sequence[str]] = []
    fitted: list[int] = []
    for profile, groups in by_profile.items():
        runs = [run for group in groups.values() for run in group]
        depths = shared_depths([run.depths for run in runs])
        depths = depths[depths <= 1.0]
        reference = runs[0].common_reference
        others = [run.common_reference for run in runs]
        able = reference is not None and all(own is not None and near(own, reference) for own in others)
        drawn = {id(run): by_depth(run.loss, run.depths, depths) for run in runs}
        for pair in pairs_of(groups):
            if able and reference is not None:
                ours, theirs = (
                    np.mean([drawn[id(run)] for run in side], axis=0)
                    for side in _runs_to_compare(groups, pair, matched)
                )
                each = score_influence(theirs - ours, reference)
            else:
                each = np.full((len(depths), len(runs[0].units)), np.nan)
            by_unit.append(each)
            units.append(runs[0].units)
            fitted.append(runs[0].fit_units)
            nothing = np.full(len(depths), np.nan)
            curves.append(CurveDifference(profile, *pair, depths, each.sum(axis=1), nothing))
    return [replace(curve, p=p) for curve, p in zip(curves, flipped(by_unit, units, fitted, seed), strict=True)]


def score_influence(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What each unit adds to a difference of scores, [..., unit], from a difference of losses [..., unit, part]; the sum
    over units is the difference, since the score is linear in the loss."""
    whole = reference.sum(axis=0)
    there = whole > 0
    return (loss[..., there] / whole[there]).sum(axis=-1) / max(1, int(there.sum()))
