"""Curves of several encoders on one axis of relative depth."""

import math
from collections.abc import Collection
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from diagnostics.measures.statistics import Interval
from diagnostics.report.layout import short_names
from diagnostics.report.numbers import format_number
from diagnostics.report.page import CurvesFigure, DepthCurve, MapFigure, MarkKind, SharesFigure, StepsFigure
from diagnostics.report.plots.style import (
    BEST,
    BOTTOM,
    FLOOR,
    FRAME,
    HEIGHT,
    LINE,
    LONGEST_TAP,
    MOST_TICKS,
    OUTLINE,
    SYMBOLS,
    TOP,
    add_key,
    add_mark,
    apply_style,
)

# Heatmaps: the similarity of pairs of taps, and the shares of alignments by target.

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
            z=z,
            x=columns,
            y=rows,
            text=_cells(z),
            texttemplate="%{text}",
            customdata=_hovers(tap_map),
            hovertemplate="%{y} and %{x}<br>%{customdata}<extra></extra>",
            hoverongaps=False,
            colorscale="Viridis",
            reversescale=tap_map.distance,
            zmin=0.0,
            zmax=most,
            colorbar={"title": {"text": bar, "side": "right"}, "thickness": 14},
        )
    )
    axis: dict[str, Any] = {
        "constrain": "domain",
        "type": "category",
        "showgrid": False,
        "automargin": True,
        "tickfont": {"size": 11},
    }
    title, beside = (escape(text) or None for text in tap_map.titles)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", title_text=title, **axis, **_ticks(tap_map.rows))
    figure.update_xaxes(tickangle=-45, title_text=beside, **axis, **_ticks(tap_map.columns))
    return apply_style(figure).update_layout(height=500, margin={"l": 60, "r": 20, "t": 20, "b": 70})


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
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(z, matrix.least, matrix.most),
            x=[escape(name) for name in matrix.columns],
            y=[escape(name) for name in matrix.rows],
            text=[[_share(cell) for cell in row] for row in matrix.shares],
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=matrix.least,
            zmax=matrix.most,
            colorscale="RdBu",
            hoverongaps=False,
            hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>",
            colorbar={"thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category", automargin=True, showgrid=False)
    figure.update_xaxes(type="category", automargin=True, showgrid=False)
    return apply_style(figure).update_layout(
        title={"text": matrix.title, "font": {"size": 14}},
        height=150 + 52 * len(matrix.rows),
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
    )


# A heat map of training steps by depth.

ROW = 22
"""Pixels of a tap."""


def draw_steps(steps: StepsFigure) -> go.Figure:
    """Steps from left to right, taps from the input at the bottom up.

    Brighter is larger; a star is the layer to use, the frame the output.

    Steps stand side by side, however far apart they are.
    """
    columns, taps = [f"{n:,}" for n in steps.steps], [escape(tap) for tap in steps.taps]
    z = np.where(np.isfinite(steps.score), steps.score, np.nan)
    known = z[np.isfinite(z)]
    # Scores without a floor: one useless tap must not turn all others into one colour.
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=columns,
            y=taps,
            zmin=max(float(known.min()), FLOOR) if known.size and known.max() > FLOOR else None,
            zmax=float(known.max()) if known.size else None,
            colorscale="Viridis",
            hoverongaps=False,
            customdata=np.tile(steps.depth[:, None], (1, len(columns))),
            hovertemplate="step %{x}<br>%{y} (depth %{customdata:.2f})<br>%{z:.4g}<extra></extra>",
            colorbar={"title": {"text": escape(steps.name), "side": "right"}, "thickness": 14},
        )
    )
    starred = [(x, escape(tap)) for x, tap in zip(columns, steps.chosen, strict=True) if tap]
    if starred:
        x, y = zip(*starred, strict=True)
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            name="layer to use",
            hoverinfo="skip",
            cliponaxis=False,
            marker={"symbol": SYMBOLS["chosen tap"], "size": 12, "color": BEST, "line": {"width": 1, "color": OUTLINE}},
        )
    if steps.output in steps.taps:
        at = steps.taps.index(steps.output)
        line = {"color": FRAME, "width": 2.5}
        figure.add_shape(type="rect", x0=-0.5, x1=len(columns) - 0.5, y0=at - 0.5, y1=at + 0.5, line=line)
        # A frame has no entry of its own in a legend.
        add_key(figure, "output", symbol="square-open", size=10, color=FRAME, line={"width": 2.5})
    figure.update_yaxes(
        title_text="tap, from the input up",
        type="category",
        categoryorder="array",
        categoryarray=taps,
        automargin=True,
        showgrid=False,
    )
    figure.update_xaxes(
        title_text="step",
        type="category",
        categoryorder="array",
        categoryarray=columns,
        automargin=True,
        showgrid=False,
    )
    return apply_style(figure).update_layout(
        title={
            "text": f"{escape(steps.name)} while training",
            "font": {"size": 14},
            "x": 0.01,
            "y": 0.98,
            "yanchor": "top",
        },
        height=170 + ROW * len(taps),
        margin={"l": 60, "r": 20, "t": 62, "b": 60},
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )


