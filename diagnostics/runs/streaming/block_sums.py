"""Reads of dense targets from sums, and the sums: gathered by block and range of parts, in the store by block.

A block is one of `folds`, of whole groups. Sums are those of ranges of parts, added in their order, so that launches
which have a range each add up to what one process has, to the last digit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.activations.batches import Along
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.folder import pages
from diagnostics.activations.metadata import observation_names
from diagnostics.activations.parts import Left
from diagnostics.activations.plan import Plan, ranges_of
from diagnostics.activations.store import Store
from diagnostics.datasets.target import resample
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.dense import DenseRows, JudgedRows, Sums, TokenMap
from diagnostics.measures.probes.least_squares import Moments
from diagnostics.measures.probes.protocol import FOLDS, Rows, folds
from diagnostics.runs.machine import free_bytes
from diagnostics.vocabulary import SPLITS

SumsName = Callable[[DenseRows, int], str]
PartSums = dict[tuple[str, str], list[Tensor]]
"""Sums by their name and tap: of ones or columns, of features or squares, and of products."""
STRIP = 128
"""Rows of products of features that are summed at once, from the diagonal on: the rest is the same again."""
MOST_BYTES = 3 * 10**9
"""Of the sums of all blocks up to which they are gathered along with the extraction, if twice as much is free."""
HELD_BYTES = 2**29
"""Of tokens that are held from the extraction until they are judged; of more than twice as many none are."""
ALL_BYTES = 2**30
"""Of tokens of which all are held."""


def fits_along(size: float) -> bool:
    """Test for sums of so many bytes that are gathered along with the extraction."""
    return size <= min(MOST_BYTES, free_bytes() / 2)


@dataclass(eq=False)
class Read:
    """A target that a measure reads from sums, and what is found out about it, by tap."""

    target: StoredTarget
    dense: DenseRows
    sums: Sums
    readouts: dict[str, dict[int | None, TokenMap]] = field(default_factory=dict[str, dict[int | None, TokenMap]])
    """Of `Solved`."""
    numbers: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    judged: dict[str, list[list[JudgedRows]]] = field(default_factory=dict[str, list[list[JudgedRows]]])
    """Of each variant of the readout, until one is chosen."""
    best: dict[str, int] = field(default_factory=dict[str, int])
    """The variant that was chosen."""
    first: Read | None = None
    """That of which this is the second part."""

    @property
    def fewer(self) -> bool:
        """Test for one of the samples alone that controls pass."""
        return self.dense.activations.split is self.dense.activations.fewer

    @classmethod
    def of(cls, view: Activations, measure: Measure, target: StoredTarget) -> Iterator[Read]:
        """One, and its second part where it has one; `view`: all of whose samples have tokens.

        Raises as `DenseRows.of`.
        """
        sums: Sums = measure.sums(target)
        yield (read := cls(target, sums.rows(measure.name, view, target), sums))
        if second := sums.second(read.dense):
            yield cls(target, *second, first=read if sums.second_penalty else None)

    def names_at(self, tap: Tap) -> list[str]:
        """The names of what is read at a tap, or at those that are joined."""
        return [tap.name] if not self.dense.joined else list(self.readouts)

    @property
    def chosen(self) -> dict[str, list[JudgedRows]]:
        """Rows judged by the one variant that is left."""
        return {tap: judged for tap, (judged,) in self.judged.items()}

    def join_first(self) -> None:
        """Hands what was solved of a second part to the first."""
        if (first := self.first) is None:
            return
        for tap, readouts in self.readouts.items():
            # A block without known tokens of this part changes nothing of its fit.
            of = {b: first.sums.join(each, readouts.get(b, readouts[None])) for b, each in first.readouts[tap].items()}
            first.readouts[tap] = of
            first.numbers[tap][first.sums.second_penalty] = self.numbers[tap]["penalty"]

    def choose_variants(self) -> None:
        """Leaves of each tap's variants the one of least loss on val, of equal ones the last."""
        for tap, tried in self.judged.items():
            scores = [self.sums.score([judged for _, judged in each]) for each in tried]
            best = len(scores) - 1 - int(np.argmax(scores[::-1]))
            self.numbers[tap] |= {name: values[best] for name, values in self.sums.variants.items()}
            self.best[tap], self.judged[tap] = best, [tried[best]]
            self.readouts[tap] = {block: readout.at(best) for block, readout in self.readouts[tap].items()}

    def pack(self) -> dict[str, np.ndarray]:
        """Packs what was judged as arrays by tap, variant, batch and name."""
        return {
            f"{tap}/{variant}/{i}/{name}": values
            for tap, tried in self.judged.items()
            for variant, each in enumerate(tried)
            for i, (rows, judged) in enumerate(each)
            for name, values in {"rows": rows, **self.sums.pack(judged)}.items()
        }

    def take(self, packed: Mapping[str, np.ndarray]) -> None:
        """Add what was judged elsewhere, of the variant that was chosen where one was."""
        batches: dict[tuple[str, int, int], dict[str, np.ndarray]] = {}
        for key, values in packed.items():
            tap, variant, i, name = key.split("/")
            batches.setdefault((tap, int(variant), int(i)), {})[name] = values
        for (tap, variant, _), judged in sorted(batches.items()):
            if self.best.get(tap, variant) == variant:
                of, place = self.judged.setdefault(tap, []), 0 if tap in self.best else variant
                of.extend([] for _ in range(len(of), place + 1))
                of[place].append((judged.pop("rows"), self.sums.unpack(judged)))


