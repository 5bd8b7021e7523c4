"""The results of one encoder on disk, below the folder of its activations: written in one move, read in one order."""

from __future__ import annotations

import shutil
from pathlib import Path

import xarray as xr

from diagnostics.disk import unwritable
from diagnostics.errors import StorageError
from diagnostics.measuring import Measured


def write_results(path: Path, measured: Measured) -> None:
    """All results of one encoder, written beside the old ones and put in their place."""
    partial, final = path / ".results.partial", path / "results"
    try:
        path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        tree = xr.DataTree.from_dict({key: _storable(value) for key, value in measured.results.items()})
        tree.to_zarr(partial, zarr_format=3, consolidated=False, mode="w")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise unwritable(path, error, "while writing results; ") from error


def _storable(data: xr.Dataset) -> xr.Dataset:
    """Names as variable-length strings, which Zarr can store in a settled way."""
    texts = {key: values.astype(object) for key, values in data.variables.items() if values.dtype.kind in "UT"}
    return data.assign_coords({k: v for k, v in texts.items() if k in data.coords}).assign(
        {k: v for k, v in texts.items() if k not in data.coords}
    )


def open_results(path: Path) -> xr.DataTree:
    """All results of one encoder, in memory; raises where they cannot be read."""
    try:
        tree = xr.open_datatree(path / "results", engine="zarr", consolidated=False).load()
        # Zarr lists what a folder holds in another order each time.
        return xr.DataTree.from_dict({node.path: _sorted(node.to_dataset(inherit=False)) for node in tree.subtree})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise unreadable(path) from error


def _sorted(data: xr.Dataset) -> xr.Dataset:
    return data[sorted(map(str, data.data_vars))]


def unreadable(path: Path) -> StorageError:
    """The error for results that are not there, in part or at all."""
    return StorageError(f"The results in {path} cannot be read: give the same `diagnostics run` command again.")
