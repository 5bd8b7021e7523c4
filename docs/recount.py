"""Says which pages of studies show other numbers than their result files: `python docs/recount.py` names each, and fails if there is one.

A study's `page.py`, or else its `study.py`, renders its pages from its results; a score that a template types is named too, and rendering
fails where the words around a place state another verdict than the results (`held` of `studies/common.py`). The gallery, whose runs are
not kept, has its table compared with its cards. Sentences of README and the landing page on segmentation, depth and other splits have
to be those of `benchmarks/redraws.json`. What README and the landing page print is held by `tests/test_docs.py`, that of tutorials by
`tests/test_tutorials.py`.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from draws import SCORE

from diagnostics.runs.results.redraws import spread_of

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "docs" / "studies"


FIXED = {".01", ".05", "0.01", "0.125", "0.375"}
"""Scores that templates may type: margins, levels, chances and goals, which were fixed before the results."""
PLACE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.S)
OTHERS = re.compile(r"^## Earlier figures$.*?^## |^- \*\*Why 16\*\*.*?$", re.M | re.S)
"""Parts of templates whose figures come from elsewhere: an earlier look by other code, and a simulation of the rule."""


def typed_scores(template: Path) -> list[str]:
    """The scores of a template that stand in no place."""
    text = PLACE.sub("", OTHERS.sub("", template.read_text(encoding="utf-8")))
    return [score[0] for score in SCORE.finditer(text) if score[0] not in FIXED]


def rendered(folder: Path) -> dict[Path, str]:
    """Page of a study -> its text by the results that are there."""
    # Modules of the same names belong to other studies.
    names = {file.stem for file in [*folder.glob("*.py"), *folder.parent.glob("*.py")]}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    before_path = list(sys.path)
    sys.path[:0] = [str(folder), str(folder.parent)]
    try:
        module = importlib.import_module("page" if (folder / "page.py").is_file() else "study")
        found = [module.results()] if hasattr(module, "results") else []
        names_of = ("index", "full")
        # With results first or without: `render(found, name)`, or `render(name)`.
        return {folder / f"{name}.md": module.render(*found, name) for name in names_of}
    finally:
        sys.path[:] = before_path
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def gallery_rows(folder: Path) -> set[tuple[str, str, int, frozenset[str]]]:
    """(encoder, data, how many targets, which the output hides) of each card of the gallery."""
    rows = set()
    for card in (folder / "full.md").read_text(encoding="utf-8").replace("\\", "").split("\n## ")[1:]:
        encoder, _, data = card.splitlines()[0].partition(" on ")
        table = re.findall(r"^\| (?!target )(\S+) \([^|]*\) \|.*\| ([^|]*) \|$", card, re.M)
        rows.add((encoder, data, len(table), frozenset(target for target, sure in table if sure.startswith("+ shown"))))
    return rows


def gallery_table(folder: Path) -> set[tuple[str, str, int, frozenset[str]]]:
    """The same of the gallery's page."""
    text = (folder / "index.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\S+) \| (\d+) \| (.*) \|$", text, re.M)
    return {
        (encoder, data, int(count), frozenset(re.findall(r"`([^`]+)`", hidden)))
        for encoder, data, count, hidden in rows
    }


def of_redraws(found: dict[str, Any]) -> dict[str, list[str]]:
    """What README and the landing page say of its commands and of their other splits; draw 0 of the scenes is its own."""
    own, *scenes = found["scenes"]
    ends = {name: {end: np.mean([one[name][end] for one in scenes]) for end in ("score", "output")} for name in own}
    alone = f"of {own['segmentation']['score']:.2f} there, {own['segmentation']['output']:.2f} at the output"
    gaps = {
        name: spread_of(np.array([one[name]["score"] - one[name]["output"] for one in scenes])).format()
        for name in scenes[0]
    }
    *names, last = found["series"]
    count, least = len(found["series"][last]), min(min(each) for each in found["series"].values())
    mean = f"(mean of {len(scenes)} draws: {ends['segmentation']['score']:.2f}, {ends['segmentation']['output']:.2f} at the output)"
    readme = [
        alone,
        f"In {len(scenes)} draws of other splits (`benchmarks/redraws.py`, mean and range) the gap of segmentation is "
        f"{gaps['segmentation']}, that of depth {gaps['depth']}.",
        f"in each of {count} random splits (`--redraws {count}`) the output hides more than {math.floor(10 * least) / 10} "
        f"of {', '.join(names)} and {last}.",
    ]
    return {"README.md": readme, "docs/index.md": [alone, mean]}


def other_than_redraws(file: Path) -> list[str]:
    """README and the landing page, where one of their sentences is not that of the draws in a file."""
    wanted = of_redraws(json.loads(file.read_text(encoding="utf-8")))
    text = {page: (ROOT / page).read_text(encoding="utf-8") for page in wanted}
    return [page for page, sentences in wanted.items() if any(sentence not in text[page] for sentence in sentences)]


def other_than_results(studies: Path = STUDIES) -> list[Path]:
    """Pages of studies that are not what their results say, in order; a page that is not there is one of them."""
    found: list[Path] = []
    found += [file for file in sorted([*studies.glob("*/*.md.in"), *studies.glob("*/*.md.j2")]) if typed_scores(file)]
    for folder in sorted(file.parent for file in studies.glob("*/index.md")):
        if (folder / "gallery.py").is_file():
            found += [folder / "index.md"] * (gallery_rows(folder) != gallery_table(folder))
        else:
            pages = rendered(folder).items()
            found += [page for page, text in pages if not page.is_file() or page.read_text(encoding="utf-8") != text]
    return found


if __name__ == "__main__":
    pages = [*other_than_results(), *other_than_redraws(ROOT / "benchmarks" / "redraws.json")]
    print(*pages, sep="\n")
    sys.exit(bool(pages))
