"""A heat map of training steps by depth."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.figures import StepsFigure
from diagnostics.report.plots.style import BEST, FLOOR, SYMBOLS, dressed

ROW = 22
"""Pixels of a tap."""


def draw_steps(steps: StepsFigure) -> go.Figure:
    """Steps from left to right, taps from the input at the bottom up; brighter is larger, and a star is the best tap.

    Steps stand side by side, however far apart they are.
    """
    columns, taps = [f"{n:,}" for n in steps.steps], [escape(tap) for tap in steps.taps]
    z = np.where(np.isfinite(steps.score), steps.score, np.nan)
    known = z[np.isfinite(z)]
    # Scores without a floor: one useless tap must not turn all others into one colour.
    least = max(float(known.min()), FLOOR) if known.size and known.max() > FLOOR else None
    figure = go.Figure(
        go.Heatmap(
            z=z, x=columns, y=taps, zmin=least, zmax=float(known.max()) if known.size else None, colorscale="Viridis",
            hoverongaps=False, customdata=np.tile(steps.depth[:, None], (1, len(columns))),
            hovertemplate="step %{x}<br>%{y} (depth %{customdata:.2f})<br>%{z:.4g}<extra></extra>",
            colorbar={"title": {"text": escape(steps.name), "side": "right"}, "thickness": 14},
        )
    )  # fmt: skip
    starred = [(x, escape(tap)) for x, tap in zip(columns, steps.best, strict=True) if tap]
    if starred:
        x, y = zip(*starred, strict=True)
        figure.add_scatter(
            x=x, y=y, mode="markers", name="best tap (by val)", showlegend=False, hoverinfo="skip",
            marker={"symbol": SYMBOLS["best tap"], "size": 10, "color": BEST, "line": {"width": 1, "color": "white"}},
        )  # fmt: skip
    figure.update_yaxes(
        title_text="tap, from the input up", type="category", categoryorder="array", categoryarray=taps, automargin=True,
        showgrid=False,
    )  # fmt: skip
    figure.update_xaxes(
        title_text="step",
        type="category",
        categoryorder="array",
        categoryarray=columns,
        automargin=True,
        showgrid=False,
    )
    return dressed(figure).update_layout(height=150 + ROW * len(taps), margin={"l": 60, "r": 20, "t": 20, "b": 60})
