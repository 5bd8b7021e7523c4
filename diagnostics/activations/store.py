"""The activation store: layout, reading, resume, identity and integrity.

    samples/                id, split, group [sample]; targets/<name> [sample], or targets/<name>/<grid> [sample, token]
    taps/<tap>/pooled       [sample, pooling, feature] float32
    taps/<tap>/tokens       [token_sample, token, feature], and prefix [token_sample, prefix, feature] where it has any
    observed/<name>/<tap>   [row, ...] float32: what an observation (attention) saw of the first rows, or why not
    controls/<name>/        the same for a control encoder
    results.json, results/  what the measures gave: see `run_files`

Rows are in a random order fixed by the sample count, so the token rows, the first `token_samples`, are a random subset.
Shards have few rows of tokens and many of pooled values, which lie in a journal until their shard is whole. Writes are
atomic. Every chunk carries a CRC-32C, every shard a mark of its run, tap and place, and the root digests of itself and
of what was written with it; all are verified when they are read.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from diagnostics.activations.bucket import Place, open_place
from diagnostics.activations.cache import Kept
from diagnostics.activations.contract import Activations, StoredTarget, block_name
from diagnostics.activations.folder import Folder, StrangeFileError, pages, reading, writing
from diagnostics.activations.metadata import (
    COVERED,
    MOST_BYTES,
    NAME,
    Contents,
    DamagedError,
    Observed,
    TargetFacts,
    damage_of,
    left_names,
    observation_names,
    read_array,
    read_attributes,
    read_document,
    read_files,
    read_observation,
    read_observed,
    unseal,
    write_group,
    write_observed,
)
from diagnostics.activations.place import Location
from diagnostics.activations.plan import Step, in_ranges, record_of
from diagnostics.activations.shards import Journal, Layout, ShardBuffer, ShardReader, journal_of
from diagnostics.errors import DiagnosticsError, StorageError, damage_error, unwritable
from diagnostics.vocabulary import DENSE

if TYPE_CHECKING:
    from diagnostics.encoders.encoder import Captured

FORMAT = 7
READABLE = (4, 5, 6, FORMAT)
"""Formats that are read. A store of an older one is not gone on with: in 6 and before, tokens are those of the first
rows; in 5 and 4, results lie otherwise, and those of 4 do not say whose they are.
"""
SHARED = "shared"
"""Attribute of a root: whether launches extract it together, so that nobody holds its lock."""
TOKENS_REMOVED = "tokens_removed"
"""Attribute of a root: whether the tokens that its plan tells of were removed, or never written."""
MOST_LOOKED_FOR = 2**14
"""Files that are looked for at a time: a plan from outside may ask for more than there is time to look for."""
MOST_RECORD = 2**22
"""Bytes of a part's record: names and digests of at most a few thousand files."""
# Pooled values of all open runs together, in bytes: PE-G's 50 taps of 3,400 samples.
KEPT = Kept(2**30)
MOST_TOKENS = 2**28
"""Bytes of the tokens of a tap that stay until another one's are read."""


