"""Removal of the stored tokens of a run, most of its bytes, to free their space; everything else stays.

First the store says that its tokens are removed, then their files go: killed in between, a run opens as one without tokens,
and the same command again removes the rest. Extraction brings them back where a measure reads tokens.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from diagnostics.activations.folder import writing
from diagnostics.activations.lock import lock
from diagnostics.activations.replacing import stores
from diagnostics.activations.store import TOKENS_REMOVED, Store


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
