"""Batches made ahead of the step that needs them: the next one by a thread, or several by worker processes."""

import contextlib
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from diagnostics import DiagnosticsError
from diagnostics.errors import StorageError, describe
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.objective import Batch

Batches = Callable[[int, int, int], Batch]
"""(step from 0, process, processes) -> that process's part of the step's batch, on the CPU; a pure function.

It may have a method `ids(step, process, processes)`, the samples' ids, which then stand in messages about that batch.
"""


@contextlib.contextmanager
def batches_ahead(batches: Batches, steps: range, world: World, workers: int) -> Generator[Iterator[Batch]]:
    """The batches of the steps, in order, in pinned memory where they go to a GPU; all that makes them ends with the context.

    With 0 workers a thread makes the next one, otherwise each worker makes two ahead. Raises what a batch raises, and
    DiagnosticsError where a worker is ended from outside, or on a system other than Linux.
    """
    if workers and sys.platform != "linux":
        # Elsewhere system libraries may hang or crash after a fork, and what encoders prepare with seldom can be pickled.
        raise DiagnosticsError("Workers are forked, which only Linux does safely: leave --workers out.")
    pinned = world.device.startswith("cuda")

    def make(step: int) -> Batch:
        return batches(step, world.rank, world.size)

    making = _by_workers(make, steps, workers, pinned) if workers else _by_thread(make, steps, pinned)
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
        f"A process that prepares batches was ended ({describe(error)}), perhaps because memory ran out: give fewer --workers."
    )


def _by_thread(make: Callable[[int], Batch], steps: range, pinned: bool) -> Generator[Batch]:
    def prepared(step: int) -> Batch:
        batch = make(step)
        return {key: tensor.pin_memory() for key, tensor in batch.items()} if pinned else batch

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(prepared, steps[0]) if steps else None
        for step in steps:
            assert coming is not None
            batch = coming.result()
            if step != steps[-1]:
                coming = pool.submit(prepared, step + steps.step)
            yield batch


def _by_workers(make: Callable[[int], Batch], steps: range, workers: int, pinned: bool) -> Generator[Batch]:
    # A generator of its own, as the loader would draw a seed for its workers from the global one.
    loader: Any = DataLoader(
        _Steps(make, steps), batch_size=None, num_workers=workers, multiprocessing_context="fork", pin_memory=pinned,
        generator=torch.Generator(), worker_init_fn=_ignore_interrupts,
    )  # fmt: skip
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
    """A terminal sends Ctrl-C to workers too; a worker that ended by it would look to this process like one that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Steps(TorchDataset[Any]):
    """Batches by number; an error is given as a value, since torch makes another text of what a worker raises."""

    def __init__(self, make: Callable[[int], Batch], steps: range) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Batch | DiagnosticsError:
        try:
            return self.make(self.steps[index])
        except DiagnosticsError as error:
            # Not every subclass can be sent; a damaged disk has to stay one.
            kind = StorageError if isinstance(error, StorageError) else DiagnosticsError
            return kind(str(error))
