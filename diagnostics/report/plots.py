"""Figures of the report, also used by `profile.plot()`."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from diagnostics.measures.statistics import Interval
from diagnostics.runs.controls.kinds import NAMES
from diagnostics.runs.profile import Profile

INK, BEST, LINE = "#1f5fa8", "#c2410c", "#5b6875"
BAND = "rgba(31,95,168,0.18)"
CONTROL_COLOURS = dict(zip(NAMES, ("#7c8794", "#a68a64", "#4d908e", "#2f6f4f", "#9a6fb0", "#c08497"), strict=True))
DASHES = dict(zip(NAMES, ("dash", "dashdot", "dot", "8px,3px,2px,3px,2px,3px", "longdash", "longdashdot"), strict=True))
LINE_DASHES = ("dot", "dash", "longdashdot", "longdash", "dashdot", "1px,5px", "12px,3px,2px,3px")
# The controls without the encoder's own taps have one number, drawn as a level.
OWN_TAPS = ("fresh_weights", "permuted_weights", "shuffled_labels")
# R2 has no floor; one useless tap must not press all others flat.
FLOOR = -0.5
# A reference line further away than this many spans of the profile does not stretch the axis.
FAR = 3.0
# The least span of the axis: of a probe's score, and of anything else as a share of its size.
LEAST_SPAN, LEAST_SHARE = 0.1, 0.05
HEIGHT, TOP, BOTTOM, LABEL = 380, 50, 80, 15
# Of plotly's buttons, those that read a figure.
BUTTONS = ("toImage", "zoom2d", "pan2d", "resetScale2d")
# Cells of a map get their numbers up to this many taps.
MOST_NUMBERED = 16


def profile_figure(profile: Profile) -> go.Figure:
    """Score of each tap with its band; heads behind it, controls as broken lines; best and output tap marked."""
    # Plotly reads a little HTML in every text.
    taps = [escape(tap) for tap in profile.taps]
    figure = go.Figure()
    low, high = profile.data["low"].values, profile.data["high"].values
    x, y = _band(taps, low, high)
    if x:
        figure.add_scatter(
            x=x, y=y, fill="toself", fillcolor=BAND, mode="lines", line={"color": BAND, "width": 1},
            hoverinfo="skip", name="95 % interval",
        )  # fmt: skip
    _add_heads(figure, profile, taps)
    figure.add_scatter(
        x=taps, y=profile.data["score"].values, mode="lines+markers", name=escape(profile.measure), line_color=INK,
        customdata=profile.data["depth"].values,
        hovertemplate="%{x}<br>depth %{customdata:.2f}<br>%{y:.4g}<extra></extra>",
    )  # fmt: skip
    for name, data in profile.controls.items():
        _add_control(figure, profile, name, data, taps)
    shown = _shown(profile)
    _add_lines(figure, profile, taps, shown)
    if profile.best_tap is not None:
        _mark(figure, profile.best_tap, profile.best, "best tap (by val)", BEST, "star")
    _mark(figure, profile.output_tap, profile.output, "output tap", INK, "diamond")
    figure.update_yaxes(
        range=list(shown), title_text=escape(str(profile.data.attrs.get("score_name", profile.measure))), zeroline=False
    )
    # A category axis even for taps named by numbers, with a place for taps without a value.
    figure.update_xaxes(
        title_text="tap, in order of execution", tickangle=-40, type="category", categoryorder="array",
        categoryarray=taps, range=[-0.4, len(taps) - 0.6], automargin=True,
    )  # fmt: skip
    return dressed(figure).update_layout(
        height=HEIGHT, margin={"l": 60, "r": 130 if profile.lines else 20, "t": TOP, "b": BOTTOM},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip


def outside(profile: Profile) -> list[str]:
    """What a reader is told of reference lines that the axis leaves out, as `ceiling 64 lies above`."""
    bottom, top = _shown(profile)
    found: list[str] = []
    for name, values in profile.lines.items():
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        above, below = known > top, known < bottom
        for outer, way in ((above, "above"), (below, "below")):
            if outer.any():
                ends = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (known[outer].min(), known[outer].max())))
                found.append(f"{name} ({ends}) {'lies' if outer.all() else 'lies in part'} {way}")
    return found


def below_floor(profile: Profile) -> bool:
    """Whether the figure leaves out values of a probe that has no floor."""
    own = _own_values(profile)
    return bool(profile.is_probe and own.size and own.min() < FLOOR < own.max())


def _own_values(profile: Profile) -> np.ndarray:
    """All that is drawn but reference lines."""
    parts = [profile.data[name].values for name in ("score", "low", "high")]
    if "by_head" in profile.data:
        parts.append(profile.data["by_head"].values)
    for name, data in profile.controls.items():
        found = profile.control(name)
        parts.append(data["score"].values if name in OWN_TAPS else np.array([found.value if found else np.nan]))
    values = np.concatenate([np.ravel(part) for part in parts])
    return values[np.isfinite(values)]


def _shown(profile: Profile) -> tuple[float, float]:
    """The range of the axis: the profile with what belongs to it, never less than a span worth a look."""
    own = _own_values(profile)
    if not own.size:
        return 0.0, 1.0
    low, high = float(own.min()), float(own.max())
    if low < FLOOR < high and profile.is_probe:
        low = FLOOR
    least = LEAST_SPAN if profile.is_probe else LEAST_SHARE * max(abs(low), abs(high)) or LEAST_SPAN
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
    for run in _runs(np.isfinite(low) & np.isfinite(high)):
        if x:
            x.append(None)
            y.append(None)
        x.extend([*(taps[i] for i in run), *(taps[i] for i in reversed(run))])
        y.extend([*(float(high[i]) for i in run), *(float(low[i]) for i in reversed(run))])
    return x, y


def _runs(known: np.ndarray) -> Iterator[list[int]]:
    run: list[int] = []
    for i, here in enumerate(known):
        if here:
            run.append(i)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _add_heads(figure: go.Figure, profile: Profile, taps: list[str]) -> None:
    if "by_head" not in profile.data:
        return
    values = profile.data["by_head"].transpose("tap", "head").values
    at, head = np.nonzero(np.isfinite(values))
    figure.add_scatter(
        x=[taps[i] for i in at], y=values[at, head], mode="markers", name="heads", customdata=head,
        marker={"size": 6, "color": "rgba(194,65,12,0.45)"},
        hovertemplate="%{x}<br>head %{customdata}<br>%{y:.4g}<extra></extra>",
    )  # fmt: skip


def _add_lines(figure: go.Figure, profile: Profile, taps: list[str], shown: tuple[float, float]) -> None:
    bottom, top = shown
    labels: list[tuple[float, float, str]] = []
    for i, (name, values) in enumerate(profile.lines.items()):
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        name = escape(name)
        figure.add_scatter(
            x=taps, y=values, mode=_mode(values), name=name, showlegend=False, marker={"color": LINE, "size": 5},
            line={"color": LINE, "dash": LINE_DASHES[i % len(LINE_DASHES)], "width": 1.5},
            hovertemplate=f"{name}<br>%{{x}}<br>%{{y:.4g}}<extra></extra>",
        )  # fmt: skip
        end = float(known[-1])
        arrow = " ↑" if end > top else " ↓" if end < bottom else ""
        # What lies on 0 as far as the eye can tell is 0.
        said = f"{end:.3g}" if abs(end) > 1e-3 * (top - bottom) else "0"
        labels.append((min(max(end, bottom), top), end, f"{name} {said}{arrow}"))
    # Labels of lines that lie together stand above one another.
    pixels = (HEIGHT - TOP - BOTTOM) / (top - bottom)
    before = -np.inf
    for y, _, text in sorted(labels):
        place = max((y - bottom) * pixels, before + LABEL)
        before = place
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", y=y, yref="y", yshift=place - (y - bottom) * pixels, text=text,
            showarrow=False, font={"size": 11, "color": LINE},
        )  # fmt: skip


def _add_control(figure: go.Figure, profile: Profile, name: str, data: xr.Dataset, taps: list[str]) -> None:
    label, style = name.replace("_", " "), {"color": CONTROL_COLOURS[name], "dash": DASHES[name], "width": 1.5}
    if name in OWN_TAPS:
        x, y = [escape(str(tap)) for tap in data["tap"].values], data["score"].values
    else:
        found = profile.control(name)
        x, y = taps, np.full(len(taps), found.value if found else np.nan)
    if np.isfinite(y).any():
        figure.add_scatter(
            x=x, y=y, mode=_mode(y), name=label, line=style, marker_color=CONTROL_COLOURS[name],
            hovertemplate=f"{label}<br>%{{x}}<br>%{{y:.4g}}<extra></extra>",
        )  # fmt: skip


def _mode(values: np.ndarray) -> str:
    # A line needs two points.
    return "lines" if np.isfinite(values).sum() > 1 else "markers"


def _mark(figure: go.Figure, tap: str, found: Interval | None, name: str, colour: str, symbol: str) -> None:
    if found is not None and np.isfinite(found.value):
        figure.add_scatter(
            x=[escape(tap)], y=[found.value], mode="markers", name=name,
            marker={"size": 13, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "white"}},
            hovertemplate=f"{name}<br>%{{x}}<br>%{{y:.4g}}<extra></extra>",
        )  # fmt: skip


def similarity_figure(found: xr.Dataset) -> go.Figure:
    """A map over pairs of taps; brighter is more alike. Similarities are coloured from 0 to 1, distances from 0 on."""
    smaller = found.attrs.get("alike") == "smaller"
    # Plotly cannot draw what is infinite.
    z = np.where(np.isfinite(found["matrix"].values), found["matrix"].values, np.nan)
    other, taps = ([escape(str(tap)) for tap in found[name].values] for name in ("tap_other", "tap"))
    most = float(np.nanmax(z)) if smaller and np.isfinite(z).any() and np.nanmax(z) > 0 else 1.0
    name = escape(str(found.attrs.get("score_name", found.attrs.get("measure", ""))))
    bar = f"{name} ({0 if smaller else 1}: alike)"
    figure = go.Figure(
        go.Heatmap(
            z=z, x=other, y=taps, text=_cells(z), texttemplate="%{text}", textfont={"size": 10},
            customdata=_hovers(found, taps, other), hovertemplate="%{customdata}<extra></extra>", hoverongaps=False,
            colorscale="Viridis", reversescale=smaller, zmin=0.0, zmax=most,
            colorbar={"title": {"text": bar, "side": "right"}, "thickness": 14},
        )
    )  # fmt: skip
    figure.update_yaxes(
        autorange="reversed", scaleanchor="x", constrain="domain", type="category", showgrid=False, automargin=True
    )
    figure.update_xaxes(tickangle=-40, constrain="domain", type="category", showgrid=False, automargin=True)
    return dressed(figure).update_layout(height=500, margin={"l": 60, "r": 20, "t": 20, "b": 70})


def _cells(z: np.ndarray) -> list[list[str]]:
    if max(z.shape) > MOST_NUMBERED:
        return [[""] * z.shape[1] for _ in z]
    return [["" if np.isnan(v) else f"{v:.2f}" if abs(v) < 100 else f"{v:.2g}" for v in row] for row in z]


def _hovers(found: xr.Dataset, taps: list[str], other: list[str]) -> list[list[str]]:
    beside = [(name, found[name].values) for name in ("p", "calibrated") if name in found]
    return [
        [
            "<br>".join(
                [f"{a} and {b}", f"{found['matrix'].values[i, j]:.3f}"]
                + [f"{name} {values[i, j]:.3f}" for name, values in beside if np.isfinite(values[i, j])]
            )
            for j, b in enumerate(other)
        ]
        for i, a in enumerate(taps)
    ]


def dressed(figure: go.Figure) -> go.Figure:
    """The figure in the house's style."""
    return figure.update_layout(
        template="plotly_white", hovermode="closest", font={"family": "system-ui, sans-serif", "size": 13}
    )


def html(figure: go.Figure) -> str:
    """The figure as a fragment of HTML that expects plotly.js on its page."""
    # Plotly's own bar has a button that uploads the chart: what a run found stays with its reader.
    config = {"displaylogo": False, "responsive": True, "modeBarButtons": [list(BUTTONS)]}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config)
