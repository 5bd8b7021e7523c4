"""Writes what is said of the bundled measures elsewhere from their classes: `python docs/catalogue.py`.

That is `diagnostics/measures/catalogue.json`, and the table of invariances in `docs/explanation/measures/similarity.md`. Measures keep
their order; a new one comes last in its family.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

from diagnostics import measures
from diagnostics.measures import CATALOGUE
from diagnostics.measures.base import Measure
from diagnostics.measures.similarity.base import Similarity

ROOT = Path(__file__).parent.parent
READS = {"pooled": "pooled", "tokens": "all tokens"}
FAMILIES = ("probes", "dynamics", "similarity", "geometry", "locality")


def all_measures() -> dict[str, type[Measure]]:
    """Name -> class of every measure in the modules of the families, in the catalogue's order."""
    classes: dict[str, type[Measure]] = {}
    for family in FAMILIES:
        home = importlib.import_module(f"{measures.__name__}.{family}")
        parts = pkgutil.iter_modules(getattr(home, "__path__", ()), f"{home.__name__}.")
        for module in (home.__name__, *(part.name for part in parts)):
            for value in vars(importlib.import_module(module)).values():
                if inspect.isclass(value) and issubclass(value, Measure) and value.__module__ == module:
                    public = not value.__name__.startswith("_")
                    classes |= {value.name: value} if public and "name" in vars(value) else {}
    known = list(CATALOGUE)

    def place(name: str) -> tuple[int, int]:
        family = classes[name].__module__.split(".")[2]
        return FAMILIES.index(family), known.index(name) if name in known else len(known)

    return {name: classes[name] for name in sorted(classes, key=place)}


def catalogue(text: str) -> str:
    """The text of the catalogue, whatever it was before."""
    rows = {
        name: {
            "home": f"{measure.__module__.removeprefix('diagnostics.measures.')}:{measure.__qualname__}",
            "answers": measure.answers,
            "source": measure.source,
            "needs": measure.needs,
            "kinds": measure.kinds,
            "standard": measure.standard,
        }
        for name, measure in all_measures().items()
    }
    return json.dumps(rows, ensure_ascii=False, indent=2) + "\n"


def invariances(text: str) -> str:
    """The text of the page of similarities with a row of its first table for each."""
    rows = "".join(
        f"| [`{name}`](#{name}) | {', '.join(measure.invariant_to)} | {READS[measure.needs]} | {measure.most_rows:,} |\n"
        for name, measure in all_measures().items()
        if issubclass(measure, Similarity)
    )
    head, line, rest = text.partition("|---|---|---|---|\n")
    return head + line + rows + "\n" + rest.partition("\n\n")[2]


WRITTEN = {"diagnostics/measures/catalogue.json": catalogue, "docs/explanation/measures/similarity.md": invariances}
"""File -> what makes its text anew from the one it has."""

if __name__ == "__main__":
    for path, written in WRITTEN.items():
        file = ROOT / path
        file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")
