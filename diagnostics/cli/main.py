"""Entry of the command line: the bundled commands, those of plugins, and the options before any command."""

import os
import sys
from typing import Annotated, Any

import typer

import diagnostics
from diagnostics.cli import commands as commands  # its commands are in the app once it is imported
from diagnostics.cli.app import RUNS, Command, app, guard, hush_libraries, say, show_tracebacks
from diagnostics.registry import plugin_entries, plugins
from diagnostics.report.escaping import printable


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error was raised; goes before the command.")
    ] = False,
) -> None:
    show_tracebacks(traceback)
    if version:
        print(diagnostics.__version__)
        raise typer.Exit


def _bundled() -> dict[str, Any]:
    """Name -> group of the bundled commands."""
    commands = app.registered_commands
    return {each.name or each.callback.__name__: each.rich_help_panel for each in commands if each.callback}


def _add_plugin_commands() -> None:
    """Register the commands of plugins.

    A name of two words is one of a group: `train objectives` of `diagnostics train`.
    """
    taken = _bundled()
    commands = plugin_entries("command")
    groups: dict[str, typer.Typer] = {}
    for name, (plugin, command) in commands.items():
        first, _, rest = name.partition(" ")
        # A command of that name, built in or a plugin's, hides a group.
        if first in taken or (rest and first in commands):
            continue
        if rest and first not in groups:
            members = ", ".join(sorted(other for other in commands if other.startswith(f"{first} ")))
            groups[first] = typer.Typer(
                no_args_is_help=True, rich_markup_mode=None, help=f"Commands of plugins: {members}."
            )
            app.add_typer(groups[first], name=first)
        (groups[first] if rest else app).command(rest or name, cls=Command)(guard(command.make, plugin.name))


def main() -> None:
    """The command line in a process that is ready for it: see `__main__`."""
    # Threads that wait for each other would otherwise spin: on a shared machine that doubles a run's CPU time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    hush_libraries()
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    # Those for finished runs read what is on disk, without any plugin but for its rules, and none has their name.
    if command == "choose" or _bundled().get(command) != RUNS:
        for plugin in plugins():
            if plugin.error:
                say(f"plugin {plugin.name} {plugin.version} could not be loaded ({plugin.error}); the others work.")
        _add_plugin_commands()
    try:
        sys.exit(app(prog_name="diagnostics", standalone_mode=False) or 0)
    except Exception as error:
        usage: Any = error
        if not hasattr(error, "show"):
            raise
        # It quotes what was typed, and a shell's pattern may have typed any file's name.
        usage.message = "\n".join(map(printable, usage.message.split("\n")))
        usage.show()
        sys.exit(usage.exit_code)
