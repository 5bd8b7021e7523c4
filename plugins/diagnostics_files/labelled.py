"""Folders of files with one sample or several from each: classes from folders, targets from a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diagnostics.plugin import DiagnosticsError, LazySamples, Target, complete_splits
from diagnostics_files.decode.tables import Columns, column, read_table, target, targets_of, texts_of
from diagnostics_files.errors import Unusable, join_notes, sentence, usable, warn
from diagnostics_files.lazy_dataset import FileDataset
from diagnostics_files.scan import File, classes


@dataclass(frozen=True)
class Labels:
    """Where splits, groups and targets of files come from, besides their folders; see `plugin.images`."""

    table: str
    key: str
    values: str
    seed: int
    on_error: str


@dataclass(frozen=True)
class Labelled:
    """The files of a folder that are samples, with their splits, groups and targets; `about` says where these come from."""

    name: str
    files: list[File]
    split: list[str]
    groups: list[str]
    targets: dict[str, Target]
    about: str
    left_out: dict[str, Unusable]
    exchangeable: bool | Literal["fit"]
    """As in `Dataset`."""

    def dataset(
        self,
        modality: str,
        samples: LazySamples,
        ids: list[str],
        owner: Sequence[int],
        about: str,
        options: str,
        **more: Any,
    ) -> FileDataset:
        """Samples as a dataset; the i-th comes from file `owner[i]`. For `options` and `more` see `FileDataset`."""
        rows = np.asarray(owner, dtype=int)
        return FileDataset(
            self.name,
            modality,
            samples,
            ids,
            [self.split[i] for i in rows],
            {name: replace(target, values=target.values[rows]) for name, target in self.targets.items()},
            groups=[self.groups[i] for i in rows],
            about=join_notes(about, self.about),
            files={file.name: file.path for file in self.files},
            options=options,
            exchangeable=self.exchangeable,
            left_out=self.left_out,
            **more,
        )


def labelled(
    every: Sequence[File],
    check: Callable[[File], object],
    root: Path,
    source: str,
    labels: Labels,
    index: Callable[[File], object] = lambda file: None,
    group: Callable[[File], str] = lambda file: file.name,
) -> Labelled:
    """The files that can be used, with what folders and table say about them.

    `check` decodes a file (see `usable`), `index` reads its header. The folder of a file is its `label`. The table names files
    in the column `key`; columns `split` and `group` are used as such, all others become targets. A file that the table does
    not name has unknown targets, and a name that is no file raises. Without a column `group` every file is one, or what `group`
    says of it.
    """
    kept, left_out = usable([file.name for file in every], lambda i: check(every[i]), labels.on_error, source)
    files = [every[i] for i in kept]
    for file in files:
        index(file)
    given: list[Any] = [file.split for file in files]
    groups = [group(file) for file in files]
    targets: dict[str, Target] = {}
    notes: list[str] = []
    if (of_file := classes(files)) is not None:
        label = target(of_file, "label")
        if isinstance(label, str):
            notes.append(f"no label: {label}")
            warn(f"{source} has no target label: {label}.")
        else:
            targets["label"] = label
    if labels.table:
        path = _table_path(labels.table, root)
        columns = _joined(read_table(path), every, kept, labels.key, path)
        if any(entry is not None for entry in columns.get("split", ())):
            given = columns["split"]
        groups = texts_of(columns, "group", groups)
        more, note = targets_of(columns, labels.values, path, ("split", "group"))
        if clash := set(more) & set(targets):
            raise DiagnosticsError(
                f"{path} has a column {clash.pop()}, and class folders give that too: rename the column."
            )
        targets |= more
        notes.append(note)
    split, how, exchangeable = complete_splits(given, groups, labels.seed, source)
    about = join_notes(how, *notes, sentence(left_out, len(every)))
    return Labelled(root.resolve().name, files, split, groups, targets, about, left_out, exchangeable)


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
