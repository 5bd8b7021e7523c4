"""Raw images as Pillow images, and by the one resize rule as tensors; shared by the plugins of image encoders."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, central_part


def image_of(sample: np.ndarray, encoder: str, mode: str = "RGB") -> Image.Image:
    """uint8 [y, x] or [y, x, 1 or 3] as an image of a Pillow mode.

    Raises, in the encoder's name, for any other array.
    """
    sample = np.asarray(sample)
    grey = sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] == 1)
    if sample.dtype != np.uint8 or not (grey or (sample.ndim == 3 and sample.shape[2] == 3)) or 0 in sample.shape:
        raise DiagnosticsError(
            f"{encoder} takes images of dtype uint8 and shape [y, x] or [y, x, 1 or 3 channels], "
            f"not {sample.dtype} of shape {list(sample.shape)}: convert the samples.",
            code="bad-sample",
        )
    image = Image.fromarray(np.ascontiguousarray(sample.reshape(sample.shape[:2]) if grey else sample))
    # Converting to what it is copies it.
    return image if image.mode == mode else image.convert(mode)


def resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """The middle of an image with the proportions of `size` (y, x), at that size.

    Pillow smooths where it makes smaller.
    """
    (top, bottom), (left, right) = central_part((image.height, image.width), size)
    return image.crop((left, top, right, bottom)).resize((size[1], size[0]), how)


@dataclass(frozen=True)
class Middle:
    """Images by the one resize rule: their middle with the proportions of `size` (y, x), resized to it and normalised.

    mean, std: of pixels from 0 to 1, one number a channel or one for all.
    """

    encoder: str
    size: tuple[int, int]
    channels: int
    mean: Sequence[float]
    std: Sequence[float]
    how: Image.Resampling = Image.Resampling.BICUBIC

    def pixels(self, sample: np.ndarray) -> Tensor:
        """uint8 [y, x] or [y, x, 1 or 3] as float32 [channel, *size]."""
        image = image_of(sample, self.encoder, "RGB" if self.channels == 3 else "L")
        pixels = torch.from_numpy(np.array(resized(image, self.size, self.how), dtype=np.float32) / 255)
        normal = (pixels.reshape(*self.size, self.channels) - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normal.permute(2, 0, 1).contiguous()

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """(start, stop) along each axis of an image or a video, of the middle."""
        return central_part(shape, self.size)


def example() -> np.ndarray:
    """A noise image that is not square, so that its preprocessed form depends on resizing and cropping alike."""
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
