"""Forward passes over a dataset: extraction into a store, step by step and resumable, by this process or by several."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec, ZstdCodec

from diagnostics.activations.batches import Along, Passed, SampleError, ShardBuffers, capture_rows
from diagnostics.activations.bucket import Place, open_place
from diagnostics.activations.folder import Folder, StrangeFileError, reading, writing
from diagnostics.activations.metadata import NAME, WHOLE, Contents, Sealing, TargetFacts
from diagnostics.activations.observe import InPass
from diagnostics.activations.parts import Share, mixture, refuse_mixture, seal_part
from diagnostics.activations.place import Location
from diagnostics.activations.plan import Plan, Step, row_order
from diagnostics.activations.prepare import (
    dense_targets,
    identity,
    keep_freed_memory,
    masks_digest,
    prepare_batches,
    reference_statistics,
    refuse_other_behaviour,
    refuse_other_identity,
)
from diagnostics.activations.run_files import CONTROLS, beside, remove
from diagnostics.activations.store import FORMAT, SHARED, TOKENS_REMOVED, Store, is_run
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modules import BATCH, pool
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, StorageError, explaining, join_names
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import Compute

Deal = Callable[[Plan, Sequence[np.ndarray], bool], "Generator[Passed]"]
"""Gives what several processes give of batches of positions, in that order, while it is left open; the last says
whether all their tokens are wanted."""
OnGrids = Mapping[str, Mapping[str, np.ndarray]]
"""Targets that are stored on grids: name -> grid key -> [sample, token] in the dataset's order."""
LONG = 60
"""Seconds from which an extraction's time is estimated once more before it is announced."""
MOST_HELD = 2**28
"""Bytes of tokens of a first batch that are held until there is a store; of more it passes once more."""
LONGEST_SEAL = 86_400
"""Seconds after which a file in the making on a shared path is that of a dead launch."""


def create(
    folder: Place,
    plan: Plan,
    identity: Mapping[str, str],
    reference_statistics: Mapping[str, tuple[float, float]],
    dataset: Dataset,
    dense: OnGrids,
    about: Mapping[str, Any],
) -> Store:
    """An empty store, made elsewhere and there at once, so that its creation is atomic.

    Of a shared run the one that another launch made meanwhile, whatever that is.
    """
    another = contextlib.suppress(*[FileExistsError] if about.get(SHARED) else [])
    with writing(folder.path), another, folder.creating(json.dumps(identity, sort_keys=True).encode()) as unfinished:
        new = Sealing(unfinished)
        _write_samples(new, plan, dataset, dense)
        taps = new.root.create_group("taps")
        for tap in plan.taps:
            facts = {"depth": tap.depth, "part": tap.part, "pooling": list(plan.poolings), "grid": str(tap.grid)}
            _create_arrays(taps.create_group(tap.name, attributes=facts), tap, plan)
        new.put(metadata=True)
        targets = {
            name: TargetFacts(
                target.kind,
                target.units,
                target.about,
                classes=tuple(target.classes),
                family=target.family,
                grids=tuple(dense.get(name, ())),
                period=target.period,
                naive=target.naive is not None,
            )
            for name, target in dataset.targets.items()
        }
        contents = Contents(identity, plan, reference_statistics, targets, new.files, complete=False)
        new.seal({"diagnostics_format": FORMAT, **contents.to_attrs(), **about})
    return Store(folder, verified=False)


def _create_arrays(group: zarr.Group, tap: Tap, plan: Plan) -> None:
    axes = {"pooled": ("sample", "pooling"), "tokens": ("token_sample", "token"), "prefix": ("token_sample", "prefix")}
    for kind, layout in plan.layouts(tap).items():
        group.create_array(
            kind,
            shape=(layout.samples, layout.tokens, layout.features),
            chunks=(layout.rows, layout.block, layout.features),
            shards=(layout.rows, layout.chunks * layout.block, layout.features),
            dtype=layout.dtype,
            dimension_names=(*axes[kind], "feature"),
            compressors=Crc32cCodec(),
            fill_value=np.nan,
            chunk_key_encoding={"name": "default", "separator": "."},
        )


