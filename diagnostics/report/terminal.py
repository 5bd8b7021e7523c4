"""Renders a page in a terminal, brief or in full (without figures), at any width, without truncation."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.report.page import Block, Cell, Column, Length, Notes, Page, Section, Sentence, Table

STYLES = {"strong": "bold", "quiet": "dim", "caution": "yellow"}


def print_page(page: Page, report: Path, *, full: bool = False) -> None:
    """Prints what a brief page shows, or with `full` all but the figures; then the file that holds the whole, and the closing."""
    console = terminal()
    hidden: Length = "brief" if full else "full"
    for block in page.lead:
        _print_block(console, block, hidden)
    for section in page.sections:
        _print_section(console, section, hidden)
    show(console, "")
    show(console, f"Report: {whole(report)}")
    for block in page.closing:
        _print_block(console, block, "full")


def _print_section(console: Console, section: Section, hidden: Length) -> None:
    """A brief page shows neither the headings nor the sections within."""
    if hidden == "brief" and section.title:
        show(console, "")
        show(console, printable(section.title), STYLES["strong"])
    for block in section.blocks:
        _print_block(console, block, hidden)
    for within in section.sections if hidden == "brief" else ():
        _print_section(console, within, hidden)


def _print_block(console: Console, block: Block, hidden: Length) -> None:
    match block:
        case Sentence() | Notes() | Table() if block.only == hidden:
            pass
        case Sentence():
            if block.apart:
                show(console, "")
            show(console, printable(block.text), STYLES.get(block.tone, ""))
        case Notes():
            for note in block.notes:
                text = f"{block.lead}{note.name}: {note.text}" if note.name else note.text
                show(console, printable(text), STYLES.get(block.tone, ""), hanging=2)
        case Table():
            _print_table(console, block, hidden)
        case _:
            pass


def _print_table(console: Console, table: Table, hidden: Length) -> None:
    shown = [i for i, column in enumerate(table.columns) if column.only != hidden]
    names = [table.columns[i].name for i in shown]
    if table.grouped:
        # The first column becomes a heading over the rows that it is the same in.
        names = [f"{names[0]}, {names[1]}", *names[2:]]
    rows: list[list[str | Text]] = []
    group = None
    for row in table.rows:
        if row.only == hidden:
            continue
        cells = [_text(row.cells[i], table.columns[i], brief=hidden == "full") for i in shown]
        if table.grouped:
            if cells[0] != group:
                group = cells[0]
                rows.append([Text(group, "bold")])
            cells = [f"  {cells[1]}", *cells[2:]]
        rows.append([*cells])
        if row.note and hidden == "full":
            rows.append([Text(f"    {printable(row.note)}", "dim")])
    if rows:
        show_table(console, names, rows)


def _text(cell: Cell, column: Column, brief: bool) -> str:
    return printable(cell if isinstance(cell, str) else cell.text(column.bare and brief))
