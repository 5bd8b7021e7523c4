"""Renders a page as one self-contained HTML file, or as a fragment for notebooks."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from diagnostics.errors import unwritable
from diagnostics.report.figures import Figure
from diagnostics.report.page import Block, Cell, Page

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(page: Page, path: Path) -> Path:
    """Writes the page in full as one HTML file, plotly.js too, so that it needs no network; whole or not at all."""
    import plotly.offline

    text = templates().get_template("page.html.j2").render(page=page, plotlyjs=plotly.offline.get_plotlyjs())
    partial = path.with_name(f".{path.name}.partial")
    try:
        # A folder's name may hold bytes that are no text.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def page_tables(page: Page) -> str:
    """The page's sentences and tables as a fragment of HTML, for notebooks: no figures, nothing to open or to follow."""
    return templates().get_template("tables.html.j2").render(page=page)


def templates() -> Environment:
    """The templates of pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    environment = Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters["kind"] = _kind
    environment.filters["text"] = _text
    environment.filters["drawn"] = _drawn
    return environment


def _kind(part: Block | Cell) -> str:
    """What a template asks of a block or a cell: `Sentence`, `Table`, `Number`, ..."""
    return type(part).__name__


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text()


def _drawn(figure: Figure) -> str:
    from diagnostics.report.plots import draw, html

    return html(draw(figure))
