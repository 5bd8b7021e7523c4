"""The app, and all that surrounds a command.

Errors as one sentence, exit statuses and interrupts, stdout reserved for results; options that several commands have,
and the file of `run --config`; help that groups commands and options and shows an example of each.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from diagnostics import interrupts
from diagnostics.activations.place import Address, locate
from diagnostics.errors import DiagnosticsError, describe, explaining
from diagnostics.options import Option, options_of
from diagnostics.report.escaping import printable
from diagnostics.runs.options import ENCODER

if TYPE_CHECKING:
    from diagnostics.progress import Watch


@contextlib.contextmanager
def working(quiet: bool = False, verbose: bool = False) -> Generator[Watch]:
    """The work of a command: progress is shown, anything printed goes to stderr, and signals interrupt it.

    `quiet`: no progress. `verbose`: each step with its time, and what libraries warn of and log.
    """
    from diagnostics.report.progress_bars import watcher

    if quiet and verbose:
        raise DiagnosticsError("Both --quiet and --verbose are given: leave one of them out.", code="conflict")
    with (
        interrupts.working(),
        contextlib.redirect_stdout(sys.stderr),
        _listen() if verbose else contextlib.nullcontext(),
        watcher(quiet, verbose) as watch,
    ):
        yield watch


@contextlib.contextmanager
def _listen() -> Generator[None]:
    import logging
    import warnings

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def hush_libraries() -> None:
    """For the rest of this process, warnings of libraries are not shown, unless Python was told to show them.

    --verbose does.
    """
    import warnings

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        # This package's own are for its users.
        warnings.filterwarnings("default", module=r"diagnostics")


LOCAL = "give a folder or a file"
"""What to do where a command reads and writes on local disks alone, and is given the address of an object store."""


def guard(command: Callable[..., None], plugin: str = "", local: str = LOCAL) -> Callable[..., None]:
    """The command, with an error that a user can cause reported in one sentence and exit status 2.

    After a signal the status is 128 and its number (130 after Ctrl-C).

    Every error of a plugin's command is reported so. `local`: as `LOCAL`; "" for a command that takes addresses.
    """

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            with interrupts.working() if plugin else contextlib.nullcontext():
                command(*args, **{name: _place_of(value, local) for name, value in kwargs.items()})
        except KeyboardInterrupt as interrupt:
            raise _exit_interrupted(str(interrupt)) from None
        except BrokenPipeError:
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if interrupts.stop_requested():
                # Compiled code may turn an interrupt into an error of its own.
                raise _exit_interrupted("") from None
            if isinstance(error, DiagnosticsError):
                raise _exit_after(str(error), error) from None
            if not plugin:
                raise
            raise _exit_after(f"A command of plugin {plugin} failed: {describe(error)}", error) from None

    return call


def _place_of(value: Any, local: str) -> Any:
    """A path of an option, or the address that was typed in its place."""
    if isinstance(value, list):
        return [_place_of(each, local) for each in value]
    if not isinstance(value, Path):
        return value
    if isinstance(place := locate(value), Address) and local:
        raise DiagnosticsError(
            f"{place} is in a bucket, and this command reads and writes on local disks alone: {local}.",
            code="unsupported",
        )
    return place


def say(sentence: str) -> None:
    """A sentence for people, on stderr: one line, which a terminal gets broken between words."""
    text = f"diagnostics: {printable(sentence)}"
    if not sys.stderr.isatty():
        # Where stderr is a file on a full disk, writing fails.
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr)
        return
    from rich.console import Console

    from diagnostics.report.layout import show

    show(Console(stderr=True, highlight=False), text)


def _exit_interrupted(sentence: str) -> typer.Exit:
    # Writing to a terminal that hung up fails.
    with contextlib.suppress(OSError):
        print(file=sys.stderr)
        say(sentence or "Interrupted.")
    return typer.Exit(interrupts.exit_status())


def show_tracebacks(whole: bool) -> None:
    """Set whether a command that ends in an error shows where it was raised."""
    _Errors.whole = whole


class _Errors:
    whole = False


def _exit_after(sentence: str, error: BaseException) -> typer.Exit:
    """The exit of a command after its reason is printed.

    A sentence that quotes an unexpected exception also says how to see where that was raised, and `--traceback` shows
    it.
    """
    if _Errors.whole:
        for line in "".join(traceback.format_exception(error)).rstrip().split("\n"):
            print(printable(line), file=sys.stderr)
    elif _quotes(sentence, error):
        sentence = f"{sentence.rstrip('.')}; `diagnostics --traceback ...` shows where."
    say(sentence)
    return typer.Exit(error.status if isinstance(error, DiagnosticsError) else 2)


def _quotes(sentence: str, error: BaseException | None) -> bool:
    """True if a sentence quotes an unexpected exception, from anywhere down the chain of causes."""
    while error is not None:
        # What a worker process raised comes as a note, since its traceback cannot be passed on.
        foreign = not isinstance(error, DiagnosticsError)
        if hasattr(error, "__notes__") or (foreign and describe(error) in sentence):
            return True
        error = error.__cause__
    return False


Json = Annotated[bool, Option("Print one JSON object instead of a table.", names=("--json",))]
Quiet = Annotated[bool, Option("Print only the result, without cost and progress.", names=("--quiet", "-q"))]
Verbose = Annotated[
    bool, Option("Print each step with its time, and show warnings of libraries.", names=("--verbose", "-v"))
]
RunFolder = Annotated[Path, Option("Folder that `diagnostics run` wrote, or s3://BUCKET/PREFIX.", "RUN", argument=True)]
EncoderName = Annotated[str, ENCODER]

MEASURE, RUNS, OWN = "to measure encoders", "for finished runs", "for your own encoders and plugins"
TYPED = "diagnostics.typed"
"""Key of a context's `meta`: the command line as it was typed."""
OTHERS = "of plugins"


