"""A plotly figure as SVG, drawn by matplotlib from the figure's own traces.

A converted notebook, a PDF or a page without plotly.js shows it. It knows what our figures use (lines, markers, bands,
heat maps, their legends and annotations).
"""

import html
import io
import re
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io

from diagnostics.report.plots.style import INK

MIME = "image/svg+xml"
INTERACTIVE = {"plotly_mimetype", "jupyterlab", "nteract", "vscode"}
"""Plotly's renderers of notebooks that draw a figure from its JSON."""
WIDTH, HEIGHT = 760, 450
# Of pixels to inches and to the points of fonts and lines.
INCH, POINT = 96, 0.75
LETTER = 6.5
DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 2, 3))}
MARKERS = {"star": ("*", 1.5), "diamond": ("D", 0.8), "square": ("s", 1.0), "square-open": ("s", 1.0)}
"""Plotly's symbol -> matplotlib's, and how many times as large that is drawn to look alike."""


class StillFigure(go.Figure):
    """A plotly figure that a notebook keeps as SVG too, for every reader that cannot run plotly.js."""

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        renderers = plotly.io.renderers
        if INTERACTIVE.isdisjoint((renderers.default or "").split("+")):
            bundle = dict(super()._repr_mimebundle_(*args, **kwargs))
        else:
            # Without the HTML for old notebooks that plotly adds here: it puts 4 MB of plotly.js into the notebook, and
            # converters would take it before the SVG and show nothing where that is missing.
            bundle = renderers["plotly_mimetype"].to_mimebundle(self.to_dict())
        return bundle | {MIME: svg(self)}

    def _ipython_display_(self) -> None:
        # Otherwise plotly's own, which IPython prefers, shows its renderers' formats alone.
        from diagnostics.report.progress_bars import in_notebook, show_bundle

        if in_notebook():
            show_bundle(self._repr_mimebundle_())
        else:
            super()._ipython_display_()


