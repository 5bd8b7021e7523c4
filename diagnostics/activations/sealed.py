"""Zarr groups whose metadata holds digests of itself and of their files, so that a changed byte is detected.

A sealed group has two attributes of this kind: `files`, a digest for each file below it that is written once, and `digest`,
of its own `zarr.json` without that entry. Plain Zarr reads it like any other group.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors

from diagnostics.errors import DiagnosticsError

NAME = "zarr.json"
MOST_BYTES = 32 * 2**20
"""Of a group's metadata: what is larger is not read."""


class DamagedError(Exception):
    """What lies on disk is not what was written."""


def files_below(folder: Path) -> dict[str, str]:
    """Digests of the files below a folder, by their path from there; its own metadata is not among them."""
    files = sorted({path for path in folder.rglob("*") if path.is_file()} - {folder / NAME})
    return {path.relative_to(folder).as_posix(): _digest(path.read_bytes()) for path in files}


def read_files(folder: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of files; raises DamagedError, naming the file, where one is missing or is not the one that was written."""
    contents: dict[str, bytes] = {}
    for name, digest in files.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedError(name) from error
        if _digest(contents[name]) != digest:
            raise DamagedError(name)
    return contents


def read_array(folder: Path, name: str, files: Mapping[str, str]) -> np.ndarray:
    """An array below a sealed group, all of it; raises DamagedError where it is not the one that was written."""
    if f"{name}/{NAME}" not in files:
        raise DamagedError(name)
    read_files(folder, {file: digest for file, digest in files.items() if file.startswith(f"{name}/")})
    try:
        array = zarr.open_array(folder / name, mode="r", zarr_format=3)
        return np.asarray(array[...])
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, MemoryError, zarr.errors.BaseZarrError) as error:
        raise DamagedError(name) from error


def write_group(folder: Path, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's metadata, in place of what is there: the old or the new, whole; gives the attributes as they are read.

    It reaches the disk before it takes the old one's place: without it a run cannot be opened at all.
    """
    document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    document = json.loads(json.dumps(document, default=_plain))
    document["attributes"]["digest"] = _digest_of(document)
    data = json.dumps(document, indent=2).encode()
    if len(data) > MOST_BYTES:
        raise DiagnosticsError(
            f"The description of {folder} takes {len(data):,} bytes, more than {MOST_BYTES:,}: give fewer or shorter names."
        )
    partial = folder / f".{NAME}.partial"
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / NAME)
    return document["attributes"]


def read_document(folder: Path) -> dict[str, Any]:
    """A group's metadata, sealed or not; raises DamagedError where it is no mapping, or too large or deep to be one."""
    path = folder / NAME
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise DamagedError(NAME)
        document = json.loads(path.read_bytes())
        return {**document, "attributes": dict(document.get("attributes", {}))}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(NAME) from error


def sealed_attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a sealed group; raises DamagedError where its metadata is not what it was sealed with."""
    attributes: dict[str, Any] = document["attributes"]
    if attributes.get("digest") != _digest_of(document):
        raise DamagedError(NAME)
    return attributes


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _digest_of(document: Mapping[str, Any]) -> str:
    attributes = {key: value for key, value in document["attributes"].items() if key != "digest"}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True)
    return _digest(text.encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
