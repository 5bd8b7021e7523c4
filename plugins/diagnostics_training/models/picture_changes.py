"""What is changed at random in pictures that are trained on: which part is seen, mirrored or not, and its colours."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class PictureChanges:
    """Ranges from which changes are drawn; by default those of SimCLR (arXiv 2002.05709, appendix A) with larger crops.

    area, aspect: of a crop, as shares of the picture's own; as likely as its inverse is each aspect.
    mirror, grey: how often left and right are exchanged, and all colours become grey.
    brightness, contrast, saturation: how far the factor of each lies from 1 at most; contrast is about the mean grey.
    """

    area: tuple[float, float] = (0.4, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    grey: float = 0.2

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Changes of `count` pictures, arrays [picture, ...].

        half, centre: half sides (y, x) of the crop as shares of the picture's half sides, and its centre, from -1 to 1.
        mirror: -1 or 1. colour: factors of brightness, contrast and saturation.
        """
        area = rng.uniform(*self.area, count)
        aspect = np.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1]), count))
        half = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=1).clip(max=1)
        centre = rng.uniform(-1, 1, (count, 2)) * (1 - half)
        mirror = np.where(rng.random(count) < self.mirror, -1.0, 1.0)
        reach = np.array([self.brightness, self.contrast, self.saturation])
        colour = rng.uniform(1 - reach, 1 + reach, (count, 3))
        colour[rng.random(count) < self.grey, 2] = 0
        return {"half": half, "centre": centre, "mirror": mirror, "colour": colour}


def recoloured(pixels: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast about the mean grey, and saturation [B, 3] of pixels [B, colour, ...] from 0 to 1."""
    bright, contrast, saturation = (f.reshape(-1, *[1] * (pixels.ndim - 1)) for f in factors.unbind(1))
    pixels = (pixels * bright).clamp_(0, 1)
    if not bool((contrast == 1).all()):
        middle = _grey(pixels).flatten(1).mean(1).reshape(bright.shape)
        pixels = ((pixels - middle) * contrast + middle).clamp_(0, 1)
    grey = _grey(pixels)
    return ((pixels - grey) * saturation + grey).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    weights = torch.tensor(GREY).reshape(1, 3, *[1] * (pixels.ndim - 2))
    return (pixels * weights).sum(1, keepdim=True)
