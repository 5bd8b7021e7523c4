"""Records of what only the running model gives (attention, gradients), in passes of the extraction or after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.contract import Observation, block_name
from diagnostics.activations.prepare import (
    prepare_batches,
)
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.attention.capture import NotFiniteError
from diagnostics.encoders.encoder import Captured, Encoder, Reduce
from diagnostics.encoders.modules import BATCH
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import SAFE_NAME

# Attention is large; and a prime, which no model has as its number of heads, cannot be mistaken for it.
MOST_BATCH = 13


class InPass:
    """An observation of the first samples that is made in the passes of their extraction.

    Once that fails there is none, and `observe` makes it in a pass of its own. `left_out`: the taps that have none;
    of batches of other sizes it is told so too, unless something was taken for something else.
    """

    def __init__(self, observation: Observation, samples: int, left_out: set[str] | None = None) -> None:
        self.observation, self.samples, self.left_out = observation, min(observation.samples, samples), left_out
        self.parts = dict[int, Captured]()
        """Of each batch, by its first position."""
        self.failed = False

    def try_on(self, encoder: Encoder, batch: Any, taps: Sequence[str], reduce: Reduce) -> dict[str, Any] | None:
        """A pass as `Encoder.capture` makes it, observed; None where that fails. Notes which taps have none."""
        read = self._read(encoder, batch, taps, reduce)
        if read is None:
            return None
        self.left_out = {*read[1].left_out}
        return read[0]

    def wants(self, positions: np.ndarray) -> bool:
        """Test for a batch some of whose samples are recorded."""
        return not self.failed and bool(positions[0] < self.samples)

    def capture(
        self, encoder: Encoder, batch: Any, positions: np.ndarray, taps: Sequence[str], reduce: Reduce
    ) -> dict[str, Any] | None:
        """As `Encoder.capture`, observed; None where the batch is not recorded, or that fails."""
        if not self.wants(positions):
            return None
        read = self._read(encoder, batch, taps, reduce)
        self.take(positions, read and read[1])
        return read and read[0]

    def take(self, positions: np.ndarray, observed: Captured | None) -> None:
        """Take in what is recorded of a batch that is wanted; None: it failed."""
        if not self.wants(positions):
            return
        if observed is None or self.left_out not in (None, {*observed.left_out}):
            self.failed = True
            return
        rows = {tap: values[: self.samples - int(positions[0])] for tap, values in observed.items()}
        self.parts[int(positions[0])] = Captured(rows, observed.left_out)

    def of(self, observation: Observation) -> list[Captured]:
        """All its parts in the order of positions; none where any is missing."""
        parts = [self.parts[first] for first in sorted(self.parts)]
        whole = sum(len(next(iter(part.values()), ())) for part in parts) == self.samples
        return parts if whole and not self.failed and observation is self.observation else []

    def _read(
        self, encoder: Encoder, batch: Any, taps: Sequence[str], reduce: Reduce
    ) -> tuple[dict[str, Any], Captured] | None:
        if not isinstance(encoder, TorchEncoder):
            return None
        try:
            with encoder.capturing(taps, reduce) as captured:
                observed = self.observation.observe(encoder, batch, taps)
            rows = len(next(iter(captured.values())))
            return captured, _as_rows(self.observation, encoder, observed, rows)
        except Exception:  # the pass that follows says whose it is
            return None


def observe(
    encoder: Encoder,
    dataset: Dataset,
    store: Store,
    observations: Iterable[Observation],
    *,
    version: str,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "cpu",
    watch: Watch = silent,
    in_pass: InPass | None = None,
) -> None:
    """Record each of these observations that the store does not hold yet; every write is atomic.

    Where an encoder has none, the reason is recorded in its place: `store.observation_arrays` raises it, and
    nothing runs again until another `version` of this package, another torch or another kind of device could give
    another answer. What was recorded `in_pass` is taken from there. Raises DiagnosticsError where samples cannot be
    read, StorageError where the disk is full.
    """
    each = ((observation, *block) for observation in _distinct(observations) for block in _blocks(observation, dataset))
    failed = set[str]()
    for observation, name, start, stop in each:
        state = {
            "by": f"{type(observation).__module__}.{type(observation).__qualname__}",
            "version": version,
            "torch": str(torch.__version__),
            "device": device.partition(":")[0],
        }
        done = not observation.reads(dataset) or store.has_observed(name, stop - start, state)
        if done or observation.name in failed:
            continue
        parts = in_pass.of(observation) if in_pass else []
        encoder.to(device)
        size = min(batch_size or BATCH.get(state["device"], MOST_BATCH), MOST_BATCH)
        missing = range(start, stop, size) if not parts else ()
        batches = [np.arange(first, min(first + size, stop)) for first in missing]
        progress_step = f"observing {observation.name} of {encoder.name}"
        reason = ""
        taps = [tap.name for tap in store.taps]
        with contextlib.closing(prepare_batches(encoder, dataset, batches, workers, observation.load)) as prepared:
            for positions, batch in zip(batches, prepared, strict=True):
                try:
                    parts.append(
                        _as_rows(observation, encoder, observation.observe(encoder, batch, taps), len(positions))
                    )
                except NotFiniteError as error:
                    reason = str(error)
                    # A model may fold parts of samples into this axis, whose place then names none.
                    if error.sample < len(positions):
                        reason += f" Sample {error.sample} of this batch is {store.ids[positions[error.sample]]}."
                    break
                except DiagnosticsError as error:
                    reason = str(error)
                    break
                except Exception as error:  # out of memory, say: nothing to keep
                    store.unobserved[name] = f"{encoder.name} fails on {observation.name}: {describe(error)}."
                    break
                watch(Progress(progress_step, int(positions[-1]) + 1, min(observation.samples, len(dataset))))
        if name in store.unobserved:
            failed.add(observation.name)
            continue
        joined = Captured({}, {}) if reason else _concatenate(parts, taps)
        if not reason and not joined:
            reason = f"{encoder.name} gives no {observation.name} at the taps that are kept."
        about = {"samples": stop - start, "reason": reason, "left_out": joined.left_out, "state": state}
        store.put_observed(name, joined, about)


def _blocks(observation: Observation, dataset: Dataset) -> list[tuple[str, int, int]]:
    """The name of each block that is stored, with its first position and the one behind its last."""
    rows = min(observation.samples, len(dataset))
    if not observation.block:
        return [(observation.name, 0, rows)]
    starts = range(0, rows, observation.block)
    return [
        (block_name(observation.name, i), start, min(start + observation.block, rows)) for i, start in enumerate(starts)
    ]


def _distinct(observations: Iterable[Observation]) -> list[Observation]:
    by_name: dict[str, Observation] = {}
    for observation in observations:
        if not SAFE_NAME.fullmatch(observation.name):
            raise DiagnosticsError(
                f"{type(observation).__module__} offers an observation named {observation.name!r}, which cannot be "
                f"stored: use letters, digits, '_', '-' and '.', not starting with a dot.",
                code="bad-value",
            )
        other = by_name.setdefault(observation.name, observation)
        if type(other) is not type(observation):
            raise DiagnosticsError(
                f"{type(other).__module__} and {type(observation).__module__} both offer an observation named "
                f"{observation.name}: uninstall one of them, or rename it.",
                code="duplicate",
            )
    return list(by_name.values())


def _as_rows(observation: Observation, encoder: Encoder, observed: Mapping[str, Any], rows: int) -> Captured:
    """The arrays on the CPU in float32; raises DiagnosticsError for one without a row for each sample."""
    arrays: dict[str, np.ndarray] = {}
    for tap, values in observed.items():
        array = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
        if array.ndim == 0 or len(array) != rows:
            raise DiagnosticsError(
                f"Observation {observation.name} of {encoder.name} gives shape {array.shape} for {rows} samples at tap "
                f"{tap}: give [sample, ...].",
                code="bad-shape",
            )
        arrays[tap] = array
    return Captured(arrays, observed.left_out if isinstance(observed, Captured) else {})


def _concatenate(parts: list[Captured], taps: list[str]) -> Captured:
    """The batches concatenated, of the taps that all of them have with one shape."""
    arrays: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for tap in taps:
        shapes = {part[tap].shape[1:] if tap in part else None for part in parts}
        if len(shapes) == 1 and None not in shapes:
            arrays[tap] = np.concatenate([part[tap] for part in parts])
        else:
            reasons = [part.left_out[tap] for part in parts if tap in part.left_out]
            left_out[tap] = (
                reasons[0] if reasons else "nothing was recorded" if shapes == {None} else "it differs among batches"
            )
    return Captured(arrays, left_out)
