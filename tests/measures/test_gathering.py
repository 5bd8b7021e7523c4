"""Attention that gathers: found at the block where it was planted, and nowhere where it was not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.encoders.encoder import Captured
from diagnostics.measures.locality.heads import AttentionLogit, AttentionPeak, AttentionReceived, Gathering
from tests.support.memory import MemoryActivations

SIDE, BLOCKS, SAMPLES = 12, 5, 6
CELLS = SIDE * SIDE
NAMES = [f"blocks.{i}" for i in range(BLOCKS)]


class Looking(nn.Module):
    """One head; half of each row goes to the query itself, or to two columns of the grid, and half to all cells alike."""

    logits: Tensor

    def __init__(self, stripe: bool, spelled_out: bool) -> None:
        super().__init__()
        half = torch.where(torch.arange(CELLS) % SIDE < 2, 1 / (2 * SIDE), 0.0).expand(CELLS, CELLS)
        half = half if stripe else torch.eye(CELLS)
        self.register_buffer("logits", (0.5 * half + 0.5 / CELLS).log())
        self.spelled_out = spelled_out

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.logits.expand(len(x), 1, -1, -1), torch.eye(CELLS).expand(len(x), 1, -1, -1)
        spelled_out = (q @ k.mT).softmax(-1) @ x[:, None] if self.spelled_out else None
        out = F.scaled_dot_product_attention(q, k, x[:, None], scale=1.0) if spelled_out is None else spelled_out
        return x + 0.1 * out[:, 0]


def recorded(first: int, spelled_out: bool = False) -> MemoryActivations:
    """Of an encoder whose blocks look at the stripe from the `first` on."""

    class Trunk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Looking(i >= first, spelled_out) for i in range(BLOCKS)])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    grid = Grid((SIDE, SIDE), ("y", "x"))
    taps = [Tap(name, (i + 1) / BLOCKS, "trunk", 7, grid, Site(name)) for i, name in enumerate(NAMES)]
    encoder = TorchEncoder(
        "looking", "series", Trunk(), taps, NAMES[-1], torch.from_numpy, np.zeros((CELLS, 7), np.float32)
    )
    x = torch.randn(SAMPLES, CELLS, 7, generator=torch.Generator().manual_seed(0))
    seen = Gathering().observe(encoder, x, NAMES)
    arrays = Captured({name: values.numpy() for name, values in seen.items()}, {})
    tokens = np.zeros((SAMPLES, CELLS, 7))
    return MemoryActivations(
        dict.fromkeys(NAMES, tokens), dict.fromkeys(NAMES, (SIDE, SIDE)), observed={Gathering.name: arrays}
    )


@pytest.mark.parametrize("first", [1, 3])
def test_a_stripe_of_global_tokens_is_found_at_its_block(first: int) -> None:
    score = AttentionReceived().compute(recorded(first), None, 0)["score"].values
    # 1.44 of 144 keys: each key of the stripe gets half of a 24th of each row, and what all get.
    with_stripe = 0.01 * CELLS * (1 / (4 * SIDE) + 0.5 / CELLS)
    np.testing.assert_allclose(score, [0.01] * first + [with_stripe] * (BLOCKS - first), rtol=1e-4)
    assert int(np.argmax(np.diff(score))) + 1 == first


def test_where_no_stripe_is_planted_none_is_found() -> None:
    result = AttentionReceived().compute(recorded(BLOCKS), None, 0)
    np.testing.assert_allclose(result["score"], 0.01, rtol=1e-4)
    np.testing.assert_allclose(result["share_of_uniform"], 1, rtol=1e-4)


def test_peak_and_logit_are_those_of_the_planted_rows() -> None:
    activations = recorded(3)
    peak, logit = (
        measure().compute(activations, None, 0)["score"].values for measure in (AttentionPeak, AttentionLogit)
    )
    expected = np.array([0.5 + 0.5 / CELLS] * 3 + [1 / (4 * SIDE) + 0.5 / CELLS] * 2)
    np.testing.assert_allclose(peak, expected, rtol=1e-4)
    np.testing.assert_allclose(logit, np.log(expected), rtol=1e-4)


def test_a_model_that_spells_its_softmax_out_has_no_logit_and_says_so() -> None:
    activations = recorded(3, spelled_out=True)
    result = AttentionLogit().compute(activations, None, 0)
    assert np.isnan(result["score"]).all()
    assert result.attrs["reason"].count("its softmax is spelled out, which shows shares but no logits") == BLOCKS
    score = AttentionReceived().compute(activations, None, 0)["score"].values
    assert int(np.argmax(np.diff(score))) + 1 == 3
