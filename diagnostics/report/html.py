"""Renders a page as one self-contained HTML file, or as a fragment for notebooks."""

from __future__ import annotations

import base64
import functools
import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from diagnostics.measures.verdict import Verdict
from diagnostics.report.glossary import GLOSSARY, explained
from diagnostics.report.names import breakable
from diagnostics.report.page import Block, Cell, Figure, Finding, Legend, Link, MapLegend, Number, Page, Section
from diagnostics.report.writing import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from diagnostics.report.plots.legend import Sign


PAGE_BYTES = 5 * 10**6
"""Of a page with figures: nearly all of it is plotly.js."""


def write_page(page: Page, path: Path) -> Path:
    """Writes the page in full as one HTML file, plotly.js too where it has figures, so that it needs no network; whole or not
    at all."""
    import plotly.offline

    from diagnostics.report.plots.style import settings

    drawn = any(isinstance(block, get_args(Figure)) for block in _blocks(page.sections))
    text = (
        templates()
        .get_template("page.html.j2")
        .render(
            page=page, plotlyjs=_packed(plotly.offline.get_plotlyjs()) if drawn else "", settings=settings(),
            glossary=GLOSSARY,
        )
    )  # fmt: skip
    return write_whole(path, text)


def _blocks(sections: Sequence[Section]) -> Iterator[Block]:
    for section in sections:
        yield from section.blocks
        yield from _blocks(section.sections)


@functools.cache
def _packed(script: str) -> str:
    """A script that the page unpacks: of plotly.js two fifths of its size."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode("ascii")


def page_tables(page: Page) -> str:
    """The page's sentences and tables as a fragment of HTML, for notebooks: no figures, nothing to open or to follow."""
    return templates().get_template("tables.html.j2").render(page=page)


def templates() -> Environment:
    """The templates of pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    environment = Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {
        "kind": _kind, "text": _text, "drawn": _drawn, "signs": _signs, "numbers": _numbers, "explained": explained,
        "linked": _linked, "breakable": breakable, "meaning": _meaning, "address": _address,
    }  # fmt: skip
    for name, function in filters.items():
        environment.filters[name] = function
    return environment


def _kind(part: Block | Cell) -> str:
    """What a template asks of a block or a cell: `Sentence`, `Table`, `Number`, ..."""
    return type(part).__name__


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text()


def _numbers(cell: Cell) -> list[str]:
    """A number and the ends of its interval in full, for whoever reads the table with a program; nothing of other cells."""
    if not isinstance(cell, Number) or cell.interval is None:
        return []
    ends = (cell.interval.value, cell.interval.low, cell.interval.high)
    return [repr(float(end)) if math.isfinite(end) else "" for end in ends]


def _linked(finding: Finding) -> Markup:
    """The words of a finding as HTML, with what leads to a section as a link."""
    from markupsafe import Markup

    words, link = finding.words, finding.link
    before, link, after = map(breakable, words.partition(link) if link else (words, "", ""))
    if not link or not finding.anchor:
        return breakable(finding.words)
    return Markup('{}<a href="#{}">{}</a>{}').format(before, finding.anchor, link, after)


def _address(link: Link) -> str:
    """Of a file beside the page: whatever its path holds is no address of another kind."""
    return quote(link.path, safe="/")


def _meaning(verdict: Verdict) -> str:
    return verdict.meaning


def _drawn(figure: Figure) -> str:
    from diagnostics.report.plots import draw, html

    return html(draw(figure, small=True))


def _signs(legend: Legend | MapLegend) -> list[Sign]:
    from diagnostics.report.plots.legend import signs

    return signs(legend)
