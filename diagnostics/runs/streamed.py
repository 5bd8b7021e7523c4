"""Dense targets read from tokens that are not stored: a pass gathers sums, block by block, and a second one judges.

The sums of a block lie in the store like observations, so a kill costs the block in hand, and a target that is added
later costs its own products alone. What the second pass judges is in memory until the results are written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.prepare import prepared_batches
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.target import resample
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, explaining
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.dense import DenseRows, EachToken, Judged, Sums, TokenMap
from diagnostics.measures.probes.least_squares import FOLDS, PENALTIES, Moments, RidgePath, choose, folds
from diagnostics.measures.probes.protocol import Rows
from diagnostics.progress import Progress, Watch
from diagnostics.vocabulary import SPLITS

_Visit = Callable[[Tap, np.ndarray, Tensor], None]


@dataclass(eq=False)
class _Read:
    """A target that a measure reads from sums, and what is found out about it, by tap."""

    measure: Measure
    target: StoredTarget
    dense: DenseRows
    sums: Sums
    readouts: dict[str, dict[int | None, TokenMap]] = field(default_factory=dict[str, dict[int | None, TokenMap]])
    """Fitted without a block, or on all (None)."""
    numbers: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    judged: dict[str, dict[str, np.ndarray]] = field(default_factory=dict[str, dict[str, np.ndarray]])
    """[sample, part] and [sample], NaN where not judged."""
    tried: dict[str, list[np.ndarray]] = field(default_factory=dict[str, list[np.ndarray]])
    """Of each variant, loss and reference [2, part] on val."""

    def keep(self, tap: Tap, rows: np.ndarray, variant: int, variants: int, judged: Judged) -> None:
        """What was judged of rows by a variant of the readout; the first of several."""
        if variants > 1:
            tried = self.tried.setdefault(tap.name, [np.zeros(0)] * variants)
            sums = np.stack([judged["loss"].sum(axis=0), judged["reference"].sum(axis=0)])
            tried[variant] = sums if not tried[variant].size else tried[variant] + sums
            judged = {f"{name} {variant}": values for name, values in judged.items()}
        kept = self.judged.setdefault(tap.name, {})
        for name, values in judged.items():
            if name not in kept:
                kept[name] = np.full((len(self.dense.known), *values.shape[1:]), np.nan, np.float32)
            kept[name][rows] = values

    def choose_variant(self) -> None:
        """Leaves of each tap's variants the one of least loss on val, of equal ones the last."""
        for tap, tried in self.tried.items():
            scores = [np.nanmean(1 - loss / np.where(reference > 0, reference, np.nan)) for loss, reference in tried]
            best = len(scores) - 1 - int(np.argmax(scores[::-1]))
            for name, values in self.sums.variants.items():
                self.numbers[tap][name] = values[best]
            kept = self.judged[tap]
            self.judged[tap] = {
                name.removesuffix(f" {best}"): values for name, values in kept.items() if name.endswith(f" {best}")
            }
            self.readouts[tap] = {block: readout.at(best) for block, readout in self.readouts[tap].items()}


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
) -> Activations:
    """The store with what `measures` read of dense `targets` by sums, for their `compute`.

    Sums that the store has are not gathered again. Raises DiagnosticsError for a sample that cannot be read or has
    padding, StorageError where the disk is full.
    """
    view = store.with_other(token_samples=len(store.ids), streamed={})
    reads = list(_reads(view, measures, targets))
    if not reads:
        return view
    passes = _Passes(encoder, dataset, store, device=device, batch_size=batch_size, workers=workers, watch=watch)
    passes.gather(reads, {"by": __name__, "version": version})
    held_out = range(FOLDS) if store.choose_on == "fit" else (0,)
    for tap in store.taps:
        paths: dict[tuple[str, int], RidgePath] = {}
        for read in (read for read in reads if tap.name in read.dense.reads):
            blocks = _blocks(store, read.dense, read.sums, tap)
            errors = np.zeros(len(PENALTIES))
            for block in blocks.keys() & held_out:
                others, key = _without(blocks, block), (read.dense.mask_digest, block)
                # Features are decomposed once for all targets whose known places are the same.
                path = paths[key] = paths[key].of_columns(others) if key in paths else RidgePath.from_moments(others)
                errors += [blocks[block].squared_error(path, penalty).sum() for penalty in PENALTIES]
            penalty = choose(errors)
            read.numbers[tap.name] = {"penalty": penalty}
            read.readouts[tap.name] = {
                block: read.sums.solve(read.dense, _without(blocks, block), penalty)
                for block in (*(blocks.keys() & held_out), None)
            }
    for block in (*held_out, None):
        passes.judge(reads, block)
        if block == 0:
            for read in reads:
                read.choose_variant()
    view.streamed = {(read.measure.name, read.dense.digest): (read.numbers, read.judged) for read in reads}
    return view


