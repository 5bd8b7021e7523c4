"""The first picture of a run: which tap holds which target, as one heat map."""

from __future__ import annotations

from html import escape

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.escaping import shortened
from diagnostics.report.figures import ScoreMap
from diagnostics.report.numbers import format_number
from diagnostics.report.plots.style import FOUND, NOT_FOUND, dressed, tick_taps

ROW = 26
LONGEST = 36
"""Characters of a target's name on the axis; the whole of it is on hover."""
UNREAD = "rgba(127,139,151,0.28)"
SIGNS = {"hidden": "●", "doubtful": "◐", "none": "○", "unread": "–"}


def relative_scores(scores: ScoreMap) -> np.ndarray:
    """[target, tap], 0 for what knowing nothing reaches and 1 for the best of the row; NaN where nothing can be read."""
    above = scores.score - scores.floor[:, None]
    most = np.max(above, axis=1, initial=-np.inf, where=np.isfinite(above))
    unread = np.array([state == "unread" for state in scores.states], dtype=bool) | ~(most > 0)
    share = np.clip(above / np.where(unread, np.nan, most)[:, None], 0, 1)
    return np.where(np.isfinite(above), share, np.nan)


def draw_score_map(scores: ScoreMap) -> go.Figure:
    """Score relative to the best of its row; stars at the taps that were chosen on val, a frame around the output."""
    # Numbers as places, so that two targets whose shortened names are alike are two rows.
    x, y = np.arange(len(scores.taps)), np.arange(len(scores.targets))
    z = relative_scores(scores)
    unread = np.isnan(z).all(axis=1)
    figure = go.Figure()
    # What knows nothing has no shades: they would be noise.
    for rows, values, colours in (
        (unread, np.where(np.isfinite(scores.score), 0.0, np.nan), [[0, UNREAD], [1, UNREAD]]),
        (~unread, z, "Cividis"),
    ):
        if not rows.any():
            continue
        figure.add_heatmap(
            x=x, y=y[rows], z=values[rows], colorscale=colours, zmin=0, zmax=1, xgap=1, ygap=2, showscale=False,
            hoverongaps=False, customdata=[_hovers(scores, z, row) for row in y[rows]],
            hovertemplate="%{customdata}<extra></extra>",
        )  # fmt: skip
    _add_stars(figure, scores)
    at = scores.taps.index(scores.output)
    figure.add_shape(
        type="rect", x0=at - 0.5, x1=at + 0.5, y0=-0.5, y1=len(y) - 0.5, line={"color": NOT_FOUND, "width": 2.5}
    )
    figure.add_annotation(
        x=at, y=-0.5, yanchor="bottom", xanchor="right" if at > len(x) / 2 else "left", text="output", showarrow=False,
        xshift=6 if at > len(x) / 2 else -6, font={"size": 11},
    )  # fmt: skip
    names = [
        f"{SIGNS[state]} {escape(shortened(name, LONGEST))}"
        for state, name in zip(scores.states, scores.targets, strict=True)
    ]
    figure.update_yaxes(
        tickvals=y, ticktext=names, range=[len(y) - 0.5, -0.5], showgrid=False, zeroline=False, automargin=True
    )
    figure.update_xaxes(range=[-0.5, len(x) - 0.5], showgrid=False, zeroline=False)
    tick_taps(figure, scores.taps, scores.depth, numeric=True, rows=scores.anchors, labels=names)
    return dressed(figure).update_layout(
        height=115 + ROW * len(y),
        margin={"l": 10, "r": 10, "t": 18, "b": 10},
        showlegend=False,
    )


def _add_stars(figure: go.Figure, scores: ScoreMap) -> None:
    """A star at each tap that was chosen, in the colour of a finding or not."""
    chosen = [(scores.taps.index(tap), row) for row, tap in enumerate(scores.best) if tap in scores.taps]
    shown = [row for _, row in chosen]
    gaps = [scores.states[row] in ("hidden", "doubtful") for row in shown]
    figure.add_scatter(
        x=[column for column, _ in chosen], y=shown, mode="markers", hoverinfo="skip",
        marker={
            "symbol": ["star" if gap else "circle" for gap in gaps], "size": [14 if gap else 8 for gap in gaps],
            "color": [FOUND if gap else "white" for gap in gaps], "line": {"width": 1, "color": "#14191f"},
        },
    )  # fmt: skip


def _hovers(scores: ScoreMap, share: np.ndarray, row: int) -> list[str]:
    def cell(at: int) -> str:
        tap = scores.taps[at]
        value, low, high = (format_number(float(a[row, at])) for a in (scores.score, scores.low, scores.high))
        marks = [mark for mark, other in (("best tap", scores.best[row]), ("output", scores.output)) if tap == other]
        lines = [f"<b>{escape(scores.targets[row])}</b>", f"{escape(tap)}, depth {scores.depth[at]:.2f}"]
        lines.append(f"{value} [{low}, {high}]")
        if np.isfinite(share[row, at]):
            lines.append(f"{share[row, at]:.0%} of the best of the row")
        return "<br>".join([*lines, *([" and ".join(marks)] if marks else [])])

    return [cell(at) for at in range(len(scores.taps))]
