"""Data of a training: the train split of a data set, held in memory.

It is dealt out in batches that are a function of the step.

Simulated data sets have no end. Asked for by name alone, they are trained on many series (or scenes) drawn from another
seed than the one that `diagnostics run` reads by default, so that nothing that is probed later was seen in training.
Series are simulated half as long again as what the encoder reads, and seen through windows at random. Each epoch has an
order of its own.
"""

import contextlib
import functools
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diagnostics.plugin import Dataset, DiagnosticsError, Encoder, StorageError, Target, build, describe, refuse_values
from diagnostics_training.models.encoder import AXES, TUBE
from diagnostics_training.models.inputs import Views, channels_of, extent_of, resized
from diagnostics_training.trainer.objective import Batch, Objective, World, check_dealt

# Batches made ahead of the step that needs them: the next one by a thread, or several by worker processes.

Batches = Callable[[int, int, int], Batch]
"""(step from 0, process, processes) -> that process's part of the step's batch, on the CPU; a pure function.

It may have a method `ids(step, process, processes)`, the samples' ids, which then stand in messages about that batch.
"""


@contextlib.contextmanager
def batches_ahead(batches: Batches, steps: range, world: World, workers: int) -> Generator[Iterator[Batch]]:
    """The batches of the steps, in order, in pinned memory where they go to a GPU.

    All that makes them ends with the context.

    With 0 workers a thread makes the next one, otherwise each worker makes two ahead. Raises what a batch raises, and
    DiagnosticsError where a worker is ended from outside, or on a system other than Linux.
    """
    if workers and sys.platform != "linux":
        # Elsewhere system libraries may hang or crash after a fork, and what encoders prepare with seldom can be
        # pickled.
        raise DiagnosticsError(
            "Workers are forked, which only Linux does safely: leave --workers out.", code="no-effect"
        )
    pinned = world.device.startswith("cuda")

    def make(step: int) -> Batch:
        batch = batches(step, world.rank, world.size)
        # A worker has no GPU: the loader pins what it hands over.
        return {key: tensor.pin_memory() for key, tensor in batch.items()} if pinned and not workers else batch

    making = _by_workers(make, steps, workers, pinned) if workers else _by_thread(make, steps)
    try:
        with contextlib.closing(making):
            yield making
    except RuntimeError as error:
        # torch raises it wherever this process is at that moment.
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _ended(error) from error


def _ended(error: Exception) -> DiagnosticsError:
    return DiagnosticsError(
        f"A process that prepares batches was ended ({describe(error)}), perhaps because memory ran out: give fewer "
        f"--workers.",
        code="process-ended",
    )


def _by_thread(make: Callable[[int], Batch], steps: range) -> Generator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            batch = coming.result()
            if step != steps[-1]:
                coming = pool.submit(make, step + steps.step)
            yield batch


def _by_workers(make: Callable[[int], Batch], steps: range, workers: int, pinned: bool) -> Generator[Batch]:
    def attempt(step: int) -> Batch | DiagnosticsError:
        try:
            return make(step)
        except DiagnosticsError as error:
            # As a value, since torch makes another text of what a worker raises. Not every subclass can be sent; a
            # damaged disk has to stay one.
            return (StorageError if isinstance(error, StorageError) else DiagnosticsError)(str(error), code=error.code)

    # A generator of its own, as the loader would draw a seed for its workers from the global one.
    # Its types know neither a range as the data nor a function of one sample.
    loader: Any = DataLoader(
        cast("Any", steps),
        batch_size=None,
        collate_fn=cast("Any", attempt),
        num_workers=workers,
        multiprocessing_context="fork",
        pin_memory=pinned,
        generator=torch.Generator(),
        worker_init_fn=_ignore_interrupts,
    )
    coming = iter(loader)
    try:
        for batch in coming:
            if isinstance(batch, DiagnosticsError):
                raise batch
            yield batch
    except BaseException as error:
        # Workers end with the iterator, which the frames of an error would keep.
        traceback.clear_frames(error.__traceback__)
        # Of a batch that was being handed over; what a worker raises itself begins with "Caught".
        if isinstance(error, OSError | EOFError) and not str(error).startswith("Caught"):
            raise _ended(error) from error
        raise
    finally:
        del coming