COLOURS = ("#3b7fc4", "#d55e00", "#3b8a5c", "#9a63b3", "#a6761d", "#1b8a99", "#c84577", "#76828e")
"""One for each group; more groups than colours differ in their dashes."""
DASHES = ("solid", "dash", "dot", "dashdot")
TRUNK_END = 1.0


def draw_curves(curves: CurvesFigure) -> go.Figure:
    """Score over relative depth: each run a thin line, each group's mean a thick one.

    Chosen taps as stars, outputs as diamonds, heads beyond depth 1 on broken lines. The band of a group of one run is
    its interval over test units.
    """
    figure = go.Figure()
    drawn: list[np.ndarray] = []
    for i, (group, members) in enumerate(curves.groups.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        name = escape(group)
        drawn += [curve.score for curve in members]
        if len(members) == 1:
            drawn += [members[0].low, members[0].high]
            _add_band(figure, curves.depths, members[0], colour, name)
        else:
            for curve in members:
                _add_line(
                    figure,
                    curves.depths,
                    curve.score,
                    name=curve.name,
                    colour=colour,
                    dash="dot",
                    width=1.0,
                    legend=False,
                    group=name,
                )
        mean = np.mean([curve.score for curve in members], axis=0)
        _add_line(figure, curves.depths, mean, name=group, colour=colour, dash=dash, width=2.5, legend=True, group=name)
        for curve in members:
            for mark in curve.marks:
                hover = f"{escape(curve.name)}<br>{mark.kind}: {escape(mark.tap)}<br>%{{y:.4g}}<extra></extra>"
                labels = {"legendgroup": name, "showlegend": False, "hovertemplate": hover}
                add_mark(figure, mark.depth, mark.value, mark.kind, colour, 10, **labels)
    _name_marks(figure, {mark.kind for members in curves.groups.values() for curve in members for mark in curve.marks})
    figure.add_vline(x=TRUNK_END, line={"color": "#9aa5b1", "width": 1, "dash": "dot"})
    if curves.depths.max() > TRUNK_END:
        figure.add_annotation(
            x=TRUNK_END,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor="left",
            text=" head",
            showarrow=False,
            font={"size": 11, "color": LINE},
        )
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if curves.is_score and low < FLOOR < high:
        low = FLOOR
    pad = 0.08 * max(high - low, 0.05)
    figure.update_yaxes(range=[low - pad, high + pad], title_text=escape(curves.axis), zeroline=False)
    figure.update_xaxes(title_text="relative depth (1: the trunk's output)", zeroline=False)
    return apply_style(figure).update_layout(
        height=HEIGHT,
        margin={"l": 60, "r": 20, "t": TOP, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
    )


def _add_line(
    figure: go.Figure,
    depths: np.ndarray,
    values: np.ndarray,
    name: str,
    colour: str,
    dash: str,
    width: float,
    *,
    legend: bool,
    group: str,
) -> None:
    trunk = np.isfinite(values) & (depths <= TRUNK_END)
    head = np.isfinite(values) & (depths >= (depths[trunk].max() if trunk.any() else 0))
    for part, drawn in ((trunk, dash), (head, "dot")):
        if part.sum() > 1 or (part is trunk and part.any()):
            figure.add_scatter(
                x=depths[part],
                y=values[part],
                mode="lines",
                name=escape(name),
                legendgroup=group,
                showlegend=legend and part is trunk,
                line={"color": colour, "dash": drawn, "width": width},
                hovertemplate=f"{escape(name)}<br>depth %{{x:.2f}}<br>%{{y:.4g}}<extra></extra>",
            )


def _name_marks(figure: go.Figure, kinds: Collection[MarkKind]) -> None:
    """Names the symbols, in no group's colour."""
    for kind in sorted(kinds):
        name = "layer to use" if kind == "chosen tap" else kind
        add_key(figure, name, symbol=SYMBOLS[kind], size=10, color=LINE)


def _add_band(figure: go.Figure, depths: np.ndarray, curve: DepthCurve, colour: str, group: str) -> None:
    low, high = curve.low, curve.high
    here = np.isfinite(low) & np.isfinite(high) & (depths <= TRUNK_END)
    if here.sum() > 1:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=[*depths[here], *depths[here][::-1]],
            y=[*low[here], *high[here][::-1]],
            fill="toself",
            mode="lines",
            fillcolor=f"rgba({red},{green},{blue},0.10)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
        )
