"""Curves of several encoders on one axis of relative depth."""

from collections.abc import Collection
from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.figures import CurvesFigure, DepthCurve, MarkKind
from diagnostics.report.plots.style import BOTTOM, FLOOR, HEIGHT, LINE, SYMBOLS, TOP, add_mark, dressed

COLOURS = ("#3b7fc4", "#d55e00", "#3b8a5c", "#9a63b3", "#a6761d", "#1b8a99", "#c84577", "#76828e")
"""One for each group; more groups than colours differ in their dashes."""
DASHES = ("solid", "dash", "dot", "dashdot")
TRUNK_END = 1.0


def draw_curves(curves: CurvesFigure) -> go.Figure:
    """Score over relative depth: each run a thin line, each group's mean a thick one; chosen taps as stars, outputs as
    diamonds, heads beyond depth 1 on broken lines. The band of a group of one run is its interval over test units."""
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
                _add_line(figure, curves.depths, curve.score, curve.name, colour, "dot", 1.0, legend=False, group=name)
        mean = np.mean([curve.score for curve in members], axis=0)
        _add_line(figure, curves.depths, mean, group, colour, dash, 2.5, legend=True, group=name)
        for curve in members:
            for mark in curve.marks:
                hover = f"{escape(curve.name)}<br>{mark.kind}: {escape(mark.tap)}<br>%{{y:.4g}}<extra></extra>"
                labels = {"legendgroup": name, "showlegend": False, "hovertemplate": hover}
                add_mark(figure, mark.depth, mark.value, mark.kind, colour, 10, **labels)
    _name_marks(figure, {mark.kind for members in curves.groups.values() for curve in members for mark in curve.marks})
    figure.add_vline(x=TRUNK_END, line={"color": "#9aa5b1", "width": 1, "dash": "dot"})
    if curves.depths.max() > TRUNK_END:
        figure.add_annotation(
            x=TRUNK_END, y=1, yref="paper", yanchor="bottom", xanchor="left", text=" head", showarrow=False,
            font={"size": 11, "color": LINE},
        )  # fmt: skip
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if curves.is_score and low < FLOOR < high:
        low = FLOOR
    pad = 0.08 * max(high - low, 0.05)
    figure.update_yaxes(range=[low - pad, high + pad], title_text=escape(curves.axis), zeroline=False)
    figure.update_xaxes(title_text="relative depth (1: the trunk's output)", zeroline=False)
    return dressed(figure).update_layout(
        height=HEIGHT, margin={"l": 60, "r": 20, "t": TOP, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
    )  # fmt: skip


def _add_line(
    figure: go.Figure, depths: np.ndarray, values: np.ndarray, name: str, colour: str, dash: str, width: float, *,
    legend: bool, group: str,
) -> None:  # fmt: skip
    trunk = np.isfinite(values) & (depths <= TRUNK_END)
    head = np.isfinite(values) & (depths >= (depths[trunk].max() if trunk.any() else 0))
    for part, drawn in ((trunk, dash), (head, "dot")):
        if part.sum() > 1 or (part is trunk and part.any()):
            figure.add_scatter(
                x=depths[part], y=values[part], mode="lines", name=escape(name), legendgroup=group,
                showlegend=legend and part is trunk, line={"color": colour, "dash": drawn, "width": width},
                hovertemplate=f"{escape(name)}<br>depth %{{x:.2f}}<br>%{{y:.4g}}<extra></extra>",
            )  # fmt: skip


def _name_marks(figure: go.Figure, kinds: Collection[MarkKind]) -> None:
    """What the symbols mean, in no group's colour."""
    for kind in sorted(kinds):
        name = "layer to use" if kind == "chosen tap" else kind
        marker = {"symbol": SYMBOLS[kind], "size": 10, "color": LINE}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip")


def _add_band(figure: go.Figure, depths: np.ndarray, curve: DepthCurve, colour: str, group: str) -> None:
    low, high = curve.low, curve.high
    here = np.isfinite(low) & np.isfinite(high) & (depths <= TRUNK_END)
    if here.sum() > 1:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=[*depths[here], *depths[here][::-1]], y=[*low[here], *high[here][::-1]], fill="toself", mode="lines",
            fillcolor=f"rgba({red},{green},{blue},0.10)", line={"width": 0}, hoverinfo="skip", showlegend=False,
            legendgroup=group,
        )  # fmt: skip
