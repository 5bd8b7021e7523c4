"""Files of texts: a text a line, or a table with a column of texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError
from diagnostics_files.decode.tables import SUFFIXES, Columns, column, read_table
from diagnostics_files.errors import join_notes
from diagnostics_files.lazy_dataset import Lazy
from diagnostics_files.scan import file
from diagnostics_files.splits import described


def build(path: str, text: str, values: str, seed: int) -> Dataset:
    """See `plugin.texts`."""
    source = file(path, "texts", (*SUFFIXES, ".txt"))
    columns: Columns = {}
    if source.suffix.lower() == ".txt":
        try:
            entries: list[Any] = source.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DiagnosticsError(f"{source} is not UTF-8 text ({error}): save it anew.") from error
    else:
        columns = read_table(source)
        entries = column(columns, text, source, "text")
        del columns[text]
    texts = ["" if entry is None else str(entry) for entry in entries]
    if not texts:
        raise DiagnosticsError(f"{source} is empty: give a text a line.")
    for number, entry in enumerate(texts, 1):
        if not entry.strip():
            raise DiagnosticsError(f"Text {number} of {source} is empty: fill it in or remove it.")
    # The same words in train and test would be a test of memory.
    ids, rows, about = described(columns, [f"text-{i:06d}" for i in range(len(texts))], texts, values, seed, source)
    samples = Lazy(len(texts), lambda i: np.asarray(texts[i]))
    return Dataset(source.resolve().stem, "text", samples, ids, **rows, about=join_notes(f"{len(texts)} texts", about))