class Commands(TyperGroup):
    """The commands, by what they are for (`rich_help_panel`); a plugin's stand last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta.setdefault(TYPED, shlex.join(["diagnostics", *args]))
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                groups.setdefault(panel if isinstance(panel, str) else OTHERS, []).append((name, command))
        # One column for all names.
        widest = max(len(name) for rows in groups.values() for name, _ in rows)
        for panel in sorted(groups, key=lambda panel: panel == OTHERS):
            # The first sentence, on as many lines as it takes.
            rows = [(name.ljust(widest), command.get_short_help_str(200)) for name, command in groups[panel]]
            with formatter.section(f"Commands {panel}"):
                formatter.write_dl(rows)


class Command(TyperCommand):
    """A command whose help shows its options by what they are for, and its example as it is typed.

    What they are for is their `rich_help_panel`.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panel = "Arguments" if param.param_type_name == "argument" else None
                own = getattr(param, "rich_help_panel", None)
                groups.setdefault(panel or (own if isinstance(own, str) else "Options"), []).append(record)
        # What has no name of its own comes last, and with it --help.
        for panel in sorted(groups, key=lambda panel: panel == "Options"):
            with formatter.section(panel):
                formatter.write_dl(groups[panel])


app = typer.Typer(
    help="Which layer of an encoder should I use for my task, and what does the output hide?",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def command(
    group: str, example: str, job: type | None = None, name: str | None = None, *, local: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to the commands, of a group of them and with its example.

    It has the options of its job and its own.

    `local`: as in `guard`.
    """

    def add(act: Callable[..., None]) -> Callable[..., None]:
        epilog = f"\b\nExample:\n  {example}"
        made = guard(options_of(job)(act), local=local)
        return app.command(name, cls=Command, rich_help_panel=group, epilog=epilog)(made)

    return add


CONFIG = "diagnostics.config"
"""Key of a context's `meta`: what the file said, by option."""


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of the option: the file's values become the defaults of the command's other options."""
    if path is not None and not context.resilient_parsing:
        guard(_take)(context, path)
    return path


def _take(context: typer.Context, path: Path) -> None:
    command: Any = context.command
    params = {param.name: param for param in command.params if param.name not in ("config", "help")}
    names = {_name(param): key for key, param in params.items()}
    text, values = _read(path)
    if strange := [key for key in values if _spelt(key) not in names]:
        told = ", ".join(f"'{key}' in line {_line(text, key)}{_nearest(key, names)}" for key in strange)
        raise DiagnosticsError(
            f"{path} has options that this command does not have: {told}. Correct or remove it; `diagnostics run "
            f"--help` lists all.",
            code="unknown-name",
        )
    for key, value in values.items():
        name = names[_spelt(key)]
        valid = _valid(value, params[name], f"{key} in line {_line(text, key)} of {path}")
        context.default_map = {**(context.default_map or {}), name: valid}
    context.meta[CONFIG] = values


def _spelt(key: str) -> str:
    return key.replace("_", "-")


def _nearest(key: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(_spelt(key), names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _name(param: Any) -> str:
    """As it is typed, without dashes: `batch-size`, `encoder`."""
    long = [option for option in param.opts if option.startswith("--")]
    return long[0].removeprefix("--") if long else str(param.name).replace("_", "-")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a TOML file, and its values."""
    import tomllib

    with explaining(f"{path} cannot be read", "name a file of TOML in UTF-8", "unreadable", (OSError, ValueError)):
        text = path.read_text(encoding="utf-8")
    with explaining(f"{path} is not valid TOML", 'write a line for each option, as data = "digits"', "unreadable"):
        return text, tomllib.loads(text)


def _line(text: str, key: str) -> int:
    """The line that a key stands in, counted from 1; 1 where it cannot be seen."""
    written = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if written.match(line)), 1)


def _valid(value: Any, param: Any, where: str) -> Any:
    """The value that the command line would have given; its own types are checked there."""
    if getattr(param, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise DiagnosticsError(f"Option {where} is true or false, not {value!r}.", code="bad-type")
    several = param.metavar == "NAMES"
    if several and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        of_names = " or a list of names" if several else ""
        raise DiagnosticsError(
            f"Option {where} is a text or a number{of_names}, not {type(value).__name__}.", code="bad-type"
        )
    return str(value)
