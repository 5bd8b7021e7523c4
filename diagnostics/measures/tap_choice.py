"""The tap to use: a rule over losses of train and val, or of val alone; no loss on test enters.

It is the best tap other than the output, unless that is ahead of the output by no more than one standard error of their
difference (and `TIE`): then the output, which costs no search. Both by losses that are clipped at each tap's 95th
percentile, since one unit with a large loss would decide by itself; wrong answers are not clipped. Among eighteen rules
it has the least mean regret (docs/explanation/statistics.md, `benchmarks/recommend.py`). Taps behind the output are no
candidates: it cannot hide them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diagnostics.measures.statistics import (
    Losses,
)

COVERAGE = 0.9
"""The share of draws in which the set holds a tap that none is better than."""


def confidence_set(losses: Losses, candidates: np.ndarray, seed: int) -> list[int]:
    """The `candidates` (indices of taps) that are not shown to be worse than the others that stay, in their order.

    Hansen, Lunde and Nason (2011, Econometrica 79, T_max): of the taps that remain, the one that is worst against their
    mean, in standard errors, leaves as long as the largest such distance is larger than in 90 % of bootstrap resamples
    of the units, about what was found. For few units that level is expanded as `statistics.interval` expands its own
    (Hesterberg 2015). A single unit tells no taps apart. Taps without a score leave first.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.tap_choice import confidence_set
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
    away = losses.at(left.tolist()).resample(seed) - score[left]
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
    """Indices of taps: the one to use, the best other than the output, and those not shown to be worse.

    The second is None where there is none; the last are compared with the best.
    """

    tap: int
    best: int | None
    alike: tuple[int, ...]


def choose_tap(
    losses: Losses, output: int, depth: np.ndarray, seed: int | None, favour: bool = True
) -> TapChoice | None:
    """The tap to use, from the losses that choose; None where no tap up to the output has a score.

    Parameters
    ----------
    losses: out of fold on train and val, or on val; [tap, unit] or [tap, unit, part]. Those that count wrong answers
    are not clipped.
    output: index of the output tap; without a score it is no candidate.
    depth: [tap]; deeper taps than the output are no candidates.
    seed: of the resamples behind the set, which is the tap alone where it is None.
    favour: the output is taken within one standard error of a tap before it; otherwise only where it is the best.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.statistics import Losses
        >>> from diagnostics.measures.tap_choice import choose_tap
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
    alike = () if seed is None else confidence_set(losses, candidates, seed)
    return TapChoice(tap, best, tuple(sorted({tap, *alike})))


def standard_error(pair: Losses) -> float:
    """The standard error of the difference of two taps' scores, paired over units.

    By the infinitesimal jackknife (Efron 1982, chapter 6), of drawn scores by the draws; infinite for one unit.
    """
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
