"""Files of a run beside its store: results, and all files that the run lists as its own.

Its report and its controls are among them. Here too a run takes another's place, and its tokens, most of its bytes, are
removed to free their space.

    results.json                which results are the run's: the digest of an index, written last
    results/<digest>/index.json what there is, which call gave each, what is left out; of each array where its numbers
    are
    results/<digest>/numbers    the numbers of all arrays, one after the other, little-endian
    results/<digest>/page.json  the page of these results, as the report shows it, without its figures

Results are labelled arrays of each measure, merged call by call, and replaced as a whole: whoever opens a run while
results are replaced, or after a kill there, reads the old ones or the new ones, whole. `run --fresh` makes the new run
beside the old one and swaps them at its end. Only listed files are ever removed: what else lies in a run's folder stays
there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.activations.bucket import Place
from diagnostics.activations.folder import Folder, StrangeFileError, lock, reading, writing
from diagnostics.activations.metadata import (
    MOST_BYTES,
    NAME,
    DamagedError,
    digest,
    files_of_group,
    plain,
    read_attributes,
    read_document,
    read_files,
    seal,
    unseal,
)
from diagnostics.activations.place import locate
from diagnostics.activations.store import TOKENS_REMOVED, Store, is_shared
from diagnostics.errors import DiagnosticsError, StorageError
from diagnostics.options import decode

if TYPE_CHECKING:
    import xarray as xr


RESULTS = "results"
CURRENT = f"{RESULTS}.json"
INDEX, NUMBERS, PAGE = "index.json", "numbers", "page.json"
_FILE = re.compile(rf"{RESULTS}/[0-9a-f]{{32}}/({INDEX}|{NUMBERS}|{PAGE})")
CONTROLS = "controls"
"""Where the controls lie; no measure may have this name."""
ENCODER = ""
"""The owner of the encoder's own results, beside the names of controls."""
Results = Mapping[str, Mapping[str, "xr.Dataset"]]
"""The results of the encoder (`ENCODER`) and of controls by owner and key."""


@dataclass(frozen=True)
class Entry:
    """Result: its key `measure/target` or `measure`, whether it is of pairs of taps, and the call that gave it."""

    key: str
    pairwise: bool
    call: int

    @property
    def measure(self) -> str:
        """The measure's name."""
        return self.key.partition("/")[0]


@dataclass(frozen=True)
class Omission:
    """A result that is left out, and why: a measure, a measure of one target, of a control, or a control altogether."""

    reason: str
    key: str = ""
    control: str = ""
    failed: bool = False
    """Whether it broke, where others have no value here by their nature."""
    call: int = 0

    @property
    def label(self) -> str:
        """The result that is left out, in words."""
        return " of ".join(filter(None, (self.key, self.control)))


@dataclass(frozen=True)
class Index:
    """Index of the results by encoder and control, of what is left out, and of the calls that gave them.

    The latest call stands last.

    `id` names them on disk; `arrays` says by owner and key where the numbers lie, and `numbers` is the digest of their
    file.
    """

    entries: Mapping[str, Sequence[Entry]] = field(default_factory=dict[str, Sequence[Entry]])
    omissions: Sequence[Omission] = ()
    calls: Sequence[Mapping[str, Any]] = ()
    id: str = ""
    numbers: str = ""
    arrays: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any], repr=False)

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


def index_file(store: Store) -> str:
    """The file that says which results are the run's."""
    return f"{RESULTS}/{NAME}" if store.results_in_groups else CURRENT


def read_index(store: Store) -> Index | None:
    """Read the index of a run's results; None where there are none yet.

    Raises where that cannot be read, or another run's lie there.
    """
    with reading(store.path):
        if store.folder.head(index_file(store)) is None:
            return None
    try:
        with reading(store.path):
            content = _older_content(store) if store.results_in_groups else _content(store.folder)
        index: Index = decode(Index, content)
        used = [each.call for each in (*chain(*index.entries.values()), *index.omissions)]
        if not index.calls or not all(0 <= call < len(index.calls) for call in used):
            raise ValueError("calls")
    except (DamagedError, TypeError, KeyError, AttributeError, ValueError) as error:
        raise unreadable(store.path) from error
    if content.get("run") != store.mark:
        raise StorageError(
            f"The results in {store.path} are those of another run: copy its own there, or give the `diagnostics run` "
            f"command again with --fresh.",
            code="other-run",
        )
    return index


def index_of_finished(store: Store) -> Index:
    """The same of a run that is to be whole.

    Raises where its extraction was interrupted, its files are gone, or it has no results.
    """
    with reading(store.path):
        store.check_whole()
    if (index := read_index(store)) is None:
        again = "give the same `diagnostics run` command again"
        raise DiagnosticsError(f"{store.path} holds activations but no results yet: {again}.", code="unfinished")
    return index


