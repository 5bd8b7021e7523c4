"""The figures of a run: score by tap, which tap holds which target, and their signs for a legend that they share."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from diagnostics.measures.verdict import Verdict
from diagnostics.report.layout import name_lines
from diagnostics.report.numbers import format_number
from diagnostics.report.page import ControlCurve, Legend, MapLegend, MarkKind, ProfileFigure, ScoreMap
from diagnostics.report.plots.style import (
    BEST,
    BOTTOM,
    FLOOR,
    FRAME,
    HEIGHT,
    INK,
    LINE,
    MOST_TICKS,
    OUTLINE,
    OUTPUT,
    SMALL,
    SYMBOLS,
    TOP,
    add_key,
    add_mark,
    apply_style,
    tick_taps,
)

BAND = "rgba(59,127,196,0.22)"
CONTROL_COLOURS = ("#7c8794", "#a07a3c", "#3f8f8c", "#4f8a5b", "#9a6fb0", "#b8708a")
CONTROL_DASHES = ("dash", "dashdot", "dot", "8px,3px,2px,3px,2px,3px", "longdash", "longdashdot")
LINE_DASHES = ("dot", "dash", "longdashdot", "longdash", "dashdot", "1px,5px", "12px,3px,2px,3px")
# A reference line further away than this many spans of the profile does not stretch the axis.
FAR = 3.0
# The least span of the axis: of a probe's score, and of anything else as a share of its size.
LEAST_SPAN, LEAST_SHARE = 0.1, 0.05
LABEL = 15


def draw_profile(profile: ProfileFigure, *, small: bool = False) -> go.Figure:
    """Score of each tap with its band; heads behind it, controls as broken lines; the tap to use and the output marked.

    Pointing at a tap shows all of its values. `small`: without a legend, which other figures share.
    """
    # Plotly reads a little HTML in every text.
    taps = [escape(tap) for tap in profile.taps]
    figure = go.Figure()
    x, y = _band(taps, profile.low, profile.high)
    if x:
        figure.add_scatter(
            x=x,
            y=y,
            fill="toself",
            fillcolor=BAND,
            mode="lines",
            line={"color": BAND, "width": 1},
            hoverinfo="skip",
            name="95 % interval",
        )
    _add_heads(figure, profile, taps)
    figure.add_scatter(
        x=taps,
        y=profile.score,
        mode="lines+markers",
        name=escape(profile.name),
        line_color=INK,
        customdata=_intervals(profile),
        hovertemplate=f"%{{customdata}}<extra>{escape(profile.axis)}</extra>",
    )
    for control in profile.controls:
        _add_control(figure, control)
    shown = _axis_range(profile)
    height, top = (SMALL, 24) if small else (HEIGHT, TOP)
    _add_lines(figure, profile, taps, shown, height - top - BOTTOM, beside=not small)
    if profile.chosen is not None:
        _mark(figure, *profile.chosen, "layer to use", BEST, "chosen tap")
    _mark(figure, *profile.output, "output tap", OUTPUT, "output")
    figure.update_yaxes(range=list(shown), title_text=escape(profile.axis), zeroline=False)
    # A category axis even for taps named by numbers, with a place for taps without a value.
    figure.update_xaxes(
        title_text=None if small else "tap (depth), in order of execution",
        type="category",
        categoryorder="array",
        categoryarray=taps,
        range=[-0.4, len(taps) - 0.6],
    )
    tick_taps(figure, profile.taps, profile.depth, numeric=False)
    return apply_style(figure, template=not small).update_layout(
        # A tap has one value of everything but its heads, which are told apart one by one.
        hovermode="closest" if profile.heads is not None else "x unified",
        height=height,
        margin={"l": 60, "r": 130 if profile.lines and not small else 20, "t": top, "b": BOTTOM},
        showlegend=not small,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )


def _intervals(profile: ProfileFigure) -> list[str]:
    """Each tap's value with its interval, and what it is marked as."""
    chosen = profile.chosen[0] if profile.chosen else None
    values: list[str] = []
    for tap, depth, *numbers in zip(profile.taps, profile.depth, profile.score, profile.low, profile.high, strict=True):
        value, low, high = (format_number(float(number), ".3g") for number in numbers)
        marks = [mark for mark, at in (("layer to use", chosen), ("output", profile.output[0])) if at == tap]
        interval = f"{value} [{low}, {high}]" if np.isfinite(numbers[1]) else value
        values.append(", ".join([interval, f"depth {depth:.2f}", *marks]))
    return values


