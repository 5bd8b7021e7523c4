"""Words and numbers that are written over a scene, in several fonts, sizes and tones."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.plugin import importing

WRITTEN = {
    "word": ("lamp", "read", "east", "wind", "boat", "fury", "milk", "dusk"),
    "number": ("12", "36", "48", "57", "61", "74", "83", "90"),
}
"""All of one length, which would tell them apart before they are read."""
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSansMono-Oblique")
LEAST, MOST = 0.14, 0.26
"""Height of the letters, in sides of the image."""
_STREAM = 2**30
"""Sets the draws of what is written apart from those of worlds and second views."""


@functools.cache
def _font(name: str, size: int) -> Any:
    with importing("Written words need", "pip install matplotlib pillow"):
        import matplotlib
        from PIL import ImageFont
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def write(pixels: np.ndarray, seed: int, index: int) -> dict[str, str]:
    """Write a word and a number into an image, uint8 [y, x, 3], one in its upper and one in its lower half.

    Each is light with a dark rim or dark with a light one, so that it can be read over everything. Returns what is
    written, `word` and `number`. They depend on seed and index alone; pixels also on the versions of font and Pillow.
    """
    from PIL import Image, ImageDraw

    rng, side = np.random.default_rng([seed, index, _STREAM]), len(pixels)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    halves, said = rng.permutation(2), dict[str, str]()
    for (name, texts), half in zip(WRITTEN.items(), halves.tolist(), strict=True):
        said[name] = text = texts[rng.integers(len(texts))]
        font = _font(FONTS[rng.integers(len(FONTS))], max(6, round(side * rng.uniform(LEAST, MOST))))
        rim = max(1, side // 64)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=rim)
        x = rng.uniform(0, max(0.0, side - (right - left)))
        y = half * side / 2 + rng.uniform(0, max(0.0, side / 2 - (bottom - top)))
        light, dark = (tuple(rng.integers(*ends, 3).tolist()) for ends in ((200, 256), (0, 60)))
        fill, edge = (light, dark) if rng.random() < 0.5 else (dark, light)
        draw.text((x - left, y - top), text, font=font, fill=fill, stroke_width=rim, stroke_fill=edge)
    pixels[:] = np.asarray(image)
    return said
