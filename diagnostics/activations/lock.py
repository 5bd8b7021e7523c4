"""The lock by which one process writes a run's folder; its free space, and its removal in one move."""

import contextlib
import shutil
from collections.abc import Generator
from pathlib import Path

import filelock

from diagnostics.errors import StorageError, unwritable
from diagnostics.progress import size


@contextlib.contextmanager
def lock(path: Path, remedy: str = "wait for it, or choose another folder with --out") -> Generator[None]:
    """Holds a run for this process; refused, with the remedy, when another process holds it. Freed by the system if the process dies."""
    holder = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(holder, timeout=0)
        held.acquire()
    except filelock.Timeout as error:
        raise StorageError(f"Another process is writing {path}: {remedy}.") from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        if not path.exists():
            holder.unlink(missing_ok=True)  # nothing was written, so nothing stays
        held.release()


def check_room(path: Path, needed: int) -> None:
    """Raises when the disk has less room than a run needs."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.parent} has {size(free)} free and the run needs {size(needed)}: "
            "free some, lower --token-budget, or choose another --out."
        )


def partial(path: Path) -> Path:
    """Where a run lies while it is made or removed: beside its place."""
    return path.with_name(f".{path.name}.partial")


def drop(path: Path) -> None:
    """Removes a run: out of its place in one move first, since a kill in between would leave what is no run and in the way."""
    aside = partial(path)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        try:
            shutil.rmtree(aside)
        except OSError:
            if (aside / "zarr.json").is_file():  # nothing of it may be removed: it goes back
                aside.rename(path)
            raise
    except OSError as error:
        raise unwritable(path, error) from error
