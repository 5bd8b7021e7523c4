"""A run in an object store: the operations of `Folder` on objects below a prefix, through obstore.

An object is there whole or not at all, so nothing has a temporary name, and nothing is locked: a run in a bucket is
one that launches share. obstore reads credentials from the environment, in each process for itself; what it says of an
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
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.activations.folder import Folder
from diagnostics.activations.place import STORES, Address, Location, Place
from diagnostics.errors import StorageError, importing

LAST = "zarr.json"
"""The file by which a run is there."""
BEGUN = "begun"
"""Object that says whose files are put into a place that has no run yet."""
FEW = 8
"""Files that are looked for one by one; more are looked up in a list."""
TRIES = 4
"""How often an object is put anew of which neither an answer nor itself arrives."""
CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI" for kind in ("RELATIVE", "FULL")),
)
ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")
"""Variables that say how requests to `s3://` are signed; without them only a machine of that cloud is told."""


def open_place(place: Location | Place) -> Place:
    """The files of a run, by where it lies."""
    if isinstance(place, Address):
        return Bucket(place)
    return Folder(place) if isinstance(place, Path) else place


class Bucket:
    """All objects below an address, or below a prefix `below` it, by name; see `Place`.

    Raises FileNotFoundError and FileExistsError, and StorageError for whatever else the store answers.
    """

    def __init__(self, root: Address, below: str = "") -> None:
        self.root, self.below, self.path = root, below, root / below

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.root, self.below)

    def inside(self, name: str) -> Bucket:
        """As `Folder.inside`."""
        return Bucket(self.root, f"{self.below}/{name}".lstrip("/"))

    @contextlib.contextmanager
    def made(self, mark: bytes) -> Generator[Folder]:
        """As `Folder.made`: on the local disk, and from there object by object, the one by which a run is there last.

        Before, the place is marked, so that two runs never mix.
        """
        with tempfile.TemporaryDirectory(prefix="diagnostics-") as local:
            yield (new := Folder(Path(local)))
            self._put_same(BEGUN, mark)
            names = [name for name in new.list() if name != LAST]
            with ThreadPoolExecutor(FEW) as threads:
                list(threads.map(lambda name: self._put_same(name, new.get(name, 2**40)), names))
            self.put_new(LAST, new.get(LAST, 2**40))

    def is_occupied(self) -> bool:
        """As `Folder.is_occupied`."""
        return self.head(LAST) is None and self.head(BEGUN) is None and self.has_folder("")

    def head(self, name: str) -> os.stat_result | None:
        """As `Folder.head`."""
        with contextlib.suppress(FileNotFoundError), self._asking("read") as store:
            found = _obstore().head(store, self._key(name))
            when = found["last_modified"].timestamp()
            return os.stat_result((stat.S_IFREG, 0, 0, 1, 0, 0, found["size"], when, when, when))
        return None

    def lengths(self, names: Iterable[str]) -> dict[str, int]:
        """As `Folder.lengths`."""
        if len(wanted := {*names}) <= FEW:
            return {name: file.st_size for name in wanted if (file := self.head(name)) is not None}
        return {name: length for name, length in self._below(os.path.commonpath(wanted)) if name in wanted}

    def has_folder(self, name: str) -> bool:
        """As `Folder.has_folder`."""
        return any(True for _ in self._below(name))

    def list(self, prefix: str = "") -> Iterator[str]:
        """As `Folder.list`."""
        return (name for name, _ in self._below(prefix))

    def folders(self) -> Sequence[str]:
        """As `Folder.folders`."""
        with self._asking("listed") as store:
            below = _obstore().list_with_delimiter(store, self._key(""))["common_prefixes"]
        return sorted(name for each in below if not (name := each.rpartition("/")[2]).startswith("."))

    def size(self) -> int:
        """As `Folder.size`."""
        return sum(length for _, length in self._below(""))

    def get(self, name: str, most: int) -> bytes:
        """As `Folder.get`."""
        with self._asking("read") as store:
            found = _obstore().get(store, self._key(name))
            if found.meta["size"] > most:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return bytes(found.bytes())

    def get_range(self, name: str, start: int, stop: int, length: int, memory: np.ndarray) -> np.ndarray:
        """As `Folder.get_range`, but not in `memory`."""
        with self._asking("read") as store:
            found = _obstore().get(store, self._key(name), options={"range": (start, stop)})
            if found.meta["size"] != length:
                raise ValueError("a wrong length")
            return np.frombuffer(found.bytes(), np.uint8)

    def put_new(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """As `Folder.put_new`.

        Where an answer is lost, the object that is there is one's own, or another's: whoever calls compares it.
        """
        for attempt in range(TRIES):
            try:
                return self._put(name, data, length, "create")
            except StorageError:
                if attempt == TRIES - 1:
                    raise
            except FileExistsError:
                pass  # or only on its way, by another hand
            if self.head(name) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def put(self, name: str, data: bytes | np.ndarray, length: int | None = None, *, flushed: bool = False) -> None:
        """As `Folder.put`."""
        self._put(name, data, length, "overwrite")

    def delete(self, names: Iterable[str]) -> None:
        """As `Folder.delete`."""
        with self._asking("written") as store:
            if keys := [self._key(name) for name in sorted(names, key=lambda name: (-name.count("/"), name))]:
                _obstore().delete(store, keys)

    def tidy(self, of: str = "", age: float = 0.0) -> None:
        """Nothing here has a temporary name."""

    def prune(self, name: str) -> None:
        """Nothing here is a folder."""

    def _put(self, name: str, data: bytes | np.ndarray, length: int | None, mode: Any) -> None:
        with self._asking("written") as store:
            _obstore().put(store, self._key(name), data[:length], mode=mode, use_multipart=False)

    def _put_same(self, name: str, data: bytes) -> None:
        try:
            self.put_new(name, data)
        except FileExistsError:
            if self.get(name, 2**40) != data:
                raise StorageError(
                    f"{self.path} was begun with other data or options, or by another version: give all launches the "
                    f"same, or choose another --out.",
                    code="other-run",
                ) from None

    def _below(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The names of all objects below a prefix, with their bytes."""
        skipped = len(self._key("x")) - 1
        with self._asking("listed") as store:
            for page in _obstore().list(store, self._key(prefix), chunk_size=1000):
                yield from ((each["path"][skipped:], each["size"]) for each in page)

    def _key(self, name: str) -> str:
        return "/".join([*self.path.parts[2:], *filter(None, [name])])

    @contextlib.contextmanager
    def _asking(self, doing: str) -> Generator[Any]:
        """The store, to ask it for something: what it answers otherwise is said in a sentence that quotes nothing."""
        scheme, bucket = self.path.parts[0].rstrip(":"), self.path.parts[1]
        store = _store(scheme, bucket)
        try:
            yield store
        except _obstore().exceptions.AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        except (FileNotFoundError, _obstore().exceptions.BaseError) as error:
            answer = _answer(error)
            if isinstance(error, FileNotFoundError) and answer not in NO_BUCKET:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
            if answer == "InvalidRange":
                raise ValueError("it ends too soon") from None
            why, remedy = next((said for codes, *said in ANSWERS if answer in codes), (answer, AGAIN))
            code = "unwritable" if doing == "written" else "unreadable"
            raise StorageError(f"{self.path} cannot be {doing} ({why}): {remedy}.", code=code) from None


NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
AGAIN = "give the same command again, which goes on from there"
RIGHTS = "ask for the rights to get, put, delete and list objects there"
RENEW = "renew them, and give the same command again, which goes on from there"
ANSWERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (NO_BUCKET, "there is no such bucket", "make it, or name another one"),
    (("ExpiredToken", "TokenRefreshRequired"), "the credentials have expired", RENEW),
    (("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthenticationFailed", "Unauthenticated"),
     "the credentials are not accepted", "correct the variables of the environment that hold them"),
    (("AccessDenied", "PermissionDenied", "AuthorizationPermissionMismatch"), "they may not do it", RIGHTS),
    (("no credentials",), "no credentials", "set the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (("no answer",), "nobody answers", "see that AWS_ENDPOINT_URL and the network are right, and try again"),
)  # fmt: skip
"""What a store's codes, or kinds of errors, come to: why, and what to do."""


def _answer(error: Exception) -> str:
    """The code of a store's answer, its HTTP status, or a word of one's own."""
    text, kind = str(error), type(error).__name__.removesuffix("Error")
    if "/latest/" in text:  # of the machine that this is, which tells those in its cloud
        return "no credentials"
    if found := re.search(r"<Code>(\w+)</Code>", text) or re.search(r"status code: (\d+)", text):
        return found[1] if found[1] != "403" else "PermissionDenied"
    return "no answer" if "error sending request" in text else kind


def _obstore() -> Any:
    with importing("Runs in buckets need", "pip install -e '.[cloud]'"):
        import obstore
        import obstore.exceptions
        import obstore.store
    return obstore


def _store(scheme: str, bucket: str) -> Any:
    """A bucket by obstore, made anew where the variables of the environment have changed."""
    return _cached_store(scheme, bucket, hash(frozenset(os.environ.items())))


@functools.lru_cache(maxsize=8)
def _cached_store(scheme: str, bucket: str, environment: int) -> Any:
    # Plain HTTP is for whoever names such an endpoint.
    plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    patience = "10s" if scheme != "s3" or any(map(os.environ.get, CREDENTIALS)) else "2s"
    options = {"allow_http": plain, "connect_timeout": patience, "timeout": "10m"}
    return getattr(_obstore().store, STORES[scheme])(bucket, client_options=options)
