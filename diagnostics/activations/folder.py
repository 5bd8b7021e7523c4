"""The owner of a run's folder.

Every write, removal and read below it goes through `Folder`, and one process holds its `lock`.

A name is a path below the root, with `/`, as in a bucket, and the operations are those of one: `put`, `put_new`,
`get_range`, `head`, `list`, `delete_prefix`. A run may come from elsewhere, so nothing below its root follows a link,
no file but a regular one is opened, none is read past the size that it is known to have, and a file in the making has a
name that nobody can guess. Needs a POSIX system, where a file is opened relative to its folder.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

import numpy as np

from diagnostics.errors import StorageError, damage_error, unwritable
from diagnostics.progress import size

# What direct reads and writes must be aligned to, in memory and in length, on any common disk.
PAGE = 4096
DIRECT = getattr(os, "O_DIRECT", 0)
S = TypeVar("S")
T = TypeVar("T")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class StrangeFileError(StorageError):
    """A link, a pipe or a device where a run has a file or a folder of its own."""

    code = "strange-file"

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a link, lies behind one, or is no file or folder of a run, so it is neither read, written nor "
            f"removed: take it away, or put what it leads to in its place."
        )


def pages(length: int) -> np.ndarray:
    """Memory for at least so many bytes, aligned in place and in length as direct input and output want it."""
    return np.frombuffer(mmap.mmap(-1, -(-length // PAGE) * PAGE), dtype=np.uint8)


class Folder:
    """All files below a folder, or below a folder `below` it, by name.

    One process writes at a time: whoever holds the `lock`. Raises StrangeFileError for what a run does not have,
    FileNotFoundError for what is not there, and other OSErrors as the system gives them.
    """

    def __init__(self, root: Path, below: str = "") -> None:
        if not below and not os.path.lexists(root) and (previous := root.with_name(f".{root.name}.previous")).is_dir():
            root = previous  # a kill cut its replacement off in between
        self.root, self.below, self.path = root, below, root / below

    def inside(self, name: str) -> Folder:
        """A folder in this one, which has the same root."""
        return Folder(self.root, f"{self.below}/{name}".lstrip("/"))

    def parent(self) -> tuple[Folder, str]:
        """The folder that this one lies in, and its name there."""
        around, _, name = self.below.rpartition("/")
        return (Folder(self.root, around), name) if self.below else (Folder(self.root.parent), self.root.name)

    @contextlib.contextmanager
    def creating(self, mark: bytes) -> Generator[Folder]:
        """A folder beside this one to fill, which is renamed to it at the end.

        Raises FileExistsError where another process made this one meanwhile. The `mark` of what is made is for stores
        that cannot rename.
        """
        around, name = self.parent()
        around.root.mkdir(parents=True, exist_ok=True)
        with around.making(name) as unfinished:
            yield around.inside(unfinished)
            try:
                around.move(unfinished, name)
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
                raise

    def is_occupied(self) -> bool:
        """Test for something else here than a run."""
        path = self.path
        return self.head("zarr.json") is None and path.exists() and not (path.is_dir() and not any(path.iterdir()))

    def head(self, name: str) -> os.stat_result | None:
        """Size and time of a file; None where there is none."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._folder_of(name) as (folder, last):
            return self._check(name, os.lstat(last, dir_fd=folder))
        return None

    def lengths(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of those files that are there."""
        return {name: file.st_size for name in names if (file := self.head(name)) is not None}

    def each(self, act: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
        """Call for each thing when its value is asked for; of a bucket some ahead, at once."""
        return map(act, things)

    def has_folder(self, name: str) -> bool:
        """True if there is a folder of that name."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._open_handle(name):
            return True
        return False

    def list(self, prefix: str = "") -> Iterator[str]:
        """The name of everything below a folder that is none itself; links are named, not followed."""
        for name, is_folder in self._entries(prefix):
            yield from self.list(name) if is_folder else [name]

    def folders(self) -> Sequence[str]:
        """The names of the folders here, links too, but for hidden ones: runs that are made or removed lie in such."""
        with contextlib.suppress(OSError):
            return sorted(at.name for at in self.path.iterdir() if at.is_dir() and not at.name.startswith("."))
        return []

    def size(self) -> int:
        """Bytes of all files here."""
        count = 0
        for at, _, files in os.walk(self.path):
            for name in files:
                # Another process may remove it at this moment.
                with contextlib.suppress(OSError):
                    count += os.lstat(os.path.join(at, name)).st_size
        return count

    @contextlib.contextmanager
    def reading(self, name: str, flag: int = 0) -> Generator[BinaryIO]:
        """A regular file, opened to be read."""
        with self._folder_of(name) as (folder, last):
            self._check(name, os.lstat(last, dir_fd=folder))
            # Not to wait for whoever writes into a pipe that was put there since.
            handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flag, dir_fd=folder)
        with os.fdopen(handle, "rb", buffering=0 if flag else -1) as file:
            yield file

    def get(self, name: str, most: int) -> bytes:
        """A whole file of at most so many bytes; raises OSError where it has more."""
        with self.reading(name) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return file.read(size)

    def get_range(self, name: str, start: int, stop: int, length: int, memory: np.ndarray) -> np.ndarray:
        """Bytes [start, stop) of a file of `length` bytes, in `memory` of whole `pages`.

        Those of the range and one more.

        They pass by the page cache. Raises ValueError where the file has another length.
        """
        first = start // PAGE * PAGE

        def read(flag: int) -> None:
            done = 0
            with self.reading(name, flag) as file:
                if os.fstat(file.fileno()).st_size != length:
                    raise ValueError("a wrong length")
                file.seek(first)
                while done < stop - first:
                    # A read that stops within a page leaves the next one unaligned, so that it fails and the cache
                    # serves.
                    # pyrefly: ignore[missing-attribute]
                    count = file.readinto(memory[done : -(-(stop - first) // PAGE) * PAGE].data)
                    if not count:
                        raise ValueError("it ends too soon")
                    done += count

        _past_page_cache(read, DIRECT)
        return memory[start - first : stop - first]

    def put_new(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """Write a new file, whole or not at all; raises FileExistsError where something has its name.

        With a `length` the data are whole `pages`, of which so many bytes are written, past the page cache. `flushed`:
        whether it is on the disk afterwards.
        """
        with self.making(name) as temporary:
            self._write(temporary, data, length, flushed)
            with (
                self._folder_of(temporary) as (old, last),
                self._folder_of(name, make=True, flush=flushed) as (new, other),
            ):
                os.link(last, other, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
                if flushed:
                    os.fsync(new)
        self.delete_prefix(temporary)

    def put(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """The same in place of a file that has its name."""
        self.head(name)
        with self.making(name) as temporary:
            self._write(temporary, data, length, flushed)
            self.move(temporary, name)
            if flushed:
                with self._folder_of(name, flush=True) as (folder, _):
                    os.fsync(folder)

    def _write(self, name: str, data: bytes | np.ndarray, length: int | None, flushed: bool) -> None:
        """Write a new file in place."""

        def write(flag: int) -> None:
            handle = os.open(last, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | flag, dir_fd=folder)
            with os.fdopen(handle, "wb", buffering=0) as file:
                # pyrefly: ignore[bad-argument-type]
                rest = memoryview(data)
                while len(rest):
                    rest = rest[file.write(rest) :]
                file.truncate(length)
                if flushed:
                    os.fsync(handle)

        with self._folder_of(name, make=True) as (folder, last):
            # Apart: some systems make a file that they then refuse to write directly.
            os.close(os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder))
            _past_page_cache(write, 0 if length is None else DIRECT)

    def append(self, name: str, place: int, parts: Iterable[bytes | memoryview]) -> None:
        """Write into a file that is this folder's alone from `place` on, where it ends then."""
        with self._folder_of(name, make=True) as (folder, last):
            handle = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
        with os.fdopen(handle, "wb") as file:
            if self._check(name, os.fstat(handle)).st_nlink > 1:
                raise StrangeFileError(self.path / name)
            file.truncate(place)
            file.seek(place)
            file.writelines(parts)

    @contextlib.contextmanager
    def making(self, name: str) -> Generator[str]:
        """A name that nobody can guess, for what is to be moved to `name`.

        What has it still is removed after an error.
        """
        temporary = f".{name.rpartition('/')[2]}.{os.urandom(8).hex()}.partial"
        try:
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                self.delete_prefix(temporary)
            raise

    def tidy(self, of: str = "", age: float = 0.0) -> None:
        """Remove what a dead process left under temporary names, of all or `of` one name.

        Without the lock a file of another process is told from that by its `age` in seconds.
        """
        for name, _ in self._entries(""):
            found = re.fullmatch(r"\.(.+)\.[0-9a-f]{16}\.partial", name)
            if not found or of not in ("", found[1]):
                continue
            if not age or ((status := self.head(name)) and time.time() - status.st_mtime > age):
                self.delete_prefix(name)

    def move(self, name: str, to: str) -> None:
        """Rename a file, in place of one that is there, or a folder."""
        with self._folder_of(name) as (old, last), self._folder_of(to, make=True) as (new, other):
            os.rename(last, other, src_dir_fd=old, dst_dir_fd=new)

    def delete(self, names: Iterable[str]) -> None:
        """Remove files, as far as they are there.

        The deepest first: an index lies above what it lists, so that after a kill in between it still lists the rest.
        """
        for name in sorted(names, key=lambda name: (-name.count("/"), name)):
            if self.head(name) is not None:
                # Another command may remove the same.
                with contextlib.suppress(FileNotFoundError), self._folder_of(name) as (folder, last):
                    os.unlink(last, dir_fd=folder)

    def delete_prefix(self, prefix: str) -> None:
        """Remove everything of a temporary name, a file or a folder; links in it are removed, not followed."""
        with contextlib.suppress(FileNotFoundError), self._folder_of(prefix) as (folder, last):
            is_folder = stat.S_ISDIR(os.lstat(last, dir_fd=folder).st_mode)
            (shutil.rmtree if is_folder else os.unlink)(last, dir_fd=folder)

    def swap(self, made: str, place: str, listed: Callable[[Folder], Collection[str]]) -> None:
        """Put a folder that was made beside another in its place, by two renames.

        Of the one that was there, all names go that it or the new one lists; what neither knows moves over to the new
        one.
        """
        self.settle(place, listed)
        if self.has_folder(place):
            self.move(place, f".{place}.previous")
        self.move(made, place)
        self.settle(place, listed)

    def settle(self, place: str, listed: Callable[[Folder], Collection[str]]) -> None:
        """End a `swap` that was cut off: forwards where the new folder is in its place, else backwards."""
        previous = f".{place}.previous"
        if self.has_folder(previous) and not self.has_folder(place):
            self.move(previous, place)
        elif self.has_folder(previous):
            old, new = self.inside(previous), self.inside(place)
            known = {*listed(old), *listed(new)}
            for name in {*old.list()} - known:
                self.move(f"{previous}/{name}", f"{place}/{name}")
            old.delete(known)
            self.prune(previous)

    def prune(self, name: str) -> None:
        """Remove a folder where nothing lies in it but folders in which nothing lies."""
        with contextlib.suppress(OSError), self._folder_of(name) as (around, last):
            for inner in (inner for inner, is_folder in self._entries(name) if is_folder):
                self.prune(inner)
            os.rmdir(last, dir_fd=around)

    # pyrefly: ignore[unsupported-operation]
    def _entries(self, name: str) -> list[tuple[str, bool]]:
        """Entries of a folder: name -> whether it is a folder itself."""
        with self._open_handle(name) as folder, os.scandir(folder) as entries:
            return sorted((f"{name}/{each.name}".lstrip("/"), each.is_dir(follow_symlinks=False)) for each in entries)

    @contextlib.contextmanager
    def _folder_of(self, name: str, make: bool = False, flush: bool = False) -> Generator[tuple[int, str]]:
        """The handle of the folder that a name lies in, made where that is asked for, and the last part of the name."""
        around, _, last = name.rpartition("/")
        with self._open_handle(around, make, flush) as folder:
            yield folder, last

    @contextlib.contextmanager
    def _open_handle(self, name: str, make: bool = False, flush: bool = False) -> Generator[int]:
        """The handle of a folder, opened part by part, none of which may be a link.

        `flush`: what is flushed into it is found after a power failure.
        """
        parts = [part for part in f"{self.below}/{name}".split("/") if part]
        if ".." in parts:
            raise StrangeFileError(self.path / name)
        folder = os.open(self.root, _FOLDER)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                if flush:
                    os.fsync(folder)
                if not stat.S_ISDIR(os.lstat(part, dir_fd=folder).st_mode):
                    raise StrangeFileError(self.path / name)
                inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    def _check(self, name: str, status: os.stat_result) -> os.stat_result:
        if not stat.S_ISREG(status.st_mode):
            raise StrangeFileError(self.path / name)
        return status


@contextlib.contextmanager
def writing(path: PurePath, when: str = "") -> Generator[None]:
    """Turn an error of the disk within this context into the sentence on `path`."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error, when) from error


@contextlib.contextmanager
def reading(path: PurePath) -> Generator[None]:
    """The same for a run that is read."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise damage_error(path, "a file that is larger than it was written") from error
        raise StorageError(
            f"{path} cannot be read ({error.strerror or error}): see that you may read it, and give the same command "
            f"again.",
            code="unreadable",
        ) from error


def _past_page_cache(access: Callable[[int], None], flag: int) -> None:
    """Call `access` with the `flag` that passes the page cache, or with none where system or disk cannot.

    Much more is written than is soon read, so the cache would cost ten times the CPU time, and drive out what others
    keep.
    """
    try:
        access(flag)
    except OSError as error:
        if not flag or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        access(0)


@contextlib.contextmanager
def lock(
    path: Path, remedy: str = "wait for it, or choose another folder with --out", doing: str = "is writing"
) -> Generator[None]:
    """Hold a run for this process; refused, with the remedy, when another process holds it, `doing` the same.

    Freed by the system if the process dies; its file is removed at the end.
    """
    import filelock  # by whoever writes: `show` and `runs` read alone

    holder = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(holder, timeout=0)
        held.acquire()
        # Whoever held it may have removed its file since it was opened here.
        # pyrefly: ignore[bad-argument-type]
        while not (holder.exists() and os.path.samestat(holder.stat(), os.fstat(held._context.lock_file_fd))):
            held.release()
            held.acquire()
    except filelock.Timeout as error:
        raise StorageError(f"Another process {doing} {path}: {remedy}.", code="in-use") from error
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        try:
            with contextlib.suppress(OSError):
                holder.unlink()
        finally:
            held.release()


def check_room(path: PurePath, needed: int) -> None:
    """Raise when the disk has less room than a run needs; of an object store nobody knows."""
    if not isinstance(path, Path):
        return
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise StorageError(
            f"{path.parent} has {size(free)} free and the run needs {size(needed)}: "
            "free some, lower --token-budget, or choose another --out.",
            code="no-space",
        )
