"""What stands under a figure: why values are missing, what chance gives, and how it was computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.result import read_reasons, taps_by_reason
from diagnostics.report.plots import FLOOR, below_floor, outside
from diagnostics.runs.profile import CUT, Profile

# Attributes of a result that stand elsewhere in the report or say nothing to a reader.
_HIDDEN = {
    "measure", "target", "family", "higher_is_better", "output_tap", "best_tap", "about", "answers", "units",
    "penalties", "score_name", "reason", "alike", "tau", "permutations", "no_null",
    "best_score", "best_score_low", "best_score_high", "hidden_gap", "hidden_gap_low", "hidden_gap_high",
}  # fmt: skip
# Scores that may be negative, so that an interval below 0 says nothing odd.
_UNBOUNDED_BELOW = ("R2", "skill")


def short(value: float) -> str:
    """A number in at most four significant digits, without an exponent where it can be read without; a dash for NaN."""
    value = float(value)
    if math.isnan(value):
        return "–"
    if math.isfinite(value) and 1e4 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.4g}"


def questions(attrs: dict[str, Any]) -> str:
    """What is asked: of a target its text, and of the measure the question that it answers."""
    said = [str(attrs.get(key, "")).strip() for key in ("about", "answers")]
    return " · ".join(dict.fromkeys(text for text in said if text))


def reasons(reason: str, taps: Sequence[str]) -> str:
    """`tap: why; tap: why` with equal reasons said once, for all their taps."""
    by_reason = taps_by_reason(read_reasons(reason, taps))
    return "; ".join(f"{_named(of, taps)}: {why}" if of != [""] else why for why, of in by_reason.items())


def _named(some: Sequence[str], taps: Sequence[str]) -> str:
    if len(some) > 1 and len(some) == len(taps):
        return f"all {len(taps)} taps"
    if len(some) <= 3:
        return ", ".join(some)
    first = list(taps).index(some[0])
    if list(taps[first : first + len(some)]) == list(some):
        return f"{len(some)} taps, {some[0]} to {some[-1]}"
    return f"{len(some)} taps, {some[0]}, {some[1]}, … {some[-1]}"


def of_profile(profile: Profile) -> list[str]:
    """Sentences under a profile."""
    said: list[str] = []
    if reason := reasons(str(profile.data.attrs.get("reason", "")), profile.taps):
        said.append(f"What has no value or no interval: {reason}.")
    said.extend(f"Reference line {text} the part shown." for text in outside(profile))
    if below_floor(profile):
        said.append(f"Values below {FLOOR} are not drawn; the table below has them.")
    if profile.is_probe:
        proportion = str(profile.data.attrs.get("score_name", "")) not in _UNBOUNDED_BELOW
        if proportion and (profile.data["low"].values < 0).any():
            said.append(f"{CUT[0].upper()}{CUT[1:]}.")
    return said


def of_similarity(found: xr.Dataset) -> list[str]:
    """Sentences under a map over pairs of taps, whose values are known."""
    attrs, matrix = found.attrs, found["matrix"].values
    said: list[str] = []
    if reason := reasons(str(attrs.get("reason", "")), [str(tap) for tap in found["tap"].values]):
        said.append(f"What has no value: {reason}.")
    smaller = attrs.get("alike") == "smaller"
    if "tau" in attrs:
        tau = float(attrs["tau"])
        way = "falls to" if smaller else "passes"
        shown = f"{tau:.3f}" if 0.001 <= abs(tau) < 100 else f"{tau:.3g}"
        pairs = "p and the calibrated value of each pair" if "calibrated" in found else "p of each pair"
        said.append(f"The most alike pair of permuted samples {way} {shown} once in 20; {pairs}: on hover.")
    elif attrs.get("no_null"):
        said.append(f"No p: {attrs['no_null']}.")
    if not smaller and (matrix < 0).any():
        said.append("Negative values have the colour of 0.")
    if not smaller and (matrix > 1 + 1e-6).any():
        said.append("Values above 1 have the colour of 1.")
    return said


def why_no_figure(data: xr.Dataset) -> str:
    """Why there is nothing to draw."""
    reason = reasons(str(data.attrs.get("reason", "")), [str(tap) for tap in data["tap"].values])
    if not reason:
        what = "pair of taps" if "matrix" in data else "tap"
        return f"No figure: no {what} has a value."
    return f"No figure, since nothing has a value. {reason[0].upper()}{reason[1:]}."


def facts(data: xr.Dataset) -> str:
    """How it was computed: the attributes, but those that other parts of the report show."""
    return "; ".join(
        f"{key.replace('_', ' ')}: {short(value) if isinstance(value, float) else value}"
        for key, value in data.attrs.items()
        if not _hidden(str(key), value, data)
    )


def _hidden(key: str, value: Any, data: xr.Dataset) -> bool:
    if key in _HIDDEN or key.startswith("over_") or np.size(value) == 0 or str(value).strip() == "":
        return True
    if key.startswith("units_") and value == data.attrs.get(f"n_{key.removeprefix('units_')}"):
        return True
    # What explains a number beside the score stands at the table of these.
    return key in data.data_vars and not key.startswith("line_")
