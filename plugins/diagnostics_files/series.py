"""Files of series: arrays (`.npz`, Zarr) and tables (CSV, Parquet, JSON lines), a series a row or a step a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError, padded
from diagnostics_files.decode.series_arrays import read_npz, read_zarr
from diagnostics_files.decode.series_tables import SPECIAL, from_table
from diagnostics_files.decode.tables import SUFFIXES, Columns, read_table, targets_of
from diagnostics_files.errors import check_bytes, join_notes, warn
from diagnostics_files.lazy_dataset import Lazy
from diagnostics_files.scan import file
from diagnostics_files.splits import complete, from_column

_ROWS = 256


def build(path: str, *, values: str, seed: int) -> Dataset:
    """See `plugin.series`."""
    source = file(path, "series", (*SUFFIXES, ".npz", ".zarr"))
    suffix = source.suffix.lower()
    if suffix == ".zarr":
        array, columns = read_zarr(source)
        return _streamed(source, array, columns, values, seed)
    if suffix == ".npz":
        rows, columns = read_npz(source)
    else:
        rows, columns = from_table(read_table(source), source)
    return dataset(source.resolve().stem, rows, columns, values, seed, source)


def dataset(name: str, rows: Sequence[np.ndarray], columns: Columns, values: str, seed: int, where: object) -> Dataset:
    """Series [time] or [time, variate], each with its entries in the columns, as a dataset in memory."""
    ids, more, about = _described(columns, len(rows), values, seed, where)
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
    known = np.flatnonzero(~np.isnan(values).reshape(len(values), -1).all(axis=1))
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
    ids, more, about = _described(columns, array.shape[0], values, seed, path)
    lengths: list[int] = []
    block_bytes = min(_ROWS, array.shape[0]) * math.prod(array.shape[1:]) * max(array.dtype.itemsize, 4)
    check_bytes(block_bytes, f"{min(_ROWS, array.shape[0])} series of {path}", "store shorter series")
    for first in range(0, array.shape[0], _ROWS):
        block: Any = array[first : first + _ROWS]
        lengths += [len(trimmed(row, ids[first + i], path)) for i, row in enumerate(block)]
    longest = max(lengths)

    def sample(i: int) -> np.ndarray:
        row = trimmed(array[i], ids[i], path)
        filled = np.full((longest, *row.shape[1:]), np.nan, np.float32)
        filled[longest - len(row) :] = row
        return filled

    samples = Lazy(array.shape[0], sample)
    return Dataset(
        path.resolve().stem, "series", samples, ids, **more,
        about=_about(lengths, about, _cut(ids, [array.shape[1]] * len(ids), lengths, path)),
        ragged=min(lengths) < longest,
    )  # fmt: skip


def _described(
    columns: Columns, count: int, values: str, seed: int, where: object
) -> tuple[list[str], dict[str, Any], str]:
    """Ids; split, targets and groups as `Dataset` takes them; and how they came about."""
    unknown: list[Any] = [None] * count
    ids = [f"series-{i:06d}" if c is None else str(c) for i, c in enumerate(columns.get("id", unknown))]
    if len(set(ids)) < count:
        twice = Counter(ids).most_common(1)[0][0]
        raise DiagnosticsError(f"{where} gives the id {twice} to several series: make ids unique.")
    groups = [key if c is None else str(c) for key, c in zip(ids, columns.get("group", unknown), strict=True)]
    targets, note = targets_of(columns, values, where, SPECIAL)
    split, how = complete(from_column(columns.get("split", unknown), str(where)), groups, seed, str(where))
    return ids, {"split": split, "targets": targets, "groups": groups}, join_notes(how, note)


def _about(lengths: Sequence[int], about: str, cut: str) -> str:
    least, most = min(lengths), max(lengths)
    return join_notes(f"{len(lengths)} series of {least if least == most else f'{least} to {most}'} steps", about, cut)
