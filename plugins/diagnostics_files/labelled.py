"""Folders of files with one sample or several from each: classes from folders, targets from a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import DiagnosticsError, Target
from diagnostics_files.decode.tables import Columns, column, read_table, target, targets_of
from diagnostics_files.errors import join_notes, warn
from diagnostics_files.scan import File, classes
from diagnostics_files.splits import complete, from_column


@dataclass
class Labelled:
    """Files with what is known of each: split, group, targets; `about` in words."""

    files: list[File]
    split: list[str]
    groups: list[str]
    targets: dict[str, Target]
    about: str

    def of(self, owner: Sequence[int]) -> dict[str, Any]:
        """Split, groups and targets of samples, the i-th of which comes from file `owner[i]`."""
        rows = np.asarray(owner, dtype=int)
        return {
            "split": [self.split[i] for i in rows],
            "groups": [self.groups[i] for i in rows],
            "targets": {
                name: Target(target.kind, target.values[rows], about=target.about, classes=target.classes)
                for name, target in self.targets.items()
            },
        }


def labelled(
    every: Sequence[File], kept: Sequence[int], root: Path, source: str, *, table: str, key: str, values: str, seed: int
) -> Labelled:
    """What folders and table say about the files of `every` that are `kept`.

    The folder of a file is its `label`. The table names files in the column `key`; columns `split` and `group` are used as
    such, all others become targets. A file that the table does not name has unknown targets, and a name that is no file
    raises. Without a column `group` every file is one.
    """
    files = [every[i] for i in kept]
    given, groups = [file.split for file in files], [file.name for file in files]
    targets: dict[str, Target] = {}
    notes: list[str] = []
    if (of_file := classes(files)) is not None:
        label = target(of_file, "label")
        if isinstance(label, str):
            notes.append(f"no label: {label}")
            warn(f"{source} has no target label: {label}.")
        else:
            targets["label"] = label
    if table:
        path = _table_path(table, root)
        columns = _joined(read_table(path), every, kept, key, path)
        if any(entry is not None for entry in columns.get("split", ())):
            given = from_column(columns["split"], str(path))
        groups = [
            g if c is None else str(c) for g, c in zip(groups, columns.get("group", [None] * len(files)), strict=True)
        ]
        more, note = targets_of(columns, values, path, ("split", "group"))
        if clash := set(more) & set(targets):
            raise DiagnosticsError(
                f"{path} has a column {clash.pop()}, and class folders give that too: rename the column."
            )
        targets |= more
        notes.append(note)
    split, how = complete(given, groups, seed, source)
    return Labelled(files, split, groups, targets, join_notes(how, *notes))


def _table_path(text: str, root: Path) -> Path:
    """The table in the working directory, or else in the folder."""
    given = Path(text).expanduser()
    for path in (given, root / given):
        if path.is_file():
            return path
    if given.is_absolute():
        raise DiagnosticsError(f"There is no table {given}: correct ?table=.")
    raise DiagnosticsError(
        f"There is no table {text}, neither in the working directory {Path.cwd()} nor in the folder {root}: correct ?table=."
    )


def _joined(columns: Columns, every: Sequence[File], kept: Sequence[int], key: str, path: Path) -> Columns:
    """The columns but `key`, in the order of the kept files."""
    row_of: dict[str, int] = {}
    for row, entry in enumerate(column(columns, key, path, "file")):
        name = str(entry).replace("\\", "/").removeprefix("./")
        if name in row_of:
            raise DiagnosticsError(f"{path} names {name} twice: keep one row for each file.")
        row_of[name] = row
    there = {file.name for file in every}
    if missing := [name for name in row_of if name not in there]:
        raise DiagnosticsError(
            f"{path} names {len(missing)} file(s) that are not in the folder, {missing[0]} first: write names as they are "
            "below the folder, or add the files."
        )
    rows = [row_of.get(every[i].name) for i in kept]
    return {
        name: [None if row is None else entries[row] for row in rows]
        for name, entries in columns.items()
        if name != key
    }
