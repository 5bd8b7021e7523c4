"""All files that a run lists as its own, with its results, its report and its controls, and a run that takes another's place.

`run --fresh` makes the new run beside the old one and swaps them at its end. Only listed files are ever removed: what else lies in
a run's folder stays there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from diagnostics.activations.folder import Folder, StrangeFileError, writing
from diagnostics.activations.results import CONTROLS, Index, read_index, result_files
from diagnostics.activations.sealed import NAME
from diagnostics.activations.store import Store
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
