"""What each group of runs reaches in each probe: best tap, output, hidden gap and what its head throws away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.comparison.estimates import Estimate, estimate, score_of
from diagnostics.comparison.readouts import SAME, Readout


@dataclass(frozen=True)
class Standing:
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
    def best_tap_said(self) -> str:
        """The tap chosen, with its depth; of several seeds the most frequent one and how many of them chose it."""
        (tap, depth), count = Counter(self.best_taps).most_common(1)[0]
        of = f" {count}/{len(self.best_taps)}" if len(self.best_taps) > 1 else ""
        return f"{tap} ({depth:.2f}){of}"


def standings_of(by_profile: Mapping[str, Mapping[str, Sequence[Readout]]], seed: int) -> list[Standing]:
    """Every group in every profile in which a tap of each of its runs has a value."""
    return [
        _standing(profile, group, runs, seed)
        for profile, groups in by_profile.items()
        for group, runs in groups.items()
        if all(run.best is not None for run in runs)
    ]


def _standing(profile: str, group: str, runs: Sequence[Readout], seed: int) -> Standing:
    def at(*places: Callable[[Readout], np.ndarray]) -> Estimate:
        """The first place's score, or the first's minus the second's."""
        signs = np.array([1.0, -1.0])[: len(places)]
        losses = [np.mean([place(run) for run in runs], axis=0) for place in places]
        spread = [float(signs @ np.array([score_of(place(run), run.reference) for place in places])) for run in runs]
        return estimate(lambda x: x @ signs, losses, runs[0].reference, [spread], runs[0].fit_units, seed)

    chosen = [run.best for run in runs if run.best is not None]
    return Standing(
        profile,
        group,
        tuple((run.taps[i], float(run.depths[i])) for run, i in zip(runs, chosen, strict=True)),
        at(lambda run: run.at_best),
        at(lambda run: run.at_output),
        at(lambda run: run.at_best, lambda run: run.at_output),
        at(trunk_end, head_end) if all(run.depths.max() > 1 + SAME for run in runs) else None,
    )


def trunk_end(run: Readout) -> np.ndarray:
    """Loss at the trunk's last tap, [unit, part]."""
    return run.loss[np.flatnonzero(run.depths <= 1 + SAME)[-1]]


def head_end(run: Readout) -> np.ndarray:
    """Loss at the head's last tap, [unit, part]."""
    return run.loss[np.flatnonzero(run.depths > 1 + SAME)[-1]]
