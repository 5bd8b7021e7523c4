"""The plugins and what each of them offers, by name.

Also their hooks: five functions, each of which returns a mapping from names to callables.

A value may also be an `Entry`, which is callable too and describes itself. A plugin is a module registered under the
entry-point group `diagnostics`. Importing it must not import torch: import heavy things inside the callables. See
docs/how-to/plugins.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import pluggy

from diagnostics.errors import DiagnosticsError, Stopped
from diagnostics.interrupts import stoppable

if TYPE_CHECKING:
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.measures.base import Measure
    from diagnostics.measures.regret_rules import Chosen, Evidence


hookspec = pluggy.HookspecMarker("diagnostics")
hookimpl = pluggy.HookimplMarker("diagnostics")


@dataclass(frozen=True)
class Entry:
    """A builder, measure or command with its description, so that `diagnostics list` need not call it."""

    make: Callable[..., Any]
    about: str = ""
    """One line: of a measure, the question that it answers; of others, else the first line of the docstring of
    `make`.
    """
    modalities: tuple[str, ...] = ()
    """Of an encoder or dataset: those of which its samples may be."""
    kinds: tuple[str, ...] = ()
    """Kinds of target: those that a dataset may have, or that a measure reads."""
    needs: str = "pooled"
    """Of a measure: pooled, tokens, attention or gradients."""
    standard: bool = True
    """Of a measure: whether it is in the standard suite."""
    source: str = ""
    """Of a measure: where it is defined."""
    labels: str = ""
    """Of a rule: the labels of the target that it takes, its cost."""
    path_hint: Callable[[str], str] | None = None
    """Of an encoder: given a path that is no saved encoder, a clause that says how this plugin opens it, or an empty
    text.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The result of `make`."""
        return self.make(*args, **options)


@hookspec
# pyrefly: ignore[bad-return]
def encoders() -> Mapping[str, Callable[..., Encoder]]:
    """Name -> builder called with the options of `name?key=value`.

    A name that ends in ':' gets what follows it first.
    """


@hookspec
# pyrefly: ignore[bad-return]
def datasets() -> Mapping[str, Callable[..., Dataset]]:
    """Name -> builder called with the options of `name?key=value`.

    A name that ends in ':' gets what follows it first.
    """


@hookspec
# pyrefly: ignore[bad-return]
def measures() -> Mapping[str, Callable[[], Measure]]:
    """Name -> function without arguments that returns the measure."""


@hookspec
# pyrefly: ignore[bad-return]
def rules() -> Mapping[str, Callable[[Evidence], Chosen]]:
    """Name -> function from what is known without test to the tap to use, or the share of each tap."""


@hookspec
# pyrefly: ignore[bad-return]
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> function whose annotated parameters become the options of `diagnostics NAME`.

    A name of two words is a command of a group: "train mine" is `diagnostics train mine`. `options_of` makes one from
    its job.
    """


GROUP = "diagnostics"
"""The group of entry points under which plugins are registered."""
EntryKind = Literal["encoder", "dataset", "measure", "rule", "command"]


@dataclass
class Plugin:
    """One entry point: what it offers, or why it could not be loaded."""

    name: str
    version: str
    module: str
    error: str = ""
    offers: dict[str, dict[str, Entry]] = field(default_factory=dict[str, dict[str, Entry]])
    """Kind of entry -> name -> entry."""
    packages: dict[str, str] = field(default_factory=dict[str, str])
    """Distribution -> its top-level module, for those whose code an encoder may come from: `PACKAGES` of the plugin's
    module.
    """


class ClaimedTwice(Entry):
    """An entry that two plugins offer under one name: calling it raises a DiagnosticsError that names both."""


@functools.cache
def plugins() -> tuple[Plugin, ...]:
    """All installed plugins, bundled and others, in the order of their names.

    A plugin that cannot be loaded carries its error, and does not affect the others.
    """
    points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
    with stoppable():
        return tuple(_load(point) for point in points)


def plugin_entries(kind: EntryKind) -> dict[str, tuple[Plugin, Entry]]:
    """Name -> (plugin, entry) over all plugins; an entry whose name two plugins claim raises when it is called."""
    entries: dict[str, tuple[Plugin, Entry]] = {}
    for plugin in plugins():
        for name, entry in plugin.offers.get(kind, {}).items():
            if name in entries:
                entry = ClaimedTwice(_refusal(kind, name, entries[name][0], plugin))
            entries[name] = (plugin, entry)
    return entries


def _refusal(kind: EntryKind, name: str, first: Plugin, second: Plugin) -> Callable[[], NoReturn]:
    def refuse() -> NoReturn:
        raise DiagnosticsError(
            f"Plugins {first.name} and {second.name} both offer the {kind} '{name}': uninstall one of them.",
            code="duplicate",
        )

    return refuse


def _load(point: importlib.metadata.EntryPoint) -> Plugin:
    plugin = Plugin(point.name, point.dist.version if point.dist else "unknown", point.value)
    # A manager of its own for each plugin, so that an error in one stays there.
    manager = pluggy.PluginManager("diagnostics")
    manager.add_hookspecs(sys.modules[__name__])
    try:
        # Anything that it prints would stand among results, or break --json.
        with contextlib.redirect_stdout(sys.stderr):
            module = point.load()
            manager.register(module, name=point.name)
            manager.check_pending()
            for kind in typing.get_args(EntryKind):
                plugin.offers[kind] = _entries(manager, kind)
            plugin.packages = dict(getattr(module, "PACKAGES", {}))
    except Stopped:
        raise
    except BaseException as error:
        # KeyboardInterrupt and SystemExit too, which would end every command.
        plugin.error = f"{type(error).__name__}: {error}".splitlines()[0]
        plugin.offers = {}
    return plugin


def _entries(manager: pluggy.PluginManager, kind: EntryKind) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for mapping in getattr(manager.hook, f"{kind}s")():
        if not isinstance(mapping, Mapping):
            raise TypeError(f"hook {kind}s returned a {type(mapping).__name__}, not a mapping from name to callable")
        for name, value in mapping.items():
            if not isinstance(name, str) or not callable(value):
                raise TypeError(f"hook {kind}s offers {name!r}, which is not a name with something callable")
            entries[name] = value if isinstance(value, Entry) else Entry(value)
    return entries