def _ignore_interrupts(worker: int) -> None:
    """A terminal sends Ctrl-C to workers too.

    A worker that ended by it would look to this process like one that was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


LONGER = 1.5
MOST_BYTES = 2**32
SEED = 1000
SIMULATED = {
    **dict.fromkeys(("lorenz", "pendulum", "damped_oscillator", "arma", "changepoint"), 20_000),
    "shapes": 6_000,
}
"""Data sets that are made on demand, and how many samples are made, three fifths of which are train."""
CLIPS = 1_500
LENGTH = 512
"""Of simulated series where no length is given."""


@dataclass(frozen=True)
class TrainingData:
    """Train samples [N, ...] as the data set holds them, and what is known of them."""

    spec: str
    name: str
    modality: str
    fingerprint: str
    samples: np.ndarray
    extent: tuple[int, ...]
    """What the encoder reads of a sample: its own extent, or less where windows are drawn."""
    channels: int
    targets: Mapping[str, Target]
    rows: np.ndarray
    """Which samples of the data set these are; targets are of all."""
    ids: tuple[str, ...]
    """Of these samples."""


def data_for(asked: str | None, base: Encoder) -> str:
    """The specification of the data to align on.

    As asked for, or those that the encoder was trained on, in its own length.

    Simulated data named without number and seed are many fresh samples, as in `diagnostics train`.
    """
    if asked is not None:
        return training_spec(asked)[0]
    recorded = str(base.lineage.get("data", "")).partition(", the ")[0]
    if not recorded:
        raise DiagnosticsError(
            f"{base.name} has no record of its training data: name a dataset with --data.", code="missing-option"
        )
    name, options = parse_spec(recorded)
    if name not in SIMULATED or base.modality != "series":
        return recorded
    # Training draws windows from longer series than the encoder reads.
    return spec_of(name, options | {"length": len(base.example())})


def describe_data(spec: str, count: int, of: str = "its train split") -> str:
    """For people and for the lineage, from which an alignment reads the specification again."""
    return f"{spec}, the {count:,} samples of {of}"


def load(data: str, patch: int | None = None, *, windows: bool = True) -> TrainingData:
    """The train split of a data set.

    `windows` makes simulated series longer than the encoder reads; without it they end where targets are about. `patch`
    is what the encoder's extent is to be a multiple of; by default each modality's own.
    """
    spec, length = training_spec(data)
    if length is not None and windows:
        name, options = parse_spec(spec)
        spec = spec_of(name, options | {"length": int(LONGER * length)})
    dataset: Dataset = build("dataset", spec)
    rows = np.flatnonzero(dataset.split == "train")
    size = default_patch(dataset.modality) if patch is None else patch
    refuse_values(
        (
            dataset.modality not in AXES,
            f"Objectives are trained on {', '.join(AXES)}, and {dataset.name} holds {dataset.modality}: give other "
            f"--data.",
            "other-modality",
        ),
        (size < 1, f"A patch cannot have a size of {size}: give at least 1."),
    )
    samples = _held(dataset, rows, size)
    whole = extent_of(dataset.modality, samples[0]) if length is None else (length,)
    places = whole[-2:]
    shown = "x".join(map(str, whole))
    fits = [n for n in range(2, min(places) + 1) if not any(place % n for place in places)]
    near = min(fits, key=lambda n: abs(n - size), default=1)
    refuse_values(
        (
            dataset.modality == "series" and not np.isfinite(samples).all(),
            f"Series of {dataset.name} have gaps or are padded (NaN), and these encoders have no mask: fill or cut "
            f"them first.",
            "not-finite",
        ),
        (
            any(n % size for n in places),
            f"Samples of {dataset.name} ({shown}) cannot be cut into patches of {size}: give --patch {near}, which "
            f"divides them.",
        ),
        (
            dataset.modality == "video" and whole[0] % TUBE,
            f"Clips of {dataset.name} ({shown}) cannot be cut into patches of {TUBE} frames: give an even "
            f"number of them.",
        ),
    )
    # Pictures become squares: that is what an encoder's name can say.
    extent = (*whole[:-2], *(min(places) for _ in places))
    return TrainingData(
        spec=spec,
        name=dataset.name,
        modality=dataset.modality,
        fingerprint=dataset.fingerprint,
        samples=samples,
        extent=extent,
        channels=channels_of(dataset.modality, samples[0]),
        targets=dataset.targets,
        rows=rows,
        ids=tuple(str(dataset.ids[row]) for row in rows),
    )


def default_patch(modality: str) -> int:
    """16 steps, 8 pixels."""
    return 16 if modality == "series" else 8


def _held(dataset: Dataset, rows: np.ndarray, patch: int, side: int = 0) -> np.ndarray:
    """The samples as one array.

    Pictures of unequal size as squares of a `side`, the shortest of all that patches fit.
    """

    def read(row: int) -> np.ndarray:
        sample = dataset[row]
        return resized(dataset.modality, sample, (side, side)) if side else sample

    first = read(int(rows[0]))
    if first.nbytes * len(rows) > MOST_BYTES:
        raise DiagnosticsError(
            f"The train split of {dataset.name} takes {first.nbytes * len(rows) / 2**30:.1f} GiB and must fit in "
            f"{MOST_BYTES / 2**30:.0f} GiB of memory: give fewer or smaller samples.",
            code="too-large",
        )
    held = np.empty((len(rows), *first.shape), first.dtype)
    for i, row in enumerate(rows):
        sample = read(int(row))
        if sample.shape != first.shape:
            if dataset.modality != "series" and not side:
                shortest = min(min(extent_of(dataset.modality, dataset[int(each)])[-2:]) for each in rows)
                return _held(dataset, rows, patch, max(1, shortest // patch) * patch)
            raise DiagnosticsError(
                f"Samples of {dataset.name} have shapes {first.shape} and {sample.shape}, and training needs one "
                f"shape: give series of one length, clips of as many frames, images all grey or all in colour.",
                code="bad-shape",
            )
        held[i] = sample
    return held


def check_batch(batch: int, samples: int, parts: int = 1) -> None:
    """Raise where that many samples cannot be drawn, or not be computed in so many parts."""
    refuse_values(
        (
            not 2 <= batch <= samples,
            f"A batch of {batch} cannot be drawn from {samples} train samples: give 2 to as many.",
            "bad-sample",
        ),
        (
            parts > batch,
            f"A batch of {batch} samples cannot be computed in {parts} parts: give --accumulate at most as many.",
        ),
    )


class EpochOrder:
    """The samples of `rows` that are in a step's batch.

    Each epoch has an order of its own, and its last samples that fill no batch are left out.
    """

    def __init__(self, rows: np.ndarray, batch: int, seed: int) -> None:
        self.rows, self.batch, self.seed = rows, batch, seed
        self._order = functools.lru_cache(2)(
            lambda epoch: np.random.default_rng([seed, 0, epoch]).permutation(self.rows)
        )

    def rows_at(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """The samples at these places of an epoch's order."""
        return self._order(epoch)[places]

    def part(self, step: int, rank: int, world: int) -> tuple[np.ndarray, slice, int]:
        """One process's samples of a step, where they lie in the batch, and where the batch begins in the epoch."""
        check_dealt(self.batch, world)
        epoch, at = divmod(step, len(self.rows) // self.batch)
        size, first = self.batch // world, at * self.batch
        own = slice(rank * size, (rank + 1) * size)
        return self.rows_at(epoch, np.arange(first + own.start, first + own.stop)), own, first


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, with `beside`, what else is known of each sample.

    `ids` are the samples' own; without them they are numbers.

    Everything is drawn for the batch over all processes and then dealt out, so that how many there are changes nothing.
    """

    def __init__(
        self,
        samples: np.ndarray,
        views: Views,
        objective: Objective,
        batch: int,
        seed: int,
        beside: Mapping[str, np.ndarray] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        self.samples, self.views, self.objective = samples, views, objective
        self.batch, self.seed, self.beside = batch, seed, dict(beside or {})
        self.sample_ids = tuple(map(str, range(len(samples))) if ids is None else ids)
        self.order = EpochOrder(np.arange(len(samples)), batch, seed)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """Of the samples of that part of the batch."""
        return [self.sample_ids[row] for row in self.order.part(step, rank, world)[0]]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, _ = self.order.part(step, rank, world)
        rng = np.random.default_rng([self.seed, 1, step])
        raw = self.samples[rows]
        batch: dict[str, Tensor] = {}
        for name in ("x", "y") if self.objective.pairs else ("x",):
            drawn = self.views.draw(rng, self.batch, self.samples)
            batch[name] = self.views.make(raw, {key: value[own] for key, value in drawn.items()})
        drawn = self.objective.draws(rng, self.batch)
        batch |= {key: torch.from_numpy(np.ascontiguousarray(value[own])) for key, value in drawn.items()}
        return batch | {key: torch.from_numpy(value[rows]) for key, value in self.beside.items()}


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """`name?key=value&...` as the name and its options."""
    name, _, query = spec.partition("?")
    return name, {key: value for key, _, value in (part.partition("=") for part in query.split("&") if part)}


def spec_of(name: str, options: Mapping[str, object]) -> str:
    """The specification that `parse_spec` takes apart."""
    return f"{name}{'?' if options else ''}{'&'.join(f'{key}={value}' for key, value in options.items())}"


def training_spec(data: str) -> tuple[str, int | None]:
    """The specification to train on for what was asked for, and the length of a simulated series.

    The length is None for other data. Number and seed are filled in where a simulated data set was named without them.
    """
    name, options = parse_spec(data)
    if name not in SIMULATED:
        return data, None
    count = CLIPS if options.get("frames", "1") != "1" else SIMULATED[name]
    options = {**options, "n": options.get("n", count), "seed": options.get("seed", SEED)}
    if name == "shapes":
        return spec_of(name, options), None
    length = str(options.setdefault("length", LENGTH))
    return spec_of(name, options), int(length) if length.isdigit() else None


def rendering_notice(data: str) -> str:
    """A notice that rendering samples takes a while; empty unless the data are hundreds of scenes or clips."""
    spec, _ = training_spec(data)
    name, options = parse_spec(spec)
    count = options.get("n", "")
    if name != "shapes" or not count.isdigit() or int(count) < 500:
        return ""
    return f"makes {int(count):,} {'clips' if 'frames' in options else 'scenes'} of {spec}, which takes a while"


def plain(spec: str) -> str:
    """The specification of data to probe: simulated data as `diagnostics run` reads them, not those of training."""
    name, options = parse_spec(spec)
    if name not in SIMULATED:
        return spec
    training = (("n", options.get("n")), ("seed", options.get("seed")), ("length", str(LENGTH)))
    return spec_of(name, dict(item for item in options.items() if item not in training))
