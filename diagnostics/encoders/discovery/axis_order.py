"""The order in which the tokens of a grid lie, determined by changing one cell of the input at a time.

So no order of tokens is taken on trust. Only images and videos are tried: what a series' normalisation does to one cell,
it does to all.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from diagnostics.encoders.grid import Grid
from diagnostics.encoders.perturbation import floating_in, moved_most, part_of, replaced
from diagnostics.errors import DiagnosticsError

CHANGE = 3.0
"""What is added to a cell of a normalised input."""

RANDOM_CELLS = 6
LEAST_SHARE = 0.8
"""Of the cells changed: what a random stem makes of a single one may show elsewhere."""


def axis_order(
    grid: Grid, batch: Any, extents: Mapping[str, int], tokens: Callable[[Any], Tensor | None], encoder: str
) -> tuple[int, ...] | None:
    """In which order the axes of a grid lie in its tokens, slowest first; (0, 1, ...) is raster order.

    `tokens`: batch -> [B, T, F] at the first tap.

    None where it cannot be told: no image or video, no axis of the input to change, or nothing that moves. Raises
    DiagnosticsError where no order of the axes explains what moves.
    """
    given = _input(batch, extents, grid.axes)
    if given is None or not {"y", "x"} <= set(grid.axes) or grid.axes != tuple(extents):
        return None
    rest = tokens(batch)
    if rest is None:
        return None
    cells = _cells(grid.shape)
    moved: list[int | None] = []
    for cell in cells:
        changed = tokens(_changed(batch, *given, cell, grid.shape))
        if changed is None or changed.shape != rest.shape:
            return None
        moved.append(moved_most(changed, rest, grid, grid.axes))
    if all(token is None for token in moved):
        return None
    orders = list(itertools.permutations(range(len(grid.shape))))
    aways = [
        [_away(cell, token, grid.shape, axes) for cell, token in zip(cells, moved, strict=True)] for axes in orders
    ]
    # Raster order comes first; on small grids a stem may blur so far that another fits a little better.
    best = min(range(len(orders)), key=lambda i: int(np.sum(aways[i])))
    best = 0 if int(np.sum(aways[0])) <= 2 * int(np.sum(aways[best])) else best
    # A convolutional stem reaches further on a fine grid.
    reach = [max(1, n // 16) for n in grid.shape]
    if np.mean([all(d <= most for d, most in zip(away, reach, strict=True)) for away in aways[best]]) >= LEAST_SHARE:
        return orders[best]
    first = "none" if moved[0] is None else [int(n) for n in np.unravel_index(moved[0], grid.shape)]
    raise DiagnosticsError(
        f"{encoder} does not keep its tokens in the order of its input (cell {list(cells[0])} moved token {first}): declare the taps yourself, with the order of their tokens (docs/how-to/plugins.md)."
    )


def raster(shape: Sequence[int], axes: Sequence[int], prefix: int) -> tuple[int, ...]:
    """The `order` of a `Site` whose tokens lie with `axes` slowest first, after `prefix` tokens."""
    tokens = np.arange(int(np.prod(shape))).reshape([shape[axis] for axis in axes])
    grid = tokens.transpose(np.argsort(axes)).ravel()
    return (*range(prefix), *(int(i) + prefix for i in grid))


def _input(batch: Any, extents: Mapping[str, int], axes: Sequence[str]) -> tuple[Tensor, list[int]] | None:
    """The tensor of the batch that has all the extents, and where its axes of places lie; None unless that is certain."""
    floating = [tensor for tensor in floating_in(batch) if tensor.ndim > len(axes)]
    if len(floating) != 1:
        return None
    places: list[int] = []
    stop = floating[0].ndim
    for axis in reversed(axes):
        # From the end, since pixels lie innermost; a channel axis may stand between frames and rows.
        fitting = [i for i in range(1, stop) if floating[0].shape[i] == extents[axis]]
        if not fitting:
            return None
        stop = fitting[-1]
        places.insert(0, stop)
    return floating[0], places


def _cells(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The far end of each axis, a cell whose places are as unlike as they can be, and some at random."""
    ends = [tuple(n - 1 if i == axis else 0 for i, n in enumerate(shape)) for axis in range(len(shape))]
    rng = np.random.default_rng(0)
    others = [tuple(int(rng.integers(n)) for n in shape) for _ in range(RANDOM_CELLS)]
    return list(dict.fromkeys([*ends, tuple(min(n - 1, i) for i, n in enumerate(shape)), *others]))


def _changed(batch: Any, given: Tensor, axes: Sequence[int], cell: Sequence[int], shape: Sequence[int]) -> Any:
    """The batch with something added in one cell of a grid of that shape."""
    spans: dict[int, tuple[int, int]] = {}
    for axis, place, n in zip(axes, cell, shape, strict=True):
        start, stop = (int(i * given.shape[axis] / n) for i in (place, place + 1))
        spans[axis] = start, max(start + 1, stop)
    changed = given.clone()
    part_of(changed, spans).add_(CHANGE)
    return replaced(batch, given, changed)


def _away(cell: Sequence[int], token: int | None, shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    """How far along each axis the token's place is from the cell, with the axes in this order; the whole axis for none."""
    if token is None:
        return list(shape)
    place = np.unravel_index(token, [shape[axis] for axis in axes])
    return [abs(int(place[list(axes).index(axis)]) - cell[axis]) for axis in range(len(shape))]
