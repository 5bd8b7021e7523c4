"""Removal of the stored tokens of a run, most of its bytes, to free their space; everything else stays.

First the store says that its tokens are removed, then their files go: killed in between, a run opens as one without tokens,
and the same command again removes the rest. Extraction brings them back where a measure reads tokens.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from diagnostics.activations.lock import lock
from diagnostics.activations.results import CONTROLS
from diagnostics.activations.store import TOKENS_REMOVED, Store
from diagnostics.errors import unwritable


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder."""
    count = 0
    for at, _, files in os.walk(folder):
        for name in files:
            # Another process may remove it at this moment.
            with contextlib.suppress(OSError):
                count += os.lstat(os.path.join(at, name)).st_size
    return count


def token_bytes(path: Path) -> int:
    """Bytes of the files that hold the tokens of a run and of its controls."""
    return sum(file.stat().st_size for store in _stores(path) for file in store.token_files)


def remove_tokens(path: Path) -> int:
    """Removes the tokens of a run and of its controls; returns the bytes that this freed.

    Raises DiagnosticsError where `path` is no run, or one whose extraction was interrupted, and StorageError where another process
    writes it.
    """
    path = path.resolve()
    store, freed = Store(path), 0
    with lock(path, "wait for it, and then clean the run"):
        store.check_whole()
        for store in _stores(path):
            # What an interrupted extraction of a control holds is needed to go on with it.
            if store.plan.token_samples and store.complete:
                freed += _remove(store)
    return freed


def _stores(path: Path) -> list[Store]:
    """The store of the encoder, and those of its controls."""
    return [Store(path), *(Store(root.parent) for root in sorted(path.glob(f"{CONTROLS}/*/zarr.json")))]


def _remove(store: Store) -> int:
    if not store.tokens_removed:
        store.set_attrs(**{TOKENS_REMOVED: True})
    freed = 0
    try:
        for file in store.token_files:
            length = file.stat().st_size
            file.unlink()
            freed += length
    except OSError as error:
        raise unwritable(store.path, error) from error
    return freed
