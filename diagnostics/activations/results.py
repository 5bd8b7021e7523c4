"""The results of a run on disk: one tree for the encoder and its controls, merged and replaced atomically.

    results/                                attributes: which results there are, which call gave each, what is left out
    results/<measure>[/<target>]            of the encoder
    results/controls/<control>/<measure>[/<target>]

Whoever opens a run between the two renames of a replacement, or after a kill there, reads the old results, whole.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import xarray as xr
import zarr.errors
from zarr.buffer.cpu import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from diagnostics.activations.folder import Folder, writing
from diagnostics.activations.sealed import (
    NAME,
    DamagedError,
    digest,
    listed_files,
    read_document,
    read_files,
    sealed_attributes,
    write_group,
)
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError

RESULTS = "results"
CONTROLS = "controls"
"""The group of the controls' results; no measure may have this name."""
ENCODER = ""
"""The owner of the encoder's own results, beside the names of controls."""


@dataclass(frozen=True)
class Entry:
    """One result: its key `measure/target` or `measure`, whether it compares pairs of taps, and the call that gave it."""

    key: str
    pairwise: bool
    call: int

    @property
    def measure(self) -> str:
        """The measure's name."""
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Omission:
    """What is left out, and why: a measure, a measure of one target, of a control, or a control altogether."""

    reason: str
    key: str = ""
    control: str = ""
    failed: bool = False
    """Whether it broke, where others have no value here by their nature."""
    call: int = 0

    @property
    def label(self) -> str:
        """What is left out, in words."""
        return " of ".join(filter(None, (self.key, self.control)))


@dataclass(frozen=True)
class Index:
    """Which results there are, by encoder and control; what is left out; and the calls that gave them, the latest last."""

    entries: Mapping[str, Sequence[Entry]] = field(default_factory=dict[str, Sequence[Entry]])
    omissions: Sequence[Omission] = ()
    calls: Sequence[Mapping[str, Any]] = ()

    def names(self, owner: str = ENCODER, *, pairwise: bool | None = None) -> list[str]:
        """Keys of the encoder's results, or a control's; only those (not) of pairs of taps where that is asked."""
        return [e.key for e in self.entries.get(owner, ()) if pairwise is None or e.pairwise is pairwise]

    @property
    def controls(self) -> list[str]:
        """The controls that have results."""
        return [owner for owner in self.entries if owner != ENCODER]

    def call_of(self, key: str, owner: str = ENCODER) -> Mapping[str, Any]:
        """The call that gave a result: created, seed, options, versions."""
        return self.calls[next(e.call for e in self.entries[owner] if e.key == key)]


def results_folder(run: Folder) -> Folder | None:
    """Where the results of a run lie: in their place, or as before where a replacement was cut off in between."""
    # Asked for again: a replacement that ends between two looks moves them.
    places = (RESULTS, f".{RESULTS}.previous", RESULTS)
    return next((run.inside(place) for place in places if run.head(f"{place}/{NAME}") is not None), None)


