"""The page over many runs: rows, links to reports, what is left out, and how a reader sorts and filters it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from diagnostics.measures.statistics import Interval
from diagnostics.report.html import write_page
from diagnostics.runs.controls.names import NAMES
from diagnostics.runs.pages.explorer import explorer_page, readouts
from tests.support.browser import NEEDS_CHROMIUM, open_browser
from tests.support.commands import diagnose, refused
from tests.support.profiles import finished_run, profile
from tests.support.tiny import tiny_dataset, tiny_image_encoder


def planted(path: Path, encoder: str, dataset: str, *gaps: float) -> Any:
    """A run whose targets t0, t1, ... have these hidden gaps; its second probe of t0 is no first one."""
    controls = dict.fromkeys(NAMES, 0.1)
    ends = [Interval(gap, gap - 0.05, gap + 0.05) for gap in gaps]
    profiles = [
        profile("linear_probe", ["embed", "norm"], each, controls, probe=True, target=f"t{i}")
        for i, each in enumerate(ends)
    ]
    profiles.append(profile("knn_probe", ["embed", "norm"], ends[0], controls, probe=True, target="t0"))
    profiles.append(profile("rankme", ["embed", "norm"], ends[0], controls, probe=False, target=""))
    run = finished_run(profiles, encoder, dataset)
    run.path = path
    path.mkdir(parents=True)
    (path / "report.html").write_text("a report", encoding="utf-8")
    return run


@pytest.fixture
def page(tmp_path: Path) -> Path:
    runs = [
        planted(tmp_path / "runs" / "a b", "<b>first</b>", "lorenz", 0.3, 0.02),
        planted(tmp_path / "runs" / "second", "second", "lorenz", 0.7),
        planted(tmp_path / "runs" / "third", "second", "arma", 0.1),
    ]
    found = [each for run in runs for each in readouts(run)]
    return write_page(explorer_page(found, {"runs/broken": "it is damaged"}, tmp_path), tmp_path / "explore.html")


def test_the_page_has_a_row_for_each_probe_of_a_target_and_a_matrix_for_each_dataset(page: Path) -> None:
    text = page.read_text(encoding="utf-8").split("<body>", 1)[1]
    assert "3 runs of 2 encoders on 2 datasets" in text
    assert "Hidden gaps of the 4 targets that the runs read: 3 shown and 1 undecided." in text, (
        "the first probe of each counts"
    )
    (table,) = re.findall(r'<table class="sortable">.*?</table>', text, re.S)
    assert table.count("<tr>") == 1 + 4 + 3
    assert text.count('<section id="d') == 2
    assert "<b>first</b>" not in text and "&lt;b&gt;first&lt;/b&gt;" in text
    assert '<a href="runs/a%20b/report.html">' in text
    assert "it is damaged" in text
    assert "Plotly" not in text.split('id="plotly">')[1][:100], "without figures it needs no plotly.js"
    assert page.stat().st_size < 200_000


@pytest.mark.browser
@NEEDS_CHROMIUM
def test_a_reader_sorts_searches_and_narrows(page: Path) -> None:
    errors: list[str] = []
    with open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1300, "height": 900})
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on(
            "request", lambda one: None if one.url.startswith(("file:", "data:", "about:")) else errors.append(one.url)
        )
        tab.goto(page.as_uri())

        def gaps() -> list[float]:
            cells = tab.locator("table.sortable tbody tr:visible td:nth-child(9)").all_inner_texts()
            return [float(cell.split()[0]) for cell in cells]

        before = gaps()
        assert len(before) == 7
        tab.get_by_role("button", name="hidden gap").click()
        assert gaps() == sorted(before, reverse=True)
        tab.get_by_role("button", name="hidden gap").click()
        assert gaps() == sorted(before)
        tab.get_by_label("Search the rows").fill("second knn")
        assert gaps() == [0.1, 0.7]
        tab.get_by_label("dataset", exact=True).select_option("arma")
        assert gaps() == [0.1]
        assert "1 of 7 rows" in tab.inner_text(".tools")
        tab.set_viewport_size({"width": 400, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert not errors


def test_the_command_takes_runs_and_folders_in_which_they_lie(tmp_path: Path) -> None:
    options = {"controls": False, "report": True}
    dx.run(
        tiny_image_encoder(),
        tiny_dataset(40, "image"),
        out=tmp_path / "runs" / "one",
        measures="linear_probe",
        **options,
    )
    dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=tmp_path / "other", measures="rankme", **options)
    out = tmp_path / "explore.html"
    assert diagnose("explore", tmp_path / "runs", tmp_path / "other", tmp_path / "runs" / "one", "-o", out) == (
        0,
        f"{out}\n",
        "",
    )
    text = out.read_text(encoding="utf-8")
    assert "1 run of 1 encoder on 1 dataset" in text and 'href="runs/one/report.html"' in text
    assert "No probe read a target." in text, "the other run is named"
    assert refused("explore", tmp_path / "other", "-o", tmp_path / "none.html").startswith("No probe read a target in")
    (tmp_path / "empty").mkdir()
    assert refused("explore", tmp_path / "empty").startswith("There is no finished run in")
    assert not (tmp_path / "none.html").exists()
