"""Options of commands.

Each is declared once, as a field of its job, a frozen dataclass of which the command is made.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


TYPED = (bool, str, int, float, Path)
"""Types that a command line gives, in the order in which one of a union is chosen."""


@dataclass(frozen=True)
class Option:
    """An option of a command, as the annotation of a field.

    `steps: Annotated[int, Option("Training steps.", "N")] = 1000`.

    help: without it, the field is for Python alone and no command has it.
    value: what its value stands for in the help.
    names: how it is typed, where that is not the field's name; an argument has none.
    group: heading below which the help shows it.
    decides: whether it changes a number of the result by more than rounding, so that what was made with another value
    is
        not resumed.
    argument: whether it is typed by its place alone.
    complete: what a shell offers for what was typed so far.
    """

    help: str = ""
    value: str | None = None
    names: tuple[str, ...] = ()
    group: str | None = None
    decides: bool = True
    argument: bool = False
    complete: Callable[[str], list[str]] | None = None

    @property
    def flag(self) -> str:
        """Its name as it is typed, with its dashes, as `--batch-size`; "" for an argument."""
        return self.names[0].partition("/")[0] if self.names else ""


def options(job: type[DataclassInstance]) -> dict[str, Option]:
    """Options of the command that is made of a job, by field, in order, with all their names."""
    return {name: option for name, (_, option) in _declarations(job).items() if option.help}


def deciding(job: type[DataclassInstance]) -> list[str]:
    """Fields of a job by which its result is known: all but those whose `Option` says that they do not decide."""
    apart = {name for name, (_, option) in _declarations(job).items() if not option.decides}
    return [each.name for each in fields(job) if each.name not in apart]


def options_of(job: type[DataclassInstance] | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function: the job's options, then those of its own parameters.

    These stand behind the first, which is the job.

    Without a job it has the options of all its parameters.

    Text stands for a type that only Python can give (of `str | Encoder`, the command line gives a `str`).

    Examples:
        >>> from dataclasses import dataclass
        >>> from typing import Annotated
        >>> from diagnostics.options import Option, options_of
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Greeting:
        ...     name: Annotated[str, Option("Who is greeted.")] = "you"
        >>> @options_of(Greeting)
        ... def greet(job: Greeting, loud: Annotated[bool, Option("Shout.", names=("--loud",))] = False):
        ...     print(f"HELLO {job.name}" if loud else f"Hello {job.name}")
        >>> greet(name="her", loud=True)
        HELLO her
    """
    ours = {name: row for name, row in _declarations(job).items() if row[1].help} if job else {}

    def command_of(act: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(act).parameters.values())[job is not None :]
        hints = hints_of(act)
        rows = ours | {each.name: _read(each.name, hints[each.name]) for each in own}
        typed = {name: kind if option is None else _annotation(kind, option) for name, (kind, option) in rows.items()}

        @functools.wraps(act)
        def command(**given: Any) -> None:
            asked = {name: given.pop(name) for name in ours if name in given}
            lists = {name: tuple(value) for name, value in asked.items() if isinstance(value, list)}
            act(*([job(**asked | lists)] if job else ()), **given)

        empty, keyword = inspect.Parameter.empty, inspect.Parameter.KEYWORD_ONLY
        defaults = {each.name: each.default for each in (*(fields(job) if job else ()), *own)}
        # pyrefly: ignore[missing-attribute]
        command.__signature__ = inspect.Signature(
            [
                inspect.Parameter(
                    name, keyword, annotation=hint, default=empty if defaults[name] is MISSING else defaults[name]
                )
                for name, hint in typed.items()
            ]
        )
        command.__annotations__ = typed
        return command

    return command_of


def hints_of(of: Any) -> dict[str, Any]:
    """Annotations of a function, or of a class and its bases, as types.

    A class that nothing else is stands for each that is imported for type checkers alone.
    """

    class OfPython(metaclass=_Unknown):
        pass

    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(of, localns=unknown, include_extras=True)
        except NameError as error:
            unknown[str(error.name)] = OfPython


class _Unknown(type):
    def __getattr__(cls, name: str) -> type:
        return cls


def _declarations(job: type[DataclassInstance]) -> dict[str, tuple[Any, Option]]:
    """Field -> its type and `Option`, of those that have one."""
    hints = hints_of(job)
    rows = {each.name: _read(each.name, hints[each.name]) for each in fields(job)}
    return {name: (kind, option) for name, (kind, option) in rows.items() if option is not None}


def _read(name: str, hint: Any) -> tuple[Any, Option | None]:
    """Type and `Option` of an annotation, the latter with all its names."""
    kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    option = next((one for one in notes if isinstance(one, Option)), None)
    if option is None:
        return hint, None
    if option.names or option.argument:
        return kind, option
    flag = name.replace("_", "-")
    return kind, replace(option, names=(f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",))


def _annotation(kind: Any, option: Option) -> Any:
    """As typer reads it."""
    import typer

    more: Any = {
        "help": option.help,
        "metavar": option.value,
        "rich_help_panel": option.group,
        "autocompletion": option.complete,
    }
    # pyrefly: ignore[invalid-annotation]
    return Annotated[_kind(kind), typer.Argument(**more) if option.argument else typer.Option(*option.names, **more)]


def _kind(kind: Any) -> Any:
    """The type that a command line gives for one of Python."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    several = next((get_args(one)[0] for one in parts if get_origin(one) in (list, tuple)), None)
    if several is not None and str not in parts:
        return list[several]
    chosen = next((one for one in (*TYPED, *parts) if one in parts and _is_typed(one)), str)
    return chosen | None if NoneType in parts else chosen


def _is_typed(kind: Any) -> bool:
    return kind in TYPED or (isinstance(kind, type) and issubclass(kind, Enum))


def decode(kind: Any, value: Any) -> Any:
    """A value of JSON as the type that an annotation names: a dataclass of a mapping, a tuple of a list.

    Of a mapping, keys that the dataclass does not have are passed over. Raises TypeError, ValueError or KeyError for
    what is of another type, or lacks a field without a default.

    Examples:
        >>> from dataclasses import dataclass
        >>> from diagnostics.options import decode
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     at: tuple[float, float]
        ...     name: str | None = None
        >>> decode(list[Point], [{"at": [1, 2.5]}])
        [Point(at=(1.0, 2.5), name=None)]
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return decode(arguments[0], value)
    if is_dataclass(kind):
        given, hints = decode(dict, value), _cached_hints(kind)
        read = [
            each.name for each in fields(kind) if each.name in given or each.default is each.default_factory is MISSING
        ]
        values: dict[str, Any] = {}
        for name in read:
            try:
                values[name] = decode(hints[name], given[name])
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from error
        return cast("Any", kind)(**values)
    if origin in (list, tuple, Sequence):
        items = decode(list, value)
        kinds = arguments if origin is tuple and ... not in arguments else arguments[:1] * len(items)
        decoded = [decode(*pair) for pair in zip(kinds, items, strict=True)]
        return tuple(decoded) if origin is tuple else decoded
    if origin in (dict, Mapping):
        return {key: decode(arguments[1], item) for key, item in decode(dict, value).items()}
    if origin in (Union, UnionType):
        for each in arguments:
            with contextlib.suppress(TypeError, ValueError, KeyError):
                return decode(each, value)
    if kind is Any or type(value) is kind or (origin is Literal and value in arguments):
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise TypeError(f"{value!r:.60}")


_cached_hints = functools.cache(hints_of)
