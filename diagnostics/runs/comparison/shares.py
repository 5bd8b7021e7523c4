"""Gains and losses of an alignment against its base: recovered and kept share of each target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import Estimate, Term, estimate
from diagnostics.runs.comparison.probe_losses import ProbeLosses
from diagnostics.runs.profile import Profile


@dataclass(frozen=True)
class Shares:
    """One alignment and one profile, against the base that it started from.

    recovered: (output of the aligned - output of the base) / (hidden gap of the base): 0 when the output shows no more of
        what was hidden, 1 when it shows all.
    kept_best, kept_output: the aligned encoder's best tap and output over the base's, above chance: 1 when
        nothing was lost.
    floor: the score at chance: 0 of R2 and skill, the base's score with shuffled labels otherwise.
    reasons: name of a share -> why it has no value.
    """

    profile: str
    group: str
    base: str
    seeds: int
    """Trainings that were aligned, each with the run of its base; of one, intervals are over samples alone."""
    of_seeds: int
    """Runs of the base, aligned or not."""
    purpose: bool
    """Whether the alignment was made for this target."""
    floor: float
    gap: Interval
    recovered: Interval | None
    kept_best: Interval | None
    kept_output: Interval | None
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Matched:
    """A run of an alignment and the run of its base."""

    aligned: ProbeLosses
    base: ProbeLosses
    profile: Profile
    """Of the base."""


NO_VALUE = "there is no value"
LEAST_GAP = 0.01
"""Of a base, below which nothing worth a share is hidden, however sure it is."""


def shares_of(
    profile: str, group: str, base: str, of_seeds: int, purpose: bool, pairs: Sequence[Matched], seed: int
) -> Shares:
    """The shares of an alignment, its seeds together: each run against its own base, then the ratio of the means.

    A share of nothing means nothing: `recovered` needs a hidden gap of the base that its interval shows to be above 0 and that is
    `LEAST_GAP` or more, and what is kept needs a base that is shown to know something there.
    """
    bases = list({id(pair.base): pair.base for pair in pairs}.values())
    floor, unknown = _floor(pairs)
    gap = _mean([(run.at_best, run.at_output) for run in bases], seed)
    reasons: dict[str, str] = {}
    recovered: Interval | None = None
    if math.isnan(gap.value):
        reasons["recovered"] = NO_VALUE
    elif not gap.interval.low > 0:
        reasons["recovered"] = "the base's output is not shown to hide anything of it"
    elif gap.value < LEAST_GAP:
        reasons["recovered"] = f"what the base's output hides of it is below {LEAST_GAP}, too little for a share"
    else:
        over = [(pair.aligned.at_output, pair.base.at_output) for pair in pairs]
        under = [(pair.base.at_best, pair.base.at_output) for pair in pairs]
        recovered = _ratio(over, under, 0.0, seed)
    kept: dict[str, Interval | None] = {}
    for name, where in (("kept_best", "at_best"), ("kept_output", "at_output")):
        kept[name] = None
        known = _mean([(getattr(run, where),) for run in bases], seed)
        if unknown or math.isnan(known.value):
            reasons[name] = unknown or NO_VALUE
        elif not known.interval.low > floor or (where == "at_best" and not _beats_chance(pairs)):
            reasons[name] = "the base is not shown to know anything of it there"
        else:
            kept[name] = _ratio(
                [(getattr(pair.aligned, where),) for pair in pairs],
                [(getattr(pair.base, where),) for pair in pairs],
                floor,
                seed,
            )
    return Shares(
        profile, group, base, len(pairs), of_seeds, purpose, floor, gap.interval, recovered, kept["kept_best"],
        kept["kept_output"], reasons,
    )  # fmt: skip


Parts = Sequence[tuple[Term, ...]]
"""By seed: the term, or the term and what is taken from it."""


def _values(parts: Parts) -> np.ndarray:
    return np.array([part[0].score - (part[1].score if len(part) > 1 else 0.0) for part in parts])


def _weights(parts: Parts) -> np.ndarray:
    return np.tile([1.0, -1.0][: len(parts[0])], len(parts)) / len(parts)


def _mean(parts: Parts, seed: int) -> Estimate:
    weights = _weights(parts)
    terms = [term for part in parts for term in part]
    return estimate(lambda x: x @ weights, terms, [_values(parts).tolist()], seed)


def _ratio(over: Parts, under: Parts, floor: float, seed: int) -> Interval:
    """(mean of `over` - floor) / (mean of `under` - floor)."""
    terms = [term for part in (*over, *under) for term in part]
    first = len(over) * len(over[0])
    above, below = _values(over) - floor, _values(under) - floor
    weights = _weights(over), _weights(under)

    def ratio(x: np.ndarray) -> np.ndarray:
        return (x[..., :first] @ weights[0] - floor) / (x[..., first:] @ weights[1] - floor)

    # What each seed adds to a ratio of means, by its linearisation.
    spread = ((above - above.mean() / below.mean() * below) / below.mean()).tolist()
    return estimate(ratio, terms, [spread], seed).interval


def _floor(pairs: Sequence[Matched]) -> tuple[float, str]:
    """The score at chance, and why it is not known ("" where it is)."""
    if pairs[0].profile.data.attrs["score_name"] in ("R2", "skill"):
        return 0.0, ""
    levels = [pair.profile.control("shuffled_labels") for pair in pairs]
    values = [level.value for level in levels if level is not None and math.isfinite(level.value)]
    if len(values) < len(pairs):
        return math.nan, "what chance reaches is not known: run the base with its controls"
    return float(np.mean(values)), ""


def _beats_chance(pairs: Sequence[Matched]) -> bool:
    """Whether the bases' best taps beat their own shuffled labels, where there are any: what chance reaches varies too."""
    margins = [pair.profile.over("shuffled_labels") for pair in pairs]
    return all(margin is None or margin.low > 0 for margin in margins)
