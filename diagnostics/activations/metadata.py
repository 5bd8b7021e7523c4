"""Metadata of a store: its contents and observations.

They lie in Zarr groups whose metadata holds digests of itself and of their files.

A sealed group has two attributes of this kind, so that a changed byte is detected: `files`, a digest for each file
below it that is written once, and `digest`, of its own `zarr.json` without that entry. Plain Zarr reads it like any
other group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diagnostics.activations.bucket import Place
from diagnostics.activations.folder import writing
from diagnostics.activations.plan import Plan
from diagnostics.errors import DiagnosticsError
from diagnostics.options import decode
from diagnostics.vocabulary import SAFE_NAME, Family, Kind

NAME = "zarr.json"
MOST_BYTES = 32 * 2**20
"""Of a group's metadata: what is larger is not read."""
MOST_UNSTATED = 2**32
"""Bytes of a file of a run of format 4, which does not state them."""


class DamagedError(Exception):
    """Raised where what lies on disk is not what was written."""


@contextlib.contextmanager
def damage_of(name: str, errors: tuple[type[Exception], ...]) -> Generator[None]:
    """Turn one of these errors within this context into a DamagedError of the name of a file."""
    try:
        yield
    except errors as error:
        raise DamagedError(name) from error


class Sealing:
    """A sealed group while it is written: Zarr writes into `root`, in memory, and the folder's owner to the disk."""

    def __init__(self, folder: Place) -> None:
        import zarr  # which takes as long as all the rest to start, and few read arrays
        from zarr.storage import MemoryStore

        self.folder, self.files = folder, dict[str, str]()
        self._written = dict[str, Any]()
        self.root = zarr.open_group(MemoryStore(self._written), mode="w-", zarr_format=3)

    def put(self, *, metadata: bool = False) -> None:
        """Write the chunks that are in memory to the disk, and `metadata` where that will not change any more."""
        for name in [name for name in self._written if name != NAME and (metadata or not name.endswith(NAME))]:
            data = self._written.pop(name).to_bytes()
            self.folder.put(name, data)
            self.files[name] = digest(data)

    def seal(self, attributes: Mapping[str, Any]) -> None:
        """Write the rest, the group's own metadata last."""
        self.put(metadata=True)
        write_group(self.folder, {**attributes, "files": self.files})


def files_of_group(folder: Place) -> set[str]:
    """The files of a sealed group that it lists itself, as far as it can be read."""
    with contextlib.suppress(DamagedError, KeyError, TypeError):
        return {NAME, *map(str, read_attributes(read_document(folder))["files"])}
    return set()


def read_files(folder: Place, files: Mapping[str, str]) -> dict[str, bytes]:
    """The bytes of files.

    Raises DamagedError, naming the file, where one is missing or is not the one that was written.
    """

    def read(name: str) -> bytes:
        written = files[name]
        with damage_of(name, (OSError, ValueError)):
            data = folder.get(name, int(written.partition(" ")[2] or MOST_UNSTATED))
        if written not in (found := digest(data), found.partition(" ")[0]):
            raise DamagedError(name)
        return data

    return dict(zip(files, folder.each(read, files), strict=True))


def read_array(folder: Place, name: str, files: Mapping[str, str]) -> np.ndarray:
    """An array below a sealed group, all of it; raises DamagedError where it is not the one that was written."""
    import zarr.errors
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    if f"{name}/{NAME}" not in files:
        raise DamagedError(name)
    read = read_files(folder, {file: written for file, written in files.items() if file.startswith(f"{name}/")})
    store = MemoryStore({file.removeprefix(f"{name}/"): Buffer.from_bytes(data) for file, data in read.items()})
    with damage_of(name, (ValueError, TypeError, KeyError, RuntimeError, OSError, MemoryError)):
        return np.asarray(zarr.open_array(store, mode="r", zarr_format=3)[...])


