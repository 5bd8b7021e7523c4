"""The style shared by all figures, panels of figures side by side under one legend, and their embedding in a page."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diagnostics.report.layout import short_names
from diagnostics.report.page import MarkKind

# Of the palette of Okabe and Ito, which colour-blind readers tell apart, in shades that stand out on white and on
# black.
INK = "#3b7fc4"
LINE = "#76828e"
FOUND = "#d55e00"
NOT_FOUND = "#3b7fc4"
"""Of what is hidden by an output, and of what is not; the page's style sheet has the same."""
BEST = FOUND
"""Colour of the star that marks a tap to use; in a comparison it has the colour of its group."""
OUTPUT = INK
"""Colour of the diamond that marks the output; in a comparison it has the colour of its group."""
FRAME = NOT_FOUND
"""Colour of the frame around the output in a heat map."""
OUTLINE = "#14191f"
"""Of a star on a heat map, whose colours are dark and bright."""
SYMBOLS = {"chosen tap": "star", "output": "diamond"}
HEIGHT = 380
SMALL = 290
"""Height of one figure of many."""
TOP = 50
BOTTOM = 80
# R2 has no floor; one useless tap must not press all others flat.
FLOOR = -0.5
MOST_TICKS = 24
LONGEST_TAP = 18
# Of plotly's buttons, those that read a figure.
BUTTONS = ("toImage", "zoom2d", "pan2d", "resetScale2d")


def apply_style(figure: go.Figure, *, template: bool = True) -> go.Figure:
    """The figure in the style that all share; `template`: with plotly's, which a page has once for all."""
    font = {"family": "system-ui, sans-serif", "size": 13}
    # Plotly's own are larger, and cut on narrow screens.
    figure.update_xaxes(title_font_size=13).update_yaxes(title_font_size=13)
    # Plotly copies a template number by number, which takes longer than the rest of a figure.
    return figure.update_layout(hovermode="closest", font=font, **{"template": "plotly_white"} if template else {})


def tick_taps(
    figure: go.Figure, taps: Sequence[str], depth: Sequence[float] | np.ndarray, *, numeric: bool, **more: Any
) -> None:
    """Names the taps along x with their depths: as many as fit, evenly, and always the last.

    numeric: whether x counts the taps, or has their names. A page reads all names from `meta`, and fits them to its
    width; `more` is what else it is to know.
    """
    names = [f"{escape(name)} ({at:.2f})" for name, at in zip(short_names(taps, LONGEST_TAP), depth, strict=True)]
    places = list(range(len(taps))) if numeric else [escape(tap) for tap in taps]
    last, step = len(taps) - 1, max(1, math.ceil(len(taps) / MOST_TICKS))
    shown = [i for i in range(0, len(taps), step) if i == last or last - i >= step] + [last] * (last % step > 0)
    figure.update_xaxes(
        tickangle=-45,
        tickvals=[places[i] for i in shown],
        ticktext=[names[i] for i in shown],
        tickfont={"size": 11},
        automargin=True,
    )
    figure.update_layout(meta={"places": places, "names": names, **more})


def add_key(figure: go.Figure, name: str, **marker: Any) -> None:
    """An entry of the legend for what is drawn otherwise: a marker without a place."""
    figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip")


def add_mark(
    figure: go.Figure, x: float | str, y: float, kind: MarkKind, colour: str, size: int, **options: Any
) -> None:
    """Add the symbol of a chosen tap or an output, where it has a value; `options` are those of `add_scatter`."""
    if np.isfinite(y):
        marker = {"size": size, "color": colour, "symbol": SYMBOLS[kind], "line": {"width": 1, "color": "white"}}
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=marker, **options)


def html(figure: go.Figure) -> str:
    """The figure as a fragment of HTML, which the script of a page draws in the style that all share."""
    from plotly.io.json import to_json_plotly

    plain: dict[str, Any] = figure.to_plotly_json()
    layout: dict[str, Any] = {key: value for key, value in plain["layout"].items() if key != "template"}
    height = int(layout.get("height", HEIGHT))
    data = _inert(to_json_plotly({"data": plain["data"], "layout": layout}))
    traces: Any = figure.data  # which plotly's types do not know
    kind = "figure matrix" if any(trace.type == "heatmap" for trace in traces) else "figure"
    return f'<div class="{kind}" style="height:{height}px"><script type="application/json">{data}</script></div>'


def _inert(json: Any) -> str:
    """JSON in which no name ends the script that holds it."""
    return str(json).replace("<", "\\u003c")


def settings() -> str:
    """Settings of a page's figures: plotly's configuration, and the template that all share, as JSON."""
    from plotly.io import templates
    from plotly.io.json import to_json_plotly

    # Plotly's own bar has a button that uploads the chart, and results may be confidential.
    config = {"displaylogo": False, "responsive": True, "modeBarButtons": [list(BUTTONS)]}
    return _inert(to_json_plotly({"config": config, "template": templates["plotly_white"]}))


COLUMNS = 2
PANEL = 300
"""Height of a row, in pixels."""
ABOVE, BELOW = 90, 80


def multiples(panels: Sequence[tuple[str, go.Figure]]) -> go.Figure:
    """The figures as panels with these titles, two in a row, each with its own axes.

    A name stands in the legend once.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = ABOVE + BELOW + PANEL * rows
    figure: go.Figure = make_subplots(
        rows,
        columns,
        subplot_titles=[escape(title) for title, _ in panels],
        horizontal_spacing=0.11,
        vertical_spacing=min(0.33 * PANEL / (height - ABOVE - BELOW), 1 / max(rows - 1, 1)),
    )
    named: set[str] = set()
    for i, (_, panel) in enumerate(panels):
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        layout: Any = panel.layout  # which plotly's types do not know, nor traces
        traces: Any = panel.data
        for trace in traces:
            shown = trace.showlegend is not False and bool(trace.name) and trace.name not in named
            named.add(trace.name or "")
            figure.add_trace(trace, **place)
            figure.data[-1].update(showlegend=shown, legendgroup=trace.legendgroup or trace.name)
        # What the axis is stands under the last panel of each column, without the explanation, for which there is no
        # room.
        title = (layout.xaxis.title.text or "").partition(" (")[0] if i + columns >= len(panels) else ""
        figure.update_xaxes({**_own(layout.xaxis), "title": {"text": title or None}}, **place)
        figure.update_yaxes(_own(layout.yaxis), **place)
        for shape in layout.shapes:
            figure.add_shape({**shape.to_plotly_json(), "xref": None, "yref": "y domain"}, **place)
    return apply_style(figure).update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": ABOVE, "b": BELOW},
        legend={"orientation": "h", "x": 0, "y": 1 + 30 / (height - ABOVE - BELOW), "yanchor": "bottom"},
    )


def _own(axis: Any) -> dict[str, Any]:
    """An axis without its place in the figure that it comes from."""
    return {key: value for key, value in axis.to_plotly_json().items() if key not in ("domain", "anchor")}