def _content(run: Place) -> dict[str, Any]:
    """The index that is the run's as it lies on disk, with its `id`.

    Raises DamagedError where it is not what was written.
    """
    while True:
        current = run.get(CURRENT, MOST_BYTES)
        try:
            written = str(unseal(current)["index"])
            place = written.partition(" ")[0]
            if not _FILE.fullmatch(f"{RESULTS}/{place}/{INDEX}"):
                raise DamagedError(CURRENT)
            return {**json.loads(read_files(_place(run, place), {INDEX: written})[INDEX]), "id": place}
        except DamagedError:
            # Another process may have replaced them between the two looks.
            if run.get(CURRENT, MOST_BYTES) == current:
                raise


def _place(run: Place, place: str) -> Place:
    return run.inside(f"{RESULTS}/{place}")


def read_results(store: Store, index: Index) -> Results:
    """All results of an index, in memory.

    Raises StorageError where they are not as they were written, or were replaced since.
    """
    import xarray as xr

    def variable(about: Mapping[str, Any]) -> xr.Variable:
        if "texts" in about:
            values = np.array(about["texts"], dtype=object)
        else:
            # It refuses what `np.ndarray` takes of a stranger's index: objects, which are addresses, and places outside
            # of the numbers.
            flat = np.frombuffer(numbers, np.dtype(about["dtype"]), math.prod(about["shape"]), about["start"])
            values = flat.reshape(about["shape"]).copy()
        return xr.Variable(about["dims"], values)

    try:
        if store.results_in_groups:
            return _older_results(store, index)
        numbers = read_files(_place(store.folder, index.id), {NUMBERS: index.numbers})[NUMBERS]
        return {
            owner: {
                key: xr.Dataset(
                    {name: variable(each) for name, each in about["data"].items()},
                    {name: variable(each) for name, each in about["coords"].items()},
                    about["attrs"],
                )
                for key in index.names(owner)
                for about in (index.arrays[owner][key],)
            }
            for owner in index.entries
        }
    except (DamagedError, ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError) as error:
        if read_index(store) != index:
            raise StorageError(
                f"The results in {store.path} have been replaced since this run was opened: open it again "
                f"(diagnostics.open_run).",
                code="other-run",
            ) from error
        raise unreadable(store.path) from error


def merge_results(
    store: Store,
    results: Results,
    omissions: Sequence[Omission],
    call: Mapping[str, Any],
    *,
    measures: Sequence[str],
    pairwise: Collection[str],
    controls: Collection[str],
    order: Sequence[str],
    fresh: bool,
    outdated: Collection[tuple[str, str]] = (),
) -> None:
    """Put the results of one call among those that are there: what it measured is replaced, the rest stays.

    Parameters
    ----------
    results: encoder (`ENCODER`) or control -> key -> result.
    measures: names that this call measured, whether or not they gave a result; `pairwise` of them compare pairs of
    taps.
    controls: names that this call made, or tried to. The results of other controls stay, also of these measures.
    order: of all measures, in which results are listed.
    fresh: whether nothing of what is there stays.
    outdated: controls and keys of results of other controls that stay no longer.
    """
    run = store.folder
    old = Index() if fresh else read_index(store) or Index()
    there = read_results(store, old) if old.entries else {}
    calls = [*old.calls, call]
    entries: dict[str, list[Entry]] = {}
    for owner in dict.fromkeys([*old.entries, *results]):
        replaced = measures if owner == ENCODER or owner in controls else ()
        there_of = [entry for entry in old.entries.get(owner, ()) if (owner, entry.key) not in outdated]
        kept = [entry for entry in there_of if entry.measure not in replaced]
        new = [Entry(key, key.partition("/")[0] in pairwise, len(calls) - 1) for key in results.get(owner, {})]
        listed = [*order, *(entry.measure for entry in (*kept, *new) if entry.measure not in order)]
        if ordered := sorted((*kept, *new), key=lambda entry: listed.index(entry.measure)):
            entries[owner] = ordered
    stay = [o for o in old.omissions if not _is_answered(o, measures, controls)]
    new_omissions = [dataclasses.replace(o, call=len(calls) - 1) for o in omissions]
    index = _without_unused_calls(Index(entries, [*stay, *new_omissions], calls))
    both = {owner: {**there.get(owner, {}), **results.get(owner, {})} for owner in entries}
    arrays, numbers = _encode({owner: {key: both[owner][key] for key in index.names(owner)} for owner in entries})
    content = {**dataclasses.asdict(index), "run": store.mark, "numbers": digest(numbers), "arrays": arrays}
    del content["id"]
    data = json.dumps(content, default=plain).encode()
    written = digest(data)
    place = f"{RESULTS}/{written.partition(' ')[0]}/"
    with writing(store.path, "while writing results; "):
        run.put(f"{place}{NUMBERS}", numbers, flushed=True)
        run.put(f"{place}{INDEX}", data, flushed=True)
        run.put(CURRENT, seal({"index": written}), flushed=True)
        # Those of a shared run may be what another command is writing.
        written_before = () if store.shared else result_files(run)
        gone = {name for name in written_before if not name.startswith((CURRENT, place))}
        run.delete(gone)
        for folder in {name.rpartition("/")[0] for name in gone}:
            run.prune(folder)


