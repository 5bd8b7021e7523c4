"""The shards of a store, its files of tensors: how large they are, what lies in them, how they are written and read.

A shard is the file that Zarr's `sharding_indexed` codec reads: the inner chunks, each followed by its CRC-32C; then 16
bytes that Zarr does not read, the mark of the run, the array and the place that the shard belongs to; then the index of
(offset, length) pairs and the CRC-32C of the index. All of it is little-endian. Zarr's own codec copies every byte
several times, which at the rate of a small encoder costs a third of the forward pass to write and an eighth to read,
and knows neither run nor place.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from diagnostics.activations.bucket import Place
from diagnostics.activations.folder import PAGE, Folder, pages

if TYPE_CHECKING:
    from torch import Tensor


MAX_SHARD = 64
SHARD_BYTES = 128 * 2**20
POOLED_BYTES = 4 * 2**20
CHUNK_BYTES = 2**20
CRC = 4
MARK = 16


@dataclass(frozen=True)
class Layout:
    """An array [row, token, feature] of `samples` rows.

    It is cut along rows into shards and those along tokens into inner chunks.

    `array` is its path in the store; `rows` are those of a shard, `block` the tokens of an inner chunk. An inner chunk
    holds all rows of some tokens, so that a block of features of all samples is read without waste.
    """

    array: str
    samples: int
    rows: int
    tokens: int
    features: int
    block: int
    dtype: str

    @property
    def kind(self) -> str:
        """`pooled`, `tokens` or `prefix`."""
        return self.array.rpartition("/")[2]

    @property
    def shards(self) -> int:
        """Number of shards, each a file."""
        return -(-self.samples // self.rows)

    @cached_property
    def chunks(self) -> int:
        """Number of inner chunks of a shard."""
        return -(-self.tokens // self.block)

    @cached_property
    def size(self) -> int:
        """Bytes of an inner chunk without its checksum."""
        return self.rows * self.block * self.features * np.dtype(self.dtype).itemsize

    def start(self, chunk: int) -> int:
        """First byte of an inner chunk; of the number of chunks, the byte after the last."""
        return chunk * (self.size + CRC)

    @property
    def length(self) -> int:
        """Bytes of a whole shard."""
        return self.start(self.chunks) + MARK + self.chunks * 16 + CRC

    def file(self, shard: int) -> str:
        """Path of a shard in the store."""
        return f"{self.array}/c.{shard}.0.0"

    def end(self, run: bytes, shard: int) -> np.ndarray:
        """Bytes after the chunks of a shard: its mark, then the index with its checksum."""
        mark = hashlib.blake2b(f"{self.array} {shard}".encode(), key=run, digest_size=MARK).digest()
        pairs = np.array([(self.start(chunk), self.size + CRC) for chunk in range(self.chunks)], dtype="<u8")
        index = pairs.ravel().view(np.uint8)
        return np.concatenate([np.frombuffer(mark, np.uint8), index, checksum(index)])


def checksum(data: np.ndarray) -> np.ndarray:
    """The CRC-32C of bytes, as bytes."""
    value: int = google_crc32c.value(data)
    return np.array([value], dtype="<u4").view(np.uint8)


class ShardBuffer:
    """The bytes of a shard [row, token, feature], filled row by row.

    Made once for an array and used for all its shards; rows that a last shard lacks hold NaN.
    """

    def __init__(self, layout: Layout) -> None:
        import torch  # which whoever reads does without

        self.layout = layout
        self.bytes = pages(layout.length)
        self.parts: list[Tensor] = []
        for chunk in range(layout.chunks):
            start = layout.start(chunk)
            view = self.bytes[start : start + layout.size].view(layout.dtype)
            view = view.reshape(layout.rows, layout.block, layout.features)
            view[:] = np.nan
            self.parts.append(torch.from_numpy(view))

    def put(self, row: int, values: Tensor) -> None:
        """Rows from `row` on: values [row, token, feature], on any device and in any float type."""
        values = values.cpu()
        stop = row + len(values)
        for chunk, part in enumerate(self.parts):
            piece = values[:, chunk * self.layout.block : (chunk + 1) * self.layout.block]
            part[row:stop, : piece.shape[1]].copy_(piece)

    def rows(self, count: int) -> np.ndarray:
        """The first `count` rows as [row, token, feature]; a copy."""
        return np.concatenate([part[:count].numpy() for part in self.parts], axis=1)[:, : self.layout.tokens]

    def write(self, folder: Place, run: bytes, shard: int) -> None:
        """The shard with its checksums into its place in the store of a run, whole or not at all."""
        layout = self.layout
        rows = min(layout.rows, layout.samples - shard * layout.rows)
        for chunk, part in enumerate(self.parts):
            part[rows:] = math.nan
            stop = layout.start(chunk) + layout.size
            self.bytes[stop : stop + CRC] = checksum(self.bytes[layout.start(chunk) : stop])
        self.bytes[layout.start(layout.chunks) : layout.length] = layout.end(run, shard)
        folder.put(layout.file(shard), self.bytes, layout.length)


class ShardReader:
    """Reads an array of a run's store, whole shards or one inner chunk of all of them.

    Raises OSError or ValueError where a file is missing, cut short, damaged, or belongs to another place. One thread at
    a time may use a reader, but of a bucket, where each read has memory of its own.
    """

    def __init__(self, folder: Place, run: bytes, layout: Layout, memory: np.ndarray | None = None) -> None:
        self.folder, self.layout, self.run = folder, layout, run
        self.memory = np.empty(0, np.uint8) if memory is None else memory
        """What is read lies here; another reader may have it afterwards, since memory from the kernel costs as much as
        reading."""
        self._whole: set[int] = set()

    def shard(self, shard: int) -> np.ndarray:
        """The rows of a shard [row, token, feature].

        They lie in memory that the next call overwrites where there is one chunk.
        """
        layout = self.layout
        data = self._read(shard, 0, layout.length)
        self._check_end(shard, data[layout.start(layout.chunks) :])
        chunks = [self._values(data[layout.start(i) : layout.start(i + 1)]) for i in range(layout.chunks)]
        values = chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=1)
        return values[: min(layout.rows, layout.samples - shard * layout.rows), : layout.tokens]

    def chunk(self, chunk: int) -> np.ndarray:
        """All rows of an inner chunk [row, token, feature], in memory of their own."""
        layout = self.layout
        each = layout.rows, layout.block, layout.features
        values = np.empty((layout.shards, *each), dtype=layout.dtype)
        end = layout.start(layout.chunks)
        for shard in range(layout.shards):
            if shard not in self._whole:
                self._check_end(shard, self._read(shard, end, layout.length))
                self._whole.add(shard)
            values[shard] = self._values(self._read(shard, layout.start(chunk), layout.start(chunk + 1)))
        tokens = min(layout.block, layout.tokens - chunk * layout.block)
        return values.reshape(-1, *each[1:])[: layout.samples, :tokens]

    def _check_end(self, shard: int, end: np.ndarray) -> None:
        if not np.array_equal(end, self.layout.end(self.run, shard)):
            raise ValueError("a shard of another place, or a damaged one")

    def _values(self, data: np.ndarray) -> np.ndarray:
        layout = self.layout
        if not np.array_equal(checksum(data[: layout.size]), data[layout.size :]):
            raise ValueError("a wrong checksum")
        return data[: layout.size].view(layout.dtype).reshape(layout.rows, layout.block, layout.features)

    def _read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """Bytes [start, stop) of a shard, in memory that the next call overwrites."""
        needed = stop - start // PAGE * PAGE + PAGE
        if len(self.memory) < needed:
            self.memory = pages(needed)
        return self.folder.get_range(self.layout.file(shard), start, stop, self.layout.length, self.memory)


HEAD = struct.Struct("<II")


def journal_of(shard: int) -> str:
    """The file of the journal of a shard of pooled values."""
    return f".pooled.{shard}.partial"


class Journal:
    """The pooled values of an incomplete shard.

    It is one file for all taps, `layouts` in order, to which each step appends its rows.

    A shard of pooled values is as many rows as fit 4 MiB, which for a wide encoder is dozens of forward passes or more.
    So what each step gives is kept at once, and put into the taps' shards when the last row is there. One process
    writes at a time. After a kill at any moment, all that was appended before is there.

    A record is the number of its rows (4 bytes), a CRC-32C (4 bytes) and the values of each tap [row, pooling,
    feature], one tap after the other, float32; all little-endian. The CRC covers the run, the place and the values, so
    that a record which was cut off by a kill, damaged, or written by another run counts as not there, and with it all
    that come after.
    """

    def __init__(self, folder: Folder, run: bytes, shard: int, layouts: Sequence[Layout]) -> None:
        self.folder, self.run, self.shard, self.layouts = folder, run, shard, layouts
        self.name = journal_of(shard)
        first = layouts[0]
        self.size = min(first.rows, first.samples - shard * first.rows)
        """Rows of the whole shard."""
        self._row = 4 * sum(layout.tokens * layout.features for layout in layouts)
        self._records = list(self._whole_records())

    @property
    def rows(self) -> int:
        """Number of the first rows that are there."""
        return sum(self._records)

    def append(self, row: int, values: Sequence[np.ndarray]) -> None:
        """The values of each tap [row, pooling, feature] from this row of the shard on; what is there already stays."""
        here = self.rows
        rows = row + len(values[0]) - here
        if row > here:
            raise ValueError(f"row {row} of a shard that has {here}")
        if rows <= 0:
            return
        data = [np.ascontiguousarray(part[-rows:], dtype="<f4").reshape(-1).view(np.uint8) for part in values]
        place = self._place(len(self._records))
        # In place of what a kill or a full disk cut off.
        self.folder.append(
            self.name, place, [HEAD.pack(rows, self._checksum(here, rows, data)), *(part.data for part in data)]
        )
        self._records.append(rows)

    def store(self) -> None:
        """All rows into the taps' shards, then the journal away; raises ValueError where it was damaged meanwhile."""
        import torch

        if list(self._whole_records()) != self._records or self.rows != self.size:
            raise ValueError("a damaged journal")
        with self.folder.reading(self.name) as file:
            before = 0
            for layout in self.layouts:
                buffer, row = ShardBuffer(layout), 0
                for record, rows in enumerate(self._records):
                    file.seek(self._place(record) + HEAD.size + rows * before)
                    values = np.fromfile(file, "<f4", rows * layout.tokens * layout.features)
                    buffer.put(row, torch.from_numpy(values.reshape(rows, layout.tokens, layout.features)))
                    row += rows
                buffer.write(self.folder, self.run, self.shard)
                before += 4 * layout.tokens * layout.features
        self.remove()

    def remove(self) -> None:
        """Nothing is kept."""
        self.folder.delete([self.name])
        self._records = []

    def _place(self, record: int) -> int:
        """First byte of a record in the file."""
        return record * HEAD.size + sum(self._records[:record]) * self._row

    def _whole_records(self) -> Iterator[int]:
        """The rows of each record in the file, as far as they are as they were written."""
        here = 0
        with contextlib.suppress(FileNotFoundError), self.folder.reading(self.name) as file:
            while len(head := file.read(HEAD.size)) == HEAD.size:
                rows, value = HEAD.unpack(head)
                if not 0 < rows <= self.size - here:
                    return
                data = np.fromfile(file, np.uint8, rows * self._row)
                if len(data) < rows * self._row or self._checksum(here, rows, [data]) != value:
                    return
                here += rows
                yield rows

    def _checksum(self, row: int, rows: int, parts: Sequence[np.ndarray]) -> int:
        value: int = google_crc32c.value(self.run + struct.pack("<QQQ", self.shard, row, rows))
        for part in parts:
            value = google_crc32c.extend(value, part)
        return value
