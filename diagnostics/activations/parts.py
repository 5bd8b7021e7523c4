"""Parts of a run on a shared path: which of them a launch does, in a folder of its own, and how it seals them.

    parts/<part>.json       the record of a part that is there: its rows, a digest of each file, and what computed it
    streamed/<key>/<name>   arrays that a range of parts gives of streamed targets, until all are joined

Nobody holds the run. A launch has its journal and its shards on the local disk, and puts a whole part's files beside
those of others, its record last. A part that two launches did is the same to the bit, where they have one batch size,
kind of device and kernel.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors.numpy import load, save

from diagnostics.activations.bucket import Place, put_same
from diagnostics.activations.folder import Folder, lock, writing
from diagnostics.activations.metadata import STREAMED, digest, left_names, seal
from diagnostics.activations.place import Location
from diagnostics.activations.plan import ranges_of, record_of
from diagnostics.activations.store import Store
from diagnostics.errors import DiagnosticsError, StorageError, damage_error

MOST_LEFT = 2**36
"""Bytes of sums: those of 80 taps of 8,192 features take a third."""


@dataclass(frozen=True)
class Launch:
    """One of `count` launches of the same command, `index` from 0: it does the parts of this index modulo the count."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Self:
        """Of I/N, as it is typed, or of `auto` or `auto/N`, which prints what an engine's variables tell.

        Raises DiagnosticsError for what is no launch.
        """
        given = text.strip()
        if re.fullmatch(r"auto(/\d+)?", given):
            told = _launches_in_environment(given.partition("/")[2])
            # One launch is also what an interactive shell is told.
            several = [each for each in told.values() if not each.endswith("/1")]
            if len(several) > 1 or not told:
                which = (
                    f"several engines count launches ({', '.join(told)})" if told else "no engine's variables are set"
                )
                raise DiagnosticsError(f"For --part {given} {which}: give --part I/N, like 3/64.", code="bad-value")
            given = (several or [*told.values()])[0]
            print(f"--part {text.strip()}: {', '.join(told)}: launch {given}")
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", given)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise DiagnosticsError(
                f"--part {text!r} names no launch: give I/N, the launch and how many there are, I from 1 to N, like "
                f"3/64, or auto.",
                code="bad-value",
            )
        return cls(int(match[1]) - 1, int(match[2]))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


ENGINES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("RANK", "WORLD_SIZE"),
)
"""Variables of the index and of the number of launches."""


def _launches_in_environment(total: str) -> dict[str, str]:
    """The launches, as I/N, that variables of engines tell, by the variables with their values.

    Kubernetes tells no number, so that `total` does.
    """
    told, here = dict[str, str](), os.environ
    for of, count in ENGINES if not total else [("JOB_COMPLETION_INDEX", "")]:
        with contextlib.suppress(KeyError, ValueError):
            index, launches = int(here[of]), total or here[count]
            if of == "SLURM_ARRAY_TASK_ID":
                # An array may begin anywhere and go in steps; of one that is a list, the place is not told.
                low, high, step = (int(here[f"SLURM_ARRAY_TASK_{name}"]) for name in ("MIN", "MAX", "STEP"))
                index = (index - low) // step if (high - low) // step + 1 == int(launches) else int(launches)
            told[", ".join(f"{name}={here[name]}" for name in (of, count) if name)] = f"{index + 1}/{launches}"
    return told


@dataclass(frozen=True)
class Share:
    """The share of a command in the parts of a run, made in a `scratch` folder of its own.

    `about` stands in the records.

    `finishes`: whether it is the command that measures, which does all that is missing; other launches do theirs.
    `streams`: whether sums are gathered over ranges of parts, each of which is then one launch's. `exact`: whether all
    parts have to be computed in one way.
    """

    launch: Launch
    scratch: Path
    about: Mapping[str, Any]
    finishes: bool
    streams: bool = False
    exact: bool = False

    def ranges(self, parts: int) -> range:
        """The ranges that are this launch's of so many parts, done or not: see `units`."""
        return range(self.launch.index, len(units(parts, self.streams)), self.launch.count)

    def parts(self, parts: int) -> list[int]:
        """The parts that are this launch's of so many, done or not."""
        return [part for at in self.ranges(parts) for part in units(parts, self.streams)[at]]

    def work(self, folder: Place) -> Folder:
        """The folder in which shards and journals of a store are written until their part is whole."""
        place = self.scratch / folder.below
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        return Folder(place)


def units(parts: int, streams: bool) -> list[range]:
    """Units that are dealt to launches of so many parts: each of them, or the ranges that sums are gathered over."""
    return ranges_of(parts) if streams else [range(part, part + 1) for part in range(parts)]


@contextlib.contextmanager
def scratch_of(run: Location, way: str) -> Generator[Path]:
    """A folder on the local disk for what a launch has in hand.

    It is the same one when it is given again on this machine, to do it in the same `way`.

    Another process that has the same in hand keeps that folder, and this one gets one that nobody finds again.
    """
    own = Path(tempfile.gettempdir()) / f"diagnostics-{os.getuid()}"
    place = own / hashlib.blake2b(f"{run}\0{way}".encode(errors="surrogateescape"), digest_size=12).hexdigest()
    with contextlib.ExitStack() as held:
        try:
            with writing(own):
                own.mkdir(mode=0o700, exist_ok=True)
            if own.is_symlink() or own.stat().st_uid != os.getuid():
                raise StorageError(f"{own} is not yours.", code="unwritable")
            held.enter_context(lock(place))
        except StorageError:
            with writing(own.parent):
                place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="diagnostics-")))
        yield place
        # All is sealed, by this launch or, after a kill of it, by another.
        with contextlib.suppress(OSError):
            Folder(place.parent).delete_prefix(place.name)


