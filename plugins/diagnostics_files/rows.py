"""Rows of files: their ids, groups, splits and targets, for all kinds of samples; and texts, a row or a line each.

Splits are those given, completed by `complete_splits`; in archives they are drawn by each sample's id.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from diagnostics.plugin import Dataset, DiagnosticsError, LazySamples, complete_splits
from diagnostics_files.decode.tables import SUFFIXES, Columns, column, read_table, targets_of, texts_of
from diagnostics_files.errors import join_notes
from diagnostics_files.scan import file

SPECIAL = ("id", "group", "split")
"""Columns with a meaning of their own; all others become targets."""


def by_id(ids: Sequence[str], seed: int, name: str) -> tuple[list[str], str, bool | Literal["fit"]]:
    """The split of each sample, a function of its id and the seed alone; the rest as `complete_splits` gives it.

    So what is added or left out, as archives are, moves no other sample to another split: nothing that was trained on is tested on.
    A few samples of which some split would be empty are split as by `complete_splits`.
    """
    splits = [_split_of(sample, seed) for sample in ids]
    if seed < 0 or len(set(splits)) < len(_SHARES):
        return complete_splits([""] * len(ids), ids, seed, name)
    return splits, "the split of each drawn by its id", True


_SHARES = {"train": 0.6, "val": 0.8, "test": 1.0}
"""Up to which share of all numbers each split goes."""


def _split_of(sample: str, seed: int) -> str:
    number = int.from_bytes(hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=6).digest()) / 256**6
    return next(split for split, end in _SHARES.items() if number < end)


def described(
    columns: Columns, ids: Sequence[str], groups: Sequence[str] | None, values: str, seed: int, source: object
) -> tuple[list[str], dict[str, Any], str]:
    """Ids of rows; their split, targets and groups as `Dataset` takes them; and how these came about.

    `ids` and `groups` (the ids by default) are those of rows for which the columns have none.
    """
    ids = texts_of(columns, "id", ids)
    if len(set(ids)) < len(ids):
        raise DiagnosticsError(
            f"{source} gives the id {Counter(ids).most_common(1)[0][0]} to several samples: make ids unique."
        )
    groups = texts_of(columns, "group", groups or ids)
    targets, note = targets_of(columns, values, source, SPECIAL)
    given = columns.get("split", [None] * len(ids))
    split, how, exchangeable = complete_splits(given, groups, seed, str(source))
    rows = {"split": split, "targets": targets, "groups": groups, "exchangeable": exchangeable}
    return ids, rows, join_notes(how, note)


def texts(path: str, text: str, values: str, seed: int) -> Dataset:
    """See `plugin.texts`."""
    source = file(path, "texts", (*SUFFIXES, ".txt"))
    columns: Columns = {}
    if source.suffix.lower() == ".txt":
        try:
            entries: list[Any] = source.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DiagnosticsError(f"{source} is not UTF-8 text ({error}): save it as UTF-8.") from error
    else:
        columns = read_table(source)
        entries = column(columns, text, source, "text")
        del columns[text]
    texts = ["" if entry is None else str(entry) for entry in entries]
    if not texts:
        raise DiagnosticsError(f"{source} is empty: give one text per line.")
    for number, entry in enumerate(texts, 1):
        if not entry.strip():
            raise DiagnosticsError(f"Text {number} of {source} is empty: fill it in or remove it.")
    # The same words in train and test would be a test of memory.
    ids, rows, about = described(columns, [f"text-{i:06d}" for i in range(len(texts))], texts, values, seed, source)
    samples = LazySamples(len(texts), lambda i: np.asarray(texts[i]))
    return Dataset(source.resolve().stem, "text", samples, ids, **rows, about=join_notes(f"{len(texts)} texts", about))
