"""The plan of a store: its rows, parts, shards, arrays and their bytes, and how many samples keep their tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from diagnostics.activations.shards import CHUNK_BYTES, MAX_SHARD, POOLED_BYTES, SHARD_BYTES, Layout
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.progress import UNITS

if TYPE_CHECKING:
    from diagnostics.encoders.encoder import Encoder


# The number of samples that keep their tokens: a default rule, or a size given by the user (256MB, 2GB).

# By the rule: WANTED samples where MOST bytes hold them, and for probes all that PLENTY bytes hold; FEWEST whatever
# they take.
PLENTY, MOST = 256 * 10**6, 2 * 10**9
WANTED, FEWEST = 64, 8


def parse_budget(text: str | int | None) -> int | None:
    """Bytes from a number with a unit (kB, MB, GB, TB: powers of 1,000), or 0; None, the rule, stays None.

    Raises DiagnosticsError for a number without a unit, which could mean bytes or megabytes.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE | re.ASCII)
    sizes = {unit.lower(): 1000**power for power, unit in enumerate(UNITS)}
    if match is None or match[2].lower() not in (*sizes, ""):
        raise DiagnosticsError(
            f"A token budget of {text!r} is not a size: give a number with a unit, like 256MB or 2GB, or 0.",
            code="bad-value",
        )
    number, unit = float(match[1]), match[2].lower()
    if number and not unit:
        raise DiagnosticsError(
            f"A token budget of {text} has no unit: give one, like {text}MB or 2GB, or 0 for no tokens.",
            code="bad-value",
        )
    return round(number * sizes.get(unit, 1))


