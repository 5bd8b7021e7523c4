"""The similarity of pairs of taps as the arrays of a heatmap, and in words."""

from typing import Any

import numpy as np
import xarray as xr

from diagnostics.report.figures import MapFigure
from diagnostics.report.numbers import numbers
from diagnostics.runs.captions import reasons


def map_figure(similarity: xr.Dataset, titles: tuple[str, str] = ("", "")) -> MapFigure:
    """The map as arrays; `titles` name the encoders of its rows and columns, where they are two."""
    attrs = similarity.attrs
    return MapFigure(
        name=str(attrs.get("score_name", attrs.get("measure", ""))),
        matrix=similarity["matrix"].values,
        rows=[str(tap) for tap in similarity["tap"].values],
        columns=[str(tap) for tap in similarity["tap_other"].values],
        distance=attrs.get("alike") == "smaller",
        beside={name: similarity[name].values for name in ("p", "calibrated") if name in similarity},
        titles=titles,
    )


def map_json(similarity: xr.Dataset) -> dict[str, Any]:
    """The map as plain numbers; None for what has no value."""
    return {
        "measure": similarity.attrs["measure"],
        "taps": [str(tap) for tap in similarity["tap"].values],
        "matrix": [numbers(row) for row in similarity["matrix"].values],
        "p": [numbers(row) for row in similarity["p"].values] if "p" in similarity else None,
    }


def describe_map(similarity: xr.Dataset) -> str:
    """The taps of one encoder in words: where along the depth they change most, and what chance gives."""
    taps, matrix = [str(tap) for tap in similarity["tap"].values], similarity["matrix"].values
    smaller = similarity.attrs.get("alike") == "smaller"
    steps = np.diagonal(matrix, 1)
    if len(taps) < 2 or not np.isfinite(steps).any():
        return f"{similarity.attrs['measure']}: no value"
    at = int(np.nanargmax(steps) if smaller else np.nanargmin(steps))
    tau = similarity.attrs.get("tau")
    chance = f"; the most alike pair of permuted samples: {tau:.3g}" if tau is not None else ""
    return (
        f"{similarity.attrs['measure']}: from tap to next tap it changes most from {taps[at]} to {taps[at + 1]} "
        f"({steps[at]:.3f}); first to last tap {matrix[0, -1]:.3f}{chance}"
    )


def map_captions(similarity: xr.Dataset) -> list[str]:
    """Sentences under a map whose values are known."""
    attrs, matrix = similarity.attrs, similarity["matrix"].values
    captions: list[str] = []
    if reason := reasons(similarity):
        captions.append(f"What has no value: {reason}.")
    smaller = attrs.get("alike") == "smaller"
    if "tau" in attrs:
        tau, way = float(attrs["tau"]), "falls to" if smaller else "passes"
        shown = f"{tau:.3f}" if 0.001 <= abs(tau) < 100 else f"{tau:.3g}"
        pairs = "p and the calibrated value of each pair" if "calibrated" in similarity else "p of each pair"
        captions.append(f"The most alike pair of permuted samples {way} {shown} once in 20; {pairs}: on hover.")
    elif attrs.get("no_null"):
        captions.append(f"No p: {attrs['no_null']}.")
    if not smaller and (matrix < 0).any():
        captions.append("Negative values have the colour of 0.")
    if not smaller and (matrix > 1 + 1e-6).any():
        captions.append("Values above 1 have the colour of 1.")
    return captions
