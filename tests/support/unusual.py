"""Encoders that a cut meets rarely: discovered taps, recurrent blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Grid, TorchEncoder, stack_taps


def as_floats(sample: np.ndarray) -> Tensor:
    return torch.as_tensor(sample, dtype=torch.float32)


class Stack(nn.Module):
    """Patches of `patch` steps through torch's own transformer layers, whose fast path calls none of their parts."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, patch, patch)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x[:, None]).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=1))


def discovered() -> TorchEncoder:
    """Without taps of its own, so that a sample of another size is looked at anew."""
    torch.manual_seed(3)
    example = np.random.default_rng(0).standard_normal(24).astype(np.float32)
    return TorchEncoder("discovered", "series", Stack(4), None, None, as_floats, example)


def recurrent() -> TorchEncoder:
    torch.manual_seed(4)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.LSTM(4, 4, batch_first=True) for _ in range(2)])

        def forward(self, x: Tensor) -> Tensor:
            x = x[..., None].expand(-1, -1, 4)
            for block in self.blocks:
                x = block(x)[0]
            return x

    return TorchEncoder(
        "recurrent",
        "series",
        Recurrent(),
        stack_taps("blocks", 2, 4, Grid((6,), ("t",))),
        "blocks.1",
        example=np.ones(6, np.float32),
    )
