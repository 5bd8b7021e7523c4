"""Which Python files may be run: those named by the user, and with trust also those named by a saved encoder.

A saved encoder is built by a name, whose options may name further encoders. So names are not inspected: the rule is applied at
the one place where a Python file is run, and context variables record from which saved file the name came.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from diagnostics.errors import DiagnosticsError

DEEPEST = 16
"""Names within names; alignments of alignments have a few."""

_naming: ContextVar[tuple[str, ...]] = ContextVar("naming", default=())
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_depth: ContextVar[int] = ContextVar("depth", default=0)


class UntrustedCodeError(DiagnosticsError):
    """A saved encoder names a Python file, which was not run because the user does not trust it."""


@contextmanager
def building(spec: str, named_by: str, trust_code: bool) -> Generator[None]:
    """The context in which the name `spec` is built: given by the user, or found in the saved file `named_by`.

    Raises DiagnosticsError where names are nested too deeply, and where a file is built by itself.
    """
    files = _naming.get()
    if _depth.get() >= DEEPEST:
        raise DiagnosticsError(
            f"'{spec[:80]}' is nested in more than {DEEPEST} names: name the innermost encoder itself."
        )
    own = str(Path(named_by).resolve()) if named_by else ""
    if own in files:
        raise DiagnosticsError(
            f"{named_by} names itself as the encoder that it is built from: save that encoder again."
        )
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
    """Whether the user trusts the Python files that saved encoders name, for what is being built now."""
    return _trusted.get()


def check_code(path: Path) -> None:
    """Raises UntrustedCodeError where a saved encoder names this Python file and the user does not trust it."""
    files = _naming.get()
    if files and not _trusted.get():
        raise UntrustedCodeError(
            f"{files[-1]} names the Python file {path}, which would be run: read that file, and give --trust-code "
            "(trust_code=True in Python) if you trust both."
        )