def lines_outside(profile: ProfileFigure) -> list[str]:
    """The reference lines that the axis leaves out, each in words, as `ceiling (64) lies above`."""
    bottom, top = _axis_range(profile)
    lines: list[str] = []
    for name, values in profile.lines.items():
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        for outer, way in ((known > top, "above"), (known < bottom, "below")):
            if outer.any():
                ends = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (known[outer].min(), known[outer].max())))
                lines.append(f"{name} ({ends}) {'lies' if outer.all() else 'lies in part'} {way}")
    return lines


def below_floor(profile: ProfileFigure) -> bool:
    """True if the figure leaves out scores, which have no floor."""
    own = _own_values(profile)
    return bool(profile.is_score and own.size and own.min() < FLOOR < own.max())


def _own_values(profile: ProfileFigure) -> np.ndarray:
    """All that is drawn but reference lines."""
    parts = [profile.score, profile.low, profile.high, *(control.values for control in profile.controls)]
    if profile.heads is not None:
        parts.append(profile.heads)
    values = np.concatenate([np.ravel(part) for part in parts])
    return values[np.isfinite(values)]


def _axis_range(profile: ProfileFigure) -> tuple[float, float]:
    """The range of the axis: the profile with what belongs to it, never less than a span worth a look."""
    own = _own_values(profile)
    if not own.size:
        return 0.0, 1.0
    low, high = float(own.min()), float(own.max())
    if low < FLOOR < high and profile.is_score:
        low = FLOOR
    least = LEAST_SPAN if profile.is_score else LEAST_SHARE * max(abs(low), abs(high)) or LEAST_SPAN
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    far = FAR * (high - low)
    near = [
        value
        for values in profile.lines.values()
        for value in values[np.isfinite(values)]
        if low - far <= value <= high + far
    ]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _band(taps: list[str], low: np.ndarray, high: np.ndarray) -> tuple[list[str | None], list[float | None]]:
    """One outline for each run of taps that have an interval: across a gap there is none."""
    x: list[str | None] = []
    y: list[float | None] = []
    known = np.isfinite(low) & np.isfinite(high)
    for run in [[*places] for here, places in groupby(range(len(taps)), key=known.__getitem__) if here]:
        if x:
            x.append(None)
            y.append(None)
        x.extend([*(taps[i] for i in run), *(taps[i] for i in reversed(run))])
        y.extend([*(float(high[i]) for i in run), *(float(low[i]) for i in reversed(run))])
    return x, y


def _add_heads(figure: go.Figure, profile: ProfileFigure, taps: list[str]) -> None:
    if profile.heads is None:
        return
    at, head = np.nonzero(np.isfinite(profile.heads))
    figure.add_scatter(
        x=[taps[i] for i in at],
        y=profile.heads[at, head],
        mode="markers",
        name="heads",
        customdata=head,
        marker={"size": 6, "color": "rgba(194,65,12,0.45)"},
        hovertemplate="%{x}<br>head %{customdata}<br>%{y:.4g}<extra></extra>",
    )


def _add_lines(
    figure: go.Figure,
    profile: ProfileFigure,
    taps: list[str],
    shown: tuple[float, float],
    inner: int,
    *,
    beside: bool,
) -> None:
    """Reference lines with their names beside the figure, or within it.

    `inner` is the height of the part shown, in pixels.
    """
    bottom, top = shown
    labels: list[tuple[float, float, str]] = []
    inside: dict[float, str] = {}
    for i, (name, values) in enumerate(profile.lines.items()):
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        name = escape(name)
        figure.add_scatter(
            x=taps,
            y=values,
            mode=_mode(values),
            name=name,
            showlegend=False,
            marker={"color": LINE, "size": 5},
            line={"color": LINE, "dash": LINE_DASHES[i % len(LINE_DASHES)], "width": 1.5},
            hovertemplate=f"%{{y:.3g}}<extra>{name}</extra>",
        )
        end = float(known[-1])
        arrow = " ↑" if end > top else " ↓" if end < bottom else ""
        # What lies on 0 as far as the eye can tell is 0.
        value = f"{end:.3g}" if abs(end) > 1e-3 * (top - bottom) else "0"
        text = f"{name} {value}{arrow}"
        if arrow and not beside:
            # There is room for one line above and below the curves.
            edge = top if end > top else bottom
            inside[edge] = f"{inside[edge]}, {text}" if edge in inside else text
        else:
            labels.append((min(max(end, bottom), top), end, text))
    labels += [(edge, edge, text) for edge, text in inside.items()]
    # Labels of lines that lie together stand above one another.
    pixels = inner / (top - bottom)
    before = -np.inf
    for y, _, text in sorted(labels):
        place = before = max((y - bottom) * pixels, before + LABEL)
        first = not beside and _is_start_emptier(profile, bottom + (place + LABEL / 2) / pixels)
        figure.add_annotation(
            x=0 if first else 1,
            xref="paper",
            xanchor="left" if beside or first else "right",
            yanchor="middle" if beside else "bottom",
            y=y,
            yref="y",
            yshift=place - (y - bottom) * pixels,
            text=text,
            showarrow=False,
            font={"size": 11},
        )


