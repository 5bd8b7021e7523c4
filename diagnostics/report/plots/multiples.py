"""Small multiples: finished figures side by side in one, each a panel, under one legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diagnostics.report.plots.style import dressed

COLUMNS = 2
PANEL = 300
"""Height of a row, in pixels."""
TOP, BOTTOM = 90, 80


def multiples(panels: Sequence[tuple[str, go.Figure]]) -> go.Figure:
    """The figures as panels with these titles, two in a row, each with its own axes; a name stands in the legend once."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = TOP + BOTTOM + PANEL * rows
    figure: go.Figure = make_subplots(
        rows, columns, subplot_titles=[escape(title) for title, _ in panels],
        horizontal_spacing=0.11, vertical_spacing=min(0.33 * PANEL / (height - TOP - BOTTOM), 1 / max(rows - 1, 1)),
    )  # fmt: skip
    named: set[str] = set()
    for i, (_, panel) in enumerate(panels):
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        traces: Any = panel.data  # which plotly's types do not know
        for trace in traces:
            shown = trace.showlegend is not False and bool(trace.name) and trace.name not in named
            named.add(trace.name or "")
            figure.add_trace(trace, **place)
            figure.data[-1].update(showlegend=shown, legendgroup=trace.legendgroup or trace.name)
        # What the axis is stands under the last panel of each column, without the explanation, for which there is no room.
        title = (panel.layout.xaxis.title.text or "").partition(" (")[0] if i + columns >= len(panels) else ""
        figure.update_xaxes({**_own(panel.layout.xaxis), "title": {"text": title or None}}, **place)
        figure.update_yaxes(_own(panel.layout.yaxis), **place)
        for shape in panel.layout.shapes:
            figure.add_shape({**shape.to_plotly_json(), "xref": None, "yref": "y domain"}, **place)
    return dressed(figure).update_layout(
        height=height, margin={"l": 60, "r": 20, "t": TOP, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1 + 30 / (height - TOP - BOTTOM), "yanchor": "bottom"},
    )  # fmt: skip


def _own(axis: Any) -> dict[str, Any]:
    """An axis without its place in the figure that it comes from."""
    return {key: value for key, value in axis.to_plotly_json().items() if key not in ("domain", "anchor")}
