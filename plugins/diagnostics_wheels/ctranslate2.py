"""Reading CTranslate2's `model.bin` (binary version 6): names, shapes and numbers, no code.

Little-endian: version u32, kind of model, its revision u32, number of variables u32; of each variable its name, rank
u8, extents u32, type u8, bytes u32, numbers; then number of aliases u32 and pairs of names. A text is its length u16, a
closing zero counted, and UTF-8.
"""

import math
import struct
from pathlib import Path

import numpy as np

VERSION = 6
_TYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """(kind of model, {name: array}); raises ValueError where the file is damaged or of another version."""
    reader = _Reader(path.read_bytes())
    version = reader.number("I")
    if version != VERSION:
        raise ValueError(f"its binary version is {version}, not {VERSION}")
    kind = reader.text()
    reader.number("I")
    arrays: dict[str, np.ndarray] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = tuple(reader.number("I") for _ in range(reader.number("B")))
        numbers = _TYPES.get(code := reader.number("B"))
        if numbers is None:
            raise ValueError(f"{name} is of type {code}, which is not known")
        size = reader.number("I")
        if size != math.prod(shape) * np.dtype(numbers).itemsize:
            raise ValueError(f"{name} of shape {list(shape)} has {size} bytes")
        arrays[name] = np.frombuffer(reader.take(size), numbers).reshape(shape)
    for _ in range(reader.number("I")):
        alias, name = reader.text(), reader.text()
        if name not in arrays:
            raise ValueError(f"{alias} stands for {name}, which is not there")
        arrays[alias] = arrays[name]
    if reader.at != len(reader.data):
        raise ValueError(f"{len(reader.data) - reader.at} bytes stand after its end")
    return kind, arrays


class _Reader:
    """Bytes from front to back."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data)}, {count} more were announced at {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0])

    def text(self) -> str:
        taken = bytes(self.take(self.number("H")))
        if not taken.endswith(b"\0"):
            raise ValueError(f"a name before byte {self.at} has no end")
        return taken[:-1].decode()
