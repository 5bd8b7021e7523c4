"""What goes wrong with files: missing packages, damaged files, and whether to go on without them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from diagnostics import DiagnosticsError

_SHOWN = 3


def need(module: str, package: str, wanted: str) -> Any:
    """The module, or the sentence that says which package to install for what is wanted."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DiagnosticsError(f"{wanted} needs {package}, which is not installed: pip install {package}") from error


def damaged(name: str, error: BaseException | str) -> DiagnosticsError:
    """The error for a file that cannot be decoded; returned, not raised."""
    why = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(":. ")
    return DiagnosticsError(
        f"{name} cannot be decoded ({why}): repair or remove it, or leave damaged files out with ?on_error=skip."
    )


def usable(
    names: Sequence[str], check: Callable[[int], object], on_error: str, what: str
) -> tuple[list[int], dict[str, str]]:
    """Which of some files can be read, and why others cannot: name -> reason.

    With `on_error` `stop` nothing is looked at, and the file that fails stops the run when its turn comes. With `skip`,
    `check(i)` decodes every file once, now, since ids and splits are fixed before the first forward pass; what is left
    out is said on stderr. Raises where nothing is left.
    """
    if on_error not in ("stop", "skip"):
        raise DiagnosticsError(f"Option on_error={on_error} of {what} is unknown: give stop or skip.")
    if on_error == "stop":
        return list(range(len(names))), {}
    kept: list[int] = []
    left_out: dict[str, str] = {}
    for i, name in enumerate(names):
        try:
            check(i)
        except DiagnosticsError as error:
            left_out[name] = str(error).partition(": repair or remove it")[0] + "."
        else:
            kept.append(i)
    if left_out:
        warn(f"{what}: {sentence(left_out, len(names))}")
    if not kept:
        raise DiagnosticsError(f"Of {len(names)} files of {what} none can be used: {next(iter(left_out.values()))}")
    return kept, left_out


def sentence(left_out: dict[str, str], of: int) -> str:
    """How many were left out and the first of them, for `Dataset.about`; nothing where none was."""
    if not left_out:
        return ""
    more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
    return f"{len(left_out)} of {of} left out as damaged: {', '.join(list(left_out)[:_SHOWN])}{more}"


def warn(text: str) -> None:
    """One line on stderr, so that what is printed for programs stays clean."""
    print(f"diagnostics: {text}", file=sys.stderr)


def told(*parts: str) -> str:
    """The parts that say anything, as one line."""
    return "; ".join(part for part in parts if part)