def _write_samples(new: Sealing, plan: Plan, dataset: Dataset, dense: OnGrids) -> None:
    group, order = new.root.create_group("samples"), row_order(plan.samples)[plan.order]
    columns = {"id": np.asarray(dataset.ids, dtype=object), "split": dataset.split, "group": dataset.groups}
    for name, values in columns.items():
        array = group.create_array(
            name,
            shape=(plan.samples,),
            chunks=(plan.samples,),
            dtype=str,
            dimension_names=("sample",),
            compressors=Crc32cCodec(),
            config=WHOLE,
        )
        array[:] = values[order]
    if plan.token_samples:
        rows = plan.rows[: plan.token_samples]
        group.create_array(
            "token_row", data=rows, chunks=rows.shape, compressors=Crc32cCodec(), dimension_names=("token_sample",)
        )
    group.create_group("targets")
    for name, target in dataset.targets.items():
        arrays = {f"targets/{name}/{key}": values for key, values in dense.get(name, {}).items()}
        if not arrays and not target.dense:
            arrays[f"targets/{name}"] = target.values
        if target.naive is not None:
            arrays[f"naive/{name}"] = np.asarray(target.naive, dtype=np.float64)
        for path, values in arrays.items():
            # Neighbours are mostly alike: maps of classes shrink to little, of depth to a fifth (level 1: to a fourth).
            squeezed = (ZstdCodec(level=6),) if values.ndim > 1 else ()
            group.create_array(
                path,
                data=np.ascontiguousarray(values[order]),
                chunks=values.shape,
                compressors=(*squeezed, Crc32cCodec()),
                fill_value=np.nan if values.dtype.kind == "f" else -1,
                config=WHOLE,
                dimension_names=("sample", *(f"{name}_{i}" for i in range(1, values.ndim))),
            )
            new.put()  # one at a time is in memory


