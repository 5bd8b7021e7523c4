"""What people wrote about clips: titles and captions of a table, joined by id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from diagnostics_files.decode.tables import column, read_table

from diagnostics import Dataset, DiagnosticsError

WRITTEN = ("title", "human_caption")
"""Columns that are read; at least one of them must be there."""


def notes_on(dataset: Dataset, table: Path | None) -> list[dict[str, str]]:
    """Of each sample the columns `WRITTEN` that the table has for its id, or else for its group (the file of a clip).

    Raises DiagnosticsError for a table without an id or without any of these columns, for an id that stands there twice, and for
    one that is of no sample.
    """
    if table is None:
        return [{} for _ in range(len(dataset))]
    columns = read_table(table)
    names = [str(entry) for entry in column(columns, "id", table)]
    there = [name for name in WRITTEN if name in columns]
    if not there:
        raise DiagnosticsError(
            f"{table} has neither a column title nor a column human_caption but {', '.join(columns)}: name one of its columns so."
        )
    if repeated := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DiagnosticsError(f"{table} has the id {repeated} twice: keep one row for each clip or file.")
    ids, groups = list(map(str, dataset.ids)), list(map(str, dataset.groups))
    if strange := sorted(set(names) - {*ids, *groups}):
        raise DiagnosticsError(
            f"{table} has {len(strange)} id(s) that neither a clip nor a file of {dataset.name} has, {strange[0]} first: ids are as "
            f"{ids[0]}, or {groups[0]} for all clips of a file."
        )
    rows = {
        name: {key: " ".join(str(columns[key][i]).split()) for key in there if columns[key][i] is not None}
        for i, name in enumerate(names)
    }
    return [rows.get(one, rows.get(group, {})) for one, group in zip(ids, groups, strict=True)]
