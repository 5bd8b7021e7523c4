"""Perturbation of a model's input: changes a part of it, and measures which tokens respond at a site.

Discovery guesses with it in which order tokens lie, `placement` verifies the order that is declared.

Shape suffixes: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.batches import map_tensors
from diagnostics.encoders.evaluating import evaluating
from diagnostics.encoders.hooks import as_tokens, tensors_in, until
from diagnostics.encoders.taps import Grid, Site, Tap

Forward = Callable[[nn.Module, Any], Any]
"""`(module, batch)`: one forward pass."""
_ROUNDING = 1e-6


def value_at(module: nn.Module, site: Site, batch: Any, forward: Forward) -> Any:
    """What lies at a site in a pass that ends there, in eval mode and without gradients; None where no pass comes there."""
    with evaluating(module), torch.no_grad(), until(module, site) as end:
        forward(module, batch)
    return end.value


def tensor_at(module: nn.Module, site: Site, batch: Any, forward: Forward) -> Tensor | None:
    """A copy of the tensor that the site names, as it lies there."""
    tensors = tensors_in(value_at(module, site, batch, forward))
    return tensors[site.item].clone() if site.item < len(tensors) else None


def tokens_at(module: nn.Module, tap: Tap, batch: Any, forward: Forward) -> Tensor | None:
    """A copy of a tap's tokens [B, T, F]."""
    assert tap.site is not None
    value = value_at(module, tap.site, batch, forward)
    return None if value is None else as_tokens(tap, tap.site, value).clone()


def floating_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch that can be changed by a little."""
    return [tensor for tensor in tensors_in(batch) if tensor.is_floating_point()]


def replaced(batch: Any, old: Tensor, new: Tensor) -> Any:
    """The batch with one tensor in another's place."""
    return map_tensors(lambda tensor: new if tensor is old else tensor, batch)


def part_of(given: Tensor, spans: Mapping[int, tuple[int, int]]) -> Tensor:
    """The view of a tensor within (start, stop) along some axes."""
    for axis, (start, stop) in spans.items():
        given = given.narrow(axis, start, stop - start)
    return given


def noisy(given: Tensor) -> Tensor:
    """Another input of about the same spread."""
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(1)).to(given)
    return given + noise * (given.std() if given.numel() > 1 and float(given.std()) > 0 else 1.0)


def aggregate(values: np.ndarray, grid: Grid, axes: Sequence[str]) -> np.ndarray:
    """Values of grid tokens [n, token] summed over the grid's axes other than `axes`, [n, place]."""
    others = tuple(i + 1 for i, axis in enumerate(grid.axes) if axis not in axes)
    return values.reshape(len(values), *grid.shape).sum(axis=others).reshape(len(values), -1)


def distances(tokens: Tensor, rest: Tensor, grid: Grid, axes: Sequence[str]) -> np.ndarray:
    """How far tokens [n, T, F] lie from those of the unchanged input [1, T, F]: [n, prefix + places], by `aggregate`."""
    far = (tokens.double() - rest.double()).norm(dim=-1).nan_to_num(0.0).cpu().numpy()
    return np.concatenate([far[:, : grid.prefix], aggregate(far[:, grid.prefix :], grid, axes)], axis=1)


def moved_most(tokens: Tensor, rest: Tensor, grid: Grid, axes: Sequence[str]) -> int | None:
    """The place of the first sample whose tokens lie farthest from those of the unchanged input; None where nothing moved."""
    far = distances(tokens[:1], rest[:1], grid, axes)[0, grid.prefix :]
    return int(far.argmax()) if far.max() > 0 else None


def tokens_of_cells(grid: Grid, read: Callable[[np.ndarray], Tensor]) -> list[int] | None:
    """Index of the token that each cell of a grid moves, in raster order; None unless each cell moves one of its own.

    `read`: which cells of the input are changed, bool [*grid.shape] -> tokens [T, F] of one sample, of which the grid's
    prefix comes first. Cells are changed together, by the bits of their numbers: a pass for each bit, not for each cell.
    """
    rest = read(np.zeros(grid.shape, dtype=bool))
    if len(rest) != grid.prefix + grid.tokens:
        return None
    numbers = np.arange(1, grid.tokens + 1).reshape(grid.shape)  # from 1, so that each cell is changed
    cell_of_token = np.full(grid.tokens, -1)
    for bit in range(grid.tokens.bit_length()):
        far = distances(read(numbers >> bit & 1 > 0)[None], rest[None], grid, grid.axes)[0, grid.prefix :]
        cell_of_token += (far > _ROUNDING).astype(int) << bit
    if sorted(cell_of_token) != list(range(grid.tokens)):
        return None
    return [grid.prefix + int(token) for token in np.argsort(cell_of_token)]
