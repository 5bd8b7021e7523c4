"""`run --config FILE.toml`: options of the command in a file; those on the command line win."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from diagnostics.cli.guard import guarded
from diagnostics.errors import DiagnosticsError

CONFIG = "diagnostics.config"
"""Key of a context's `meta`: what the file said, by option."""


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Callback of the option: the file's values become the defaults of the command's other options."""
    if path is not None and not context.resilient_parsing:
        guarded(_take)(context, path)
    return path


def _take(context: typer.Context, path: Path) -> None:
    command: Any = context.command
    params = {param.name: param for param in command.params if param.name not in ("config", "help")}
    names = {_name(param): key for key, param in params.items()}
    text = _text(path)
    values = _parsed(path, text)
    if strange := [key for key in values if _spelt(key) not in names]:
        told = ", ".join(f"'{key}' in line {_line(text, key)}{_nearest(key, names)}" for key in strange)
        raise DiagnosticsError(
            f"{path} has options that this command does not have: {told}. Correct or remove it; `diagnostics run --help` lists all."
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DiagnosticsError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error
    except OSError as error:
        raise DiagnosticsError(f"{path} cannot be read ({error.strerror or error}): name a file of TOML.") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DiagnosticsError(
            f'{path} is not valid TOML ({error}): write a line for each option, as data = "digits".'
        ) from error


def _line(text: str, key: str) -> int:
    """The line that a key stands in, counted from 1; 1 where it cannot be seen."""
    written = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if written.match(line)), 1)


def _valid(value: Any, param: Any, where: str) -> Any:
    """What the command line would have given; its own types are checked there."""
    if getattr(param, "is_flag", False):
        if isinstance(value, bool):
            return value
        raise DiagnosticsError(f"Option {where} is true or false, not {value!r}.")
    several = param.metavar == "NAMES"
    if several and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        of_names = " or a list of names" if several else ""
        raise DiagnosticsError(f"Option {where} is a text or a number{of_names}, not {type(value).__name__}.")
    return str(value)
