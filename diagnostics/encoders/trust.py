"""Which Python files may be run: those that the user herself named, and none that a saved encoder names, unless she trusts it.

What a file says of how to build it is built by names like any other, which may name further encoders in their options. So the
rule does not read names: it is asked at the one place where a Python file is run, which knows within which file that is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from diagnostics.errors import DiagnosticsError

DEEPEST = 16
"""Names within names: alignments of alignments are a few."""

_naming: ContextVar[tuple[str, ...]] = ContextVar("naming", default=())
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_depth: ContextVar[int] = ContextVar("depth", default=0)


class UntrustedCodeError(DiagnosticsError):
    """A file names Python code, which is not run."""


@contextmanager
def building(spec: str, named_by: str, trust_code: bool) -> Generator[None]:
    """While something is built by a name: one that the user gave, or one that stands in the file `named_by`.

    Raises DiagnosticsError for names within names without end, and a file that names itself.
    """
    files = _naming.get()
    if _depth.get() >= DEEPEST:
        raise DiagnosticsError(
            f"'{spec[:80]}' stands in more than {DEEPEST} names within each other: name the innermost encoder itself."
        )
    own = str(Path(named_by).resolve()) if named_by else ""
    if own in files:
        raise DiagnosticsError(f"{named_by} is built by what it is built by itself: save that encoder again.")
    set_naming = _naming.set((*files, own) if own else files)
    set_trusted = _trusted.set(_trusted.get() or trust_code)
    set_depth = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _naming.reset(set_naming)
        _trusted.reset(set_trusted)
        _depth.reset(set_depth)


def trusting() -> bool:
    """Whether what is built now was asked for with trust in the Python files that files name."""
    return _trusted.get()


def check_code(path: Path) -> None:
    """Raises where a Python file is about to be run that a saved encoder names and nobody trusts."""
    files = _naming.get()
    if files and not _trusted.get():
        raise UntrustedCodeError(
            f"{files[-1]} names the Python file {path}, which would be run: read that file, and give --trust-code "
            "(trust_code=True in Python) if you trust both."
        )
