"""The picture of all targets, its colours on white and on black, the words explained, and what a finding links to."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diagnostics.measures.statistics import Interval
from diagnostics.measures.verdict import Verdict
from diagnostics.report.html import GLOSSARY, explain_terms, write_page
from diagnostics.report.page import (
    Column,
    Finding,
    Findings,
    Legend,
    MapLegend,
    Number,
    Page,
    ProfileFigure,
    Row,
    ScoreMap,
    Section,
    Table,
)
from diagnostics.report.plots import draw, html
from diagnostics.report.plots.curves import COLOURS
from diagnostics.report.plots.profile import CONTROL_COLOURS, relative_scores
from diagnostics.report.plots.style import FOUND, INK, LINE, MOST_TICKS, NOT_FOUND
from tests.support.browser import NEEDS_CHROMIUM, open_browser

NAN = np.nan
SCORES = np.array([[0.5, 0.9, 0.7], [-3.0, 0.2, 0.1], [0.0, 0.3, NAN]])
MAP = ScoreMap(
    targets=["shape <b>", "z", "noise"],
    taps=["embed", "blocks.0", "norm"],
    depth=np.array([0.0, 0.5, 1.0]),
    score=SCORES,
    low=SCORES - 0.1,
    high=SCORES + 0.1,
    floor=np.array([0.5, 0.0, 0.0]),
    verdicts=[Verdict.SHOWN, Verdict.EXCLUDED, Verdict.UNDECIDED],
    unread=[False, False, True],
    chosen=["blocks.0", "norm", "embed"],
    output="norm",
    anchors=["s1", "s0", "s2"],
)


def test_a_row_goes_from_knowing_nothing_to_its_best_and_noise_has_no_shades() -> None:
    expected = [[0, 1, 0.5], [0, 1, 0.5], [NAN, NAN, NAN]]
    np.testing.assert_allclose(relative_scores(MAP), expected, atol=1e-12)
    nothing = replace(MAP, score=np.zeros((3, 3)), unread=[False] * 3)
    assert np.isnan(relative_scores(nothing)).all(), "a best of 0 has no share"


def test_the_picture_marks_what_was_chosen_and_the_output_and_reads_names_as_text() -> None:
    figure = draw(MAP, small=True)
    grey, shades, marks = figure.data
    assert [*grey.y] == [2] and [*shades.y] == [0, 1]
    assert "shape &lt;b&gt;" in shades.customdata[0][0] and "<b>shape <b>" not in html(figure)
    assert "0.900 [0.800, 1.000]" in shades.customdata[0][1] and shades.customdata[0][1].endswith("layer to use")
    assert "100% of the best" in shades.customdata[1][1] and shades.customdata[1][2].endswith("layer to use and output")
    # One mark for one thing: whether the tap is hidden is said by the sign before the row's name.
    assert (marks.x, marks.y, marks.marker.symbol) == ((1, 2), (0, 1), "star")
    assert [name[0] for name in figure.layout.yaxis.ticktext] == ["+", "=", "?"]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(1.5, 2.5)]
    assert figure.layout.meta["rows"] == ["s1", "s0", "s2"]


@pytest.mark.parametrize("count", [1, 2, MOST_TICKS, MOST_TICKS + 1, 50, 333])
def test_names_of_taps_are_as_many_as_fit_and_the_last_is_one(count: int) -> None:
    values = np.linspace(0, 1, count)
    taps = [f"base_model.model.encoder.layers.{i}" for i in range(count)]
    figure = draw(ProfileFigure("m", "R2", True, taps, values, values, values, values, (taps[-1], 1.0)))
    shown = [taps.index(tap) for tap in figure.layout.xaxis.tickvals]
    assert shown[-1] == count - 1 and (count == 1 or shown[0] == 0)
    step = -(-count // MOST_TICKS)
    assert all(after - before >= step for before, after in itertools.pairwise(shown))
    assert all(len(text) <= 32 and "…" in text for text in figure.layout.xaxis.ticktext)
    assert len(figure.layout.meta["names"]) == count
    assert figure.layout.hovermode == "x unified"


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2 (sRGB)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


def test_lines_stand_out_and_words_can_be_read_on_white_and_on_black() -> None:
    style = (Path(draw.__code__.co_filename).parents[1] / "templates" / "style.html.j2").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w+)", line)) for line in style.splitlines() if ":root {" in line)
    papers = ("#ffffff", dark["paper"])
    for colour in (INK, LINE, FOUND, NOT_FOUND, *CONTROL_COLOURS, *COLOURS):
        assert min(contrast(colour, paper) for paper in papers) >= 3, colour
    for scheme, paper in ((light, papers[0]), (dark, papers[1])):
        for name in ("ink", "soft", "link", "found", "doubtful", "calm"):
            assert contrast(scheme[name], paper) >= 4.5, name


def test_words_are_explained_once_and_names_stay_as_they_are() -> None:
    text = str(explain_terms("best tap (depth) of <b>taps</b>, R2; val and val"))
    assert text.count("<abbr") == 5
    assert f'<abbr title="{GLOSSARY["best tap"]}">best tap</abbr>' in text
    assert "&lt;b&gt;" in text and text.endswith("and val")
    assert "<abbr" not in explain_terms("my.tap val/loss test.2 untested")


def test_findings_have_signs_and_lead_to_their_figures_and_numbers_keep_their_digits(tmp_path: Path) -> None:
    finding = Finding("For <x> read a&b (mean): it is.", Verdict.AT_CHANCE, "read a&b", "s0")
    number = Number(Interval(1 / 3, NAN, 0.5))
    table = Table((Column("reading"), Column("score")), (Row((finding, number)),))
    figure = replace(MAP, targets=["</script><script>alert(1)</script>"] * 3)
    section = Section(
        "Short",
        "short",
        (Findings((finding,)), table, figure, MapLegend((Verdict.AT_CHANCE,), (True,)), Legend((("raw input", 2),))),
    )
    page = write_page(Page("t", (), (section,), ()), tmp_path / "page.html").read_text(encoding="utf-8")
    own = page[page.index("<body>") :]
    assert '<li class="at chance">For &lt;x&gt; <a href="#s0">read a&amp;b</a> (mean): it is.</li>' in own
    assert '<td class="prose at chance">For &lt;x&gt; read a&amp;b' in own
    assert f'data-numbers="{1 / 3!r}  0.5"' in own
    assert "alert(1)</script>" not in own and "at chance at every layer</span>" in own
    data = re.findall(r'<div class="figure.*?<script type="application/json">(.*?)</script>', own, re.DOTALL)
    assert len(json.loads(data[0])["data"]) == 3
    assert re.search(
        r'<svg[^>]*><path d="M0 7H30" stroke="[^"]*" stroke-width="2" stroke-dasharray="3,3"/></svg><abbr', own
    )


@NEEDS_CHROMIUM
@pytest.mark.browser
def test_fifty_taps_have_labels_that_do_not_touch(tmp_path: Path) -> None:
    values, taps = np.linspace(0, 1, 50), [f"encoder.blocks.{i}" for i in range(50)]
    profile = ProfileFigure("m", "R2", True, taps, values, values, values, values, (taps[-1], 1.0))
    rows = np.stack([values] * 3)
    picture = replace(
        MAP,
        taps=taps,
        depth=values,
        score=rows,
        low=rows,
        high=rows,
        chosen=[None] * 3,
        output=taps[-1],
        targets=["a target"] * 3,
    )
    sections = (Section("Short", "short", (picture,)), Section("All", "f", sections=(Section("m", "s0", (profile,)),)))
    path = write_page(Page("t", (), sections, ()), tmp_path / "page.html")
    distances: list[list[float]] = []
    with open_browser() as browser:
        page = browser.new_page()
        for width in (1300, 400):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_function("document.querySelectorAll('.js-plotly-plot .xtick').length > 0")
            page.wait_for_timeout(300)
            distances += page.evaluate("""[...document.querySelectorAll('.js-plotly-plot')].map(x => {
                const ends = [...x.querySelectorAll('.xtick text')].map(t => t.getBoundingClientRect().right).sort((a, b) => a - b);
                return ends.slice(1).map((end, i) => end - ends[i]); })""")
    assert len(distances) == 4 and all(len(each) >= 4 for each in distances)
    # Lines of 11 pixels at 45 degrees.
    assert min(map(min, distances)) > 11 * 2**0.5
