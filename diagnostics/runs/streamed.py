"""Dense targets read from tokens that are not stored: sums are gathered, block by block, and a pass judges by them.

Sums are gathered along with the extraction, or in a pass of their own where that was made without them. Those of a
block lie in the store like observations, so a kill of such a pass costs the block in hand, and a target that is added
later costs its own products alone. What the last pass judges is in memory until the results are written.
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

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.extract import Along
from diagnostics.activations.metadata import observed_names
from diagnostics.activations.prepare import prepared_batches
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.target import resample
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, damaged, explaining
from diagnostics.measures.arrays import gram
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.dense import DenseRows, EachToken, JudgedRows, Sums, TokenMap
from diagnostics.measures.probes.least_squares import FOLDS, PENALTIES, Moments, RidgePath, choose, folds
from diagnostics.measures.probes.protocol import Rows
from diagnostics.measures.threads import one_thread
from diagnostics.progress import Progress, Watch
from diagnostics.runs.machine import free_bytes
from diagnostics.vocabulary import SPLITS, ChooseOn

_Visit = Callable[[Tap, np.ndarray, Tensor], None]
_Name = Callable[[DenseRows, int], str]
MOST_BYTES = 3 * 10**9
"""Of the sums of all blocks up to which they are gathered along with the extraction, if twice as much is free."""


def fits_along(size: float) -> bool:
    """Test for sums of so many bytes that are gathered along with the extraction."""
    return size <= min(MOST_BYTES, free_bytes() / 2)


Solved = tuple[dict[str, float], dict[int | None, TokenMap]]
"""Numbers that are chosen at a tap, and what is fitted there without a block, or on all (None)."""


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
    first: Read | None = None
    """That of which this is the second part."""

    @classmethod
    def of(cls, view: Activations, measure: Measure, target: StoredTarget) -> Iterator[Read]:
        """One, and its second part where it has one; `view`: all of whose samples have tokens. Raises as
        `DenseRows.of`.
        """
        sums: Sums = measure.sums(target)
        yield (read := cls(target, sums.rows(measure.name, view, target), sums))
        if second := sums.second(read.dense):
            yield cls(target, *second, first=read)

    @property
    def chosen(self) -> dict[str, list[JudgedRows]]:
        """What was judged by the one variant that is left."""
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
        """Leaves of each tap's variants the one of the best score on what is held out, of equal ones the last."""
        for tap, tried in self.judged.items():
            scores = [self.sums.score([judged for _, judged in each]) for each in tried]
            best = len(scores) - 1 - int(np.argmax(scores[::-1]))
            self.numbers[tap] |= {name: values[best] for name, values in self.sums.variants.items()}
            self.judged[tap] = [tried[best]]
            self.readouts[tap] = {block: readout.at(best) for block, readout in self.readouts[tap].items()}


class AlongExtraction:
    """Gathers the sums of `measures` and of the `targets` of a new store while it is extracted.

    Of tokens without data nothing is gathered: the pass that misses the sums then says so. Nor of those that are not
    finite: the extraction itself names their sample. Where memory is short, a later pass gathers them block by block.
    """

    def __init__(
        self,
        encoder: Encoder,
        measures: Sequence[Measure],
        targets: Callable[[Store], Sequence[StoredTarget]],
        version: str,
    ) -> None:
        self.encoder, self.measures, self.targets, self.version = encoder, measures, targets, version
        self.sums: _BlockSums | None = None

    def __call__(self, store: Store) -> Along | None:
        view = store.with_other(token_samples=len(store.ids))
        reads = list(_reads(view, self.measures, self.targets(store)))
        sums = _BlockSums(store, reads, range(FOLDS), self.version)
        if not sums.missing or not fits_along(sums.bytes):
            return None
        self.sums, sums.origins = sums, _origins(self.encoder, store)
        return self._add

    def _add(self, batch: Any, positions: np.ndarray, tap: Tap, tokens: Tensor) -> None:
        if self.sums is not None:
            try:
                self.sums.add(
                    tap, positions, _grid_tokens(self.encoder, self.sums.store, batch, positions, tap, tokens)
                )
            except (DiagnosticsError, MemoryError, RuntimeError):
                self.sums = None

    def write(self) -> None:
        """The sums of all blocks into the store, which is whole."""
        if self.sums is not None:
            self.sums.write()