@dataclass(eq=False)
class GridTokens:
    """Grid tokens of a batch at a tap, float32 [row, token, feature], and the same on each target's grid."""

    tap: Tap
    tokens: Tensor | None
    by_shape: dict[tuple[int, ...], Tensor] = field(default_factory=dict[tuple[int, ...], Tensor])

    def on(self, dense: DenseRows) -> Tensor:
        """The tokens on the grid of a target."""
        shape = dense.grid.shape
        if shape not in self.by_shape:
            assert self.tokens is not None
            self.by_shape[shape] = on_grid(self.tokens, self.tap, dense)
        return self.by_shape[shape]


class HeldTokens:
    """Tokens of an extraction on the grids of targets, in memory until they are judged: of the first that none stores.

    Of as many as fit; where these are fewer than half, of none. `memory`: another encoder's, used again, as new one is
    dear: it has room, not touched here, for a control that stores no tokens and holds those of all.
    """

    def __init__(self, store: Store, reads: Sequence[Read], memory: np.ndarray, stored: int) -> None:
        judged = np.isin(block_of(store), [*held_out(store), FOLDS])
        wanted = np.flatnonzero(judged & np.any([read.dense.known.any(axis=1) for read in reads], axis=0))
        later = wanted[wanted >= stored]
        self.places, width = dict[tuple[str, tuple[int, ...]], slice](), 0
        for read in reads:
            for tap in store.taps:
                if tap.name in read.dense.reads and (key := (tap.name, read.dense.grid.shape)) not in self.places:
                    self.places[key] = slice(width, width + read.dense.grid.tokens * tap.features)
                    width = self.places[key].stop
        count, most = (held_of(len(rows), 4 * width, free_bytes() + memory.nbytes) for rows in (later, wanted))
        self.slots = np.full(len(store.ids), -1)
        self.slots[later[:count]] = np.arange(count)
        # Small pages may be those just freed; numpy asks for huge ones, which are new and have to be cleared.
        size = 4 * width * max(count, most)
        self.memory = memory if len(memory) >= count * width else pages(size).view(np.float32)
        self.values = self.memory[: count * width].reshape(count, width)

    def put(self, positions: np.ndarray, tokens: GridTokens) -> None:
        """Take in those samples of a batch that are held."""
        slots = self.slots[positions]
        for (tap, shape), place in self.places.items():
            if tap == tokens.tap.name and (slots >= 0).any():
                given = tokens.by_shape[shape].flatten(1).cpu().numpy()
                for row in np.flatnonzero(slots >= 0):  # at once they would be copied twice
                    self.values[slots[row], place] = given[row]

    def holds(self, reads: Iterable[Read]) -> bool:
        """Test for the tokens that are read, of the samples that are held."""
        of = [(tap.name, read.dense.grid.shape) for read in reads for tap in read.dense.joined or read.dense.taps]
        return all(each in self.places for each in of)

    def has(self, positions: np.ndarray) -> bool:
        """Test for a batch all of whose samples are held."""
        return bool((self.slots[positions] >= 0).all())

    def get(self, tap: Tap, positions: np.ndarray, device: str) -> GridTokens:
        """The tokens of a batch that is held."""
        slots = self.slots[positions]
        of = {shape: self.values[slots, place] for (name, shape), place in self.places.items() if name == tap.name}
        shaped = {shape: values.reshape(len(slots), -1, tap.features) for shape, values in of.items()}
        return GridTokens(tap, None, {shape: torch.as_tensor(x, device=device) for shape, x in shaped.items()})