def readout(store: Store, probe: Measure, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> EachToken:
    """What `stream` read a tap with on test, solved again from the sums in the store."""
    dense = DenseRows.of(probe.name, store.with_other(token_samples=len(store.ids)), target)
    sums: Sums = probe.sums(target)
    solved = sums.solve(dense, _without(_blocks(store, dense, sums, tap), None), choice["penalty"])
    for name, values in sums.variants.items():
        solved = solved.at(list(values).index(choice[name]))
    return EachToken(solved, tap.grid, dense.grid)


def _reads(view: Activations, measures: Sequence[Measure], targets: Sequence[StoredTarget]) -> Iterator[_Read]:
    for measure in measures:
        for target in targets:
            if target.kind in measure.streams and measure.reads(target):
                with contextlib.suppress(DiagnosticsError):  # then it says so when it is measured
                    yield _Read(measure, target, DenseRows.of(measure.name, view, target), measure.sums(target))


def _gram(dense: DenseRows, block: int) -> str:
    """The observation of the products of features, which all targets share whose known tokens are the same."""
    return f"gram-{dense.mask_digest}-{block}"


def _products(dense: DenseRows, block: int) -> str:
    """The observation of the products of features and a target."""
    return f"products-{dense.digest}-{block}"


def _blocks(store: Store, dense: DenseRows, sums: Sums, tap: Tap) -> dict[int, Moments]:
    """The sums at a tap of each block that has known tokens."""
    d, origin_y = tap.features, sums.origin(dense)
    blocks: dict[int, Moments] = {}
    for block in range(FOLDS):
        names = _gram(dense, block), _products(dense, block)
        gram, products = (store.observed_at(name, tap.name) for name in names)
        if gram is None or products is None:
            continue
        n, origin, x, upper = np.split(gram[0], [1, 1 + d, 1 + 2 * d])
        moments = Moments(origin, origin_y)
        moments.n, moments.x = int(n[0]), x
        moments.xx[np.triu_indices(d)] = upper
        moments.xx.T[np.triu_indices(d)] = upper
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
        by_split = {name: np.flatnonzero(store.split == name) for name in SPLITS}
        rows = Rows.of(by_split, store.groups)
        self.block = np.full(len(store.ids), FOLDS)
        self.block[rows.fit] = folds(rows, None, 0)
        """The block of each sample, and one more number for those of test."""
        self._origins: dict[str, Tensor] = {}

    def each(self, rows: np.ndarray, reads: Sequence[_Read], step: str, visit: _Visit) -> None:
        """One pass over some rows: `visit` gets a tap, rows, and their grid tokens, float32 [row, token, feature]."""
        batches = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        taps = [tap.name for tap in self.store.taps if any(tap.name in read.dense.reads for read in reads)]
        encoder, done = self.encoder, 0
        with contextlib.closing(prepared_batches(encoder, self.dataset, batches, self.workers)) as prepared:
            for positions, batch in zip(batches, prepared, strict=True):

                def reduce(tap: Tap, tokens: Tensor, positions: np.ndarray = positions, batch: Any = batch) -> None:
                    these = f"in the batch from sample {self.store.ids[positions[0]]} on"
                    if len(tokens) != len(positions):
                        raise DiagnosticsError(
                            f"Tap {tap.name} of {encoder.name} gives {len(tokens)} rows for {len(positions)} samples."
                        )
                    valid = encoder.valid(batch, tap)
                    if valid is not None and not bool(valid.all()):
                        raise DiagnosticsError(
                            f"Tap {tap.name} of {encoder.name} has tokens that represent no data (gaps or padding) "
                            f"{these}: leave out --dense streamed."
                        )
                    grid = tokens[:, tap.grid.prefix :].float()
                    if not bool(grid.isfinite().all()):
                        raise DiagnosticsError(f"{encoder.name} gives NaN or infinity at tap {tap.name} {these}.")
                    visit(tap, positions, grid)

                with explaining(f"{encoder.name} fails on the batch from sample {self.store.ids[positions[0]]} on"):
                    encoder.capture(batch, taps, reduce)
                done += len(positions)
                self.watch(Progress(f"{step} of {encoder.name}", done, len(rows)))

    def gather(self, reads: Sequence[_Read], state: dict[str, str]) -> None:
        """Writes what is missing of the sums of all blocks."""
        known = np.any([read.dense.known.any(axis=1) for read in reads], axis=0)
        for block in range(FOLDS):
            grams = {_gram(read.dense, block): read.dense for read in reads}
            products = {_products(read.dense, block): read for read in reads}
            grams = {name: of for name, of in grams.items() if not self.store.has_observed(name, 0, state)}
            products = {name: of for name, of in products.items() if not self.store.has_observed(name, 0, state)}
            rows = np.flatnonzero((self.block == block) & known)
            if grams or products:
                about = {"samples": len(rows), "reason": "", "left_out": {}, "state": state}
                sums = _BlockSums(self.origins(), grams, products)
                self.each(rows, reads, f"summing block {block + 1} of {FOLDS}", sums.add)
                for name, arrays in sums.arrays().items():
                    self.store.put_observed(name, arrays, about)

    def origins(self) -> dict[str, Tensor]:
        """The mean of each tap's grid tokens on the encoder's example [feature]."""
        if not self._origins:
            batch = default_collate([self.encoder.preprocess(self.encoder.example())])
            names = [tap.name for tap in self.store.taps]
            self._origins = self.encoder.capture(
                batch, names, lambda tap, tokens: tokens[0, tap.grid.prefix :].float().mean(dim=0)
            )
        return self._origins

    def judge(self, reads: Sequence[_Read], block: int | None) -> None:
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
                for variant in range(len(bias)):
                    judged = read.sums.judge(read.dense, readout, scores + bias[variant], positions[known])
                    read.keep(tap, positions[known], variant, len(bias), judged)

        self.each(rows, reads, "reading test" if block is None else f"reading block {block + 1}", visit)


class _BlockSums:
    """The sums of a block at all taps, in memory."""

    def __init__(
        self, origins: Mapping[str, Tensor], grams: Mapping[str, DenseRows], products: Mapping[str, _Read]
    ) -> None:
        self.origins, self.grams, self.products = origins, grams, products
        self.sums: dict[tuple[str, str], list[Tensor]] = {}

    def add(self, tap: Tap, positions: np.ndarray, tokens: Tensor) -> None:
        """Takes in a batch's tokens: products of a sample in float32, whatever the batch, and sums in float64."""
        origin, device = self.origins[tap.name], tokens.device
        away: dict[tuple[int, ...], Tensor] = {}
        for name, of in (*self.grams.items(), *self.products.items()):
            dense = of.dense if isinstance(of, _Read) else of
            if tap.name not in dense.reads:
                continue
            if dense.grid.shape not in away:
                away[dense.grid.shape] = _on_grid(tokens, tap, dense) - origin
            columns = of.sums.columns(dense, positions) if isinstance(of, _Read) else None
            for i, row in enumerate(positions):
                known = dense.known[row]
                if not known.any():
                    continue
                x = away[dense.grid.shape][i][torch.as_tensor(known, device=device)]
                if columns is None:
                    parts = [torch.tensor(len(x)), x.double().sum(dim=0), x.T @ x]
                else:
                    y = torch.as_tensor(columns[i][known], device=device)
                    parts = [y.double().sum(dim=0), y.double().square().sum(dim=0), x.T @ y]
                if kept := self.sums.get((name, tap.name)):
                    for j, part in enumerate(parts):
                        kept[j] += part
                else:
                    self.sums[name, tap.name] = [part.double() for part in parts]

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """Of each of the sums, its array by tap, [1, number] float64: see `_blocks`."""
        arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*self.grams, *self.products)}
        for (name, tap), sums in self.sums.items():
            first, second, products = (each.cpu().numpy() for each in sums)
            if name in self.grams:
                upper = products[np.triu_indices(len(products))]
                parts = [first[None], self.origins[tap].double().cpu().numpy(), second, upper]
            else:
                parts = [first, second, products.ravel()]
            arrays[name][tap] = np.concatenate(parts)[None]
        return arrays


def _on_grid(tokens: Tensor, tap: Tap, dense: DenseRows) -> Tensor:
    if tap.grid.shape == dense.grid.shape:
        return tokens
    averaged = resample(tokens.cpu().numpy(), tap.grid.shape, dense.grid.shape)
    return torch.as_tensor(averaged, device=tokens.device)
