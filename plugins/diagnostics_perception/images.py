"""From a raw image to the input of a Perception Encoder, as in its training: squashed to a square, never cropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diagnostics_timm.pixels import image_of
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """uint8 [y, x] or [y, x, channel] to float32 [3, size, size] in [-1, 1]; bilinear, with Pillow's antialiasing.

    The whole image is seen, whatever its proportions, so the grid covers all of it.
    """

    encoder: str
    size: int

    def __call__(self, sample: np.ndarray) -> Tensor:
        squashed = image_of(sample, self.encoder).resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1).contiguous()
        return (pixels.float() / 255 - 0.5) / 0.5
