"""Builds encoders and datasets from names: of a plugin, of a function in a Python file, of a saved encoder.

A saved encoder holds the name of what builds it, and that name may name a saved encoder in turn; so both are built
here. Without trust a saved encoder runs no Python file, reads no checkpoint and calls no host. Names are not inspected
for that: each rule is applied at the one place where a Python file is run, options are read, or Python connects to a
host, and context variables record from which saved file the name came.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import inspect
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from diagnostics.errors import DiagnosticsError, explaining, few, name_error, refuse_values
from diagnostics.options import hints_of
from diagnostics.registry import ClaimedTwice, plugin_entries, plugins

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from diagnostics.encoders.encoder import Encoder
    from diagnostics.encoders.saved.files import Description
    from diagnostics.encoders.torch_encoder import TorchEncoder


DEEPEST = 16
"""Names within names; alignments of alignments have a few."""

_naming: ContextVar[tuple[str, ...]] = ContextVar("naming", default=())
_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_depth: ContextVar[int] = ContextVar("depth", default=0)
_not_called: ContextVar[list[str] | None] = ContextVar("not_called", default=None)
_CALLS = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
"""Audit events of calls to other hosts, and of asking where these are."""


class UntrustedCodeError(DiagnosticsError):
    """A saved encoder names a Python file or a checkpoint, which was not read because the user does not trust it."""

    code = "untrusted-code"


@contextmanager
def building(spec: str, named_by: str, trust_code: bool) -> Generator[None]:
    """The context in which the name `spec` is built: given by the user, or found in the saved file `named_by`.

    Raises DiagnosticsError where names are nested too deeply, and where a file is built by itself.
    """
    files = _naming.get()
    if _depth.get() >= DEEPEST:
        raise DiagnosticsError(
            f"'{spec[:80]}' is nested in more than {DEEPEST} names: name the innermost encoder itself.",
            code="too-large",
        )
    own = str(Path(named_by).resolve()) if named_by else ""
    if own in files:
        raise DiagnosticsError(
            f"{named_by} names itself as the encoder that it is built from: save that encoder again.", code="conflict"
        )
    set_naming = _naming.set((*files, own) if own else files)
    set_trusted = _trusted.set(_trusted.get() or trust_code)
    set_depth = _depth.set(_depth.get() + 1)
    try:
        yield
    finally:
        _naming.reset(set_naming)
        _trusted.reset(set_trusted)
        _depth.reset(set_depth)


def trusting() -> bool:
    """True if the user trusts the Python files that saved encoders name, for what is being built now."""
    return _trusted.get()


def check_code(path: Path) -> None:
    """Raise UntrustedCodeError where a saved encoder names this Python file and the user does not trust it."""
    files = _naming.get()
    if files and not _trusted.get():
        raise UntrustedCodeError(
            f"{files[-1]} names the Python file {path}, which would be run: read that file, and give --trust-code "
            "(trust_code=True in Python) if you trust both."
        )


def check_options(options: Mapping[str, str]) -> None:
    """Raise UntrustedCodeError where a saved encoder names a checkpoint.

    Its weights would be replaced by the encoder's own anyway.
    """
    files = _naming.get()
    if files and not _trusted.get() and "checkpoint" in options:
        raise UntrustedCodeError(
            f"{files[-1]} names the checkpoint {options['checkpoint']}, which is not read, since a saved encoder holds "
            f"its own weights: save it again, or give --trust-code (trust_code=True in Python) if you trust both."
        )


@contextmanager
def offline() -> Generator[list[str]]:
    """A context in which no host is called, with the calls that would have been made.

    Only Python's own sockets are stopped, and in this thread: clients of the hub ask through these before anything
    else.
    """
    _stop_calls()
    not_called: list[str] = []
    token = _not_called.set(not_called)
    try:
        yield not_called
    finally:
        _not_called.reset(token)


@functools.cache
def _stop_calls() -> None:
    """From now on, calls inside `offline` are an OSError, as they are without a network. A hook cannot be removed."""

    def stop(event: str, args: tuple[Any, ...]) -> None:
        if event in _CALLS and (not_called := _not_called.get()) is not None:
            not_called.append(event)
            raise ConnectionRefusedError("a saved encoder is built offline")

    sys.addaudithook(stop)


def build(what: Literal["encoder", "dataset"], spec: str, *, trust_code: bool = False, named_by: str = "") -> Any:
    """The encoder or dataset that a specification names.

    `name`, `scheme:rest` or `path/to/file.py:function`, each with options as in `lorenz?n=800&seed=3`; an encoder also
    by the folder or file that `save_encoder` wrote. Every dataset takes `log=TARGET`, or several with commas:
    `log_TARGET`, the natural logarithm, then stands in the target's place.

    Parameters
    ----------
    trust_code: whether a Python file that a saved encoder names may be run; one that `spec` itself names is run anyway.
    named_by: the file in which `spec` stands, where the user did not give it.

    Examples:
        >>> import diagnostics as dx
        >>> dx.build("dataset", "digits?n=300&seed=3")
        <Dataset digits: 300 image samples, targets label>
        >>> dx.build("encoder", "objectives:lorenz-forecast")
        <TorchEncoder lorenz-forecast: series, 9 taps, output norm>
    """
    name, _, query = spec.partition("?")
    options = _options(spec, query)
    with building(spec, named_by, trust_code):
        check_options(options)
        owner, make, args = _find(what, name)
        logs = options.pop("log", "") if what == "dataset" and "log" not in _parameters(make, len(args)) else ""
        build_it = _call_for_encoder if what == "encoder" and owner.endswith(".py") else call
        built = build_it(make, args, options, owner, what)
    expected = _expected(what)
    if not isinstance(built, expected):
        raise DiagnosticsError(
            f"{owner} gave a {type(built).__name__} for '{spec}', not a diagnostics.{expected.__name__}.",
            code="bad-type",
        )
    if what == "encoder":
        return built.replace(spec=spec)
    if not logs:
        return built
    from diagnostics.datasets.dataset import with_logarithms

    return with_logarithms(built, logs.split(","))


def load_encoder(path: str | Path, *, trust_code: bool = False) -> TorchEncoder:
    """The encoder that `save_encoder` wrote into a folder or a file: the same activations, bit for bit.

    `trust_code` lets it be built by the Python file that it names, which is run. Raises DiagnosticsError where it names
    one that is not trusted, and for what is no such file, is damaged, or does not fit what its skeleton builds now.

    Examples:
        >>> import diagnostics as dx
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> file = dx.save_encoder("models/forecast", encoder)
        >>> again = dx.load_encoder("models/forecast")
        >>> again.identity == encoder.identity
        True
    """
    # Imported here, since the names of encoders and datasets must be known before torch is needed.
    from diagnostics.encoders.saved import files
    from diagnostics.encoders.saved.cut import end_at_tap
    from diagnostics.encoders.torch_encoder import TorchEncoder

    file, trust_code = files.encoder_file(path), trust_code or trusting()
    about = files.read_description(file) if file.is_file() else None
    if about is None:
        raise _no_saved_encoder(str(path), file)
    skeleton = about.skeleton
    if about.files:
        skeleton = skeleton.replace(files.FILES, files.unpack_files(json.dumps(about.files), str(file)).name)
    encoder = _build_skeleton(skeleton, file, trust_code)
    if about.cut is not None:
        encoder = end_at_tap(encoder, about.cut, about.absent)
    files.fill(encoder.module, about, file)
    encoder = _as_saved(encoder, encoder.module, about)
    if about.cut is not None and encoder.resizable:
        # What is absent may be needed to see where tokens lie, so a whole one is built for it, and cut in turn.
        def sized_for(sample: np.ndarray) -> Encoder:
            sized = _build_skeleton(skeleton, file, trust_code).sized_for(sample)
            assert isinstance(sized, TorchEncoder)
            assert about.cut is not None
            sized = end_at_tap(sized, about.cut, about.absent)
            # What made it may hold on to its own module: that one then takes no memory beside the loaded one.
            sized.module.load_state_dict(encoder.module.state_dict(), assign=True)
            # Its own way would start from the module from which parts are gone.
            beside = tuple(about.side_by_side)
            return _as_saved(sized, encoder.module, about).replace(sized_for=sized_for, side_by_side=beside)

        encoder = encoder.replace(sized_for=sized_for)
    encoder = encoder.replace(
        spec=str(path),
        skeleton=skeleton,
        lineage=about.lineage,
        configuration=about.configuration,
        side_by_side=tuple(about.side_by_side),
    )
    files.check_prepared(encoder, about, file)
    return encoder


def _as_saved(encoder: TorchEncoder, module: nn.Module, about: Description) -> TorchEncoder:
    """Over the loaded weights, under the saved name.

    It has the saved taps (a skeleton may have heads without weights).
    """
    copy = encoder.with_module(module, about.name).replace(output_tap=about.output_tap)
    return copy.with_taps([copy.tap(name) for name in about.taps])


def _build_skeleton(skeleton: str, file: Path, trust_code: bool) -> TorchEncoder:
    """Build the name in a saved file, with whatever weights."""
    from diagnostics.encoders.saved.files import limit_size
    from diagnostics.encoders.torch_encoder import TorchEncoder

    short = skeleton if len(skeleton) <= 300 else f"{skeleton[:300]}..."
    not_called: list[str] = []
    try:
        with limit_size(), contextlib.nullcontext(not_called) if trust_code else offline() as not_called:
            encoder = build("encoder", skeleton, trust_code=trust_code, named_by=str(file))
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        why = (
            " (a saved encoder is built offline: build that name once by itself, which fetches it, or give "
            "--trust-code)"
        )
        raise DiagnosticsError(
            f"{file} is built by '{short}', which fails here{why if not_called else ''}: {error}",
            code=error.code,
        ) from error
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(
            f"{file} is built by '{short}', which exposes no torch module here: save the encoder again.",
            code="not-savable",
        )
    return encoder


def _no_saved_encoder(path: str, file: Path) -> DiagnosticsError:
    """The error for a path that is no saved encoder, with what plugins know about it."""
    if file.is_file():
        sentence = f"{file} holds tensors alone, and nothing of the encoder that they are of"
    elif not os.path.isdir(path):
        return DiagnosticsError(
            f"There is no file {file}: give a folder or a .safetensors file that `save_encoder` wrote.",
            code="missing-file",
        )
    elif encoders := sorted(inner.parent.name for inner in Path(path).glob(f"*/{file.name}")):
        more = ", ..." if len(encoders) > 6 else ""
        return DiagnosticsError(
            f"Folder {path} holds several encoders: name one of {', '.join(encoders[:6])}{more} in it.",
            code="unclear",
        )
    elif Path(path, "zarr.json").is_file():
        return DiagnosticsError(
            f"{path} is a run: give the name of an encoder, as in the run's command (`diagnostics show --full`).",
            code="unclear",
        )
    else:
        sentence = f"Folder {path} holds no {file.name}, so it is no saved encoder"
    hints: list[str] = []
    for _, entry in plugin_entries("encoder").values():
        # A plugin's failure to explain must not hide what it was asked to explain.
        with contextlib.suppress(Exception):
            hints.append(entry.path_hint(path) if entry.path_hint else "")
    hints = [*filter(None, hints), "or save the encoder with diagnostics.save_encoder"]
    return DiagnosticsError(f"{sentence}: {'; '.join(hints)}.", code="missing-file")


def _options(spec: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        refuse_values(
            (not key or not equals, f"Options of '{spec}' cannot be read: write them as ?key=value&key=value."),
            (key in options, f"Option {key} is given twice in '{spec}': keep one of the two.", "duplicate"),
        )
        options[key] = unquote(value)
    return options


def _expected(what: Literal["encoder", "dataset"]) -> type:
    if what == "encoder":
        from diagnostics.encoders.encoder import Encoder

        return Encoder
    from diagnostics.datasets.dataset import Dataset

    return Dataset


def _find(what: Literal["encoder", "dataset"], name: str) -> tuple[str, Callable[..., Any], tuple[str, ...]]:
    """The owner of a name (for messages), its builder, and the positional arguments that the name gives."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return path, _from_file(Path(path), function), ()
    entries = plugin_entries(what)
    scheme, colon, rest = name.partition(":")
    whole = name in entries and not name.endswith(":")
    key, args = (name, ()) if whole else (scheme + colon, (rest,))
    if key in entries:
        plugin, entry = entries[key]
        if isinstance(entry, ClaimedTwice):
            entry()
        return f"Plugin {plugin.name}", entry.make, args
    if what == "encoder" and (name.endswith(".safetensors") or os.path.isdir(name)):
        # Without the option of `load_encoder`, which no name may set.
        return name, lambda path: load_encoder(path), (name,)
    if colon and (
        own := sorted(name for p in plugins() if p.name == scheme for name in p.offers.get(what, ()) if ":" in name)
    ):
        raise DiagnosticsError(
            f"Unknown {what} '{name}': plugin {scheme} offers {few(own)} (as in '{own[0]}{rest}'); `diagnostics list` "
            f"shows all.",
            code="unknown-name",
        )
    if what == "dataset" and os.path.exists(name) and not name.endswith(".py"):
        kinds = ", ".join(sorted(key for key in entries if key.endswith(":")))
        raise DiagnosticsError(f"'{name}' is a path: put before it what it holds, one of {kinds}.", code="unknown-name")
    broken = [f"plugin {p.name} could not be loaded ({p.error})" for p in plugins() if p.error]
    other = "path/to/file.py:function" + (", or a folder with a saved encoder" if what == "encoder" else "")
    hint = f"Or {other}; `diagnostics list` shows all{'; ' + '; '.join(broken) if broken else ''}."
    if name.endswith(".py"):
        hint = f"To use a file, name the function in it: {name}:build."
    raise name_error(what, name, entries, hint)


