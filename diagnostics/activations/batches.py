"""Batches of a dataset: samples preprocessed by an encoder and collated, by worker processes if requested."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from diagnostics.activations.plan import row_order
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.signals import hold_worker_ends


class _Batches(TorchDataset[Any]):
    """Preprocessed batches for a DataLoader; an error is returned as a value, since a worker process can pass that on."""

    def __init__(self, encoder: Encoder, dataset: Dataset, batches: Sequence[np.ndarray]) -> None:
        self.encoder, self.dataset, self.batches = encoder, dataset, batches
        self.order = row_order(len(dataset))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        samples: list[Any] = []
        for i in self.order[self.batches[index]]:
            try:
                samples.append(self.encoder.preprocess(self.dataset[int(i)]))
            except DiagnosticsError as error:
                return DiagnosticsError(f"Sample {self.dataset.ids[i]}: {error}")
            except (Exception, SystemExit) as error:
                failure = DiagnosticsError(
                    f"Sample {self.dataset.ids[i]} of {self.dataset.name} cannot be prepared for {self.encoder.name}: "
                    f"{describe(error)}"
                )
                # A chained error would stay behind in the worker's process.
                failure.add_note(traceback.format_exc())
                return failure
        try:
            return default_collate(samples)
        except (RuntimeError, TypeError) as error:
            return DiagnosticsError(
                f"Samples of {self.dataset.name} do not form a batch ({str(error).splitlines()[0]}): if their sizes differ, let the "
                "encoder bring them to one (size= beside a bare module)."
            )


def prepared_batches(encoder: Encoder, dataset: Dataset, batches: Sequence[np.ndarray], workers: int) -> Generator[Any]:
    """The preprocessed, collated batch of each array of row positions, in order; close it where it is left early.

    Raises DiagnosticsError for a sample that cannot be prepared, where samples do not form a batch, and where a worker process is
    ended from outside.
    """
    if workers and sys.platform != "linux":
        # Elsewhere system libraries may hang or crash after a fork, and what encoders prepare with seldom can be pickled.
        raise DiagnosticsError("Workers are forked, which only Linux does safely: leave --workers out.")
    context = "fork" if workers else None
    # A generator of its own, as the loader would draw a seed for its workers from the global one.
    loader: Any = DataLoader(
        _Batches(encoder, dataset, batches), batch_size=None, num_workers=workers, multiprocessing_context=context,
        generator=torch.Generator(),
    )  # fmt: skip
    with _worker_errors(dataset):
        batches_in_order = iter(loader)
    with hold_worker_ends() if workers else contextlib.nullcontext(contextlib.ExitStack) as waiting:
        try:
            while True:
                with _worker_errors(dataset), waiting():
                    batch = next(batches_in_order, None)
                if batch is None:
                    return
                if isinstance(batch, DiagnosticsError):
                    raise batch
                yield batch
        finally:
            # Workers end with it, and one that was killed is not to be heard of after that.
            del batches_in_order


@contextlib.contextmanager
def _worker_errors(dataset: Dataset) -> Generator[None]:
    """Turns what torch raises where a worker was ended into one sentence."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # The latter two come of a batch that was being handed over: a sample's own errors are values here.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        # Its frames keep the loader's iterator.
        traceback.clear_frames(error.__traceback__)
        raise DiagnosticsError(
            f"A process that prepares samples of {dataset.name} was ended ({describe(error)}), perhaps because memory ran out: give "
            "fewer --workers."
        ) from error


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that glibc takes on a 64-bit machine; blocks beyond it come from the kernel and go back to it.
_MMAP_THRESHOLD = 32 * 2**20
KEPT = 512 * 2**20
"""Bytes of freed memory that a process may keep."""


def keep_freed_memory() -> None:
    """From here on glibc keeps up to `KEPT` bytes that are freed; nothing happens with another C library.

    By default it hands large blocks back to the kernel, which clears them page by page when the next batch asks for
    them: a tenth of the CPU time of a small encoder's forward pass (benchmarks/cka.py measures it).
    """
    # Not every C library has mallopt, and not every system lets itself be asked for its C library so.
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
