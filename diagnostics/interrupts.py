"""Signals: Ctrl-C, SIGTERM, SIGHUP, and an output that nobody reads end a command in order, without a traceback.

Ctrl-C passes through the import of plugins, and the end of a worker is heard of only while a batch is waited for.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from diagnostics.errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
IMPATIENT = 5.0
"""Seconds during which a further signal is ignored, so that the command can end in order; a later one ends it at
once.
"""


class _State:
    process = 0
    working = False
    number: int | None = None
    since = 0.0


def watch_signals() -> None:
    """Handle the signals for the rest of this process.

    Outside `working` a signal ends it at once, since there is nothing to keep.
    """
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
    """Set whether this process ends when whoever reads its output is gone (`| head`).

    It does so in silence and as other tools do.

    Not while it works: what its workers and libraries write to is not for them to end it by.
    """
    if os.getpid() == _State.process and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL if ends else signal.SIG_IGN)


def stop_requested() -> bool:
    """True if a signal has asked this process to stop."""
    return _State.number is not None


def exit_status() -> int:
    """The exit status of an interrupted command: 128 plus the number of the signal, as in shells."""
    return 128 + (_State.number or signal.SIGINT)


def end_if_stopped(status: Any) -> None:
    """End this process with that status where a signal has asked it to stop and all is kept and said.

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

    An exception would be printed where it arrives before the worker's own code, as in a library's hook after a fork.
    The status is 0 at Ctrl-C, as that of torch's workers: its parent, which a terminal signals too, takes another one
    for a crash.
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
    """A context in which torch hears of a worker's end only while a batch is waited for.

    That wait is the context that is handed over.

    Its handler of SIGCHLD raises wherever this process is at that moment: in an encoder's pass, which then seems to
    have failed, while a store is written, or in a `__del__`, where the error is lost. torch sets it when the first
    workers start, in the main thread alone.
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
