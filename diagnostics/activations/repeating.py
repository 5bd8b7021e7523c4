"""Whether the same samples give the same activations again, asked before anything is stored of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.activations.plan import row_order
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.modes import seeded
from diagnostics.encoders.taps import Tap
from diagnostics.encoders.tensors import by_name, digest_of
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import Compute

SAMPLES = 8
MOST_TOKENS = 64
"""Of a tap, spread over its grid: noise is in all of them."""
TOLERANCE: Mapping[Compute, float] = {"float32": 1e-5, "tf32": 1e-5, "bf16": 1e-2}
"""Share of a tap's norm up to which two passes are the same: kernels may add in another order."""


class _SampleChangedError(DiagnosticsError):
    """Preparation wrote into the sample."""


def find_difference(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap], compute: Compute) -> str:
    """Where `SAMPLES` samples, read, prepared and passed twice, are not the same, as a sentence; "" where they are.

    What fails here is left to the extraction, which names the sample. Raises DiagnosticsError where preparation changes the
    sample itself, which is put back.
    """
    try:
        where = _difference(encoder, dataset, [tap.name for tap in taps], TOLERANCE[compute])
    except _SampleChangedError:
        raise
    except Exception:
        return ""
    remedy = "so all numbers are of one draw of it. Take what is random out of it (a crop, noise) and give --fresh."
    return f"Not repeatable: {where}, {remedy}" if where else ""


def _difference(encoder: Encoder, dataset: Dataset, taps: Sequence[str], tolerance: float) -> str:
    rows = row_order(len(dataset))[:SAMPLES].tolist()
    first, second = ([dataset[i] for i in rows] for _ in range(2))
    kept = [np.array(sample) for sample in first]
    if list(map(_bits, kept)) != list(map(_bits, second)):
        return f"{dataset.name} gives another sample when it is read again"
    prepared, again = ([encoder.preprocess(sample) for sample in samples] for samples in (first, second))
    changed = [i for i, sample, before in zip(rows, first, kept, strict=True) if _bits(sample) != _bits(before)]
    for sample, before in zip(first, kept, strict=True) if changed else ():
        sample[...] = before
    if changed:
        raise _SampleChangedError(
            f"Preparing sample {dataset.ids[changed[0]]} for {encoder.name} changes the sample itself, so that whoever reads it "
            "next gets another one: let preprocess work on a copy, np.array(sample)."
        )
    if list(map(_digest, prepared)) != list(map(_digest, again)):
        return f"the preprocessing of {encoder.name} gives another input for the same sample"
    batch, passes = default_collate(prepared), list[dict[str, Tensor]]()
    for seed in (1, 2):
        # A pass leaves random states as they were, so that two in a row would draw the same.
        with seeded(seed):
            passes.append(encoder.capture(batch, taps, _some_tokens))
    for tap in taps:
        if (passes[0][tap] - passes[1][tap]).norm() > tolerance * passes[0][tap].norm():
            return f"{encoder.name} gives other activations for the same input, first at {tap}"
    return ""


def _some_tokens(_: Tap, tokens: Tensor) -> Tensor:
    return tokens[:, :: -(-tokens.shape[1] // MOST_TOKENS)].to("cpu", torch.float64, copy=True)


def _bits(sample: np.ndarray) -> tuple[Any, ...]:
    return sample.dtype, sample.shape, sample.tobytes()


def _digest(prepared: Any) -> str:
    return digest_of({key: torch.as_tensor(value) for key, value in by_name(prepared).items()})