def stream(
    encoder: Encoder,
    dataset: Dataset,
    store: Store,
    measures: Sequence[Measure],
    targets: Sequence[StoredTarget],
    *,
    version: str,
    device: str,
    batch_size: int | None,
    workers: int,
    watch: Watch,
    asked: bool,
    before: Callable[[float, int], None],
    solve: Callable[[Store, Sequence[Read]], Mapping[tuple[str, str], Any]],
) -> Activations:
    """The store with what `measures` read of dense `targets` by sums, for their `compute`.

    Sums that the store has are not gathered again. `before` is told how many passes over all samples follow, and the
    bytes that they write. `solve` gives what other processes find with `solve_at`, by "" and tap. Raises
    DiagnosticsError for a sample that cannot be read, StorageError where the disk is full. Where tokens represent no
    data it raises GapsError if streaming was `asked` for, and otherwise has that in place of what was read.
    """
    view = store.with_other(token_samples=len(store.ids), streamed={})
    reads = list(_reads(view, measures, targets))
    if not reads:
        return view
    passes = _Passes(encoder, dataset, store, device=device, batch_size=batch_size, workers=workers, watch=watch)
    left = _BlockSums(store, reads, range(FOLDS), version)
    before(passes_over(store.split, store.choose_on, gathered=not left.missing), left.bytes)
    try:
        if left.missing:
            passes.gather(reads, version)
        solved = solve(store, reads)
        for tap in store.taps:
            for read, found in (solved.get(("", tap.name)) or solve_at(store, reads, tap)).items():
                reads[read].numbers[tap.name], reads[read].readouts[tap.name] = found
        for read in reads:
            read.join_first()
        reads = [read for read in reads if read.first is None]
        for block in (*(held_out := _held_out(store)), None):
            passes.judge(reads, block)
            if block == held_out[-1]:
                for read in reads:
                    read.choose_variants()
    except GapsError as error:
        if asked:
            raise
        view.streamed = {(read.dense.measure, read.dense.digest): error for read in reads}
    else:
        view.streamed = {(read.dense.measure, read.dense.digest): (read.numbers, read.chosen) for read in reads}
    return view


@one_thread()
def solve_at(store: Store, reads: Iterable[Read], tap: Tap) -> dict[int, Solved]:
    """The penalty of each read at a tap, chosen from sums, and its fits, by the place of the read."""
    # Features are read and decomposed once for all targets whose known places are the same.
    solved, grams, paths = dict[int, Solved](), dict[str, _Features | None](), dict[str, RidgePath]()
    for i, read in enumerate(reads):
        if blocks := _blocks(store, read.dense, read.sums, tap, grams):
            errors, some = np.zeros(len(PENALTIES)), [block for block in _held_out(store) if block in blocks]
            others = {block: _without(blocks, block) for block in (*some, None)}
            for block in some:
                rest, key = others[block], _gram(read.dense, block)
                path = paths[key] = paths[key].of_columns(rest) if key in paths else RidgePath.from_moments(rest)
                errors += [blocks[block].squared_error(path, penalty).sum() for penalty in PENALTIES]
            penalty = choose(errors)
            fits = {block: read.sums.solve(read.dense, rest, penalty) for block, rest in others.items()}
            solved[i] = {"penalty": penalty}, fits
    return solved


def _held_out(store: Store) -> Sequence[int]:
    return range(FOLDS) if store.choose_on == "fit" else (0,)


