"""What goes wrong with files: missing packages, damaged files, and whether to go on without them."""

import contextlib
import importlib
import os
import stat
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diagnostics.plugin import DiagnosticsError, printable

MOST_BYTES = 4 * 2**30
"""Of what one dataset holds in memory before the first sample is read."""
_SHOWN = 3


class Unusable(DiagnosticsError):
    """A file that cannot be a sample: its name, `why` as the rest of that sentence, what to do; `damage` if its bytes are wrong.

    `skip` says whether `?on_error=skip` exists there and helps.
    """

    def __init__(self, name: str, why: str, remedy: str, skip: bool = True, damage: bool = False) -> None:
        more = f", or leave {'damaged' if damage else 'such'} files out with ?on_error=skip" if skip else ""
        super().__init__(f"{name} {why}: {remedy}{more}.")
        self.name, self.why, self.remedy, self.damage = name, why, remedy, damage


def need(module: str, package: str, wanted: str) -> Any:
    """The module, or the sentence that says which package to install for what is wanted."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DiagnosticsError(f"{wanted} needs {package}, which is not installed: pip install {package}") from error


def damaged(name: str, error: BaseException | str, skip: bool = True) -> Unusable:
    """The error for a file that cannot be decoded; returned, not raised."""
    why = error if isinstance(error, str) else f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(":. ")
    remedy = "repair or remove it" if skip else "repair it or write it again"
    return Unusable(name, f"cannot be decoded ({why})", remedy, skip, damage=True)


@contextlib.contextmanager
def decoding(name: str) -> Generator[None]:
    """Turns an unexpected exception within this context into the error for a file that cannot be decoded."""
    try:
        yield
    except DiagnosticsError:
        raise
    except Exception as error:
        raise damaged(name, error) from error


_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}  # fmt: skip


def check_regular(path: Path, name: str, skip: bool = True) -> None:
    """Raises for what is no regular file (links followed) or has a name that is no text; opens nothing, which may hang."""
    if utf8_name(str(path)) != str(path):
        raise Unusable(utf8_name(name), "has a name that is not UTF-8", "rename it", skip)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        why = "is a link to what is not there" if path.is_symlink() else f"cannot be reached ({error.strerror})"
        raise Unusable(name, why, "remove it", skip) from error
    if kind != stat.S_IFREG:
        raise Unusable(name, f"is {_KINDS.get(kind, 'something else')} and no file", "remove it", skip)


def check_tree(root: Path) -> None:
    """Raises where a folder that a library reads as a whole holds what is no regular file."""
    for where, _, files in os.walk(root):
        for name in files:
            check_regular(Path(where, name), utf8_name(str(Path(where, name))), skip=False)


def utf8_name(name: str) -> str:
    """The name of a file as text: bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def usable(
    names: Sequence[str], check: Callable[[int], object], on_error: str, source: str
) -> tuple[Sequence[int], dict[str, Unusable]]:
    """Which of some files can be read, and why others cannot: name -> what is wrong, perhaps with a file beside it.

    With `on_error` `stop` nothing is looked at, and the file that fails stops the run when its turn comes. With `skip`,
    `check(i)` decodes every file once, now, since ids and splits are fixed before the first forward pass; what is left
    out is said on stderr. Raises where nothing is left.
    """
    if on_error not in ("stop", "skip"):
        raise DiagnosticsError(f"Option on_error={on_error} of {source} is unknown: give stop or skip.")
    if on_error == "stop":
        return range(len(names)), {}
    kept: list[int] = []
    left_out: dict[str, Unusable] = {}
    for i, name in enumerate(names):
        try:
            check(i)
        except Unusable as error:
            # Without what led to it, which would keep the arrays of each such file.
            left_out[name] = error.with_traceback(None)
            error.__cause__ = error.__context__ = None
        else:
            kept.append(i)
    if left_out:
        warn(f"{source}: {sentence(left_out, len(names))}.")
    if not kept:
        first = next(iter(left_out.values()))
        raise DiagnosticsError(
            f"Of {len(names)} files of {source} none can be used, as {first.name} {first.why}: {first.remedy}."
        )
    return kept, left_out


def sentence(left_out: Mapping[str, Unusable], of: int) -> str:
    """How many were left out and the first files at fault, for `Dataset.about`; nothing where none was."""
    broken = [fault.name for fault in left_out.values() if fault.damage]
    others = [f"{fault.name} {fault.why}" for fault in left_out.values() if not fault.damage]
    return join_notes(
        f"{len(broken)} of {of} left out as damaged: {_first(broken, _SHOWN)}" if broken else "",
        f"{len(others)} of {of} left out: {_first(others, 1)}" if others else "",
    )


def _first(entries: Sequence[str], count: int) -> str:
    more = f" and {len(entries) - count} more" if len(entries) > count else ""
    return f"{', '.join(entries[:count])}{more}"


def alone(names: Sequence[str], kind: str, without: str) -> str:
    """`2 images without a map left out, images/a.jpg first`; nothing where there are no names."""
    if not names:
        return ""
    return f"{len(names)} {kind}{'s' * (len(names) > 1)} without {without} left out, {names[0]}{' first' * (len(names) > 1)}"


def too_large(needed: int) -> str:
    """In words that what a file declares to hold would not fit into memory; nothing where it would."""
    if needed <= MOST_BYTES:
        return ""
    return f"would take {needed / 2**30:.1f} GiB of memory, more than the {MOST_BYTES / 2**30:g} GiB that are allowed"


def check_bytes(needed: int, contents: str, remedy: str) -> None:
    """Raises where `contents` would not fit into memory, before any of it is read."""
    if why := too_large(needed):
        raise DiagnosticsError(f"{contents} {why}: {remedy}.")


def warn(text: str) -> None:
    """One line on stderr, so that what is printed for programs stays clean."""
    print(f"diagnostics: {printable(text)}", file=sys.stderr)


def join_notes(*parts: str) -> str:
    """The parts that say anything, as one line."""
    return "; ".join(part for part in parts if part)
