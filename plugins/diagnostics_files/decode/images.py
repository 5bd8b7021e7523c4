"""Decoding images, masks and depth, upright, at the size that they have: encoders bring them to theirs."""

from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from diagnostics.plugin import FORMATS, turn, upright
from diagnostics_files.errors import Unusable, check_regular, damaged, decoding, too_large

MOST_PIXELS = 100_000_000
"""Of one image: decoding holds several copies of them, of 4 bytes a pixel."""


def picture(source: Path | IO[bytes], name: str) -> np.ndarray:
    """An image as uint8 [y, x, 3]: of grey three equal channels, transparency dropped, only the first frame."""
    image = _opened(source, name)
    if image.mode.startswith(("I", "F")):
        raise Unusable(name, f"has pixels of {image.mode}, not of 8 bits a channel", "convert it to 8 bits")
    return np.asarray(image.convert("RGB"))


def mask(source: Path | IO[bytes], name: str) -> np.ndarray:
    """The numbers of a mask, int32 [y, x], from one channel of 1, 8 or 16 bits or palette indices."""
    image = _opened(source, name)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        kind = {"LA": "transparency", "PA": "transparency", "F": "fractions"}.get(image.mode, "colours")
        raise Unusable(
            name, f"has {kind} ({image.mode}) instead of class numbers",
            "convert masks to one channel of class numbers or to a palette", skip=False,
        )  # fmt: skip
    return np.asarray(image).astype(np.int32)


def depth(path: Path, name: str, scale: float) -> np.ndarray:
    """Depth in metres, float32 [y, x], NaN where unknown: `.npy` as it is, a 16-bit PNG times `scale`; 0 is unknown."""
    if path.suffix.lower() == ".npy":
        metres = plain_array(path, name).astype(np.float32)
        if metres.ndim != 2:
            raise Unusable(name, f"has the shape {list(metres.shape)}, not [y, x]", "store one map [y, x] per file")
    else:
        image = _opened(path, name)
        if not image.mode.startswith("I"):
            raise Unusable(
                name, f"has pixels of {image.mode}, not depth of 16 bits", "store depth as 16-bit PNG or .npy"
            )
        metres = np.asarray(image).astype(np.float32) * np.float32(scale)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan))


def extent(path: Path, name: str) -> tuple[int, int]:
    """(y, x) of an image or `.npy`, from its header alone."""
    if path.suffix.lower() == ".npy":
        shape = plain_array(path, name).shape
        return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)
    with _header(path, name) as image:
        # A TIFF says what it is after it was turned.
        lies = image.format != "TIFF" and turn(image) in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
        return (image.width, image.height) if lies else (image.height, image.width)


def plain_array(path: Path, name: str, skip: bool = True) -> np.ndarray:
    """A `.npy` of numbers, mapped rather than read; what would need a pickle or too much memory as float32 is refused."""
    check_regular(path, name, skip)
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        objects = any(word in str(error) for word in ("pickle", "Python objects"))
        why = "it holds a pickle, which could run anything" if objects else error
        raise damaged(name, why, skip) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise damaged(name, "it is no array of numbers", skip)
    if why := too_large(array.size * max(array.itemsize, 4)):
        raise Unusable(name, why, "store a smaller array", skip)
    return array


def _opened(source: Path | IO[bytes], name: str) -> Image.Image:
    with _header(source, name) as image, decoding(name):
        return upright(image).copy()


def _header(source: Path | IO[bytes], name: str) -> Image.Image:
    """The image with nothing decoded yet, so that one that says to be huge is refused before it is."""
    if isinstance(source, Path):
        check_regular(source, name)
    huge = Unusable(name, f"has more than {MOST_PIXELS // 10**6} million pixels", "make it smaller")
    try:
        image = Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise huge from error
    except Exception as error:
        raise damaged(name, error) from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise huge
    return image
