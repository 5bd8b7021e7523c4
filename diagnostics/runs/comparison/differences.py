"""Scores of groups of runs, their paired differences on the same samples, and what an alignment keeps of its base."""

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal

import numpy as np

from diagnostics.measures.result import CHANCE
from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.estimates import (
    Estimate,
    Part,
    ProbeLosses,
    Term,
    by_depth,
    common_depths,
    estimate,
    estimate_sum,
    holm,
    near,
    part_score,
    part_weights,
    sign_flip_p,
)

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
        """True if it is shown, all comparisons together (0.05)."""
        return bool(self.p_corrected < ALPHA)

    @property
    def outcome(self) -> Literal["gained", "lost", "grew", "shrank", "cannot tell"]:
        """The gain or loss that the later group is shown to have, all comparisons together.

        A hidden gap, which is no gain, grew or shrank.
        """
        if not self.survives:
            return "cannot tell"
        more, less = ("grew", "shrank") if self.quantity == "hidden gap" else ("gained", "lost")
        return more if self.estimate.value > 0 else less


@dataclass(frozen=True)
class CurveDifference:
    """The difference of two groups along the trunk in one profile: first minus second.

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
        """The depth at which they differ most, of those at which that is shown (0.05); None where it is at none."""
        shown = np.flatnonzero(self.p < ALPHA)
        return int(shown[np.abs(self.difference[shown]).argmax()]) if shown.size else None


Groups = Mapping[str, Sequence[ProbeLosses]]
"""The probe losses of one profile by group, one a seed."""


Matched = Mapping[tuple[str, str], Sequence[tuple[int, int]]]
"""Which run of a group goes with which of another (places in their lists): an alignment's with what it was made from.
Such pairs of groups are compared run by run; those of trainings that have nothing to do with each other are not in
it."""


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
    """The differences of each pair of groups along the trunk.

    Over samples, for the encoders as they are (not over seeds).
    """
    curves: list[CurveDifference] = []
    by_unit: list[np.ndarray] = []
    units: list[Sequence[str]] = []
    fitted: list[int] = []
    for profile, groups in by_profile.items():
        runs = [run for group in groups.values() for run in group]
        depths = common_depths([run.depths for run in runs])
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
    return [replace(curve, p=p) for curve, p in zip(curves, sign_flip_p(by_unit, units, fitted, seed), strict=True)]


def score_influence(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Share of each unit in a difference of scores, [..., unit], from a difference of losses [..., unit, part].

    The sum over units is the difference, since the score is linear in the loss.
    """
    whole = reference.sum(axis=0)
    there = whole > 0
    return (loss[..., there] / whole[there]).sum(axis=-1) / max(1, int(there.sum()))


@dataclass(frozen=True)
class GroupScore:
    """One group in one profile, the mean over its seeds. `chosen_taps`: the tap to use and its depth, by seed.

    head_drop: the trunk's last tap minus the head's last (the Guillotine curve; Bordes et al. 2023, 2206.13378); None
    where there is no head.
    """

    profile: str
    group: str
    chosen_taps: tuple[tuple[str, float], ...]
    chosen: Estimate
    output: Estimate
    hidden_gap: Estimate
    head_drop: Estimate | None

    @property
    def chosen_tap_text(self) -> str:
        """The tap chosen, with its depth; of several seeds the most frequent one and how many of them chose it."""
        (tap, depth), count = Counter(self.chosen_taps).most_common(1)[0]
        of = f" {count}/{len(self.chosen_taps)}" if len(self.chosen_taps) > 1 else ""
        return f"{tap} ({depth:.2f}){of}"


@dataclass(frozen=True)
class FamilyGap:
    """The hidden gap of one group in one family: the mean over its profiles and seeds."""

    family: str
    group: str
    profiles: tuple[str, ...]
    hidden_gap: Estimate


def group_scores_of(by_profile: Mapping[str, Groups], seed: int) -> list[GroupScore]:
    """Every group in every profile in which a tap of each of its runs has a value."""
    return [
        _group_score(name, group, runs, seed)
        for name, groups in by_profile.items()
        for group, runs in groups.items()
        if all(run.chosen is not None for run in runs)
    ]