def extract(
    encoder: Encoder,
    dataset: Dataset,
    place: Location | Place,
    plan: Plan,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "cpu",
    about: Mapping[str, Any] | None = None,
    fresh: bool = False,
    stale: bool = False,
    watch: Watch = silent,
    with_tokens: bool = True,
    compute: Compute = "float32",
    before_first_byte: Callable[[float, int, OnGrids], None] = lambda seconds_per_sample, again, dense: None,
    along: Callable[[Store], Along | None] | None = None,
    share: Share | None = None,
    deal: Deal | None = None,
    in_pass: InPass | None = None,
) -> Store:
    """The store at a place; goes on where an earlier extraction stopped, and does nothing when it is whole.

    Raises DiagnosticsError where the place holds other activations, a sample does not fit, a tap does not fire, or a
    value is not finite or overflows the precision; StorageError where the disk is full. `before_first_byte` is called
    once, with the seconds that a sample takes as its first batches show, the number of samples whose removed tokens
    are extracted again, and the targets of a new store on their grids, before anything is written. `along` is given
    a new or a shared store, and may give what takes in the tokens of all samples that pass. `compute`: what passes
    compute in here, which is the caller's to see to. With a `share`, a launch's parts of a shared run are extracted,
    and sealed one by one; the store is then whole where all launches are done, and marked so by the one that finishes.
    `deal` has other processes pass all batches but the first. `in_pass` records an observation of what passes. Without
    `with_tokens` no tokens are written, nor missed where they were removed. With `fresh` a run that holds other
    activations, that is `stale`, or that cannot be read, is not refused: the store is made `beside` it. `about` is
    added to the attributes of a new store.
    """
    keep_freed_memory()
    wanted = identity(encoder, dataset, plan, compute) | {"masks": masks_digest(encoder, dataset, plan)}
    statistics: dict[str, tuple[float, float]] = {}
    launched = share is not None and not share.finishes

    def is_done(store: Store) -> bool:
        # A launch brings no removed tokens back, and leaves alone what another process may have the lock of.
        return store.complete and (launched or not (with_tokens and store.tokens_removed))

    def usable(folder: Place) -> Store | None:
        """Return the part that is there and can be gone on with; raises where it cannot."""
        store = _existing(folder, wanted, dataset)
        if store is not None and share is not None and not store.complete:
            _join(store, share, about or {}, with_tokens)
        if store is not None and not (store.complete and (store.shared or launched)):
            store.tidy()
        encoder.to(device)
        statistics.update(reference_statistics(encoder, plan))
        if store is not None:
            refuse_other_behaviour(store, statistics)
            if is_done(store):
                store.check_whole()
        return store

    folder = open_place(place)
    try:
        if stale and is_run(folder):
            why = f"{folder.path} was warned of, and its activations are kept: choose another --out."
            raise StorageError(why, code="other-run")
        store = usable(folder)
    except StorageError as error:
        # One in a bucket is never replaced.
        if isinstance(error, StrangeFileError) or not (fresh and isinstance(folder, Folder) and is_run(folder)):
            raise
        folder = beside(folder)
        try:
            store = usable(folder)
        except StorageError:  # of other options, by a call that was cut off
            remove(folder)
            store = usable(folder)
    if store is not None and is_done(store):
        return store
    if store is not None and store.complete:
        share = None
    elif store is not None and share is not None and plan.token_samples:
        with_tokens = not store.tokens_removed
    size = min(batch_size or BATCH.get(device.partition(":")[0], 16), plan.samples)
    kept_plan = plan if with_tokens else plan.without_tokens
    parts = None if share is None else share.parts(plan.parts)
    if store is not None and parts is not None:
        missing = {*store.missing_parts}
        if not launched:  # after which a file that is gone is damage
            missing |= store.lacking_files(parts, with_tokens)
        parts = sorted({*parts} & missing)
    todo = list(kept_plan.steps(size, parts=parts)) if store is None else store.todo(size, with_tokens, parts)
    if share is not None and share.exact and store is not None and todo:
        refuse_mixture(store, {**share.about, "batch_size": size})
    last = {step.rows.start // plan.pooled_shard: step for step in todo}
    last_tokens = next((step for step in reversed(todo) if step.shard is not None), None)
    total = plan.samples if share is None else sum(len(step) for step in todo)
    started = time.perf_counter()
    done = total - sum(len(step) for step in todo)
    again = sum(len(step) for step in todo) if store is not None and store.complete else 0
    announced, about = done > 0 and not again, about or {}
    also = along(store) if along is not None and store is not None and share is not None and todo else None
    held = list[tuple[Tap, Tensor]]()  # of the first batch, until there is a store
    # A GPU fills one while the other is written.
    two = device.startswith("cuda")
    turns = itertools.cycle([ShardBuffers(kept_plan, size) for _ in range(1 + two)])
    buffers, created, kept, written = next(turns), None, 0, Future[None]()
    written.set_result(None)

    def new_store(dense: OnGrids) -> Store:
        facts = {**about}
        if share is not None:
            facts |= {SHARED: True, TOKENS_REMOVED: not with_tokens and plan.token_samples > 0}
        made = create(folder, plan, wanted, statistics, dataset, dense=dense, about=facts)
        if share is not None:
            made = usable(folder)
            assert made is not None
        return made

    def hold(_: Any, rows: np.ndarray, tap: Tap, tokens: Tensor) -> None:
        held.append((tap, tokens.clone()))

    def write(store: Store, step: Step, full: ShardBuffers) -> None:
        nonlocal kept
        store.write(step, full.tokens, full.pooled)
        kept, full.rows = kept + full.rows, 0
        if step is last_tokens:
            full.tokens.clear()  # what is held from now on takes their memory
        if step is last[part := step.rows.start // plan.pooled_shard]:
            seal(store, part)

    def seal(store: Store, part: int) -> None:
        if share is not None:
            files = store.files_of(part, kept_plan.token_samples > 0)
            seal_part(store, part, files, share, size)

    if store is None and along is not None and size * plan.token_bytes_per_sample <= MOST_HELD:
        also = hold
    try:
        if store is None and not todo:
            store = new_store(dense_targets(encoder, dataset, plan.taps))
        for part in parts or ():
            if store is not None and part not in last:
                seal(store, part)
        dealt = None if deal is None else lambda rest: deal(kept_plan, rest, also is not None)
        with (
            ThreadPoolExecutor(1) as thread,
            contextlib.closing(step_batches(encoder, dataset, plan, todo, size, workers, deal=dealt)) as batches,
        ):
            for step, positions, batch in batches:
                if isinstance(batch, Passed):
                    batch.put(kept_plan, buffers, also)
                    if in_pass is not None:
                        in_pass.take(positions, batch.observed)
                else:
                    capture_rows(encoder, batch, positions, kept_plan, dataset, buffers, also=also, in_pass=in_pass)
                seconds = (time.perf_counter() - started) / len(positions)
                dense = dense_targets(encoder, dataset, plan.taps) if store is None else {}
                if not announced:
                    if seconds * plan.samples > LONG and len(todo) > 1:
                        other = next(batches_of(plan, todo[1], size))
                        seconds = min(seconds, seconds_when_warm(encoder, dataset, plan, other))
                    before_first_byte(seconds, again, dense)
                    announced = True
                if store is None:
                    store = created = new_store(dense)
                    with explaining(f"{encoder.name} fails on what is gathered along with its extraction"):
                        if along is not None and (also := along(store)) is not None:
                            for tap, tokens in held:
                                also(batch, positions, tap, tokens)
                            if not held:
                                encoder.capture(batch, [tap.name for tap in plan.taps], partial(also, batch, positions))
                        held.clear()
                done += len(positions)
                watch(Progress(f"extracting {encoder.name}", done, total))
                if buffers.rows == len(step):
                    written.result()
                    if two:
                        written = thread.submit(write, store, step, buffers)
                    else:
                        write(store, step, buffers)
                    buffers = next(turns)
            written.result()
    except StorageError:
        raise
    except DiagnosticsError as error:
        # A store that cannot be continued is removed; whole steps stay where the same command may succeed later.
        alone = created is not None and share is None and isinstance(folder, Folder)
        if alone and (isinstance(error, SampleError) or not kept):
            remove(folder)
        raise
    assert store is not None
    store.work = store.folder
    if share is not None and share.finishes:
        store.folder.tidy(age=LONGEST_SEAL)
    if share is None or share.finishes:
        store.finish(with_tokens, "" if share is None else mixture(store))
    return store


def seconds_when_warm(encoder: Encoder, dataset: Dataset, plan: Plan, positions: np.ndarray) -> float:
    """The seconds that a sample of a later batch takes: the first pays for all that happens once."""
    started = time.perf_counter()
    with contextlib.closing(prepare_batches(encoder, dataset, [positions], 0)) as batches:
        (batch,) = batches
        with explaining(f"{encoder.name} fails on a batch"):
            encoder, batch = encoder.shortened(batch)
            encoder.capture(
                batch, [tap.name for tap in plan.taps], lambda tap, tokens: pool(tap, tokens, plan.poolings).cpu()
            )
    return (time.perf_counter() - started) / len(positions)


def refuse_other_folder(folder: Place) -> None:
    """Raise where a place is neither a run nor empty."""
    path = folder.path
    with reading(path):
        other = folder.is_occupied()
    if other:
        raise StorageError(f"{path} is not a run, so nothing is written there: choose another --out.", code="occupied")


def _existing(folder: Place, wanted: Mapping[str, str], dataset: Dataset) -> Store | None:
    refuse_other_folder(folder)
    path = folder.path
    with reading(path):
        if folder.head(NAME) is None:
            return None
    store = Store(folder)
    if store.older:
        raise StorageError(
            f"{path} was written by an older version: it can be read but not gone on with, so choose another --out, or "
            f"--fresh, which replaces it.",
            code="other-version",
        )
    refuse_other_identity(store, wanted, dataset)
    return store


def _join(store: Store, share: Share, about: Mapping[str, Any], with_tokens: bool) -> None:
    """Lets a launch do parts of a store; raises where that is not shared, or another command began it."""
    if not store.shared:
        raise StorageError(
            f"{store.path} was begun without --part, by a command that has it alone: give that command again to finish "
            f"it, or choose another --out.",
            code="other-run",
        )
    if not share.finishes:
        other = [key for key in ("seed", CONTROLS) if key in about and store.attrs.get(key) != about[key]]
        if store.plan.token_samples and with_tokens == store.tokens_removed:
            other.append("whether tokens are stored, by --measures and --token-budget")
        if other:
            raise StorageError(
                f"{store.path} was begun by a launch with other options ({join_names(other)}): give all launches the "
                f"same.",
                code="other-run",
            )
    store.work = share.work(store.folder)


def batches_of(plan: Plan, step: Step, size: int) -> Iterator[np.ndarray]:
    """The positions of each batch of a step."""
    for start in range(step.rows.start, step.rows.stop, size):
        yield plan.order[start : min(start + size, step.rows.stop)]


def step_batches(
    encoder: Encoder,
    dataset: Dataset,
    plan: Plan,
    steps: Sequence[Step],
    size: int,
    workers: int,
    deal: Callable[[Sequence[np.ndarray]], Generator[Passed]] | None = None,
) -> Generator[tuple[Step, np.ndarray, Any]]:
    """(step, positions, batch); batches never cross steps, so a step done again is the same to the bit.

    With `deal` all but the first are passed by it.
    """
    jobs = [(step, positions) for step in steps for positions in batches_of(plan, step, size)]
    here, rest = (jobs, []) if deal is None else (jobs[:1], jobs[1:])
    prepared = prepare_batches(encoder, dataset, [positions for _, positions in here], workers)
    with contextlib.closing(prepared) as batches:
        for (step, positions), batch in zip(here, batches, strict=True):
            yield step, positions, batch
    if deal is not None and rest:
        with contextlib.closing(deal([positions for _, positions in rest])) as passed:
            for (step, positions), each in zip(rest, passed, strict=True):
                yield step, positions, each
