"""The app, options that several commands have, and help that groups commands and options and shows an example of each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from diagnostics.cli.guard import guarded
from diagnostics.options import Option, options_of
from diagnostics.runs.request import ENCODER

Json = Annotated[bool, Option("Print one JSON object instead of a table.", names=("--json",))]
Quiet = Annotated[bool, Option("Print only the result, without cost and progress.", names=("--quiet", "-q"))]
Verbose = Annotated[
    bool, Option("Print each step with its time, and show warnings of libraries.", names=("--verbose", "-v"))
]
RunFolder = Annotated[Path, Option("Folder that `diagnostics run` wrote.", "RUN", argument=True)]
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
    """A command whose help shows its options by what they are for (`rich_help_panel`), and its example as it is typed."""

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
    group: str, example: str, job: type | None = None, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function to the commands, of a group of them and with its example, with the options of its job and its own."""

    def add(act: Callable[..., None]) -> Callable[..., None]:
        epilog = f"\b\nExample:\n  {example}"
        return app.command(name, cls=Command, rich_help_panel=group, epilog=epilog)(guarded(options_of(job)(act)))

    return add
