"""Points of a tile of a stereo pair, and where the right image shows them."""

import numpy as np

MOST_POINTS = 32
"""Of a tile, that are matched with the right image."""


def stereo_points(disparity: np.ndarray) -> np.ndarray:
    """Matches [match, 5] as of `pad_matches`.

    They are places [tile, tile] drawn evenly of those that the right image shows in the same tile, and which nothing
    nearer hides there.
    """
    tile = len(disparity)
    y, x = np.nonzero(np.isfinite(disparity))
    there = x + 0.5 - disparity[y, x]
    inside = there >= 0
    y, x, there = y[inside], x[inside], there[inside]
    column, nearest = there.astype(int), np.zeros((tile, tile))
    np.maximum.at(nearest, (y, column), disparity[y, x])
    seen = np.flatnonzero(disparity[y, x] >= nearest[y, column] - 1)
    some = np.random.default_rng(0).permutation(seen)[:MOST_POINTS]
    return np.column_stack([x[some] + 0.5, y[some] + 0.5, there[some], y[some] + 0.5, np.full(len(some), tile)])
