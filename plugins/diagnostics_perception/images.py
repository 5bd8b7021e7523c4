"""From a raw image to the input of a Perception Encoder, as in its training: squashed to a square, never cropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diagnostics import DiagnosticsError


@dataclass(frozen=True)
class Preprocess:
    """uint8 [y, x] or [y, x, channel] to float32 [3, size, size] in [-1, 1]; bilinear, with Pillow's antialiasing.

    The whole image is seen, whatever its proportions, so the grid covers all of it.
    """

    encoder: str
    size: int

    def __call__(self, sample: np.ndarray) -> Tensor:
        grey = sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] == 1)
        if sample.dtype != np.uint8 or not (grey or (sample.ndim == 3 and sample.shape[2] == 3)) or 0 in sample.shape:
            raise DiagnosticsError(
                f"{self.encoder} takes images of dtype uint8 and shape [y, x] or [y, x, 1 or 3 channels], "
                f"not {sample.dtype} of shape {list(sample.shape)}: convert the samples."
            )
        image = Image.fromarray(np.ascontiguousarray(sample[..., 0] if grey and sample.ndim == 3 else sample))
        squashed = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1).contiguous()
        return (pixels.float() / 255 - 0.5) / 0.5


def example() -> np.ndarray:
    """A noise image that is not square, so that its preprocessed form depends on how it is resized."""
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
