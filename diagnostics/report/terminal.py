"""Renders a page in a terminal in its brief form, at any width, without truncation."""

from pathlib import PurePath

from rich.console import Console
from rich.text import Text

from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.report.page import Block, Cell, Column, Details, Notes, Page, Section, Sentence, Table

STYLES = {"strong": "bold", "quiet": "dim", "caution": "yellow"}


def print_page(page: Page, report: PurePath, full: bool = False) -> None:
    """Print what a brief page shows, or all but the figures of a full one.

    Below it stands the file that holds the report.
    """
    console = terminal()
    if full:
        show(console, printable(page.title), "bold")
    for block in page.lead:
        _print_block(console, block, full)
    for section in page.sections:
        _print_section(console, section, full)
    if full:
        show(console, "")
        show(console, "Provenance", "bold")
        for name, value in page.provenance:
            show(console, printable(f"{name}: {value}"), hanging=2)
    show(console, "")
    if not page.closing:
        show(console, f"Report: {whole(report)}")
    for block in page.closing:
        _print_block(console, block, False)


def _print_section(console: Console, section: Section, full: bool) -> None:
    if full and section.title:
        show(console, "")
        show(console, printable(section.title), "bold")
    for block in section.blocks:
        _print_block(console, block, full)
    for inner in section.sections if full else ():
        _print_section(console, inner, full)


def _print_block(console: Console, block: Block, full: bool) -> None:
    match block:
        case Sentence() | Notes() | Table() if block.only == ("brief" if full else "full"):
            pass
        case Details() if full:
            show(console, printable(block.title), "dim")
            _print_table(console, block.table, full)
            _print_block(console, block.notes, full)
        case Sentence() if block.tone == "small":
            pass  # it speaks of a figure
        case Sentence():
            if block.apart:
                show(console, "")
            show(console, printable(block.text), STYLES.get(block.tone, ""))
        case Notes():
            for note in block.notes:
                text = f"{block.lead}{note.name}: {note.text}" if note.name else note.text
                show(console, printable(text), STYLES.get(block.tone, ""), hanging=2)
        case Table():
            _print_table(console, block, full)


def _print_table(console: Console, table: Table, full: bool) -> None:
    absent = "brief" if full else "full"
    shown = [i for i, column in enumerate(table.columns) if column.only != absent]
    names = [table.columns[i].name for i in shown]
    if table.grouped:
        # The first column becomes a heading over the rows that it is the same in.
        names = [f"{names[0]}, {names[1]}", *names[2:]]
    rows: list[list[str | Text]] = []
    group = None
    for row in table.rows:
        if row.only == absent:
            continue
        cells = [_text(row.cells[i], table.columns[i], full) for i in shown]
        if table.grouped:
            if cells[0] != group:
                group = cells[0]
                rows.append([Text(group, "bold")])
            cells = [f"  {cells[1]}", *cells[2:]]
        rows.append([*cells])
        if row.note and not full:
            rows.append([Text(f"    {printable(row.note)}", "dim")])
    if rows:
        show_table(console, names, rows)


def _text(cell: Cell, column: Column, full: bool) -> str:
    return printable(cell if isinstance(cell, str) else cell.text(column.bare and not full))
