"""The plugin hooks: four functions, each of which returns a mapping from names to callables.

A value may also be an `Entry`, which is callable too and describes itself. A plugin is a module registered under the entry-point group
`diagnostics`. Importing it must not import torch: import heavy things inside the callables. See docs/how-to/plugins.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.measures.base import Measure

hookspec = pluggy.HookspecMarker("diagnostics")
hookimpl = pluggy.HookimplMarker("diagnostics")


@dataclass(frozen=True)
class Entry:
    """A builder, measure or command with its description, so that `diagnostics list` need not call it."""

    make: Callable[..., Any]
    about: str = ""
    """One line: of a measure, the question that it answers; of others, else the first line of the docstring of `make`."""
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
    path_hint: Callable[[str], str] | None = None
    """Of an encoder: given a path that is no saved encoder, a clause that says how this plugin opens it, or an empty text."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What `make` returns."""
        return self.make(*args, **options)


@hookspec
def encoders() -> Mapping[str, Callable[..., Encoder]]:  # pyright: ignore[reportReturnType]
    """Name -> builder called with the options of `name?key=value`; a name that ends in ':' gets what follows it first."""


@hookspec
def datasets() -> Mapping[str, Callable[..., Dataset]]:  # pyright: ignore[reportReturnType]
    """Name -> builder called with the options of `name?key=value`; a name that ends in ':' gets what follows it first."""


@hookspec
def measures() -> Mapping[str, Callable[[], Measure]]:  # pyright: ignore[reportReturnType]
    """Name -> function without arguments that returns the measure."""


@hookspec
def commands() -> Mapping[str, Callable[..., Any]]:  # pyright: ignore[reportReturnType]
    """Name -> function whose annotated parameters become the options of `diagnostics NAME`.

    A name of two words is a command of a group: "train mine" is `diagnostics train mine`. `options_of` makes one from its job.
    """