def _from_file(path: Path, function: str) -> Callable[..., Any]:
    check_code(path)
    if not path.is_file():
        raise DiagnosticsError(
            f"There is no file {path}: give the path of a Python file as path/to/file.py:function.", code="missing-file"
        )
    spec = importlib.util.spec_from_file_location(f"_diagnostics_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As when the file is run: it may import its neighbours, and its classes can be found by name.
    sys.modules[spec.name] = module
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    with explaining(f"{path} could not be run"):
        spec.loader.exec_module(module)
    from torch import nn

    make = getattr(module, function, None)
    if not callable(make):
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", "") == spec.name or isinstance(value, nn.Module)
        ]
        raise name_error(f"function in {path}:", function, [key for key in own if callable(getattr(module, key))])
    # A module is callable too, but with samples: it is what is meant.
    return _returning(make, function) if isinstance(make, nn.Module) else make


def _returning(value: object, name: str) -> Callable[[], Any]:
    def function() -> object:
        return value

    function.__name__ = name
    return function


def _call_for_encoder(
    make: Callable[..., Any], args: tuple[str, ...], options: Mapping[str, str], owner: str, what: str
) -> Any:
    """`call` of a function in a file, which may give a bare torch module: what that takes are options too.

    An option that both know goes to both, as the size of images.
    """
    from torch import nn

    from diagnostics.encoders.bare_module import declare

    known, of_module = _parameters(make, len(args)), _parameters(declare, 3)
    for key in options:
        # Misspelt, and not one of the function's own, which it is told of when it is called.
        if (
            key not in of_module
            and not difflib.get_close_matches(key, known)
            and difflib.get_close_matches(key, of_module)
        ):
            raise name_error(f"option of this {what}", key, of_module)
    own = {key: text for key, text in options.items() if key in known or key not in of_module}
    built = call(make, args, own, owner, what)
    if isinstance(built, nn.Module):
        named = f"{owner}:{getattr(make, '__name__', 'function')}"
        about = {key: text for key, text in options.items() if key in of_module}
        alone = {key: text for key, text in own.items() if key not in of_module}
        return call(functools.partial(declare, built, named, alone), (), about, owner, what)
    if unread := [key for key in options if key not in own]:
        raise name_error(f"option of this {what}", unread[0], known)
    return built


