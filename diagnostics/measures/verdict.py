"""The verdict on a target: whether its output hides something, the same wherever it stands.

Also the differences on test that decide it.

Differences of scores on test are paired over its units. The taps that are compared were chosen without test, so that
the interval of one gap holds. The bound holds for all taps at once: the largest of their upper ends is above the
largest gap wherever the upper end of that tap's own gap is (an intersection-union test; Berger 1982, Technometrics 24).
Of two taps alone nothing else makes it err on the wide side, so there each end is also Student's.
"""

import math
from enum import StrEnum

import numpy as np

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.statistics import LEVEL, Interval, Losses, effective_units, interval


class Verdict(StrEnum):
    """The finding on the hidden gap of a target, in the order in which findings are listed.

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
    """Raise DiagnosticsError for a margin that a user named and that is no gap."""
    if margin is not None and not margin > 0:
        raise DiagnosticsError(
            f"The margin is {margin}: give the smallest hidden gap that matters, above 0.", code="bad-value"
        )


def units_needed(gap: Interval, units: int, margin: float) -> int | None:
    """Test units that would tell a gap of the margin from none; None without a width, and beyond ten million.

    It follows from the width of the interval over `units`, which falls with the root of their number. Never from the
    gap itself, which would promise much where it is large by chance.
    """
    half = (gap.high - gap.low) / 2
    if not (math.isfinite(half) and margin > 0):
        return None
    needed = math.ceil(units * (half / margin) ** 2)
    return needed if needed <= 10**7 else None


def round_count(count: int) -> int:
    """A count to two significant digits, as an estimate is sure of."""
    return int(float(f"{count:.2g}"))


def paired_differences(
    ours: Losses, theirs: Losses, fit_units: int, seed: int, level: float = LEVEL, *, student: bool = False
) -> list[Interval]:
    """By how much the score of each of our taps beats that of their one, on the same test units.

    Theirs are of one tap. `fit_units`, `level` and `student` are those of `statistics.interval`.
    """
    gaps = ours.scores - theirs.scores
    first, second = (side.resample(seed, stream) for stream, side in enumerate((ours, theirs)))
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
