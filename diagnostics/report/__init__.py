"""The run as one self-contained HTML file: a summary (plain data) poured into a thin template."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from diagnostics.disk import unwritable
from diagnostics.report.summary import summarise

if TYPE_CHECKING:
    from jinja2 import Environment

    from diagnostics.runs import Run


def write_report(run: Run, path: Path) -> Path:
    """Writes the report whole or not at all; everything it needs, plotly.js too, lies inside the file."""
    import plotly.offline

    page = (
        _templates()
        .get_template("page.html.j2")
        .render(summary=summarise(run, figures=True), plotlyjs=plotly.offline.get_plotlyjs())
    )
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(path, error) from error
    return path


def summary_html(run: Run) -> str:
    """The tables of the report alone, for notebooks."""
    return _templates().get_template("tables.html.j2").render(summary=summarise(run, figures=False))


def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    return Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
