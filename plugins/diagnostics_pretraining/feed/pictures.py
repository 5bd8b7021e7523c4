"""Raw images as what the image tower reads, whole or changed at random."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from diagnostics_timm.pixels import image_of
from diagnostics_training.models.picture_changes import recoloured
from PIL import Image
from torch import Tensor

CACHED = 2**18
"""Numbers that are worked on at a time."""


def pictures(
    samples: Sequence[np.ndarray], size: int, reader: str, drawn: Mapping[str, np.ndarray] | None = None
) -> Tensor:
    """Images uint8 [y, x] or [y, x, channel] as float32 [image, 3, size, size] from -1 to 1.

    Whole images are squashed, as the encoder reads them in use: bilinear, with Pillow's antialiasing. `drawn`
    (`PictureChanges.draw`) says which box of each is seen instead, mirrored or not, and in which colours. `reader` is who
    refuses other arrays.
    """
    pixels = torch.empty(len(samples), 3, size, size)
    # Some at a time, whose numbers stay in the processor's cache.
    for first in range(0, len(samples), some := max(1, CACHED // (3 * size * size))):
        part = pixels[first : first + some]
        squashed = np.empty((len(part), size, size, 3), np.uint8)
        for i, sample in enumerate(samples[first : first + some], first):
            image = image_of(sample, reader)
            box = None if drawn is None else _box(image, drawn["half"][i], drawn["centre"][i])
            seen = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box))
            squashed[i - first] = seen[:, ::-1] if drawn is not None and drawn["mirror"][i] < 0 else seen
        part.copy_(torch.from_numpy(squashed).permute(0, 3, 1, 2)).div_(255)
        if drawn is not None:
            part.copy_(recoloured(part, torch.from_numpy(drawn["colour"][first : first + some]).float()))
        part.sub_(0.5).div_(0.5)
    return pixels


def _box(image: Image.Image, half: np.ndarray, centre: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom in pixels; half and centre are (y, x)."""
    places: list[tuple[float, float]] = []
    for extent, reach, middle in zip((image.height, image.width), half.tolist(), centre.tolist(), strict=True):
        first, last = ((1 + middle + side * reach) / 2 * extent for side in (-1, 1))
        # Rounding may lead out of the image, which Pillow refuses.
        places.append((max(0.0, first), min(float(extent), last)))
    (top, bottom), (left, right) = places
    return left, top, right, bottom
