"""How a report looks in Chromium: on a wide and on a narrow screen, and on paper, with long names and many targets."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from diagnostics.report.html import write_page
from diagnostics.runs.pages.run import run_page
from tests.support.browser import CHROMIUM, NEEDS_CHROMIUM, OPTIONS, open_browser
from tests.support.profiles import finished_run, uneven_probes

pytestmark = [
    pytest.mark.browser,
    NEEDS_CHROMIUM,
]
TARGETS = [f"mean_wall_shear_stress_at_the_inlet_x{i:03}" for i in range(10)]
TAPS = [f"encoder.transformer.layers.{i}.attention.output" for i in range(12)]
# A4 less its margins, at 96 dots an inch.
PAPER = (695, 1024)
MARGIN = 13 / 25.4 * 72


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ten targets with names of 40 characters, the last of which cannot be read; each asks its own question."""
    probes = uneven_probes(TARGETS, TAPS, readable=9)
    for i, probe in enumerate(probes):
        probe.data.attrs |= {"about": f"question {i}.", "score_name": f"axis{i}."}
    return write_page(run_page(finished_run(probes, "encoder", "data")), tmp_path_factory.mktemp("looks") / "page.html")


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    with open_browser() as browser:
        yield browser


def shown(browser: Any, path: Path, width: int, **options: Any) -> Any:
    """The page when its figures are drawn, of which the load event is the sign."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("width", [1300, 400])
def test_nothing_is_wider_than_the_screen_and_no_name_is_cut(browser: Any, report: Path, width: int) -> None:
    page = shown(browser, report, width)
    wide = page.evaluate("""[document.documentElement, ...document.querySelectorAll('.summary')]
        .filter(x => x.scrollWidth > x.clientWidth).length""")
    rows = page.evaluate("""[...document.querySelectorAll('.matrix .ytick text')].map(x => {
        const box = x.getBoundingClientRect(), map = x.closest('.matrix').getBoundingClientRect();
        return [x.textContent, box.left - map.left, box.top, box.bottom]; })""")
    cells = page.evaluate("document.querySelector('.matrix .hm image').getBoundingClientRect().width")
    page.close()
    assert wide == 0
    assert {name.split("(")[0].strip("+?=- ") for name, *_ in rows} == set(TARGETS)
    assert min(left for _, left, _, _ in rows) >= 0
    tops, bottoms = sorted(top for *_, top, _ in rows), sorted(bottom for *_, bottom in rows)
    assert all(after >= before for before, after in zip(bottoms, tops[1:], strict=False)), "names do not overlap"
    assert cells > 0.4 * width, "names leave room for the rows"


def test_one_row_leaves_the_names_of_taps_their_room(browser: Any, tmp_path: Path) -> None:
    probes = uneven_probes(["shape"], [f"blocks.{i}" for i in range(12)])
    path = write_page(run_page(finished_run(probes, "encoder", "data")), tmp_path / "page.html")
    page = shown(browser, path, 400)
    below = page.evaluate("""[...document.querySelectorAll('.matrix .xtick text')].map(x =>
        x.getBoundingClientRect().bottom - x.closest('svg').getBoundingClientRect().bottom)""")
    page.close()
    assert below and max(below) <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_differ_by_their_shape(browser: Any, report: Path, scheme: str) -> None:
    page = shown(browser, report, 1300, color_scheme=scheme)
    stars = page.evaluate("[...document.querySelectorAll('.matrix .points path')].map(x => x.getAttribute('d'))")
    frames = page.evaluate("document.querySelectorAll('.matrix .shapelayer path').length")
    signs = page.evaluate("[...document.querySelectorAll('.matrix .ytick text')].map(x => x.textContent[0])")
    legend = page.evaluate("document.querySelector('.legend').innerText")
    page.close()
    assert (len(stars), len(set(stars)), frames) == (9, 1, 1), "a star in each row that can be read, and one frame"
    assert [*map(signs.count, "+?=-")] == [9, 0, 0, 1]
    assert "layer to use" in legend and "output" in legend and "nothing is read at any layer" in legend


def print_pdf(path: Path) -> Any:
    """The PDF that Chromium prints of a page as soon as it is loaded."""
    pypdf = pytest.importorskip("pypdf", reason="needs pypdf")
    pdf = path.with_suffix(".pdf")
    command = [CHROMIUM, "--headless", *OPTIONS, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return pypdf.PdfReader(pdf)


def split_figures(pdf: Any) -> list[str]:
    """What stands on another page than the rest of its figure, in words; figures stand on the last pages."""
    split: list[str] = []
    for i, page in enumerate(pdf.pages):
        places: list[tuple[str, float]] = []
        page.extract_text(visitor_text=lambda text, cm, tm, *_, into=places: into.append((text, tm[5] * cm[3] + cm[5])))
        text = "".join(text for text, _ in places)
        if not (questions := re.findall(r"question (\d+)\.", text)):
            continue
        axes, ends = re.findall(r"axis(\d+)\.", text), re.findall(r"layers\.11… \(1\.00\)", text)
        if sorted(axes) != sorted(questions) or len(ends) != len(questions):
            split.append(f"page {i}: figures {questions}, axes {axes}, {len(ends)} last taps")
        height = float(page.mediabox.height)
        split += [
            f"page {i}: {text}" for text, y in places if text.strip() and not MARGIN - 1 < y < height - MARGIN + 1
        ]
    return split


def test_on_paper_no_figure_is_cut_and_pages_are_filled(report: Path) -> None:
    pdf = print_pdf(report)
    texts = [page.extract_text() for page in pdf.pages]
    assert {(round(p.mediabox.width), round(p.mediabox.height)) for p in pdf.pages} == {(595, 842)}, "A4"
    assert sorted(re.findall(r"question (\d)\.", "".join(texts))) == [str(i) for i in range(10)]
    assert split_figures(pdf) == []
    figures = [i for i, text in enumerate(texts) if "question" in text]
    assert len(figures) == 3, "four figures a page"
    assert "score or value" in texts[figures[0]], "the legend with the first of them"
    assert len(pdf.pages) <= 9


def test_a_page_that_cuts_figures_is_noticed(report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    cut = text.replace("break-inside: avoid", "").replace("display: inline-block; width: calc(50% - 18px)", "")
    (path := tmp_path / "cut.html").write_text(cut, encoding="utf-8")
    assert cut != text and split_figures(print_pdf(path)) != []


def test_paper_is_no_narrower_than_the_page(browser: Any, report: Path) -> None:
    """What is too wide, Chromium prints smaller, all of it."""
    page = shown(browser, report, PAPER[0])
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert wide <= PAPER[0]
