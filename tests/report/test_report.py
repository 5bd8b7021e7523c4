"""What the report draws and says of profiles that have gaps, lines far off, heads and nothing at all."""

import base64
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.offline
import pytest
import xarray as xr
from jinja2 import DictLoader, Environment

from diagnostics.report.html import write_page
from diagnostics.report.page import Page, ProfileFigure
from diagnostics.report.plots import draw, html
from diagnostics.report.plots.profile import draw_profile, lines_outside
from diagnostics.report.plots.style import settings
from diagnostics.runs.pages.run import map_figure, profile_captions, reasons, run_page, why_no_figure
from diagnostics.runs.results.profile import Profile
from tests.support.profiles import finished_run, uneven_probes

NAN = np.nan
TAPS = ["embed", "blocks.0", "blocks.1", "norm"]


def profile(score: list[float], **more: object) -> Profile:
    values = np.array(score, dtype=float)
    data = xr.Dataset(
        {"score": ("tap", values), "low": ("tap", values - 0.1), "high": ("tap", values + 0.1)},
        coords={"tap": TAPS, "depth": ("tap", [0.0, 0.3, 0.7, 1.0])},
        attrs={
            "measure": "a_measure",
            "family": "geometry",
            "output_tap": "norm",
            "higher_is_better": "no",
            "reason": "",
        },
    )
    for name, result in more.items():
        data[name] = result if isinstance(result, tuple) else ("tap", np.array(result, dtype=float))
    return Profile("a_measure", None, data, {})


def trace(figure: go.Figure, name: str) -> go.Scatter:
    (result,) = [trace for trace in figure.data if trace.name == name]
    return result


def test_the_band_stops_at_a_tap_without_an_interval_and_begins_anew() -> None:
    band = trace(profile([1.0, NAN, 2.0, 3.0]).plot(), "95 % interval")
    assert band.x == ("embed", "embed", None, "blocks.1", "norm", "norm", "blocks.1")
    np.testing.assert_allclose([y for y in band.y if y is not None], [1.1, 0.9, 2.1, 3.1, 2.9, 1.9])


def test_a_line_nearby_is_in_the_picture_and_one_far_off_is_named() -> None:
    result = profile([1.0, 1.5, 1.2, 1.0], line_chance=[0.5] * 4, line_ceiling=[64.0] * 4)
    low, high = result.plot().layout.yaxis.range
    assert low < 0.5 < high < 64
    assert lines_outside(result.figure()) == ["ceiling (64) lies above"]
    assert "Reference line ceiling (64) lies above the part shown." in profile_captions(result)
    labels = [annotation.text for annotation in result.plot().layout.annotations]
    assert labels == ["chance 0.5", "ceiling 64 ↑"]


def test_a_flat_profile_is_not_blown_up_to_look_like_a_mountain() -> None:
    low, high = profile([1.0, 1.0 + 1e-9, 1.0, 1.0], low=[1.0] * 4, high=[1.0] * 4).plot().layout.yaxis.range
    assert high - low > 0.04


def test_every_head_is_a_point_and_heads_without_a_value_are_not() -> None:
    heads = np.array([[1.0, 2.0], [1.5, NAN], [1.0, 3.0], [NAN, NAN]])
    result = trace(profile([1.5, 1.5, 2.0, NAN], by_head=(("tap", "head"), heads)).plot(), "heads")
    assert list(zip(result.x, result.customdata, result.y, strict=True)) == [
        ("embed", 0, 1.0),
        ("embed", 1, 2.0),
        ("blocks.0", 0, 1.5),
        ("blocks.1", 0, 1.0),
        ("blocks.1", 1, 3.0),
    ]


def test_the_table_holds_every_number_by_tap() -> None:
    result = profile([1.0, NAN, 2.0, 123456.0], line_noise=[0.5] * 4, slope=[7.0, 8.0, 9.0, 10.0]).table().table
    assert [column.name for column in result.columns] == [
        "tap",
        "depth",
        "score",
        "low",
        "high",
        "line: noise",
        "slope",
    ]
    assert result.rows[1].cells == ("blocks.0", "0.3", "-", "-", "-", "0.5", "8")
    assert result.rows[3].cells[2] == "123456"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("", ""),
        ("embed: one token", "embed: one token"),
        ("; ".join(f"{tap}: one token" for tap in TAPS), "all 4 taps: one token"),
        ("embed: a; b; norm: a; b", "embed, norm: a; b"),
        ("the whole of it", "the whole of it"),
    ],
)
def test_equal_reasons_are_said_once(reason: str, sentence: str) -> None:
    assert reasons(profile([1.0] * 4).data.assign_attrs(reason=reason)) == sentence


