"""Pairs that a step trains on: the order of an epoch, and what takes the place of pairs that cannot be read."""

import contextlib
import functools
import json
from pathlib import Path

import numpy as np
from diagnostics_training.trainer.data import EpochOrder
from diagnostics_training.trainer.record import say

from diagnostics.plugin import Dataset, DiagnosticsError

# An order of any length, of which any place is computed by itself.

ROUNDS = 4


def permute(places: np.ndarray, count: int, key: tuple[int, ...]) -> np.ndarray:
    """Places of these places under a random permutation of 0 ... count - 1, int64 [place]; the key decides which one.

    A Feistel network over the least power of two, followed until it comes to a number below `count` (Black & Rogaway,
    Ciphers with arbitrary finite domains, CT-RSA 2002); its rounds mix as SplitMix64 does (Steele et al., OOPSLA 2014).
    """
    bits = max(2, (count - 1).bit_length())
    low = bits // 2
    high = bits - low
    keys = np.random.SeedSequence(key).generate_state(2 * ROUNDS, np.uint64)
    moved = places.astype(np.uint64)
    outside = np.ones(len(moved), bool)
    while outside.any():
        left, right = moved[outside] >> np.uint64(low), moved[outside] & np.uint64(2**low - 1)
        for one, other in keys.reshape(-1, 2):
            left = left ^ _mix(right ^ one, high)
            right = right ^ _mix(left ^ other, low)
        moved[outside] = left << np.uint64(low) | right
        outside = moved >= count
    return moved.astype(np.int64)


def _mix(numbers: np.ndarray, bits: int) -> np.ndarray:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ numbers >> np.uint64(shift)) * np.uint64(factor)
    return (numbers ^ numbers >> np.uint64(31)) >> np.uint64(64 - bits)


class ShardOrder(EpochOrder):
    """Shards follow one another in an order of the epoch's own, and so do the samples within each; none is held.

    shards: which one each sample of the dataset lies in, int [sample]; rows are in the dataset's order.
    """

    def __init__(self, rows: np.ndarray, batch: int, seed: int, shards: np.ndarray) -> None:
        super().__init__(rows, batch, seed)
        self._starts = np.flatnonzero(np.diff(shards[rows], prepend=-1))
        self._counts = np.diff([*self._starts, len(rows)])
        self._turns = functools.lru_cache(2)(self._drawn)

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in their turns, and where each of these ends in the order."""
        turns = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._starts))
        return turns, np.cumsum(self._counts[turns])

    def rows_at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The samples at these places of an epoch's order."""
        turns, ends = self._turns(epoch)
        of_place = np.searchsorted(ends, places, "right")
        rows = np.empty(len(places), np.int64)
        for turn in np.unique(of_place):
            here, shard = of_place == turn, turns[turn]
            count = int(self._counts[shard])
            within = permute(places[here] - (ends[turn] - count), count, (self.seed, 1, epoch, int(shard)))
            rows[here] = self.rows[self._starts[shard] + within]
        return rows


# Pairs that cannot be read.

MOST_BROKEN, FEW_BROKEN = 0.01, 10
"""Of all pairs, the share that may be broken; of few pairs, how many."""
BROKEN = "broken.jsonl"
"""The file of a training's folder that lists them."""
REPLACED = ("unreadable", "bad-data", "bad-sample", "damaged")
"""Codes of errors that speak of one sample."""


class Broken:
    """Pairs that turned out to be broken.

    They stand in a file that all processes of a training append to and that it resumes with: once there, a pair is not
    read again, whatever it holds by then.

    Raises DiagnosticsError for more of them than may be.
    """

    def __init__(self, dataset: Dataset, data: str, path: Path) -> None:
        self.dataset, self.data, self.path = dataset, data, path
        self.most = max(FEW_BROKEN, int(MOST_BROKEN * len(dataset)))
        self.rows: dict[int, str] = {}
        self._read_until = 0
        self.read()

    def read(self) -> dict[int, str]:
        """All that are known, with what other processes found since: row -> why."""
        whole = b""
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self._read_until)
                whole = file.read().rpartition(b"\n")[0]
        self._read_until += len(whole)
        for line in whole.splitlines():
            # What a kill cut short is found again when its turn comes.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found = json.loads(line)
                if found["data"] == self.data:
                    self.rows[int(found["row"])] = str(found["why"])
        return self.rows

    def note(self, row: int, error: DiagnosticsError) -> None:
        """List a pair that could not be read; raises that error where it is not the pair's fault."""
        # A disk that is gone for a moment would make another training of this one.
        if error.code not in REPLACED or getattr(error.__cause__, "errno", None) is not None:
            raise error
        self.read()
        if not self.rows:
            say(f"{self.dataset.ids[row]} is broken and replaced, as are all that {self.path} lists: {error}")
        if row not in self.rows:
            line = {"data": self.data, "row": row, "id": self.dataset.ids[row], "why": str(error)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One write, so that lines of several processes do not mix.
            with self.path.open("ab", buffering=0) as file:
                file.write(f"{json.dumps(line)}\n".encode())
            self.rows[row] = str(error)
        if len(self.rows) > self.most:
            raise DiagnosticsError(
                f"{len(self.rows):,} of {len(self.dataset):,} pairs of {self.dataset.name} are broken, more than "
                f"{self.most:,}: look at {self.path}, repair the data, and remove that file.",
                code="bad-data",
            ) from error
