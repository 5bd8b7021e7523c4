"""Renders a page as one self-contained HTML file, or as a fragment for notebooks.

Its words have their meaning on hover.
"""

from __future__ import annotations

import base64
import functools
import gzip
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import quote

from markupsafe import Markup, escape

from diagnostics.activations.place import Location
from diagnostics.report.layout import breakable
from diagnostics.report.page import Block, Cell, Figure, Finding, Legend, MapLegend, Number, Page, Section
from diagnostics.report.writing import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

    from diagnostics.report.plots.profile import Sign


PAGE_BYTES = 5 * 10**6
"""Of a page with figures: nearly all of it is plotly.js."""


def write_page(page: Page, path: Location) -> Location:
    """Write the page in full as one HTML file, plotly.js too where it has figures, so that it needs no network.

    Whole or not at all.
    """
    import plotly.offline

    from diagnostics.report.plots.style import settings

    drawn = any(isinstance(block, get_args(Figure)) for block in _blocks(page.sections))
    text = (
        templates()
        .get_template("page.html.j2")
        .render(
            page=page,
            plotlyjs=_pack(plotly.offline.get_plotlyjs()) if drawn else "",
            settings=settings(),
            glossary=GLOSSARY,
        )
    )
    return write_whole(path, text)


def _blocks(sections: Sequence[Section]) -> Iterator[Block]:
    for section in sections:
        yield from section.blocks
        yield from _blocks(section.sections)


@functools.cache
def _pack(script: str) -> str:
    """A script that the page unpacks: of plotly.js two fifths of its size."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode("ascii")


def page_tables(page: Page) -> str:
    """The page's sentences and tables as a fragment of HTML, for notebooks.

    No figures, nothing to open or to follow.
    """
    return templates().get_template("tables.html.j2").render(page=page)


def templates() -> Environment:
    """The templates of pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    environment = Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
    filters: dict[str, Callable[..., Any]] = {
        "kind": lambda part: type(part).__name__,
        "text": lambda cell: cell if isinstance(cell, str) else cell.text(),
        "drawn": _drawn,
        "signs": _signs,
        "numbers": _numbers,
        "explained": explain_terms,
        "linked": _link,
        "breakable": breakable,
        # Of a file beside the page: whatever its path holds is no address of another kind.
        "address": lambda link: quote(link.path, safe="/"),
    }
    for name, function in filters.items():
        environment.filters[name] = function
    return environment


def _numbers(cell: Cell) -> list[str]:
    """A number and the ends of its interval in full, for whoever reads the table with a program.

    Nothing of other cells.
    """
    if not isinstance(cell, Number) or cell.interval is None:
        return []
    ends = (cell.interval.value, cell.interval.low, cell.interval.high)
    return [repr(float(end)) if math.isfinite(end) else "" for end in ends]


def _link(finding: Finding) -> Markup:
    """The words of a finding as HTML, with what leads to a section as a link."""
    words, link = finding.words, finding.link
    before, link, after = map(breakable, words.partition(link) if link else (words, "", ""))
    if not link or not finding.anchor:
        return breakable(finding.words)
    return Markup('{}<a href="#{}">{}</a>{}').format(before, finding.anchor, link, after)


def _drawn(figure: Figure) -> str:
    from diagnostics.report.plots import draw, html

    return html(draw(figure, small=True))


def _signs(legend: Legend | MapLegend) -> list[Sign]:
    from diagnostics.report.plots.profile import signs

    return signs(legend)


GLOSSARY: Mapping[str, str] = {
    "output tap": "the tap whose activations the encoder gives its users (its usual output)",
    "chosen tap": "the tap to use: chosen without test, by the score out of fold on train and val, or on val; the "
    "output where no other is better by one standard error",
    "best tap": "the best tap other than the output, chosen without test",
    "hidden gap": "the best tap's score minus the output tap's on test, paired over units",
    "tap": "a named place of the encoder where activations are read",
    "output": "the activations at the output tap, the encoder's usual output",
    "depth": "the position of a tap: 0 after the embedding, 1 at the trunk's output; taps of a head lie beyond 1",
    "target": "what a probe reads out of activations",
    "probe": "a readout of a target, fitted on frozen activations",
    "profile": "one measure as a function of depth, with its uncertainty and its controls",
    "control": "a baseline measured by the same code, such as an untrained encoder, the raw input or shuffled labels",
    "fresh weights": "a control: the same architecture with newly drawn random weights",
    "permuted weights": "a control: the trained weights, shuffled within each tensor",
    "raw input": "a control without a model: the sample itself, reduced in size",
    "raw input kernel": "a control without a model: kernel regression on the samples themselves",
    "summary statistics": "a control without a model: moments, quantiles and autocorrelations of a sample",
    "shuffled labels": "a control: the encoder's own activations with the targets shuffled among samples",
    "train": "the samples on which probes are fitted",
    "val": "samples on which penalties and taps are chosen, alone or with train out of fold",
    "test": "the samples on which every score is read",
    "unit": "samples that share a source (video, series, subject); intervals resample units",
    "R2": "share of a target's variance that is predicted: 1 is all of it, 0 is no better than the mean, "
    "below 0 is worse",
    "skill": "1 minus the ratio of the error to that of the naive forecast: 0 is as good as the naive forecast",
    "accuracy": "share of correct answers",
    "mean": "as a pooling: the average over a sample's tokens",
}
_FORMS = {form: term for term in GLOSSARY for form in (term, f"{term}s")}
_TERM = re.compile(rf"(?<![\w./])(?:{'|'.join(sorted(map(re.escape, _FORMS), key=len, reverse=True))})(?![\w/]|\.\w)")


def explain_terms(text: object, known: Iterable[str] = ()) -> Markup:
    """Text as HTML in which each term has its meaning on hover, where it first stands; `known` terms have none."""
    parts: list[Markup] = []
    text, end, seen = str(text), 0, set(known)
    for match in _TERM.finditer(text):
        term = _FORMS[match[0]]
        if term not in seen:
            seen.add(term)
            abbr = Markup('<abbr title="{}">{}</abbr>').format(GLOSSARY[term], match[0])
            parts += [escape(text[end : match.start()]), abbr]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])