def seal_part(store: Store, part: int, files: Mapping[str, int], share: Share, size: int) -> None:
    """Put the files of a whole part (with their bytes) from where they were written into the run, its record last.

    `size`: of batches.

    Of a part without a record files may be there that are a dead launch's, in batches of another size: they stay, and
    the record says so. Raises StorageError where another launch put others there, or the disk fails.
    """
    rows, digests, about = store.plan.rows_of(part), dict[str, str](), {**share.about, "batch_size": size}
    with writing(store.path, f"while part {part + 1} was sealed; "):
        for name, length in files.items():
            data = store.work.get(name, length)
            if not put_same(store.folder, name, data):
                there = store.record(part)
                if there or share.exact or not store.is_sound(name):
                    whose = _words(there) or "a launch that did not finish the part"
                    raise StorageError(
                        f"{store.path / name} differs from what this launch computed ({whose} there, {_words(about)} "
                        f"here): give all launches one batch size, kind of device and kernel, or choose another --out.",
                        code="other-run",
                    )
                data, about["beside"] = store.folder.get(name, length), True
            digests[name] = digest(data)
        record = seal({"run": store.mark, "rows": [rows.start, rows.stop], "files": digests, **about})
        try:
            store.folder.put_new(record_of(part), record, flushed=True)
        except FileExistsError:
            if not store.record(part):  # of another run, or damaged; else another launch's, whose files are the same
                store.folder.put(record_of(part), record, flushed=True)
        store.work.delete(files)


class LeftGoneError(StorageError):
    """Another command has measured meanwhile, and removed what launches left."""


class Left:
    """Arrays that launches leave in a shared run, by a name, and those of one `version` of the code alone."""

    def __init__(self, store: Store, version: str) -> None:
        self.store = store
        self.place = f"{STREAMED}/{hashlib.blake2b(f'{store.mark} {version}'.encode(), digest_size=16).hexdigest()}"

    def has(self, name: str) -> bool:
        """Test for arrays of that name."""
        return self.store.folder.head(f"{self.place}/{name}") is not None

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Leaves arrays; raises StorageError where another launch left others."""
        with writing(self.store.path, f"while writing {name}; "):
            alike = put_same(self.store.folder, f"{self.place}/{name}", _pack(arrays))
        if not alike:
            raise StorageError(
                f"{self.store.path / self.place / name} differs from what this launch computed: give all launches one "
                f"batch size, kind of device and kernel, or choose another --out.",
                code="other-run",
            )

    def agree(self, name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Leaves arrays where there are none, and gives what is there then."""
        with writing(self.store.path), contextlib.suppress(FileExistsError):
            self.store.folder.put_new(f"{self.place}/{name}", _pack(arrays), flushed=True)
        return self.get(name)

    def get(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a name.

        Raises LeftGoneError where they are gone, StorageError where they are not as they were left.
        """
        try:
            data = self.store.folder.get(f"{self.place}/{name}", MOST_LEFT)
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return load(data[32:])
        except FileNotFoundError:
            raise LeftGoneError(
                f"Another command measured {self.store.path} meanwhile and removed what launches left there: give "
                f"this one again.",
                code="unfinished",
            ) from None
        except OSError:
            pass
        raise damage_error(self.store.path, f"{self.place}/{name}")


def remove_left(store: Store) -> None:
    """Remove what launches left in a store."""
    with writing(store.path):
        store.folder.delete(left_names(store.folder))
        store.folder.prune(STREAMED)


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    data = save({key: np.ascontiguousarray(values) for key, values in arrays.items()})
    return hashlib.sha256(data).digest() + data


def _words(about: Mapping[str, Any]) -> str:
    """The way a part was computed, as far as its last digits may depend on it."""
    if not about:
        return ""
    how = f"attention {about['kernel']}, batches of {about['batch_size']}, torch {about['versions'].get('torch', '')}"
    beside = ", beside files of a launch that left no record" if about.get("beside") else ""
    threads = f", {about['threads']} threads" if "threads" in about else ""
    return f"{about['device']}, {how}{threads}{beside}"


def mixture(store: Store, *more: Mapping[str, Any]) -> str:
    """The ways in which the parts of a store were computed, and `more`, as a sentence, where not all in one way.

    "" where they were.
    """
    every = [*map(store.record, range(store.plan.parts)), *more]
    ways = sorted({_words(about) for about in every} - {""})
    mixed = ways[1:] or any(about.get("beside") for about in every)
    return f"Parts were computed in several ways, which differ in last digits: {'; '.join(ways)}." if mixed else ""


def refuse_mixture(store: Store, *more: Mapping[str, Any]) -> None:
    """Raise where the parts of a store were not computed in one way, and `more`."""
    if found := mixture(store, *more):
        raise DiagnosticsError(
            f"{store.path}: {found.rstrip('.')}; leave --exact out, or choose another --out and give all launches one "
            f"batch size, kind of device and kernel.",
            code="irreproducible",
        )
