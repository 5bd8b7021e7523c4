"""Differences of scores on test, paired over its units: the hidden gap of a tap, and the bound on that of every tap.

The taps that are compared were chosen without test, so that the interval of one gap holds. The bound holds for all taps at once: the
largest of their upper ends is above the largest gap wherever the upper end of that tap's own gap is (an intersection-union test; Berger
1982, Technometrics 24). Of two taps alone nothing else makes it err on the wide side, so there each end is also Student's.
"""

import numpy as np

from diagnostics.measures.statistics import (
    LEVEL,
    Interval,
    Losses,
    effective_units,
    interval,
)


def paired_differences(
    ours: Losses, theirs: Losses, fit_units: int, seed: int, level: float = LEVEL, *, student: bool = False
) -> list[Interval]:
    """By how much the score of each of our taps beats that of their one, on the same test units.

    Theirs are of one tap. `fit_units`, `level` and `student` are those of `statistics.interval`.
    """
    gaps = ours.scores - theirs.scores[0]
    first, second = (side.resampled(seed, stream) for stream, side in enumerate((ours, theirs)))
    found: list[Interval] = []
    for i, gap in enumerate(gaps):
        effective = effective_units(np.stack([ours.reference[i], theirs.reference[0]]), ours.counts)
        drawn, units = first[:, i] - second[:, 0], ours.loss.shape[1]
        low, high = interval(gap, drawn, units, fit_units, effective, level, student=student)
        most = 1.0 if ours.counts else np.inf
        found.append(Interval(float(gap), float(np.maximum(low, -most)), float(np.minimum(high, most))))
    return found


def paired_difference(
    loss: np.ndarray,
    reference: np.ndarray,
    other_loss: np.ndarray,
    other_reference: np.ndarray,
    fit_units: int,
    seed: int,
    share: bool = False,
) -> Interval:
    """`paired_differences` of one tap, from losses [unit] or [unit, part] in the same order; `share`: they count wrong answers."""
    ours, theirs = (Losses(x[None], y[None], share) for x, y in ((loss, reference), (other_loss, other_reference)))
    return paired_differences(ours, theirs, fit_units, seed)[0]


def largest_upper_end(gaps: list[Interval]) -> float:
    """The bound on the largest gap of all taps; NaN where no gap has a value, and where one has no interval.

    Examples:
        >>> from diagnostics.measures.hidden_gap import largest_upper_end
        >>> from diagnostics.measures.statistics import Interval
        >>> largest_upper_end([Interval(0.01, -0.02, 0.04), Interval(-0.3, -0.5, 0.05)])
        0.05
    """
    ends = [gap.high for gap in gaps if np.isfinite(gap.value)]
    return float(np.max(ends, initial=0.0)) if ends else float("nan")
