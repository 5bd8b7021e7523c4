"""Out-of-fold choice of a penalty from sums of 5 blocks of images, as streamed targets have them, beside 20.

Planted tokens of a falling spectrum, correlated within an image, and values that a linear map of them gives with noise of the same kind.
Both choose on the same images, fit again on all, and are read on 60 others. What blocks cost is counted: their bytes for PE-L (25 taps of
1,024 features) and PE-G (50 of 1,536), and fits, each of an eigendecomposition a tap. Where layers are chosen on val only one block is held out.
"""

from __future__ import annotations

import numpy as np

from diagnostics.measures.probes.dense import penalty_errors, sum_blocks
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, RidgePath, choose
from diagnostics.measures.probes.protocol import FOLDS

from _common import SMALLEST, finish, verdict

MANY, TEST, TOKENS, WIDTH = 20, 60, 16, 48
DRAWS = 2 if SMALLEST else 60
LIMIT = 0.005
SHAPES = {"PE-L": (25, 1024), "PE-G": (50, 1536)}


def planted(rng: np.random.Generator, images: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [image, token, feature] and values [image, token, 1]."""

    def correlated(width: int) -> np.ndarray:
        return (rng.standard_normal((images, 1, width)) + rng.standard_normal((images, TOKENS, width))) / 2**0.5

    spectrum = np.arange(1, WIDTH + 1) ** -0.5
    x = correlated(WIDTH) * spectrum
    y = x @ (rng.standard_normal(WIDTH) * spectrum ** rng.uniform(-1, 1))[:, None]
    return x, y / y.std() + noise * correlated(1)


def sums(x: np.ndarray, y: np.ndarray) -> Moments:
    """Of the tokens of some images."""
    moments = Moments(np.zeros(WIDTH), np.zeros(1))
    moments.update(x.reshape(-1, WIDTH), y.reshape(-1, 1))
    return moments


def score(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, blocks: int) -> float:
    """R2 on the last images, by the penalty that so many blocks of the others choose."""
    images = len(x) - TEST
    of = rng.permutation(images) % blocks
    by_block = {block: sums(x[:images][of == block], y[:images][of == block]) for block in range(blocks)}
    penalty = choose(penalty_errors(by_block, range(blocks)), PENALTIES)
    path = RidgePath.from_moments(sum_blocks(by_block))
    test = sums(x[images:], y[images:])
    return float(1 - test.squared_error(path, penalty)[0] / test.spread(path.mean_y)[0])


def main() -> None:
    held = []
    for name, (taps, features) in SHAPES.items():
        each = 8 * taps * features * (features + 1) / 2 / 1e9
        print(
            f"{name}: {FOLDS * each:.2f} GB in {FOLDS} blocks, {MANY * each:.1f} in {MANY}; fits out of fold 1 to {MANY / FOLDS:.0f}"
        )
    for images in (32, 100):
        for noise in (0.3, 1.0, 3.0):
            gains = []
            for draw in range(DRAWS):
                rng = np.random.default_rng([images, int(10 * noise), draw])
                x, y = planted(rng, images + TEST, noise)
                few, many = (score(rng, x, y, blocks) for blocks in (FOLDS, MANY))
                gains.append(many - few)
            error = np.std(gains) / DRAWS**0.5
            held.append(
                verdict(
                    f"R2 that {MANY} blocks gain over {FOLDS}, {images} images, noise {noise} (error {error:.4f})",
                    float(np.mean(gains)),
                    LIMIT,
                )
            )
    finish(*held)


if __name__ == "__main__":
    main()
