"""The finding on a target: the tap to use, its hidden gap, and the verdict, the same wherever it stands.

The tap follows a rule over losses of train and val, or of val alone; no loss on test enters. It is the best tap other
than the output, unless that is ahead of the output by no more than one standard error of their difference (and `TIE`):
then the output, which costs no search. Both by losses that are clipped at each tap's 95th percentile, since one unit
with a large loss would decide by itself; wrong answers are not clipped. Among eighteen rules it has the least mean
regret (docs/explanation/statistics.md, `benchmarks/recommend.py`). Taps behind the output are no candidates: it cannot
hide them.

Differences of scores on test are paired over its units. The taps that are compared were chosen without test, so that
the interval of one gap holds. The bound holds for all taps at once: the largest of their upper ends is above the
largest gap wherever the upper end of that tap's own gap is (an intersection-union test; Berger 1982, Technometrics 24).
Of two taps alone nothing else makes it err on the wide side, so there each end is also Student's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.statistics import (
    LEVEL,
    Interval,
    Losses,
    effective_units,
    interval,
)

COVERAGE = 0.9
"""How often the set holds a tap that none is better than."""


def confidence_set(losses: Losses, candidates: np.ndarray, seed: int) -> list[int]:
    """The `candidates` (indices of taps) that are not shown to be worse than the others that stay, in their order.

    Hansen, Lunde and Nason (2011, Econometrica 79, T_max): of the taps that remain, the one that is worst against their
    mean, in standard errors, leaves as long as the largest such distance is larger than in 90 % of bootstrap resamples
    of the units, about what was found. For few units that level is expanded as `statistics.interval` expands its own
    (Hesterberg 2015). A single unit tells no taps apart. Taps without a score leave first.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.verdict import confidence_set
        >>> from diagnostics.measures.statistics import Losses
        >>> loss = np.random.default_rng(0).random((3, 80)) * [[1.0], [1.0], [1.5]]
        >>> confidence_set(Losses(loss, np.ones((3, 80))), np.arange(3), seed=0)
        [0, 1]
    """
    from scipy import special

    score = losses.scores
    left = np.asarray(candidates)[np.isfinite(score[candidates])]
    units = losses.loss.shape[1]
    if len(left) < 2 or units < 2:
        return left.tolist()
    away = losses.at(left.tolist()).resampled(seed) - score[left]
    # A part (class) that a resample draws in no unit leaves it without a score.
    away = away[np.isfinite(away).all(axis=1)]
    level = special.ndtr(np.sqrt(units / (units - 1)) * special.stdtrit(units - 1, COVERAGE))
    while True:
        around = away.mean(axis=1, keepdims=True) - away
        error = around.std(axis=0)
        told = error > 1e-12
        if not told.any():
            break
        error = np.where(told, error, np.inf)
        distance = (score[left].mean() - score[left]) / error
        if distance.max() <= np.quantile((around / error).max(axis=1), level):
            break
        stays = np.arange(len(left)) != distance.argmax()
        left, away = left[stays], away[:, stays]
    return left.tolist()


CLIP = 0.95
"""Quantile of a tap's losses at which they are clipped."""
TIE = 0.001
"""Score that a tap must be ahead of the output at least: a smaller difference is shown by no printed score, and may be
of rounding.
"""
FEWEST = 10
"""Units of train and val below which a target's own losses do not choose."""


@dataclass(frozen=True)
class TapChoice:
    """Indices of taps: the one to use, the best other than the output (None where there is none), and those that are
    not shown to be worse than the best."""

    tap: int
    best: int | None
    alike: tuple[int, ...]


def choose_tap(losses: Losses, output: int, depth: np.ndarray, seed: int, favour: bool = True) -> TapChoice | None:
    """The tap to use, from the losses that choose; None where no tap up to the output has a score.

    Parameters
    ----------
    losses: out of fold on train and val, or on val; [tap, unit] or [tap, unit, part]. Those that count wrong answers
    are not clipped.
    output: index of the output tap; without a score it is no candidate.
    depth: [tap]; deeper taps than the output are no candidates.
    seed: of the resamples behind the set.
    favour: the output is taken within one standard error of a tap before it; otherwise only where it is the best.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.statistics import Losses
        >>> from diagnostics.measures.verdict import choose_tap
        >>> wrong = np.zeros((3, 40))  # of three taps on 40 units
        >>> wrong[0, :20], wrong[2, :10] = 1, 1
        >>> choose_tap(Losses(wrong, np.ones((3, 40)), counts=True), 2, np.array([0.0, 0.5, 1.0]), 0)
        TapChoice(tap=1, best=1, alike=(1,))
    """
    most = np.inf if losses.counts else np.quantile(losses.loss, CLIP, axis=1, keepdims=True)
    losses = replace(losses, loss=np.minimum(losses.loss, most), counts=False)
    score = losses.scores
    candidates = np.flatnonzero(np.isfinite(score) & (depth <= depth[output]))
    if len(candidates) == 0:
        return None
    others = candidates[candidates != output]
    best = int(others[score[others].argmax()]) if len(others) else None
    tap = output if best is None else best
    if best is not None and output in candidates:
        # What comes after the output, as the other views of raw input do, is no dearer to use.
        favoured = favour and best < output
        needed = standard_error(losses.at([best, output])) if favoured else 0.0
        tap = best if score[best] - score[output] > max(needed, TIE if favoured else 0.0) else output
    return TapChoice(tap, best, tuple(sorted({tap, *confidence_set(losses, candidates, seed)})))


