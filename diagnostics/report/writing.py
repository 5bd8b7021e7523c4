"""Text files for other programs, written whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path

from diagnostics.activations.bucket import open_place
from diagnostics.activations.folder import writing
from diagnostics.activations.place import Location
from diagnostics.errors import DiagnosticsError, StorageError

LONGEST_WRITE = 600.0
"""Seconds after which whoever wrote a temporary file is dead: a text takes much less."""


def write_whole(path: Location, text: str) -> Location:
    """Write a text as it is, with its own line ends; returns the path.

    Raises DiagnosticsError where the folder is not there, StorageError where it cannot be written.
    """
    if isinstance(path, Path) and not path.parent.is_dir():
        raise DiagnosticsError(
            f"There is no folder {path.parent} for {path.name}: make it, or name another place.", code="missing-file"
        )
    with writing(path):
        if isinstance(path, Path) and path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = open_place(path.parent)
        with contextlib.suppress(OSError, StorageError):
            folder.tidy(path.name, age=LONGEST_WRITE)
        # A folder's name may hold bytes that are no text.
        folder.put(path.name, text.encode(errors="backslashreplace"))
    return path
