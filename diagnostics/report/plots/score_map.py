"""The first picture of a run: which tap holds which target, as one heat map."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.measures.verdict import Verdict
from diagnostics.report.names import name_lines
from diagnostics.report.numbers import format_number
from diagnostics.report.page import ScoreMap
from diagnostics.report.plots.style import BEST, FRAME, MOST_TICKS, OUTLINE, SYMBOLS, dressed, tick_taps

LINE_HEIGHT, BETWEEN = 16, 10
"""Pixels of a line of a row's name, and between rows."""
WIDEST, NARROWEST = 40, 22
"""Characters of a line on the axis, and on a narrow screen."""
HEAD, LEGEND = 20, 70
"""Pixels above the rows, for the name of the frame; and for the legend of a picture that stands alone."""
UNREAD = "rgba(127,139,151,0.28)"
# Those of rows that can be read are the ends of `Cividis`.
COLOURS = (
    ("#00224e", "at chance level"), ("#fee838", "best of its row"), (UNREAD, Verdict.AT_CHANCE.meaning),
)  # fmt: skip


def colours_of(verdicts: Collection[Verdict]) -> list[tuple[str, str]]:
    """The colours of rows with these verdicts, each with what it means."""
    none = Verdict.AT_CHANCE
    return [*(COLOURS[:2] if set(verdicts) - {none} else ()), *(COLOURS[2:] if none in verdicts else ())]


def relative_scores(scores: ScoreMap) -> np.ndarray:
    """[target, tap], 0 for what knowing nothing reaches and 1 for the best of the row; NaN where nothing can be read."""
    above = scores.score - scores.floor[:, None]
    most = np.max(above, axis=1, initial=-np.inf, where=np.isfinite(above))
    unread = np.array([verdict is Verdict.AT_CHANCE for verdict in scores.verdicts], dtype=bool) | ~(most > 0)
    share = np.clip(above / np.where(unread, np.nan, most)[:, None], 0, 1)
    return np.where(np.isfinite(above), share, np.nan)


def draw_score_map(scores: ScoreMap, *, small: bool = False) -> go.Figure:
    """Score relative to the best of its row; stars at the taps to use, a frame around the output.

    small: without the legend, which a page has.
    """
    # Numbers as places, so that two targets whose names are alike are two rows.
    x, y = np.arange(len(scores.taps)), np.arange(len(scores.targets))
    z = relative_scores(scores)
    unread = np.asarray(np.isnan(z).all(axis=1))
    figure = go.Figure()
    # Between many columns gaps would be as wide as the columns.
    gap = 1 if len(x) <= MOST_TICKS else 0
    # What knows nothing has no shades: they would be noise.
    for rows, values, colours in (
        (unread, np.where(np.isfinite(scores.score), 0.0, np.nan), [[0, UNREAD], [1, UNREAD]]),
        (~unread, z, "Cividis"),
    ):
        if not rows.any():
            continue
        figure.add_heatmap(
            x=x, y=y[rows], z=values[rows], colorscale=colours, zmin=0, zmax=1, xgap=gap, ygap=2, showscale=False,
            hoverongaps=False, customdata=[_hovers(scores, z, row) for row in y[rows]],
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    chosen = [
        (scores.taps.index(tap), row) for row, tap in enumerate(scores.chosen) if tap in scores.taps and not unread[row]
    ]
    if chosen:
        figure.add_scatter(
            x=[column for column, _ in chosen], y=[row for _, row in chosen], mode="markers", hoverinfo="skip",
            name="layer to use", cliponaxis=False,
            marker={"symbol": SYMBOLS["chosen tap"], "size": 14, "color": BEST, "line": {"width": 1, "color": OUTLINE}},
        )  # fmt: skip
    _add_frame(figure, scores)
    figure.update_xaxes(range=[-0.5, len(x) - 0.5], showgrid=False, zeroline=False)
    wide, narrow = (_labels(scores, most) for most in (WIDEST, NARROWEST))
    head = HEAD if small else HEAD + LEGEND
    tick_taps(figure, scores.taps, scores.depth, numeric=True, rows=scores.anchors)
    # Names of taps lie aslant.
    around = head + round(25 + 4.6 * max(map(len, figure.layout.xaxis.ticktext)))
    figure.layout.meta["forms"] = {
        name: {"labels": labels, "height": around + _height(labels)} for name, labels in (("wide", wide), ("narrow", narrow))
    }  # fmt: skip
    figure.update_yaxes(
        tickvals=y, ticktext=wide, range=[len(y) - 0.5, -0.5], showgrid=False, zeroline=False, automargin=True
    )
    if not small:
        _add_legend(figure, scores)
    return dressed(figure).update_layout(
        height=around + _height(wide),
        margin={"l": 10, "r": 10, "t": head, "b": 10},
        # Plotly keeps more for the rows otherwise, and cuts the names below a single one.
        minreducedheight=BETWEEN,
        showlegend=not small,
    )


def _labels(scores: ScoreMap, most: int) -> list[str]:
    """Each row's name behind its sign, in lines."""
    named = (f"{verdict.mark} {name}" for verdict, name in zip(scores.verdicts, scores.targets, strict=True))
    return ["<br>".join(map(escape, name_lines(name, most))) for name in named]


def _height(labels: list[str]) -> int:
    """Of all rows, in pixels: each as high as the longest name."""
    return len(labels) * (BETWEEN + LINE_HEIGHT * max(label.count("<br>") + 1 for label in labels))


def _add_frame(figure: go.Figure, scores: ScoreMap) -> None:
    at, last = scores.taps.index(scores.output), len(scores.targets) - 0.5
    figure.add_shape(
        type="rect", x0=at - 0.5, x1=at + 0.5, y0=-0.5, y1=last, line={"color": FRAME, "width": 2.5}
    )  # fmt: skip
    right = at > len(scores.taps) / 2
    figure.add_annotation(
        x=at + (0.5 if right else -0.5), y=-0.5, yanchor="bottom", xanchor="right" if right else "left", text="output",
        showarrow=False, font={"size": 11},
    )  # fmt: skip


def _add_legend(figure: go.Figure, scores: ScoreMap) -> None:
    """What colours and signs mean, as entries of the legend."""
    for colour, name in colours_of(scores.verdicts):
        marker = {"symbol": "square", "size": 12, "color": colour}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip")
    signs = [f"{verdict.mark} {verdict}" for verdict in Verdict if verdict in scores.verdicts]
    # Shifted by as much as the name of the frame takes.
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom", yshift=HEAD, text="   ".join(signs),
        showarrow=False, font={"size": 12},
    )  # fmt: skip
    figure.update_layout(
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "entrywidth": 0,
        }
    )


def _hovers(scores: ScoreMap, share: np.ndarray, row: int) -> list[str]:
    def cell(at: int) -> str:
        tap = scores.taps[at]
        value, low, high = (format_number(float(a[row, at])) for a in (scores.score, scores.low, scores.high))
        marks = [
            mark for mark, other in (("layer to use", scores.chosen[row]), ("output", scores.output)) if tap == other
        ]
        lines = [f"<b>{escape(scores.targets[row])}</b>", f"{escape(tap)}, depth {scores.depth[at]:.2f}"]
        lines.append(f"{value} [{low}, {high}]")
        if np.isfinite(share[row, at]):
            lines.append(f"{share[row, at]:.0%} of the best of the row")
        return "<br>".join([*lines, *([" and ".join(marks)] if marks else [])])

    return [cell(at) for at in range(len(scores.taps))]
