"""Dense targets on a tap's grid: the mean, most frequent class or any event of each cell, where it covers a sample."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from diagnostics.errors import DiagnosticsError

# A cell of which less than this share has known values is unknown.
KNOWN_SHARE = 0.5
MOST_CLASSES = np.iinfo(np.int16).max + 1

# Lengths and areas are sums of rounded numbers: what differs by less than this part of a place does not differ.
_ROUNDING = 1e-9
# Places held at once, beside the maps themselves.
_BLOCK = 1 << 21


def on_grid(maps: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Maps [sample, *extent] averaged over the cells of a grid, as float64 [sample, token] in raster order.

    `covered` gives for each axis the (start, stop) of the sample that the grid spans. Places shared by two cells count
    for both by the share that lies in each; NaN places are left out, and a cell with less than half of it known is NaN.
    """
    overlaps = [_overlap(*ends, cells, n) for ends, cells, n in zip(covered, shape, maps.shape[1:], strict=True)]
    least = _least_known(covered, shape)
    means = np.empty((len(maps), math.prod(shape)))
    for rows in _blocks(maps):
        known = np.isfinite(maps[rows])
        total = _summed(np.where(known, maps[rows], 0.0), overlaps)
        weight = _summed(known.astype(np.float64), overlaps)
        mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=(weight >= least) & (weight > 0))
        means[rows] = mean.reshape(len(mean), -1)
    return means


def classes_on_grid(labels: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Int labels [sample, *extent] (-1 unknown) as the class of the largest share of each cell, int16 [sample, token].

    Of equal shares the lower class; -1 where less than half of the cell is known.
    """
    if labels.size and labels.max() >= MOST_CLASSES:
        raise DiagnosticsError(
            f"Labels reach {labels.max()}: number the classes of a token_label from 0 and below {MOST_CLASSES}."
        )
    # Each axis is cut where a place or a cell ends, so that every piece of a map lies in one place and in one cell.
    places: list[np.ndarray] = []
    area, cell = np.ones(()), np.zeros((), dtype=np.intp)
    for ends, cells, n in zip(covered, shape, labels.shape[1:], strict=True):
        place, cell_of_piece, length = _pieces(*ends, cells, n)
        places.append(place)
        area, cell = np.multiply.outer(area, length), np.add.outer(cell * cells, cell_of_piece)
    area, cell, least = area.ravel(), cell.ravel(), _least_known(covered, shape)
    classes = np.full((len(labels), math.prod(shape)), -1, dtype=np.int16)
    for sample, row in zip(labels, classes, strict=True):
        seen = sample[np.ix_(*places)].ravel()
        known = seen >= 0
        seen = seen[known]
        if len(seen) == 0:
            continue
        present = np.flatnonzero(np.bincount(seen))
        column = np.zeros(present[-1] + 1, dtype=np.intp)
        column[present] = np.arange(len(present))
        bins = cell[known] * len(present) + column[seen]
        share = np.bincount(bins, weights=area[known], minlength=len(row) * len(present)).reshape(len(row), -1)
        best = (share >= share.max(axis=1, keepdims=True) - _ROUNDING).argmax(axis=1)
        row[:] = np.where(share.sum(axis=1) >= least, present[best], -1)
    return classes


def events_on_grid(events: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Events [sample, *extent] as 1 where any falls into a cell, 0 where none does, NaN where less than half is known."""
    share = on_grid(events, covered, shape)
    return np.where(np.isnan(share), np.nan, (share > 0).astype(np.float64))


def covered_part(maps: np.ndarray, covered: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The part [sample, *extent] of int maps that a grid covers, cut at whole places; beyond the maps it is -1, unknown, so
    that places stay where the grid's cells lie.
    """
    ends = [(round(start), round(stop)) for start, stop in covered]
    beyond = [(max(0, -start), max(0, stop - n)) for (start, stop), n in zip(ends, maps.shape[1:], strict=True)]
    inside = maps[(slice(None), *(slice(max(0, start), max(0, stop)) for start, stop in ends))]
    return np.pad(inside, [(0, 0), *beyond], constant_values=-1) if np.any(beyond) else inside


def joined(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Blocks of maps [sample, *extent] as one array; where their extents differ, by the nearest places on the smallest along each axis."""
    smallest = np.min([maps.shape[1:] for maps in blocks], axis=0)
    near = [
        [
            ((np.arange(least) + 0.5) * n / least).astype(np.intp)
            for least, n in zip(smallest, maps.shape[1:], strict=True)
        ]
        for maps in blocks
    ]
    alike = [
        maps if maps.shape[1:] == tuple(smallest) else maps[np.ix_(range(len(maps)), *places)]
        for maps, places in zip(blocks, near, strict=True)
    ]
    return alike[0] if len(alike) == 1 else np.concatenate(alike)


def resample(tokens: np.ndarray, grid: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Tokens [row, token, feature] of a grid on another grid over the same part of the input, averaged by shared area."""
    shares = [_overlap(0.0, float(old), new, old) * (new / old) for old, new in zip(grid, shape, strict=True)]
    resampled = _summed(tokens.reshape(len(tokens), *grid, -1), [share.astype(tokens.dtype) for share in shares])
    return resampled.reshape(len(tokens), -1, tokens.shape[2])


def _pieces(start: float, stop: float, cells: int, extent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The place and the cell that each piece of an axis lies in, and its length; each [piece]."""
    edges = _edges(start, stop, cells)
    cuts = np.unique(np.clip(np.concatenate([edges, np.arange(np.ceil(edges[0]), edges[-1])]), 0, extent))
    middle = (cuts[:-1] + cuts[1:]) / 2
    return middle.astype(np.intp), np.searchsorted(edges, middle) - 1, np.diff(cuts)


def _overlap(start: float, stop: float, cells: int, extent: int) -> np.ndarray:
    """Length of the overlap of each cell with each place, [cell, place]."""
    edges = _edges(start, stop, cells)
    places = np.arange(extent)
    low = np.maximum(edges[:-1, None], places)
    high = np.minimum(edges[1:, None], places + 1)
    return np.clip(high - low, 0.0, None)


def _edges(start: float, stop: float, cells: int) -> np.ndarray:
    """Ends of the cells, [cells + 1]; on a place's end where only rounding parts them, so that no cell sees beyond it."""
    edges = np.linspace(start, stop, cells + 1)
    return np.where(np.abs(edges - edges.round()) < _ROUNDING, edges.round(), edges)


def _summed(maps: np.ndarray, overlaps: Sequence[np.ndarray]) -> np.ndarray:
    """Maps [sample, *extent] summed over the cells of each axis, [sample, *shape]."""
    for axis, overlap in enumerate(overlaps, start=1):
        maps = np.moveaxis(np.tensordot(maps, overlap, axes=(axis, 1)), -1, axis)
    return maps


def _least_known(covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> float:
    """The area that must be known of a cell."""
    cell = math.prod((stop - start) / cells for (start, stop), cells in zip(covered, shape, strict=True))
    return KNOWN_SHARE * cell - _ROUNDING


def _blocks(maps: np.ndarray) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, math.prod(maps.shape[1:])))
    for start in range(0, len(maps), size):
        yield slice(start, start + size)