def tokens_read(plan: Plan) -> int:
    """Number of samples, the first, whose stored tokens are read as a pass gives them."""
    return plan.token_samples if plan.precision == "float32" else 0


def held_of(samples: int, bytes_of_each: int, free: float) -> int:
    """The number of so many samples whose tokens are held: in a quarter of what is free, at most."""
    most = ALL_BYTES if samples * bytes_of_each <= ALL_BYTES else HELD_BYTES
    count = min(samples, int(min(most, free / 4) / max(1, bytes_of_each)))
    return count if 2 * count >= samples else 0


class AlongExtraction:
    """Gathers the sums of `measures` and of the `targets` of a new store while it is extracted, and holds tokens.

    A launch of a shared one gathers those of the ranges of which all samples pass, and holds none.

    Of tokens without data nothing is gathered: the pass that misses the sums then says so. Nor of those that are not
    finite: the extraction itself names their sample. Where memory is short, a later pass gathers them block by block.
    """

    def __init__(
        self,
        encoder: Encoder,
        measures: Sequence[Measure],
        targets: Callable[[Store], Sequence[StoredTarget]],
        version: str,
        shared: bool,
        memory: np.ndarray,
        stored: int,
    ) -> None:
        self.encoder, self.measures, self.targets, self.version = encoder, measures, targets, version
        self.shared, self.at, self.passed, self.memory, self.stored = shared, -1, 0, memory, stored
        self.sums: BlockSums | None = None
        self.held: HeldTokens | None = None
        self.left: Left | None = None

    def __call__(self, store: Store) -> Along | None:
        view = store.with_other(token_samples=len(store.ids))
        reads = list(reads_of(view, self.measures, self.targets(store)))
        sums = BlockSums(store, reads, range(FOLDS), self.version)
        if not sums.missing or not fits_along(sums.bytes):
            return None
        self.left = Left(store, self.version) if self.shared else None
        self.sums, sums.origins = sums, origins_of(self.encoder, store, reads, self.left)
        self.visit = Joining(reads, sums.add)
        self.range = range_of(store)
        if not self.shared:
            self.held = HeldTokens(store, reads, self.memory, self.stored)
            self.memory = self.held.memory  # a smaller one is not kept beside it
        return self._add

    def _add(self, batch: Any, positions: np.ndarray, tap: Tap, tokens: Tensor) -> None:
        if self.sums is not None:
            try:
                self._go_on(positions)
                self.passed += len(positions) * (tap.name == self.sums.store.taps[0].name)
                read = grid_tokens(self.encoder, self.sums.store, batch, positions, tap, tokens)
                self.visit(tap, positions, read)
                if self.held is not None:
                    self.held.put(positions, read)
            except StorageError:
                raise
            except (DiagnosticsError, MemoryError, RuntimeError):
                self.sums = self.held = None

    def _go_on(self, positions: np.ndarray) -> None:
        """End the range of the last batch where the next one is another's."""
        if self.at != (at := int(self.range[positions[0]])):
            self._end()
            self.at, self.passed = at, 0

    def _end(self) -> None:
        assert self.sums is not None
        ended = self.sums.end_range()
        if self.left is None:
            self.sums.join(ended)
        elif self.at >= 0 and self.passed == (self.range == self.at).sum():
            self.sums.leave(ended, self.left, self.at)

    def write(self) -> None:
        """The sums of all blocks into the store, which is whole, or those of the last range to those that are left."""
        if self.sums is not None:
            self._end()
            if self.left is None:
                self.sums.write()


