"""An encoder of images whose tokens name their object inside, and lose it in the last block; images and clips of objects.

A patch of 4 x 4 pixels is a token of 8 features: how much red, green and blue it has, one for the background, and four of its
texture, which is noise. The last block takes the first four away and makes the others larger, so that tokens of one object are no
more alike at the output than any others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, Grid, Target, TorchEncoder, stack_taps

PATCH, SIDE, WIDTH = 4, 8, 8
NAMES = WIDTH // 2


class Adding(nn.Module):
    """x + W x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.linear.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Linear(3 * PATCH**2, WIDTH)
        with torch.no_grad():
            colours = torch.eye(3).repeat_interleave(PATCH**2, 1) / PATCH**2
            texture = torch.randn(NAMES, 3, PATCH**2, generator=generator)
            texture = 0.2 * (texture - texture.mean(2, keepdim=True)).flatten(1)
            self.embed.weight.copy_(torch.cat([colours, -colours.sum(0, keepdim=True), texture]))
            self.embed.bias.copy_(torch.tensor([0.0] * 3 + [1.0] + [0.0] * NAMES))
        mixing = 0.02 * torch.randn(WIDTH, WIDTH, generator=generator)
        last = torch.diag(torch.tensor([-1.0] * NAMES + [1.0] * NAMES))
        self.blocks = nn.ModuleList([Adding(mixing), Adding(last)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x


def patches(image: np.ndarray) -> Tensor:
    """[y, x, 3] as [token, 48], from 0 to 1."""
    pixels = torch.as_tensor(image).float() / 255
    return pixels.reshape(SIDE, PATCH, SIDE, PATCH, 3).permute(0, 2, 4, 1, 3).reshape(SIDE**2, -1)


def build() -> TorchEncoder:
    taps = stack_taps("blocks", 2, WIDTH, Grid((SIDE, SIDE), ("y", "x")))
    example = np.zeros((SIDE * PATCH, SIDE * PATCH, 3), np.uint8)
    return TorchEncoder("naming", "image", Stack(), taps, "blocks.1", patches, example)


def clip(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Three objects of 3 x 2 cells, red, green and blue, that move by a cell a frame on noise.

    uint8 [t, y, x, 3], and which object each pixel belongs to, int [t, y, x].
    """
    masks = np.zeros((frames, SIDE, SIDE), np.int8)
    for number, (row, way) in enumerate(zip(rng.permutation([0, 3, 6])[:3], rng.choice([-1, 1], 3), strict=True), 1):
        start = rng.integers(0, SIDE)
        for t in range(frames):
            columns = (start + way * t + np.arange(3)) % SIDE
            masks[t, row : row + 2, columns] = number
    masks = masks.repeat(PATCH, 1).repeat(PATCH, 2)
    colours = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * 180.0 + 35
    pixels = colours[masks] + rng.normal(0, 30, (*masks.shape, 3))
    return pixels.clip(0, 255).astype(np.uint8), masks


def data(n: int = 80, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    pixels, masks = (np.concatenate(part) for part in zip(*(clip(rng, 1) for _ in range(n)), strict=True))
    split = np.resize(["train"] * 6 + ["val"] * 2 + ["test"] * 2, n)
    targets = {"masks": Target("masks", masks)}
    return Dataset("objects", "image", pixels, [f"o{i}" for i in range(n)], list(split), targets)
