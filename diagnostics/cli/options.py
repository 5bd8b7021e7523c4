"""Options that several commands have, and help that groups commands and options and shows an example of each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from diagnostics.registry import EntryKind


def option(value: str | None, help: str, *names: str, panel: str | None = None, **more: Any) -> Any:
    """An option of a command: what its value stands for, its help, how it is typed where that is not the parameter's name, and
    the group of the command's options that it is shown in."""
    return typer.Option(*names, metavar=value, help=help, rich_help_panel=panel, **more)


Json = Annotated[bool, option(None, "Print one JSON object instead of a table.", "--json")]
TrustCode = Annotated[
    bool, option(None, "Allow a saved encoder to run the Python file that builds it.", "--trust-code")
]
Quiet = Annotated[bool, option(None, "Print only the result, without cost and progress.", "--quiet", "-q")]
Verbose = Annotated[
    bool, option(None, "Print each step with its time, and show warnings of libraries.", "--verbose", "-v")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `diagnostics run` wrote.")]


def names_starting(kind: EntryKind) -> Callable[[str], list[str]]:
    """Completion by a shell: what is offered of a kind (`encoder`, `dataset`) and begins as typed."""

    def complete(incomplete: str) -> list[str]:
        from diagnostics.registry import offered

        return sorted(name for name in offered(kind) if name.startswith(incomplete))

    return complete


EncoderName = Annotated[
    str,
    typer.Argument(
        metavar="ENCODER",
        help="A name, scheme:name, path/to/file.py:function, or a saved encoder; `diagnostics list encoders` shows names.",
        autocompletion=names_starting("encoder"),
    ),
]

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


def example(line: str) -> str:
    """The end of a command's help: how it is typed."""
    return f"\b\nExample:\n  {line}"
