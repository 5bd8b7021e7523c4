"""The tap to use for a target: a rule over losses of train and val, or of val alone; no loss on test enters.

The tap with the best score, unless it lies before the output and is not better than the output by more than one standard error of
their difference: then the output, which costs no search. The error is the paired one over units, of losses that are clipped at
each tap's 95th percentile, since one heavy-tailed unit would make it idle. Taps behind the output are no candidates: it cannot
hide them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagnostics.measures.confidence_set import confidence_set
from diagnostics.measures.statistics import Losses, resample_counts, scores

CLIP = 0.95
"""Quantile of a tap's losses at which they are clipped where the error of a difference is computed."""
FEWEST = 10
"""Units of train and val below which a target's own losses do not choose."""


@dataclass(frozen=True)
class TapChoice:
    """Indices of taps: the one to use, the best other than the output (None where there is none), and those that are not shown to be
    worse than the best."""

    tap: int
    best: int | None
    alike: tuple[int, ...]


def choose_tap(
    losses: Losses, output: int, depth: np.ndarray, seed: int, share: bool = False, favour: bool = True
) -> TapChoice | None:
    """The tap to use, from the losses that choose; None where no tap up to the output has a score.

    Parameters
    ----------
    losses: out of fold on train and val, or on val; [tap, unit] or [tap, unit, part].
    output: index of the output tap; without a score it is no candidate.
    depth: [tap]; deeper taps than the output are no candidates.
    seed: of the resamples.
    share: losses count wrong answers; these are not clipped.
    favour: the output is taken within one standard error; otherwise only where it is the best.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.statistics import Losses
        >>> from diagnostics.measures.tap_choice import choose_tap
        >>> wrong = np.zeros((3, 40))  # of three taps on 40 units
        >>> wrong[0, :20], wrong[2, :10] = 1, 1
        >>> choose_tap(Losses(wrong, np.ones((3, 40))), 2, np.array([0.0, 0.5, 1.0]), 0, share=True)
        TapChoice(tap=1, best=1, alike=(1,))
    """
    score = losses.scores
    candidates = np.flatnonzero(np.isfinite(score) & (depth <= depth[output]))
    if len(candidates) == 0:
        return None
    others = candidates[candidates != output]
    best = int(others[score[others].argmax()]) if len(others) else None
    tap = output if best is None else best
    if best is not None and output in candidates:
        gap = score[best] - score[output]
        # What stands beside the output, as the views of raw input do, is no cheaper and no safer.
        error = _error(losses, best, output, seed, share) if favour and depth[best] < depth[output] else 0.0
        tap = best if gap > error else output
    alike = {tap, *confidence_set(losses, candidates, seed)}
    return TapChoice(tap, best, tuple(sorted(int(each) for each in alike)))


def _error(losses: Losses, tap: int, other: int, seed: int, share: bool) -> float:
    """The standard error of the difference of two taps' scores, paired over units, of clipped losses."""
    pair = losses.loss[[tap, other]]
    if not share:
        pair = np.minimum(pair, np.quantile(pair, CLIP, axis=1, keepdims=True))
    drawn = scores(pair, losses.reference[[tap, other]], resample_counts(pair.shape[1], seed))
    # A part (class) that a resample draws in no unit leaves it without a score.
    return float(np.nanstd(drawn[:, 0] - drawn[:, 1]))
