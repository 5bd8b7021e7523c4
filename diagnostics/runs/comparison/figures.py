"""Figures of a comparison: curves of all runs on one axis of depth, and matrices of alignments by targets."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.measures.statistics import Interval
from diagnostics.report.plots import BOTTOM, FLOOR, HEIGHT, TOP, dressed, similarity_figure
from diagnostics.runs.comparison import Comparison
from diagnostics.runs.comparison.shares import Shares
from diagnostics.runs.comparison.sides import Side
from diagnostics.runs.comparison.words import target_said

COLOURS = ("#1f5fa8", "#c2410c", "#2f7d4f", "#8a4fa3", "#a6761d", "#0f7c8a", "#b03060", "#5b6875")
"""One for each group; more groups than colours differ in their dashes."""
DASHES = ("solid", "dash", "dot", "dashdot")
TRUNK_END = 1.0


def curves_figure(found: Comparison, profile: str) -> go.Figure:
    """Score over relative depth: each run a thin line, each group's mean a thick one; best taps as stars, outputs as
    diamonds, heads beyond depth 1 on broken lines. The band of a group of one run is its interval over test units."""
    data = found.data.sel(target=profile)
    depths = found.data["depth"].values
    figure = go.Figure()
    drawn: list[np.ndarray] = []
    for i, (group, members) in enumerate(found.groups.items()):
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        name = escape(group)
        rows = data.sel(run=[side.name for side in members])
        score = rows["score"].values
        drawn.append(score.ravel())
        if len(members) == 1:
            drawn += [rows["low"].values.ravel(), rows["high"].values.ravel()]
            _band(figure, depths, rows["low"].values[0], rows["high"].values[0], colour, name)
        else:
            for values, side in zip(score, members, strict=True):
                _line(figure, depths, values, side.name, colour, "dot", 1.0, legend=False, group=name)
        mean = score.mean(axis=0)
        _line(figure, depths, mean, group, colour, dash, 2.5, legend=True, group=name)
        for side in members:
            _mark(figure, profile, side, colour, name)
    figure.add_vline(x=TRUNK_END, line={"color": "#9aa5b1", "width": 1, "dash": "dot"})
    if depths.max() > TRUNK_END:
        figure.add_annotation(
            x=TRUNK_END, y=1, yref="paper", yanchor="bottom", xanchor="left", text=" head", showarrow=False,
            font={"size": 11, "color": "#5b6875"},
        )  # fmt: skip
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if found.sides[0].profiles[profile].is_probe and low < FLOOR < high:
        low = FLOOR
    pad = 0.08 * max(high - low, 0.05)
    figure.update_yaxes(
        range=[low - pad, high + pad], title_text=escape(str(data["score_name"].values)), zeroline=False
    )
    figure.update_xaxes(title_text="relative depth (0: after the embedding, 1: the trunk's output)", zeroline=False)
    return dressed(figure).update_layout(
        height=HEIGHT, margin={"l": 60, "r": 20, "t": TOP, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom"},
    )  # fmt: skip


def _line(
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


def _band(figure: go.Figure, depths: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, group: str) -> None:
    here = np.isfinite(low) & np.isfinite(high) & (depths <= TRUNK_END)
    if here.sum() > 1:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        figure.add_scatter(
            x=[*depths[here], *depths[here][::-1]], y=[*low[here], *high[here][::-1]], fill="toself", mode="lines",
            fillcolor=f"rgba({red},{green},{blue},0.10)", line={"width": 0}, hoverinfo="skip", showlegend=False,
            legendgroup=group,
        )  # fmt: skip


def _mark(figure: go.Figure, profile: str, side: Side, colour: str, group: str) -> None:
    shown = side.profiles[profile]
    for tap, symbol, what in ((shown.best_tap, "star", "best tap"), (shown.output_tap, "diamond", "output")):
        if tap is None or tap not in shown.taps:
            continue
        value = float(shown.data["score"].sel(tap=tap))
        if np.isfinite(value):
            figure.add_scatter(
                x=[shown.depth_of(tap)], y=[value], mode="markers", legendgroup=group, showlegend=False,
                marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "white"}},
                hovertemplate=f"{escape(side.name)}<br>{what}: {escape(tap)}<br>%{{y:.4g}}<extra></extra>",
            )  # fmt: skip


SHARES = {
    "recovered": "recovered share of the base's hidden gap",
    "kept_best": "kept share at the best tap",
    "kept_output": "kept share at the output",
}


def shares_figure(found: Comparison, share: str, profiles: Sequence[str]) -> go.Figure:
    """One share as a matrix of alignments by targets; 1 is all of it, cells without a value have none."""
    chosen = [one for one in found.shares if one.profile in profiles]
    rows = list(dict.fromkeys(one.group for one in chosen))
    by_cell = {(one.group, one.profile): one for one in chosen}
    columns = [name for name in profiles if any(one.profile == name for one in chosen)]
    cells = [[_value(by_cell.get((row, column)), share) for column in columns] for row in rows]
    # What is kept at an output that held next to nothing may be many times what was there; colours stop at 2. What keeps
    # or recovers nothing more than the base has no colour.
    z = np.array([[np.nan if cell is None else cell.value for cell in row] for row in cells])
    least, most = (-1.0, 1.0) if share == "recovered" else (0.0, 2.0)
    text = [
        ["" if cell is None else f"{cell.value:.2f}<br>[{cell.low:.2f}, {cell.high:.2f}]" for cell in row]
        for row in cells
    ]
    figure = go.Figure(
        go.Heatmap(
            z=np.clip(z, least, most), x=[escape(target_said(found, name)) for name in columns], y=[escape(row) for row in rows],
            text=text, texttemplate="%{text}", textfont={"size": 11}, zmin=least, zmax=most, colorscale="RdBu", hoverongaps=False,
            hovertemplate="%{y}<br>%{x}<br>%{text}<extra></extra>", colorbar={"thickness": 12},
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category", automargin=True, showgrid=False)
    figure.update_xaxes(type="category", automargin=True, showgrid=False)
    return dressed(figure).update_layout(
        title={"text": SHARES[share], "font": {"size": 14}}, height=150 + 52 * len(rows),
        margin={"l": 60, "r": 20, "t": 50, "b": 60},
    )  # fmt: skip


def _value(one: Shares | None, share: str) -> Interval | None:
    return getattr(one, share) if one is not None else None


def likeness_figure(found: Comparison, index: int) -> go.Figure:
    """The similarity of the taps of two runs, the first's as rows."""
    one = found.likenesses[index]
    figure = similarity_figure(one.data)
    figure.update_yaxes(title_text=escape(one.first))
    figure.update_xaxes(title_text=escape(one.second))
    return figure
