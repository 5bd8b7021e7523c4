"""What ends a command before its end: errors that a user can cause, with the messages for unknown names, and signals.

Ctrl-C, SIGTERM, SIGHUP, and an output that nobody reads end a command in order, without a traceback; Ctrl-C passes through the import of
plugins, and the end of a worker is heard of only while a batch is waited for.
"""

import contextlib
import difflib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

LONGEST = 400
"""Characters of an exception's text that are shown; some libraries write pages."""


class DiagnosticsError(Exception):
    """What was given, why it does not work, and the next step, in one sentence.

    The command line prints the message and exits with status 2; files are written atomically.

    Examples:
        >>> import diagnostics as dx
        >>> try:
        ...     dx.build("dataset", "lorentz")
        ... except dx.DiagnosticsError as error:
        ...     print(error)
        Unknown dataset 'lorentz': did you mean lorenz? Or path/to/file.py:function;
        `diagnostics list` shows all.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
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
def explaining(failure: str) -> Generator[None]:
    """Turns an unexpected exception within this context into a DiagnosticsError that begins with `failure`."""
    try:
        yield
    except DiagnosticsError:
        raise
    except (Exception, SystemExit) as error:
        raise DiagnosticsError(f"{failure}: {describe(error)}") from error


def few(names: Iterable[str]) -> str:
    """The first three of some names in sorted order, and dots where there are more."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def enumerated(names: Iterable[str]) -> str:
    """Some names in a sentence: `a`, `a and b`, `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> DiagnosticsError:
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
    return DiagnosticsError(f"Unknown {kind} '{name}': {choice}{' ' + hint if hint else ''}")


def unwritable(path: Path, error: OSError, when: str = "") -> StorageError:
    """The error for a folder that cannot be written, by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"No space left for {path}, {when}free some and give the same command again: it resumes from there."
        )
    return StorageError(
        f"{path} cannot be written ({error.strerror or error}): "
        f"{'make it writable' if os.path.exists(path) else 'choose another folder with --out'}."
    )


def damaged(path: Path, part: str) -> StorageError:
    """The error for a finished run, of which a part cannot be read."""
    return StorageError(
        f"{path} is damaged or was copied in part, {part} cannot be read: copy it again, or remove it and run again."
    )


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
IMPATIENT = 5.0
"""Seconds during which a further signal is ignored, so that the command can end in order; a later one ends it at once."""


class _State:
    process = 0
    working = False
    number: int | None = None
    since = 0.0


def watch_signals() -> None:
    """Handles the signals for the rest of this process. Outside `working` a signal ends it at once, since there is nothing to keep."""
    _State.process = os.getpid()
    for number in SIGNALS:
        # What its parent ignores, as `nohup` does SIGHUP, it ignores too.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    _end_with_reader(True)
    sys.unraisablehook = _on_unraisable


@contextlib.contextmanager
def working() -> Generator[None]:
    """Within this context a signal raises `Stopped`, so that finished work is kept and reported."""
    before, _State.working = _State.working, True
    _end_with_reader(False)
    try:
        yield
    finally:
        _State.working = before
        _end_with_reader(not before)


def _end_with_reader(ends: bool) -> None:
    """Whether this process ends, in silence and as other tools do, when whoever reads its output is gone (`| head`).

    Not while it works: what its workers and libraries write to is not for them to end it by.
    """
    if os.getpid() == _State.process and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL if ends else signal.SIG_IGN)


def stop_requested() -> bool:
    """Whether a signal has asked this process to stop."""
    return _State.number is not None


def exit_status() -> int:
    """The exit status of an interrupted command: 128 plus the number of the signal, as in shells."""
    return 128 + (_State.number or signal.SIGINT)


def end_if_stopped(status: Any) -> None:
    """Ends this process with that status where a signal has asked it to stop and all is kept and said.

    What Python does at its end may take long, and a further signal there has another status.
    """
    if stop_requested() and isinstance(status, int):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.flush()
        os._exit(status)


def _on_signal(number: int, _: object) -> None:
    if os.getpid() != _State.process:
        _in_worker(number)
    elif _State.number is None:
        _State.number, _State.since = number, time.monotonic()
        if _State.working:
            raise Stopped
        # `print` may be what was interrupted.
        with contextlib.suppress(OSError):
            os.write(2, b"\ndiagnostics: Interrupted.\n")
        os._exit(exit_status())
    elif time.monotonic() - _State.since > IMPATIENT:
        os._exit(exit_status())


def _in_worker(number: int) -> None:
    """In a process forked from this one, a signal ends it at once and in silence.

    An exception would be printed where it arrives before the worker's own code, as in a library's hook after a fork. The status is 0 at
    Ctrl-C, as that of torch's workers: its parent, which a terminal signals too, takes another one for a crash.
    """
    if number == signal.SIGINT:
        os._exit(0)
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _on_unraisable(unraisable: Any) -> None:
    """Repeats a signal that arrived in a finaliser or a callback, where an exception cannot be raised."""
    number = _State.number
    if number is None or not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return
    _State.number = None
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


@contextlib.contextmanager
def stoppable() -> Generator[None]:
    """Within this context Ctrl-C raises `Stopped`, also in a program that imports the package as a library."""

    def stop(*_: object) -> NoReturn:
        raise Stopped

    with _swap_handler(signal.SIGINT, stop, lambda before: before is signal.default_int_handler):
        yield


@contextlib.contextmanager
def hold_worker_ends() -> Generator[Callable[[], AbstractContextManager[None]]]:
    """Within this context torch hears of a worker's end only while a batch is waited for, in the context that is handed over.

    Its handler of SIGCHLD raises wherever this process is at that moment: in an encoder's pass, which then seems to have failed,
    while a store is written, or in a `__del__`, where the error is lost. torch sets it when the first workers start, in the main thread
    alone.
    """
    handler: Any = signal.getsignal(signal.SIGCHLD)
    now = missed = False

    def hold(number: int, frame: Any) -> None:
        nonlocal missed
        if now:
            handler(number, frame)
        else:
            missed = True

    @contextlib.contextmanager
    def waiting() -> Generator[None]:
        nonlocal now, missed
        try:
            now = True
            # torch hears at once of an end that came before.
            if missed:
                missed = False
                handler(signal.SIGCHLD, None)
            yield
        finally:
            now = False

    with _swap_handler(signal.SIGCHLD, hold, callable):
        yield waiting


@contextlib.contextmanager
def _swap_handler(number: int, handler: Callable[..., None], where: Callable[[Any], bool]) -> Generator[None]:
    """A handler for a while, in the main thread and where the one before it is such a one."""
    before = signal.getsignal(number)
    ours = where(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(number, before)