def _is_start_emptier(profile: ProfileFigure, height: float) -> bool:
    """True if curves stay further from this height at the first third of the taps than at the last."""
    third = -(-len(profile.taps) // 3)
    curves = [(profile.taps, profile.score), *((control.taps, control.values) for control in profile.controls)]

    def room(taps: Sequence[str]) -> float:
        nearest = np.inf
        for names, values in curves:
            known = [v for name, v in zip(names, values, strict=True) if name in taps and np.isfinite(v)]
            if known:
                # Between taps too, where a steep line may cross it.
                line = np.interp(np.linspace(0, len(known) - 1, 20), range(len(known)), known)
                nearest = min(nearest, np.abs(line - height).min())
        return nearest

    return room(profile.taps[:third]) > room(profile.taps[-third:])


def _add_control(figure: go.Figure, control: ControlCurve) -> None:
    if not np.isfinite(control.values).any():
        return
    name = escape(control.name)
    colour, dash = (palette[control.style % len(palette)] for palette in (CONTROL_COLOURS, CONTROL_DASHES))
    figure.add_scatter(
        x=[escape(tap) for tap in control.taps],
        y=control.values,
        mode=_mode(control.values),
        name=name,
        line={"color": colour, "dash": dash, "width": 1.5},
        marker_color=colour,
        hovertemplate=f"%{{y:.3g}}<extra>{name}</extra>",
    )


def _mode(values: np.ndarray) -> str:
    # A line needs two points.
    return "lines" if np.isfinite(values).sum() > 1 else "markers"


def _mark(figure: go.Figure, tap: str, value: float, name: str, colour: str, kind: MarkKind) -> None:
    add_mark(
        figure,
        escape(tap),
        value,
        kind,
        colour,
        13,
        name=name,
        # The line's own text says so.
        hoverinfo="skip",
    )


LINE_HEIGHT, BETWEEN = 16, 10
"""Pixels of a line of a row's name, and between rows."""
WIDEST, NARROWEST = 40, 22
"""Characters of a line on the axis, and on a narrow screen."""
HEAD, LEGEND = 20, 70
"""Pixels above the rows, for the name of the frame; and for the legend of a picture that stands alone."""
UNREAD = "rgba(127,139,151,0.28)"
# Those of rows that can be read are the ends of `Cividis`.
COLOURS = (
    ("#00224e", "at chance level"),
    ("#fee838", "best of its row"),
    (UNREAD, "nothing is read at any layer"),
)


def colours_of(unread: Collection[bool]) -> list[tuple[str, str]]:
    """The colours of rows that are unread or not, each with what it means."""
    return [*(COLOURS[:2] if False in unread else ()), *(COLOURS[2:] if True in unread else ())]


def relative_scores(scores: ScoreMap) -> np.ndarray:
    """[target, tap], 0 for what knowing nothing reaches and 1 for the best of the row.

    NaN where nothing can be read.
    """
    above = scores.score - scores.floor[:, None]
    most = np.max(above, axis=1, initial=-np.inf, where=np.isfinite(above))
    unread = np.array(scores.unread, dtype=bool) | ~(most > 0)
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
    # Unread rows have one colour: differences between their taps are noise.
    for rows, values, colours in (
        (unread, np.where(np.isfinite(scores.score), 0.0, np.nan), [[0, UNREAD], [1, UNREAD]]),
        (~unread, z, "Cividis"),
    ):
        if not rows.any():
            continue
        figure.add_heatmap(
            x=x,
            y=y[rows],
            z=values[rows],
            colorscale=colours,
            zmin=0,
            zmax=1,
            xgap=gap,
            ygap=2,
            showscale=False,
            hoverongaps=False,
            customdata=[_hovers(scores, z, row) for row in y[rows]],
            hovertemplate="%{customdata}<extra></extra>",
        )
    chosen = [
        (scores.taps.index(tap), row) for row, tap in enumerate(scores.chosen) if tap in scores.taps and not unread[row]
    ]
    if chosen:
        figure.add_scatter(
            x=[column for column, _ in chosen],
            y=[row for _, row in chosen],
            mode="markers",
            hoverinfo="skip",
            name="layer to use",
            cliponaxis=False,
            marker={"symbol": SYMBOLS["chosen tap"], "size": 14, "color": BEST, "line": {"width": 1, "color": OUTLINE}},
        )
    _add_frame(figure, scores)
    figure.update_xaxes(range=[-0.5, len(x) - 0.5], showgrid=False, zeroline=False)
    wide, narrow = (_labels(scores, most) for most in (WIDEST, NARROWEST))
    head = HEAD if small else HEAD + LEGEND
    tick_taps(figure, scores.taps, scores.depth, numeric=True, rows=scores.anchors)
    # Names of taps lie aslant.
    layout: Any = figure.layout
    around = head + round(25 + 4.6 * max(map(len, layout.xaxis.ticktext)))
    layout.meta["forms"] = {
        name: {"labels": labels, "height": around + _height(labels)}
        for name, labels in (("wide", wide), ("narrow", narrow))
    }
    figure.update_yaxes(
        tickvals=y, ticktext=wide, range=[len(y) - 0.5, -0.5], showgrid=False, zeroline=False, automargin=True
    )
    if not small:
        _add_legend(figure, scores)
    return apply_style(figure, template=not small).update_layout(
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
    figure.add_shape(type="rect", x0=at - 0.5, x1=at + 0.5, y0=-0.5, y1=last, line={"color": FRAME, "width": 2.5})
    right = at > len(scores.taps) / 2
    figure.add_annotation(
        x=at + (0.5 if right else -0.5),
        y=-0.5,
        yanchor="bottom",
        xanchor="right" if right else "left",
        text="output",
        showarrow=False,
        font={"size": 11},
    )


def _add_legend(figure: go.Figure, scores: ScoreMap) -> None:
    """Add the meaning of colours and signs, as entries of the legend."""
    for colour, name in colours_of(scores.unread):
        add_key(figure, name, symbol="square", size=12, color=colour)
    # Shifted by as much as the name of the frame takes.
    figure.add_annotation(
        x=1,
        xref="paper",
        xanchor="right",
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=HEAD,
        text="   ".join([f"{verdict.mark} {verdict}" for verdict in Verdict if verdict in scores.verdicts]),
        showarrow=False,
        font={"size": 12},
    )
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


# As plotly draws them, at a width of 1.5.
DASH_LENGTHS = {
    "dash": "9,9",
    "dashdot": "9,3,3,3",
    "dot": "3,3",
    "longdash": "10,5",
    "longdashdot": "10,4,3,4",
}


@dataclass(frozen=True)
class Sign:
    """One entry: its name and what is drawn for it.

    That is a line with these dashes, a band, a star, a diamond, a frame or a square of this colour.
    """

    name: str
    shape: str
    colour: str
    dashes: str = ""


def signs(legend: Legend | MapLegend) -> list[Sign]:
    """The entries of a legend."""
    if isinstance(legend, MapLegend):
        return [
            *([Sign("layer to use", "star", BEST)] if False in legend.unread else []),
            Sign("output", "frame", FRAME),
            *(Sign(name, "square", colour) for colour, name in colours_of(legend.unread)),
        ]
    controls = [
        Sign(name, "line", CONTROL_COLOURS[style % len(CONTROL_COLOURS)], _dashes(style))
        for name, style in legend.controls
    ]
    return [
        Sign("score or value", "line", INK),
        *([Sign("95 % interval", "band", BAND)] if legend.band else []),
        *([Sign("layer to use", "star", BEST)] if legend.chosen else []),
        Sign("output", "diamond", OUTPUT),
        *controls,
        *([Sign("reference line", "line", LINE, "3,3")] if legend.lines else []),
    ]


def _dashes(style: int) -> str:
    dash = CONTROL_DASHES[style % len(CONTROL_DASHES)]
    return DASH_LENGTHS.get(dash, dash.replace("px", ""))
