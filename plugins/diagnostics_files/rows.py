"""Rows of files: their ids, groups, splits and targets, for all kinds of samples; and texts, a row or a line each.

Splits are as given, completed where only two are there, and drawn over groups where there is none; in archives by each sample's id.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from diagnostics import Dataset, DiagnosticsError, LazySamples, split_groups
from diagnostics_files.decode.tables import SUFFIXES, Columns, column, read_table, targets_of, texts_of
from diagnostics_files.errors import join_notes
from diagnostics_files.scan import SPLIT_OF, file

SPECIAL = ("id", "group", "split")
"""Columns with a meaning of their own; all others become targets."""
VAL_SHARE = 0.2
"""Of the groups of train, where val is carved out of it."""
GIVEN = "splits as given"
"""How all splits came about where none was drawn: train and val need not be exchangeable then."""
GIVEN_TEST = "test is the given"
"""How they begin where only val was drawn, from train."""


def complete(given: Sequence[str], groups: Sequence[str], seed: int, name: str) -> tuple[list[str], str]:
    """The split of each sample, and how it came about in words.

    `given` holds `train`, `val`, `test`, or `""` for no split. With three splits they stay. With train and one other, that
    other is test, since what is reported must not have chosen anything, and a fifth of the groups of train becomes val.
    With one or none, all three are drawn over groups.
    """
    if seed < 0:
        raise DiagnosticsError(f"Dataset {name} cannot have seed={seed}: give 0 or more.")
    names = set(given)
    if "" in names and len(names) > 1:
        raise DiagnosticsError(f"Some samples of {name} have a split and others have none: give one to all or to none.")
    if len(names) == 3:
        return list(given), GIVEN
    if len(names) == 1:
        return [str(split) for split in split_groups(groups, seed)], "splits drawn over groups"
    if "train" not in names:
        raise DiagnosticsError(f"{name} has {' and '.join(sorted(names))} and no train samples: add a train split.")
    (other,) = names - {"train"}
    mine = sorted({group for group, split in zip(groups, given, strict=True) if split == "train"})
    if len(mine) < 2:
        raise DiagnosticsError(
            f"The train split of {name} is one group, so no val can be carved out: add samples to it."
        )
    order = np.random.default_rng(seed).permutation(len(mine))
    count = min(len(mine) - 1, max(1, round(VAL_SHARE * len(mine))))
    val = {mine[i] for i in order[:count]}
    splits = [
        "test" if split == other else "val" if group in val else "train"
        for group, split in zip(groups, given, strict=True)
    ]
    return splits, f"{GIVEN_TEST} {other}, val a fifth of train"


def of_one_pool(how: str) -> bool | Literal["fit"]:
    """`Dataset.exchangeable` of splits that came about in this way, as `complete` and `by_id` put it in words."""
    return how != GIVEN and ("fit" if how.startswith(GIVEN_TEST) else True)


def by_id(ids: Sequence[str], seed: int, name: str) -> tuple[list[str], str]:
    """The split of each sample, a function of its id and the seed alone, and how it came about in words.

    So what is added or left out, as archives are, moves no other sample to another split: nothing that was trained on is tested on.
    A few samples of which some split would be empty are `complete`d.
    """
    splits = [_split_of(sample, seed) for sample in ids]
    if seed < 0 or len(set(splits)) < len(_SHARES):
        return complete([""] * len(ids), ids, seed, name)
    return splits, "the split of each drawn by its id"


_SHARES = {"train": 0.6, "val": 0.8, "test": 1.0}
"""Up to which share of all numbers each split goes."""


def _split_of(sample: str, seed: int) -> str:
    number = int.from_bytes(hashlib.blake2b(f"{seed} {sample}".encode(), digest_size=6).digest()) / 256**6
    return next(split for split, end in _SHARES.items() if number < end)


def from_column(column: Sequence[object], where: str) -> list[str]:
    """Entries of a column `split` as splits."""
    splits: list[str] = []
    for entry in column:
        text = "" if entry is None else str(entry).strip().lower()
        if text and text not in SPLIT_OF:
            raise DiagnosticsError(f"Column split of {where} holds '{entry}': give train, val or test.")
        splits.append(SPLIT_OF.get(text, ""))
    return splits


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
    given = from_column(columns.get("split", [None] * len(ids)), str(source))
    split, how = complete(given, groups, seed, str(source))
    rows = {"split": split, "targets": targets, "groups": groups, "exchangeable": of_one_pool(how)}
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
