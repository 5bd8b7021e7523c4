"""A run in an object store: the operations of a `Folder` on objects below a prefix.

An object is there whole or not at all, so nothing has a temporary name, and nothing is locked: a run in a bucket is
one that launches share. obstore reads credentials from the environment, in each process for itself. What it says of an
error may quote them, and is never passed on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.activations.folder import Folder, S, T, writing
from diagnostics.activations.place import STORES, Address, Location
from diagnostics.errors import DiagnosticsError, StorageError, importing

LAST = "zarr.json"
"""The file by which a run is there."""
BEGUN = "begun"
"""Object that says whose files are put into a place that has no run yet."""
AHEAD = 6
"""Requests at once; of the largest shards, 128 MiB each."""
TRIES = 4
"""How often an object is put that is said to be there and is not."""
CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI" for kind in ("RELATIVE", "FULL")),
)
"""Variables that say how requests to `s3://` are signed."""


class Bucket:
    """All objects below an address, or below a prefix `below` it, by name; the operations are those of `Folder`.

    Raises FileNotFoundError and FileExistsError, and StorageError for whatever else the store answers.
    """

    def __init__(self, root: Address, below: str = "") -> None:
        self.root, self.below, self.path = root, below, root / below

    def inside(self, name: str) -> Bucket:
        return Bucket(self.root, f"{self.below}/{name}".lstrip("/"))

    @contextlib.contextmanager
    def creating(self, mark: bytes) -> Generator[Folder]:
        # Two runs at once would mix their objects: the first mark stays.
        with tempfile.TemporaryDirectory(prefix="diagnostics-") as local:
            with writing(Path(local)):
                yield (new := Folder(Path(local)))
            self._put_same(BEGUN, mark)
            deque(self.each(lambda name: self._put_same(name, new.get(name, 2**40)), {*new.list()} - {LAST}), 0)
            self.put_new(LAST, new.get(LAST, 2**40))

    def is_occupied(self) -> bool:
        return self.has_folder("") and self.head(LAST) is None and self.head(BEGUN) is None

    def head(self, name: str) -> os.stat_result | None:
        try:
            with asking(self.path, "read") as store:
                found = obstore().head(store, self._key(name))
        except FileNotFoundError:
            return None
        except StorageError:
            self.has_folder(name)  # whose answer says why
            raise
        when = found["last_modified"].timestamp()
        return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, found["size"], when, when, when))

    def lengths(self, names: Iterable[str]) -> dict[str, int]:
        if len(wanted := {*names}) < 3:
            return {name: file.st_size for name in wanted if (file := self.head(name)) is not None}
        return {name: length for name, length in self._below(os.path.commonpath(wanted)) if name in wanted}

    def has_folder(self, name: str) -> bool:
        return any(True for _ in self._below(name))

    def list(self, prefix: str = "") -> Iterator[str]:
        return (name for name, _ in self._below(prefix))

    def folders(self) -> Sequence[str]:
        with asking(self.path, "listed") as store:
            below = obstore().list_with_delimiter(store, self._key(""))["common_prefixes"]
        return sorted(name for each in below if not (name := each.rpartition("/")[2]).startswith("."))

    def size(self) -> int:
        return sum(length for _, length in self._below(""))

    def each(self, act: Callable[[S], T], things: Iterable[S]) -> Iterator[T]:
        things = iter(things)
        if len(first := [*islice(things, 2)]) < 2:
            # Threads would take longer to start than one answer takes.
            yield from map(act, first)
            return
        with ThreadPoolExecutor(AHEAD) as threads:
            waiting = deque[Future[T]]()
            for thing in chain(first, things):
                waiting.append(threads.submit(act, thing))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            yield from (each.result() for each in waiting)

    def get(self, name: str, most: int) -> bytes:
        with asking(self.path, "read") as store:
            found = obstore().get(store, self._key(name))
            if found.meta["size"] > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return bytes(found.bytes())

    def get_range(self, name: str, start: int, stop: int, length: int, memory: np.ndarray) -> np.ndarray:
        with asking(self.path, "read") as store:
            found = obstore().get(store, self._key(name), options={"range": (start, stop)})
            if found.meta["size"] != length:
                raise ValueError("a wrong length")
            return np.frombuffer(found.bytes(), np.uint8)

    def put_new(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        for left in reversed(range(TRIES)):
            try:
                return self._put(name, data, length, "create")
            except FileExistsError:
                # One's own, whose answer was lost, or another's: whoever calls compares it. Or only on its way.
                if not left or self.head(name) is not None:
                    raise

    def put(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        self._put(name, data, length, "overwrite")

    def delete(self, names: Iterable[str]) -> None:
        with asking(self.path, "written") as store:
            if keys := [self._key(name) for name in sorted(names, key=lambda name: (-name.count("/"), name))]:
                obstore().delete(store, keys)

    def tidy(self, of: str = "", age: float = 0.0) -> None:
        """Nothing here has a temporary name, or is a folder."""

    prune = tidy

    def _put(self, name: str, data: bytes | np.ndarray, length: int | None, mode: Any) -> None:
        with asking(self.path, "written") as store:
            obstore().put(store, self._key(name), data[:length], mode=mode, use_multipart=False)

    def _put_same(self, name: str, data: bytes) -> None:
        if not put_same(self, name, data):
            raise StorageError(
                f"{self.path} was begun with other data or options, or by another version: give all launches the same, "
                f"or choose another --out.",
                code="other-run",
            )

    def _below(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The names of all objects below a prefix, with their bytes."""
        skipped = len(self._key("x")) - 1
        with asking(self.path, "listed") as store:
            for page in obstore().list(store, self._key(prefix), chunk_size=1000):
                yield from ((each["path"][skipped:], each["size"]) for each in page)

    def _key(self, name: str) -> str:
        return "/".join([*self.path.parts[2:], *filter(None, [name])])


