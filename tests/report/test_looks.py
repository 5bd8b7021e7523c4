"""How a report looks in Chromium: on a wide and on a narrow screen, and on paper, with long names and many targets."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from diagnostics.report.html import write_page
from diagnostics.runs.page import run_page

from profiles import finished_run, uneven_probes

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = ["--no-sandbox", "--disable-gpu"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium at /usr/bin/chromium"),
]
TARGETS = [f"mean_wall_shear_stress_at_the_inlet_x{i:03}" for i in range(10)]
TAPS = [f"encoder.transformer.layers.{i}.attention.output" for i in range(12)]
# A4 less its margins, at 96 dots an inch.
PAPER = (695, 1024)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ten targets with names of 40 characters, the last of which cannot be read; each asks its own question."""
    probes = uneven_probes(TARGETS, TAPS, readable=9)
    for i, probe in enumerate(probes):
        probe.data.attrs |= {"about": f"question {i}.", "score_name": f"axis{i}."}
    return write_page(run_page(finished_run(probes, "encoder", "data")), tmp_path_factory.mktemp("looks") / "page.html")


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
        yield browser
        browser.close()


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
    assert {name.split("(")[0].strip("●◐○– ") for name, *_ in rows} == set(TARGETS)
    assert min(left for _, left, _, _ in rows) >= 0
    tops, bottoms = sorted(top for *_, top, _ in rows), sorted(bottom for *_, bottom in rows)
    assert all(after >= before for before, after in zip(bottoms, tops[1:], strict=False)), "names do not overlap"
    assert cells > 0.4 * width, "names leave room for the rows"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_differ_by_their_shape(browser: Any, report: Path, scheme: str) -> None:
    page = shown(browser, report, 1300, color_scheme=scheme)
    stars = page.evaluate("[...document.querySelectorAll('.matrix .points path')].map(x => x.getAttribute('d'))")
    frames = page.evaluate("document.querySelectorAll('.matrix .shapelayer path').length")
    signs = page.evaluate("[...document.querySelectorAll('.matrix .ytick text')].map(x => x.textContent[0])")
    legend = page.evaluate("document.querySelector('.legend').innerText")
    page.close()
    assert (len(stars), len(set(stars)), frames) == (9, 1, 1), "a star in each row that can be read, and one frame"
    assert [*map(signs.count, "●◐○–")].count(0) < 3 and signs.count("–") == 1
    assert "best tap" in legend and "output" in legend and "not shown to be readable" in legend


def test_paper_is_no_narrower_than_the_page(browser: Any, report: Path) -> None:
    """What is too wide, Chromium prints smaller, all of it."""
    page = shown(browser, report, PAPER[0])
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_timeout(300)
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert wide <= PAPER[0]
