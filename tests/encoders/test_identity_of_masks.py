"""What masks and crops decide is part of the identity of what is stored; gaps are no tokens of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import diagnostics as dx
from tests.support.masked import masked_encoder, ragged_dataset
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_image_encoder


def other_mask(batch: Any, tap: Any) -> Tensor:
    return batch["mask"] & (torch.arange(tap.grid.tokens) >= tap.grid.tokens - 5)


def test_another_mask_is_another_identity(tmp_path: Path) -> None:
    data, _ = ragged_dataset()
    length = data[0].shape[0]
    dx.run(masked_encoder(length), data, out=tmp_path / "run", controls=False, report=False)
    dx.run(masked_encoder(length), data, out=tmp_path / "run", controls=False, report=False)
    encoder = masked_encoder(length).replace(valid=other_mask)
    with refusal("other-run"):
        dx.run(encoder, data, out=tmp_path / "run", controls=False)


def test_another_crop_is_another_identity(tmp_path: Path) -> None:
    data = tiny_dataset(40, "image")
    dx.run(tiny_image_encoder(), data, out=tmp_path / "run", controls=False, report=False)
    encoder = tiny_image_encoder(covers=lambda shape: tuple((1.0, n - 1.0) for n in shape))
    with refusal("other-run"):
        dx.run(encoder, data, out=tmp_path / "run", controls=False)


def test_gaps_are_no_tokens_of_a_store(tmp_path: Path) -> None:
    whole = tiny_dataset(40)
    samples = np.array(whole.samples)
    samples[7, 10:14] = np.nan
    data = dx.Dataset("gaps", "series", samples, whole.ids, list(whole.split), whole.targets)
    with refusal("no-tokens", "s7", "first"):
        dx.run(masked_encoder(32), data, out=tmp_path / "run", controls=False)
    assert not (tmp_path / "run" / "zarr.json").exists()
    run = dx.run(masked_encoder(32), data, out=tmp_path / "run", controls=False, report=False, token_budget=0)
    assert np.isfinite(run.store.pooled("second", "mean")).all()


def test_a_sample_that_cannot_be_written_to_is_copied() -> None:
    whole = tiny_dataset(20)
    samples = np.array(whole.samples)
    samples.flags.writeable = False
    data = dx.Dataset("still", "series", samples, whole.ids, list(whole.split), whole.targets)
    assert data[0].flags.writeable
