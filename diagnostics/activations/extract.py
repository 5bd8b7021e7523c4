"""Extraction: one forward pass for each sample, written to a store step by step, and resumable."""

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from diagnostics.activations.batches import keep_freed_memory, prepared_batches
from diagnostics.activations.contents import COVERED
from diagnostics.activations.folder import Folder, StrangeFileError
from diagnostics.activations.identity import (
    identity,
    masks_digest,
    reference_statistics,
    refuse_other_behaviour,
    refuse_other_identity,
)
from diagnostics.activations.plan import Plan, Step, row_order
from diagnostics.activations.replacing import beside, remove
from diagnostics.activations.sealed import NAME
from diagnostics.activations.store import Store, is_run
from diagnostics.activations.writing import ShardBuffers, create
from diagnostics.datasets.dataset import Dataset
from diagnostics.datasets.grid_targets import classes_on_grid, covered_part, events_on_grid, joined, on_grid
from diagnostics.encoders.devices import BATCH
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.pooling import pool
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError, explaining
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import Compute


def extract(
    encoder: Encoder,
    dataset: Dataset,
    place: Path | Folder,
    plan: Plan,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "cpu",
    about: Mapping[str, Any] | None = None,
    fresh: bool = False,
    watch: Watch = silent,
    with_tokens: bool = True,
    compute: Compute = "float32",
    before_first_byte: Callable[[float, int], None] = lambda seconds_per_sample, again: None,
) -> Store:
    """The store at a place; goes on where an earlier extraction stopped, and does nothing when it is whole.

    Raises DiagnosticsError where the place holds other activations, a sample does not fit, a tap does not fire, or a value is
    not finite or overflows the precision; StorageError where the disk is full. `before_first_byte` is called once, with
    the seconds that a sample of the first batch took and the number of samples whose removed tokens are extracted again,
    before anything is written. `compute`: what passes compute in here, which is the caller's to see to. Without `with_tokens`
    no tokens are written, nor missed where they were removed. With `fresh` a run that holds other activations, or that cannot be read,
    is not refused: the store is made `beside` it. `about` is added to the attributes of a new store.
    """
    keep_freed_memory()
    wanted = identity(encoder, dataset, plan, compute) | {"masks": masks_digest(encoder, dataset, plan)}
    statistics: dict[str, tuple[float, float]] = {}

    def usable(folder: Folder) -> Store | None:
        """What is there and can be gone on with; raises where it cannot."""
        store = _existing(folder, wanted, dataset)
        encoder.to(device)
        statistics.update(reference_statistics(encoder, plan))
        if store is not None:
            refuse_other_behaviour(store, statistics)
            if store.complete and not (with_tokens and store.tokens_removed):
                store.check_whole()
        return store

    folder = place if isinstance(place, Folder) else Folder(place)
    try:
        store = usable(folder)
    except StorageError as error:
        if isinstance(error, StrangeFileError) or not (fresh and is_run(folder)):
            raise
        folder = beside(folder)
        try:
            store = usable(folder)
        except StorageError:  # of other options, by a call that was cut off
            remove(folder)
            store = usable(folder)
    if store is not None and store.complete and not (with_tokens and store.tokens_removed):
        return store
    size = min(batch_size or BATCH.get(device.partition(":")[0], 16), plan.samples)
    kept_plan = plan if with_tokens else plan.without_tokens
    todo = list(kept_plan.steps(size)) if store is None else store.todo(size, with_tokens)
    started = time.perf_counter()
    done = plan.samples - sum(len(step) for step in todo)
    again = sum(len(step) for step in todo) if store is not None and store.tokens_removed else 0
    announced = done > 0 and not again
    buffers, created, kept = ShardBuffers(kept_plan, size), None, 0
    try:
        with contextlib.closing(step_batches(encoder, dataset, todo, size, workers)) as batches:
            for step, positions, batch in batches:
                capture_rows(encoder, batch, positions, kept_plan, dataset, buffers)
                if not announced:
                    before_first_byte((time.perf_counter() - started) / len(positions), again)
                    announced = True
                if store is None:
                    dense = dense_targets(encoder, dataset, plan.taps)
                    store = created = create(folder, plan, wanted, statistics, dataset, dense, about or {})
                done += len(positions)
                watch(Progress(f"extracting {encoder.name}", done, plan.samples))
                if buffers.rows == len(step):
                    store.write(step, buffers.tokens, buffers.pooled)
                    kept, buffers.rows = kept + buffers.rows, 0
    except StorageError:
        raise
    except DiagnosticsError as error:
        # A store that cannot be continued is removed. Whole steps stay where the same command may succeed later, with a
        # smaller batch or when a disk answers again.
        if created is not None and (isinstance(error, _SampleError) or not kept):
            remove(folder)
        raise
    assert store is not None
    store.finish(with_tokens)
    return store


class _SampleError(DiagnosticsError):
    """NaN, infinity, overflow or gaps: the same command would meet it at the same sample again."""


def refuse_other_folder(folder: Folder) -> None:
    """Raises where a place is neither a run nor empty."""
    path = folder.path
    if folder.head(NAME) is None and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise StorageError(f"{path} is not a run, so nothing is written there: choose another --out.")


def _existing(folder: Folder, wanted: Mapping[str, str], dataset: Dataset) -> Store | None:
    refuse_other_folder(folder)
    path = folder.path
    if folder.head(NAME) is None:
        return None
    store = Store(folder)
    if store.older:
        raise StorageError(
            f"{path} was written by an older version: it can be read but not gone on with, so choose another --out, or --fresh, which "
            "replaces it."
        )
    refuse_other_identity(store, wanted, dataset)
    store.tidy()
    return store


