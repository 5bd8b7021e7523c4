"""Scores of each group of runs in each probe: best tap, output, hidden gap, and what is lost in the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison.differences import Groups, mean_of, value_of
from diagnostics.runs.comparison.estimates import Estimate, estimate
from diagnostics.runs.comparison.probe_losses import ProbeLosses
from diagnostics.runs.profile import Profile


@dataclass(frozen=True)
class GroupScore:
    """One group in one profile, the mean over its seeds. `best_taps`: the tap that val chose and its depth, by seed.

    head_drop: the trunk's last tap minus the head's last (the Guillotine curve; Bordes et al. 2023, 2206.13378); None where
    there is no head.
    """

    profile: str
    group: str
    best_taps: tuple[tuple[str, float], ...]
    best: Estimate
    output: Estimate
    hidden_gap: Estimate
    head_drop: Estimate | None

    @property
    def best_tap_text(self) -> str:
        """The tap chosen, with its depth; of several seeds the most frequent one and how many of them chose it."""
        (tap, depth), count = Counter(self.best_taps).most_common(1)[0]
        of = f" {count}/{len(self.best_taps)}" if len(self.best_taps) > 1 else ""
        return f"{tap} ({depth:.2f}){of}"


@dataclass(frozen=True)
class FamilyGap:
    """The hidden gap of one group in one family: the mean over its profiles and seeds."""

    family: str
    group: str
    profiles: tuple[str, ...]
    hidden_gap: Estimate


def group_scores_of(
    by_profile: Mapping[str, Groups], profiles: Mapping[str, Mapping[str, Sequence[Profile]]], seed: int
) -> list[GroupScore]:
    """Every group in every profile in which a tap of each of its runs has a value. `profiles` are those of `by_profile`."""
    return [
        _group_score(name, group, runs, profiles[name][group], seed)
        for name, groups in by_profile.items()
        for group, runs in groups.items()
        if all(run.best is not None for run in runs)
    ]


def _group_score(
    name: str, group: str, runs: Sequence[ProbeLosses], profiles: Sequence[Profile], seed: int
) -> GroupScore:
    chosen = [run.best for run in runs if run.best is not None]
    taps = tuple((run.taps[i], float(run.depths[i])) for run, i in zip(runs, chosen, strict=True))
    best, output = (_score(runs, profiles, place, seed) for place in ("best", "output"))
    terms, weights = mean_of([(runs, 1.0)], "hidden gap")
    gap = estimate(lambda x: x @ weights, terms, [[value_of(run, "hidden gap") for run in runs]], seed)
    return GroupScore(name, group, taps, best, output, gap, _head_drop(runs, seed))


def _score(runs: Sequence[ProbeLosses], profiles: Sequence[Profile], place: str, seed: int) -> Estimate:
    """Of one run what the run itself says: it knows where a score is a share of right answers, whose ends are exact."""
    if len(runs) == 1:
        score: Interval | None = getattr(profiles[0], place)
        assert score is not None
        return Estimate(score, None, float("nan"))
    terms, weights = mean_of([(runs, 1.0)], "best tap" if place == "best" else "output")
    return estimate(lambda x: x @ weights, terms, [[term.score for term in terms]], seed, most=1.0)


def _head_drop(runs: Sequence[ProbeLosses], seed: int) -> Estimate | None:
    ends = [run.ends for run in runs]
    known = [pair for pair in ends if pair is not None]
    if len(known) < len(ends):
        return None
    weights = np.tile([1.0, -1.0], len(known)) / len(known)
    spread = [trunk.score - head.score for trunk, head in known]
    return estimate(lambda x: x @ weights, [term for pair in known for term in pair], [spread], seed)


def family_gaps(
    by_profile: Mapping[str, Groups], families: Mapping[str, str], chosen: Sequence[str], seed: int
) -> list[FamilyGap]:
    """The mean hidden gap of each group over the profiles `chosen` of each family, in which all its runs have a value."""
    gaps: list[FamilyGap] = []
    groups = list(next(iter(by_profile.values()), {}))
    for family in dict.fromkeys(families[name] for name in chosen):
        for group in groups:
            names = [
                name
                for name in chosen
                if families[name] == family and all(run.best is not None for run in by_profile[name][group])
            ]
            if not names:
                continue
            terms, weights = mean_of([(by_profile[name][group], 1 / len(names)) for name in names], "hidden gap")
            by_seed = zip(
                *([value_of(run, "hidden gap") for run in by_profile[name][group]] for name in names), strict=True
            )
            spread = [float(np.mean(values)) for values in by_seed]
            gap = estimate(lambda x, weights=weights: x @ weights, terms, [spread], seed)
            gaps.append(FamilyGap(family, group, tuple(names), gap))
    return gaps
