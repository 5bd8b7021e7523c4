"""A stranger's probe with the declaration that its losses are resampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

import diagnostics as dx
from diagnostics.measures.statistics import score_draws


class Ranks(dx.Measure):
    """A stranger's probe whose score is no sum of losses: Spearman's correlation of a tap's only feature with the target."""

    name, answers, source, kinds = "ranks", "Is it in the right order?", "a stranger", ("value",)
    losses, score_name, chance = "resampled", "Spearman", 0.0

    def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
        taps = [tap.name for tap in activations.taps]
        read = np.stack([activations.pooled(tap)[:, 0] for tap in taps])
        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {"tap": taps}
        for prefix, split in (("", "test"), ("val_", "val")):
            rows = activations.split == split
            units = activations.groups[rows]

            def score(times: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
                each = np.repeat(np.flatnonzero(rows), times.astype(int))
                return np.array([spearmanr(row[each], target.values[each]).statistic for row in read])

            variables[f"{prefix}drawn"] = (("tap", "draw"), score_draws(score, units))
            coords[f"{prefix}unit"] = np.unique(units)
        variables["val_score"] = variables["val_drawn"][0][:1], variables["val_drawn"][1][:, 0]
        attrs = {"functional": "rank correlation", "pooling": "mean", "centring": "none", "seed": seed}
        return xr.Dataset(variables, coords, attrs | {"units_train": 0, "units_val": 0})