def standard_error(pair: Losses) -> float:
    """The standard error of the difference of two taps' scores, paired over units, by the infinitesimal jackknife
    (Efron 1982, chapter 6), of drawn scores by the draws; infinite for one unit."""
    units = pair.loss.shape[1]
    if units < 2:
        return float("inf")
    if pair.drawn is not None:
        return float(np.nanstd(pair.drawn[0, 1:] - pair.drawn[1, 1:]))
    loss, reference = (x.reshape(2, units, -1) for x in (pair.loss, pair.reference))
    total = reference.sum(axis=1, keepdims=True)
    # A part that is nowhere adds nothing.
    whole = np.where(total > 0, total, np.inf)
    influence = (loss - loss.sum(axis=1, keepdims=True) / whole * reference) / whole
    each = influence.sum(axis=2) / np.isfinite(whole).sum(axis=2)
    return float(np.sqrt(units / (units - 1) * ((each[0] - each[1]) ** 2).sum()))


def paired_differences(
    ours: Losses, theirs: Losses, fit_units: int, seed: int, level: float = LEVEL, *, student: bool = False
) -> list[Interval]:
    """By how much the score of each of our taps beats that of their one, on the same test units.

    Theirs are of one tap. `fit_units`, `level` and `student` are those of `statistics.interval`.
    """
    gaps = ours.scores - theirs.scores
    first, second = (side.resampled(seed, stream) for stream, side in enumerate((ours, theirs)))
    found: list[Interval] = []
    for gap, reference, drawn in zip(gaps, ours.reference, (first - second).T, strict=True):
        effective, units = effective_units(np.stack([reference, *theirs.reference]), ours.counts), ours.loss.shape[1]
        low, high = interval(gap, drawn, units, fit_units, effective, level, student=student)
        most = 1.0 if ours.counts else np.inf
        found.append(Interval(float(gap), float(np.maximum(low, -most)), float(np.minimum(high, most))))
    return found


def largest_upper_end(gaps: list[Interval]) -> float:
    """The bound on the largest gap of all taps; NaN where no gap has a value, and where one has no interval.

    Examples:
        >>> from diagnostics.measures.verdict import largest_upper_end
        >>> from diagnostics.measures.statistics import Interval
        >>> largest_upper_end([Interval(0.01, -0.02, 0.04), Interval(-0.3, -0.5, 0.05)])
        0.05
    """
    ends = [gap.high for gap in gaps if np.isfinite(gap.value)]
    return float(np.max(ends, initial=0.0)) if ends else float("nan")


class Verdict(StrEnum):
    """What is known of the hidden gap of a target, in the order in which findings are listed.

    Examples:
        >>> from diagnostics.measures.verdict import Verdict
        >>> [f"{verdict.mark} {verdict}" for verdict in Verdict]
        ['+ shown', '? undecided', '= excluded', '- at chance']
    """

    SHOWN = "shown"
    UNDECIDED = "undecided"
    EXCLUDED = "excluded"
    AT_CHANCE = "at chance"

    @property
    def mark(self) -> str:
        """The character that stands for it, which every terminal has."""
        return {"shown": "+", "undecided": "?", "excluded": "=", "at chance": "-"}[self]

    @property
    def meaning(self) -> str:
        """The finding in a few words."""
        return {
            "shown": "hidden by the output from a linear readout",
            "undecided": "cannot tell whether the output hides it",
            "excluded": "not hidden: larger gaps than the margin are excluded",
            "at chance": "at chance at every layer",
        }[self]


MARGIN = 0.05
"""The gap that is excluded unless a user names another: this share of what lies between chance and the best score."""


def check_margin(margin: float | None) -> None:
    """Raises DiagnosticsError for a margin that a user named and that is no gap."""
    if margin is not None and not margin > 0:
        raise DiagnosticsError(f"The margin is {margin}: give the smallest hidden gap that matters, above 0.")


def units_needed(gap: Interval, units: int, margin: float) -> int | None:
    """How many test units would tell a gap of the margin from none, from the width of the interval over `units`: it
    falls with the root of their number. Never from the gap itself, which would promise much where it is large by
    chance. None without a width."""
    half = (gap.high - gap.low) / 2
    if not (math.isfinite(half) and margin > 0):
        return None
    return math.ceil(units * (half / margin) ** 2)


def round_count(count: int) -> int:
    """A count to two significant digits, as an estimate is sure of."""
    return int(float(f"{count:.2g}"))
