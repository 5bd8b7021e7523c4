"""The profiles of runs as a tidy table of pandas, and such a table as a CSV file."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from diagnostics.measures import result as attribute

if TYPE_CHECKING:
    from diagnostics.runs.run_data import RunData

COLUMNS = [
    "measure", "target", "family", "score_name", "control", "tap", "depth", "score", "low", "high", "val_score", "chosen", "output",
]  # fmt: skip


def run_dataframe(run: RunData, names: Collection[str] | None = None) -> pd.DataFrame:
    """What `Run.to_dataframe` returns; only of the profiles named where `names` are given."""
    tables: list[pd.DataFrame] = []
    for key in run.index.names(pairwise=False):
        if names is not None and key not in names:
            continue
        results = {None: run.results, **run.controls}
        tables += [
            _rows(tree[key].to_dataset(), control)
            for control, tree in results.items()
            if control is None or key in run.index.names(control)
        ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=pd.Index(COLUMNS))


def _rows(data: xr.Dataset, control: str | None) -> pd.DataFrame:
    attrs = data.attrs
    taps = [str(tap) for tap in data["tap"].values]

    def same(value: str | None) -> pd.Series:
        # None, not NaN, where a text is missing.
        return pd.Series([value] * len(taps), dtype=object)

    return pd.DataFrame(
        {
            "measure": same(attrs[attribute.MEASURE]),
            "target": same(attrs[attribute.TARGET] or None),
            "family": same(attrs[attribute.FAMILY]),
            "score_name": same(attrs[attribute.SCORE_NAME]),
            "control": same(control),
            "tap": taps,
            **{key: _values(data, key) for key in ("depth", "score", "low", "high", "val_score")},
            "chosen": [tap == attrs.get(attribute.CHOSEN_TAP) for tap in taps],
            "output": [tap == attrs[attribute.OUTPUT_TAP] for tap in taps],
        }
    )


def _values(data: xr.Dataset, key: str) -> np.ndarray:
    """float64 [tap]; NaN where the measure gives no such value."""
    return data[key].values.astype(np.float64) if key in data else np.full(data.sizes["tap"], np.nan)
