"""Text files for other programs, written whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

from diagnostics.errors import DiagnosticsError, unwritable


def write_whole(path: Path, text: str) -> Path:
    """Writes a text as it is, with its own line ends; returns the path.

    Raises DiagnosticsError where the folder is not there, StorageError where it cannot be written.
    """
    if not path.parent.is_dir():
        raise DiagnosticsError(f"There is no folder {path.parent} for {path.name}: make it, or name another place.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        # A folder's name may hold bytes that are no text.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
