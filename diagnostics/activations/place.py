"""Where a run lies: a folder or an object store, by its address and by the operations that both have."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from os import stat_result
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeVar

from diagnostics.errors import DiagnosticsError

if TYPE_CHECKING:
    import numpy as np

    from diagnostics.activations.folder import Folder

S = TypeVar("S")
T = TypeVar("T")
STORES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
"""Schemes of addresses, and what obstore calls their stores."""


class Address(PurePosixPath):
    """A prefix in an object store, as `s3://bucket/runs/x`: a path with a scheme, for names and messages alone."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)


Location = Path | Address
"""Where a run or a file lies."""


def located(place: str | PurePath) -> Location:
    """The path of a folder or file, or the address that a text tells.

    Raises DiagnosticsError for a scheme that is not known, and for an address that names no prefix alone.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//?)(.*)", str(place), re.DOTALL)
    if found is None or (found[2] == "/" and found[1] not in STORES):
        return Path(place)
    if found[1] not in STORES:
        raise DiagnosticsError(
            f"Places of the kind {found[1]}:// are not known: give a folder, or {', '.join(f'{s}://' for s in STORES)}"
            f" with a bucket and a prefix.",
            code="bad-value",
        )
    bucket, *prefix = found[3].rstrip("/").split("/")
    if not bucket or "@" in bucket or "?" in found[3] or {"", ".", ".."} & {*prefix}:
        # Not quoted: it may hold a key.
        raise DiagnosticsError(
            f"An address {found[1]}:// has a bucket and names with / between them, and nothing else: give it like "
            f"{found[1]}://bucket/runs/mine, and credentials by variables of the environment.",
            code="bad-value",
        )
    return Address(f"{found[1]}:", bucket, *prefix)


class Place(Protocol):
    """The operations on a run's files, which a folder and an object store have alike; see `Folder`."""

    below: str

    @property
    def path(self) -> Location:
        """Where it lies."""
        ...

    def inside(self, name: str) -> Place:
        """A place in this one."""
        ...

    def made(self, mark: bytes) -> AbstractContextManager[Folder]:
        """A folder to fill, all of which lies here at the end; raises FileExistsError where there is a run by then."""
        ...

    def is_occupied(self) -> bool:
        """Whether something else lies here than a run, or the beginning of one."""
        ...

    def head(self, name: str) -> stat_result | None:
        """Size and time of a file; None where there is none."""
        ...

    def lengths(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of those files that are there."""
        ...

    def has_folder(self, name: str) -> bool:
        """Whether there is a folder of that name, or files below it."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """The name of everything below a folder."""
        ...

    def folders(self) -> Sequence[str]:
        """The names of the folders here, but for hidden ones."""
        ...

    def size(self) -> int:
        """Bytes of all files here."""
        ...

    def each(self, act: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
        """What is returned for each thing, in order; some are called ahead, at once, where every file is waited for."""
        ...

    def get(self, name: str, most: int) -> bytes:
        """A whole file of at most so many bytes."""
        ...

    def get_range(self, name: str, start: int, stop: int, length: int, memory: np.ndarray) -> np.ndarray:
        """Bytes of a file of a known length, perhaps in the `memory` given."""
        ...

    def put_new(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """Writes a new file; raises FileExistsError where there is one."""
        ...

    def put(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """Writes a file, in place of one that is there."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Removes files, as far as they are there."""
        ...

    def tidy(self, of: str = "", age: float = 0.0) -> None:
        """Removes what a dead process left under temporary names, where there are such."""
        return

    def prune(self, name: str) -> None:
        """Removes a folder in which nothing lies, where there are such."""
        return


def put_same(folder: Place, name: str, data: bytes) -> bool:
    """Writes a new file; where there is one, whether it has the same bytes."""
    try:
        folder.put_new(name, data, flushed=True)
    except FileExistsError:
        file = folder.head(name)
        return file is not None and file.st_size == len(data) and folder.get(name, len(data)) == data
    return True
