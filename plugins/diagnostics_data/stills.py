"""Photographs of textures that arrive inside the wheel of scikit-image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    Dataset = Any

TEXTURES = ("brick", "grass", "gravel")
SIDE = 512
"""Of each photograph, in pixels."""


def textures(tile: int = 64) -> Dataset:
    """Square grey tiles of three photographs, uint8 [tile, tile]; target `label`: brick, grass or gravel.

    Tiles (8 to 102 px) do not overlap. Columns of tiles go to train, val and test from left to right, and a column of a
    photograph is a group. One photograph a class: a score says that these three are told apart, not textures at large. Source:
    `skimage.data.brick`, `grass` and `gravel`.
    """
    if not 8 <= tile <= SIDE // 5:
        raise DiagnosticsError(
            f"Dataset textures cannot be cut into tiles of tile={tile} pixels: give 8 to {SIDE // 5}."
        )
    try:
        import skimage.data
    except ImportError as error:
        raise DiagnosticsError(
            "Dataset textures comes with scikit-image, which is not installed: pip install scikit-image"
        ) from error
    import numpy as np

    from diagnostics import Dataset, Target

    columns = SIDE // tile
    split = ["train"] * (columns * 6 // 10) + ["val"] * max(1, columns * 2 // 10)
    split += ["test"] * (columns - len(split))
    places = [(t, y, x) for t in range(len(TEXTURES)) for y in range(columns) for x in range(columns)]
    pictures = [getattr(skimage.data, name)() for name in TEXTURES]
    return Dataset(
        "textures",
        "image",
        np.stack([pictures[t][y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] for t, y, x in places]),
        [f"{TEXTURES[t]}-y{y * tile}-x{x * tile}" for t, y, x in places],
        [split[x] for _, _, x in places],
        {"label": Target("label", np.array([t for t, _, _ in places]), about="which texture", classes=TEXTURES)},
        groups=[f"{TEXTURES[t]}-x{x * tile}" for t, _, x in places],
        about="tiles of three photographs of textures",
    )
