"""Whether the same samples give the same activations again, asked before anything is stored of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics.activations.plan import row_order
from diagnostics.datasets.dataset import Dataset
from diagnostics.encoders.digests import digest_of
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.evaluating import seeded
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import Compute

SAMPLES = 8
MOST_TOKENS = 64
"""Of a tap, spread over its grid: noise is in all of them."""
TOLERANCE: Mapping[Compute, float] = {"float32": 1e-5, "tf32": 1e-5, "bf16": 1e-2}
"""Share of a tap's norm up to which two passes are the same: kernels may add in another order."""


def find_difference(encoder: Encoder, dataset: Dataset, taps: Sequence[Tap], compute: Compute) -> str:
    """Where `SAMPLES` samples, read, prepared and passed twice, are not the same, as a sentence; "" where they are.

    What fails here is left to the extraction, which names the sample. Raises DiagnosticsError where preparation changes the
    sample itself, which is put back.
    """
    rows = row_order(len(dataset))[:SAMPLES].tolist()
    name, where = encoder.name, ""
    try:
        first, second = ([dataset[i] for i in rows] for _ in range(2))
        before = [np.array(sample) for sample in first]
        same = all(_bits(a) == _bits(b) for a, b in zip(before, second, strict=True))
        prepared, again = ([encoder.preprocess(sample) for sample in samples] for samples in (first, second))
        digests = [[_digest(each) for each in inputs] for inputs in (prepared, again)]
    except Exception:
        return ""
    changed = [k for k, copy in enumerate(before) if _bits(first[k]) != _bits(copy)]
    for k in changed:
        first[k][...] = before[k]
    if changed:
        raise DiagnosticsError(
            f"Preparing sample {dataset.ids[rows[changed[0]]]} for {name} changes the sample itself, so that whoever reads it next "
            "gets another one: let preprocess work on a copy, np.array(sample)."
        )
    if not same:
        where = f"{dataset.name} gives another sample when it is read again"
    elif digests[0] != digests[1]:
        where = f"the preprocessing of {name} gives another input for the same sample"
    elif tap := _differing_tap(encoder, prepared, taps, TOLERANCE[compute]):
        where = f"{name} gives other activations for the same input, first at {tap}"
    return (
        f"Not repeatable: {where}, so all numbers are of one draw of it. Take what is random out of it (a crop, noise) and "
        "give --fresh."
        if where
        else ""
    )


def _differing_tap(encoder: Encoder, prepared: Sequence[Any], taps: Sequence[Tap], tolerance: float) -> str:
    """The first tap at which two passes differ; "" where none does, or the samples form no batch or do not pass."""

    def few(_: Tap, tokens: Tensor) -> Tensor:
        return tokens[:, :: -(-tokens.shape[1] // MOST_TOKENS)].to("cpu", torch.float64, copy=True)

    passes: list[dict[str, Tensor]] = []
    try:
        batch = default_collate(list(prepared))
        for seed in (1, 2):
            # A pass leaves random states as they were, so that two in a row would draw the same.
            with seeded(seed):
                random.seed(seed)
                np.random.seed(seed)
                passes.append(encoder.capture(batch, [tap.name for tap in taps], few))
    except Exception:
        return ""
    for tap, values in passes[0].items():
        if (values - passes[1][tap]).norm() > tolerance * values.norm():
            return tap
    return ""


def _bits(sample: np.ndarray) -> tuple[Any, ...]:
    return sample.dtype, sample.shape, sample.tobytes()


def _digest(prepared: Any) -> str:
    items = prepared.items() if isinstance(prepared, Mapping) else [("", prepared)]
    return digest_of({str(key): torch.as_tensor(value) for key, value in items})
