"""An encoder whose last block takes a target out of the residual stream, and series that hold it: named as file.py:function.

A sample is 16 numbers in four patches of 4, which are the tokens. The last block puts noise (a wave too fast for a linear
probe) in the place of the first number of each token, so the output holds nothing of `first`, their mean; `second`, the mean
of the second numbers, it leaves alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, DiagnosticsError, Grid, Target, TorchEncoder, stack_taps

PATCH, PATCHES = 4, 4


class Adding(nn.Module):
    """x + W x + noise, the noise in the first place."""

    def __init__(self, weight: Tensor, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.linear = nn.Linear(*weight.shape, bias=False)
        self.linear.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        wave = self.noise * torch.sin(7 * x[..., 1:2])
        return x + self.linear(x) + nn.functional.pad(wave, (0, x.shape[-1] - 1))


class Stack(nn.Module):
    def __init__(self, width: int = PATCH) -> None:
        super().__init__()
        mixing = torch.zeros(width, width)
        mixing[:PATCH, :PATCH] = 0.1 * torch.randn(PATCH, PATCH, generator=torch.Generator().manual_seed(0))
        mixing[0], mixing[:, 0] = 0, 0
        erasing = torch.zeros(width, width)
        erasing[0, 0] = -1
        self.blocks = nn.ModuleList([Adding(mixing, 0.0), Adding(erasing, 1.0)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def patches(sample: np.ndarray) -> Tensor:
    if np.shape(sample) != (PATCHES * PATCH,):
        raise DiagnosticsError(f"It reads {PATCHES * PATCH} numbers, not a sample of shape {np.shape(sample)}.")
    return torch.as_tensor(sample).float().reshape(PATCHES, PATCH)


def build(output: str = "blocks.1") -> TorchEncoder:
    taps = stack_taps("blocks", 2, PATCH, Grid((PATCHES,), ("t",)))
    return TorchEncoder(
        "erasing",
        "series",
        Stack(),
        taps,
        output,
        patches,
        np.ones(PATCH * PATCHES, np.float32),
    )


def roomy() -> TorchEncoder:
    """The same with two more features a token, which are 0: room for `first` beside `third`, the noise."""

    def padded(sample: np.ndarray) -> Tensor:
        return nn.functional.pad(patches(sample), (0, 2))

    taps = stack_taps("blocks", 2, PATCH + 2, Grid((PATCHES,), ("t",)))
    return TorchEncoder(
        "roomy", "series", Stack(PATCH + 2), taps, "blocks.1", padded, np.ones(PATCH * PATCHES, np.float32)
    )


def early() -> TorchEncoder:
    """Its output is what holds most of everything."""
    return build("embed")


def closed() -> TorchEncoder:
    """Its forward pass lets no gradient through."""
    base = build()
    return TorchEncoder(
        "closed",
        "series",
        base.module,
        base.taps,
        base.output_tap,
        patches,
        base.example(),
        forward=torch.no_grad()(_pass),
    )


def waves(n: int = 400) -> Dataset:
    """`data` with a third target: what the last block of an encoder puts in the first place, mean over tokens."""
    plain = data(n)
    with torch.no_grad():
        tokens = torch.stack([patches(sample) for sample in plain.samples])
        third = torch.sin(7 * Stack().blocks[0](tokens)[..., 1]).mean(1).double().numpy()
    targets = {**plain.targets, "third": Target("value", third)}
    return Dataset("waves", "series", plain.samples, plain.ids, plain.split.tolist(), targets)


def _pass(module: nn.Module, batch: Tensor) -> Tensor:
    return module(batch)


def data(n: int = 400, seed: int = 0) -> Dataset:
    samples = np.random.default_rng(seed).standard_normal((n, PATCH * PATCHES)).astype(np.float32)
    split = np.resize(["train"] * 6 + ["val"] * 2 + ["test"] * 2, n)
    means = samples.reshape(n, PATCHES, PATCH).mean(1).astype(np.float64)
    targets = {"first": Target("value", means[:, 0]), "second": Target("value", means[:, 1])}
    return Dataset("planted", "series", samples, [f"s{i}" for i in range(n)], list(split), targets)
