"""Files of series: arrays (`.npz`, Zarr) and tables (CSV, Parquet, JSON lines), a series a row or a step a row."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import Dataset, DiagnosticsError, padded
from diagnostics_files.decode.tables import SUFFIXES, Columns, read_table, targets_of
from diagnostics_files.errors import check_bytes, damaged, told, warn
from diagnostics_files.lazy_dataset import Lazy
from diagnostics_files.scan import file, safe_name
from diagnostics_files.splits import complete, from_column

SPECIAL = ("id", "group", "split")
"""Columns with a meaning of their own; all others become targets."""
_STEP = re.compile(r"t?(\d+)")
_ROWS = 256
_HEADER = 2**14
"""Bytes that hold the header of a `.npy`: NumPy takes none above 10,000."""


def build(path: str, *, values: str, seed: int) -> Dataset:
    """See `plugin.series`."""
    source = file(path, "series", (*SUFFIXES, ".npz", ".zarr"))
    suffix = source.suffix.lower()
    if suffix == ".zarr":
        array, columns = _zarr(source)
        return _streamed(source, array, columns, values, seed)
    if suffix == ".npz":
        found, columns = _npz(source)
    else:
        found, columns = from_table(read_table(source), source)
    return dataset(source.resolve().stem, found, columns, values, seed, source)


def dataset(name: str, found: Sequence[np.ndarray], columns: Columns, values: str, seed: int, where: object) -> Dataset:
    """Series [time] or [time, variate], each with its entries in the columns, as a dataset in memory."""
    ids, more, about = _described(columns, len(found), values, seed, where)
    series = [trimmed(one, key, where) for one, key in zip(found, ids, strict=True)]
    if len({one.shape[1:] for one in series}) > 1:
        raise DiagnosticsError(f"Series of {where} have different numbers of variates: give all the same.")
    lengths = [len(one) for one in series]
    cut = _cut(ids, [len(one) for one in found], lengths, where)
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
    one = len(shorter) == 1
    note = (
        f"{len(shorter)} of {len(ids)} series ({shorter[0]}{'' if one else ' first'}) {'begins or ends' if one else 'begin or end'} "
        "with unknown steps, which are left out"
    )
    if len(set(given)) == 1 < len(set(lengths)):
        note += ", and as lengths then differ, only pooled activations of all series are stored and no tokens"
    warn(f"{where}: {note}.")
    return note


def from_table(columns: Columns, where: Path) -> tuple[list[np.ndarray], Columns]:
    """Series and their columns, in the layout that the column names show: `series`, `id` and `time`, or steps."""
    if "series" in columns:
        return [listed(entry, i, where) for i, entry in enumerate(columns["series"], 1)], _without(columns, {"series"})
    if "time" in columns:
        return _long(columns, where)
    steps = sorted((int(match[1]), name) for name in columns if (match := _STEP.fullmatch(name)))
    if len(steps) < 2:
        raise DiagnosticsError(
            f"{where} shows no series: give steps as columns 0, 1, 2, ... (a series a row), columns id and time (a step a "
            "row), or lists in a column series."
        )
    names = [name for _, name in steps]
    if (text := next((n for n in names if any(isinstance(entry, str) for entry in columns[n])), None)) is not None:
        raise DiagnosticsError(f"Column {text} of {where} holds text, not the numbers of a step: correct it.")
    values = np.array([[np.nan if entry is None else entry for entry in columns[n]] for n in names], dtype=np.float64)
    return list(values.T), _without(columns, set(names))


def _long(columns: Columns, where: Path) -> tuple[list[np.ndarray], Columns]:
    """A step a row: what is the same in all steps of every series belongs to the series, what changes is a variate."""
    if "id" not in columns:
        raise DiagnosticsError(
            f"{where} has a column time and no column id: say with id which series a row belongs to."
        )
    rows_of: dict[Any, list[int]] = {}
    for row, key in enumerate(columns["id"]):
        rows_of.setdefault(key, []).append(row)
    times = columns["time"]
    if None in rows_of or None in times:
        raise DiagnosticsError(f"{where} has rows without id or time: fill them in or remove them.")
    for key, rows in rows_of.items():
        rows.sort(key=lambda row: times[row])
        if len({times[row] for row in rows}) < len(rows):
            raise DiagnosticsError(f"Series {key} of {where} has two rows of one time: keep one of them.")
    rest = [name for name in columns if name not in ("id", "time")]
    changing = [n for n in rest if any(len({columns[n][row] for row in rows}) > 1 for rows in rows_of.values())]
    if odd := [n for n in changing if n in SPECIAL or any(isinstance(entry, str) for entry in columns[n])]:
        raise DiagnosticsError(
            f"Column {odd[0]} of {where} changes within a series and is no number: give one for each series."
        )
    if not changing:
        raise DiagnosticsError(f"No column of {where} changes within a series: give at least one column of values.")
    values = np.array([[np.nan if e is None else e for e in columns[n]] for n in changing], dtype=np.float64).T
    of_series = {n: [columns[n][rows[0]] for rows in rows_of.values()] for n in rest if n not in changing}
    return [values[rows] for rows in rows_of.values()], {"id": list(rows_of), **of_series}


def listed(entry: Any, row: int, where: object) -> np.ndarray:
    """A list of numbers, or of lists of a number for each variate, as [time] or [time, variate]."""
    try:
        steps = [
            [np.nan if v is None else v for v in s] if isinstance(s, list) else np.nan if s is None else s
            for s in entry
        ]
        series = np.array(steps, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DiagnosticsError(f"Row {row} of {where} holds no list of numbers: correct it.") from error
    if series.ndim not in (1, 2):
        raise DiagnosticsError(
            f"The series in row {row} of {where} has {series.ndim} axes: give [time] or [time, variate]."
        )
    return series


def _npz(path: Path) -> tuple[list[np.ndarray], Columns]:
    try:
        check_bytes(_declared(path), f"{path} unpacked", "split it into several files, or store it as Zarr")
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {str(safe_name(name, str(path))): archive[name] for name in archive.files}
    except DiagnosticsError:
        raise
    except Exception as error:
        why = "it holds a pickle, which could run anything" if "allow_pickle" in str(error) else error
        raise damaged(str(path), why, skip=False) from error
    series = _series_array(arrays, path)
    return list(series), _columns(arrays, len(series), path)


def _declared(path: Path) -> int:
    """Bytes that the arrays of an `.npz` take, by their own headers; a small file may unpack to any size.

    NumPy reads as many bytes as a header says, whatever the archive says of its members.
    """
    total = 0
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                start = io.BytesIO(member.read(_HEADER))
            version = np.lib.format.read_magic(start)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(start)
            if min(shape, default=0) < 0:
                raise ValueError(f"{info.filename} has the shape {list(shape)}")
            total += math.prod(shape) * max(dtype.itemsize, 4)  # series become float32
    return total


def _zarr(path: Path) -> tuple[Any, Columns]:
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        arrays: dict[str, Any] = dict(group.arrays())
        series = _series_array(arrays, path)
        return series, _columns(arrays, series.shape[0], path)
    except DiagnosticsError:
        raise
    except Exception as error:
        raise DiagnosticsError(
            f"{path} cannot be read as a Zarr group ({type(error).__name__}): write it anew."
        ) from error


def _series_array(arrays: dict[str, Any], path: Path) -> Any:
    if "series" not in arrays:
        raise DiagnosticsError(
            f"{path} has no array series but {', '.join(arrays) or 'nothing'}: store [sample, time] or [sample, time, variate] "
            "under that name."
        )
    series = arrays["series"]
    if series.dtype.kind not in "fiu" or series.ndim not in (2, 3) or 0 in series.shape:
        raise DiagnosticsError(
            f"Array series of {path} is {series.dtype} of shape {list(series.shape)}: give numbers as [sample, time] or "
            "[sample, time, variate]."
        )
    return series


def _columns(arrays: dict[str, Any], count: int, path: Path) -> Columns:
    columns: Columns = {}
    for name, array in arrays.items():
        if name == "series":
            continue
        if array.shape != (count,) or array.dtype.kind not in "fiubUST":
            raise DiagnosticsError(
                f"Array {name} of {path} is {array.dtype} of shape {list(array.shape)}: give one number or text for each of "
                f"the {count} series, or take it out."
            )
        entries = [_text(entry) for entry in np.asarray(array[:]).tolist()]
        columns[name] = [None if entry != entry or entry == "" else entry for entry in entries]
    return columns


def _text(entry: Any) -> Any:
    return entry.decode() if isinstance(entry, bytes) else entry


def _streamed(path: Path, array: Any, columns: Columns, values: str, seed: int) -> Dataset:
    """The same from a Zarr array, of which a few rows are in memory at a time."""
    ids, more, about = _described(columns, array.shape[0], values, seed, path)
    lengths: list[int] = []
    block_bytes = min(_ROWS, array.shape[0]) * math.prod(array.shape[1:]) * max(array.dtype.itemsize, 4)
    check_bytes(block_bytes, f"{min(_ROWS, array.shape[0])} series of {path}", "store shorter series")
    for first in range(0, array.shape[0], _ROWS):
        block: Any = array[first : first + _ROWS]
        lengths += [len(trimmed(one, ids[first + i], path)) for i, one in enumerate(block)]
    longest = max(lengths)

    def sample(i: int) -> np.ndarray:
        one = trimmed(array[i], ids[i], path)
        made = np.full((longest, *one.shape[1:]), np.nan, np.float32)
        made[longest - len(one) :] = one
        return made

    made = Lazy(array.shape[0], sample)
    return Dataset(
        path.resolve().stem, "series", made, ids, **more,
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
    return ids, {"split": split, "targets": targets, "groups": groups}, told(how, note)


def _about(lengths: Sequence[int], about: str, cut: str) -> str:
    least, most = min(lengths), max(lengths)
    return told(f"{len(lengths)} series of {least if least == most else f'{least} to {most}'} steps", about, cut)


def _without(columns: Columns, names: set[str]) -> Columns:
    return {name: entries for name, entries in columns.items() if name not in names}
