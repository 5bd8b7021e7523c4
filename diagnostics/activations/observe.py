"""Recording what only a running model shows (attention, gradients) into a store, after its activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import diagnostics
from diagnostics.activations.extract import BATCH, prepared
from diagnostics.activations.store import Store
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Captured, Encoder
from diagnostics.errors import DiagnosticsError, describe
from diagnostics.measures.base import Measure, Observation
from diagnostics.progress import Progress, Watch, silent
from diagnostics.vocabulary import SAFE_NAME

# Attention is large; and a prime, which no model has as its number of heads, cannot be mistaken for it.
MOST_BATCH = 13


def observe(
    encoder: Encoder,
    dataset: Dataset,
    store: Store,
    measures: Iterable[Measure],
    *,
    batch_size: int | None = None,
    workers: int = 0,
    device: str = "cpu",
    watch: Watch = silent,
) -> None:
    """Records every observation that the measures read and the store does not hold, each whole or not at all.

    Where an encoder has none, the reason is recorded in its place: `store.observed` raises with it, and nothing runs
    again until another version or device could say otherwise. Raises as an extraction does where samples cannot be read
    and where the disk is full.
    """
    for observation in _distinct(measures):
        rows = min(observation.samples, len(dataset))
        state = {
            "by": f"{type(observation).__module__}.{type(observation).__qualname__}",
            "version": diagnostics.__version__,
            "torch": str(torch.__version__),
            "device": device.partition(":")[0],
        }
        if store.has_observed(observation.name, rows, state):
            continue
        encoder.to(device)
        size = min(batch_size or BATCH.get(state["device"], MOST_BATCH), MOST_BATCH)
        batches = [np.arange(start, min(start + size, rows)) for start in range(0, rows, size)]
        step = f"observing {observation.name} of {encoder.name}"
        parts: list[Captured] = []
        reason = ""
        taps = [tap.name for tap in store.taps]
        for positions, batch in zip(batches, prepared(encoder, dataset, batches, workers), strict=True):
            try:
                parts.append(_checked(observation, encoder, observation.observe(encoder, batch, taps), len(positions)))
            except DiagnosticsError as error:
                reason = str(error)
                break
            except Exception as error:  # out of memory, say: nothing to keep
                store.unobserved[observation.name] = f"{encoder.name} fails on {observation.name}: {describe(error)}."
                break
            watch(Progress(step, int(positions[-1]) + 1, rows))
        if observation.name in store.unobserved:
            continue
        found = Captured({}, {}) if reason else _joined(parts, taps)
        if not reason and not found:
            reason = f"{encoder.name} gives no {observation.name} at the taps that are kept."
        about = {"samples": rows, "reason": reason, "left_out": found.left_out, "state": state}
        store.put_observed(observation.name, found, about)


def _distinct(measures: Iterable[Measure]) -> list[Observation]:
    found: dict[str, Observation] = {}
    for measure in measures:
        observation = measure.observation
        if observation is None:
            continue
        if not SAFE_NAME.fullmatch(observation.name):
            raise DiagnosticsError(
                f"Observation {observation.name!r} of the measure {measure.name} cannot be stored: use letters, digits, "
                "'_', '-' and '.', not starting with a dot."
            )
        other = found.setdefault(observation.name, observation)
        if type(other) is not type(observation):
            raise DiagnosticsError(
                f"{type(other).__module__} and {type(observation).__module__} both offer an observation named "
                f"{observation.name}: uninstall one of them, or rename it."
            )
    return list(found.values())


def _checked(observation: Observation, encoder: Encoder, found: Mapping[str, Any], rows: int) -> Captured:
    """On the CPU in float32, each with one row a sample."""
    arrays: dict[str, np.ndarray] = {}
    for tap, values in found.items():
        array = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float32)
        if array.ndim == 0 or len(array) != rows:
            raise DiagnosticsError(
                f"Observation {observation.name} of {encoder.name} gives shape {array.shape} for {rows} samples at tap "
                f"{tap}: give [sample, ...]."
            )
        arrays[tap] = array
    return Captured(arrays, found.left_out if isinstance(found, Captured) else {})


def _joined(parts: list[Captured], taps: list[str]) -> Captured:
    """All batches behind one another, of the taps that every batch has alike."""
    arrays: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for tap in taps:
        shapes = {part[tap].shape[1:] if tap in part else None for part in parts}
        if len(shapes) == 1 and None not in shapes:
            arrays[tap] = np.concatenate([part[tap] for part in parts])
        else:
            told = [part.left_out[tap] for part in parts if tap in part.left_out]
            left_out[tap] = (
                told[0] if told else "nothing was recorded" if shapes == {None} else "it differs among batches"
            )
    return Captured(arrays, left_out)
