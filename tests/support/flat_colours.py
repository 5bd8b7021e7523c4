"""Images that are each of one of 16 flat colours, with its name: what towers must learn, and a pair of encoders that knows it.

Named as file.py:build; every colour is as frequent in each split, and no image is in two of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, Grid, Site, Tap, Target, TorchEncoder

COLOURS = {
    "black": (10, 10, 10), "grey": (128, 128, 128), "white": (245, 245, 245), "red": (220, 20, 20), "maroon": (110, 10, 10),
    "orange": (250, 140, 20), "brown": (130, 70, 20), "yellow": (240, 230, 30), "lime": (120, 240, 20), "green": (10, 110, 20),
    "teal": (10, 128, 128), "cyan": (30, 230, 240), "blue": (30, 50, 230), "navy": (10, 10, 100), "purple": (120, 20, 140),
    "pink": (250, 150, 200),
}  # fmt: skip
SIDE = 16


def build(n: int = 960, seed: int = 0) -> Dataset:
    """Brightness and noise differ from image to image."""
    rng = np.random.default_rng(seed)
    names = list(COLOURS)
    label = np.arange(n) % len(names)
    flat = np.array([COLOURS[names[i]] for i in label], float).reshape(n, 1, 1, 3)
    pixels = flat + rng.uniform(-8, 8, (n, 1, 1, 1)) + rng.normal(0, 3, (n, SIDE, SIDE, 3))
    return Dataset(
        "flat_colours",
        "image",
        np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
        [f"flat-{seed}-{i}" for i in range(n)],
        [("train", "train", "train", "val", "test")[i // len(names) % 5] for i in range(n)],
        {"colour": Target("label", label, classes=tuple(names))},
        texts=[names[i] for i in label],
    )


class Mean(nn.Module):
    """The mean over pixels, and one number more, so that black too has a direction."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2))
        return torch.cat([mean, torch.ones_like(mean[:, :1])], dim=1)


def knowing() -> tuple[TorchEncoder, TorchEncoder]:
    """Encoders of images and of names by which each name is nearest to the images of its colour."""
    tap = Tap("whole", 1.0, "trunk", 4, Grid((1,), ("t",)), Site("", layout="features"))

    def of_image(sample: np.ndarray) -> Tensor:
        return torch.from_numpy((np.asarray(sample, np.float32) - 128) / 64)

    def of_text(text: np.ndarray) -> Tensor:
        return of_image(np.full((1, 1, 3), COLOURS[str(text)]))

    image = TorchEncoder("eye", "image", Mean(), [tap], "whole", of_image, np.zeros((SIDE, SIDE, 3), np.uint8))
    return image, TorchEncoder("dictionary", "text", Mean(), [tap], "whole", of_text, np.asarray("red"))
