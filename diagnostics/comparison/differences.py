"""Groups of runs against each other on the same samples: at the best tap, at the output, in what the output hides, and
along the depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from diagnostics.comparison.estimates import Estimate, estimate, flipped, holm
from diagnostics.comparison.readouts import Readout, losses_by_depth, shared_depths
from diagnostics.statistics import scores

Quantity = Literal["best tap", "output", "hidden gap"]
ALPHA = 0.05


@dataclass(frozen=True)
class Difference:
    """By how much the first group beats the second in one quantity of one profile."""

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


@dataclass(frozen=True)
class CurveDifference:
    """Where along the trunk two groups differ in one profile: first minus second.

    `difference`, `p` [depth]; p is corrected for all depths, profiles and pairs of the comparison together.
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


Groups = Mapping[str, Sequence[Readout]]
"""The readouts of one profile by group, one a seed."""


def differences_of(by_profile: Mapping[str, Groups], seed: int) -> list[Difference]:
    """All pairs of groups in all quantities and profiles, corrected together."""
    found: list[Difference] = []
    for profile, groups in by_profile.items():
        for first, second in combinations(groups, 2):
            found += [
                Difference(profile, first, second, quantity, _between(groups[first], groups[second], quantity, seed))
                for quantity in QUANTITIES
            ]
    corrected = holm(np.array([one.estimate.p for one in found]))
    return [replace(one, p_corrected=float(p)) for one, p in zip(found, corrected, strict=True)]


Terms = tuple[Callable[[Readout], np.ndarray], ...]
QUANTITIES: Mapping[Quantity, Terms] = {
    "best tap": (lambda found: found.at_best,),
    "output": (lambda found: found.at_output,),
    "hidden gap": (lambda found: found.at_best, lambda found: found.at_output),
}


def _between(first: Sequence[Readout], second: Sequence[Readout], quantity: Quantity, seed: int) -> Estimate:
    """The first group's mean over seeds minus the second's; a quantity of two terms is the first minus the second term."""
    terms = QUANTITIES[quantity]
    losses = [np.mean([term(run) for run in group], axis=0) for group in (first, second) for term in terms]
    signs = np.array([1.0, -1.0, -1.0, 1.0] if len(terms) == 2 else [1.0, -1.0])
    members = [[_of_run(run, terms) for run in group] for group in (first, second)]
    reference = first[0].reference
    return estimate(lambda x: x @ signs, losses, reference, members, first[0].fit_units, seed)


def _of_run(run: Readout, terms: Terms) -> float:
    values = scores(np.stack([term(run) for term in terms]), np.stack([run.reference] * len(terms)))
    return float(values[0] - (values[1] if len(terms) == 2 else 0.0))


def curve_differences(by_profile: Mapping[str, Groups], seed: int) -> list[CurveDifference]:
    """Where along the trunk each pair of groups differs; over samples, for the encoders as they are (not over seeds)."""
    found: list[CurveDifference] = []
    by_unit: list[np.ndarray] = []
    units: list[Sequence[str]] = []
    for profile, groups in by_profile.items():
        depths = shared_depths([run.depths for group in groups.values() for run in group])
        depths = depths[depths <= 1.0]
        mean = {
            name: np.mean([losses_by_depth(run, depths) for run in group], axis=0) for name, group in groups.items()
        }
        for first, second in combinations(groups, 2):
            one = groups[first][0]
            by_unit.append(score_influence(mean[second] - mean[first], one.reference))
            units.append(one.units)
            nothing = np.full(len(depths), np.nan)
            found.append(CurveDifference(profile, first, second, depths, by_unit[-1].sum(axis=1), nothing))
    return [replace(one, p=p) for one, p in zip(found, flipped(by_unit, units, seed), strict=True)]


def score_influence(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What each unit adds to a difference of scores, [..., unit], from a difference of losses [..., unit, part]; the sum
    over units is the difference, since the score is linear in the loss."""
    whole = reference.sum(axis=0)
    there = whole > 0
    return (loss[..., there] / whole[there]).sum(axis=-1) / max(1, int(there.sum()))
