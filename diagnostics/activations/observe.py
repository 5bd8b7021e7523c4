"""Records of what only the running model gives (attention, gradients), beside what was extracted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
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
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.encoders.modules import BATCH
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import SAFE_NAME

# Attention is large; and a prime, which no model has as its number of heads, cannot be mistaken for it.
MOST_BATCH = 13


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
) -> None:
    """Record each of these observations that the store does not hold yet; every write is atomic.

    Where an encoder has none, the reason is recorded in its place: `store.observation_arrays` raises it, and
    nothing runs again until another `version` of this package, another torch or another kind of device could give
    another answer. Raises DiagnosticsError where samples cannot be read, StorageError where the disk is full.
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
        encoder.to(device)
        size = min(batch_size or BATCH.get(state["device"], MOST_BATCH), MOST_BATCH)
        batches = [np.arange(first, min(first + size, stop)) for first in range(start, stop, size)]
        progress_step = f"observing {observation.name} of {encoder.name}"
        parts: list[Captured] = []
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
