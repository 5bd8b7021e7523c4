"""Figures of the report, also used by `profile.plot()`."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from diagnostics.controls import NAMES
from diagnostics.profiles import Profile
from diagnostics.statistics import Interval

INK, BEST = "#1f5fa8", "#c2410c"
CONTROL_COLOURS = dict(zip(NAMES, ("#7c8794", "#a68a64", "#4d908e", "#9a6fb0", "#c08497"), strict=True))
DASHES = dict(zip(NAMES, ("dash", "dashdot", "dot", "longdash", "longdashdot"), strict=True))
# The controls without the encoder's own taps have one number, drawn as a level.
OWN_TAPS = ("fresh_weights", "permuted_weights", "shuffled_labels")


def profile_figure(profile: Profile) -> go.Figure:
    """Score of each tap with its band; controls as broken lines; best and output tap marked."""
    taps = profile.taps
    figure = go.Figure()
    low, high = profile.data["low"].values, profile.data["high"].values
    if np.isfinite(low).any():
        figure.add_scatter(
            x=[*taps, *taps[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor="rgba(31,95,168,0.18)",
            line_width=0, hoverinfo="skip", name="95 % interval",
        )  # fmt: skip
    depths = profile.data["depth"].values
    score = profile.data["score"].values
    figure.add_scatter(
        x=taps, y=score, mode="lines+markers", name=profile.measure, line_color=INK, customdata=depths,
        hovertemplate="%{x}<br>depth %{customdata:.2f}<br>%{y:.3f}<extra></extra>",
    )  # fmt: skip
    for name, values in profile.lines.items():
        figure.add_scatter(
            x=taps, y=values, mode="lines", name=f"line: {name}", line={"color": "#9aa5b1", "dash": "dot", "width": 1}
        )
    for name, data in profile.controls.items():
        _add_control(figure, profile, name, data, taps)
    if profile.best_tap is not None:
        _mark(figure, profile.best_tap, profile.best, "best tap (by val)", BEST, "star")
    _mark(figure, profile.output_tap, profile.output, "output tap", INK, "diamond")
    top = float(np.nanmax(score)) if np.isfinite(score).any() else 1.0
    if profile.is_probe and np.isfinite(score).any() and float(np.nanmin(score)) < -0.5 < top:
        # R2 has no floor; one useless tap must not press all others flat. The values stay in the table and on hover.
        figure.update_yaxes(range=[-0.5, top + 0.1])
    figure.update_xaxes(title_text="tap, in order of execution", tickangle=-40)
    figure.update_yaxes(title_text=str(profile.data.attrs.get("score_name", profile.measure)), zeroline=True)
    return _dressed(figure)


def _add_control(figure: go.Figure, profile: Profile, name: str, data: xr.Dataset, taps: list[str]) -> None:
    label, style = name.replace("_", " "), {"color": CONTROL_COLOURS[name], "dash": DASHES[name], "width": 1.5}
    if name in OWN_TAPS:
        figure.add_scatter(
            x=[str(tap) for tap in data["tap"].values], y=data["score"].values, mode="lines", name=label, line=style
        )
        return
    found = profile.control(name)
    if found is not None:
        figure.add_scatter(x=[taps[0], taps[-1]], y=[found.value, found.value], mode="lines", name=label, line=style)


def _mark(figure: go.Figure, tap: str, found: Interval | None, name: str, colour: str, symbol: str) -> None:
    if found is not None:
        figure.add_scatter(
            x=[tap], y=[found.value], mode="markers", name=name,
            marker={"size": 13, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "white"}},
        )  # fmt: skip


def similarity_figure(found: xr.Dataset) -> go.Figure:
    """A map over pairs of taps; brighter is more alike."""
    smaller = found.attrs.get("alike") == "smaller"
    beside = np.stack(
        [
            found[name].values if name in found else np.full(found["matrix"].shape, np.nan)
            for name in ("p", "calibrated")
        ],
        axis=-1,
    )
    figure = go.Figure(
        go.Heatmap(
            z=found["matrix"].values,
            x=[str(tap) for tap in found["tap_other"].values],
            y=[str(tap) for tap in found["tap"].values],
            customdata=beside,
            colorscale="Viridis",
            reversescale=smaller,
            zmin=0.0 if smaller else None,
            zmax=None if smaller else 1.0,
            hovertemplate="%{y} and %{x}: %{z:.3f}<br>p %{customdata[0]:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain")
    figure.update_xaxes(tickangle=-40, constrain="domain")
    return _dressed(figure, height=560)


def _dressed(figure: go.Figure, height: int = 420) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=height, margin={"l": 60, "r": 20, "t": 20, "b": 90}, hovermode="closest",
        legend={"orientation": "v"}, font={"family": "system-ui, sans-serif", "size": 13},
    )  # fmt: skip


def html(figure: go.Figure) -> str:
    """The figure as a fragment of HTML that expects plotly.js on its page."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
