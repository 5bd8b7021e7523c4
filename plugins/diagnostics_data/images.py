"""Datasets of images: rendered, or from the wheels of scikit-learn and scikit-image; nothing is downloaded."""

from __future__ import annotations

import diagnostics as dx
from diagnostics_data.wheels import module_of

DIGITS = 1797
HEIGHT, WIDTH = 500, 741
"""Of the motorcycle scene, in pixels."""
TEXTURES = ("brick", "grass", "gravel")
SIDE = 512
"""Of the photograph of each texture, in pixels."""


def digits(n: int | None = None, seed: int = 0) -> dx.Dataset:
    """Handwritten digits: uint8 [8, 8] from 0 to 255, target `label`.

    `n` takes a random subset (10 to 1797; all when None) that contains the smaller ones of the same seed; `seed`
    governs subset and split. Source: Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits (1998), as in
    `sklearn.datasets.load_digits`.
    """
    if n is not None and not 10 <= n <= DIGITS:
        raise dx.DiagnosticsError(
            f"Dataset digits cannot have n={n} images: give 10 to {DIGITS}, or leave n out for all."
        )
    if seed < 0:
        raise dx.DiagnosticsError(f"Dataset digits cannot have seed={seed}: give 0 or more.")
    bunch = module_of("digits", "sklearn.datasets", "scikit-learn").load_digits()
    import numpy as np

    chosen = np.sort(np.random.default_rng(seed).permutation(len(bunch.images))[:n])
    # The originals run from 0 to 16.
    samples = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{i:04d}" for i in chosen]
    label = dx.Target(
        "label",
        bunch.target[chosen].astype(np.int64),
        about="which digit",
        classes=tuple(map(str, range(10))),
    )
    split = list(dx.split_groups(ids, seed))
    return dx.Dataset(
        "digits", "image", samples, ids, split, {"label": label}, about="8 x 8 handwritten digits", exchangeable=True
    )


def motorcycle(tile: int = 100) -> dx.Dataset:
    """Square tiles of one real scene: uint8 [tile, tile, 3], target `disparity` float32 [sample, tile, tile] in pixels.

    Tiles (8 to 247 px) do not overlap; what is left at the right and lower edges is dropped. Columns of tiles go to
    train, val and test from left to right. Source: Scharstein et al., High-resolution stereo datasets with
    subpixel-accurate ground truth (GCPR 2014), a quarter of the size, as in `skimage.data.stereo_motorcycle`.
    """
    if not 8 <= tile <= WIDTH // 3:
        raise dx.DiagnosticsError(
            f"Dataset motorcycle cannot be cut into tiles of tile={tile} pixels: give 8 to {WIDTH // 3}, so that "
            f"there are columns for train, val and test."
        )
    left, _, disparity = module_of("motorcycle", "skimage.data", "scikit-image").stereo_motorcycle()
    import numpy as np

    # Its documentation says NaN for what is unknown; the file has infinity.
    disparity = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)
    corners = [(y, x) for y in range(0, HEIGHT - tile + 1, tile) for x in range(0, WIDTH - tile + 1, tile)]
    columns = WIDTH // tile
    train = max(1, columns * 6 // 10)
    val = max(1, columns * 2 // 10)
    of_column = ["train"] * train + ["val"] * val + ["test"] * (columns - train - val)
    target = dx.Target(
        "token_value",
        np.stack([disparity[y : y + tile, x : x + tile] for y, x in corners]),
        units="px",
        about="offset to the right image, inverse to depth; NaN where unknown",
    )
    return dx.Dataset(
        "motorcycle",
        "image",
        np.stack([left[y : y + tile, x : x + tile] for y, x in corners]),
        [f"motorcycle-y{y}-x{x}" for y, x in corners],
        [of_column[x // tile] for _, x in corners],
        {"disparity": target},
        about="tiles of one real stereo scene with measured disparity",
    )


def textures(tile: int = 64) -> dx.Dataset:
    """Square grey tiles of three photographs, uint8 [tile, tile]; target `label`: brick, grass or gravel.

    Tiles (8 to 102 px) do not overlap. Columns of tiles go to train, val and test from left to right, and a column of a
    photograph is a group. One photograph a class: a score says that these three are told apart, not textures at large. Source:
    `skimage.data.brick`, `grass` and `gravel`.
    """
    if not 8 <= tile <= SIDE // 5:
        raise dx.DiagnosticsError(
            f"Dataset textures cannot be cut into tiles of tile={tile} pixels: give 8 to {SIDE // 5}."
        )
    photographs = module_of("textures", "skimage.data", "scikit-image")
    import numpy as np

    columns = SIDE // tile
    split = ["train"] * (columns * 6 // 10) + ["val"] * max(1, columns * 2 // 10)
    split += ["test"] * (columns - len(split))
    places = [(t, y, x) for t in range(len(TEXTURES)) for y in range(columns) for x in range(columns)]
    pictures = [getattr(photographs, name)() for name in TEXTURES]
    return dx.Dataset(
        "textures",
        "image",
        np.stack([pictures[t][y * tile : (y + 1) * tile, x * tile : (x + 1) * tile] for t, y, x in places]),
        [f"{TEXTURES[t]}-y{y * tile}-x{x * tile}" for t, y, x in places],
        [split[x] for _, _, x in places],
        {"label": dx.Target("label", np.array([t for t, _, _ in places]), about="which texture", classes=TEXTURES)},
        groups=[f"{TEXTURES[t]}-x{x * tile}" for t, _, x in places],
        about="tiles of three photographs of textures",
    )


def shapes(
    n: int = 1000, size: int = 64, frames: int = 1, seed: int = 0, objects: int = 6, split: str = "samples"
) -> dx.Dataset:
    """Scenes of one to six objects in a room, rendered, with exact labels, counts, places, masks, depth, captions and questions.

    Samples are images uint8 [size, size, 3], or, with `frames` above 1, clips uint8 [frames, size, size, 3] with optical
    flow and velocities too. n: 10 to 1,000,000; size: 32 to 512; frames: 1 to 64; together they must fit into 4 GiB, at
    9 bytes a pixel of an image and 17 of a clip. Scene i of a seed is the same whatever `n`, and the same world at every
    size. objects: at most so many, 1 to 6; with fewer, a scene holds the first ones of that with more. split: `samples`
    at random, or `pairs`: pairs of the main object's shape and colour are groups, and test has 16 of the 64 that are in no other
    split, the same ones whatever the seed. `texts` are the captions; `centres` and `visible` are those of `dataset.Shapes`.
    """
    from diagnostics_data.shapes.dataset import build

    return build(n, size, frames, seed, objects, split)
