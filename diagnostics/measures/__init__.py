"""The bundled measures, by family: names and descriptions; each is imported when used.

Plain functions on arrays, usable without a run, live in the same modules: `similarity`, `geometry`, `locality`,
`probes`, `dynamics`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics.measures.regret_rules import RULES
from diagnostics.registry import Entry, hookimpl

if TYPE_CHECKING:
    from diagnostics.measures.base import Measure

__all__ = ["load_bundled", "measures", "rules"]

CATALOGUE: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("catalogue.json").read_text("utf-8"))
"""What the class of each bundled measure says of itself, and where it is (`home`), in the order in which measures are
listed and computed. `python docs/catalogue.py` writes it, so that `diagnostics list` need not load them."""


@hookimpl
def measures() -> dict[str, Entry]:
    """Name -> what the measure is, and a function that makes it and loads its module only then."""
    return {
        name: Entry(
            lambda name=name: _load(name)(),
            row["answers"],
            kinds=tuple(row["kinds"]),
            needs=row["needs"],
            standard=row["standard"],
            source=row["source"],
        )
        for name, row in CATALOGUE.items()
    }


@hookimpl
def rules() -> dict[str, Entry]:
    """Name -> a rule that chooses a tap."""
    return {name: Entry(rule, labels=labels) for name, (rule, labels) in RULES.items()}


def load_bundled() -> dict[str, type[Measure]]:
    """Name -> class of every bundled measure, all loaded."""
    return {name: _load(name) for name in CATALOGUE}


def _load(name: str) -> type[Measure]:
    module, _, attribute = CATALOGUE[name]["home"].partition(":")
    return getattr(importlib.import_module(f"diagnostics.measures.{module}"), attribute)