class Store(Activations):
    """A store in its place; `verified`: whether its metadata is compared with what was written."""

    def __init__(self, place: Location | Place, *, verified: bool = True) -> None:
        self.folder = open_place(place)
        self.work = self.folder
        """Where shards and journals are written: elsewhere while a launch does parts of a shared run."""
        self.path = self.folder.path
        self._records: dict[str, Observed] = {}
        """Of observations that are read tap by tap."""
        self.unobserved: dict[str, str] = {}
        """Observations that failed in a way that may not come again, and why; never written."""
        with reading(self.path):
            there = self.folder.head(NAME) is not None
        if not there:
            raise DiagnosticsError(
                f"{self.path} is not a run: give the folder that `diagnostics run` wrote.", code="missing-file"
            )
        self.attrs, self.contents = self._open(verified)
        self.older = self.attrs["diagnostics_format"] != FORMAT
        """Whether a version of this package wrote it that is not gone on with."""
        self.results_in_groups = self.attrs["diagnostics_format"] < 6
        """Whether its results are Zarr groups."""
        self.mark = None if self.attrs["diagnostics_format"] == 4 else self.contents.run.hex()
        """What says that results are this run's; those of format 4 say nothing."""
        self.plan, self.identity = self.contents.plan, dict(self.contents.identity)
        self.taps, self.output_tap, self.poolings = self.plan.taps, self.plan.output_tap, self.plan.poolings
        self.token_samples = 0 if self.tokens_removed else self.plan.token_samples
        self.modality = self.attrs.get("encoder", {}).get("modality")
        self._layouts = {tap.name: self.plan.layouts(tap) for tap in self.taps}
        self._arrays = [layout for layouts in self._layouts.values() for layout in layouts.values()]
        self._journal: Journal | None = None
        self._owner = object()  # and not its id, which another store may have later
        weakref.finalize(self, KEPT.forget, self._owner)
        self._spare: list[np.ndarray] = []
        self._read_last: dict[str, tuple[str, np.ndarray]] = {}
        """Of each kind, the array of tokens that was read last, and the memory that it is in."""

    def _open(self, verified: bool = True) -> tuple[dict[str, Any], Contents]:
        try:
            document = read_document(self.folder)
            if document["attributes"].get("diagnostics_format") not in READABLE:
                raise StorageError(
                    f"{self.path} is a Zarr group but not a run of this version (format {FORMAT}): remove it or choose "
                    "another folder, and give `diagnostics run` again.",
                    code="other-version",
                )
            attrs = read_attributes(document)
            with damage_of(NAME, (KeyError, ValueError, TypeError, DiagnosticsError)):
                contents = Contents.from_attrs(attrs)
            at_once = (NAME, *(f"samples/{name}/c/0" for name in ("id", "split", "group")))
            described = {file: digest for file, digest in contents.files.items() if file.endswith(at_once)}
            read_files(self.folder, described if verified else {})
        except DamagedError as error:
            raise damage_error(self.path, str(error)) from error
        return attrs, contents

    # Reading

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        values = KEPT.get(self._owner, tap, lambda: self._pooled(tap))
        if pooling is not None:
            values = values[:, self.poolings.index(pooling)]
        return values.reshape(len(values), -1).astype(np.float64)

    def _pooled(self, tap: str) -> np.ndarray:
        """float32 [sample, pooling, feature]."""
        layout = self._layouts[tap]["pooled"]
        shape = layout.samples, layout.tokens, layout.features
        # Not from the heap: it stays, and would take the place of what each call of `pooled` hands out and gets back.
        values = pages(4 * math.prod(shape))[: 4 * math.prod(shape)].view(np.float32).reshape(shape)
        for part, read in self._shards(layout):
            tokens, others = self.plan.positions(part)
            count = tokens.stop - tokens.start
            values[tokens], values[others] = read[:count], read[count:]
        return values

    def token_blocks(self, tap: str, shards: Sequence[int] | None = None) -> Iterator[tuple[slice, np.ndarray]]:
        if not self.token_samples:
            return
        layout, rows = self._layouts[tap]["tokens"], self.plan.shard
        # Others of a shared run may not be there yet.
        with self._tokens(layout) if shards is None else nullcontext(np.empty(0)) as kept:
            of_shards = ((shard, kept[shard * rows :][:rows]) for shard in range(layout.shards if len(kept) else 0))
            for shard, values in of_shards if len(kept) else self._shards(layout, shards):
                yield slice(shard * rows, shard * rows + len(values)), values.astype(np.float32)

    @contextmanager
    def _tokens(self, layout: Layout) -> Generator[np.ndarray]:
        """[sample, token, feature] as stored, which all measures of a tap read once.

        Empty where that is too large to stay.

        One memory serves all taps. Who reads two in turn reads the second into another.
        """
        shape = layout.samples, layout.tokens, layout.features
        size = math.prod(shape) * np.dtype(layout.dtype).itemsize
        if size > MOST_TOKENS:
            yield np.empty(0)
            return
        array, memory = self._read_last.pop(layout.kind, ("", np.empty(0, np.uint8)))
        memory = memory if len(memory) >= size else pages(size)
        values = memory[:size].view(layout.dtype).reshape(shape)
        if array != layout.array:
            for shard, rows in self._shards(layout):
                values[shard * self.plan.shard :][: len(rows)] = rows
        try:
            yield values
        finally:
            self._read_last[layout.kind] = layout.array, memory

    def _shards(self, layout: Layout, some: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Each shard of an array, or some, in memory that the next one, or the next reader, may overwrite."""
        spare = None
        with suppress(IndexError):
            spare = self._spare.pop()
        reader = ShardReader(self.folder, self.contents.run, layout, spare)

        def read(shard: int) -> np.ndarray:
            try:
                return reader.shard(shard)
            except (OSError, ValueError) as error:
                raise damage_error(self.path, layout.array) from error

        try:
            shards = range(layout.shards) if some is None else some
            yield from zip(shards, self.folder.each(read, shards), strict=True)
        finally:
            # One serves all arrays that are read one after the other.
            self._spare[:] = [reader.memory]

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        for layout in self._layouts[tap].values():
            if layout.kind == "pooled" or not self.token_samples:
                continue
            with self._tokens(layout) as kept:
                for first in range(0, layout.tokens if len(kept) else 0, layout.block):
                    yield kept[:, first : first + layout.block].copy().reshape(layout.samples, -1)
            if len(kept):
                continue
            reader = ShardReader(self.folder, self.contents.run, layout)
            # Whole chunks, so that nothing is read twice.
            for chunk in range(layout.chunks):
                try:
                    block = reader.chunk(chunk)
                except (OSError, ValueError) as error:
                    raise damage_error(self.path, layout.array) from error
                yield block.reshape(len(block), -1)

    def targets(self) -> dict[str, StoredTarget]:
        """All stored targets by name, in the dataset's order."""
        return {name: self._target(name, facts) for name, facts in self.contents.targets.items()}

    def _target(self, name: str, facts: TargetFacts) -> StoredTarget:
        values, on_grid = np.empty(0), dict[tuple[int, ...], np.ndarray]()
        if COVERED in facts.grids:
            values = self._by_sample(f"targets/{name}/{COVERED}")
        elif facts.kind in DENSE:  # perhaps on no grid at all
            on_grid = {
                tuple(int(n) for n in key.split("x")): self._by_sample(f"targets/{name}/{key}") for key in facts.grids
            }
        else:
            values = self._by_sample(f"targets/{name}")
        return StoredTarget(
            name,
            facts.kind,
            values,
            units=facts.units,
            about=facts.about,
            classes=facts.classes,
            period=facts.period,
            naive=self._by_sample(f"naive/{name}") if facts.naive else None,
            family_override=facts.family,
            on_grid=on_grid,
        )

    @cached_property
    def ids(self) -> np.ndarray:
        return self._column("id")

    @cached_property
    def split(self) -> np.ndarray:
        return self._column("split")

    @cached_property
    def groups(self) -> np.ndarray:
        return self._column("group")

    def _column(self, name: str) -> np.ndarray:
        column = self._by_sample(name).astype(object)
        column.flags.writeable = False
        return column

    def _by_sample(self, name: str) -> np.ndarray:
        """An array below `samples`, one row a sample, by position."""
        try:
            values = read_array(self.folder, f"samples/{name}", self.contents.files)
        except DamagedError as error:
            raise damage_error(self.path, f"samples/{name}") from error
        if values.ndim == 0 or len(values) != self.plan.samples:
            raise damage_error(self.path, f"samples/{name}")
        values = values[self.plan.rows]
        # All measures read the same.
        values.flags.writeable = False
        return values

    def observation_arrays(self, name: str) -> Captured:
        from diagnostics.encoders.encoder import Captured

        stored = self.observation(name)
        if stored is None:
            raise DiagnosticsError(self.unobserved.get(name, f"No {name} was recorded."), code="not-measured")
        if stored.reason:
            raise DiagnosticsError(stored.reason, code="not-measured")
        try:
            return Captured(read_observation(self.folder, name, stored), stored.left_out)
        except DamagedError as error:
            raise damage_error(self.path, f"observed/{name}/{error}") from error

    def observation_at(self, name: str, tap: str) -> np.ndarray | None:
        """The array of an observation at one tap; None where it has nothing there."""
        stored = self._records.get(name) or self.observation(name)
        if stored is None or tap not in stored.taps:
            return None
        self._records[name] = stored
        try:
            return read_array(self.folder.inside(f"observed/{name}"), tap, stored.files)
        except DamagedError as error:
            raise damage_error(self.path, f"observed/{name}/{error}") from error

    def read_blocks(self, name: str, tap: str) -> np.ndarray:
        blocks = list[np.ndarray]()
        while (block := self.observation_at(block_name(name, len(blocks)), tap)) is not None:
            blocks.append(block)
        if not blocks:
            left_out = self.observation_arrays(block_name(name, 0)).left_out
            raise DiagnosticsError(f"{name} of tap {tap}: {left_out.get(tap, 'nothing was recorded')}.", code="no-grid")
        return np.concatenate(blocks)

    def has_observed(self, name: str, samples: int, state: Mapping[str, str]) -> bool:
        """True if an observation of that many samples is stored, or that in this `state` of the code there is none.

        What was observed holds on any device and with any torch; but another observation, or version of it, may have
        recorded other numbers under that name.
        """
        stored = self.observation(name)
        if stored is None:
            return False
        if stored.reason:
            return stored.state == state
        return stored.samples >= samples and all(stored.state.get(key) == state[key] for key in ("by", "version"))

    def observation(self, name: str) -> Observed | None:
        """Record of an observation, None where nothing was recorded."""
        try:
            return read_observed(self.folder, self.contents.run.hex(), name)
        except DamagedError as error:
            raise damage_error(self.path, f"observed/{name}") from error

    def check_whole(self) -> None:
        """Raise when the extraction did not finish, or when files of it are gone or cut short since."""
        if self.shared and not self.complete:
            command = "the same `diagnostics run` command without --part"
            parts = range(self.plan.parts)
            some = (parts[first : first + MOST_LOOKED_FOR] for first in range(0, len(parts), MOST_LOOKED_FOR))
            if missing := next(filter(None, map(self._missing_among, some)), None):
                more = " and perhaps more" if len(parts) > MOST_LOOKED_FOR else ""
                raise DiagnosticsError(
                    f"Of the {len(parts):,} parts of {self.path} these are missing: {in_ranges(missing)}{more}; give "
                    f"their launches (--part) again, or {command}, which does what is missing.",
                    code="unfinished",
                )
            raise DiagnosticsError(
                f"All parts of {self.path} are there, and nothing is measured yet: give {command}.", code="unfinished"
            )
        if not self.complete:
            raise DiagnosticsError(
                f"The extraction into {self.path} was interrupted after {self.rows_done:,} of {self.plan.samples:,} "
                f"samples: give the same `diagnostics run` command again to finish it.",
                code="unfinished",
            )
        wanted = ((layout, layout.file(i)) for layout in self._arrays for i in range(layout.shards))
        while files := list(islice(wanted, MOST_LOOKED_FOR)):
            lengths = self.folder.lengths(name for _, name in files)
            for layout, name in files:
                if lengths.get(name) != layout.length and (layout.kind == "pooled" or not self.tokens_removed):
                    raise damage_error(self.path, name)

    @property
    def rows_done(self) -> int:
        """Number of samples of which everything is there."""
        if self.shared and not self.complete:
            missing = (self.plan.rows_of(part) for part in self.missing_parts)
            return self.plan.samples - sum(rows.stop - rows.start for rows in missing)
        # Their tokens, if any are kept, were written before.
        return self.plan.samples - sum(len(step) for step in self.todo(self.plan.samples, with_tokens=False))

    def todo(self, batch: int, with_tokens: bool = True, parts: Iterable[int] | None = None) -> list[Step]:
        """Steps that are not there yet, of some parts or all, with so many samples in a forward pass."""
        plan = self.plan if with_tokens else self.plan.without_tokens
        return list(plan.steps(batch, self._count_pooled, self._has_tokens, parts))

    @property
    def missing_parts(self) -> list[int]:
        """Of a shared run those that have no record."""
        return self._missing_among(range(self.plan.parts))

    def _missing_among(self, parts: range) -> list[int]:
        return [part for part, there in zip(parts, self.folder.each(self.record, parts), strict=True) if not there]

    def record(self, part: int) -> dict[str, Any]:
        """The record of a part; empty where this run has none that can be read."""
        with suppress(OSError, DamagedError):
            record = unseal(self.folder.get(record_of(part), MOST_RECORD))
            if record.get("run") == self.mark:
                return record
        return {}

    def is_sound(self, file: str) -> bool:
        """Test for a file that holds a shard of this run as it was written, whatever its values."""
        shards = ((layout, shard) for layout in self._arrays for shard in range(layout.shards))
        layout, shard = next(each for each in shards if each[0].file(each[1]) == file)
        with suppress(OSError, ValueError):
            ShardReader(self.folder, self.contents.run, layout).shard(shard)
            return True
        return False

    def files_of(self, part: int, with_tokens: bool) -> dict[str, int]:
        """The files of a part with their bytes."""
        tokens = self.plan.token_shards(part) if with_tokens else ()
        shards = {layout: [part] if layout.kind == "pooled" else tokens for layout in self._arrays}
        return {layout.file(shard): layout.length for layout, theirs in shards.items() for shard in theirs}

    def lacking_files(self, parts: Iterable[int], with_tokens: bool) -> set[int]:
        """Those of some parts of which a file is not in the run; whatever is in the others."""
        files = {part: self.files_of(part, with_tokens).keys() for part in parts}
        there = self.folder.lengths(file for theirs in files.values() for file in theirs).keys()
        return {part for part, theirs in files.items() if theirs - there}

    def _has(self, layout: Layout, shard: int) -> bool:
        """True if a shard has its file, of the right length."""
        file = self.work.head(layout.file(shard))
        return file is not None and file.st_size == layout.length

    def _has_tokens(self, shard: int) -> bool:
        return all(self._has(layout, shard) for layout in self._arrays if layout.kind != "pooled")

    def _count_pooled(self, shard: int) -> int:
        """Number of the first rows of pooled values of a shard, in the taps' shards or in the journal."""
        rows = self.plan.rows_of(shard)
        return rows.stop - rows.start if self._has_pooled(shard) else self._journal_of(shard).rows

    def _has_pooled(self, shard: int) -> bool:
        return all(self._has(tap["pooled"], shard) for tap in self._layouts.values())

    def _journal_of(self, shard: int) -> Journal:
        assert isinstance(self.work, Folder)  # of a run in a bucket, a launch's own
        return Journal(self.work, self.contents.run, shard, [tap["pooled"] for tap in self._layouts.values()])

    # Writing

    def write(
        self, step: Step, tokens: Mapping[str, Mapping[str, ShardBuffer]], pooled: Mapping[str, np.ndarray]
    ) -> None:
        """All of a step: bytes of tokens, and pooled values.

        Of each tap these are the bytes of its shards of tokens by kind, and pooled values [row, pooling, feature].
        """
        try:
            if step.shard is not None:
                for buffers in tokens.values():
                    for buffer in buffers.values():
                        buffer.write(self.work, self.contents.run, step.shard)
            # Last, since it says that the rows are done.
            self._append(step.rows.start, [pooled[tap.name] for tap in self.taps])
        except OSError as error:
            done = f"after {self.rows_done:,} of {self.plan.samples:,} samples; "
            raise unwritable(self.work.path, error, done) from error

    def _append(self, row: int, values: list[np.ndarray]) -> None:
        shard = row // self.plan.pooled_shard
        if self._has_pooled(shard):
            return
        if self._journal is None or self._journal.shard != shard:
            self._journal = self._journal_of(shard)
        self._journal.append(row - shard * self.plan.pooled_shard, values)
        self._store_if_whole(self._journal)

    def _store_if_whole(self, journal: Journal) -> None:
        if journal.rows == journal.size:
            try:
                journal.store()
            except ValueError as error:
                raise StorageError(
                    f"{self.path} was damaged while it was written ({journal.name}): give the same command again.",
                    code="damaged",
                ) from error

    def tidy(self) -> None:
        """Take away what a kill left of files that were being written, and damaged shards.

        Shards that are not as they were written are then done again; those whose last row is there are finished.
        """
        with writing(self.work.path):
            self.work.tidy()
            for layout in self._arrays:
                if not self.complete or (self.tokens_removed and layout.kind != "pooled"):
                    self._delete_damaged(layout)
            for shard in range(self.plan.parts):
                journal = self._journal_of(shard)
                if self._has_pooled(shard):
                    journal.remove()
                elif journal.rows:
                    self._store_if_whole(journal)

    def _delete_damaged(self, layout: Layout) -> None:
        reader = ShardReader(self.work, self.contents.run, layout)
        for shard in range(layout.shards):
            try:
                reader.shard(shard) if self._has(layout, shard) else None
            except (OSError, ValueError):
                self.work.delete([layout.file(shard)])

    def put_observed(self, name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """An observation by tap, in place of an earlier one of that name; whole or not at all.

        In a shared run one that will do stays: another command may have written it since, and be reading it.
        """
        self._records.pop(name, None)
        if not (self.shared and self.has_observed(name, about["samples"], about["state"])):
            write_observed(self.folder, self.contents.run.hex(), name, arrays, about)

    @property
    def complete(self) -> bool:
        """True if the extraction has finished."""
        return bool(self.attrs["complete"])

    @property
    def shared(self) -> bool:
        """True if launches extract it together."""
        return bool(self.attrs.get(SHARED, False))

    @property
    def tokens_removed(self) -> bool:
        """True if its tokens were removed, or never written since nothing read them: see `activations.run_files`."""
        return bool(self.attrs.get(TOKENS_REMOVED, False))

    @property
    def token_files(self) -> dict[str, int]:
        """The files that tokens are stored in, as far as they are there, with their bytes."""
        names = (layout.file(i) for layout in self._arrays if layout.kind != "pooled" for i in range(layout.shards))
        return self.folder.lengths(names)

    @property
    def names(self) -> set[str]:
        """The files that it lists as its own, whether or not they are there."""
        shards = (layout.file(shard) for layout in self._arrays for shard in range(layout.shards))
        journals = map(journal_of, range(self.plan.parts))
        records = map(record_of, range(self.plan.parts))
        made = {*observation_names(self.folder), *left_names(self.folder)}
        return {NAME, *self.contents.files, *shards, *journals, *records, *made}

    def finish(self, with_tokens: bool = True, mixture: str = "") -> None:
        """Mark the extraction as complete, with its tokens or as one without: from now on a missing file is damage.

        `mixture`: a sentence on parts that were computed in other ways than others.
        """
        removed = not with_tokens and self.plan.token_samples > 0
        self.set_attrs(complete=True, mixture=mixture, **{TOKENS_REMOVED: removed})
        self.token_samples = self.plan.token_samples if with_tokens else 0

    def set_attrs(self, **attrs: Any) -> None:
        """Add to the attributes, on disk and here."""
        with writing(self.path):
            self.attrs = write_group(self.folder, {**self._open()[0], **attrs})


def is_shared(folder: Place) -> bool:
    """True if a folder is a run that launches extract together, as far as it can be read."""
    with suppress(DamagedError, StrangeFileError):
        return bool(read_document(folder)["attributes"].get(SHARED))
    return False


def is_run(folder: Place) -> bool:
    """True if a folder is a run, of whatever version and in whatever state.

    Such a folder may be replaced where that is asked for.
    """
    with suppress(OSError, StrangeFileError):
        # As a key: not read as JSON, which it may be no more.
        return b'"diagnostics_format":' in folder.get(NAME, MOST_BYTES)
    return False
