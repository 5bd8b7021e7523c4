"""The similarity of pairs of taps as the arrays of a heatmap, and in words."""

from typing import Any

import xarray as xr

from diagnostics.report.numbers import numbers
from diagnostics.report.page import MapFigure
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


def map_captions(similarity: xr.Dataset) -> list[str]:
    """Sentences under a map whose values are known."""
    attrs, matrix = similarity.attrs, similarity["matrix"].values
    captions: list[str] = []
    if reason := reasons(similarity):
        captions.append(f"Missing values: {reason}.")
    smaller = attrs.get("alike") == "smaller"
    if "tau" in attrs:
        tau, way = float(attrs["tau"]), "falls to" if smaller else "passes"
        shown = f"{tau:.3f}" if 0.001 <= abs(tau) < 100 else f"{tau:.3g}"
        pairs = "p and the calibrated value of each pair" if "calibrated" in similarity else "p of each pair"
        captions.append(f"The most similar pair of permuted samples {way} {shown} once in 20; hover for {pairs}.")
    elif attrs.get("no_null"):
        captions.append(f"No p: {attrs['no_null']}.")
    if not smaller and (matrix < 0).any():
        captions.append("Negative values have the colour of 0.")
    if not smaller and (matrix > 1 + 1e-6).any():
        captions.append("Values above 1 have the colour of 1.")
    return captions
