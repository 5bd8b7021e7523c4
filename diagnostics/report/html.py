"""A page as one self-contained HTML file: plain data poured into a thin template."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics.errors import unwritable

if TYPE_CHECKING:
    from jinja2 import Environment


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


def templates() -> Environment:
    """The templates of all pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Names come from users' files and plugins: everything is escaped.
    return Environment(loader=PackageLoader("diagnostics.report"), autoescape=True, undefined=StrictUndefined)