def samples_with_tokens(samples: int, each: int, budget: int | None, probes: bool = True) -> int:
    """Number of samples that keep their tokens, of `each` bytes a sample.

    `probes`: whether probes are fitted on them.
    """
    by_rule = max(PLENTY // each if probes else 0, min(WANTED, MOST // each), FEWEST)
    return min(samples, by_rule if budget is None else budget // each)


Precision = Literal["float32", "float16"]
ARRAY_BYTES = 1_200
"""The metadata of an array, or of a tap, on disk; about."""
PARTED, LEAST_PARTS = 256, 8
"""Samples from which on a plan has so many parts, which several launches can share."""
MOST_RANGES = 16
"""Of parts whose sums are kept apart until all are joined: each takes the bytes of all sums."""


@dataclass(frozen=True)
class Step:
    """Rows that are done together.

    They are those of one shard of tokens, or one batch where no tokens are kept (`shard` None).
    """

    rows: slice
    shard: int | None

    def __len__(self) -> int:
        return self.rows.stop - self.rows.start


@dataclass(frozen=True)
class Plan:
    """Plan of what a store will hold.

    It is decided before the first byte, the same for the same encoder, dataset and options.

    Samples have positions in `row_order`, of which the first `token_samples` keep their tokens, `shard` in a shard. All
    rows are pooled, `pooled_shard` rows in a shard, which is all of them or a multiple of `shard`. A part is a shard of
    pooled values with whole shards of tokens. These are `dealt` evenly over the parts, so that rows do not lie by
    position; in runs of format 6 and before they do, and the first parts have all tokens.
    """

    samples: int
    token_samples: int
    shard: int
    pooled_shard: int
    precision: Precision
    poolings: tuple[str, ...]
    taps: tuple[Tap, ...]
    output_tap: str
    dealt: bool = False

    @property
    def without_tokens(self) -> Self:
        """The same pooled values alone, in the same shards."""
        return replace(self, token_samples=0)

    @property
    def parts(self) -> int:
        """Number of parts, and so of shards of a tap's pooled values."""
        return math.ceil(self.samples / self.pooled_shard)

    def rows_of(self, part: int) -> slice:
        """The rows of a part."""
        return slice(part * self.pooled_shard, min((part + 1) * self.pooled_shard, self.samples))

    def positions_of(self, parts: range) -> np.ndarray:
        """The positions of the rows of some parts that follow each other, in the order of rows."""
        return self.order[self.rows_of(parts[0]).start : self.rows_of(parts[-1]).stop]

    def token_shards(self, part: int) -> range:
        """The shards of tokens of a part."""
        shards, of_part = math.ceil(self.token_samples / self.shard), self.pooled_shard // self.shard
        places = math.ceil(self.samples / self.shard)

        def before(part: int) -> int:
            if part == self.parts:
                return shards
            # Rounded up, so that the last part, which may be short, has room for its own.
            return -(-shards * part * of_part // places) if self.dealt else min(shards, part * of_part)

        return range(before(part), before(part + 1))

    def positions(self, part: int) -> tuple[slice, slice]:
        """The positions of a part's rows: of its first rows, which keep their tokens, and of the others."""
        rows, shards = self.rows_of(part), self.token_shards(part)
        first, last = (min(shard * self.shard, self.token_samples) for shard in (shards.start, shards.stop))
        others = self.token_samples + rows.start - first
        return slice(first, last), slice(others, others + rows.stop - rows.start - (last - first))

    @cached_property
    def order(self) -> np.ndarray:
        """The position of each row."""
        places = (each for part in range(self.parts) for each in self.positions(part))
        return np.concatenate([np.arange(each.start, each.stop) for each in places])

    @cached_property
    def rows(self) -> np.ndarray:
        """The row of each position."""
        return np.argsort(self.order)

    @property
    def bytes(self) -> int:
        """Size of the files of all taps: pooled activations and tokens to the byte, with about their metadata."""
        layouts = [layout for tap in self.taps for layout in self.layouts(tap).values()]
        return sum(layout.shards * layout.length for layout in layouts) + ARRAY_BYTES * (len(layouts) + len(self.taps))

    @property
    def token_bytes(self) -> int:
        """Size of the files of the kept tokens."""
        layouts = [layout for tap in self.taps for layout in self.layouts(tap).values() if layout.kind != "pooled"]
        return sum(layout.shards * layout.length for layout in layouts)

    @property
    def token_bytes_per_sample(self) -> int:
        """Size of one sample's tokens, in shards that are full."""
        return _token_bytes(self.taps, self.precision)

    def layouts(self, tap: Tap) -> dict[str, Layout]:
        """The arrays of a tap by their kind: `pooled`, and `tokens` and `prefix` where there are any."""
        place, poolings = f"taps/{tap.name}", len(self.poolings)
        arrays = {
            "pooled": Layout(
                f"{place}/pooled",
                self.samples,
                self.pooled_shard,
                tokens=poolings,
                features=tap.features,
                block=poolings,
                dtype="float32",
            )
        }
        if self.token_samples:
            each = self.shard * tap.features * np.dtype(self.precision).itemsize
            for kind, count in (("tokens", tap.grid.tokens), ("prefix", tap.grid.prefix)):
                if count:
                    arrays[kind] = Layout(
                        f"{place}/{kind}",
                        self.token_samples,
                        self.shard,
                        tokens=count,
                        features=tap.features,
                        block=_dealt_out(count, max(1, CHUNK_BYTES // each)),
                        dtype=self.precision,
                    )
        return arrays

    def steps(
        self,
        batch: int,
        kept: Callable[[int], int] = lambda shard: 0,
        has_tokens: Callable[[int], bool] = lambda shard: False,
        parts: Iterable[int] | None = None,
    ) -> Iterator[Step]:
        """Steps that are to be done of some parts (None: of all), in the order of rows.

        `kept` says how many of the first rows of a part are there, `has_tokens` whether a shard of tokens is. Batches
        begin where they would have begun undisturbed, so a step done again is the same to the bit.
        """
        for part in range(self.parts) if parts is None else parts:
            rows, (tokens, _) = self.rows_of(part), self.positions(part)
            done = rows.start + kept(part)
            border = rows.start + tokens.stop - tokens.start
            for shard, start in zip(self.token_shards(part), range(rows.start, border, self.shard), strict=True):
                step = Step(slice(start, min(start + self.shard, border)), shard)
                if done < step.rows.stop or not has_tokens(shard):
                    yield step
            for start in range(max(border, done), rows.stop, batch):
                yield Step(slice(start, min(start + batch, rows.stop)), None)


def plan(
    encoder: Encoder,
    taps: Sequence[Tap],
    samples: int,
    token_budget: int | None,
    precision: Precision,
    poolings: Sequence[str] | None = None,
    with_tokens: int | None = None,
    probes: bool = True,
) -> Plan:
    """Shard rows so that one shard of all taps' tokens fits in memory, and as many token rows as `token_budget` allows.

    A part has at most 4 MiB of pooled values at the widest tap, and from `PARTED` samples on there are `LEAST_PARTS`
    or more. `poolings`: all that the encoder has when None.
    `with_tokens`: how many samples keep tokens, whatever the budget; `probes`: whether probes are fitted on tokens.
    """
    each = _token_bytes(taps, precision)
    token_samples = samples_with_tokens(samples, each, token_budget, probes) if with_tokens is None else with_tokens
    kinds = tuple(poolings or encoder.poolings)
    widest = max(tap.features for tap in taps) * len(kinds) * 4
    most, wanted = max(1, POOLED_BYTES // widest), samples
    if samples >= PARTED:
        # More rows than so many would be fewer parts.
        most, wanted = min(most, (samples - 1) // (LEAST_PARTS - 1)), math.ceil(samples / LEAST_PARTS)
    rows = _dealt_out(samples, min(most, wanted))
    tokens_of_part = math.ceil(token_samples / math.ceil(samples / rows))
    # Of tokens that are not kept, which cut nothing, 1.
    fitting = max(1, min(MAX_SHARD, SHARD_BYTES // each, tokens_of_part))
    shard = _dealt_out(token_samples, fitting) if token_samples else 1
    return Plan(
        samples,
        token_samples,
        shard,
        pooled_shard=rows if rows == samples else min(math.ceil(rows / shard), most // shard) * shard,
        precision=precision,
        poolings=kinds,
        taps=tuple(taps),
        output_tap=encoder.output_tap,
        dealt=True,
    )


def _dealt_out(count: int, most: int) -> int:
    """Number that a part holds where as few parts as hold `most` share them evenly.

    So that the last is nearly full too.
    """
    return math.ceil(count / math.ceil(count / most))


def _token_bytes(taps: Sequence[Tap], precision: Precision) -> int:
    return np.dtype(precision).itemsize * sum(tap.tokens * tap.features for tap in taps)


def ranges_of(parts: int) -> list[range]:
    """So many parts in order, in at most `MOST_RANGES` ranges of nearly one length."""
    count = min(parts, MOST_RANGES)
    return [range(i * parts // count, (i + 1) * parts // count) for i in range(count)]


def record_of(part: int) -> str:
    """The file that says that a part is there."""
    return f"parts/{part}.json"


def in_ranges(parts: Iterable[int]) -> str:
    """Numbers of parts, from 1, in words: `1, 3 to 5`."""
    ranges = list[list[int]]()
    for part in parts:
        if ranges and ranges[-1][1] == part:
            ranges[-1][1] += 1
        else:
            ranges.append([part + 1, part + 1])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges)


def row_order(samples: int) -> np.ndarray:
    """The dataset index behind each position, in which measures read samples; see `Plan` for rows."""
    # A stream of its own: one that also drew the splits would sort the rows by split.
    return np.random.default_rng([samples, 0x726F7773]).permutation(samples)
