"""All files that a run lists as its own, with its results, its report and its controls; a run that takes another's place; and its
tokens, most of its bytes, removed to free their space.

`run --fresh` makes the new run beside the old one and swaps them at its end. Only listed files are ever removed: what else lies in
a run's folder stays there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from diagnostics.activations.folder import Folder, StrangeFileError, lock, writing
from diagnostics.activations.metadata import NAME
from diagnostics.activations.results import CONTROLS, Index, read_index, result_files
from diagnostics.activations.store import TOKENS_REMOVED, Store
from diagnostics.errors import DiagnosticsError

REPORT = "report.html"
"""Name of a run's report."""


def stores(store: Store) -> dict[str, Store]:
    """The store of a run's encoder, under "", and those of its controls by their names, as far as they are there."""
    places = {name: store.folder.inside(f"{CONTROLS}/{name}") for name in _controls(store)}
    return {"": store} | {name: Store(place) for name, place in places.items() if place.head(NAME) is not None}


def _controls(store: Store) -> list[str]:
    """The controls that a run lists; one of an older format those that have results."""
    if store.older:
        with contextlib.suppress(DiagnosticsError):
            return (read_index(store) or Index()).controls
    return store.attrs.get(CONTROLS, [])


def listed(folder: Folder) -> set[str]:
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
        names |= {f"{control}/{name}" for name in listed(folder.inside(control))}
    for name in names:
        folder.head(name)
    return names


def remove(folder: Folder) -> None:
    """Removes what this program alone makes: out of its place in one move first, since after a kill in between it would be no run."""
    around, name = folder.around()
    with writing(folder.path), around.making(name) as aside:
        if around.has_folder(name):
            around.move(name, aside)
            around.delete_prefix(aside)


def beside(folder: Folder) -> Folder:
    """Where a run or a store is made that will take the place of this one."""
    around, name = folder.around()
    return around.inside(f".{name}.fresh")


def replace(folder: Folder) -> None:
    """Puts the run or store that was made beside this one in its place."""
    around, name = folder.around()
    with writing(folder.path):
        around.swap(f".{name}.fresh", name, listed)


def recover(path: Path) -> Folder:
    """A run's folder, after what a dead process left of it and beside it is put in order; by the process that holds its lock."""
    around = Folder(path.parent)
    with writing(path):
        around.tidy(path.name)
        around.settle(path.name, listed)
    return Folder(path)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    count = 0
    for at, _, files in os.walk(folder):
        for name in files:
            # Another process may remove it at this moment.
            with contextlib.suppress(OSError):
                count += os.lstat(os.path.join(at, name)).st_size
    return count


def token_bytes(store: Store) -> int:
    """Bytes of the files that hold the tokens of a run and of its controls."""
    return sum(sum(each.token_files.values()) for each in stores(store).values())


def disk_use(store: Store) -> tuple[int, int]:
    """The same, and the bytes of all its files."""
    return token_bytes(store), bytes_below(store.path)


def remove_tokens(path: Path) -> int:
    """Removes the tokens of a run and of its controls; returns the bytes that this freed.

    First the store says that its tokens are removed, then their files go: killed in between, a run opens as one without tokens,
    and the same command again removes the rest. Extraction brings them back where a measure reads tokens.

    Raises DiagnosticsError where `path` is no run, or one whose extraction was interrupted, and StorageError where another process
    writes it.
    """
    path, freed = path.resolve(), 0
    store = Store(path)
    with lock(path, "wait for it, and then clean the run"):
        store.check_whole()
        # What an interrupted extraction of a control holds is needed to go on with it.
        for each in (each for each in stores(store).values() if each.plan.token_samples and each.complete):
            if not each.tokens_removed:
                each.set_attrs(**{TOKENS_REMOVED: True})
            files = each.token_files
            with writing(each.path):
                each.folder.delete(files)
            freed += sum(files.values())
    return freed