Place = Folder | Bucket
"""The files of a run, by operations that both have."""


def open_place(place: Location | Place) -> Place:
    """The files at a location, or those that are given."""
    if isinstance(place, Address):
        return Bucket(place)
    return Folder(place) if isinstance(place, Path) else place


def put_same(folder: Place, name: str, data: bytes) -> bool:
    """Write a new file; where there is one, whether it has the same bytes."""
    try:
        folder.put_new(name, data, flushed=True)
    except FileExistsError:
        file = folder.head(name)
        return file is not None and file.st_size == len(data) and folder.get(name, len(data)) == data
    return True


@contextlib.contextmanager
def asking(place: Address, doing: str) -> Generator[Any]:
    """The store, to ask it for something: what it answers otherwise is said in a sentence that quotes nothing."""
    try:
        # Made anew where the variables of the environment have changed.
        store = _store(place.parts[0].rstrip(":"), place.parts[1], hash(frozenset(os.environ.items())))
    except (DiagnosticsError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a value that Rust panics over is no Exception
        raise StorageError(
            f"{place} cannot be reached: a variable of the environment is not what obstore expects "
            f"({type(error).__name__}); correct those that begin with AWS_, GOOGLE_ or AZURE_.",
            code="unreadable",
        ) from None
    try:
        yield store
    except obstore().exceptions.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    except (FileNotFoundError, obstore().exceptions.BaseError) as error:
        answer = _answer(error)
        if isinstance(error, FileNotFoundError) and answer not in NO_BUCKET:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        if answer == "InvalidRange":
            raise ValueError("it ends too soon") from None
        why, remedy = next((said for codes, *said in ANSWERS if answer in codes), (answer, AGAIN))
        code = "unwritable" if doing == "written" else "unreadable"
        raise StorageError(f"{place} cannot be {doing} ({why}): {remedy}.", code=code) from None


NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
AGAIN = "give the same command again, which goes on from there"
ANSWERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (NO_BUCKET, "there is no such bucket", "make it, or name another one"),
    (("ExpiredToken", "TokenRefreshRequired"), "the credentials have expired", f"renew them, and {AGAIN}"),
    (("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthenticationFailed", "Unauthenticated"),
     "the credentials are not accepted", "correct the variables of the environment that hold them"),
    (("AccessDenied", "PermissionDenied", "AuthorizationPermissionMismatch"), "access is denied",
     "ask for the rights to get, put, delete and list objects there"),
    (("no credentials",), "no credentials", "set the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (("no answer",), "nobody answers", "see that AWS_ENDPOINT_URL and the network are right, and try again"),
)  # fmt: skip
"""What a store's codes, or kinds of errors, come to: why, and what to do."""


def _answer(error: Exception) -> str:
    """The code of a store's answer, its HTTP status, or a word of one's own."""
    text, kind = str(error), type(error).__name__.removesuffix("Error")
    # Without variables a machine is asked, which knows of them if it is one of that cloud.
    if re.search(r"/latest/(api/token|meta-data/)", text):
        return "no credentials"
    if found := re.search(r"<Code>(\w+)</Code>", text) or re.search(r"status code: (\d+)", text):
        return found[1] if found[1] != "403" else "PermissionDenied"
    return "no answer" if "error sending request" in text else kind


def obstore() -> Any:
    """The library; raises DiagnosticsError where it is not installed."""
    with importing("Runs in buckets need", "pip install -e '.[cloud]'"):
        import obstore
        import obstore.exceptions
        import obstore.store
    return obstore


@functools.lru_cache(maxsize=8)
def _store(scheme: str, bucket: str, environment: int) -> Any:
    patience = "10s" if scheme != "s3" or any(map(os.environ.get, CREDENTIALS)) else "2s"
    # Plain HTTP is for whoever names such an endpoint: all others are HTTPS.
    options = {"allow_http": True, "connect_timeout": patience, "timeout": "10m"}
    return getattr(obstore().store, STORES[scheme])(bucket, client_options=options)
