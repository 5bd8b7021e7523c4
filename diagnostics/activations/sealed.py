"""Zarr groups whose metadata holds digests of itself and of their files, so that a changed byte is detected.

A sealed group has two attributes of this kind: `files`, a digest for each file below it that is written once, and `digest`,
of its own `zarr.json` without that entry. Plain Zarr reads it like any other group.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from diagnostics.activations.folder import Folder
from diagnostics.errors import DiagnosticsError

NAME = "zarr.json"
MOST_BYTES = 32 * 2**20
"""Of a group's metadata: what is larger is not read."""
MOST_UNSTATED = 2**32
"""Bytes of a file of a run of format 4, which does not state them."""


class DamagedError(Exception):
    """What lies on disk is not what was written."""


class Sealing:
    """A sealed group while it is written: Zarr writes into `root`, in memory, and the folder's owner to the disk."""

    def __init__(self, folder: Folder) -> None:
        import zarr  # which takes as long as all the rest to start, and few read arrays
        from zarr.storage import MemoryStore

        self.folder, self.files = folder, dict[str, str]()
        self._written = dict[str, Any]()
        self.root = zarr.open_group(MemoryStore(self._written), mode="w-", zarr_format=3)

    def put(self, *, metadata: bool = False) -> None:
        """Writes the chunks that are in memory to the disk, and `metadata` where that will not change any more."""
        for name in [name for name in self._written if name != NAME and (metadata or not name.endswith(NAME))]:
            data = self._written.pop(name).to_bytes()
            self.folder.put(name, data)
            self.files[name] = digest(data)

    def seal(self, attributes: Mapping[str, Any]) -> None:
        """Writes the rest, the group's own metadata last."""
        self.put(metadata=True)
        write_group(self.folder, {**attributes, "files": self.files})


def listed_files(folder: Folder) -> set[str]:
    """The files of a sealed group that it lists itself, as far as it can be read."""
    with contextlib.suppress(DamagedError, KeyError, TypeError):
        return {NAME, *map(str, sealed_attributes(read_document(folder))["files"])}
    return set()


def read_files(folder: Folder, files: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of files; raises DamagedError, naming the file, where one is missing or is not the one that was written."""
    contents: dict[str, bytes] = {}
    for name, written in files.items():
        try:
            contents[name] = folder.get(name, int(written.partition(" ")[2] or MOST_UNSTATED))
        except (OSError, ValueError) as error:
            raise DamagedError(name) from error
        if written not in (found := digest(contents[name]), found.partition(" ")[0]):
            raise DamagedError(name)
    return contents


def read_array(folder: Folder, name: str, files: Mapping[str, str]) -> np.ndarray:
    """An array below a sealed group, all of it; raises DamagedError where it is not the one that was written."""
    import zarr.errors
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if f"{name}/{NAME}" not in files:
        raise DamagedError(name)
    read = read_files(folder, {file: written for file, written in files.items() if file.startswith(f"{name}/")})
    store = MemoryStore({file.removeprefix(f"{name}/"): Buffer.from_bytes(data) for file, data in read.items()})
    try:
        return np.asarray(zarr.open_array(store, mode="r", zarr_format=3)[...])
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, MemoryError, zarr.errors.BaseZarrError) as error:
        raise DamagedError(name) from error


def write_group(folder: Folder, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's metadata, in place of what is there: the old or the new, whole; gives the attributes as they are read.

    It reaches the disk before it takes the old one's place: without it a run cannot be opened at all.
    """
    document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    document = json.loads(json.dumps(document, default=plain))
    document["attributes"]["digest"] = _digest_of(document)
    data = json.dumps(document, indent=2).encode()
    if len(data) > MOST_BYTES:
        raise DiagnosticsError(
            f"The description of {folder.path} takes {len(data):,} bytes, more than {MOST_BYTES:,}: give fewer or shorter names."
        )
    folder.put(NAME, data, flushed=True)
    return document["attributes"]


def read_document(folder: Folder) -> dict[str, Any]:
    """A group's metadata, sealed or not; raises DamagedError where it is no mapping, or too large or deep to be one."""
    try:
        document = json.loads(folder.get(NAME, MOST_BYTES))
        return {**document, "attributes": dict(document.get("attributes", {}))}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(NAME) from error


def sealed_attributes(document: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a sealed group; raises DamagedError where its metadata is not what it was sealed with."""
    attributes: dict[str, Any] = document["attributes"]
    if attributes.get("digest") != _digest_of(document):
        raise DamagedError(NAME)
    return attributes


def plain(value: Any) -> Any:
    """A number or an array of numpy as plain JSON."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored")


def seal(values: Mapping[str, Any]) -> bytes:
    """A JSON file that holds a digest of itself; `unseal` reads it."""
    return json.dumps({**values, "digest": _blake(json.dumps(values, sort_keys=True).encode())}).encode()


def unseal(data: bytes) -> dict[str, Any]:
    """What a sealed file says; raises DamagedError where it is not what was written."""
    try:
        values: dict[str, Any] = json.loads(data)
        written = values.pop("digest")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError("JSON") from error
    if written != _blake(json.dumps(values, sort_keys=True).encode()):
        raise DamagedError("JSON")
    return values


def _digest_of(document: Mapping[str, Any]) -> str:
    attributes = {key: value for key, value in document["attributes"].items() if key != "digest"}
    text = json.dumps({**document, "attributes": attributes}, sort_keys=True)
    return _blake(text.encode())


def digest(data: bytes) -> str:
    """What a group keeps of a file of its: a digest, and its length in bytes."""
    return f"{_blake(data)} {len(data)}"


def _blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
