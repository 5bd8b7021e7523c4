"""Writes a section for each option that `docs/reference/cli.md` lacks, and removes those of options that are gone: `python docs/cli.py`.

A new section says what the option's help says. Text that is there stays.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main

from diagnostics.cli.main import app

PAGE = Path(__file__).parent / "reference" / "cli.md"


def commands() -> dict[str, Any]:
    """The bundled commands by name."""
    whole: Any = typer.main.get_command(app)
    # Another caller may have added the commands of plugins.
    own = {
        one.name or one.callback.__name__
        for one in app.registered_commands
        if one.callback and one.callback.__module__.startswith("diagnostics.cli.")
    }
    return {name: command for name, command in whole.commands.items() if name in own}


def option_headings(command: Any) -> dict[str, str]:
    """Heading -> help of each option of a command that is typed with two dashes."""
    found: dict[str, str] = {}
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help":
            names = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]
            found[f"`{' / '.join(names)}{f' {param.metavar}' if param.metavar else ''}`"] = param.help or ""
    return found


def corrected(page: str) -> str:
    """The page with a section for every option of every command, and for no other."""
    head, *parts = re.split(r"^(?=## )", page, flags=re.M)
    known = commands()
    for number, part in enumerate(parts):
        name = re.match(r"## `diagnostics ([\w-]+)", part)
        if name is None or name[1] not in known:
            continue
        wanted = option_headings(known[name[1]])
        intro, *sections = re.split(r"^(?=### )", part, flags=re.M)
        there = [(re.findall(r"`([^`]+)`", section.partition("\n")[0]), section) for section in sections]
        flags = {heading.strip("`").split()[0]: heading for heading in wanted}
        kept = [(names, section) for names, section in there if any(one.split()[0] in flags for one in names)]
        documented = {one.split()[0] for names, _ in kept for one in names}
        for flag, heading in flags.items():
            if flag not in documented:
                kept.append(([flag], f"### {heading}\n\n{wanted[heading]}\n\n"))
        parts[number] = intro + "".join(section for _, section in kept)
    return head + "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(corrected(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
