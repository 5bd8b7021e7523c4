"""Finding plugins and what they offer: names, schemes, options, and `file.py:function`."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pluggy

from diagnostics import hookspecs
from diagnostics.encoders.trust import building, check_code
from diagnostics.errors import DiagnosticsError, describe, unknown
from diagnostics.stopping import Stopped, apart_from_ctrl_c

GROUP = "diagnostics"
SAVED = "encoder.safetensors"
"""The file in a folder that is an encoder."""
What = Literal["encoder", "dataset", "measure", "command"]


@dataclass
class Plugin:
    """One entry point: what it offers, or why it could not be loaded."""

    name: str
    version: str
    module: str
    error: str = ""
    offers: dict[str, dict[str, Callable[..., Any]]] = field(default_factory=dict[str, dict[str, Callable[..., Any]]])


@functools.cache
def plugins() -> tuple[Plugin, ...]:
    """All plugins by name, bundled ones and strangers' alike; one that fails carries its error and does no other harm."""
    points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
    with apart_from_ctrl_c():
        return tuple(_load(point) for point in points)


def _load(point: importlib.metadata.EntryPoint) -> Plugin:
    version = point.dist.version if point.dist else "unknown"
    plugin = Plugin(point.name, version, point.value)
    # A manager of its own for each plugin, so that what one does wrong stays with it.
    manager = pluggy.PluginManager("diagnostics")
    manager.add_hookspecs(hookspecs)
    try:
        # What it prints would stand among results, or break --json.
        with contextlib.redirect_stdout(sys.stderr):
            manager.register(point.load(), name=point.name)
            manager.check_pending()
            for what in typing.get_args(What):
                plugin.offers[what] = _offered(manager, what)
    except Stopped:
        raise
    except BaseException as error:
        # KeyboardInterrupt and SystemExit too, which would end every command.
        plugin.error = f"{type(error).__name__}: {error}".splitlines()[0]
        plugin.offers = {}
    return plugin


def _offered(manager: pluggy.PluginManager, what: What) -> dict[str, Callable[..., Any]]:
    offered: dict[str, Callable[..., Any]] = {}
    for mapping in getattr(manager.hook, f"{what}s")():
        if not isinstance(mapping, Mapping):
            raise TypeError(f"hook {what}s returned a {type(mapping).__name__}, not a mapping from name to callable")
        for name, make in mapping.items():  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(name, str) or not callable(make):  # pyright: ignore[reportUnknownArgumentType]
                raise TypeError(f"hook {what}s offers {name!r}, which is not a name with something callable")
            offered[name] = make
    return offered


def offered(what: What) -> dict[str, tuple[Plugin, Callable[..., Any]]]:
    """Name -> (plugin, callable) over all plugins; a name that two of them claim raises when it is asked for."""
    found: dict[str, tuple[Plugin, Callable[..., Any]]] = {}
    for plugin in plugins():
        for name, make in plugin.offers.get(what, {}).items():
            if name in found:
                make = _claimed_twice(what, name, found[name][0], plugin)
            found[name] = (plugin, make)
    return found


def _claimed_twice(what: What, name: str, first: Plugin, second: Plugin) -> Callable[..., Any]:
    def refuse() -> None:
        raise DiagnosticsError(
            f"Plugins {first.name} and {second.name} both offer the {what} '{name}': uninstall one of them."
        )

    setattr(refuse, "claimed_twice", True)  # noqa: B010  (known to `call`, which otherwise looks at the options first)
    return refuse


def build(what: Literal["encoder", "dataset"], spec: str, *, trust_code: bool = False, named_by: str = "") -> Any:
    """The encoder or dataset that a specification names.

    `name`, `scheme:rest` or `path/to/file.py:function`, each with options as in `lorenz?n=800&seed=3`; an encoder also by
    the folder or file that `save_encoder` wrote.

    Parameters
    ----------
    trust_code: whether a Python file that a saved encoder names may be run; one that `spec` itself names is run anyway.
    named_by: the file in which `spec` stands, where the user did not give it.
    """
    name, _, query = spec.partition("?")
    options = _options(spec, query)
    with building(spec, named_by, trust_code):
        owner, make, args = _find(what, name)
        built = call(make, args, options, owner, what)
    expected = _expected(what)
    if not isinstance(built, expected):
        raise DiagnosticsError(
            f"{owner} gave a {type(built).__name__} for '{spec}', not a diagnostics.{expected.__name__}."
        )
    return built.replace(spec=spec) if what == "encoder" else built


def _options(spec: str, query: str) -> dict[str, str]:
    from urllib.parse import unquote

    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise DiagnosticsError(f"Options of '{spec}' cannot be read: write them as ?key=value&key=value.")
        if key in options:
            raise DiagnosticsError(f"Option {key} is given twice in '{spec}': keep one of the two.")
        options[key] = unquote(value)
    return options


