"""One shard of an array as bytes: filled in place as batches come, then written in one piece; and read by its chunks.

Zarr's own shard codec copies every byte several times, which at the rate of a small encoder costs a third of the forward
pass to write and an eighth to read. A shard here is the file that Zarr's `sharding_indexed` codec reads: the inner chunks,
each followed by its CRC-32C, then the index of (offset, length) pairs and the CRC-32C of the index. All of it is
little-endian.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

CRC = 4
# What direct writes must be aligned to, in memory and in length, on any common disk.
PAGE = 4096


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the shards [row, token, feature] of an array that is cut along tokens into inner chunks."""

    rows: int
    tokens: int
    features: int
    block: int
    dtype: str

    @cached_property
    def chunks(self) -> int:
        """Number of inner chunks."""
        return -(-self.tokens // self.block)

    @cached_property
    def size(self) -> int:
        """Bytes of an inner chunk without its checksum."""
        return self.rows * self.block * self.features * np.dtype(self.dtype).itemsize

    def start(self, chunk: int) -> int:
        """Where an inner chunk begins; of the number of chunks, where the index does."""
        return chunk * (self.size + CRC)

    @cached_property
    def index(self) -> np.ndarray:
        """The index with its checksum, as bytes."""
        pairs = np.array([(self.start(chunk), self.size + CRC) for chunk in range(self.chunks)], dtype="<u8")
        data = pairs.ravel().view(np.uint8)
        return np.concatenate([data, _checksum(data)])

    @property
    def length(self) -> int:
        """Bytes of a whole shard."""
        return self.start(self.chunks) + self.chunks * 16 + CRC


def _checksum(data: np.ndarray) -> np.ndarray:
    value: int = google_crc32c.value(data)  # pyright: ignore[reportArgumentType]
    return np.array([value], dtype="<u4").view(np.uint8)


def _pages(length: int) -> np.ndarray:
    """Memory for at least so many bytes, aligned in place and in length as direct input and output want it."""
    return np.frombuffer(mmap.mmap(-1, -(-length // PAGE) * PAGE), dtype=np.uint8)


class ShardBuffer:
    """The bytes of a shard [row, token, feature] of an array that is cut along tokens (or poolings) into inner chunks.

    Made once for an array and used for all its shards; rows that a last shard lacks hold NaN.
    """

    def __init__(self, rows: int, tokens: int, features: int, block: int, dtype: str) -> None:
        self.layout = layout = Layout(rows, tokens, features, block, dtype)
        self.bytes = _pages(layout.length)
        self.parts: list[Tensor] = []
        for chunk in range(layout.chunks):
            start = layout.start(chunk)
            view = self.bytes[start : start + layout.size].view(dtype).reshape(rows, block, features)
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
        return torch.cat([part[:count] for part in self.parts], dim=1)[:, : self.layout.tokens].numpy()

    def write(self, array: zarr.Array[Any], shard: int, rows: int) -> None:
        """The shard with its checksums into place, whole or not at all; it has `rows` rows."""
        layout = self.layout
        for chunk, part in enumerate(self.parts):
            part[rows:] = torch.nan
            stop = layout.start(chunk) + layout.size
            self.bytes[stop : stop + CRC] = _checksum(self.bytes[layout.start(chunk) : stop])
        self.bytes[layout.start(layout.chunks) : layout.length] = layout.index
        _write(array.store_path / array.metadata.encode_chunk_key((shard, 0, 0)), self.bytes, layout.length)


def _write(place: StorePath, data: np.ndarray, length: int) -> None:
    """The first `length` bytes of page-aligned data into the store, whole or not at all."""
    if isinstance(place.store, LocalStore) and _past_the_cache(place.store.root / place.path, data, length):
        return
    sync(place.set(default_buffer_prototype().buffer.from_array_like(cast("Any", data[:length]))))


def _past_the_cache(path: Path, data: np.ndarray, length: int) -> bool:
    """Writes a file without the page cache, beside and renamed; False where the system or the disk cannot.

    An extraction writes far more than it soon reads: the cache would cost more CPU time than all else here, and drive out
    what others keep in it.
    """
    direct = getattr(os, "O_DIRECT", None)
    if direct is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | direct, 0o666)
        try:
            rest = data.data
            while len(rest):
                rest = rest[os.write(handle, rest) :]
            os.ftruncate(handle, length)
        finally:
            os.close(handle)
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    return True


class ShardReader:
    """Reads an array by inner chunks, where its shards are files as `ShardBuffer` writes them.

    What is not exactly so gives None: Zarr may read it, and knows what is damage. One thread at a time may use a reader.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.samples, self.layout, self.paths = array.shape[0], None, list[Path]()
        if not (hasattr(os, "preadv") and isinstance(array.store_path.store, LocalStore) and array.ndim == 3):
            return
        codecs: Any = getattr(array.metadata, "codecs", ())
        rows, block, features = array.chunks
        as_bytes = (BytesCodec(endian="little"), Crc32cCodec())
        written = ShardingCodec(chunk_shape=array.chunks, codecs=as_bytes, index_codecs=as_bytes)
        layout = Layout(rows, array.shape[1], features, block, array.dtype.str)
        shape = rows, layout.chunks * block, array.shape[2]
        if array.shards != shape or features != array.shape[2] or codecs != (written,):
            return
        folder = array.store_path.store.root / array.store_path.path
        shards = range(-(-self.samples // rows))
        self.paths = [folder / array.metadata.encode_chunk_key((shard, 0, 0)) for shard in shards]
        self.layout = layout
        self.memory = _pages(max(layout.size + CRC, len(layout.index)) + 2 * PAGE)

    def read(self, chunk: int) -> np.ndarray | None:
        """All rows of an inner chunk, [row, token, feature], in memory of their own."""
        layout = self.layout
        if layout is None or not self._all_as_written:
            return None
        each = layout.rows, layout.block, layout.features
        values = np.empty((len(self.paths), *each), dtype=layout.dtype)
        start = layout.start(chunk)
        for shard, path in enumerate(self.paths):
            data = self._read(path, start, start + layout.size + CRC)
            if data is None or not np.array_equal(_checksum(data[: layout.size]), data[layout.size :]):
                return None
            values[shard] = data[: layout.size].view(layout.dtype).reshape(each)
        tokens = min(layout.block, layout.tokens - chunk * layout.block)
        return values.reshape(-1, *each[1:])[: self.samples, :tokens]

    @cached_property
    def _all_as_written(self) -> bool:
        return self.layout is not None and all(self._is_as_written(path, self.layout) for path in self.paths)

    def _is_as_written(self, path: Path, layout: Layout) -> bool:
        """Whether a shard's index says that its chunks lie where they do here, all of them."""
        index = layout.index
        if not path.is_file() or path.stat().st_size != layout.length:
            return False
        found = self._read(path, layout.length - len(index), layout.length)
        return found is not None and np.array_equal(found, index)

    def _read(self, path: Path, start: int, stop: int) -> np.ndarray | None:
        """Bytes [start, stop) of a file, in memory that the next call overwrites.

        Past the page cache, where they are not after an extraction: to fill it costs ten times the CPU time of reading.
        """
        first = start // PAGE * PAGE
        length = -(-(stop - first) // PAGE) * PAGE
        for flag in {getattr(os, "O_DIRECT", 0): None, 0: None}:
            done = 0
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | flag)
                try:
                    while done < stop - first:
                        got = os.preadv(handle, [self.memory[done:length].data], first + done)
                        if got == 0:
                            break
                        done += got
                finally:
                    os.close(handle)
            if done >= stop - first:
                return self.memory[start - first : stop - first]
        return None