def similarity(matrix: np.ndarray, **attrs: object) -> xr.Dataset:
    taps = TAPS[: len(matrix)]
    return xr.Dataset(
        {"matrix": (("tap", "tap_other"), matrix)},
        coords={"tap": taps, "tap_other": taps},
        attrs={"measure": "cka", **attrs},
    )


def test_similarities_have_one_scale_of_colours_whatever_they_span() -> None:
    (result,) = draw(map_figure(similarity(np.array([[1.0, 0.98], [0.98, 1.0]])))).data
    assert (result.zmin, result.zmax, result.reversescale) == (0, 1, False)
    (result,) = draw(map_figure(similarity(np.array([[0.0, 7.0], [7.0, 0.0]]), alike="smaller"))).data
    assert (result.zmin, result.zmax, result.reversescale) == (0, 7, True)


def test_what_is_infinite_or_missing_leaves_a_hole_that_a_browser_can_read() -> None:
    result = draw(map_figure(similarity(np.array([[1.0, np.inf], [NAN, 1.0]]))))
    assert [list(row) for row in result.data[0].text] == [["1.00", ""], ["", "1.00"]]
    page = html(result)
    assert "NaN" not in page
    assert "Infinity" not in page


def test_the_bar_of_a_figure_has_no_button_that_uploads_it() -> None:
    assert json.loads(settings())["config"]["modeBarButtons"] == [["toImage", "zoom2d", "pan2d", "resetScale2d"]]


def test_names_are_text() -> None:
    bad = profile([1.0, 2.0, 3.0, 4.0]).data.assign_coords(tap=["<b>x</b>", "b", "c", "norm"])
    figure = Profile("<i>m</i>", None, bad, {}).plot()
    assert trace(figure, "&lt;i&gt;m&lt;/i&gt;").x[0] == "&lt;b&gt;x&lt;/b&gt;"


def test_why_there_is_no_figure() -> None:
    nothing = profile([NAN] * 4).data.assign_attrs(reason="; ".join(f"{tap}: one token" for tap in TAPS))
    assert why_no_figure(nothing) == "No figure, since nothing has a value. All 4 taps: one token."


def test_a_report_of_many_taps_and_targets_is_no_larger_than_a_mail_takes(tmp_path: Path) -> None:
    probes = uneven_probes([f"target_{i}" for i in range(12)], [f"blocks.{i}" for i in range(50)])
    path = write_page(run_page(finished_run(probes, "wide", "data")), tmp_path / "page.html")
    # It was 5.7 MB, of which plotly.js, which it holds packed, is 4.8.
    assert 2_000_000 < path.stat().st_size < 3_500_000
    packed = re.search(r'id="plotly">([^<]*)<', path.read_text(encoding="utf-8"))
    assert packed and gzip.decompress(base64.b64decode(packed[1])).decode() == plotly.offline.get_plotlyjs()


def test_an_interrupt_leaves_the_page_of_before_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    monkeypatch.setattr(
        "diagnostics.report.html.templates", lambda: Environment(loader=DictLoader({"page.html.j2": "after"}))
    )
    with pytest.raises(KeyboardInterrupt):
        write_page(Page("", (), (), ()), page)
    assert page.read_text() == "before" and list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(("values", "end"), [([0.1, 0.3, 0.5, 0.6, 0.9, 0.9], 1), ([0.9, 0.9, 0.6, 0.5, 0.3, 0.1], 0)])
def test_the_label_of_a_line_in_a_small_figure_keeps_off_the_curve(values: list[float], end: int) -> None:
    taps, score = [f"b{i}" for i in range(6)], np.asarray(values)
    lines = {"commonest": np.full(6, 0.2), "ceiling": np.full(6, 64.0), "noise": np.full(6, 60.0)}
    profile = ProfileFigure(
        "p", "m", True, taps, np.linspace(0, 1, 6), score, score, score, ("b5", values[-1]), lines=lines
    )
    labels = {note.text: note.x for note in draw_profile(profile, small=True).layout.annotations}
    assert labels["commonest 0.2"] == end
    assert "ceiling 64 ↑, noise 60 ↑" in labels or "noise 60 ↑, ceiling 64 ↑" in labels, "one line above the curves"