def _is_answered(omission: Omission, measures: Collection[str], controls: Collection[str]) -> bool:
    """True if a call of these measures and controls has something newer to say."""
    measure = omission.key.partition("/")[0]
    if omission.control:
        return omission.control in controls and (not measure or measure in measures)
    return measure in measures


def _without_unused_calls(index: Index) -> Index:
    used = {e.call for entries in index.entries.values() for e in entries} | {o.call for o in index.omissions}
    used = sorted(used | {len(index.calls) - 1})
    at = {call: i for i, call in enumerate(used)}
    entries = {owner: [dataclasses.replace(e, call=at[e.call]) for e in rows] for owner, rows in index.entries.items()}
    omissions = [dataclasses.replace(o, call=at[o.call]) for o in index.omissions]
    return Index(entries, omissions, [index.calls[call] for call in used])


def _encode(results: Results) -> tuple[dict[str, dict[str, Any]], bytes]:
    """Index for `read_results`: of each array its texts, or type, shape and first byte among the numbers of all."""
    numbers = bytearray()

    def variable(data: xr.Variable) -> dict[str, Any]:
        if data.dtype.kind in "OUT":
            return {"dims": data.dims, "texts": data.values.tolist()}
        values = data.values.astype(data.dtype.newbyteorder("<"))
        numbers.extend(values.tobytes())
        start = len(numbers) - values.nbytes
        return {"dims": data.dims, "dtype": values.dtype.str, "shape": values.shape, "start": start}

    def dataset(data: xr.Dataset) -> dict[str, Any]:
        names = {"data": sorted(data.data_vars, key=str), "coords": list(data.coords)}
        parts = {part: {name: variable(data[name].variable) for name in names[part]} for part in names}
        return {**parts, "attrs": data.attrs}

    arrays = {owner: {key: dataset(data) for key, data in by_key.items()} for owner, by_key in results.items()}
    return arrays, bytes(numbers)


def result_files(run: Place) -> set[str]:
    """The files of results, those that a dead process left behind too."""
    below = run.list(RESULTS) if run.has_folder(RESULTS) else ()
    older = {f"{RESULTS}/{name}" for name in files_of_group(run.inside(RESULTS))}
    return {CURRENT, *older, *filter(_FILE.fullmatch, below)}


def write_page(store: Store, index: Index, page: Mapping[str, Any]) -> None:
    """Keep a page of results beside them."""
    with writing(store.path, "while writing its page; "):
        store.folder.put(f"{RESULTS}/{index.id}/{PAGE}", seal(page))


def read_page(store: Store, index: Index) -> dict[str, Any] | None:
    """The page that is kept of results; None where there is none, or not as it was written."""
    try:
        return unseal(_place(store.folder, index.id).get(PAGE, MOST_BYTES))
    except (OSError, DamagedError):
        return None


# Results of the formats 4 and 5: a Zarr group each.


def _older_content(store: Store) -> dict[str, Any]:
    return read_attributes(read_document(store.folder.inside(RESULTS)))


def _older_results(store: Store, index: Index) -> Results:
    import xarray as xr
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore

    folder = store.folder.inside(RESULTS)
    files = read_files(folder, _older_content(store)["files"]) | {NAME: folder.get(NAME, MOST_BYTES)}
    memory = MemoryStore({name: Buffer.from_bytes(data) for name, data in files.items()}, read_only=True)
    # pyrefly: ignore[bad-argument-type]
    groups = xr.open_groups(memory, engine="zarr", consolidated=False)
    # Zarr lists what a folder holds in another order each time.
    return {
        owner: {
            key: data[sorted(map(str, data.data_vars))].load()
            for key in index.names(owner)
            for data in (groups[f"/{group_of(owner)}{key}"],)
        }
        for owner in index.entries
    }


def group_of(owner: str) -> str:
    """Path of an owner's results in a tree, with a slash at the end."""
    return f"{CONTROLS}/{owner}/" if owner else ""


