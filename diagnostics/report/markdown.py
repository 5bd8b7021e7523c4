"""Renders a page in full as Markdown, for model cards: sentences, tables and lists, and figures as pictures beside the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import get_args
from urllib.parse import quote

from diagnostics.report.escaping import printable
from diagnostics.report.numbers import NO_BREAK
from diagnostics.report.page import Block, Cell, Figure, Finding, Findings, Note, Notes, Page, Section, Sentence, Table

# What Markdown takes for markup within a line (a dollar begins a formula for some readers), and what begins a list or a heading.
_MARKUP = re.compile(r"[\\`*_\[\]|~$]")
_OPENING = re.compile(r"^(?=[-+#=])|^\d+(?=[.)] )")
_TONES = {"strong": "**", "verdict": "**", "caution": "*", "small": "*"}


def page_markdown(page: Page, pictures: dict[str, str], level: int = 2) -> str:
    """The page as Markdown whose title is a heading of this level.

    Each figure becomes `![title](NAME)`, with NAME the next of `pictures` (name -> description), in the order of the page.
    """
    names = iter(pictures.items())
    parts = [f"{'#' * level} {plain(page.title)}", *(part for block in page.lead for part in _block(block, names))]
    for section in page.sections:
        parts += _section(section, names, level + 1)
    parts += ["\n".join(f"- {plain(key)}: {plain(value)}" for key, value in page.provenance)]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """One line that reads as it is written: names from files are neither markup nor addresses."""
    line = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _OPENING.sub(r"\g<0>\\", _MARKUP.sub(r"\\\g<0>", line))
    return line.replace("://", "&#58;//").replace(NO_BREAK, " ")


def _section(section: Section, names: Iterator[tuple[str, str]], level: int) -> Iterator[str]:
    if section.title:
        yield f"{'#' * level} {plain(section.title)}"
    for block in section.blocks:
        yield from _block(block, names)
    for inner in section.sections:
        yield from _section(inner, names, level + 1)


def _block(block: Block, names: Iterator[tuple[str, str]]) -> Iterator[str]:
    if getattr(block, "only", None) == "brief":
        return
    match block:
        case Sentence():
            mark = _TONES.get(block.tone, "")
            yield f"{mark}{plain(block.text)}{mark}"
        case Notes():
            yield "\n".join(f"- {_note(note)}" for note in block.notes)
        case Findings():
            yield "\n".join(f"- {_cell(finding)}" for finding in block.findings)
        case Table():
            yield _table(block)
        case _ if isinstance(block, get_args(Figure)):
            name, description = next(names)
            yield f"![{plain(description)}]({quote(name)})"
        case _:
            pass


def _note(note: Note) -> str:
    return f"**{plain(note.name)}**: {plain(note.text)}" if note.name else plain(note.text)


def _table(table: Table) -> str:
    shown = [i for i, column in enumerate(table.columns) if column.only != "brief"]
    lines = [[plain(table.columns[i].name) for i in shown], ["---"] * len(shown)]
    lines += [[_cell(row.cells[i]) for i in shown] for row in table.rows if row.only != "brief"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Finding):
        return plain(f"{cell.verdict.mark} {cell.words}")  # at its start a mark would open a list
    return plain(cell if isinstance(cell, str) else cell.text())