def _group_score(name: str, group: str, runs: Sequence[ProbeLosses], seed: int) -> GroupScore:
    taps = tuple((run.taps[run.chosen], float(run.depths[run.chosen])) for run in runs if run.chosen is not None)
    chosen = _score([run.at_chosen for run in runs], runs[0].profile.score, seed)
    output = _score([run.at_output for run in runs], runs[0].profile.output, seed)
    gap = estimate_sum([([(run.at_best, run.at_output) for run in runs], 1.0)], seed)
    ends = [run.ends for run in runs if run.ends is not None]
    drop = estimate_sum([(ends, 1.0)], seed) if len(ends) == len(runs) else None
    return GroupScore(name, group, taps, chosen=chosen, output=output, hidden_gap=gap, head_drop=drop)


def _score(terms: Sequence[Term], own: Interval | None, seed: int) -> Estimate:
    """Of one run its `own` score: a run knows where a score is a share of right answers, whose ends are exact."""
    if len(terms) == 1 and own is not None:
        return Estimate(own, None, float("nan"))
    return estimate_sum([([(term,) for term in terms], 1.0)], seed)


def family_gaps(by_profile: Mapping[str, Groups], chosen: Sequence[str], seed: int) -> list[FamilyGap]:
    """The mean hidden gap of each group over the profiles `chosen` of each family.

    Those count in which all its runs have a value.
    """
    gaps: list[FamilyGap] = []
    families = {name: run.profile.family for name in chosen for run in next(iter(by_profile[name].values()))}
    for family, group in product(dict.fromkeys(families.values()), next(iter(by_profile.values()), {})):
        parts = {
            name: [(run.at_best, run.at_output) for run in by_profile[name][group]]
            for name in chosen
            if families[name] == family and all(run.chosen is not None for run in by_profile[name][group])
        }
        if parts:
            by_seed = zip(*(map(part_score, own) for own in parts.values()), strict=True)
            spread = [float(np.mean(values)) for values in by_seed]
            gap = estimate_sum([(own, 1 / len(parts)) for own in parts.values()], seed, [spread])
            gaps.append(FamilyGap(family, group, tuple(parts), gap))
    return gaps


@dataclass(frozen=True)
class Shares:
    """One alignment and one profile, against the base that it started from.

    recovered: (output of the aligned - output of the base) / (hidden gap of the base): 0 when the output shows no more
    of
        what was hidden, 1 when it shows all.
    kept_best, kept_output: the aligned encoder's chosen tap and output over the base's, above chance: 1 when
        nothing was lost.
    over_control: the aligned output's score minus that of its control, which was trained in the same way but taught by
    the
        base itself: what the tap added to what training did. Paired.
    recovered_over_control: the same, of the base's hidden gap.
    cut: what reading the base at the tap that the alignment names does without any training: the recovered share where
    there
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
        """The kind of share that `cut` is: "recovered" or "kept"; None where there is none."""
        return None if self.cut is None else "kept" if self.recovered is None else "recovered"

    @property
    def is_lifted(self) -> bool:
        """True if the output is shown to hold more than the control's."""
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
    """The shares of an alignment, its seeds together.

    Each run is held against its own base and its control (or why it has none); then follows the ratio of the means.
    `cut_at`: the tap of its base that each run names, "" of one that names none.

    A share of nothing means nothing: `recovered` needs a hidden gap of the base that its interval shows to be above 0
    and that is `LEAST_GAP` or more, and what is kept needs a base that is shown to know something there.
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
    return Shares(
        profile,
        group,
        base,
        seeds=len(pairs),
        of_seeds=of_seeds,
        purpose=purpose,
        floor=floor,
        gap=gap,
        reasons=reasons,
        **values,
    )


def _mean(parts: Sequence[Part], seed: int) -> Interval:
    return estimate_sum([(parts, 1.0)], seed).interval


def _ratio(over: Sequence[Part], under: Sequence[Part], floor: float, seed: int) -> Interval:
    """(mean of `over` - floor) / (mean of `under` - floor)."""
    terms = [term for part in (*over, *under) for term in part]
    first = len(terms) // 2
    above, below = (np.array([part_score(part) for part in parts]) - floor for parts in (over, under))
    # Of as many runs and terms above as below.
    weights = part_weights(over)

    def ratio(x: np.ndarray) -> np.ndarray:
        return (x[..., :first] @ weights - floor) / (x[..., first:] @ weights - floor)

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
    """True if the bases' best taps beat their own shuffled labels, where there are any.

    What chance reaches varies too.
    """
    margins = [base.profile.over("shuffled_labels") for _, base in pairs]
    return all(margin is None or margin.low > 0 for margin in margins)