def unreadable(path: PurePath) -> StorageError:
    """The error for results that are not there, in part or at all."""
    return StorageError(
        f"The results in {path} cannot be read: give the same `diagnostics run` command again with --fresh.",
        code="damaged",
    )


REPORT = "report.html"
"""Name of a run's report."""


def stores(store: Store, *, verified: bool = True) -> dict[str, Store]:
    """The store of a run's encoder, under "", and those of its controls by their names, as far as they are there.

    `verified`: as of `Store`.
    """
    places = {name: store.folder.inside(f"{CONTROLS}/{name}") for name in _controls(store)}
    there = {name: place for name, place in places.items() if place.head(NAME) is not None}
    return {"": store} | {name: Store(place, verified=verified) for name, place in there.items()}


def _controls(store: Store) -> list[str]:
    """The controls that a run lists; one of an older format those that have results."""
    if store.results_in_groups:
        with contextlib.suppress(DiagnosticsError):
            return (read_index(store) or Index()).controls
    return store.attrs.get(CONTROLS, [])


def files_of_run(folder: Place) -> set[str]:
    """Every file that a run lists; what can be read of its lists. Raises StrangeFileError where one of them is none."""
    folder.has_folder(CONTROLS)  # also where it lists none
    names = {REPORT, *result_files(folder)}
    try:
        store = Store(folder, verified=False)  # half of it may be removed already
    except DiagnosticsError as error:
        if isinstance(error, StrangeFileError):
            raise
        return names
    names |= store.names
    for control in (f"{CONTROLS}/{name}" for name in _controls(store)):
        names |= {f"{control}/{name}" for name in files_of_run(folder.inside(control))}
    for name in names:
        folder.head(name)
    return names


def remove(folder: Folder) -> None:
    """Remove what this program alone makes.

    It goes out of its place in one move first, since after a kill in between it would be no run.
    """
    around, name = folder.parent()
    with writing(folder.path), around.making(name) as aside:
        if around.has_folder(name):
            around.move(name, aside)
            around.delete_prefix(aside)


def beside(folder: Folder) -> Folder:
    """Folder in which a run or a store is made that will take the place of this one."""
    around, name = folder.parent()
    return around.inside(f".{name}.fresh")


def replace(folder: Folder) -> None:
    """Put the run or store that was made beside this one in its place."""
    around, name = folder.parent()
    with writing(folder.path):
        around.swap(f".{name}.fresh", name, files_of_run)


def recover(path: Path) -> Folder:
    """A run's folder, after what a dead process left of it and beside it is put in order.

    Called by the process that holds its lock.
    """
    around = Folder(path.parent)
    with writing(path):
        around.tidy(path.name)
        around.settle(path.name, files_of_run)
    return Folder(path)


def token_bytes(store: Store) -> int:
    """Bytes of the files that hold the tokens of a run and of its controls."""
    return sum(sum(each.token_files.values()) for each in stores(store, verified=False).values())


def disk_use(store: Store) -> tuple[int, int]:
    """The same, and the bytes of all its files."""
    return token_bytes(store), store.folder.size()


def refuse_shared(folder: Place, doing: str, force: bool) -> None:
    """Raise where launches may be at work on a run, unless that is said to be known."""
    if not force and is_shared(folder):
        raise StorageError(
            f"{folder.path} is extracted by launches (--part) or lies in a bucket, and nothing tells whether a command "
            f"still works on it: give --force with {doing} where none does.",
            code="in-use",
        )


def remove_tokens(path: str | PurePath, force: bool = False) -> int:
    """Remove the tokens of a run and of its controls; returns the bytes that this freed.

    First the store says that its tokens are removed, then their files go: killed in between, a run opens as one without
    tokens, and the same command again removes the rest, and what was being written. Extraction brings them back where a
    measure reads tokens.

    Raises DiagnosticsError where `path` is no run, or one whose extraction was interrupted, and StorageError where
    another process writes it, or may do so since it is shared and this is not said to be known (`force`).
    """
    place, freed = locate(path), 0
    store = Store(place)
    refuse_shared(store.folder, "clean", force)
    with lock(place.resolve(), "wait for it, and then clean the run") if isinstance(place, Path) else nullcontext():
        store.check_whole()
        for each in stores(store).values():
            with writing(each.path):
                each.folder.tidy()
            # What an interrupted extraction of a control holds is needed to go on with it.
            if not (each.plan.token_samples and each.complete):
                continue
            if not each.tokens_removed:
                each.set_attrs(**{TOKENS_REMOVED: True})
            files = each.token_files
            with writing(each.path):
                each.folder.delete(files)
            freed += sum(files.values())
    return freed
