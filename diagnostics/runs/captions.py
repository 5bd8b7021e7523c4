"""Captions of figures: why values are missing, what chance gives, and how the values were computed."""

from typing import Any

import numpy as np
import xarray as xr

from diagnostics.measures.result import LOSSES, read_reasons
from diagnostics.report.numbers import format_compact, format_reasons
from diagnostics.report.plots.profile import FLOOR, below_floor, lines_outside
from diagnostics.runs.profile import CUT, Profile

# Attributes of a result that stand elsewhere in the report or say nothing to a reader.
_HIDDEN = {
    "measure", "target", "family", "higher_is_better", "output_tap", "best_tap", "about", "answers", "units",
    "penalties", "losses", "chance", "score_name", "metric", "reason", "alike", "tau", "permutations", "no_null",
    "hidden_gap", "hidden_gap_low", "hidden_gap_high", "gap_bound", "chosen_gap_low", "margin", "chosen_tap", "tap_set",
}  # fmt: skip


def questions(attrs: dict[str, Any]) -> str:
    """What is asked: of a target its text, and of the measure the question that it answers."""
    texts = [str(attrs.get(key, "")).strip() for key in ("about", "answers")]
    return " · ".join(dict.fromkeys(text for text in texts if text))


def reasons(data: xr.Dataset) -> str:
    """Why values or intervals of a result are missing, each reason once; "" where none is."""
    taps = [str(tap) for tap in data["tap"].values]
    return format_reasons(read_reasons(str(data.attrs.get("reason", "")), taps), taps)


def of_profile(profile: Profile) -> list[str]:
    """Sentences under a profile."""
    captions: list[str] = []
    if reason := reasons(profile.data):
        captions.append(f"Missing values or intervals: {reason}.")
    figure = profile.figure()
    captions.extend(f"Reference line {line} the part shown." for line in lines_outside(figure))
    if below_floor(figure):
        captions.append(f"Values below {FLOOR} are not drawn; the table below has them.")
    # Of other scores, which may be negative, an interval below 0 says nothing odd.
    if profile.data.attrs.get(LOSSES) == "counts" and (profile.data["low"].values < 0).any():
        captions.append(f"{CUT[0].upper()}{CUT[1:]}.")
    return captions


def why_no_figure(data: xr.Dataset) -> str:
    """Why there is nothing to draw."""
    reason = reasons(data)
    if not reason:
        return f"No figure: no {'pair of taps' if 'matrix' in data else 'tap'} has a value."
    return f"No figure, since nothing has a value. {reason[0].upper()}{reason[1:]}."


def facts(data: xr.Dataset) -> str:
    """How it was computed: the attributes, but those that other parts of the report show."""
    return "; ".join(
        f"{key.replace('_', ' ')}: {format_compact(value) if isinstance(value, float) else value}"
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
