"""An encoder whose cells hold the answers to questions about an image, and such images: named as file.py:function.

An image is of 2 x 2 cells of one colour and one shape, each one of four; a token holds both as one-hot vectors, side by side, and
the last block takes the shape away. Every pair of answers is as frequent in each split, so that another sample's cells and the
commonest answer are worth one in four. `blind` is given nothing of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, DiagnosticsError, Grid, Question, Target, TorchEncoder, stack_taps

COLOURS, SHAPES = ("red", "green", "blue", "grey"), ("disc", "star", "ring", "cross")
SIDE, WIDTH = 4, 8
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "colour": (
        ("which colour is it?", "name the colour.", "it has which colour?", "is it of which colour?"),
        ("it is which colour?",),
    ),
    "shape": (
        ("which shape is it?", "name the shape.", "it has which shape?", "is it of which shape?"),
        ("it is which shape?",),
    ),
}


class Adding(nn.Module):
    """x + W x, where W takes the second half away or is 0."""

    def __init__(self, erases: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)
        self.linear.weight = nn.Parameter(torch.diag(torch.tensor([0.0, -float(erases)]).repeat_interleave(WIDTH // 2)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Adding(False), Adding(True)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def cells(sample: np.ndarray) -> Tensor:
    if np.shape(sample) != (SIDE, SIDE, 3):
        raise DiagnosticsError(f"It reads images of {SIDE} pixels, not of shape {np.shape(sample)}.")
    corners = torch.as_tensor(np.asarray(sample)[::2, ::2]).long().reshape(-1, 3)
    return torch.cat([nn.functional.one_hot(corners[:, i], 4) for i in (0, 1)], dim=1).float()


def build(preprocess: Callable[[np.ndarray], Tensor] = cells) -> TorchEncoder:
    taps = stack_taps("blocks", 2, WIDTH, Grid((2, 2), ("y", "x")))
    example = np.zeros((SIDE, SIDE, 3), np.uint8)
    return TorchEncoder("answering", "image", Stack(), taps, "blocks.1", preprocess, example)


def blind() -> TorchEncoder:
    return build(lambda sample: torch.ones_like(cells(sample)))


def data(n: int = 400, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    split = np.repeat(["train", "val", "test"], [n - 2 * (n // 5), n // 5, n // 5])
    known = np.empty((n, 2), int)
    for name in np.unique(split):
        rows = np.flatnonzero(split == name)
        known[rows] = rng.permutation(np.resize([divmod(i, 4) for i in range(16)], (len(rows), 2)))
    samples = np.zeros((n, SIDE, SIDE, 3), np.uint8)
    samples[..., :2] = known[:, None, None]
    words = dict(zip(WORDINGS, (COLOURS, SHAPES), strict=True))
    questions = [
        tuple(Question(name, words[name][one], *WORDINGS[name]) for name, one in zip(words, row, strict=True))
        for row in known
    ]
    targets = {name: Target("label", known[:, i], classes=words[name]) for i, name in enumerate(words)}
    return Dataset("answered", "image", samples, [f"s{i}" for i in range(n)], list(split), targets, questions=questions)