def _parameters(make: Callable[..., Any], given: int) -> list[str]:
    """Names of the parameters that options may set, behind those that are given by position."""
    return [
        parameter.name
        for parameter in list(inspect.signature(make).parameters.values())[given:]
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def call(make: Callable[..., Any], args: tuple[str, ...], options: Mapping[str, str], owner: str, what: str) -> Any:
    """`make(*args, **options)`, with the text of each option converted to what its annotation asks for.

    Raises DiagnosticsError for an unknown option or a value of another type, and where `make` raises.
    """
    known = _parameters(make, len(args))
    converted: dict[str, Any] = {}
    for key, text in options.items():
        if key not in known:
            hint = "The encoder brings samples to its size." if (what, key) == ("dataset", "size") else ""
            raise name_error(f"option of this {what}", key, known, hint)
        converted[key] = _convert(key, text, _annotation(make, key))
    with explaining(f"{owner} failed to make the {what}"):
        return make(*args, **converted)


def _annotation(make: Callable[..., Any], key: str) -> Any:
    """The type of an option: its default's where there is no annotation that can be read, else `str`."""
    function: Any = make.func if isinstance(make, functools.partial) else make
    with contextlib.suppress(Exception):
        return hints_of(function.__init__ if isinstance(function, type) else function)[key]
    default = inspect.signature(make).parameters[key].default
    return type(default) if isinstance(default, bool | int | float) else str


def _convert(key: str, text: str, hint: Any) -> Any:
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if types.NoneType in choices and text.lower() in ("none", ""):
        return None
    for choice in choices:
        if choice is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if choice in (int, float):
            try:
                return choice(text)
            except ValueError:
                continue
    if str in choices or not set(choices) & {int, float, bool}:
        return text
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    wanted = " or ".join(names.get(choice, choice.__name__) for choice in choices if choice is not types.NoneType)
    raise DiagnosticsError(f"Option {key}={text} is not {wanted}: give that for {key}.", code="bad-value")
