"""The page of a run kept beside its results, so that it is printed again without what measures and draws.

What depends on where the run lies, and on what else lies there, is added when it is shown.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagnostics import __version__
from diagnostics.activations.run_files import disk_use, finished_index, read_page, write_page
from diagnostics.activations.store import Store
from diagnostics.progress import size
from diagnostics.report.numbers import unbroken
from diagnostics.report.page import Block, Note, Notes, Page, Section, Sentence, page_of, page_values

if TYPE_CHECKING:
    from diagnostics.runs.run_data import RunData


def store_page(run: RunData, page: Page, target: str | None, left_out: int) -> None:
    """Keeps a page, without its figures; see `with_folder` for the rest."""
    values = {"page": page_values(page), "target": target, "left_out": left_out, "version": __version__}
    write_page(run.store, run.index, values)


def stored_page(path: Path) -> Page | None:
    """The page of a run's results; None where this version has kept none. Raises where it is no run, or is not whole."""
    store = Store(path)
    kept = read_page(store, finished_index(store))
    if kept is None or kept.get("version") != __version__:
        return None
    try:
        page, target, left_out = page_of(kept["page"]), kept["target"], int(kept["left_out"])
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(page, Page):
        return None
    return with_folder(page, path, disk_use(store), target and str(target), left_out)


def with_folder(page: Page, path: Path, disk: tuple[int, int], target: str | None, left_out: int) -> Page:
    """A page with what depends on the run's folder: commands that name it, and its bytes.

    `disk`: bytes of tokens and of all. `target`: the one that the example reads; `left_out`: how many results are, but for what failed.
    """
    named = shlex.quote(str(path))
    why = unbroken(f"diagnostics show {named} --full")
    count = f"{left_out} result{'s are' if left_out > 1 else ' is'} left out: {why} says why." if left_out else ""
    left = Section("", "", (Sentence(count, "quiet", only="brief"),) if count else ())
    return replace(page, sections=(*page.sections, *filter(None, [left])), closing=closing_blocks(path, disk, target))


def closing_blocks(path: Path, disk: tuple[int, int], target: str | None) -> tuple[Block, ...]:
    """Where the features, the report and the rest are."""
    tokens, whole = disk
    named, quoted = shlex.quote(str(path)), json.dumps(str(path), ensure_ascii=False)
    read = f"dx.open_run({quoted}).features(target={json.dumps(target, ensure_ascii=False)})"
    lines = {
        "features": unbroken(read) if target else "",
        "report": unbroken(f"diagnostics open {named}"),
        "why": unbroken(f"diagnostics show {named} --full"),
        "disk": f"{size(tokens)} of {size(whole)} are tokens: {unbroken(f'diagnostics clean --tokens {named}')}"
        if tokens
        else size(whole),
    }
    return (Notes(tuple(Note(text, name) for name, text in lines.items() if text), "quiet", lead="  "),)
