"""Journal of the pooled values of an incomplete shard: one file for all taps, to which each step appends its rows.

A shard of pooled values is as many rows as fit 4 MiB, which for a wide encoder is dozens of forward passes or more. So what
each step gives is kept at once, and put into the taps' shards when the last row is there.

A record is the number of its rows (4 bytes), a CRC-32C (4 bytes) and the values of each tap [row, pooling, feature], one tap
after the other, float32; all little-endian. The CRC covers the run, the place and the values, so that a record which was
cut off by a kill, damaged, or written by another run counts as not there, and with it all that come after.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence

import google_crc32c
import numpy as np

from diagnostics.activations.folder import Folder
from diagnostics.activations.shards import Layout, ShardBuffer

HEAD = struct.Struct("<II")


class Journal:
    """The rows of one shard of pooled values as they come, of all taps, whose `layouts` these are in order.

    One process writes at a time. After a kill at any moment, all that was appended before is there.
    """

    def __init__(self, folder: Folder, run: bytes, shard: int, layouts: Sequence[Layout]) -> None:
        self.folder, self.run, self.shard, self.layouts = folder, run, shard, layouts
        self.name = f".pooled.{shard}.partial"
        first = layouts[0]
        self.size = min(first.rows, first.samples - shard * first.rows)
        """Rows of the whole shard."""
        self._row = 4 * sum(layout.tokens * layout.features for layout in layouts)
        self._records = list(self._whole_records())

    @property
    def rows(self) -> int:
        """How many of the first rows are there."""
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
        """Where a record begins in the file."""
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
            value = google_crc32c.extend(value, part)  # pyright: ignore[reportArgumentType]
        return value
