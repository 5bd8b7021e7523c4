"""Dense targets on a tap's grid: the mean, the commonest class or any event of each cell; and the part that a grid covers."""

from __future__ import annotations

import numpy as np

# A cell of which less than this share has known values says nothing.
KNOWN_SHARE = 0.5


def on_grid(maps: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Maps [sample, *extent] averaged over the cells of a grid, as float64 [sample, token] in raster order.

    `covered` gives for each axis the (start, stop) of the sample that the grid spans. Places shared by two cells count
    for both by the share that lies in each; NaN places are left out, and a cell with less than half of it known is NaN.
    """
    known = np.isfinite(maps)
    total = np.where(known, maps, 0.0).astype(np.float64)
    weight = known.astype(np.float64)
    area = np.ones(())
    for axis, ((start, stop), cells) in enumerate(zip(covered, shape, strict=True), start=1):
        overlap = _overlap(start, stop, cells, maps.shape[axis])
        total = np.moveaxis(np.tensordot(total, overlap, axes=(axis, 1)), -1, axis)
        weight = np.moveaxis(np.tensordot(weight, overlap, axes=(axis, 1)), -1, axis)
        area = np.multiply.outer(area, np.full(cells, (stop - start) / cells))
    enough = weight >= KNOWN_SHARE * area
    mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=enough & (weight > 0))
    return mean.reshape(len(maps), -1)


def classes_on_grid(labels: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Int labels [sample, *extent] (-1 unknown) as the class of the largest share of each cell, int16 [sample, token].

    Of equal shares the lower class; -1 where less than half of the cell is known.
    """
    known = np.where(labels >= 0, 1.0, np.nan)
    unknown = np.isnan(on_grid(known, covered, shape))
    most = np.full(unknown.shape, -np.inf)
    best = np.full(unknown.shape, -1, dtype=np.int16)
    for label in np.unique(labels[labels >= 0]):
        share = on_grid((labels == label).astype(np.float32), covered, shape)
        larger = share > most
        best[larger], most[larger] = label, share[larger]
    best[unknown] = -1
    return best


def events_on_grid(events: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Events [sample, *extent] as 1 where any falls into a cell, 0 where none does, NaN where too little is known."""
    share = on_grid(events, covered, shape)
    return np.where(np.isnan(share), np.nan, (share > 0).astype(np.float64))


def covered_part(maps: np.ndarray, covered: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The part [sample, *extent] of maps that a grid covers, cut at whole places."""
    return maps[(slice(None), *(slice(round(start), round(stop)) for start, stop in covered))]


def resample(tokens: np.ndarray, grid: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Tokens [row, token, feature] of a grid as those of another grid over the same place, averaged by shared area."""
    found = tokens.reshape(len(tokens), *grid, -1)
    for axis, (old, new) in enumerate(zip(grid, shape, strict=True), start=1):
        share = _overlap(0.0, float(old), new, old) * (new / old)
        found = np.moveaxis(np.tensordot(found, share.astype(tokens.dtype), axes=(axis, 1)), -1, axis)
    return found.reshape(len(tokens), -1, tokens.shape[2])


def _overlap(start: float, stop: float, cells: int, extent: int) -> np.ndarray:
    """Length of the overlap of each cell with each place, [cell, place]."""
    edges = np.linspace(start, stop, cells + 1)
    places = np.arange(extent)
    low = np.maximum(edges[:-1, None], places)
    high = np.minimum(edges[1:, None], places + 1)
    return np.clip(high - low, 0.0, None)
