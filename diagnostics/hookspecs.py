"""What a plugin may offer: four hooks, each returning a mapping from name to something callable.

A plugin is a module registered under the entry-point group `diagnostics`. Importing it must not import torch: import
heavy things inside the callables. See docs/plugins.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from diagnostics.datasets.dataset import Dataset
    from diagnostics.encoders.encoder import Encoder
    from diagnostics.measures.base import Measure

hookspec = pluggy.HookspecMarker("diagnostics")
hookimpl = pluggy.HookimplMarker("diagnostics")


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

    A name of two words is a command of a group: "train mine" is `diagnostics train mine`.
    """
