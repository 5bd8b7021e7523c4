"""Renders a page in a terminal in its brief form, at any width, without truncation."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.report.page import Block, Cell, Column, Notes, Page, Sentence, Table

STYLES = {"strong": "bold", "quiet": "dim", "caution": "yellow"}


def print_page(page: Page, report: Path) -> None:
    """Prints what a brief page shows, and below it the file that holds the full one."""
    console = terminal()
    for block in (*page.lead, *(block for section in page.sections for block in section.blocks)):
        _print_block(console, block)
    show(console, "")
    show(console, f"Report: {whole(report)}")


def _print_block(console: Console, block: Block) -> None:
    match block:
        case Sentence() | Notes() | Table() if block.only == "full":
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
            _print_table(console, block)
        case _:
            pass


def _print_table(console: Console, table: Table) -> None:
    shown = [i for i, column in enumerate(table.columns) if column.only != "full"]
    names = [table.columns[i].name for i in shown]
    if table.grouped:
        # The first column becomes a heading over the rows that it is the same in.
        names = [f"{names[0]}, {names[1]}", *names[2:]]
    rows: list[list[str | Text]] = []
    group = None
    for row in table.rows:
        if row.only == "full":
            continue
        cells = [_text(row.cells[i], table.columns[i]) for i in shown]
        if table.grouped:
            if cells[0] != group:
                group = cells[0]
                rows.append([Text(group, "bold")])
            cells = [f"  {cells[1]}", *cells[2:]]
        rows.append([*cells])
    if rows:
        show_table(console, names, rows)


def _text(cell: Cell, column: Column) -> str:
    return printable(cell if isinstance(cell, str) else cell.text(column.bare))
