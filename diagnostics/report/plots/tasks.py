"""All tasks of an encoder over depth in one figure, each scaled to its best tap; several encoders below one another."""

from html import escape
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from diagnostics.report.page import TaskCurve, TasksFigure
from diagnostics.report.plots.curves import COLOURS, DASHES
from diagnostics.report.plots.style import LINE, OUTLINE, SYMBOLS, add_key, apply_style
from diagnostics.vocabulary import Family

LEAST = -0.1
"""Of the axis; a tap far below chance must not press all others flat."""
PLOT, GAP, BELOW = 260, 34, 72
"""Pixels of an encoder's plot, between two of them, and from the last to the legend."""
LABEL = 15
"""Pixels between two labels at the right edge."""


def draw_tasks(tasks: TasksFigure) -> go.Figure:
    """A line for each task, in the colour of its family.

    It is thick where taps are not shown to be worse than the one to use, with a star there, and the output's share at
    the right edge. Pointing at a tap shows its score.
    """
    count = len(tasks.encoders)
    names = [escape(name) for name in tasks.encoders]
    plots = count * (PLOT + GAP) - GAP
    figure = make_subplots(
        count, 1, shared_xaxes=True, vertical_spacing=GAP / plots, subplot_titles=names if count > 1 else None
    )
    every = [curve for curves in tasks.encoders.values() for curve in curves]
    families = [family for family in get_args(Family) if any(curve.family == family for curve in every)]
    labels = {family: list(dict.fromkeys(c.name for c in every if c.family == family)) for family in families}
    named = set[str]()
    for row, curves in enumerate(tasks.encoders.values(), start=1):
        place: dict[str, Any] = {"row": row, "col": 1}
        for curve in curves:
            style = {
                "color": COLOURS[families.index(curve.family) % len(COLOURS)],
                "dash": DASHES[labels[curve.family].index(curve.name) % len(DASHES)],
            }
            group = {"legendgroup": curve.name, "showlegend": False}
            share = np.where(np.isfinite(curve.share), np.maximum(curve.share, LEAST), np.nan)
            figure.add_scatter(
                x=curve.depth,
                y=share,
                mode="lines",
                name=escape(f"{curve.name}, {curve.family}"),
                line={**style, "width": 1.5},
                customdata=_hovers(curve),
                hovertemplate="%{customdata}<extra></extra>",
                **group | {"showlegend": curve.name not in named},
                **place,
            )
            named.add(curve.name)
            inside = np.where(curve.inside, share, np.nan)
            wide = {"color": style["color"], "width": 5}
            marker = {"size": 6, "color": style["color"]}
            figure.add_scatter(
                x=curve.depth, y=inside, mode="lines+markers", line=wide, marker=marker, opacity=0.45, hoverinfo="skip",
                **group, **place,
            )  # fmt: skip
            for kind, at in (("chosen tap", curve.chosen), ("output", curve.output)):
                if at is not None and np.isfinite(share[at]):
                    look = {"size": 12 if kind == "chosen tap" else 8, "symbol": SYMBOLS[kind], "color": style["color"]}
                    figure.add_scatter(
                        x=[curve.depth[at]], y=[share[at]], mode="markers", hoverinfo="skip",
                        marker={**look, "line": {"width": 1, "color": OUTLINE}}, **group, **place,
                    )  # fmt: skip
        highest = _label_outputs(figure, curves, row)
        figure.update_yaxes(range=[LEAST - 0.03, max(1.0, highest) + 0.08], row=row)
    for kind, text in (("star", "layer to use"), ("diamond", "output"), ("line-ew-open", "not shown to be worse")):
        add_key(figure, text, size=11, symbol=kind, color=LINE, line={"width": 5 if "line" in kind else 1})
    figure.update_yaxes(title_text="share of the best tap", zeroline=False)
    figure.update_xaxes(zeroline=False, range=[-0.03, max(float(curve.depth.max()) for curve in every) + 0.03])
    figure.update_xaxes(title_text="relative depth", row=count)
    return apply_style(figure).update_layout(
        # On a narrow screen each task has a line of the legend.
        height=30 + plots + BELOW + LABEL * (len(named) + 3),
        margin={"l": 60, "r": 130, "t": 30, "b": BELOW},
        legend={"orientation": "h", "x": 0, "y": -BELOW / plots, "yanchor": "top"},
    )


def _hovers(curve: TaskCurve) -> list[str]:
    """Each tap's score, and what it is of the best."""
    return [
        f"{escape(curve.name)}<br>{escape(tap)} (depth {depth:.2f})<br>{score:.3f}, {100 * share:.0f} % of the best tap"
        for tap, depth, score, share in zip(curve.taps, curve.depth, curve.score, curve.share, strict=True)
    ]


def _label_outputs(figure: go.Figure, curves: tuple[TaskCurve, ...], row: int) -> float:
    """Labels the output's share of each task, beside the last tap; labels that would touch stand above one another.

    Returns where the highest stands.
    """
    known = [curve for curve in curves if np.isfinite(curve.share[curve.output])]
    step, before = 1.2 * LABEL / PLOT, -np.inf
    for curve in sorted(known, key=lambda curve: float(curve.share[curve.output])):
        share = max(float(curve.share[curve.output]), LEAST)
        before = max(share, before + step)
        figure.add_annotation(
            x=1,
            y=before,
            text=f"{escape(curve.name.partition(' (')[0])} {100 * share:.0f} %",
            xanchor="left",
            showarrow=False,
            font={"size": 11},
            xref="paper",
            yref=f"y{row}",
        )
    return before
