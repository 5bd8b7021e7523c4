"""What surrounds every command: errors as one sentence, exit statuses, interrupts, and stdout reserved for results."""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import typer

from diagnostics import signals
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.report.escaping import printable

if TYPE_CHECKING:
    from diagnostics.progress import Watch


@contextlib.contextmanager
def working(quiet: bool = False, verbose: bool = False) -> Generator[Watch]:
    """The work of a command: progress is shown, anything printed goes to stderr, and signals interrupt it.

    `quiet`: no progress. `verbose`: each step with its time, and what libraries warn of and log.
    """
    from diagnostics.report.progress_bars import watcher

    if quiet and verbose:
        raise DiagnosticsError("Both --quiet and --verbose are given: leave one of them out.")
    with (
        signals.working(),
        contextlib.redirect_stdout(sys.stderr),
        _heard() if verbose else contextlib.nullcontext(),
        watcher(quiet, verbose) as watch,
    ):
        yield watch


@contextlib.contextmanager
def _heard() -> Generator[None]:
    import logging
    import warnings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def hush_libraries() -> None:
    """For the rest of this process, warnings of libraries are not shown, unless Python was told to show them; --verbose does."""
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # This package's own are for its users.
        warnings.filterwarnings("default", module=r"diagnostics")


def guarded(command: Callable[..., None], plugin: str = "") -> Callable[..., None]:
    """The command, with an error that a user can cause reported in one sentence and exit status 2, and after a signal status
    128 and its number (130 after Ctrl-C).

    Every error of a plugin's command is reported so.
    """

    @functools.wraps(command)
    def guard(*args: Any, **kwargs: Any) -> None:
        try:
            with signals.working() if plugin else contextlib.nullcontext():
                command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            raise _interrupted(str(interrupt)) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if signals.stop_requested():
                # Compiled code may turn an interrupt into an error of its own.
                raise _interrupted("") from None
            if isinstance(error, DiagnosticsError):
                raise _exit_after(str(error), error) from None
            if not plugin:
                raise
            raise _exit_after(f"A command of plugin {plugin} failed: {describe(error)}", error) from None

    return guard


def say(sentence: str) -> None:
    """A sentence for people, on stderr: one line, which a terminal gets broken between words."""
    text = f"diagnostics: {printable(sentence)}"
    if not sys.stderr.isatty():
        # A full disk takes no words.
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr)
        return
    from rich.console import Console

    from diagnostics.report.layout import show

    show(Console(stderr=True, highlight=False), text)


def _interrupted(sentence: str) -> typer.Exit:
    # A terminal that hung up takes no words.
    with contextlib.suppress(OSError):
        print(file=sys.stderr)
        say(sentence or "Interrupted.")
    return typer.Exit(signals.exit_status())


def show_tracebacks(whole: bool) -> None:
    """Whether a command that ends in an error shows where it was raised."""
    _Errors.whole = whole


class _Errors:
    whole = False


def _exit_after(sentence: str, error: BaseException) -> typer.Exit:
    """The exit of a command after its reason is printed: a sentence that quotes an unexpected exception also says how to see
    where that was raised, and `--traceback` shows it.
    """
    if _Errors.whole:
        for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            print(printable(line), file=sys.stderr)
    elif _quotes(sentence, error):
        sentence = f"{sentence.rstrip('.')}; `diagnostics --traceback ...` shows where."
    say(sentence)
    return typer.Exit(2)


def _quotes(sentence: str, error: BaseException | None) -> bool:
    """Whether a sentence quotes an unexpected exception, from anywhere down the chain of causes."""
    while error is not None:
        # What a worker process raised comes as a note, since its traceback cannot be passed on.
        foreign = not isinstance(error, DiagnosticsError)
        if hasattr(error, "__notes__") or (foreign and describe(error) in sentence):
            return True
        error = error.__cause__
    return False
