"""What a notebook shows: figures that carry SVG, a line and a table for each thing, and whole runs as one figure."""

import base64
import io
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
from matplotlib.image import imread

import diagnostics as dx
from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.page import MapFigure, ScoreMap
from diagnostics.report.plots import StillFigure, draw, multiples
from diagnostics.report.plots.still import svg
from diagnostics.runs.pages.run import run_page
from tests.support.graded import graded_data, graded_encoder
from tests.support.profiles import finished_run, profile
from tests.support.refusals import refusal

HOSTILE = "$a$ <b>&"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dx.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        dx.run(
            graded_encoder(name, (0.5, 2, 0.5), gains),
            graded_data(),
            out=folder / name,
            measures="linear_probe,rankme",
            controls=False,
            report=False,
        )
        for name, gains in (("base", (1, 1, 1)), ("other", (1, 2, 1)))
    ]


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


def test_the_svg_of_a_picture_of_targets_has_its_rows_marks_and_frame() -> None:
    scores = np.array([[0.5, 0.9, 0.7], [0.2, 0.1, 0.3], [0.3, 0.0, 0.1]])
    targets = ["a_target_with_a_long_name_that_takes_two_lines", "b", "c"]
    anchors = ["s0", "s1", "s2"]
    picture = ScoreMap(
        targets,
        ["embed", "mid", "norm"],
        np.array([0.0, 0.5, 1.0]),
        scores,
        scores,
        scores,
        np.zeros(3),
        [Verdict.SHOWN, Verdict.AT_CHANCE, Verdict.EXCLUDED],
        [False, True, False],
        ["mid", "embed", "embed"],
        "norm",
        anchors,
    )
    figure = draw(picture)
    assert [t.name for t in figure.data if t.name] == [
        "layer to use",
        "at chance level",
        "best of its row",
        "nothing is read at any layer",
    ]
    document = svg(figure)
    found = words(document)
    assert {"+ a_target_with_a_long_name_that_takes_", "two_lines", "- b", "= c", "norm (1.00)", "output"} <= set(found)
    assert any("+ shown" in text and "- at chance" in text and "= excluded" in text for text in found)
    # The row that cannot be read lies between the two that can, grey from end to end.
    (image,) = ElementTree.fromstring(document).iter(f"{SVG}image")
    address = image.get("{http://www.w3.org/1999/xlink}href", "")
    pixels = imread(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    pixels = pixels[::-1] if "scale(1 -1)" in image.get("transform", "") else pixels
    height, width = pixels.shape[:2]
    cells = pixels[height // 6 :: height // 3, width // 6 :: width // 3][:3, :3]
    np.testing.assert_allclose(cells[1, :, :3], np.broadcast_to(np.array([127, 139, 151]) / 255, (3, 3)), atol=0.02)
    assert [*cells[[0, 2], :, :3].sum(axis=-1).argmax(axis=1)] == [1, 0], "the best of the first row and of the last"
    assert document.count("stroke: #3b7fc4") == 1, "the frame"


def test_a_run_is_the_picture_of_its_targets_and_a_target_its_probes(runs: list[dx.Run], tmp_path: Path) -> None:
    figure = runs[0].plot()
    (shades,) = [trace for trace in figure.data if trace.type == "heatmap"]
    (stars,) = [trace for trace in figure.data if trace.name == "layer to use"]
    names = [str(text).strip("+?=- ") for text in figure.layout.yaxis.ticktext]
    assert sorted(names) == ["a (R2)", "b (R2)"]
    for row, name in enumerate(names):
        profile = runs[0].profile(f"linear_probe/{name[0]}")
        assert int(np.argmax(shades.z[row])) == int(np.argmax(profile.data["score"].values))
        assert profile.taps[stars.x[list(stars.y).index(row)]] == profile.chosen_tap
    one = runs[0].plot("a")
    assert [note.text for note in one.layout.annotations] == ["linear_probe/a"]
    (score,) = [trace for trace in one.data if trace.name == "linear_probe"]
    np.testing.assert_array_equal(score.y, runs[0].profile("linear_probe/a").data["score"].values)
    with refusal("unknown-name", "'c'"):
        runs[0].plot("c")
    # Without a probe, the measures themselves.
    other = dx.run(
        graded_encoder("no", (1, 1), (1, 1)),
        graded_data(),
        out=tmp_path / "no",
        measures="rankme",
        controls=False,
        report=False,
    )
    assert [note.text for note in other.plot().layout.annotations] == ["rankme"]
    none = dx.run(
        graded_encoder("no", (1, 1), (1, 1)),
        graded_data(),
        out=tmp_path / "map",
        measures="cka",
        controls=False,
        report=False,
    )
    with refusal("not-measured"):
        none.plot()


def test_a_comparison_names_the_probe_of_each_panel(runs: list[dx.Run]) -> None:
    compared = dx.compare(runs, similarity=None).plot()
    titles = [note.text for note in compared.layout.annotations if note.text != " head"]
    assert titles == ["linear_probe/a", "linear_probe/b"]
    assert {trace.name for trace in compared.data if trace.showlegend} == {
        "base",
        "other",
        "layer to use",
        "output",
    }
    assert "linear_probe/a" in words(svg(compared))


def test_results_print_as_a_line_and_show_as_a_table(runs: list[dx.Run]) -> None:
    for result in (runs[0].profile("linear_probe/a"), runs[0].profile("rankme"), runs[0].recommend("a")):
        assert "\n" not in str(result) and str(result) in repr(result) and len(repr(result)) < 400
        html = unescape(result._repr_html_())
        assert str(result) in html and html.count("<table>") == 1
    shown = runs[0].profile("linear_probe/a")._repr_html_()
    assert re.findall(r"<tr><td>([^<]*)", shown) == ["stage.0", "stage.1", "stage.2"]
    assert re.findall("<t[hd]>([^<]*)", Interval(0.5, 0.25, float("nan"))._repr_html_()) == [
        "value",
        "low",
        "high",
        "0.5",
        "0.25",
        "nan",
    ]


def test_tables_escape_what_users_named() -> None:
    hostile = profile("probe", ["<script>", "out"], Interval(0.5, 0.4, 0.6), {}, probe=True, target="<script>")
    shown = hostile._repr_html_()
    assert "<script>" not in shown and shown.count("&lt;script&gt;") >= 3


def test_an_error_is_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.history_manager.enabled = False
    shell.run_cell("import diagnostics as dx\ndx.build('dataset', 'lorentz')")
    assert capsys.readouterr().out.strip() == (
        "DiagnosticsError: Unknown dataset 'lorentz': did you mean lorenz? Or path/to/file.py:function; `diagnostics list` shows all."
    )
    shell.run_cell("1 / 0")
    assert "Traceback" in capsys.readouterr().out, "of what is no error of ours"


def test_a_target_and_a_watch_are_a_line() -> None:
    label = dx.Target("label", np.zeros((60,), int), classes=("none", "bearing", "gear", "belt"))
    assert repr(label) == "<Target label: 60, classes bearing, belt, gear, ...>"
    assert repr(dx.Target("token_value", np.zeros((6, 4, 4)), units="m")) == "<Target token_value: 6 x 4 x 4, in m>"
    watch = dx.LayerProfiles(graded_encoder("base", (0.5, 2, 0.5), (1, 1, 1)), graded_data(), every=5)
    watch.step(5)
    assert re.fullmatch(r"<LayerProfiles of base on \w+, every 5 steps: 1 measured, 0 failed>", repr(watch))


def test_a_probe_without_a_target_is_no_row_of_what_the_output_hides() -> None:
    ends = Interval(0.5, 0.4, 0.6)
    place, read = (
        profile(name, ["embed", "norm"], ends, {"fresh_weights": 0.1}, probe=True, target=target)
        for name, target in (("position_probe", ""), ("linear_probe", "level"))
    )
    page = run_page(finished_run([read, place], "e", "d"))
    (hides,) = [section for section in page.sections if section.title.startswith("What the taps hold")]
    (others,) = [section for section in page.sections if section.title == "Without a target"]
    assert "linear_probe" in str(hides) and "position_probe" not in str(hides)
    assert "position_probe" in str(others)
