"""In which order the tokens of a grid lie: one cell of the input is changed, and the token that moves is looked for.

So no order of tokens is taken on trust. Only images and videos are tried: what a series' normalisation does to one cell,
it does to all.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.discovery.movement import exchanged
from diagnostics.encoders.discovery.places import tensors_of
from diagnostics.encoders.evaluating import evaluating
from diagnostics.encoders.hooks import as_tokens
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError

CHANGE = 3.0
"""What is added to a cell of a normalised input."""

RANDOM_CELLS = 6
LEAST_SHARE = 0.8
"""Of the cells changed: what a random stem makes of a single one may show elsewhere."""


class _Reached(Exception):
    """Ends a pass at the first block."""


def axis_order(
    module: nn.Module,
    tap: Tap,
    batch: Any,
    extents: Mapping[str, int],
    forward: Callable[[nn.Module, Any], Any],
    encoder: str,
) -> tuple[int, ...] | None:
    """In which order the axes of the first tap's grid lie in its tokens, slowest first; (0, 1, ...) is raster order.

    None where it cannot be told: no image or video, no axis of the input to change, or nothing that moves. Raises where
    no order of the axes explains what moves.
    """
    grid = tap.grid
    where = _input(batch, extents, grid.axes)
    if where is None or not {"y", "x"} <= set(grid.axes) or grid.axes != tuple(extents):
        return None
    cells = _cells(grid.shape)
    rest = _first_tokens(module, tap, batch, forward)
    moved: list[int] = []
    for cell in cells:
        changed = _changed(batch, *where, cell, grid.shape)
        tokens = _first_tokens(module, tap, changed, forward)
        if rest is None or tokens is None or tokens.shape != rest.shape:
            return None
        size = (tokens - rest)[0, grid.prefix :].abs().sum(dim=-1)
        moved.append(int(size.argmax()) if bool(size.max() > 0) else -1)
    if max(moved) < 0:
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
    went = [int(n) for n in np.unravel_index(moved[0], grid.shape)] if moved[0] >= 0 else "none"
    raise DiagnosticsError(
        f"{encoder} does not keep its tokens in the order of its input (cell {list(cells[0])} moved token {went}): declare the taps yourself, with the order of their tokens (docs/plugins.md)."
    )


def raster(shape: Sequence[int], axes: Sequence[int], prefix: int) -> tuple[int, ...]:
    """The `order` of a `Site` whose tokens lie with `axes` slowest first, after `prefix` tokens."""
    lying = np.arange(int(np.prod(shape))).reshape([shape[axis] for axis in axes])
    grid = lying.transpose(np.argsort(axes)).ravel()
    return (*range(prefix), *(int(i) + prefix for i in grid))


def _input(batch: Any, extents: Mapping[str, int], axes: Sequence[str]) -> tuple[Tensor, dict[str, int]] | None:
    """The tensor of the batch that has all the extents, and on which axis each lies; None unless that is certain."""
    floats = [tensor for tensor in tensors_of(batch) if tensor.is_floating_point() and tensor.ndim > len(axes)]
    if len(floats) != 1:
        return None
    found: dict[str, int] = {}
    stop = floats[0].ndim
    for axis in reversed(axes):
        # From the end, since pixels lie innermost; a channel axis may stand between frames and rows.
        fitting = [i for i in range(1, stop) if floats[0].shape[i] == extents[axis]]
        if not fitting:
            return None
        found[axis] = stop = fitting[-1]
    return floats[0], found


def _cells(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The far end of each axis, a cell whose places are as unlike as they can be, and some at random."""
    ends = [tuple(n - 1 if i == axis else 0 for i, n in enumerate(shape)) for axis in range(len(shape))]
    rng = np.random.default_rng(0)
    others = [tuple(int(rng.integers(n)) for n in shape) for _ in range(RANDOM_CELLS)]
    return list(dict.fromkeys([*ends, tuple(min(n - 1, i) for i, n in enumerate(shape)), *others]))


def _changed(batch: Any, given: Tensor, axes: Mapping[str, int], cell: Sequence[int], shape: Sequence[int]) -> Any:
    made = given.clone()
    part = made
    for axis, place, n in zip(sorted(axes.values()), cell, shape, strict=True):
        extent = given.shape[axis]
        start = int(place * extent / n)
        part = part.narrow(axis, start, max(1, int((place + 1) * extent / n) - start))
    part += CHANGE
    return exchanged(batch, given, made)


def _first_tokens(module: nn.Module, tap: Tap, batch: Any, forward: Callable[[nn.Module, Any], Any]) -> Tensor | None:
    """[B, T, F] as they enter the first block."""
    seen: list[Tensor] = []
    site = tap.site
    assert site is not None

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(as_tokens(tap, site, args or tuple(kwargs.values())).clone())
        raise _Reached

    handle = module.get_submodule(site.module).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with evaluating(module), torch.no_grad(), contextlib.suppress(_Reached):
            forward(module, batch)
    finally:
        handle.remove()
    return seen[0] if seen else None


def _away(cell: Sequence[int], token: int, shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    """How far along each axis the token's place is from the cell, with the axes in this order; the whole axis for none."""
    if token < 0:
        return list(shape)
    lying = np.unravel_index(token, [shape[axis] for axis in axes])
    return [abs(int(lying[list(axes).index(axis)]) - cell[axis]) for axis in range(len(shape))]
