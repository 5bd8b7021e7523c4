"""Series and their columns: from tables, a series or a step a row; from the arrays of `.npz` and Zarr."""

import fnmatch
import io
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import DiagnosticsError
from diagnostics_files.decode.tables import Columns
from diagnostics_files.errors import check_bytes, damaged
from diagnostics_files.scan import safe_name

_STEP = re.compile(r"t?(\d+)")


def from_table(columns: Columns, where: Path, steps: str) -> tuple[list[np.ndarray], Columns]:
    """Series and their columns, in the layout that the column names show: `series`, `id` and `time`, or steps, like `steps` if given."""
    if "series" in columns and not steps:
        return [listed(entry, i, where) for i, entry in enumerate(columns["series"], 1)], _without(columns, {"series"})
    if "time" in columns and not steps:
        return _long(columns, where)
    names = fnmatch.filter(columns, steps) if steps else [name for name in columns if _STEP.fullmatch(name)]
    # By their number, since a table may have v10 before v2.
    names.sort(key=lambda name: int((re.findall(r"\d+", name) or ["0"])[-1]))
    if len(names) < 2:
        raise DiagnosticsError(
            f"{where} shows no series{f' in columns like {steps}' if steps else ''}: give steps as columns 0, 1, 2, ... (one series per "
            "row), or of other names, as ?steps=v*; columns id and time (one step per row), or lists in a column series."
        )
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
    if odd := [
        n for n in changing if n in ("id", "group", "split") or any(isinstance(entry, str) for entry in columns[n])
    ]:
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


def _without(columns: Columns, names: set[str]) -> Columns:
    return {name: entries for name, entries in columns.items() if name not in names}


_HEADER = 2**14
"""Bytes that hold the header of a `.npy`: NumPy takes none above 10,000."""


def read_npz(path: Path) -> tuple[list[np.ndarray], Columns]:
    """Series, and other arrays as their columns; raises for pickles and for what would not fit in memory."""
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
    """Bytes that the arrays of an `.npz` take by their own headers, which NumPy goes by; a small file may unpack to any size."""
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


def read_zarr(path: Path) -> tuple[Any, Columns]:
    """The array `series`, unread, and other arrays as its columns."""
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
            f"{path} cannot be read as a Zarr group ({type(error).__name__}): write it again."
        ) from error


def _series_array(arrays: dict[str, Any], path: Path) -> Any:
    name = _series_name(arrays)
    if name not in arrays:
        raise DiagnosticsError(
            f"{path} has no array series or X but {', '.join(arrays) or 'nothing'}: store [sample, time] or [sample, time, variate] "
            "under one of these names."
        )
    series = arrays[name]
    if series.dtype.kind not in "fiu" or series.ndim not in (2, 3) or 0 in series.shape:
        raise DiagnosticsError(
            f"Array {name} of {path} is {series.dtype} of shape {list(series.shape)}: give numbers as [sample, time] or "
            "[sample, time, variate]."
        )
    return series


def _series_name(arrays: dict[str, Any]) -> str:
    return "X" if "X" in arrays and "series" not in arrays else "series"


def _columns(arrays: dict[str, Any], count: int, path: Path) -> Columns:
    columns: Columns = {}
    series = _series_name(arrays)
    for name, array in arrays.items():
        if name == series:
            continue
        if array.shape != (count,) or array.dtype.kind not in "fiubUST":
            raise DiagnosticsError(
                f"Array {name} of {path} is {array.dtype} of shape {list(array.shape)}: give one number or text for each of "
                f"the {count} series, or take it out."
            )
        entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in np.asarray(array[:]).tolist()]
        # As scikit-learn's splitters call it, beside X and y.
        name = "group" if (series, name) == ("X", "groups") and "group" not in arrays else name
        columns[name] = [None if entry != entry or entry == "" else entry for entry in entries]
    return columns
