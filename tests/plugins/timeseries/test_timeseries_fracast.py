"""Fracast-0 with series of unequal length and gaps: its own mask, and what pooling leaves out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from diagnostics import TorchEncoder
from diagnostics.datasets.target import pad_series
from diagnostics.encoders.modules import pool

pytest.importorskip("fracast", reason="needs the extra demo")

from diagnostics_timeseries.representations import fracast as build


def walk(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(steps).cumsum().astype(np.float32)


def sized(sample: np.ndarray) -> TorchEncoder:
    encoder = build().sized_for(sample)
    assert isinstance(encoder, TorchEncoder)
    return encoder


def test_a_padded_series_has_the_tokens_and_the_pooling_that_it_has_alone() -> None:
    short, long = walk(60), walk(90, 1)
    samples = pad_series([short, long])
    encoder, alone = sized(samples[0]), sized(short)
    batch = default_collate([encoder.preprocess(sample) for sample in samples])
    result, expected = encoder.capture(batch), alone.capture(default_collate([alone.preprocess(short)]))
    for tap in encoder.taps:
        valid = encoder.valid(batch, tap)
        assert valid is not None and valid.sum(1).tolist() == [60, 90]
        torch.testing.assert_close(result[tap.name][0, 30:], expected[tap.name][0], rtol=0, atol=1e-5)
        ours = pool(tap, result[tap.name], ("mean", "last"), valid)[0]
        torch.testing.assert_close(ours, pool(tap, expected[tap.name], ("mean", "last"))[0], rtol=1e-4, atol=1e-5)
        # Without the mask the padding would have counted.
        assert (pool(tap, result[tap.name], ("mean",))[0] - ours[:1]).abs().max() > 1e-3


def test_equal_series_without_gaps_need_no_mask_and_a_gap_is_left_out() -> None:
    sample = walk(64)
    encoder = sized(sample)
    batch = default_collate([encoder.preprocess(sample)])
    assert all(encoder.valid(batch, tap) is None for tap in encoder.taps)
    sample[20:25] = np.nan
    batch = default_collate([encoder.preprocess(sample), encoder.preprocess(walk(64, 1))])
    valid = encoder.valid(batch, encoder.taps[0])
    assert valid is not None and (~valid).nonzero().tolist() == [[0, i] for i in range(20, 25)]