def readout(store: Store, probe: Measure, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> EachToken:
    """The readout with which `stream` read test at a tap, solved again from the sums in the store.

    Raises StorageError where those are not whole.
    """
    dense = DenseRows.of(probe.name, store.with_other(token_samples=len(store.ids)), target)
    for name in (_gram, _products):
        blocks = [store.observation(name(dense, block)) for block in range(FOLDS)]
        # A kill while another version writes them anew leaves some of each, and one that is not there.
        if None in blocks or len({stored.state["version"] for stored in blocks if stored}) > 1:
            raise damaged(store.path, f"observed/{name(dense, 0)}")
    sums: Sums = probe.sums(target)
    solved = sums.solve(dense, _without(_blocks(store, dense, sums, tap, {}), None), choice["penalty"])
    for name, values in sums.variants.items():
        solved = solved.at(list(values).index(choice[name]))
    return EachToken(solved, tap.grid, dense.grid)


def passes_over(split: np.ndarray, choose_on: ChooseOn, *, gathered: bool) -> float:
    """Passes over all samples beside the extraction; `gathered`: whether it gathers the sums, or they are there."""
    judged = split != "train" if choose_on == "val" else np.ones(len(split), dtype=bool)
    return float(judged.mean() + (0 if gathered else (split != "test").mean()))


def block_bytes(taps: Iterable[Tap], masks: int, columns: int) -> int:
    """Of the sums of a block, of targets that have so many distinct masks of known tokens, and columns together."""
    features = [tap.features for tap in taps if tap.grid.tokens > 1]
    return 8 * sum(d * (d + 1) // 2 * masks + d * columns for d in features)


def _reads(view: Activations, measures: Sequence[Measure], targets: Sequence[StoredTarget]) -> Iterator[Read]:
    for measure in measures:
        for target in targets:
            if target.kind in measure.streams and measure.reads(target):
                with contextlib.suppress(DiagnosticsError):  # then it says so when it is measured
                    yield from Read.of(view, measure, target)


def _gram(dense: DenseRows, block: int) -> str:
    """The observation of the products of features, which all targets share whose known tokens are the same."""
    return f"gram-{dense.mask_digest}-{block}"


def _products(dense: DenseRows, block: int) -> str:
    """The observation of the products of features and a target."""
    return f"products-{dense.digest}-{block}"


_Features = tuple[np.ndarray, int, np.ndarray, np.ndarray]
"""The origin, number, sums [feature] and products [feature, feature] of tokens."""


def _features(store: Store, name: str, tap: Tap) -> _Features | None:
    if (kept := store.observed_at(name, tap.name)) is None:
        return None
    d = tap.features
    n, origin, x, upper = np.split(kept[0], [1, 1 + d, 1 + 2 * d])
    rows, columns = np.triu_indices(d)
    xx = np.empty((d, d))
    xx[rows, columns] = xx[columns, rows] = upper
    return origin, int(n[0]), x, xx


def _blocks(
    store: Store, dense: DenseRows, sums: Sums, tap: Tap, grams: dict[str, _Features | None]
) -> dict[int, Moments]:
    """The sums at a tap of each block that has known tokens; `grams`: those of features that were read, by name."""
    d, origin_y = tap.features, sums.origin(dense)
    blocks: dict[int, Moments] = {}
    for block in range(FOLDS):
        if (name := _gram(dense, block)) not in grams:
            grams[name] = _features(store, name, tap)
        features, products = grams[name], store.observed_at(_products(dense, block), tap.name)
        if features is None or products is None:
            continue
        moments = Moments(features[0], origin_y)
        _, moments.n, moments.x, moments.xx = features
        moments.y, moments.yy, xy = np.split(products[0], [len(origin_y), 2 * len(origin_y)])
        moments.xy = xy.reshape(d, -1)
        blocks[block] = moments
    return blocks


def _without(blocks: Mapping[int, Moments], block: int | None) -> Moments:
    """The sums of all blocks but one, or of all."""
    first, *rest = (moments for i, moments in blocks.items() if i != block)
    for moments in rest:
        first = first + moments
    return first


class _Passes:
    """Passes of the encoder over rows of the dataset."""

    def __init__(
        self,
        encoder: Encoder,
        dataset: Dataset,
        store: Store,
        *,
        device: str,
        batch_size: int | None,
        workers: int,
        watch: Watch,
    ) -> None:
        self.encoder, self.dataset, self.store, self.workers, self.watch = encoder, dataset, store, workers, watch
        self.size = batch_size or BATCH.get(device.partition(":")[0], BATCH["cpu"])
        self.block = _block_of(store)

    def each(self, rows: np.ndarray, reads: Sequence[Read], step: str, visit: _Visit) -> None:
        """One pass over some rows, but for those whose tokens are stored: `visit` gets a tap, rows, and their grid
        tokens, float32 [row, token, feature].
        """
        encoder, store, done = self.encoder, self.store, 0
        taps = [tap.name for tap in store.taps if any(tap.name in read.dense.reads for read in reads)]
        stored = rows[rows < (store.token_samples if store.plan.precision == "float32" else 0)]
        for tap in [tap for tap in store.taps if tap.name in taps and len(stored)]:
            for block, tokens in store.token_blocks(tap.name):
                if len(some := stored[(stored >= block.start) & (stored < block.stop)]):
                    visit(tap, some, torch.as_tensor(tokens[some - block.start], device=store.device))
        rows = rows[len(stored) :]
        batches = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        with contextlib.closing(prepared_batches(encoder, self.dataset, batches, self.workers)) as prepared:
            for positions, batch in zip(batches, prepared, strict=True):

                def reduce(tap: Tap, tokens: Tensor, positions: np.ndarray = positions, batch: Any = batch) -> None:
                    visit(tap, positions, _grid_tokens(encoder, store, batch, positions, tap, tokens))

                with explaining(f"{encoder.name} fails on the batch from sample {store.ids[positions[0]]} on"):
                    encoder.capture(batch, taps, reduce)
                done += len(positions)
                self.watch(Progress(f"{step} of {encoder.name}", done, len(rows)))

    def gather(self, reads: Sequence[Read], version: str) -> None:
        """Writes what is missing of the sums of all blocks."""
        known = np.any([read.dense.known.any(axis=1) for read in reads], axis=0)
        origins = _origins(self.encoder, self.store)
        for block in range(FOLDS):
            sums = _BlockSums(self.store, reads, [block], version)
            if sums.missing:
                sums.origins = origins
                rows = np.flatnonzero((self.block == block) & known)
                self.each(rows, reads, f"summing block {block + 1} of {FOLDS}", sums.add)
                sums.write()

    def judge(self, reads: Sequence[Read], block: int | None) -> None:
        """Judges the samples of a block by the readouts that were fitted without it; None: those of test."""
        rows = np.flatnonzero(self.block == (FOLDS if block is None else block))
        rows = rows[np.any([read.dense.known[rows].any(axis=1) for read in reads], axis=0)]
        maps: dict[tuple[int, str], list[Tensor]] = {}

        def visit(tap: Tap, positions: np.ndarray, tokens: Tensor) -> None:
            for i, read in enumerate(reads):
                known = read.dense.known[positions].any(axis=1)
                if tap.name not in read.dense.reads or not known.any():
                    continue
                readout = read.readouts[tap.name][block]
                if (i, tap.name) not in maps:
                    parts = readout.mean, readout.weights, readout.bias
                    maps[i, tap.name] = [torch.as_tensor(part, device=tokens.device).float() for part in parts]
                mean, weights, bias = maps[i, tap.name]
                some = _on_grid(tokens[torch.as_tensor(known, device=tokens.device)], tap, read.dense)
                scores = (some - mean) @ weights
                rows = positions[known]
                for variant, each in zip(read.judged.setdefault(tap.name, [[] for _ in bias]), bias, strict=True):
                    variant.append((rows, read.sums.judge(read.dense, readout, scores + each, rows)))

        self.each(rows, reads, "reading test" if block is None else f"reading block {block + 1}", visit)


class _BlockSums:
    """Sums of some blocks at all taps, in memory: those that the store does not have."""

    def __init__(self, store: Store, reads: Sequence[Read], blocks: Iterable[int], version: str) -> None:
        self.store, self.state = store, {"by": __name__, "version": version}
        self.block = _block_of(store)
        # Of the features once for all targets whose known places are the same.
        self.parts = {name(read.dense, 0): (name, read) for read in reads for name in (_gram, _products)}
        self.missing: dict[str, tuple[_Name, Read]] = {}
        for name, read in self.parts.values():
            for block in blocks:
                if not store.has_observed(name(read.dense, block), 0, self.state):
                    self.missing[name(read.dense, block)] = name, read
        self.origins: Mapping[str, Tensor] = {}
        """Of `_origins`."""
        self.sums: dict[tuple[str, str], list[Tensor]] = {}
        self._upper: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Those of what is missing, in memory and on disk."""
        taps = self.store.taps
        return sum(
            block_bytes(taps, 1, 0) if name is _gram else block_bytes(taps, 0, len(read.sums.origin(read.dense)))
            for name, read in self.missing.values()
        )

    def add(self, tap: Tap, positions: np.ndarray, tokens: Tensor) -> None:
        """Takes in a batch's tokens: products of a sample in float32, whatever the batch, and sums in float64."""
        away: dict[tuple[int, ...], Tensor] = {}
        for name, read in self.parts.values():
            dense = read.dense
            if tap.name not in dense.reads:
                continue
            if dense.grid.shape not in away:
                away[dense.grid.shape] = _on_grid(tokens, tap, dense) - self.origins[tap.name]
            columns = None if name is _gram else read.sums.columns(dense, positions)
            for i, row in enumerate(positions):
                known, of = dense.known[row], name(dense, self.block[row])
                if of not in self.missing or not known.any():
                    continue
                x = away[dense.grid.shape][i][torch.as_tensor(known, device=tokens.device)]
                if columns is None:
                    new = [torch.tensor(len(x)), x.double().sum(dim=0), self._upper_half(gram(x.T))]
                else:
                    y = torch.as_tensor(columns[i][known], device=tokens.device)
                    new = [y.double().sum(dim=0), y.double().square().sum(dim=0), x.T @ y]
                if kept := self.sums.get((of, tap.name)):
                    for j, part in enumerate(new):
                        kept[j] += part
                else:
                    self.sums[of, tap.name] = [part.double() for part in new]

    def _upper_half(self, products: Tensor) -> Tensor:
        """The upper triangle [number] of [feature, feature], row by row."""
        size = len(products)
        if size not in self._upper:
            rows, columns = torch.triu_indices(size, size, device=products.device)
            self._upper[size] = rows * size + columns
        return products.flatten()[self._upper[size]]

    def write(self) -> None:
        """Each of the sums into the store, by tap [1, number] float64: see `_blocks`."""
        for of, (name, _) in self.missing.items():
            arrays = dict[str, np.ndarray]()
            for tap in self.store.taps:
                if (sums := self.sums.pop((of, tap.name), None)) is not None:
                    first, second, products = (each.cpu().numpy() for each in sums)
                    origin = [self.origins[tap.name].double().cpu().numpy()] if name is _gram else []
                    arrays[tap.name] = np.concatenate([first.ravel(), *origin, second, products.ravel()])[None]
            about = {"samples": 0, "reason": "", "left_out": {}, "state": self.state}
            self.store.put_observed(of, arrays, about)


class GapsError(DiagnosticsError):
    """Tokens of a sample represent no data."""


def _origins(encoder: Encoder, store: Store) -> dict[str, Tensor]:
    """About which products are summed, by tap [feature]: the means of grid tokens on the encoder's example.

    Sums that are in the store keep theirs, and new ones share it: another device rounds the example otherwise.
    """
    batch, names = default_collate([encoder.preprocess(encoder.example())]), [tap.name for tap in store.taps]
    origins = encoder.capture(batch, names, lambda tap, tokens: tokens[0, tap.grid.prefix :].float().mean(dim=0))
    there = sorted({file.split("/")[1] for file in observed_names(store.folder) if "/gram-" in file})
    for tap in store.taps:
        kept = (store.observed_at(name, tap.name) for name in there)
        if (features := next((each for each in kept if each is not None), None)) is not None:
            origins[tap.name] = torch.from_numpy(features[0, 1 : 1 + tap.features]).to(origins[tap.name])
    return origins


def _block_of(store: Store) -> np.ndarray:
    """The block of each sample, and one more number for those of test."""
    rows = Rows.of({name: np.flatnonzero(store.split == name) for name in SPLITS}, store.groups)
    block = np.full(len(store.ids), FOLDS)
    block[rows.fit] = folds(rows, None, 0)
    return block


def _grid_tokens(encoder: Encoder, store: Store, batch: Any, positions: np.ndarray, tap: Tap, tokens: Tensor) -> Tensor:
    """Float32 [row, grid token, feature] of a batch; raises where tokens represent no data or are not finite."""
    these = f"in the batch from sample {store.ids[positions[0]]} on"
    valid = encoder.valid(batch, tap)
    if valid is not None and not bool(valid.all()):
        raise GapsError(
            f"Tap {tap.name} of {encoder.name} has tokens that represent no data (gaps or padding) {these}, which "
            f"--dense streamed cannot leave out: give --dense none.",
            code="no-tokens",
        )
    grid = tokens[:, tap.grid.prefix :].float()
    if not bool(grid.isfinite().all()):
        raise DiagnosticsError(f"{encoder.name} gives NaN or infinity at tap {tap.name} {these}.", code="not-finite")
    return grid


def _on_grid(tokens: Tensor, tap: Tap, dense: DenseRows) -> Tensor:
    if tap.grid.shape == dense.grid.shape:
        return tokens
    averaged = resample(tokens.cpu().numpy(), tap.grid.shape, dense.grid.shape)
    return torch.as_tensor(averaged, device=tokens.device)
