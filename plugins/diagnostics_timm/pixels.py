"""Raw images as Pillow images; shared by the plugins of image encoders. Imports neither timm nor torch."""

import numpy as np
from PIL import Image

from diagnostics import DiagnosticsError
from diagnostics.encoders.pictures import central_part


def image_of(sample: np.ndarray, encoder: str, mode: str = "RGB") -> Image.Image:
    """uint8 [y, x] or [y, x, 1 or 3] as an image of a Pillow mode; raises, in the encoder's name, for any other array."""
    sample = np.asarray(sample)
    grey = sample.ndim == 2 or (sample.ndim == 3 and sample.shape[2] == 1)
    if sample.dtype != np.uint8 or not (grey or (sample.ndim == 3 and sample.shape[2] == 3)) or 0 in sample.shape:
        raise DiagnosticsError(
            f"{encoder} takes images of dtype uint8 and shape [y, x] or [y, x, 1 or 3 channels], "
            f"not {sample.dtype} of shape {list(sample.shape)}: convert the samples."
        )
    return Image.fromarray(np.ascontiguousarray(sample.reshape(sample.shape[:2]) if grey else sample)).convert(mode)


def resized(image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    """The middle of an image with the proportions of `size` (y, x), at that size: Pillow smooths where it makes smaller."""
    (top, bottom), (left, right) = central_part((image.height, image.width), size)
    return image.crop((left, top, right, bottom)).resize((size[1], size[0]), how)


def example() -> np.ndarray:
    """A noise image that is not square, so that its preprocessed form depends on resizing and cropping alike."""
    return np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
