"""The plugin of the bundled measures: names and descriptions; each measure is imported when used."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

from diagnostics.hookspecs import Entry, hookimpl
from diagnostics.measures.catalogue import CATALOGUE

if TYPE_CHECKING:
    from diagnostics.measures.base import Measure


@hookimpl
def measures() -> dict[str, Entry]:
    """Name -> what the measure is, and a function that makes it and loads its module only then."""
    return {
        name: Entry(
            functools.partial(_make, name), listed.answers, kinds=listed.targets, needs=listed.needs,
            standard=listed.standard, source=listed.source,
        )
        for name, listed in CATALOGUE.items()
    }  # fmt: skip


def bundled() -> dict[str, type[Measure]]:
    """Name -> class of every bundled measure, all loaded."""
    return {name: _load(name) for name in CATALOGUE}


def _load(name: str) -> type[Measure]:
    module, _, attribute = CATALOGUE[name].home.partition(":")
    return getattr(importlib.import_module(f"diagnostics.measures.{module}"), attribute)


def _make(name: str) -> Measure:
    return _load(name)()
