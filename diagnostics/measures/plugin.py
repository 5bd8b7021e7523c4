"""The bundled measures as a plugin: their names, what each is, and the measures themselves, loaded when they are used."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from diagnostics.measures.catalogue import CATALOGUE

if TYPE_CHECKING:
    from diagnostics.measures.base import Measure

# Measures stand below the hooks; two markers of one project are the same mark.
hookimpl = pluggy.HookimplMarker("diagnostics")


@hookimpl
def measures() -> dict[str, Callable[[], Measure]]:
    """Name -> function that makes the measure and loads its module only then."""
    return {name: functools.partial(_make, name) for name in CATALOGUE}


def bundled() -> dict[str, type[Measure]]:
    """Name -> class of every bundled measure, all loaded."""
    return {name: _load(name) for name in CATALOGUE}


def catalogue() -> dict[str, dict[str, Any]]:
    """Name -> what `diagnostics list` shows of a bundled measure, and its family, without loading any."""
    return {
        name: {
            "standard": entry.standard, "needs": entry.needs, "targets": list(entry.targets), "answers": entry.answers,
            "source": entry.source, "family": entry.family,
        }
        for name, entry in CATALOGUE.items()
    }  # fmt: skip


def _load(name: str) -> type[Measure]:
    module, _, attribute = CATALOGUE[name].home.partition(":")
    return getattr(importlib.import_module(f"diagnostics.measures.{module}"), attribute)


def _make(name: str) -> Measure:
    return _load(name)()
