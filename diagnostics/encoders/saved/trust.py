"""What a saved encoder may do when it is opened: without trust it runs no Python file, reads no checkpoint and calls no host.

A saved encoder is built by a name, whose options may name further encoders. So names are not inspected: each rule is applied at
the one place where a Python file is run, options are read, or Python connects to a host, and context variables record from
which saved file the name came.
"""

import functools
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from diagnostics.errors import DiagnosticsError

DEEPEST = 16
"""Names within names; alignments of alignments have a few."""

_naming: ContextVar[tuple[str, ...]] = ContextVar("naming", default=())
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_depth: ContextVar[int] = ContextVar("depth", default=0)
_not_called: ContextVar[list[str] | None] = ContextVar("not_called", default=None)
_CALLS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
"""Audit events of calls to other hosts, and of asking where these are."""


class UntrustedCodeError(DiagnosticsError):
    """A saved encoder names a Python file or a checkpoint, which was not read because the user does not trust it."""


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


def check_options(options: Mapping[str, str]) -> None:
    """Raises UntrustedCodeError where a saved encoder names a checkpoint, whose weights would be replaced by its own anyway."""
    files = _naming.get()
    if files and not _trusted.get() and "checkpoint" in options:
        raise UntrustedCodeError(
            f"{files[-1]} names the checkpoint {options['checkpoint']}, which is not read, since a saved encoder holds its own "
            "weights: save it again, or give --trust-code (trust_code=True in Python) if you trust both."
        )


@contextmanager
def offline() -> Generator[list[str]]:
    """A context in which no host is called, with the calls that would have been made.

    Only Python's own sockets are stopped, and in this thread: clients of the hub ask through these before anything else.
    """
    _stop_calls()
    not_called: list[str] = []
    token = _not_called.set(not_called)
    try:
        yield not_called
    finally:
        _not_called.reset(token)


@functools.cache
def _stop_calls() -> None:
    """From now on, calls inside `offline` are an OSError, as they are without a network. A hook cannot be removed."""

    def stop(event: str, args: tuple[Any, ...]) -> None:
        if event in _CALLS and (not_called := _not_called.get()) is not None:
            not_called.append(event)
            raise ConnectionRefusedError("a saved encoder is built offline")

    sys.addaudithook(stop)
