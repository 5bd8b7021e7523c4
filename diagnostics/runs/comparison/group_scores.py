"""Scores of each group of runs in each probe: chosen tap, output, hidden gap, and what is lost in the head."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.differences import Groups
from diagnostics.runs.comparison.estimates import Estimate, Term, estimate_sum, part_score
from diagnostics.runs.comparison.probe_losses import ProbeLosses


@dataclass(frozen=True)
class GroupScore:
    """One group in one profile, the mean over its seeds. `chosen_taps`: the tap to use and its depth, by seed.

    head_drop: the trunk's last tap minus the head's last (the Guillotine curve; Bordes et al. 2023, 2206.13378); None where
    there is no head.
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
    return GroupScore(name, group, taps, chosen, output, gap, drop)


def _score(terms: Sequence[Term], own: Interval | None, seed: int) -> Estimate:
    """Of one run its `own` score: a run knows where a score is a share of right answers, whose ends are exact."""
    if len(terms) == 1 and own is not None:
        return Estimate(own, None, float("nan"))
    return estimate_sum([([(term,) for term in terms], 1.0)], seed)


def family_gaps(by_profile: Mapping[str, Groups], chosen: Sequence[str], seed: int) -> list[FamilyGap]:
    """The mean hidden gap of each group over the profiles `chosen` of each family, in which all its runs have a value."""
    gaps: list[FamilyGap] = []
    families = {name: next(iter(by_profile[name].values()))[0].profile.family for name in chosen}
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
