"""Gains and losses of an alignment against its base: recovered and kept share of each target."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.measures.result import CHANCE
from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import Part, estimate, estimate_sum, part_score, part_weights
from diagnostics.runs.comparison.probe_losses import ProbeLosses


@dataclass(frozen=True)
class Shares:
    """One alignment and one profile, against the base that it started from.

    recovered: (output of the aligned - output of the base) / (hidden gap of the base): 0 when the output shows no more of
        what was hidden, 1 when it shows all.
    kept_best, kept_output: the aligned encoder's chosen tap and output over the base's, above chance: 1 when
        nothing was lost.
    over_control: the aligned output's score minus that of its control, which was trained in the same way but taught by the
        base itself: what the tap added to what training did. Paired.
    recovered_over_control: the same, of the base's hidden gap.
    cut: what reading the base at the tap that the alignment names does without any training: the recovered share where there
        is one of the target, else the kept share at the output (`cut_is`).
    floor: the score at chance: what the measure declares, the base's score with shuffled labels otherwise.
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
    over_control: Interval | None
    recovered_over_control: Interval | None
    cut: Interval | None
    reasons: Mapping[str, str]

    @property
    def cut_is(self) -> str | None:
        """Which share `cut` is: "recovered" or "kept"; None where there is none."""
        return self.cut and ("kept" if self.recovered is None else "recovered")

    @property
    def lifted(self) -> bool:
        """Whether the output is shown to hold more than the control's."""
        return self.over_control is not None and self.over_control.low > 0


NO_VALUE = "there is no value"
LEAST_GAP = 0.01
"""Of a base, below which nothing worth a share is hidden, however sure it is."""


Pairs = Sequence[tuple[ProbeLosses, ProbeLosses]]
"""Runs of an alignment, each with the run of its base."""


def shares_of(
    profile: str,
    group: str,
    base: str,
    of_seeds: int,
    purpose: bool,
    pairs: Pairs,
    controls: Sequence[ProbeLosses | str],
    cut_at: Sequence[str],
    seed: int,
) -> Shares:
    """The shares of an alignment, its seeds together: each run against its own base and its control (or why it has none), then
    the ratio of the means. `cut_at`: the tap of its base that each run names, "" of one that names none.

    A share of nothing means nothing: `recovered` needs a hidden gap of the base that its interval shows to be above 0 and that is
    `LEAST_GAP` or more, and what is kept needs a base that is shown to know something there.
    """
    bases = list(dict.fromkeys(run for _, run in pairs))
    floor, unknown = _floor(pairs)
    gap = _mean([(run.at_best, run.at_output) for run in bases], seed)
    reasons: dict[str, str] = {}
    values: dict[str, Interval | None] = dict.fromkeys(
        ("recovered", "kept_best", "kept_output", "over_control", "recovered_over_control", "cut")
    )
    lone = [control for control in controls if isinstance(control, str)]
    beside = [
        (aligned.at_output, control.at_output)
        for (aligned, _), control in zip(pairs, controls, strict=True)
        if not isinstance(control, str)
    ]
    if lone:
        reasons["over_control"] = lone[0]
    else:
        values["over_control"] = _mean(beside, seed)
    if math.isnan(gap.value):
        reasons["recovered"] = NO_VALUE
    elif not gap.low > 0:
        reasons["recovered"] = "the base's output is not shown to hide anything of it"
    elif gap.value < LEAST_GAP:
        reasons["recovered"] = f"what the base's output hides of it is below {LEAST_GAP}, too little for a share"
    else:
        gained = [(aligned.at_output, own.at_output) for aligned, own in pairs]
        hidden = [(own.at_best, own.at_output) for _, own in pairs]
        values["recovered"] = _ratio(gained, hidden, 0.0, seed)
        if not lone:
            values["recovered_over_control"] = _ratio(beside, hidden, 0.0, seed)
    for name, at in (
        ("kept_best", operator.attrgetter("at_chosen")),
        ("kept_output", operator.attrgetter("at_output")),
    ):
        known = _mean([(at(run),) for run in bases], seed)
        if unknown or math.isnan(known.value):
            reasons[name] = unknown or NO_VALUE
        elif not known.low > floor or (name == "kept_best" and not _beats_chance(pairs)):
            reasons[name] = "the base is not shown to know anything of it there"
        else:
            over, under = ([(at(run),) for run in runs] for runs in zip(*pairs, strict=True))
            values[name] = _ratio(over, under, floor, seed)
    if missing := [tap for tap, (_, own) in zip(cut_at, pairs, strict=True) if tap not in ("", *own.taps)]:
        reasons["cut"] = f"the run of the base has no tap {missing[0]}"
    elif all(cut_at):
        cut = [own.at(own.taps.index(tap)) for tap, (_, own) in zip(cut_at, pairs, strict=True)]
        if values["recovered"] is not None:
            gained = [(at, own.at_output) for at, (_, own) in zip(cut, pairs, strict=True)]
            values["cut"] = _ratio(gained, [(own.at_best, own.at_output) for _, own in pairs], 0.0, seed)
        elif values["kept_output"] is not None:
            values["cut"] = _ratio([(at,) for at in cut], [(own.at_output,) for _, own in pairs], floor, seed)
    return Shares(profile, group, base, len(pairs), of_seeds, purpose, floor, gap, reasons=reasons, **values)


def _mean(parts: Sequence[Part], seed: int) -> Interval:
    return estimate_sum([(parts, 1.0)], seed).interval


def _ratio(over: Sequence[Part], under: Sequence[Part], floor: float, seed: int) -> Interval:
    """(mean of `over` - floor) / (mean of `under` - floor)."""
    terms = [term for part in (*over, *under) for term in part]
    first = len(over) * len(over[0])
    above, below = (np.array([part_score(part) for part in parts]) - floor for parts in (over, under))
    weights = part_weights(over), part_weights(under)

    def ratio(x: np.ndarray) -> np.ndarray:
        return (x[..., :first] @ weights[0] - floor) / (x[..., first:] @ weights[1] - floor)

    # What each seed adds to a ratio of means, by its linearisation.
    spread = ((above - above.mean() / below.mean() * below) / below.mean()).tolist()
    return estimate(ratio, terms, [spread], seed).interval


def _floor(pairs: Pairs) -> tuple[float, str]:
    """The score at chance, and why it is not known ("" where it is)."""
    profiles = [base.profile for _, base in pairs]
    if CHANCE in profiles[0].data.attrs:
        return float(profiles[0].data.attrs[CHANCE]), ""
    levels = [profile.control("shuffled_labels") for profile in profiles]
    values = [level.value for level in levels if level is not None and math.isfinite(level.value)]
    if len(values) < len(pairs):
        return math.nan, "the chance level is not known: run the base with its controls"
    return float(np.mean(values)), ""


def _beats_chance(pairs: Pairs) -> bool:
    """Whether the bases' best taps beat their own shuffled labels, where there are any: what chance reaches varies too."""
    margins = [base.profile.over("shuffled_labels") for _, base in pairs]
    return all(margin is None or margin.low > 0 for margin in margins)
