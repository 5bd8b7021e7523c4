"""Errors that a user can cause, and the messages for unknown names."""

import contextlib
import copyreg
import difflib
import errno
import os
from collections.abc import Collection, Generator, Iterable
from pathlib import PurePath
from typing import Any, Literal

Code = Literal[
    "unknown-name",
    "bad-value",
    "bad-shape",
    "bad-type",
    "conflict",
    "no-effect",
    "missing-option",
    "duplicate",
    "missing-file",
    "occupied",
    "unreadable",
    "damaged",
    "unfinished",
    "unwritable",
    "no-space",
    "in-use",
    "other-run",
    "other-version",
    "strange-file",
    "not-fetched",
    "missing-package",
    "untrusted-code",
    "foreign-error",
    "process-ended",
    "too-large",
    "bad-data",
    "bad-sample",
    "sample-changed",
    "bad-target",
    "bad-splits",
    "too-few",
    "not-finite",
    "other-modality",
    "no-target",
    "no-grid",
    "no-tokens",
    "no-attention",
    "no-kernel",
    "bad-tap",
    "no-trunk",
    "unclear",
    "token-order",
    "irreproducible",
    "not-verifiable",
    "no-weights",
    "other-weights",
    "no-control",
    "not-savable",
    "unsupported",
    "not-measured",
    "not-comparable",
    "singular",
    "diverged",
    "other",
]
"""The reason of an error, for programs and tests; docs/reference/plugins.md has a line for each."""

LONGEST = 400
"""Characters of an exception's text that are shown; some libraries write pages."""


class DiagnosticsError(Exception):
    """An error that a user can cause: what was given, why it does not work, and the next step, in one sentence.

    The command line prints the message and exits with status 2; files are written atomically. `code` is the reason in
    a word that stays when the sentence is reworded.

    Examples:
        >>> import diagnostics as dx
        >>> try:
        ...     dx.build("dataset", "lorentz")
        ... except dx.DiagnosticsError as error:
        ...     print(error.code)
        ...     print(error)
        unknown-name
        Unknown dataset 'lorentz': did you mean lorenz? Or path/to/file.py:function;
        `diagnostics list` shows all.
    """

    code: Code = "other"
    status = 2
    """With which the command line exits."""

    def __init__(self, message: object = "", *, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code

    def __reduce__(self) -> tuple[Any, ...]:
        """Make a copy, also in another process, of the message and not of what a class takes."""
        # pyrefly: ignore[missing-attribute]
        return copyreg.__newobj__, (type(self), *self.args), vars(self)

    def _render_traceback_(self) -> list[str]:
        """The line that IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class Stopped(KeyboardInterrupt):
    """Raised where a signal asks to stop, to tell it from a KeyboardInterrupt that other code raises by itself."""


class StorageError(DiagnosticsError):
    """A DiagnosticsError that concerns the disk, not the model or the data: no room, damage, another run's folder."""


def describe(error: BaseException) -> str:
    """The type and text of an exception, in one line of moderate length."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def explaining(
    failure: str,
    remedy: str = "",
    code: Code = "foreign-error",
    errors: type[BaseException] | tuple[type[BaseException], ...] = (Exception, SystemExit),
) -> Generator[None]:
    """Turn an unexpected exception within this context into a sentence, "failure (the exception): remedy".

    Args:
        failure: what cannot be done, with the verb.
        remedy: what to do; without one the sentence ends with the exception.
        code: of the error.
        errors: the exceptions that are turned. A DiagnosticsError stays as it is.

    Examples:
        >>> from diagnostics.plugin import DiagnosticsError, explaining
        >>> try:
        ...     with explaining("Row 3 is no number", "correct it", "bad-data", ValueError):
        ...         float("three")
        ... except DiagnosticsError as error:
        ...     print(error)
        Row 3 is no number (ValueError: could not convert string to float: 'three'):
        correct it.
    """
    try:
        yield
    except DiagnosticsError:
        raise
    except errors as error:
        # The system's words for a disk leave out the path, which the sentence has.
        why = (isinstance(error, OSError) and error.strerror) or describe(error)
        message = f"{failure} ({why}): {remedy}." if remedy else f"{failure}: {describe(error)}"
        raise DiagnosticsError(message, code=code) from error


@contextlib.contextmanager
def naming(what: str, code: Code | None = None) -> Generator[None]:
    """Put what an error is about before the sentence of a DiagnosticsError in this context, and another `code`."""
    try:
        yield
    except DiagnosticsError as error:
        raise DiagnosticsError(f"{what}: {error}", code=code or error.code) from error


def refuse_values(*checks: tuple[object, str] | tuple[object, str, Code]) -> None:
    """Raise the sentence of the first check that is true.

    Args:
        checks: whether a value is wrong, the sentence for it, and the code of that error (`bad-value`).

    Examples:
        >>> from diagnostics.plugin import DiagnosticsError, refuse_values
        >>> batch, seed = 0, 0
        >>> try:
        ...     refuse_values(
        ...         (seed < 0, f"Seed {seed} is below 0: give 0 or more."),
        ...         (batch < 1, f"Batch size {batch} is below 1: give 1 or more."),
        ...     )
        ... except DiagnosticsError as error:
        ...     print(error)
        Batch size 0 is below 1: give 1 or more.
    """
    for wrong, sentence, *code in checks:
        if wrong:
            raise DiagnosticsError(sentence, code=code[0] if code else "bad-value")


@contextlib.contextmanager
def importing(needing: str, remedy: str) -> Generator[None]:
    """Turn the absence of a package within this context into a sentence, "ONNX files need onnx: pip install onnx".

    Args:
        needing: what needs it, with the verb.
        remedy: what to type.
    """
    try:
        yield
    except ImportError as error:
        raise DiagnosticsError(f"{needing} {error.name}: {remedy}.", code="missing-package") from error


def few(names: Iterable[str]) -> str:
    """The first three of some names in sorted order, and dots where there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def join_names(names: Iterable[str]) -> str:
    """Some names in a sentence: `a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def name_error(kind: str, name: str, known: Iterable[str], hint: str = "") -> DiagnosticsError:
    """The error for a name that nobody offers, with the nearest names that somebody does.

    Returned, not raised: `raise unknown("tap", "blok.3", taps)`.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        choice = f"did you mean {' or '.join(near)}?"
    elif names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        choice = f"there are {shown}."
    else:
        choice = "there are none."
    return DiagnosticsError(f"Unknown {kind} '{name}': {choice}{' ' + hint if hint else ''}", code="unknown-name")


def check_known(kind: str, name: str | None, known: Collection[str], hint: str = "") -> None:
    """Raise `name_error` for a name that is not among those known; None names nothing and passes."""
    if name is not None and name not in known:
        raise name_error(kind, name, known, hint)


def unwritable(path: PurePath, error: OSError, when: str = "") -> StorageError:
    """The error for a folder that cannot be written, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"No space left for {path}, {when}free some and give the same command again: it resumes from there.",
            code="no-space",
        )
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}): "
        f"{'make it writable' if os.path.exists(path) else 'choose another folder with --out'}.",
        code="unwritable",
    )


def damage_error(path: PurePath, part: str) -> StorageError:
    """The error for a finished run, of which a part cannot be read."""
    return StorageError(
        f"{path} is damaged or was copied in part, {part} cannot be read: copy it again, or remove it and run again.",
        code="damaged",
    )
