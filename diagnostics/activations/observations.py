"""Stored observations (attention, gradients) of the first rows, by tap: a group of small arrays."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from diagnostics.activations.contents import valid
from diagnostics.activations.sealed import (
    NAME,
    DamagedError,
    files_below,
    read_array,
    read_document,
    read_files,
    sealed_attributes,
    write_group,
)
from diagnostics.errors import unwritable
from diagnostics.vocabulary import SAFE_NAME

WHOLE: Any = {"write_empty_chunks": True}
"""Of arrays in one chunk: it is written even where all of it is unknown, so that one that is not there is damage."""


@dataclass(frozen=True)
class Observed:
    """A stored observation: of how many samples, at which taps; or the reason why there is none.

    `state` is that of the code which recorded it, `left_out` the reasons of single taps.
    """

    samples: int
    taps: tuple[str, ...]
    reason: str
    left_out: dict[str, str]
    state: dict[str, str]
    files: dict[str, str]


def write_observed(run: Path, key: str, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Arrays by tap in place of an earlier observation of that name; whole or not at all.

    `about` has the rest of `Observed`; `key` is the run's, which is kept so that another run's is noticed.
    """
    folder = run / "observed"
    partial, final = folder / f".{name}.partial", folder / name
    try:
        if not (folder / NAME).is_file():
            zarr.open_group(folder, mode="a", zarr_format=3)
        shutil.rmtree(partial, ignore_errors=True)
        group = zarr.open_group(partial, mode="w-", zarr_format=3)
        for tap, values in arrays.items():
            group.create_array(
                tap, data=np.ascontiguousarray(values), chunks=values.shape, compressors=Crc32cCodec(),
                fill_value=np.nan, config=WHOLE,
                dimension_names=("sample", *(f"{tap}_{i}" for i in range(1, values.ndim))),
            )  # fmt: skip
        files = files_below(partial)
        write_group(partial, {**about, "name": name, "run": key, "taps": list(arrays), "files": files})
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(run, error, f"while writing {name}; ") from error
        raise


def read_observed(run: Path, key: str, name: str) -> Observed | None:
    """The observation of a name, None where there is none; raises DamagedError where this run did not write it."""
    folder = run / "observed" / name
    if not SAFE_NAME.fullmatch(name) or not folder.is_dir():
        return None
    attributes = sealed_attributes(read_document(folder))
    try:
        if attributes["name"] != name or attributes["run"] != key:
            raise DamagedError(name)
        observed: Observed = valid(Observed, attributes)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(name) from error
    if not all(SAFE_NAME.fullmatch(tap) for tap in observed.taps):
        raise DamagedError(name)
    read_files(folder, {file: digest for file, digest in observed.files.items() if file.endswith(NAME)})
    return observed


def observed_arrays(run: Path, name: str, observed: Observed) -> dict[str, np.ndarray]:
    """The arrays by tap; raises DamagedError where one is not what was written."""
    return {tap: read_array(run / "observed" / name, tap, observed.files) for tap in observed.taps}
