"""The best tap, chosen on val, and the hidden gap: its difference from the output on test, with an interval.

Score and gap are read on test, where nothing was chosen. The interval of the gap is for the tap that was chosen.
"""

from dataclasses import dataclass

import numpy as np

from diagnostics.measures.statistics import (
    Interval,
    effective_units,
    interval,
    profile_intervals,
    resample_counts,
    resampled_scores,
    scores,
)


@dataclass(frozen=True)
class Selection:
    """The best tap, its score, and how much of it the output tap hides."""

    best_tap: str
    best: Interval
    hidden_gap: Interval


def select(
    taps: list[str],
    output_tap: str,
    val_score: np.ndarray,
    loss: np.ndarray,
    reference: np.ndarray,
    fit_units: int,
    seed: int,
    share: bool = False,
) -> Selection | None:
    """The best tap by val and what it beats the output tap by on test, paired over units; None when no tap has a score.

    `share` is that of `resampled_scores`. Where the output tap is the best tap it hides nothing: 0 with no width.
    """
    if not np.isfinite(val_score).any():
        return None
    best = int(np.nanargmax(val_score))
    output = taps.index(output_tap)
    ends = profile_intervals(loss[[best]], reference[[best]], fit_units, seed, share)
    gap = paired_difference(loss[best], reference[best], loss[output], reference[output], fit_units, seed, share)
    if best == output and np.isfinite(gap.low):
        gap = Interval(gap.value, gap.value, gap.value)
    return Selection(taps[best], Interval(*(float(end[0]) for end in ends)), gap)


def paired_difference(
    loss: np.ndarray,
    reference: np.ndarray,
    other_loss: np.ndarray,
    other_reference: np.ndarray,
    fit_units: int,
    seed: int,
    share: bool = False,
) -> Interval:
    """By how much one score beats another on the same test units, from losses [unit] or [unit, part] in the same order."""
    sides = [(x[None], y[None]) for x, y in ((loss, reference), (other_loss, other_reference))]
    gap = float(scores(*sides[0])[0] - scores(*sides[1])[0])
    counts = resample_counts(len(loss), seed)
    ours, theirs = (resampled_scores(*side, counts, seed, share, stream)[:, 0] for stream, side in enumerate(sides))
    low, high = interval(
        gap, ours - theirs, len(loss), fit_units, effective_units(np.stack([reference, other_reference]), share)
    )
    return Interval(gap, float(low), float(high))
