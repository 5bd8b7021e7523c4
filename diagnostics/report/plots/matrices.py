"""Heatmaps: the similarity of pairs of taps, and the shares of alignments by target."""

import math
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from diagnostics.measures.statistics import Interval
from diagnostics.report.figures import MapFigure, SharesFigure
from diagnostics.report.names import short_names
from diagnostics.report.numbers import format_number
from diagnostics.report.plots.style import LONGEST_TAP, MOST_TICKS, dressed

# Cells of a map get their numbers up to this many taps.
MOST_NUMBERED = 16


def draw_map(tap_map: MapFigure) -> go.Figure:
    """A map over pairs of taps; brighter is more alike. Similarities are coloured from 0 to 1, distances from 0 on."""
    # Plotly cannot draw what is infinite.
    z = np.where(np.isfinite(tap_map.matrix), tap_map.matrix, np.nan)
    rows, columns = ([escape(tap) for tap in taps] for taps in (tap_map.rows, tap_map.columns))
    most = float(np.nanmax(z)) if tap_map.distance and np.isfinite(z).any() and np.nanmax(z) > 0 else 1.0
    bar = f"{escape(tap_map.name)} ({0 if tap_map.distance else 1}: alike)"
    figure = go.Figure(
        go.Heatmap(
            z=z, x=columns, y=rows, text=_cells(z), texttemplate="%{text}",
            customdata=_hovers(tap_map), hovertemplate="%{y} and %{x}<br>%{customdata}<extra></extra>", hoverongaps=False,
            colorscale="Viridis", reversescale=tap_map.distance, zmin=0.0, zmax=most,
            colorbar={"title": {"text": bar, "side": "right"}, "thickness": 14},
        )
    )  # fmt: skip
    axis: dict[str, Any] = {
        "constrain": "domain", "type": "category", "showgrid": False, "automargin": True, "tickfont": {"size": 11},
    }  # fmt: skip
    title, beside = (escape(text) or None for text in tap_map.titles)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", title_text=title, **axis, **_ticks(tap_map.rows))
    figure.update_xaxes(tickangle=-45, title_text=beside, **axis, **_ticks(tap_map.columns))
    return dressed(figure).update_layout(height=500, margin={"l": 60, "r": 20, "t": 20, "b": 70})


def _ticks(taps: list[str]) -> dict[str, Any]:
    """As many names as fit, evenly, in their short forms; the whole ones are on hover."""
    shown = range(0, len(taps), math.ceil(len(taps) / MOST_TICKS))
    short = short_names(taps, LONGEST_TAP)
    return {"tickvals": [escape(taps[i]) for i in shown], "ticktext": [escape(short[i]) for i in shown]}


def _cells(z: np.ndarray) -> list[list[str]]:
    if max(z.shape) > MOST_NUMBERED:
        return [[""] * z.shape[1] for _ in z]
    return [["" if np.isnan(v) else f"{v:.2f}" if abs(v) < 100 else f"{v:.2g}" for v in row] for row in z]


def _hovers(tap_map: MapFigure) -> list[list[str]]:
    def pair(at: tuple[int, int]) -> str:
        beside = [f"{name} {values[at]:.3f}" for name, values in tap_map.beside.items() if np.isfinite(values[at])]
        return "<br>".join([f"{tap_map.matrix[at]:.3f}", *beside])

    rows, columns = tap_map.matrix.shape
    return [[pair((i, j)) for j in range(columns)] for i in range(rows)]


def _share(share: Interval | None) -> str:
    if share is None:
        return ""
    value, low, high = (format_number(number, ".2f") for number in (share.value, share.low, share.high))
    return f"{value}<br>[{low}, {high}]"


def draw_shares(matrix: SharesFigure) -> go.Figure:
    """Shares as a matrix; cells without a value have no colour."""
    z = np.array([[np.nan if cell is None else cell.value for cell in row] for row in matrix.shares])
    text = [[_share(cell) for cell in row] for row in matrix.shares]
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(z, matrix.least, matrix.most), x=[escape(name) for name in matrix.columns],
            y=[escape(name) for name in matrix.rows], text=text, texttemplate="%{text}", textfont={"size": 11},
            zmin=matrix.least, zmax=matrix.most, colorscale="RdBu", hoverongaps=False,
            hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>", colorbar={"thickness": 12},
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", automargin=True, showgrid=False)
    figure.update_xaxes(type="category", automargin=True, showgrid=False)
    return dressed(figure).update_layout(
        title={"text": matrix.title, "font": {"size": 14}}, height=150 + 52 * len(matrix.rows),
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
    )  # fmt: skip
