"""One shard of an array as bytes: filled in place as batches come, then written in one piece.

Zarr's own shard writer copies every byte several times, which at the rate of a small encoder costs a third of the forward
pass. A shard here is the file that Zarr's `sharding_indexed` codec reads: the inner chunks, each followed by its CRC-32C,
then the index of (offset, length) pairs and the CRC-32C of the index. All of it is little-endian.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import uuid
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, StorePath

CRC = 4
# What direct writes must be aligned to, in memory and in length, on any common disk.
PAGE = 4096


class ShardBuffer:
    """The bytes of a shard [row, token, feature] of an array that is cut along tokens (or poolings) into inner chunks.

    Made once for an array and used for all its shards; rows that a last shard lacks hold NaN.
    """

    def __init__(self, rows: int, tokens: int, features: int, block: int, dtype: str) -> None:
        self.tokens, self.block = tokens, block
        self.chunks = -(-tokens // block)
        self.size = rows * block * features * np.dtype(dtype).itemsize
        self.length = self.chunks * (self.size + CRC) + self.chunks * 16 + CRC
        # A map of its own is aligned to pages, as direct writes want it.
        self.bytes = np.frombuffer(mmap.mmap(-1, -(-self.length // PAGE) * PAGE), dtype=np.uint8)
        self.parts: list[Tensor] = []
        for chunk in range(self.chunks):
            start = chunk * (self.size + CRC)
            view = self.bytes[start : start + self.size].view(dtype).reshape(rows, block, features)
            view[:] = np.nan
            self.parts.append(torch.from_numpy(view))

    def put(self, row: int, values: Tensor) -> None:
        """Rows from `row` on: values [row, token, feature], on any device and in any float type."""
        values = values.cpu()
        stop = row + len(values)
        for chunk, part in enumerate(self.parts):
            piece = values[:, chunk * self.block : (chunk + 1) * self.block]
            part[row:stop, : piece.shape[1]].copy_(piece)

    def rows(self, count: int) -> np.ndarray:
        """The first `count` rows as [row, token, feature]; a copy."""
        return torch.cat([part[:count] for part in self.parts], dim=1)[:, : self.tokens].numpy()

    def write(self, array: zarr.Array[Any], shard: int, rows: int) -> None:
        """The shard with its checksums into place, whole or not at all; it has `rows` rows."""
        index = np.zeros((self.chunks, 2), dtype="<u8")
        for chunk, part in enumerate(self.parts):
            part[rows:] = torch.nan
            start = chunk * (self.size + CRC)
            self._seal(start, start + self.size)
            index[chunk] = start, self.size + CRC
        at = self.chunks * (self.size + CRC)
        self.bytes[at : at + index.nbytes] = index.ravel().view(np.uint8)
        self._seal(at, at + index.nbytes)
        _write(array.store_path / array.metadata.encode_chunk_key((shard, 0, 0)), self.bytes, self.length)

    def _seal(self, start: int, stop: int) -> None:
        """Writes the checksum of bytes [start, stop) behind them."""
        checksum: int = google_crc32c.value(self.bytes[start:stop])  # pyright: ignore[reportArgumentType]
        self.bytes[stop : stop + CRC] = np.array([checksum], dtype="<u4").view(np.uint8)


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
