"""Series and texts of one file, a row or a block of rows each."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diagnostics.plugin import Dataset, DiagnosticsError, LazySamples, complete_splits, padded
from diagnostics_files.decode.tables import (
    SUFFIXES,
    Columns,
    column,
    from_table,
    read_npz,
    read_table,
    read_zarr,
    targets_of,
    texts_of,
)
from diagnostics_files.folder import check_bytes, file, join_notes, need, pad_left, warn

# Rows of files: their ids, groups, splits and targets, for all kinds of samples; and texts, a row or a line each.
#
# Splits are those given, completed by `complete_splits`; in archives they are drawn by each sample's id.


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


# Files of series: arrays (`.npz`, Zarr), tables (CSV, Parquet, JSON lines), and `.ts` files of the UCR and UEA archives.


_ROWS = 256


def series(path: str, values: str, steps: str, roles: Mapping[str, str], seed: int) -> Dataset:
    """See `plugin.series`."""
    source = file(path, "series", (*SUFFIXES, ".npz", ".zarr"))
    suffix = source.suffix.lower()
    if suffix in (".npz", ".zarr") and (steps or any(roles.values())):
        raise DiagnosticsError(f"{source} holds arrays and no columns: leave out ?steps=, ?id= and ?group=.")
    if suffix == ".zarr":
        array, columns = read_zarr(source)
        return _streamed(source, array, columns, values, seed)
    if suffix == ".npz":
        rows, columns = read_npz(source)
    else:
        table = read_table(source)
        for role, name in roles.items():
            if name:
                column(table, name, source, role)
                table[role] = table.pop(name)
        rows, columns = from_table(table, source, steps)
    return dataset(source.resolve().stem, rows, columns, values, seed, source)


def dataset(name: str, rows: Sequence[np.ndarray], columns: Columns, values: str, seed: int, where: object) -> Dataset:
    """Series [time] or [time, variate], each with its entries in the columns, as a dataset in memory."""
    ids, more, about = described(columns, [f"series-{i:06d}" for i in range(len(rows))], None, values, seed, where)
    series = [trimmed(row, key, where) for row, key in zip(rows, ids, strict=True)]
    if len({row.shape[1:] for row in series}) > 1:
        raise DiagnosticsError(f"Series of {where} have different numbers of variates: give all the same.")
    lengths = [len(row) for row in series]
    cut = _cut(ids, [len(row) for row in rows], lengths, where)
    return Dataset(
        name, "series", padded(series), ids, **more, about=_about(lengths, about, cut), ragged=len(set(lengths)) > 1
    )


def trimmed(series: np.ndarray, name: str, where: object) -> np.ndarray:
    """A series without the steps before its first and after its last known value, float32; refuses infinity and nothing.

    NaN in between is a gap and stays.
    """
    values = np.asarray(series, dtype=np.float32)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if np.isinf(values).any():
        raise DiagnosticsError(
            f"Series {name} of {where} is infinite somewhere: leave a gap (NaN) where nothing is known."
        )
    known = np.flatnonzero(~np.isnan(values).all(axis=tuple(range(1, values.ndim))))
    if len(known) == 0:
        raise DiagnosticsError(f"Series {name} of {where} has no known value: remove it.")
    return values[known[0] : known[-1] + 1]


def _cut(ids: Sequence[str], given: Sequence[int], lengths: Sequence[int], where: object) -> str:
    """In words, also on stderr, which series lost steps at their ends, and what follows where only that makes lengths differ."""
    shorter = [key for key, before, after in zip(ids, given, lengths, strict=True) if after < before]
    if not shorter:
        return ""
    single = len(shorter) == 1
    note = (
        f"{len(shorter)} of {len(ids)} series ({shorter[0]}{'' if single else ' first'}) {'begins or ends' if single else 'begin or end'} "
        "with unknown steps, which are left out"
    )
    if len(set(given)) == 1 < len(set(lengths)):
        note += ", and as lengths then differ, only pooled activations of all series are stored and no tokens"
    warn(f"{where}: {note}.")
    return note


def _streamed(path: Path, array: Any, columns: Columns, values: str, seed: int) -> Dataset:
    """The same from a Zarr array, of which a few rows are in memory at a time."""
    ids, more, about = described(columns, [f"series-{i:06d}" for i in range(array.shape[0])], None, values, seed, path)
    lengths: list[int] = []
    block_bytes = min(_ROWS, array.shape[0]) * math.prod(array.shape[1:]) * max(array.dtype.itemsize, 4)
    check_bytes(block_bytes, f"{min(_ROWS, array.shape[0])} series of {path}", "store shorter series")
    for first in range(0, array.shape[0], _ROWS):
        block: Any = array[first : first + _ROWS]
        lengths += [len(trimmed(row, ids[first + i], path)) for i, row in enumerate(block)]
    longest = max(lengths)

    samples = LazySamples(array.shape[0], lambda i: pad_left(trimmed(array[i], ids[i], path), longest))
    return Dataset(
        path.resolve().stem, "series", samples, ids, **more,
        about=_about(lengths, about, _cut(ids, [array.shape[1]] * len(ids), lengths, path)),
        ragged=min(lengths) < longest,
    )  # fmt: skip


def _about(lengths: Sequence[int], about: str, cut: str) -> str:
    least, most = min(lengths), max(lengths)
    return join_notes(f"{len(lengths)} series of {least if least == most else f'{least} to {most}'} steps", about, cut)


def ts(path: str, seed: int) -> Dataset:
    """See `plugin.ts`."""
    source = file(path, "ts", (".ts",))
    stem, _, part = source.stem.rpartition("_")
    if part not in ("TRAIN", "TEST"):
        return archive(source.stem, {"": source}, seed)
    both = {split: source.with_name(f"{stem}_{split.upper()}.ts") for split in ("train", "test")}
    for other in both.values():
        if not other.is_file():
            raise DiagnosticsError(
                f"{source} has no {other.name} beside it: add that, or rename the file to {stem}.ts."
            )
    return archive(stem, both, seed)


def archive(name: str, files: dict[str, Path], seed: int) -> Dataset:
    """The series of `.ts` files, split -> file (`""` for no split), as one dataset with the target `label` or `value`."""
    samples: list[np.ndarray] = []
    columns: Columns = {"id": [], "split": []}
    for split, path in files.items():
        series, answers, kind = _read(path)
        samples += series
        columns["id"] += [f"{split or 'series'}-{i:05d}" for i in range(len(series))]
        columns["split"] += [split or None] * len(series)
        columns.setdefault(kind, []).extend(answers)
    if len(columns) > 3 or any(len(entries) != len(samples) for entries in columns.values()):
        raise DiagnosticsError(f"{name} has classes in one file and numbers in the other: give two files of one kind.")
    return dataset(name, samples, columns, "", seed, name)


def _read(path: Path) -> tuple[list[np.ndarray], list[Any], str]:
    loaders = need("aeon.datasets", "aeon", f"Reading {path.name}")
    try:
        series, answers, facts = loaders.load_from_ts_file(str(path), return_meta_data=True)
    except Exception as error:
        raise DiagnosticsError(
            f"{path} cannot be read as .ts ({type(error).__name__}: {error}): compare it with the format of the archives."
        ) from error
    if len(series) == 0:
        raise DiagnosticsError(f"{path} holds no series: they follow a line @data.")
    if not (facts["classlabel"] or facts["targetlabel"]):
        raise DiagnosticsError(f"{path} has neither classes nor target values: its header must say which.")
    known = [None if answer != answer or answer == "?" else answer for answer in np.asarray(answers).tolist()]
    return [sample.T for sample in series], known, "label" if facts["classlabel"] else "value"
