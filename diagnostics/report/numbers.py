"""Formatting of numbers: values, intervals and shares as text, plain values for JSON, reasons and names grouped.

Spaces that a line must not break at are no-break spaces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.measures.result import taps_by_reason

if TYPE_CHECKING:
    from diagnostics.measures.statistics import Interval

NO_VALUE = "-"
NO_BREAK = "\N{NO-BREAK SPACE}"
SCORE = ".3f"
"""Format of scores, whose scale is known: three decimals."""
SIGNIFICANT = ".3g"
"""Format of values of any scale: three significant digits."""


def nowrap(name: object) -> str:
    """A name, path or command that stays on one line."""
    return str(name).replace(" ", NO_BREAK)


def format_number(value: float, spec: str = SCORE) -> str:
    """A value in a format of Python's; a dash for NaN, and no sign for what rounds to 0."""
    if math.isnan(value):
        return NO_VALUE
    if spec.endswith("f") and abs(value) >= 1e6:
        # The score of a fit gone wrong may be -1e100, which is a line long with decimals.
        spec = f"{spec[:-1]}e"
    text = f"{value:{spec}}"
    return text if float(text) else text.lstrip("+-")


def format_interval(interval: Interval | None, spec: str = SCORE, *, signed: bool = False) -> str:
    """A value with its interval where it has one, as `0.907 [0.834, 0.950]`; a dash for None and NaN.

    `signed` puts a plus before a positive value (not before the ends of its interval), for differences.
    """
    if interval is None or math.isnan(interval.value):
        return NO_VALUE
    value = format_number(interval.value, f"+{spec}" if signed else spec)
    if math.isnan(interval.low) or math.isnan(interval.high):
        return value
    return f"{value} [{format_number(interval.low, spec)},{NO_BREAK}{format_number(interval.high, spec)}]"


def format_compact(value: float) -> str:
    """At most four significant digits, without an exponent where it can be read without."""
    value = float(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else format_number(value, ".4g")


def format_reasons(reasons: Iterable[tuple[str, str]], taps: Sequence[str]) -> str:
    """`taps: reason; taps: reason`, from pairs (tap, reason).

    Each reason stands once, and long lists of an encoder's `taps` are shortened.

    The tap "" stands for a reason that concerns no tap in particular.
    """
    return "; ".join(
        f"{_list_taps(concerned, taps)}: {reason}" if concerned != [""] else reason
        for reason, concerned in taps_by_reason(reasons).items()
    )


def _list_taps(concerned: Sequence[str], taps: Sequence[str]) -> str:
    if len(concerned) > 1 and len(concerned) == len(taps):
        return f"all {len(taps)} taps"
    if len(concerned) <= 3:
        return ", ".join(concerned)
    first = list(taps).index(concerned[0])
    if list(taps[first : first + len(concerned)]) == list(concerned):
        return f"{len(concerned)} taps, {concerned[0]} to {concerned[-1]}"
    return f"{len(concerned)} taps, {concerned[0]}, {concerned[1]}, … {concerned[-1]}"


def number(value: float) -> float | None:
    """A float that JSON can hold: None for what is not finite."""
    value = float(value)
    return value if math.isfinite(value) else None


def numbers(values: Any) -> list[float | None]:
    """`number` over an array."""
    return [number(value) for value in np.asarray(values, dtype=np.float64)]


def is_plain(value: Any) -> bool:
    """True if JSON can hold an attribute as it is."""
    return isinstance(value, (str, int, bool)) or (isinstance(value, float) and math.isfinite(value))
