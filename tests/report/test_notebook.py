"""What a notebook shows: figures that carry SVG, a line and a table for each thing, and whole runs as one figure."""

import re
import sys
import xml.etree.ElementTree as ElementTree
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest

import diagnostics as dx
from diagnostics.measures.statistics import Interval
from diagnostics.report.figures import MapFigure
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.report.plots.still import svg

from graded import graded_data, graded_encoder
from profiles import profile

HOSTILE = "$a$ <b>&"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dx.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        dx.run(graded_encoder(name, (0.5, 2, 0.5), gains), graded_data(), out=folder / name, measures="linear_probe,rankme", controls=False, report=False)
        for name, gains in (("base", (1, 1, 1)), ("other", (1, 2, 1)))
    ]  # fmt: skip


def words(document: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(document).iter(f"{SVG}text")]


def test_the_svg_has_the_points_of_the_figure_where_they_belong() -> None:
    figure = go.Figure(
        go.Scatter(x=["embed", escape(HOSTILE), "norm"], y=[0, 1, 0.5], mode="lines", line={"color": "#123456"})
    )
    figure.update_xaxes(type="category", categoryarray=["norm", "embed", escape(HOSTILE)]).update_yaxes(
        range=[-0.5, 1.5]
    )
    document = svg(figure)
    (line,) = [
        path for path in ElementTree.fromstring(document).iter(f"{SVG}path") if "#123456" in path.get("style", "")
    ]
    points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", line.get("d", "")), dtype=float)
    steps = np.diff(points, axis=0)
    # In the order of the axis: norm, embed, and the one with the strange name; and y grows downwards in SVG.
    assert steps[1, 0] / steps[0, 0] == pytest.approx(-2, rel=1e-3)
    assert steps[0, 1] / steps[1, 1] == pytest.approx(-2, rel=1e-3) and steps[0, 1] < 0
    assert words(document)[:3] == ["norm", "embed", HOSTILE]
    assert svg(figure) == document


def test_a_band_with_a_gap_and_a_heat_map_are_drawn() -> None:
    figure = go.Figure(
        go.Scatter(x=[0, 1, None, 2, 3], y=[0, 1, None, 2, 3], fill="toself", fillcolor="rgba(18,52,86,0.5)")
    )
    assert svg(figure).count("fill: #123456; opacity: 0.5") == 2
    z = np.array([[1.0, 0.25], [np.nan, 1.0]])
    texts = words(svg(draw(MapFigure("cka", z, ["a", "b"], ["c", "d"], False, {}))))
    assert {"a", "b", "c", "d", "1.00", "0.25", "cka (1: alike)"} <= set(texts)


def test_a_figure_carries_what_a_converter_can_show(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = StillFigure(go.Figure(go.Scatter(x=[0, 1], y=[0, 1])))
    monkeypatch.setattr(plotly.io.renderers, "_default_name", "plotly_mimetype+notebook")
    # HTML that needs plotly.js on its page would be taken before the SVG, and show nothing.
    assert set(figure._repr_mimebundle_()) == {"application/vnd.plotly.v1+json", "image/svg+xml"}
    shown: list[Any] = []
    display = SimpleNamespace(display=lambda bundle, raw, display_id: shown.append(bundle))
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()), display=display)
    monkeypatch.setitem(sys.modules, "IPython", kernel)  # type: ignore[arg-type] # stands for the module
    figure._ipython_display_()
    assert shown[0]["image/svg+xml"] == svg(figure)


def test_panels_keep_their_axes_and_share_a_legend() -> None:
    panels = [go.Figure(go.Scatter(x=[0, i + 1], y=[0, i + 1], name="score")) for i in range(3)]
    for i, panel in enumerate(panels):
        panel.update_yaxes(range=[0, i + 1], title_text="R2").update_xaxes(title_text="tap")
    figure = multiples([(f"<{i}>", panel) for i, panel in enumerate(panels)])
    assert [trace.showlegend for trace in figure.data] == [True, False, False]
    assert [figure.layout[f"yaxis{i}"].range for i in ("", 2, 3)] == [(0, 1), (0, 2), (0, 3)]
    # What the axis is stands under the last panel of each column.
    assert [figure.layout[f"xaxis{i}"].title.text for i in ("", 2, 3)] == [None, "tap", "tap"]
    assert [note.text for note in figure.layout.annotations] == ["&lt;0&gt;", "&lt;1&gt;", "&lt;2&gt;"]


def test_a_run_and_a_comparison_are_one_figure_of_their_targets(runs: list[dx.Run], tmp_path: Path) -> None:
    figure = runs[0].plot()
    assert [note.text for note in figure.layout.annotations] == ["a (R2)", "b (R2)"]
    scores = [trace for trace in figure.data if trace.name == "linear_probe"]
    for trace, target in zip(scores, ("a", "b"), strict=True):
        np.testing.assert_array_equal(trace.y, runs[0].profile(f"linear_probe/{target}").data["score"].values)
    compared = dx.compare(runs, similarity=None).plot()
    assert [note.text for note in compared.layout.annotations if note.text != " head"] == ["a (R2)", "b (R2)"]
    assert {trace.name for trace in compared.data if trace.showlegend} == {"base", "other"}
    assert "a (R2)" in words(svg(compared))
    # Without a probe, the measures themselves.
    other = dx.run(graded_encoder("no", (1, 1), (1, 1)), graded_data(), out=tmp_path / "no", measures="rankme", controls=False, report=False)  # fmt: skip
    assert [note.text for note in other.plot().layout.annotations] == ["rankme (rankme)"]
    none = dx.run(graded_encoder("no", (1, 1), (1, 1)), graded_data(), out=tmp_path / "map", measures="cka", controls=False, report=False)  # fmt: skip
    with pytest.raises(dx.DiagnosticsError, match=r"has no profile to draw: run again"):
        none.plot()


def test_results_print_as_a_line_and_show_as_a_table(runs: list[dx.Run]) -> None:
    for result in (runs[0].profile("linear_probe/a"), runs[0].profile("rankme"), runs[0].recommend("a")):
        assert "\n" not in str(result) and str(result) in repr(result) and len(repr(result)) < 400
        html = unescape(result._repr_html_())
        assert str(result) in html and html.count("<table>") == 1
    shown = runs[0].profile("linear_probe/a")._repr_html_()
    assert re.findall(r"<tr><td>([^<]*)", shown) == ["stage.0", "stage.1", "stage.2"]
    assert re.findall("<t[hd]>([^<]*)", Interval(0.5, 0.25, float("nan"))._repr_html_()) == [
        "value", "low", "high", "0.5", "0.25", "nan",
    ]  # fmt: skip


def test_tables_escape_what_users_named() -> None:
    hostile = profile("probe", ["<script>", "out"], Interval(0.5, 0.4, 0.6), {}, probe=True, target="<script>")
    shown = hostile._repr_html_()
    assert "<script>" not in shown and shown.count("&lt;script&gt;") >= 3
