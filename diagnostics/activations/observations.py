"""Stored observations (attention, gradients) of the first rows, by tap: a group of small arrays."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diagnostics.activations.folder import Folder, writing
from diagnostics.activations.sealed import (
    NAME,
    DamagedError,
    Sealing,
    listed_files,
    read_array,
    read_document,
    read_files,
    sealed_attributes,
)
from diagnostics.options import decode
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


def write_observed(
    run: Folder, key: str, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> None:
    """Arrays by tap in place of an earlier observation of that name; whole or not at all.

    `about` has the rest of `Observed`; `key` is the run's, which is kept so that another run's is noticed.
    """
    from zarr.codecs import Crc32cCodec

    observed, folder = run.inside("observed"), run.inside(f"observed/{name}")
    with writing(run.path, f"while writing {name}; "):
        if observed.head(NAME) is None:
            observed.put(NAME, json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}).encode())
        earlier = listed_files(folder)
        folder.delete([NAME])  # without its index it is not there
        folder.delete(earlier)
        new = Sealing(folder)
        for tap, values in arrays.items():
            new.root.create_array(
                tap, data=np.ascontiguousarray(values), chunks=values.shape, compressors=Crc32cCodec(),
                fill_value=np.nan, config=WHOLE,
                dimension_names=("sample", *(f"{tap}_{i}" for i in range(1, values.ndim))),
            )  # fmt: skip
        new.seal({**about, "name": name, "run": key, "taps": list(arrays)})


def observed_names(run: Folder) -> set[str]:
    """The files of all observations."""
    there = run.list("observed") if run.has_folder("observed") else ()
    folders = {name.rpartition("/")[0] for name in there if name.endswith(f"/{NAME}") and name.count("/") < 3}
    return {f"{folder}/{file}" for folder in folders for file in listed_files(run.inside(folder)) | {NAME}}


def read_observed(run: Folder, key: str, name: str) -> Observed | None:
    """The observation of a name, None where there is none; raises DamagedError where this run did not write it."""
    folder = run.inside(f"observed/{name}")
    if not SAFE_NAME.fullmatch(name) or folder.head(NAME) is None:
        return None
    attributes = sealed_attributes(read_document(folder))
    try:
        if attributes["name"] != name or attributes["run"] != key:
            raise DamagedError(name)
        observed: Observed = decode(Observed, attributes)
    except (KeyError, ValueError, TypeError) as error:
        raise DamagedError(name) from error
    if not all(SAFE_NAME.fullmatch(tap) for tap in observed.taps):
        raise DamagedError(name)
    read_files(folder, {file: digest for file, digest in observed.files.items() if file.endswith(NAME)})
    return observed


def observed_arrays(run: Folder, name: str, observed: Observed) -> dict[str, np.ndarray]:
    """The arrays by tap; raises DamagedError where one is not what was written."""
    return {tap: read_array(run.inside(f"observed/{name}"), tap, observed.files) for tap in observed.taps}
