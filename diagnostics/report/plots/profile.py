"""The figure of a profile: score by tap with its band, heads, controls and reference lines."""

from collections.abc import Sequence
from html import escape
from itertools import groupby

import numpy as np
import plotly.graph_objects as go

from diagnostics.report.numbers import format_number
from diagnostics.report.page import ControlCurve, MarkKind, ProfileFigure
from diagnostics.report.plots.style import (
    BEST,
    BOTTOM,
    FLOOR,
    HEIGHT,
    INK,
    LINE,
    OUTPUT,
    SMALL,
    TOP,
    add_mark,
    dressed,
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
    """Score of each tap with its band; heads behind it, controls as broken lines; the tap to use and the output marked. Pointing at a
    tap shows all of its values. `small`: without a legend, which other figures share."""
    # Plotly reads a little HTML in every text.
    taps = [escape(tap) for tap in profile.taps]
    figure = go.Figure()
    x, y = _band(taps, profile.low, profile.high)
    if x:
        figure.add_scatter(
            x=x, y=y, fill="toself", fillcolor=BAND, mode="lines", line={"color": BAND, "width": 1},
            hoverinfo="skip", name="95 % interval",
        )  # fmt: skip
    _add_heads(figure, profile, taps)
    figure.add_scatter(
        x=taps, y=profile.score, mode="lines+markers", name=escape(profile.name), line_color=INK,
        customdata=_intervals(profile), hovertemplate=f"%{{customdata}}<extra>{escape(profile.axis)}</extra>",
    )  # fmt: skip
    for control in profile.controls:
        _add_control(figure, control)
    shown = _shown(profile)
    height, top = (SMALL, 24) if small else (HEIGHT, TOP)
    _add_lines(figure, profile, taps, shown, height - top - BOTTOM, beside=not small)
    if profile.chosen is not None:
        _mark(figure, *profile.chosen, "layer to use", BEST, "chosen tap")
    _mark(figure, *profile.output, "output tap", OUTPUT, "output")
    figure.update_yaxes(range=list(shown), title_text=escape(profile.axis), zeroline=False)
    # A category axis even for taps named by numbers, with a place for taps without a value.
    figure.update_xaxes(
        title_text=None if small else "tap (depth), in order of execution", type="category", categoryorder="array",
        categoryarray=taps, range=[-0.4, len(taps) - 0.6],
    )  # fmt: skip
    tick_taps(figure, profile.taps, profile.depth, numeric=False)
    return dressed(figure).update_layout(
        # A tap has one value of everything but its heads, which are told apart one by one.
        hovermode="closest" if profile.heads is not None else "x unified",
        height=height, margin={"l": 60, "r": 130 if profile.lines and not small else 20, "t": top, "b": BOTTOM}, showlegend=not small,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip


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
    bottom, top = _shown(profile)
    lines: list[str] = []
    for name, values in profile.lines.items():
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        above, below = known > top, known < bottom
        for outer, way in ((above, "above"), (below, "below")):
            if outer.any():
                ends = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (known[outer].min(), known[outer].max())))
                lines.append(f"{name} ({ends}) {'lies' if outer.all() else 'lies in part'} {way}")
    return lines


def below_floor(profile: ProfileFigure) -> bool:
    """Whether the figure leaves out scores, which have no floor."""
    own = _own_values(profile)
    return bool(profile.is_score and own.size and own.min() < FLOOR < own.max())


def _own_values(profile: ProfileFigure) -> np.ndarray:
    """All that is drawn but reference lines."""
    parts = [profile.score, profile.low, profile.high, *(control.values for control in profile.controls)]
    if profile.heads is not None:
        parts.append(profile.heads)
    values = np.concatenate([np.ravel(part) for part in parts])
    return values[np.isfinite(values)]


def _shown(profile: ProfileFigure) -> tuple[float, float]:
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
        x=[taps[i] for i in at], y=profile.heads[at, head], mode="markers", name="heads", customdata=head,
        marker={"size": 6, "color": "rgba(194,65,12,0.45)"},
        hovertemplate="%{x}<br>head %{customdata}<br>%{y:.4g}<extra></extra>",
    )  # fmt: skip


def _add_lines(
    figure: go.Figure, profile: ProfileFigure, taps: list[str], shown: tuple[float, float], inner: int, *,
    beside: bool,
) -> None:  # fmt: skip
    """Reference lines with their names beside the figure, or within it; `inner` is the height of the part shown, in pixels."""
    bottom, top = shown
    labels: list[tuple[float, float, str]] = []
    inside: dict[float, str] = {}
    for i, (name, values) in enumerate(profile.lines.items()):
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        name = escape(name)
        figure.add_scatter(
            x=taps, y=values, mode=_mode(values), name=name, showlegend=False, marker={"color": LINE, "size": 5},
            line={"color": LINE, "dash": LINE_DASHES[i % len(LINE_DASHES)], "width": 1.5},
            hovertemplate=f"%{{y:.3g}}<extra>{name}</extra>",
        )  # fmt: skip
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
        place = max((y - bottom) * pixels, before + LABEL)
        before = place
        first = not beside and _is_start_emptier(profile, bottom + (place + LABEL / 2) / pixels)
        figure.add_annotation(
            x=0 if first else 1, xref="paper", xanchor="left" if beside or first else "right",
            yanchor="middle" if beside else "bottom", y=y, yref="y", yshift=place - (y - bottom) * pixels, text=text,
            showarrow=False, font={"size": 11},
        )  # fmt: skip


def _is_start_emptier(profile: ProfileFigure, height: float) -> bool:
    """Whether curves stay further from this height at the first third of the taps than at the last."""
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
        x=[escape(tap) for tap in control.taps], y=control.values, mode=_mode(control.values), name=name,
        line={"color": colour, "dash": dash, "width": 1.5}, marker_color=colour,
        hovertemplate=f"%{{y:.3g}}<extra>{name}</extra>",
    )  # fmt: skip


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
