"""Dense targets read from tokens that are not stored: sums are gathered, block by block, and a pass judges by them.

Sums are gathered along with the extraction, or in a pass of their own where that was made without them. Those of a
block lie in the store like observations, so a kill of such a pass costs the block in hand, and a target that is added
later costs its own products alone. What the last pass judges is in memory until the results are written.

Sums are those of ranges of parts, added in their order, and no batch crosses a range. So the launches of a shared run
leave the sums of their ranges, and then what they judged of them, and the command that measures joins both to what one
process has, to the last digit where a pass gives a sample the same in any batch: one process may judge by tokens that
it holds since the extraction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.batches import Passed
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.extract import Deal, batches_of
from diagnostics.activations.parts import Left, Share
from diagnostics.activations.plan import ranges_of
from diagnostics.activations.prepare import prepare_batches
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH
from diagnostics.encoders.taps import Tap
from diagnostics.errors import damage_error, explaining
from diagnostics.measures.base import Measure
from diagnostics.measures.probes.dense import DenseRows, EachToken, Solved, Sums, sum_blocks
from diagnostics.measures.probes.least_squares import Moments, RidgePath
from diagnostics.measures.probes.protocol import FOLDS
from diagnostics.measures.threads import one_thread
from diagnostics.progress import Progress, Watch
from diagnostics.runs.streaming.block_sums import (
    MOST_BYTES,
    BlockSums,
    Features,
    GapsError,
    GridTokens,
    HeldTokens,
    Joining,
    Read,
    block_of,
    fits_along,
    gram_name,
    grid_tokens,
    held_out,
    moments_of,
    origins_of,
    products_name,
    reads_of,
    tokens_read,
)
from diagnostics.vocabulary import ChooseOn

_Visit = Callable[[Tap, np.ndarray, GridTokens], None]


def stream(
    encoder: Encoder,
    dataset: Dataset,
    store: Store,
    measures: Sequence[Measure],
    targets: Sequence[StoredTarget],
    *,
    version: str,
    asked: bool,
    before: Callable[[float, int], None],
    solve: Callable[[Store, Sequence[Read]], Mapping[tuple[str, str], Any]],
    shared: bool = False,
    **options: Any,
) -> Activations:
    """The store with what `measures` read of dense `targets` by sums, for their `compute`.

    Sums that the store has are not gathered again. `before` is told how many passes over all samples follow, and the
    bytes that they write. `solve` gives what other processes find with `solve_at`, by "" and tap. Of a `shared` run
    what launches left is joined, and what is missing of it is done. `options`: of `_Passes`. Raises DiagnosticsError
    for a sample that cannot be read, StorageError where the disk is full. Where tokens represent no
    data it raises GapsError if streaming was `asked` for, and otherwise has that in place of what was read.
    """
    view = store.with_other(token_samples=len(store.ids), streamed={})
    reads = list(reads_of(view, measures, targets))
    if not reads:
        return view
    passes = _Passes(encoder, dataset, store, reads, version, **options)
    left = BlockSums(store, reads, range(FOLDS), version)
    gathered = not (passes.find_missing() if shared else left.missing)
    before(passes_over(store.split, store.choose_on, gathered=gathered, stored=passes.stored), left.bytes)
    try:
        if left.missing and shared:
            passes.gather_ranges()
            passes.join()
        elif left.missing:
            passes.gather()
        reads = solve_all(store, reads, solve(store, reads), passes.watch)
        if shared:
            passes.judge_ranges(reads, range(passes.ranges))
        for phase in PHASES:
            if shared:
                passes.take(reads, phase)
            else:
                passes.judge(reads, phase, range(passes.ranges))
            if phase == "val":
                for read in reads:
                    read.choose_variants()
    except GapsError as error:
        if asked:
            raise
        view.streamed = {(read.dense.measure, read.dense.digest): error for read in reads}
    else:
        view.streamed = {(read.dense.measure, read.dense.digest): (read.numbers, read.chosen) for read in reads}
    return view


def stream_share(
    encoder: Encoder,
    dataset: Dataset,
    store: Store,
    measures: Sequence[Measure],
    targets: Sequence[StoredTarget],
    share: Share,
    *,
    version: str,
    asked: bool,
    **options: Any,
) -> tuple[list[int], list[int], bool] | None:
    """A launch's share of `stream`: the sums of its ranges and, where those of all are there, what is judged of them.

    Gives the ranges whose sums are missing, those that nobody has judged, and whether anything was done; None where
    nothing can be streamed.
    """
    view = store.with_other(token_samples=len(store.ids), streamed={})
    reads = list(reads_of(view, measures, targets))
    if not reads:
        return None
    passes, own = _Passes(encoder, dataset, store, reads, version, **options), share.ranges(store.plan.parts)
    try:
        done = passes.gather_ranges(own)
        if store.missing_parts or passes.find_missing():
            return passes.find_missing(), [*range(passes.ranges)], done
        passes.join()
        if passes.find_unjudged(own):
            passes.judge_ranges(solve_all(store, reads, {}, passes.watch), own)
            done = True
    except GapsError:
        if asked:
            raise
        return None
    return [], passes.find_unjudged(range(passes.ranges)), done


def solve_all(store: Store, reads: Sequence[Read], found: Mapping[tuple[str, str], Any], watch: Watch) -> list[Read]:
    """Those with their readouts, which `found` has of some taps, each with its second part."""
    joined = {tap.name: tap for read in reads if read.dense.joined for tap in read.dense.taps}
    for i, tap in enumerate((*store.taps, *joined.values()), -len(store.taps)):
        if i >= 0:
            watch(Progress("solving sets of taps", i, len(joined)))
        for read, solved in (found.get(("", tap.name)) or solve_at(store, reads, tap)).items():
            for name, each in solved.items():
                reads[read].numbers[name], reads[read].readouts[name] = each
    for read in reads:
        read.join_first()
    return [read for read in reads if read.first is None]


@one_thread()
def solve_at(store: Store, reads: Iterable[Read], tap: Tap) -> dict[int, dict[str, Solved]]:
    """The readouts by `Sums.solve_all` of each read at a tap, by the place of the read."""
    # Features are read and decomposed once for all targets whose known places are the same.
    solved, grams, paths = dict[int, dict[str, Solved]](), dict[str, Features | None](), dict[str, RidgePath]()
    for i, read in enumerate(reads):
        if blocks := moments_of(store, read.dense, read.sums, tap, grams):

            def path_of(block: int, rest: Moments, dense: DenseRows = read.dense) -> RidgePath:
                key = gram_name(dense, block)
                paths[key] = paths[key].of_columns(rest) if key in paths else RidgePath.from_moments(rest)
                return paths[key]

            solved[i] = read.sums.solve_all(read.dense, tap, blocks, held_out(store), path_of)
    return solved


def readout(store: Store, probe: Measure, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> EachToken:
    """The readout with which `stream` read test at a tap, solved again from the sums in the store.

    Raises StorageError where those are not whole.
    """
    dense = DenseRows.of(probe.name, store.with_other(token_samples=len(store.ids)), target)
    for name in (gram_name, products_name):
        blocks = [store.observation(name(dense, block)) for block in range(FOLDS)]
        # A kill while another version writes them anew leaves some of each, and one that is not there.
        if None in blocks or len({stored.state["version"] for stored in blocks if stored}) > 1:
            raise damage_error(store.path, f"observed/{name(dense, 0)}")
    sums: Sums = probe.sums(target)
    solved = sums.solve(dense, sum_blocks(moments_of(store, dense, sums, tap, {})), choice["penalty"])
    for name, values in sums.variants.items():
        solved = solved.at(list(values).index(choice[name]))
    return EachToken(solved, tap.grid, dense.grid)


def passes_over(split: np.ndarray, choose_on: ChooseOn, *, gathered: bool, stored: int) -> float:
    """Pass over all samples beside the extraction.

    `gathered`: whether it gathers the sums, or they are there; `stored`: of how many, which come first, tokens are read
    in place of a pass.
    """
    judged = split != "train" if choose_on == "val" else np.ones(len(split), dtype=bool)
    passed = judged + (0 if gathered else 1) * (split != "test")
    return float(passed[stored:].sum() / len(split))


PHASES = ("val", "rest")
"""Of the samples that are judged: those on which variants are chosen, and the others."""


class _Passes:
    """Passes of the encoder over rows of the dataset, for what is read of them."""

    def __init__(
        self,
        encoder: Encoder,
        dataset: Dataset,
        store: Store,
        reads: Sequence[Read],
        version: str,
        *,
        device: str,
        batch_size: int | None,
        workers: int,
        watch: Watch,
        deal: Deal | None = None,
        held: HeldTokens | None = None,
    ) -> None:
        self.deal, self.held = deal, held
        self.encoder, self.dataset, self.store, self.workers, self.watch = encoder, dataset, store, workers, watch
        self.size = batch_size or BATCH.get(device.partition(":")[0], BATCH["cpu"])
        self.reads, self.version, self.left = reads, version, Left(store, version)
        self.parts = ranges_of(store.plan.parts)
        self.ranges, self.block = len(self.parts), block_of(store)
        self.stored = min(store.token_samples, tokens_read(store.plan))
        self.known = np.any([read.dense.known.any(axis=1) for read in reads], axis=0)

    def each(self, batches: Sequence[np.ndarray], reads: Sequence[Read], step: str, visit: _Visit) -> None:
        """One pass over batches of rows, by all processes that may, but for those whose tokens are stored or held.

        `visit` gets a tap, rows, and their grid tokens.
        """
        encoder, store, done, visit = self.encoder, self.store, 0, Joining(reads, visit)
        read = {tap.name for read in reads for tap in read.dense.joined or read.dense.taps}
        taps = [tap for tap in store.taps if tap.name in read]
        held = self.held if self.held and self.held.holds(reads) else None
        passed = [each for each in batches if not (self._is_stored(each) or (held and held.has(each)))]
        # Processes get the batches, and give their tokens back; this one alone reads them where they arise.
        with contextlib.closing(
            prepare_batches(encoder, self.dataset, passed, self.workers)
            if self.deal is None
            else self.deal(store.plan.without_tokens, passed, True)
        ) as prepared:
            for positions in batches:
                if self._is_stored(positions):
                    for tap in taps:
                        for block, tokens in store.token_blocks(tap.name, [int(positions[0]) // store.plan.shard]):
                            here = torch.as_tensor(tokens[positions - block.start], device=store.device)
                            visit(tap, positions, GridTokens(tap, here))
                    continue
                if held and held.has(positions):
                    for tap in taps:
                        visit(tap, positions, held.get(tap, positions, store.device))
                    continue
                batch = next(prepared)

                def reduce(tap: Tap, tokens: Tensor, positions: np.ndarray = positions, batch: Any = batch) -> None:
                    visit(tap, positions, grid_tokens(encoder, store, batch, positions, tap, tokens))

                with explaining(f"{encoder.name} fails on the batch from sample {store.ids[positions[0]]} on"):
                    if isinstance(batch, Passed):
                        for tap in taps:
                            reduce(tap, torch.from_numpy(batch.tokens[tap.name]), batch=batch.batch)
                    else:
                        encoder.capture(batch, [tap.name for tap in taps], reduce)
                done += len(positions)
                self.watch(Progress(f"{step} of {encoder.name}", done, sum(map(len, passed))))

    def _is_stored(self, positions: np.ndarray) -> bool:
        """Test for a batch whose tokens are stored, in one shard, as they pass."""
        return bool(positions[0] < self.stored)

    def _batches(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows by batch, before them those whose tokens are stored by their shard."""
        kept, shard = self.store.token_samples, self.store.plan.shard
        stored, others = rows[rows < kept], rows[rows >= kept]
        by_shard = [stored[stored // shard == each] for each in np.unique(stored // shard)]
        return [*by_shard, *(others[start : start + self.size] for start in range(0, len(others), self.size))]

    def gather(self) -> None:
        """Write what is missing of the sums of all blocks."""
        origins = origins_of(self.encoder, self.store, self.reads)
        for block in range(FOLDS):
            sums = BlockSums(self.store, self.reads, [block], self.version)
            if sums.missing:
                sums.origins = origins
                batches = self._batches(np.flatnonzero((self.block == block) & self.known))
                self.each(batches, self.reads, f"summing block {block + 1} of {FOLDS}", sums.add)
                sums.join(sums.end_range())
                sums.write()

    def find_missing(self, ranges: Iterable[int] | None = None) -> list[int]:
        """The ranges, of some or of all, whose sums are neither joined nor left."""
        sums = BlockSums(self.store, self.reads, range(FOLDS), self.version)
        every = range(self.ranges) if ranges is None else ranges
        return [at for at in every if not all(self.left.has(f"{of}-{at}") for of in sums.missing)]

    def gather_ranges(self, ranges: Iterable[int] | None = None) -> bool:
        """Leaves what is missing of the sums of some ranges; False where that is nothing.

        In the batches of the extraction, which also gathers sums; of more sums than that may, block by block.
        """
        missing, plan = self.find_missing(ranges), self.store.plan
        for at in missing:
            rows, kept = plan.positions_of(self.parts[at]), plan.without_tokens if self.store.tokens_removed else plan
            alike = [
                batch
                for step in kept.steps(min(self.size, plan.samples), parts=self.parts[at])
                for batch in batches_of(plan, step, self.size)
            ]
            bytes_ = BlockSums(self.store, self.reads, range(FOLDS), self.version).bytes
            for blocks in [range(FOLDS)] if fits_along(bytes_) else [[block] for block in range(FOLDS)]:
                sums = BlockSums(self.store, self.reads, blocks, self.version)
                sums.missing = {of: each for of, each in sums.missing.items() if not self.left.has(f"{of}-{at}")}
                some = rows[np.isin(self.block[rows], blocks) & self.known[rows]]
                if sums.missing:
                    sums.origins = origins_of(self.encoder, self.store, self.reads, self.left)
                    batches = alike if bytes_ <= MOST_BYTES else self._batches(some)
                    self.each(batches, self.reads, f"summing range {at + 1} of {self.ranges}", sums.add)
                    sums.leave(sums.end_range(), self.left, at)
        return bool(missing)

    def join(self) -> None:
        """Write the sums of all blocks from those of all ranges, one after the other."""
        sums = BlockSums(self.store, self.reads, range(FOLDS), self.version)
        sums.origins = origins_of(self.encoder, self.store, self.reads, self.left) if sums.missing else {}
        for of in sums.missing:
            for at in range(self.ranges):
                ended = dict[tuple[str, str], list[Tensor]]()
                for key, values in sorted(self.left.get(f"{of}-{at}").items()):
                    ended.setdefault((of, key.rpartition("/")[0]), []).append(torch.tensor(values))
                sums.join(ended)
            sums.put(of)

    def _rows(self, phase: str, at: int) -> np.ndarray:
        """The rows of a range that a phase judges."""
        rows = self.store.plan.positions_of(self.parts[at])
        blocks = [*held_out(self.store)] if phase == "val" else [FOLDS]
        return rows[np.isin(self.block[rows], blocks) & self.known[rows]]

    def judge(self, reads: Sequence[Read], phase: str, ranges: Iterable[int]) -> None:
        """Judges the samples of a phase, each by the readouts that were fitted without its block."""
        maps, means = dict[tuple[int, str, int], list[Tensor]](), dict[bytes, Tensor]()

        def visit(tap: Tap, positions: np.ndarray, tokens: GridTokens) -> None:
            here = [(i, read) for i, read in enumerate(reads) if tap.name in read.dense.reads]
            for block in np.unique(self.block[positions]).tolist():
                kept, away = (0, (), b""), torch.empty(0)
                for i, read in here:
                    mask = read.dense.known[positions].any(axis=1) & (self.block[positions] == block)
                    for name in read.names_at(tap) if mask.any() else ():
                        readout = read.readouts[name][None if block == FOLDS else block]
                        on_grid = tokens.on(read.dense)
                        if (i, name, block) not in maps:
                            parts = readout.mean, readout.weights, readout.bias
                            mean, *rest = (torch.as_tensor(x, device=on_grid.device).float() for x in parts)
                            maps[i, name, block] = [means.setdefault(readout.mean.tobytes(), mean), *rest]
                        mean, weights, bias = maps[i, name, block]
                        # Most reads share it with the one before. `means` keeps each, so that no other has its id.
                        if kept != (key := (id(mean), read.dense.grid.shape, mask.tobytes())):
                            kept, away = key, on_grid[torch.as_tensor(mask, device=on_grid.device)] - mean
                        scores, rows = away @ weights, positions[mask]
                        for tried, each in zip(read.judged.setdefault(name, [[] for _ in bias]), bias, strict=True):
                            tried.append((rows, read.sums.judge(read.dense, readout, scores + each, rows)))

        batches = [batch for at in ranges for batch in self._batches(self._rows(phase, at))]
        self.each(batches, reads, f"reading {phase}", visit)

    def _left_name(self, read: Read, phase: str, at: int) -> str:
        """The name of what is left of a read."""
        return f"{phase}-{read.dense.measure}-{read.dense.digest}-{self.store.choose_on}-{at}"

    def find_unjudged(self, ranges: Iterable[int]) -> list[int]:
        """The ranges, of some, of which not everything is judged."""
        reads = [read for read in self.reads if read.first is None]
        every = [(read, phase) for read in reads for phase in PHASES]
        return [at for at in ranges if not all(self.left.has(self._left_name(*each, at)) for each in every)]

    def judge_ranges(self, reads: Sequence[Read], ranges: Iterable[int]) -> None:
        """Leaves what is judged of some ranges, by all variants of the readouts."""
        for at in ranges:
            for phase in PHASES:
                if some := [read for read in reads if not self.left.has(self._left_name(read, phase, at))]:
                    self.judge(some, phase, [at])
                for read in some:
                    self.left.put(self._left_name(read, phase, at), read.pack())
                    read.judged.clear()

    def take(self, reads: Sequence[Read], phase: str) -> None:
        """Take in what is judged of all ranges, as one process has it."""
        for read in reads:
            for at in range(self.ranges):
                read.take(self.left.get(self._left_name(read, phase, at)))