def read_index(store: Store) -> Index | None:
    """Which results a run has; None where there are none yet. Raises where that cannot be read, or another run's lie there."""
    folder = results_folder(store.folder)
    if folder is None:
        return None
    try:
        attributes = sealed_attributes(read_document(folder))
        entries = {owner: [Entry(**entry) for entry in rows] for owner, rows in attributes["entries"].items()}
        index = Index(entries, [Omission(**row) for row in attributes["omissions"]], attributes["calls"])
        calls = [each.call for each in (*chain(*entries.values()), *index.omissions)]
        if not index.calls or not all(type(call) is int and 0 <= call < len(index.calls) for call in calls):
            raise ValueError("calls")
    except (DamagedError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise unreadable(store.path) from error
    if attributes.get("run") != store.mark:
        raise StorageError(
            f"The results in {store.path} are those of another run: copy its own there, or give the `diagnostics run` command again "
            "with --fresh."
        )
    return index


def open_results(store: Store) -> xr.DataTree:
    """All results of a run, the controls' below `controls`, in memory; raises where they cannot be read."""
    # Each file is read to be verified, and xarray reads many small files much faster from memory.
    files = MemoryStore({name: Buffer.from_bytes(data) for name, data in _read(store).items()}, read_only=True)
    try:
        groups = xr.open_groups(files, engine="zarr", consolidated=False)  # pyright: ignore[reportArgumentType]  (stores are taken, paths alone are typed)
        # Zarr lists what a folder holds in another order each time.
        ordered = {name: group[sorted(map(str, group.data_vars))].load() for name, group in sorted(groups.items())}
        return xr.DataTree.from_dict(ordered)
    except (OSError, ValueError, KeyError, RuntimeError, zarr.errors.BaseZarrError) as error:
        raise unreadable(store.path) from error


def _read(store: Store) -> dict[str, bytes]:
    """The files of the results by their path, each as it was written; raises where one is not."""
    folder = results_folder(store.folder)
    if folder is None:
        raise unreadable(store.path)
    try:
        document = read_document(folder)
        files = read_files(folder, sealed_attributes(document)["files"])
    except (DamagedError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(store.path) from error
    return {NAME: json.dumps(document).encode(), **files}


def merge_results(
    store: Store,
    results: Mapping[str, Mapping[str, xr.Dataset]],
    omissions: Sequence[Omission],
    call: Mapping[str, Any],
    *,
    measures: Sequence[str],
    pairwise: Collection[str],
    controls: Collection[str],
    order: Sequence[str],
    fresh: bool,
) -> None:
    """Puts the results of one call among those that are there: what it measured is replaced, the rest stays.

    Parameters
    ----------
    results: encoder (`ENCODER`) or control -> key -> result.
    measures: names that this call measured, whether or not they gave a result; `pairwise` of them compare pairs of taps.
    controls: names that this call made, or tried to. The results of other controls stay, also of these measures.
    order: of all measures, in which results are listed.
    fresh: whether nothing of what is there stays.
    """
    run = store.folder
    run.settle(RESULTS, listed_files)
    old = Index() if fresh else read_index(store) or Index()
    there = _read(store) if old.entries else {}
    calls = [*old.calls, call]
    entries: dict[str, list[Entry]] = {}
    kept: dict[str, list[Entry]] = {}
    for owner in dict.fromkeys([*old.entries, *results]):
        replaced = measures if owner == ENCODER or owner in controls else ()
        kept[owner] = [entry for entry in old.entries.get(owner, ()) if entry.measure not in replaced]
        new = [
            Entry(key, key.partition("/")[0] in pairwise, len(calls) - 1)
            for key in results.get(owner, {})
        ]  # fmt: skip
        listed = [*order, *(entry.measure for entry in (*kept[owner], *new) if entry.measure not in order)]
        if ordered := sorted((*kept[owner], *new), key=lambda entry: listed.index(entry.measure)):
            entries[owner] = ordered
    stay = [o for o in old.omissions if not _is_answered(o, measures, controls)]
    new_omissions = [dataclasses.replace(o, call=len(calls) - 1) for o in omissions]
    index = _without_unused_calls(Index(entries, [*stay, *new_omissions], calls))
    groups = {f"{_group(owner)}/{entry.measure}/".lstrip("/") for owner, rows in kept.items() for entry in rows}
    around = {
        f"{'/'.join(group.split('/')[:depth])}/{NAME}" for group in groups for depth in range(1, group.count("/"))
    }
    files = {name: data for name, data in there.items() if name in around or name.startswith(tuple(groups))}
    files |= _written(results)
    with writing(store.path, "while writing results; "), run.making(RESULTS) as unfinished:
        for name, data in files.items():
            run.put_new(f"{unfinished}/{name}", data)
        digests = {name: digest(data) for name, data in files.items()}
        write_group(run.inside(unfinished), dataclasses.asdict(index) | {"run": store.mark, "files": digests})
        run.swap(unfinished, RESULTS, listed_files)


def _is_answered(omission: Omission, measures: Collection[str], controls: Collection[str]) -> bool:
    """Whether a call of these measures and controls has something newer to say."""
    measure = omission.key.partition("/")[0]
    if omission.control:
        return omission.control in controls and (not measure or measure in measures)
    return measure in measures


def _without_unused_calls(index: Index) -> Index:
    used = {e.call for entries in index.entries.values() for e in entries} | {o.call for o in index.omissions}
    used = sorted(used | {len(index.calls) - 1})
    at = {call: i for i, call in enumerate(used)}
    entries = {
        owner: [dataclasses.replace(e, call=at[e.call]) for e in rows] for owner, rows in index.entries.items()
    }  # fmt: skip
    omissions = [dataclasses.replace(o, call=at[o.call]) for o in index.omissions]
    return Index(entries, omissions, [index.calls[call] for call in used])


def _group(owner: str) -> str:
    return f"{CONTROLS}/{owner}" if owner else ""


def _written(results: Mapping[str, Mapping[str, xr.Dataset]]) -> dict[str, bytes]:
    """The files of results by their path below the root group."""
    tree = {
        f"{_group(owner)}/{key}": _storable(value) for owner, by_key in results.items() for key, value in by_key.items()
    }  # fmt: skip
    # As the rest of the store: whoever reads a chunk whose bytes changed is stopped.
    checked = (ZstdCodec(level=1), Crc32cCodec())
    encoding = {
        f"/{node.strip('/')}": {name: {"compressors": checked} for name in data.variables} for node, data in tree.items()
    }  # fmt: skip
    # Through memory: xarray writes straight into a folder at twice the cost, going back to each array for its attributes.
    written: dict[str, Any] = {}
    xr.DataTree.from_dict(tree).to_zarr(
        MemoryStore(written), zarr_format=3, consolidated=False, mode="w", encoding=encoding
    )
    return {name: data.to_bytes() for name, data in written.items() if name != NAME}


def _storable(data: xr.Dataset) -> xr.Dataset:
    """Names as variable-length strings, which Zarr can store in a settled way."""
    texts = {key: values.astype(object) for key, values in data.variables.items() if values.dtype.kind in "UT"}
    return data.assign_coords({k: v for k, v in texts.items() if k in data.coords}).assign(
        {k: v for k, v in texts.items() if k not in data.coords}
    )


def unreadable(path: Path) -> StorageError:
    """The error for results that are not there, in part or at all."""
    return StorageError(
        f"The results in {path} cannot be read: give the same `diagnostics run` command again with --fresh."
    )
