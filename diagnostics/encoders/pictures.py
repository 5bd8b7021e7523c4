"""Images as arrays, and the one rule by which they are brought to a size.

The shorter side, antialiased, cut in the middle.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diagnostics.errors import DiagnosticsError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""What is decoded, whatever a file is called; other formats start programs (EPS) or are no pictures."""


def central_part(shape: tuple[int, ...], size: Sequence[int] = (1, 1)) -> tuple[tuple[int, int], ...]:
    """Largest middle with the proportions of `size`, as (start, stop) along each axis.

    It is that of an image [y, x] or a video [t, y, x].

    That part is brought to `size` by a resize with antialiasing. It is what `covers` of an encoder gives that resizes
    so, by which dense targets are cut as the image is.

    Examples:
        >>> from diagnostics.encoders.pictures import central_part
        >>> central_part((240, 320))
        ((0, 240), (40, 280))
    """
    scale = min(n / wanted for n, wanted in zip(shape[-2:], size, strict=True))
    part = [(n, max(1, round(scale * wanted))) for n, wanted in zip(shape[-2:], size, strict=True)]
    return (*((0, n) for n in shape[:-2]), *(((n - kept) // 2, (n - kept) // 2 + kept) for n, kept in part))


def turn(image: Any) -> str:
    """The turn that a Pillow image needs to be seen upright, as cameras note it in EXIF.

    It is the name of a transposition, "" for none.
    """
    names = (
        "",
        "FLIP_LEFT_RIGHT",
        "ROTATE_180",
        "FLIP_TOP_BOTTOM",
        "TRANSPOSE",
        "ROTATE_270",
        "TRANSVERSE",
        "ROTATE_90",
    )
    try:
        noted = image.getexif().get(0x0112)
    except Exception:  # EXIF that cannot be read states no turn
        return ""
    return names[noted - 1] if noted in range(1, 9) else ""


def upright(image: Any) -> Any:
    """A Pillow image as viewers show it."""
    from PIL import Image

    image.load()  # Pillow turns a TIFF when it is loaded
    how = turn(image)
    return image.transpose(Image.Transpose[how]) if how else image


def to_pixels(sample: Any, grey: bool) -> Any:
    """The path of an image or a Pillow image as uint8 [y, x, 3], or `grey` [y, x].

    Folders of datasets hold them so; anything else stays as it is.

    Raises DiagnosticsError for pixels of more than 8 bits a channel.
    """
    if isinstance(sample, (str, os.PathLike)):
        from PIL import Image

        with Image.open(sample, formats=FORMATS) as image:
            return to_pixels(image, grey)
    if not hasattr(sample, "getbands"):
        return sample
    sample = upright(sample)
    if sample.mode.startswith(("I", "F")):
        raise DiagnosticsError(
            f"An image has pixels of {sample.mode}, not of 8 bits a channel: convert it to 8 bits.", code="bad-sample"
        )
    return np.array(sample.convert("L" if grey else "RGB"))
