"""A heat map of training steps by depth."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.figures import StepsFigure
from diagnostics.report.plots.style import BEST, FLOOR, FRAME, OUTLINE, SYMBOLS, dressed

ROW = 22
"""Pixels of a tap."""


def draw_steps(steps: StepsFigure) -> go.Figure:
    """Steps from left to right, taps from the input at the bottom up; brighter is larger; a star is the layer to use, the frame the output.

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
    starred = [(x, escape(tap)) for x, tap in zip(columns, steps.chosen, strict=True) if tap]
    if starred:
        x, y = zip(*starred, strict=True)
        figure.add_scatter(
            x=x, y=y, mode="markers", name="layer to use", hoverinfo="skip", cliponaxis=False,
            marker={"symbol": SYMBOLS["chosen tap"], "size": 12, "color": BEST, "line": {"width": 1, "color": OUTLINE}},
        )  # fmt: skip
    if steps.output in steps.taps:
        at = steps.taps.index(steps.output)
        line = {"color": FRAME, "width": 2.5}
        figure.add_shape(type="rect", x0=-0.5, x1=len(columns) - 0.5, y0=at - 0.5, y1=at + 0.5, line=line)
        # A frame has no entry of its own in a legend.
        marker = {"symbol": "square-open", "size": 10, "color": FRAME, "line": {"width": 2.5}}
        figure.add_scatter(x=[None], y=[None], mode="markers", name="output", marker=marker, hoverinfo="skip")
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
    return dressed(figure).update_layout(
        title={"text": f"{escape(steps.name)} while training", "font": {"size": 14}, "x": 0.01, "y": 0.98, "yanchor": "top"},
        height=170 + ROW * len(taps), margin={"l": 60, "r": 20, "t": 62, "b": 60}, showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
    )  # fmt: skip
