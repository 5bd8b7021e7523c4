"""Image encoders: one square input for all, and an example."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diagnostics import DiagnosticsError


@dataclass(frozen=True)
class Squash:
    """uint8 [y, x] or [y, x, 1 or 3] -> normalised float32 [3, side, side], resized (bicubic) without a crop.

    The whole image is seen, so that a grid covers all of it; an image that is not square changes its proportions.
    """

    encoder: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, sample: np.ndarray) -> Tensor:
        sample = np.asarray(sample)
        grey = sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] == 1)
        if sample.dtype != np.uint8 or not (grey or (sample.ndim == 3 and sample.shape[2] == 3)) or 0 in sample.shape:
            raise DiagnosticsError(
                f"{self.encoder} takes images of dtype uint8 and shape [y, x] or [y, x, 1 or 3 channels], not {sample.dtype} "
                f"of shape {list(sample.shape)}: convert the samples."
            )
        image = Image.fromarray(np.ascontiguousarray(sample.reshape(sample.shape[:2]) if grey else sample))
        resized = image.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def example() -> np.ndarray:
    """A noise image that is not square, so that its preprocessed form depends on how it is resized."""
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
