"""The verdict on a target: what test shows of a hidden gap, with its mark and its words, the same wherever it stands."""

from __future__ import annotations

import math
from enum import StrEnum

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.statistics import Interval


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
    """How many test units would tell a gap of the margin from none, from the width of the interval over `units`: it falls with the root
    of their number. Never from the gap itself, which would promise much where it is large by chance. None without a width."""
    half = (gap.high - gap.low) / 2
    if not (math.isfinite(half) and margin > 0):
        return None
    return math.ceil(units * (half / margin) ** 2)
