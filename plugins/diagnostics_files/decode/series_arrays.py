"""Series and their columns from arrays: `.npz` and Zarr."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics import DiagnosticsError
from diagnostics_files.decode.tables import Columns
from diagnostics_files.errors import check_bytes, damaged
from diagnostics_files.scan import safe_name

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