class Buffers(Protocol):
    """Where the activations of a batch go, behind the `rows` that are there."""

    rows: int

    def put_tokens(self, tap: Tap, tokens: Tensor) -> None: ...

    def put_pooled(self, tap: Tap, pooled: Tensor) -> None: ...

    def recent(self, tap: Tap, count: int) -> np.ndarray: ...


def capture_rows(
    encoder: Encoder, batch: Any, positions: np.ndarray, plan: Plan, dataset: Dataset, buffers: Buffers
) -> None:
    """One forward pass; each tap is pooled on the device and its tokens copied away at the moment it fires."""
    with_tokens = positions[0] < plan.token_samples

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        if len(tokens) != len(positions):
            raise DiagnosticsError(
                f"Tap {tap.name} of {encoder.name} gives {len(tokens)} rows for {len(positions)} samples: "
                "what its module folds into the batch must become tokens or features."
            )
        if with_tokens:
            buffers.put_tokens(tap, tokens)
        valid = encoder.valid(batch, tap)
        if valid is not None:
            valid = valid.to(tokens.device)
            empty = ~valid.any(dim=1)
            if empty.any():
                raise DiagnosticsError(
                    f"Sample {ids[int(empty.int().argmax())]} has no token at tap {tap.name} of {encoder.name} that stands for "
                    "data: it is empty or too short, leave it out."
                )
            gaps = ~valid.all(dim=1)
            if with_tokens and gaps.any():
                # A store has no mask, so every measure over tokens would take them for data.
                raise _SampleError(
                    f"Sample {ids[int(gaps.int().argmax())]} has tokens at tap {tap.name} of {encoder.name} that represent no data "
                    "(gaps or padding): keep pooled activations alone, with --token-budget 0."
                )
        pooled = pool(tap, tokens, plan.poolings, valid)
        # The mean over grid tokens is not finite when any of them is not, so it stands for all.
        finite = pooled.isfinite().flatten(1).all(1) & tokens[:, : tap.grid.prefix].isfinite().flatten(1).all(1)
        # At once: what stays between the activations of a pass keeps their memory from being used again.
        buffers.put_pooled(tap, pooled)
        return finite

    ids = [dataset.ids[i] for i in row_order(plan.samples)[positions]]
    with explaining(f"{encoder.name} fails on the batch from sample {ids[0]} on"):
        finite_by_tap = encoder.capture(batch, [tap.name for tap in plan.taps], reduce)
    for name, finite in finite_by_tap.items():
        if not finite.all():
            raise _SampleError(
                f"{encoder.name} gives NaN or infinity at tap {name} for sample {ids[int(finite.int().argmin())]}: "
                "look at that sample, or at the precision the model runs in."
            )
    if plan.precision == "float16" and with_tokens:
        for tap in plan.taps:
            overflows = ~np.isfinite(buffers.recent(tap, len(positions))).all(axis=(1, 2))
            if overflows.any():
                raise _SampleError(
                    f"Activations of tap {tap.name} overflow float16 for sample {ids[int(overflows.argmax())]}: use "
                    "--precision float32."
                )
    buffers.rows += len(positions)


def step_batches(
    encoder: Encoder, dataset: Dataset, steps: Sequence[Step], size: int, workers: int
) -> Generator[tuple[Step, np.ndarray, Any]]:
    """(step, row positions, batch); batches never cross steps, so a step done again is the same to the bit."""
    jobs = [
        (step, np.arange(start, min(start + size, step.rows.stop)))
        for step in steps
        for start in range(step.rows.start, step.rows.stop, size)
    ]
    prepared = prepared_batches(encoder, dataset, [positions for _, positions in jobs], workers)
    with contextlib.closing(prepared) as batches:
        for (step, positions), batch in zip(jobs, batches, strict=True):
            yield step, positions, batch


def dense_targets(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap]) -> dict[str, dict[str, np.ndarray]]:
    """What is stored of each target that lies on a sample's own axes: name -> key -> array.

    Dense ones by the cells of each distinct grid, under `16x16`; masks as they are, under `covered`, those of unequal extents by
    the nearest pixels of the smallest.
    """
    shapes = {tap.grid.shape for tap in taps if tap.grid.tokens > 1}
    by_cell = {"token_value": on_grid, "token_label": classes_on_grid, "event": events_on_grid}
    dense: dict[str, dict[str, np.ndarray]] = {}
    for name, target in dataset.targets.items():
        if target.kind == "masks":
            masks = joined([covered_part(maps, encoder.covers(maps.shape[1:])) for maps in target.blocks()])
            # A panoptic number (class x 1000 + object) may not fit into 16 bits.
            fits = masks.size == 0 or (masks.min() >= -1 and masks.max() <= np.iinfo(np.int16).max)
            dense[name] = {COVERED: masks.astype(np.int16) if fits else masks}
        elif target.dense:
            fitting = {"x".join(map(str, shape)): shape for shape in shapes if len(shape) == np.ndim(target.values[0])}
            blocks = [
                [by_cell[target.kind](maps, encoder.covers(maps.shape[1:]), shape) for shape in fitting.values()]
                for maps in target.blocks()
            ]
            dense[name] = {key: joined(cells) for key, cells in zip(fitting, zip(*blocks, strict=True), strict=True)}
    return dense
