"""Parts of a run on a shared path: which of them a launch does, in a folder of its own, and how it seals them.

    parts/<part>.json       the record of a part that is there: its rows, a digest of each file, and what computed it

Nobody holds the run. A launch has its journal and its shards on the local disk, and puts a whole part's files beside
those of others, its record last. A part that two launches did is the same to the bit, where they have one batch size,
kind of device and kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diagnostics.activations.folder import Folder, lock, writing
from diagnostics.activations.metadata import DamagedError, digest, seal, unseal
from diagnostics.activations.plan import Plan, record_of
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError, StorageError

MOST_RECORD = 2**22
"""Bytes of a record: names and digests of at most a few thousand files."""


@dataclass(frozen=True)
class Launch:
    """One of `count` launches of the same command, `index` from 0: it does the parts of this index modulo the count."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Self:
        """Of I/N, as it is typed; raises DiagnosticsError for what is none."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise DiagnosticsError(
                f"--part {text!r} names no launch: give I/N, the launch and how many there are, I from 1 to N, like "
                f"3/64.",
                code="bad-value",
            )
        return cls(int(match[1]) - 1, int(match[2]))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


@dataclass(frozen=True)
class Share:
    """What a command does of the parts of a run, in a `scratch` folder of its own; `about` stands in the records.

    `finishes`: whether it is the command that measures, which does all that is missing; other launches do theirs.
    """

    launch: Launch
    scratch: Path
    about: Mapping[str, Any]
    finishes: bool

    def parts(self, plan: Plan) -> range:
        """The parts that are this launch's, done or not."""
        return range(self.launch.index, plan.parts, self.launch.count)

    def work(self, folder: Folder) -> Folder:
        """Where shards and journals of the store in a folder are written until their part is whole."""
        place = self.scratch / folder.below
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        return Folder(place)


@contextlib.contextmanager
def scratch_of(run: Path, launch: str) -> Generator[Path]:
    """A folder on the local disk for what a launch has in hand: the same one when it is given again on this machine.

    Another process that has the same in hand keeps that folder, and this one gets one that nobody finds again.
    """
    own = Path(tempfile.gettempdir()) / f"diagnostics-{os.getuid()}"
    place = own / hashlib.blake2b(f"{run}\0{launch}".encode(errors="surrogateescape"), digest_size=12).hexdigest()
    with contextlib.ExitStack() as held:
        with writing(own):
            own.mkdir(mode=0o700, exist_ok=True)
        try:
            if own.is_symlink() or own.stat().st_uid != os.getuid():
                raise StorageError(f"{own} is not yours.")
            held.enter_context(lock(place))
        except StorageError:
            place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="diagnostics-")))
        yield place
        Folder(place.parent).prune(place.name)


def seal_part(store: Store, part: int, files: Mapping[str, int], about: Mapping[str, Any]) -> None:
    """Puts the files of a whole part (with their bytes) from where they were written into the run, its record last.

    Raises StorageError where another launch put others there, or the disk fails.
    """
    rows, digests = store.plan.rows_of(part), dict[str, str]()
    with writing(store.path, f"while part {part + 1} was sealed; "):
        for name, length in files.items():
            data = store.work.get(name, length)
            digests[name] = digest(data)
            _put_same(store, part, name, data, about)
        record = {"run": store.mark, "rows": [rows.start, rows.stop], "files": digests, **about}
        with contextlib.suppress(FileExistsError):  # of another launch, whose files are the same
            store.folder.put_new(record_of(part), seal(record), flushed=True)
        store.work.delete(files)


def _put_same(store: Store, part: int, name: str, data: bytes, about: Mapping[str, Any]) -> None:
    try:
        store.folder.put_new(name, data, flushed=True)
    except FileExistsError:
        file = store.folder.head(name)
        if file is None or file.st_size != len(data) or store.folder.get(name, len(data)) != data:
            there = _words(read_record(store, part)) or "a launch that did not finish the part"
            raise StorageError(
                f"{store.path / name} differs from what this launch computed ({there} there, {_words(about)} here): "
                f"give all launches one batch size, kind of device and kernel, or choose another --out.",
                code="other-run",
            ) from None


def read_record(store: Store, part: int) -> dict[str, Any]:
    """The record of a part; empty where there is none that can be read."""
    with contextlib.suppress(OSError, DamagedError):
        return unseal(store.folder.get(record_of(part), MOST_RECORD))
    return {}


def _words(about: Mapping[str, Any]) -> str:
    """How a part was computed, as far as its last digits may depend on it."""
    if not about:
        return ""
    torch = about["versions"].get("torch", "")
    return f"{about['device']}, attention {about['kernel']}, batches of {about['batch_size']}, torch {torch}"


def mixture(store: Store) -> str:
    """How the parts of a store were computed, as a sentence, where not all in one way; "" where they were."""
    ways = sorted({_words(read_record(store, part)) for part in range(store.plan.parts)} - {""})
    return f"Parts were computed in several ways, which differ in last digits: {'; '.join(ways)}." if ways[1:] else ""