def write_group(folder: Place, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A group's metadata, in place of what is there: the old or the new, whole; gives the attributes as they are read.

    It reaches the disk before it takes the old one's place: without it a run cannot be opened at all.
    """
    document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
    document = json.loads(json.dumps(document, default=plain))
    document["attributes"]["digest"] = _digest_of(document)
    data = json.dumps(document, indent=2).encode()
    if len(data) > MOST_BYTES:
        raise DiagnosticsError(
            f"The description of {folder.path} takes {len(data):,} bytes, more than {MOST_BYTES:,}: give fewer or "
            f"shorter names.",
            code="too-large",
        )
    folder.put(NAME, data, flushed=True)
    return document["attributes"]


def read_document(folder: Place) -> dict[str, Any]:
    """A group's metadata, sealed or not; raises DamagedError where it is no mapping, or too large or deep to be one."""
    with damage_of(NAME, (OSError, ValueError, TypeError, AttributeError, RecursionError)):
        document = json.loads(folder.get(NAME, MOST_BYTES))
        return {**document, "attributes": dict(document.get("attributes", {}))}


def read_attributes(document: Mapping[str, Any]) -> dict[str, Any]:
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
    """Read a sealed file; raises DamagedError where it is not what was written."""
    with damage_of("JSON", (ValueError, TypeError, KeyError, AttributeError, RecursionError)):
        values: dict[str, Any] = json.loads(data)
        written = values.pop("digest")
    if written != _blake(json.dumps(values, sort_keys=True).encode()):
        raise DamagedError("JSON")
    return values


def _digest_of(document: Mapping[str, Any]) -> str:
    attributes = {key: value for key, value in document["attributes"].items() if key != "digest"}
    return _blake(json.dumps({**document, "attributes": attributes}, sort_keys=True).encode())


def digest(data: bytes) -> str:
    """Digest of a file and its length in bytes, as a group keeps them."""
    return f"{_blake(data)} {len(data)}"


def _blake(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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


def write_observed(run: Place, key: str, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Arrays by tap in place of an earlier observation of that name; whole or not at all.

    `about` has the rest of `Observed`; `key` is the run's, which is kept so that another run's is noticed.
    """
    from zarr.codecs import Crc32cCodec

    observed, folder = run.inside("observed"), run.inside(f"observed/{name}")
    with writing(run.path, f"while writing {name}; "):
        if observed.head(NAME) is None:
            observed.put(NAME, json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}).encode())
        if earlier := files_of_group(folder):  # and not of another process that is writing it now
            folder.delete([NAME])  # without its index it is not there
            folder.delete(earlier)
        new = Sealing(folder)
        for tap, values in arrays.items():
            new.root.create_array(
                tap,
                data=np.ascontiguousarray(values),
                chunks=values.shape,
                compressors=Crc32cCodec(),
                fill_value=np.nan,
                config=WHOLE,
                dimension_names=("sample", *(f"{tap}_{i}" for i in range(1, values.ndim))),
                # One folder an array in place of one for each of its axes too, of thousands in a run.
                chunk_key_encoding={"name": "default", "separator": "."},
            )
        new.seal({**about, "name": name, "run": key, "taps": list(arrays)})


STREAMED = "streamed"
"""The folder of what launches leave of streamed targets until all is joined."""
_LEFT = re.compile(rf"{STREAMED}/[0-9a-f]{{32}}/[A-Za-z0-9_.-]+")


def left_names(run: Place) -> set[str]:
    """The files of what launches left of streamed targets."""
    return set(filter(_LEFT.fullmatch, run.list(STREAMED) if run.has_folder(STREAMED) else ()))


def observation_names(run: Place) -> set[str]:
    """The files of all observations."""
    there = run.list("observed") if run.has_folder("observed") else ()
    folders = {name.rpartition("/")[0] for name in there if name.endswith(f"/{NAME}") and name.count("/") < 3}
    return {f"{folder}/{file}" for folder in folders for file in files_of_group(run.inside(folder)) | {NAME}}


def read_observed(run: Place, key: str, name: str) -> Observed | None:
    """The observation of a name, None where there is none; raises DamagedError where this run did not write it."""
    folder = run.inside(f"observed/{name}")
    if not SAFE_NAME.fullmatch(name) or folder.head(NAME) is None:
        return None
    attributes = read_attributes(read_document(folder))
    with damage_of(name, (KeyError, ValueError, TypeError)):
        if attributes["name"] != name or attributes["run"] != key:
            raise DamagedError(name)
        observed: Observed = decode(Observed, attributes)
    if not all(SAFE_NAME.fullmatch(tap) for tap in observed.taps):
        raise DamagedError(name)
    read_files(folder, {file: digest for file, digest in observed.files.items() if file.endswith(NAME)})
    return observed


def read_observation(run: Place, name: str, observed: Observed) -> dict[str, np.ndarray]:
    """The arrays by tap; raises DamagedError where one is not what was written."""
    return {tap: read_array(run.inside(f"observed/{name}"), tap, observed.files) for tap in observed.taps}


COVERED = "covered"
"""Key of masks: not on a grid, but the part of the sample that the grid covers."""
_GRID = re.compile(rf"{COVERED}|\d{{1,9}}(x\d{{1,9}})*")
_POOLINGS = {"mean", "last", "prefix"}


@dataclass(frozen=True)
class TargetFacts:
    """Facts of a target that are stored beside its arrays.

    `grids` are the keys of those that lie on a sample's own axes.
    """

    kind: Kind
    units: str
    about: str
    classes: tuple[str, ...]
    family: Family | None
    grids: tuple[str, ...]
    period: float | None
    naive: bool


@dataclass(frozen=True)
class Contents:
    """Contents of a store, fixed when it is created except for `complete`.

    `reference_statistics` holds the mean and standard deviation of each tap on the encoder's example (stored as
    `witness`), `files` a digest of each file that was written with the store (metadata, samples and targets), by its
    path.
    """

    identity: Mapping[str, str]
    plan: Plan
    reference_statistics: Mapping[str, tuple[float, float]]
    targets: Mapping[str, TargetFacts]
    files: Mapping[str, str]
    complete: bool

    @property
    def run(self) -> bytes:
        """The key that the marks of its shards are made with: the same for the same activations, never for others."""
        return hashlib.blake2b(json.dumps(dict(self.identity), sort_keys=True).encode(), digest_size=32).digest()

    def to_attrs(self) -> dict[str, Any]:
        """The attributes as plain JSON values."""
        attrs = dataclasses.asdict(self)
        return {"witness" if key == "reference_statistics" else key: value for key, value in attrs.items()}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Contents:
        """Read from the attributes of a root, which may have others too.

        Raises ValueError, TypeError, KeyError or DiagnosticsError where one of these is missing or invalid.
        """
        contents: Contents = decode(cls, {**attrs, "reference_statistics": attrs["witness"]})
        # Where a tap is read is for its encoder to say.
        taps = tuple(dataclasses.replace(tap, site=None) for tap in contents.plan.taps)
        plan = dataclasses.replace(contents.plan, taps=taps)
        names = [tap.name for tap in plan.taps]
        if plan.output_tap not in names or len(set(names)) < len(names):
            raise ValueError("taps")
        if not plan.poolings or not set(plan.poolings) <= _POOLINGS:
            raise ValueError("poolings")
        if min(plan.samples, plan.shard, plan.pooled_shard, *(tap.features for tap in plan.taps)) < 1:
            raise ValueError("counts")
        if plan.pooled_shard != plan.samples and plan.pooled_shard % plan.shard:
            raise ValueError("shards")
        if not 0 <= plan.token_samples <= plan.samples:
            raise ValueError("rows with tokens")
        if set(contents.reference_statistics) != set(names):
            raise ValueError("reference statistics for each tap")
        if not all(SAFE_NAME.fullmatch(name) for name in contents.targets):
            raise ValueError("a name that no folder has")
        if not all(_GRID.fullmatch(key) for facts in contents.targets.values() for key in facts.grids):
            raise ValueError("the key of a grid")
        return dataclasses.replace(contents, plan=plan)
