"""The lock by which one process writes a run's folder, a training's or a file, and the free space there."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import filelock

from diagnostics.errors import StorageError, unwritable
from diagnostics.progress import size


@contextlib.contextmanager
def lock(
    path: Path, remedy: str = "wait for it, or choose another folder with --out", doing: str = "is writing"
) -> Generator[None]:
    """Holds a run for this process; refused, with the remedy, when another process holds it, `doing` the same. Freed by the system if
    the process dies; its file is removed at the end."""
    holder = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(holder, timeout=0)
        held.acquire()
        # Whoever held it may have removed its file since it was opened here.
        while not (holder.exists() and os.path.samestat(holder.stat(), os.fstat(held._context.lock_file_fd))):  # pyright: ignore[reportPrivateUsage, reportArgumentType]  (filelock shows its handle nowhere else)
            held.release()
            held.acquire()
    except filelock.Timeout as error:
        raise StorageError(f"Another process {doing} {path}: {remedy}.") from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        held.release()


def check_room(path: Path, needed: int) -> None:
    """Raises when the disk has less room than a run needs."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.parent} has {size(free)} free and the run needs {size(needed)}: "
            "free some, lower --token-budget, or choose another --out."
        )
