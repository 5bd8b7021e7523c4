"""The layout of the files of one array of a tap: rows, shards, inner chunks, checksums and marks.

A shard is the file that Zarr's `sharding_indexed` codec reads: the inner chunks, each followed by its CRC-32C; then 16 bytes
that Zarr does not read, the mark of the run, the array and the place that the shard belongs to; then the index of
(offset, length) pairs and the CRC-32C of the index. All of it is little-endian.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import google_crc32c
import numpy as np

CRC = 4
MARK = 16


@dataclass(frozen=True)
class Layout:
    """An array [row, token, feature] of `samples` rows, cut along rows into shards and those along tokens into inner chunks.

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
        """Where an inner chunk begins; of the number of chunks, where they end."""
        return chunk * (self.size + CRC)

    @property
    def length(self) -> int:
        """Bytes of a whole shard."""
        return self.start(self.chunks) + MARK + self.chunks * 16 + CRC

    def file(self, shard: int) -> str:
        """Path of a shard in the store."""
        return f"{self.array}/c.{shard}.0.0"

    def end(self, run: bytes, shard: int) -> np.ndarray:
        """What follows the chunks of a shard, as bytes: its mark, then the index with its checksum."""
        mark = hashlib.blake2b(f"{self.array} {shard}".encode(), key=run, digest_size=MARK).digest()
        pairs = np.array([(self.start(chunk), self.size + CRC) for chunk in range(self.chunks)], dtype="<u8")
        index = pairs.ravel().view(np.uint8)
        return np.concatenate([np.frombuffer(mark, np.uint8), index, checksum(index)])


def checksum(data: np.ndarray) -> np.ndarray:
    """The CRC-32C of bytes, as bytes."""
    value: int = google_crc32c.value(data)  # pyright: ignore[reportArgumentType]
    return np.array([value], dtype="<u4").view(np.uint8)