def svg(figure: go.Figure) -> str:
    """The figure as a document in SVG; the same figure gives the same text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Text stays text, and no dollar sign in a name begins a formula.
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "diagnostics",
        "text.parse_math": False,
        "font.size": 9.5,
        "font.family": ["sans-serif"],
    }
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A name may have characters that matplotlib's own font lacks; readers of SVG have them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        layout: Any = figure.layout
        still = Figure(figsize=((layout.width or WIDTH) / INCH, (layout.height or HEIGHT) / INCH))
        FigureCanvasSVG(still)
        _Still(figure, still).draw()
        text = io.StringIO()
        still.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


class _Still:
    """The traces and the layout of a plotly figure, put on a figure of matplotlib."""

    def __init__(self, figure: go.Figure, still: Any) -> None:
        from matplotlib.transforms import Bbox, BboxTransformTo, TransformedBbox

        # Plotly's types know neither its traces nor its layouts.
        traces: Any = figure.data
        layout: Any = figure.layout
        self.traces, self.layout, self.still = traces, layout, still
        self.axes: dict[tuple[str, str], Any] = {}
        self.categories: dict[str, list[str]] = {}
        self.box = self._box()
        self.paper = BboxTransformTo(TransformedBbox(Bbox.from_extents(*self.box), still.transFigure))

    def draw(self) -> None:
        for trace in self.traces:
            draw: Any = {"scatter": self._scatter, "heatmap": self._heatmap}.get(trace.type)
            if draw is not None:
                draw(self._axes_of(trace), trace)
        for (x, y), axes in self.axes.items():
            self._dress(axes, x, y)
        for shape in self.layout.shapes:
            axes = next((axes for (x, _), axes in self.axes.items() if x == (shape.xref or "x")), None)
            if axes is not None and shape.type == "line" and shape.x0 == shape.x1:
                axes.axvline(shape.x0, **_line(shape.line))
            elif axes is not None and shape.type == "rect":
                corners = [(shape.x0, shape.y0), (shape.x1, shape.y0), (shape.x1, shape.y1), (shape.x0, shape.y1)]
                x, y = zip(*corners, corners[0], strict=True)
                axes.plot(x, y, clip_on=False, **_line(shape.line))
        for note in self.layout.annotations:
            self._annotate(note)
        if self.layout.title.text:
            self.still.text(0.5, 0.98, _plain(self.layout.title.text), ha="center", va="top")
        self._legend()

    def _box(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the plot area, as shares of the figure."""
        width, height = self.layout.width or WIDTH, self.layout.height or HEIGHT
        margin = {side: 60 if self.layout.margin[side] is None else self.layout.margin[side] for side in "lrtb"}
        longest = {"x": 0, "y": 0}
        for trace in self.traces:
            for axis in "xy":
                named = self._axis(trace[f"{axis}axis"] or axis).ticktext
                names = [value for value in _values(trace[axis] if named is None else named) if isinstance(value, str)]
                lines = [line for name in names for line in _plain(name).splitlines()]
                longest[axis] = max([longest[axis], *map(len, lines)])
        # Names of taps lie aslant below the axis, and upright beside it.
        bottom = max(margin["b"], 40 + 0.65 * LETTER * longest["x"])
        left = max(margin["l"] + 15, 30 + LETTER * longest["y"])
        right = 90 if any(_has_bar(trace) for trace in self.traces) else margin["r"]
        return left / width, bottom / height, 1 - right / width, 1 - margin["t"] / height

    def _axes_of(self, trace: Any) -> Any:
        place = (trace.xaxis or "x", trace.yaxis or "y")
        if place not in self.axes:
            (x0, x1), (y0, y1) = (self._axis(name).domain or (0, 1) for name in place)
            left, bottom, right, top = self.box
            width, height = right - left, top - bottom
            self.axes[place] = self.still.add_axes(
                (left + x0 * width, bottom + y0 * height, (x1 - x0) * width, (y1 - y0) * height)
            )
        return self.axes[place]

    def _axis(self, name: str) -> Any:
        return self.layout[f"{name[0]}axis{name[1:]}"]

    def _numbers(self, axis: str, values: Any) -> np.ndarray:
        """Values as places on an axis: names by their order there, None as NaN."""
        if self._axis(axis).type != "category" and not any(isinstance(value, str) for value in _values(values)):
            return np.array([np.nan if value is None else value for value in _values(values)], dtype=float)
        known = self.categories.setdefault(axis, [str(name) for name in _values(self._axis(axis).categoryarray)])
        known += [name for name in dict.fromkeys(str(v) for v in _values(values) if v is not None) if name not in known]
        return np.array([np.nan if value is None else known.index(str(value)) for value in _values(values)])

    def _scatter(self, axes: Any, trace: Any) -> None:
        x, y = self._numbers(trace.xaxis or "x", trace.x), self._numbers(trace.yaxis or "y", trace.y)
        if trace.fill == "toself":
            ends = [-1, *np.flatnonzero(np.isnan(x) | np.isnan(y)), len(x)]
            colour, opacity = _colour(trace.fillcolor or INK)
            for i, (start, stop) in enumerate(pairwise(ends)):
                label = _name(trace) if i == 0 else None
                axes.fill(x[start + 1 : stop], y[start + 1 : stop], color=colour, alpha=opacity, lw=0, label=label)
            return
        mode = trace.mode or "lines+markers"
        style = _line(trace.line) if "lines" in mode else {"linestyle": "none"}
        colour, opacity = _colour(_one(trace.marker.color) or trace.line.color or INK)
        if "markers" in mode:
            marker, factor = MARKERS.get(str(trace.marker.symbol), ("o", 1.0))
            style |= {"marker": marker, "markersize": POINT * factor * float(_one(trace.marker.size) or 6)}
            hollow = str(trace.marker.symbol).endswith("-open")
            edge = colour if hollow or not trace.marker.line.width else _colour(trace.marker.line.color or "#ffffff")[0]
            style |= {"markerfacecolor": "none" if hollow else colour, "markeredgecolor": edge}
            style |= {"clip_on": trace.cliponaxis is not False}
        axes.plot(x, y, **{"color": colour, "alpha": opacity, "label": _name(trace)} | style)

    def _heatmap(self, axes: Any, trace: Any) -> None:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        z = np.array([[np.nan if value is None else value for value in row] for row in trace.z], dtype=float)
        # One heat map may have some rows of a picture, and another the rest.
        x, y = (
            self._numbers(axis, names).astype(int)
            for axis, names in ((trace.xaxis or "x", trace.x), (trace.yaxis or "y", trace.y))
        )
        cells = np.full((np.ptp(y) + 1, np.ptp(x) + 1), np.nan)
        cells[np.ix_(y - y.min(), x - x.min())] = z
        edges = (x.min() - 0.5, x.max() + 0.5, y.min() - 0.5, y.max() + 0.5)
        scale = [(at, to_rgba(*_colour(colour))) for at, colour in (trace.colorscale or ((0, "#ffffff"), (1, INK)))]
        colours = LinearSegmentedColormap.from_list("figure", scale)
        colours = colours.reversed() if trace.reversescale else colours
        drawn = axes.imshow(
            cells, cmap=colours, vmin=trace.zmin, vmax=trace.zmax, aspect="auto", origin="lower", extent=edges
        )
        for (row, column), text in np.ndenumerate(
            np.array(trace.text if trace.text is not None else [[]], dtype=object)
        ):
            if text:
                light = sum(drawn.to_rgba(z[row, column])[:3]) > 1.5
                colour = "black" if light else "white"
                axes.text(x[column], y[row], _plain(text), ha="center", va="center", size=7, color=colour)
        if _has_bar(trace):
            bar = self.still.colorbar(drawn, ax=axes, fraction=0.03, pad=0.02)
            bar.set_label(_plain(trace.colorbar.title.text or ""))

    def _dress(self, axes: Any, x: str, y: str) -> None:
        for name, of in ((x, axes.xaxis), (y, axes.yaxis)):
            axis, limits = self._axis(name), axes.set_xlim if of is axes.xaxis else axes.set_ylim
            names = axis.ticktext or self.categories.get(name)
            if names is not None:
                places = range(len(names)) if axis.tickvals is None else self._numbers(name, axis.tickvals)
                aslant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
                of.set_ticks(places, [_plain(text) for text in names], **(aslant if of is axes.xaxis else {}))
            if axis.range:
                limits(*axis.range)
            elif axis.autorange == "reversed":
                of.set_inverted(True)
            of.set_label_text(_plain(axis.title.text or ""))
        axes.spines[["top", "right"]].set_visible(False)
        if not axes.images:
            axes.grid(color="#e5e9ee", lw=0.6)
            axes.set_axisbelow(True)

    def _annotate(self, note: Any) -> None:
        from matplotlib.transforms import blended_transform_factory

        axes = next((axes for place, axes in self.axes.items() if note.yref in place or note.xref in place), None)
        if axes is None:
            axes = next(iter(self.axes.values()))
        across = self.paper if note.xref == "paper" else axes.transData
        up = self.paper if note.yref == "paper" else axes.transData
        axes.annotate(
            _plain(note.text),
            (note.x, note.y),
            xycoords=blended_transform_factory(across, up),
            xytext=(POINT * (note.xshift or 0), POINT * (note.yshift or 0)),
            textcoords="offset points",
            ha=note.xanchor or "center",
            va={"middle": "center"}.get(note.yanchor, note.yanchor or "center"),
            size=POINT * (note.font.size or 13),
            color=_colour(note.font.color or "#000000")[0],
            annotation_clip=False,
        )

    def _legend(self) -> None:
        handles = {
            label: handle
            for axes in self.axes.values()
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        # Below the title, where there is one.
        top = 1 - (26 / (self.layout.height or HEIGHT) if self.layout.title.text else 0)
        if handles:
            self.still.legend(
                handles.values(),
                handles.keys(),
                loc="upper left",
                bbox_to_anchor=(0.01, top),
                frameon=False,
                ncols=4,
                fontsize=8,
                borderpad=0.2,
                columnspacing=1.2,
            )


def _has_bar(trace: Any) -> bool:
    return trace.type == "heatmap" and trace.showscale is not False


def _values(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _one(value: Any) -> Any:
    """A setting that is one for all points; None where each has its own."""
    return value if isinstance(value, (str, int, float)) else None


def _name(trace: Any) -> str | None:
    """Name of a trace in the legend; None where it leaves it out."""
    return _plain(trace.name) if trace.name and trace.showlegend is not False else None


def _plain(text: Any) -> str:
    """Text without plotly's little HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", str(text).replace("<br>", "\n")))


def _line(line: Any) -> dict[str, Any]:
    colour, opacity = _colour(line.color or INK)
    width = POINT * (2 if line.width is None else line.width)
    return {"color": colour, "alpha": opacity, "lw": width, "linestyle": _dash(line.dash)}


def _dash(dash: str | None) -> Any:
    if dash in DASHES:
        return DASHES[dash]
    lengths = [float(part.removesuffix("px")) * POINT for part in (dash or "").split(",") if part.endswith("px")]
    return (0, tuple(lengths)) if lengths else "-"


def _colour(colour: str) -> tuple[Any, float]:
    """A colour of matplotlib's and its opacity, from `#1f5fa8`, `rgb(31,95,168)` or `rgba(31,95,168,0.18)`."""
    if not colour.startswith("rgb"):
        return colour, 1.0
    red, green, blue, *opacity = (float(part) for part in re.findall(r"[\d.]+", colour))
    return (red / 255, green / 255, blue / 255), opacity[0] if opacity else 1.0
