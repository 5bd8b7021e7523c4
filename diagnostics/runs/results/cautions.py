"""Reasons not to believe a score or its interval that lie in single units, in words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr

from diagnostics.measures.result import FEATURES, LOSSES, choosing_losses, losses_of
from diagnostics.measures.statistics import OUTLYING, heaviest_units
from diagnostics.report.numbers import format_number

FEW = 10
"""Independent units, below which a bootstrap interval is too narrow to be believed."""


def size_of_fit(data: xr.Dataset) -> tuple[int, int]:
    """Samples of train and val, and features of the widest tap; 0 where a result does not state them."""
    n_train, n_val, width = (int(data.attrs.get(name, 0)) for name in ("n_train", "n_val", FEATURES))
    return n_train + n_val, width


def skew_of(data: xr.Dataset, tap: str, name: str) -> str:
    """The few units of train and val that carry most of the target's spread, or of its errors at a tap; or "".

    Test is not looked at: where it has an outlier too few, its interval shows nothing of it.
    """
    losses = choosing_losses(data) if data.attrs[LOSSES] == "squares" else None
    if losses is None:
        return ""
    at = data["tap"].values.tolist().index(tap)
    amounts = {"spread": losses.reference[at], "error": losses.loss[at]}
    what, (few, share) = max(
        ((what, heaviest_units(amount)) for what, amount in amounts.items()), key=lambda item: np.nan_to_num(item[1][1])
    )
    units = losses.loss.shape[1]
    if math.isnan(share):
        return f"{units} units are too few to see outliers of {name}"
    return (
        f"{few} of {units} units carry {share:.0%} of the {what} of {name}: intervals of its scores, and of the size "
        f"of a gap, may be too narrow"
        if share > OUTLYING
        else ""
    )


def outlier_of(data: xr.Dataset, tap: str, name: str) -> str:
    """The one test unit that carries most of the error at a tap, with the score without it; or "".

    Of 20 units or more, since of squares of normal values one of 20 carries half in less than 1 % of draws (Cochran
    1941). A feature that is nearly constant on train and not on that unit does it.
    """
    taps = data["tap"].values.tolist()
    # A result of sets of taps keeps no losses of single ones.
    if "loss" not in data or data.attrs.get(LOSSES) != "squares" or data.sizes["unit"] < 2 * FEW or tap not in taps:
        return ""
    losses = losses_of(data, "unit").at([taps.index(tap)])
    share = losses.loss[0] / np.maximum(losses.loss[0].sum(axis=0), np.finfo(float).tiny)
    share = share.reshape(len(share), -1).mean(axis=1)
    worst = int(share.argmax())
    if not share[worst] > 0.5:
        return ""
    less, reference = (np.delete(each, worst, 1) for each in (losses.loss, losses.reference))
    without = replace(losses, loss=less, reference=reference).scores[0]
    return (
        f"one test unit, {data['unit'].values[worst]}, carries {share[worst]:.0%} of the error of {name} at {tap}: "
        f"{data.attrs['score_name']} is {format_number(losses.scores[0])} with it and {format_number(without)} without"
    )