def block_bytes(taps: Iterable[Tap], masks: int, columns: int) -> int:
    """Of the sums of a block, of targets that have so many distinct masks of known tokens, and columns together."""
    features = [tap.features for tap in taps if tap.grid.tokens > 1]
    return 8 * sum(d * (d + 1) // 2 * masks + d * columns for d in features)


def reads_of(view: Activations, measures: Sequence[Measure], targets: Sequence[StoredTarget]) -> Iterator[Read]:
    """All reads that are possible, then those of the samples alone that controls pass, where these are fewer."""
    for measure in measures:
        for target in targets:
            if (
                target.kind in measure.streams
                and measure.reads(target)
                and (measure.of_controls or not target.shuffled)
            ):
                with contextlib.suppress(DiagnosticsError):  # then it says so when it is measured
                    yield from Read.of(view, measure, target)
    if view.fewer is not None and view.split is not view.fewer:
        own = [target for target in targets if not target.shuffled]
        yield from reads_of(view.with_other(split=view.fewer), [m for m in measures if m.of_controls], own)


def gram_name(dense: DenseRows, block: int) -> str:
    """The observation of the products of features, which all targets share whose known tokens are the same."""
    return f"gram-{dense.mask_digest}-{block}"


def products_name(dense: DenseRows, block: int) -> str:
    """The observation of the products of features and a target."""
    return f"products-{dense.digest}-{block}"


Features = tuple[np.ndarray, int, np.ndarray, np.ndarray]
"""The origin, number, sums [feature] and products [feature, feature] of tokens."""


def features_of(store: Store, name: str, tap: Tap) -> Features | None:
    if (kept := store.observation_at(name, tap.name)) is None:
        return None
    d = tap.features
    n, origin, x, upper = np.split(kept[0], [1, 1 + d, 1 + 2 * d])
    rows, columns = np.triu_indices(d)
    xx = np.empty((d, d))
    xx[rows, columns] = xx[columns, rows] = upper
    return origin, int(n[0]), x, xx


def moments_of(
    store: Store, dense: DenseRows, sums: Sums, tap: Tap, grams: dict[str, Features | None]
) -> dict[int, Moments]:
    """The sums at a tap of each block that has known tokens; `grams`: those of features that were read, by name."""
    d, origin_y = tap.features, sums.origin(dense)
    blocks: dict[int, Moments] = {}
    for block in range(FOLDS):
        if (name := gram_name(dense, block)) not in grams:
            grams[name] = features_of(store, name, tap)
        features, products = grams[name], store.observation_at(products_name(dense, block), tap.name)
        if features is None or products is None:
            continue
        moments = Moments(features[0], origin_y)
        _, moments.n, moments.x, moments.xx = features
        moments.y, moments.yy, xy = np.split(products[0], [len(origin_y), 2 * len(origin_y)])
        moments.xy = xy.reshape(d, -1)
        blocks[block] = moments
    return blocks


class BlockSums:
    """Sums of some blocks at all taps, in memory: those that the store does not have.

    Those of a range of parts are put to the others' at its end, so that launches that have a range each add up alike.
    """

    def __init__(self, store: Store, reads: Sequence[Read], blocks: Iterable[int], version: str) -> None:
        self.store, self.state = store, {"by": __name__, "version": version}
        self.block = block_of(store)
        # Of the features once for all targets whose known places are the same.
        self.parts = {name(read.dense, 0): (name, read) for read in reads for name in (gram_name, products_name)}
        self.missing: dict[str, tuple[SumsName, Read]] = {}
        for name, read in self.parts.values():
            for block in blocks:
                if not store.has_observed(name(read.dense, block), 0, self.state):
                    self.missing[name(read.dense, block)] = name, read
        self.origins: Mapping[str, Tensor] = {}
        """Of `origins_of`."""
        self.sums: PartSums = {}
        """Those of the range in hand, products of features by `strips`."""
        self.joined: PartSums = {}

    @property
    def bytes(self) -> int:
        """Those of what is missing, in memory and on disk."""
        return sum(
            block_bytes(read.dense.taps, *((1, 0) if name is gram_name else (0, len(read.sums.origin(read.dense)))))
            for name, read in self.missing.values()
        )

    def add(self, tap: Tap, positions: np.ndarray, tokens: GridTokens) -> None:
        """Take in a batch's tokens: products of a sample in float32, whatever the batch, and sums in float64."""
        away: dict[tuple[int, ...], Tensor] = {}
        for name, read in self.parts.values():
            dense = read.dense
            if tap.name not in dense.reads:
                continue
            if dense.grid.shape not in away:
                away[dense.grid.shape] = tokens.on(dense) - self.origins[tap.name]
            columns = None if name is gram_name else read.sums.columns(dense, positions)
            for i, row in enumerate(positions):
                known, of = dense.known[row], name(dense, self.block[row])
                if of not in self.missing or not known.any():
                    continue
                x = away[dense.grid.shape][i]
                x = x if known.all() else x[torch.as_tensor(known, device=x.device)]
                if columns is None:
                    new = [torch.tensor(len(x)), x.double().sum(dim=0), *strips(x)]
                else:
                    y = torch.as_tensor(columns[i][known], device=x.device)
                    new = [y.double().sum(dim=0), y.double().square().sum(dim=0), x.T @ y]
                if kept := self.sums.get((of, tap.name)):
                    for j, part in enumerate(new):
                        kept[j] += part
                else:
                    self.sums[of, tap.name] = [part.double() for part in new]

    def end_range(self) -> PartSums:
        """The sums of the range in hand, in main memory, where the next one's begin anew."""
        ended: PartSums = {}
        for of, tap in [*self.sums]:
            first, second, *products = (part.cpu() for part in self.sums.pop((of, tap)))
            if self.missing[of][0] is gram_name:  # the upper triangle [number], row by row
                products = [torch.cat([strip[tuple(torch.triu_indices(*strip.shape))] for strip in products])]
            ended[of, tap] = [first, second, *products]
        return ended

    def join(self, ended: PartSums) -> None:
        """Add the sums of a range to those of the ranges before it."""
        for key, parts in ended.items():
            for kept, part in zip(self.joined.setdefault(key, parts), parts, strict=True):
                if kept is not part:
                    kept += part

    def leave(self, ended: PartSums, left: Left, at: int) -> None:
        """Leaves the sums of a range for whoever joins them."""
        for of in self.missing:
            parts = {tap: parts for (name, tap), parts in ended.items() if name == of}
            left.put(f"{of}-{at}", {f"{tap}/{i}": part.numpy() for tap in parts for i, part in enumerate(parts[tap])})

    def write(self) -> None:
        """Put all sums into the store."""
        for of in self.missing:
            self.put(of)

    def put(self, of: str) -> None:
        """One of the sums into the store, by tap [1, number] float64: see `moments_of`."""
        arrays = dict[str, np.ndarray]()
        for tap in self.missing[of][1].dense.taps:
            if (sums := self.joined.pop((of, tap.name), None)) is not None:
                first, second, products = (each.numpy() for each in sums)
                is_gram = self.missing[of][0] is gram_name
                origin = [self.origins[tap.name].double().cpu().numpy()] if is_gram else []
                arrays[tap.name] = np.concatenate([first.ravel(), *origin, second, products.ravel()])[None]
        about = {"samples": 0, "reason": "", "left_out": {}, "state": self.state}
        self.store.put_observed(of, arrays, about)


def strips(x: Tensor) -> Iterator[Tensor]:
    """Products of [token, feature] by `STRIP` rows, each [row, feature] from the diagonal on; few features at once."""
    size = x.shape[1]
    step = size if size <= 2 * STRIP else STRIP
    for start in range(0, size, step):
        yield x[:, start : start + step].T @ x[:, start:]


class GapsError(DiagnosticsError):
    """Tokens of a sample represent no data."""


class Joining:
    """Visits of taps by the tokens of a batch, and of taps that some `reads` join once those of the last are there."""

    def __init__(self, reads: Sequence[Read], visit: Callable[[Tap, np.ndarray, GridTokens], None]) -> None:
        self.visit, self.positions, self.held = visit, np.empty(0), dict[str, dict[str, Tensor]]()
        self.joined = {tap.name: (tap, read.dense) for read in reads if read.dense.joined for tap in read.dense.taps}

    def __call__(self, tap: Tap, positions: np.ndarray, tokens: GridTokens) -> None:
        self.visit(tap, positions, tokens)
        if not np.array_equal(positions, self.positions):
            # What is held of a batch that failed is not gone on with.
            self.positions, self.held = positions, {}
        for name, (together, dense) in self.joined.items():
            of = [each.name for each in dense.joined]
            if tap.name in of:
                held = self.held.setdefault(name, {})
                held[tap.name] = tokens.on(dense)
                if len(held) == len(of):
                    del self.held[name]
                    joined = torch.cat([held.pop(each) for each in of], dim=2)
                    self.visit(together, positions, GridTokens(together, joined))


def origins_of(encoder: Encoder, store: Store, reads: Iterable[Read], left: Left | None = None) -> dict[str, Tensor]:
    """About which products are summed, by tap [feature]: the means of grid tokens on the encoder's example.

    Sums that are in the store keep theirs, and new ones share it, as all launches do: another device rounds the example
    otherwise.
    """
    batch, names = default_collate([encoder.preprocess(encoder.example())]), [tap.name for tap in store.taps]
    origins = encoder.capture(batch, names, lambda tap, tokens: tokens[0, tap.grid.prefix :].float().mean(dim=0))
    there = sorted({file.split("/")[1] for file in observation_names(store.folder) if "/gram-" in file})

    def keep(tap: Tap) -> None:
        kept = (store.observation_at(name, tap.name) for name in there)
        if (features := next((each for each in kept if each is not None), None)) is not None:
            origins[tap.name] = torch.from_numpy(features[0, 1 : 1 + tap.features]).to(origins[tap.name])

    for tap in store.taps:
        keep(tap)
    if left is not None:
        agreed = left.agree("origins", {name: each.cpu().numpy() for name, each in origins.items()})
        origins = {name: torch.tensor(agreed[name]).to(each) for name, each in origins.items()}
    for dense in (read.dense for read in reads if read.dense.joined):
        origins[dense.reads[0]] = torch.cat([origins[tap.name] for tap in dense.joined])
        keep(dense.taps[0])
    return origins


def range_of(store: Store) -> np.ndarray:
    """The range of parts of each sample."""
    at = np.empty(len(store.ids), dtype=np.int64)
    for i, parts in enumerate(ranges_of(store.plan.parts)):
        at[store.plan.positions_of(parts)] = i
    return at


def block_of(store: Store) -> np.ndarray:
    """The block of each sample, and one more number for those of test."""
    rows = Rows.of({name: np.flatnonzero(store.split == name) for name in SPLITS}, store.groups)
    block = np.full(len(store.ids), FOLDS)
    block[rows.fit] = folds(rows, None, 0)
    return block


def held_out(store: Store) -> range:
    """The blocks that are judged by readouts fitted without them."""
    return range(FOLDS if store.choose_on == "fit" else 1)


def grid_tokens(
    encoder: Encoder, store: Store, batch: Any, positions: np.ndarray, tap: Tap, tokens: Tensor
) -> GridTokens:
    """The grid tokens of a batch; raises where tokens represent no data or are not finite."""
    these = f"in the batch from sample {store.ids[positions[0]]} on"
    valid = encoder.valid(batch, tap)
    if valid is not None and not bool(valid.all()):
        raise GapsError(
            f"Tap {tap.name} of {encoder.name} has tokens that represent no data (gaps or padding) {these}, which "
            f"--dense streamed cannot leave out: give --dense none.",
            code="no-tokens",
        )
    grid = tokens[:, tap.grid.prefix :].float()
    # A sum is quicker; one beyond float32 is looked at number by number.
    if not bool(grid.sum().isfinite()) and not bool(grid.isfinite().all()):
        raise DiagnosticsError(f"{encoder.name} gives NaN or infinity at tap {tap.name} {these}.", code="not-finite")
    return GridTokens(tap, grid)


def on_grid(tokens: Tensor, tap: Tap, dense: DenseRows) -> Tensor:
    if tap.grid.shape == dense.grid.shape:
        return tokens
    averaged = resample(tokens.cpu().numpy(), tap.grid.shape, dense.grid.shape)
    return torch.as_tensor(averaged, device=tokens.device)
