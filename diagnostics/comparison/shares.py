"""What an alignment bought and what it cost: recovered share and kept share of each target, against its base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.comparison.estimates import Estimate, estimate, score_of
from diagnostics.comparison.readouts import Readout
from diagnostics.profiles import Profile
from diagnostics.statistics import Interval


@dataclass(frozen=True)
class Shares:
    """One alignment and one profile, against the base that it started from.

    recovered: (output of the aligned - output of the base) / (hidden gap of the base): 0 when the output shows no more of
        what was hidden, 1 when it shows all.
    kept_best, kept_output: the aligned encoder's best tap and output over the base's, above what knows nothing: 1 when
        nothing was lost.
    floor: what knows nothing reaches: 0 of R2 and skill, the base's score with shuffled labels otherwise.
    reasons: name of a share -> why it has no value.
    """

    profile: str
    group: str
    base: str
    purpose: bool
    """Whether the alignment was made for this target."""
    floor: float
    gap: Interval
    recovered: Interval | None
    kept_best: Interval | None
    kept_output: Interval | None
    reasons: Mapping[str, str]


Pair = tuple[Readout, Readout]
"""Aligned and base."""


def shares_of(
    profile: str,
    group: str,
    base: str,
    purpose: bool,
    pairs: Sequence[Pair],
    base_profiles: Sequence[Profile],
    seed: int,
) -> Shares:
    """The shares of an alignment, its seeds together: each run against its own base, then the ratio of the means.

    A share of nothing means nothing: `recovered` needs a hidden gap of the base that its interval shows to be above 0, and
    what is kept needs a base that is shown to know something there.
    """
    floor, unknown = _floor(base_profiles)
    reference, fit_units = pairs[0][0].reference, pairs[0][0].fit_units
    aligned, bases = [a for a, _ in pairs], [b for _, b in pairs]

    def mean(runs: Sequence[Readout], where: str) -> np.ndarray:
        return np.mean([getattr(run, where) for run in runs], axis=0)

    def values(runs: Sequence[Readout], where: str) -> np.ndarray:
        return np.array([score_of(getattr(run, where), reference) for run in runs])

    best, output = values(bases, "at_best"), values(bases, "at_output")

    def ratio(
        over: np.ndarray, under: np.ndarray, losses: list[np.ndarray], signs: np.ndarray, offset: float
    ) -> Estimate:
        """(signs[0] . scores - offset) / (signs[1] . scores - offset); over, under: the same of each seed."""
        found = over.mean() / under.mean()
        residual = (over - found * under) / under.mean()

        def combine(x: np.ndarray) -> np.ndarray:
            return (x @ signs[0] - offset) / (x @ signs[1] - offset)

        return estimate(combine, losses, reference, [residual.tolist()], fit_units, seed)

    def difference(losses: list[np.ndarray], spread: np.ndarray, offset: float = 0.0) -> Estimate:
        signs = np.array([1.0, -1.0]) if len(losses) == 2 else np.array([1.0])
        return estimate(lambda x: x @ signs - offset, losses, reference, [spread.tolist()], fit_units, seed)

    reasons: dict[str, str] = {}
    gap = difference([mean(bases, "at_best"), mean(bases, "at_output")], best - output)
    recovered: Interval | None = None
    if gap.interval.low > 0:
        losses = [mean(aligned, "at_output"), mean(bases, "at_output"), mean(bases, "at_best")]
        signs = np.array([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
        over = values(aligned, "at_output") - output
        recovered = ratio(over, best - output, losses, signs, 0.0).interval
    else:
        reasons["recovered"] = "the base's output is not shown to hide anything of it"
    kept: dict[str, Interval | None] = {}
    for name, where, own in (("kept_best", "at_best", best), ("kept_output", "at_output", output)):
        known = difference([mean(bases, where)], own, floor)
        if unknown or not known.interval.low > 0:
            kept[name], reasons[name] = None, unknown or "the base is not shown to know anything of it there"
            continue
        losses, signs = [mean(aligned, where), mean(bases, where)], np.eye(2)
        kept[name] = ratio(values(aligned, where) - floor, own - floor, losses, signs, floor).interval
    return Shares(
        profile, group, base, purpose, floor, gap.interval, recovered, kept["kept_best"], kept["kept_output"], reasons
    )


def _floor(profiles: Sequence[Profile]) -> tuple[float, str]:
    """The score of what knows nothing, and why it is not known ("" where it is)."""
    if profiles[0].data.attrs["score_name"] in ("R2", "skill"):
        return 0.0, ""
    found = [profile.control("shuffled_labels") for profile in profiles]
    values = [one.value for one in found if one is not None and math.isfinite(one.value)]
    if len(values) < len(profiles):
        return math.nan, "what chance reaches is not known: run the base with its controls"
    return float(np.mean(values)), ""
