"""The style shared by all figures, and their embedding in a page."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.figures import MarkKind

INK = "#1f5fa8"
LINE = "#5b6875"
BEST = "#c2410c"
"""Colour of the star that marks a best tap; in a comparison it has the colour of its group."""
OUTPUT = INK
"""Colour of the diamond that marks the output; in a comparison it has the colour of its group."""
SYMBOLS = {"best tap": "star", "output": "diamond"}
HEIGHT = 380
TOP = 50
BOTTOM = 80
# R2 has no floor; one useless tap must not press all others flat.
FLOOR = -0.5
# Of plotly's buttons, those that read a figure.
BUTTONS = ("toImage", "zoom2d", "pan2d", "resetScale2d")


def dressed(figure: go.Figure) -> go.Figure:
    """The figure in the style that all share."""
    font = {"family": "system-ui, sans-serif", "size": 13}
    return figure.update_layout(template="plotly_white", hovermode="closest", font=font)


def add_mark(
    figure: go.Figure, x: float | str, y: float, kind: MarkKind, colour: str, size: int, **options: Any
) -> None:
    """Adds the symbol of a best tap or an output, where it has a value; `options` are those of `add_scatter`."""
    if np.isfinite(y):
        marker = {"size": size, "color": colour, "symbol": SYMBOLS[kind], "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=marker, **options)


def html(figure: go.Figure) -> str:
    """The figure as a fragment of HTML that expects plotly.js on its page."""
    # Plotly's own bar has a button that uploads the chart: what a run found stays with its reader.
    config = {"displaylogo": False, "responsive": True, "modeBarButtons": [list(BUTTONS)]}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config)
