"""The table of a profile's numbers by tap: those in the figure, and those beside the score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from diagnostics.report.numbers import format_compact
from diagnostics.report.page import Column, Details, Note, Notes, Row, Table

# A variable over taps and something else is spread over columns up to this many.
MOST_COLUMNS = 12
# Losses of units: a score is their sum, and one out of fold is no score.
_RAW = (
    "loss",
    "reference_loss",
    "val_loss",
    "val_reference",
    "oof_loss",
    "oof_reference",
    "drawn",
    "val_drawn",
    "oof_drawn",
)


def tap_table(
    data: xr.Dataset, lines: Mapping[str, np.ndarray], beside: Mapping[str, np.ndarray], facts: str = ""
) -> Details:
    """A result with the taps as rows, its `lines` and the numbers `beside`, what its columns are, and the facts of how it was computed."""
    columns = {name: data[name].values for name in ("depth", "score", "low", "high")}
    columns |= {f"line: {name}": values for name, values in lines.items()}
    if "val_score" in data:
        columns["score on val"] = data["val_score"].values
    columns |= {name.replace("_", " "): values for name, values in beside.items()}
    columns |= _spread(data)
    notes = [
        Note(str(data.attrs[name]), name.replace("_", " "))
        for name in map(str, data.data_vars)
        if name in data.attrs and not name.startswith("line_") and name not in ("score", "low", "high")
    ]
    rows = [
        Row((tap, *map(format_compact, values)))
        for tap, *values in zip(map(str, data["tap"].values), *columns.values(), strict=True)
    ]
    table = Table(tuple(Column(name) for name in ("tap", *columns)), tuple(rows))
    return Details(
        "Numbers at each tap, and how they were computed", table, Notes((*([Note(facts)] if facts else []), *notes))
    )


def _spread(data: xr.Dataset) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for name, values in data.data_vars.items():
        narrow = values.ndim == 2 and values.dims[0] == "tap" and values.shape[1] <= MOST_COLUMNS
        if not narrow or name in _RAW or values.dtype.kind not in "fiu":
            continue
        other = str(values.dims[1])
        label = str(name).replace("_", " ")
        places = values[other].values if other in values.coords else np.arange(values.shape[1])
        for i, place in enumerate(places):
            # `by_head` names its dimension already.
            at = f"{other} {place}" if label == f"by {other}" else f"{label}, {other} {place}"
            columns[at] = values.values[:, i]
    return columns
