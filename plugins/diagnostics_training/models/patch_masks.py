"""Which patches are hidden, drawn for a whole batch: as many in every sample, so that they batch.

Shape suffixes: B sample, N patch, K visible patch, M target block, W patch of a target block.
"""

import math

import numpy as np

TRIES = 4


def random_masks(rng: np.random.Generator, count: int, patches: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Visible and hidden patches of each sample, int64 [B, K] and [B, N - K], each in order; `share` of them hidden."""
    hidden = min(max(1, round(share * patches)), patches - 1)
    order = rng.random((count, patches)).argsort(1)
    return np.sort(order[:, hidden:], 1), np.sort(order[:, :hidden], 1)


def block_masks(rng: np.random.Generator, count: int, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Context and targets of a joint-embedding prediction, int64 [B, K] and [B, M, W].

    Series and images as I-JEPA (arXiv 2301.08243, section 3 and appendix A.1) hides them: four target blocks of 0.15 to 0.2
    of the patches and aspect 0.75 to 1.5, their size drawn once for the batch, and as context a block of 0.85 to 1 without
    what is in a target. Clips as V-JEPA (arXiv 2404.08471, section 3.2, short-range masks) does: eight blocks of 0.15 of each
    frame through all frames are one target, and all else is the context. Of several draws the first is taken that leaves
    enough context; then contexts (and the targets of clips) are cut at random to the fewest of the batch.
    """
    clip = len(grid) == 3
    patches, space = math.prod(grid), grid[1:] if clip else grid
    blocks = 8 if clip else 4
    shape = _shape(rng, space, 0.15 if clip else rng.uniform(0.15, 0.2), rng.uniform(0.75, 1.5))
    hidden = _placed(rng, (count, TRIES, blocks), space, shape)
    union = np.asarray(hidden.any(2))
    seen = ~union
    if not clip:
        context_shape = _shape(rng, space, rng.uniform(0.85, 1.0), 1.0)
        seen &= _placed(rng, (count, TRIES, 1), space, context_shape)[:, :, 0]
    left = seen.sum(-1)
    enough = left >= (0.15 if clip else 0.25) * math.prod(space)
    chosen = np.where(enough.any(1), enough.argmax(1), left.argmax(1))
    rows = np.arange(count)
    seen, union, hidden = seen[rows, chosen], union[rows, chosen], hidden[rows, chosen]
    if clip:
        seen, union = (np.tile(mask, grid[0]) for mask in (seen, union))
        return _cut(rng, seen), _cut(rng, union)[:, None]
    if not seen.any(1).all():
        # A grid of so few patches that blocks can cover it: one patch stays.
        bare = ~seen.any(1)
        seen[bare, rng.integers(0, patches, bare.sum())] = True
    return _cut(rng, seen), np.nonzero(hidden)[2].reshape(count, blocks, -1)


def _shape(rng: np.random.Generator, space: tuple[int, ...], scale: float, aspect: float) -> tuple[int, ...]:
    """Sides of a block with that share of the patches: at least one and at most the whole along each axis."""
    if len(space) == 1:
        sides: tuple[float, ...] = (scale * space[0],)
    else:
        area = scale * math.prod(space)
        sides = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    return tuple(min(max(1, round(side)), n) for side, n in zip(sides, space, strict=True))


def _placed(
    rng: np.random.Generator, count: tuple[int, ...], space: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Blocks of that shape at random places, bool [*count, N]."""
    mask = np.ones((*count, *(1 for _ in space)), bool)
    for axis, (side, extent) in enumerate(zip(shape, space, strict=True)):
        start = rng.integers(0, extent - side + 1, count)[..., None]
        within = (np.arange(extent) >= start) & (np.arange(extent) < start + side)
        mask = mask & np.expand_dims(within, tuple(len(count) + i for i in range(len(space)) if i != axis))
    return mask.reshape(*count, -1)


def _cut(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Places of a mask [B, N], as many of each row as the row with the fewest has, at random and in order."""
    fewest = int(mask.sum(1).min())
    order = np.where(mask, rng.random(mask.shape), 2.0).argsort(1)
    return np.sort(order[:, :fewest], 1)