def _expected(what: Literal["encoder", "dataset"]) -> type:
    if what == "encoder":
        from diagnostics.encoders.encoder import Encoder

        return Encoder
    from diagnostics.datasets.dataset import Dataset

    return Dataset


def _find(what: Literal["encoder", "dataset"], name: str) -> tuple[str, Callable[..., Any], tuple[str, ...]]:
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return path, _from_file(Path(path), function), ()
    known = offered(what)
    if name in known and not name.endswith(":"):
        plugin, make = known[name]
        return f"Plugin {plugin.name}", make, ()
    scheme, colon, rest = name.partition(":")
    if colon and scheme + colon in known:
        plugin, make = known[scheme + colon]
        return f"Plugin {plugin.name}", make, (rest,)
    if what == "encoder" and (name.endswith(".safetensors") or os.path.isfile(os.path.join(name, SAVED))):
        return name, _saved, (name,)
    if what == "encoder" and os.path.isdir(name):
        raise _no_encoder_in(Path(name))
    broken = [f"plugin {p.name} could not be loaded ({p.error})" for p in plugins() if p.error]
    other = "path/to/file.py:function" + (", or a folder with a saved encoder" if what == "encoder" else "")
    hint = f"Or {other}; `diagnostics list` shows all{'; ' + '; '.join(broken) if broken else ''}."
    if name.endswith(".py"):
        hint = f"To use a file, name the function in it: {name}:build."
    raise unknown(what, name, known, hint)


def _saved(path: str) -> Any:
    """Without the option of `load_encoder`, which no name may set."""
    from diagnostics.encoders.files import load_encoder

    return load_encoder(path)


def _no_encoder_in(folder: Path) -> DiagnosticsError:
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SAVED}"))
    if inside:
        more = ", ..." if len(inside) > 6 else ""
        return DiagnosticsError(
            f"Folder {folder} holds several encoders: name one of {', '.join(inside[:6])}{more} in it."
        )
    if (folder / "checkpoint.safetensors").is_file():
        return DiagnosticsError(
            f"Folder {folder} holds a checkpoint and no {SAVED}, so its training is not finished: give the command that began it "
            "again, which goes on from there."
        )
    return DiagnosticsError(
        f"Folder {folder} holds no {SAVED}, so it is no saved encoder: a checkpoint directory of transformers is hf:{folder}."
    )


def _from_file(path: Path, function: str) -> Callable[..., Any]:
    check_code(path)
    if not path.is_file():
        raise DiagnosticsError(f"There is no file {path}: give the path of a Python file as path/to/file.py:function.")
    spec = importlib.util.spec_from_file_location(f"_diagnostics_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As when the file is run: it may import its neighbours, and its classes can be found by name.
    sys.modules[spec.name] = module
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DiagnosticsError(f"{path} could not be run: {describe(error)}") from error
    make = getattr(module, function, None)
    if not callable(make):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise unknown(f"function in {path}:", function, functions)
    return make


def call(make: Callable[..., Any], args: tuple[str, ...], options: Mapping[str, str], owner: str, what: str) -> Any:
    """`make(*args, **options)` with the options' text turned into what the annotations ask for."""
    if hasattr(make, "claimed_twice"):
        make()
    signature = inspect.signature(make)
    known = [
        parameter.name
        for parameter in list(signature.parameters.values())[len(args) :]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    converted: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            raise unknown(f"option of this {what}", key, known)
        converted[key] = _convert(key, text, _annotation(make, key))
    try:
        return make(*args, **converted)
    except DiagnosticsError:
        raise
    except (Exception, SystemExit) as error:
        raise DiagnosticsError(f"{owner} failed to make the {what}: {describe(error)}") from error


def _annotation(make: Callable[..., Any], key: str) -> Any:
    """What an option should become; text where nothing is said or only a type checker can read it."""
    function: Any = make.func if isinstance(make, functools.partial) else make
    function = function.__init__ if isinstance(function, type) else function
    written = {key: getattr(function, "__annotations__", {}).get(key, str)}
    try:
        # One by one: that of another, or of the return value, may name what is imported for type checkers alone.
        holder = types.SimpleNamespace(__annotations__=written)
        return typing.get_type_hints(holder, getattr(function, "__globals__", None))[key]
    except Exception:
        return str


def _convert(key: str, text: str, hint: Any) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if types.NoneType in choices and text.lower() in ("none", ""):
        return None
    for kind in choices:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    if str in choices or not set(choices) & {int, float, bool}:
        return text
    wanted = " or ".join(kind.__name__ for kind in choices if kind is not types.NoneType)
    raise DiagnosticsError(f"Option {key}={text} is not {wanted}.")
