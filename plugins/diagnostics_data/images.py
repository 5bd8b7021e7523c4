"""Datasets of images that arrive inside the wheels of scikit-learn and scikit-image; nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics import Dataset
else:
    # The registry resolves annotations when options arrive; the real class would import torch just to be listed.
    Dataset = Any

DIGITS = 1797
HEIGHT, WIDTH = 500, 741
"""Of the motorcycle scene, in pixels."""


def digits(n: int | None = None, seed: int = 0) -> Dataset:
    """Handwritten digits: uint8 [8, 8] from 0 to 255, target `label`.

    `n` takes a random subset (10 to 1797; all when None) that contains the smaller ones of the same seed; `seed`
    governs subset and split. Source: Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits (1998), as in
    `sklearn.datasets.load_digits`.
    """
    if n is not None and not 10 <= n <= DIGITS:
        raise DiagnosticsError(f"Dataset digits cannot have n={n} images: give 10 to {DIGITS}, or leave n out for all.")
    if seed < 0:
        raise DiagnosticsError(f"Dataset digits cannot have seed={seed}: give 0 or more.")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("digits", "scikit-learn") from error
    import numpy as np

    from diagnostics import Dataset, Target, split_groups

    bunch: Any = load_digits()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(bunch.images))[:n])
    # The originals run from 0 to 16.
    samples = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{i:04d}" for i in chosen]
    label = Target(
        "label",
        bunch.target[chosen].astype(np.int64),
        about="which digit",
        classes=tuple(map(str, range(10))),
    )
    split = list(split_groups(ids, seed))
    return Dataset("digits", "image", samples, ids, split, {"label": label}, about="8 x 8 handwritten digits")


def motorcycle(tile: int = 100) -> Dataset:
    """Square tiles of one real scene: uint8 [tile, tile, 3], target `disparity` float32 [sample, tile, tile] in pixels.

    Tiles (8 to 247 px) do not overlap; what is left at the right and lower edges is dropped. Columns of tiles go to
    train, val and test from left to right. Source: Scharstein et al., High-resolution stereo datasets with
    subpixel-accurate ground truth (GCPR 2014), a quarter of the size, as in `skimage.data.stereo_motorcycle`.
    """
    if not 8 <= tile <= WIDTH // 3:
        raise DiagnosticsError(
            f"Dataset motorcycle cannot be cut into tiles of tile={tile} pixels: give 8 to {WIDTH // 3}, so that "
            f"there are columns for train, val and test."
        )
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise _missing("motorcycle", "scikit-image") from error
    import numpy as np

    from diagnostics import Dataset, Target

    left, _, disparity = stereo_motorcycle()
    # Its documentation says NaN for what is unknown; the file has infinity.
    disparity = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)
    corners = [(y, x) for y in range(0, HEIGHT - tile + 1, tile) for x in range(0, WIDTH - tile + 1, tile)]
    columns = WIDTH // tile
    train = max(1, columns * 6 // 10)
    val = max(1, columns * 2 // 10)
    of_column = ["train"] * train + ["val"] * val + ["test"] * (columns - train - val)
    target = Target(
        "token_value",
        np.stack([disparity[y : y + tile, x : x + tile] for y, x in corners]),
        units="px",
        about="offset to the right image, inverse to depth; NaN where unknown",
    )
    return Dataset(
        "motorcycle",
        "image",
        np.stack([left[y : y + tile, x : x + tile] for y, x in corners]),
        [f"motorcycle-y{y}-x{x}" for y, x in corners],
        [of_column[x // tile] for _, x in corners],
        {"disparity": target},
        about="tiles of one real stereo scene with measured disparity",
    )


def _missing(name: str, package: str) -> DiagnosticsError:
    return DiagnosticsError(f"Dataset {name} comes with {package}, which is not installed: pip install {package}")
