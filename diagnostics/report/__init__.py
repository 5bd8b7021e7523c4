"""The run as one self-contained HTML file: a summary (plain data) poured into a thin template."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics.activations.folder import unwritable
from diagnostics.runs.page import summarise

if TYPE_CHECKING:
    from jinja2 import Environment

    from diagnostics.runs.run import Run


def write_report(run: Run, path: Path) -> Path:
    """Writes the report whole or not at all; everything it needs, plotly.js too, lies inside the file."""
    return write_page("page.html.j2", path, summary=summarise(run, figures=True))


def write_page(template: str, path: Path, **content: Any) -> Path:
    """Writes a template with its content, and plotly.js, as one HTML file; whole or not at all."""
    import plotly.offline

    page = templates().get_template(template).render(plotlyjs=plotly.offline.get_plotlyjs(), **content)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # A folder's name may hold bytes that are no text.
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def summary_html(run: Run) -> str:
    """The tables of the report alone, for notebooks."""
    return templates().get_template("tables.html.j2").render(summary=summarise(run, figures=False))


def templates() -> Environment:
    """The templates of all pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    return Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
