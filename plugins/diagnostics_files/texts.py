"""Files of texts: a text a line, or a table with a column of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError, Target
from diagnostics_files.decode.tables import SUFFIXES, column, read_table, targets_of
from diagnostics_files.errors import join_notes
from diagnostics_files.lazy_dataset import Lazy
from diagnostics_files.scan import file
from diagnostics_files.splits import complete, from_column


def build(path: str, *, text: str, values: str, seed: int) -> Dataset:
    """See `plugin.texts`."""
    source = file(path, "texts", (*SUFFIXES, ".txt"))
    targets: dict[str, Target] = {}
    note, columns = "", dict[str, list[Any]]()
    if source.suffix.lower() == ".txt":
        try:
            entries: list[Any] = source.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DiagnosticsError(f"{source} is not UTF-8 text ({error}): save it anew.") from error
    else:
        columns = read_table(source)
        entries = column(columns, text, source, "text")
        targets, note = targets_of(columns, values, source, (text, "id", "group", "split"))
    texts = ["" if entry is None else str(entry) for entry in entries]
    if not texts:
        raise DiagnosticsError(f"{source} is empty: give a text a line.")
    for number, entry in enumerate(texts, 1):
        if not entry.strip():
            raise DiagnosticsError(f"Text {number} of {source} is empty: fill it in or remove it.")
    unknown = [None] * len(texts)
    ids = [f"text-{i:06d}" if c is None else str(c) for i, c in enumerate(columns.get("id", unknown))]
    # The same words in train and test would be a test of memory.
    groups = [entry if c is None else str(c) for entry, c in zip(texts, columns.get("group", unknown), strict=True)]
    split, how = complete(from_column(columns.get("split", unknown), str(source)), groups, seed, f"texts:{path}")
    return Dataset(
        source.resolve().stem,
        "text",
        Lazy(len(texts), lambda i: np.asarray(texts[i])),
        ids,
        split,
        targets,
        groups=groups,
        about=join_notes(f"{len(texts)} texts", how, note),
    )
