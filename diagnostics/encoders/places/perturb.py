"""Perturbation of a model's input: changes a part of it, and measures which tokens respond at a site.

`propose` finds with it in which order tokens lie, `verify` holds the order that is declared against it.

Shape suffixes: B sample, T token (prefix tokens first, then grid tokens in raster order), F feature.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.hooks import as_tokens, tensors_in, until
from diagnostics.encoders.modules import evaluating, map_tensors
from diagnostics.encoders.places.judge import LOCAL
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


@dataclass
class FirstBlockInput:
    """The tensor [B, ...] that a model's first block takes, as a function of the batch.

    `read`: batch -> that tensor, from one pass; None, or any exception, where the pass does not come there. What cannot be
    told (the batch has several tensors of real numbers, nothing moves, the pass fails) is None in all answers.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from diagnostics.encoders.places import FirstBlockInput
        >>> embed, token = nn.Linear(16, 8), torch.ones(2, 1, 8)
        >>> def read(batch):
        ...     return torch.cat([token, embed(batch.unflatten(1, (4, 16)))], dim=1)
        >>> first = FirstBlockInput(torch.randn(2, 64), read)
        >>> first.special_tokens()
        [0]
        >>> first.moved_by_end({"t": 64}).any(2)[0].tolist()
        [False, False, False, False, True]
    """

    batch: Any
    read: Callable[[Any], Tensor | None]

    def __post_init__(self) -> None:
        self.rest = self._read(self.batch)

    def _read(self, batch: Any) -> Tensor | None:
        with contextlib.suppress(Exception):
            return self.read(batch)
        return None

    def moved(self, change: Callable[[Tensor], Tensor | None]) -> Tensor | None:
        """Which of its numbers move, bool [B, ...], when the one tensor of real numbers in the batch is changed."""
        floating = floating_in(self.batch)
        changed = change(floating[0].clone()) if len(floating) == 1 else None
        if changed is None or self.rest is None:
            return None
        now = self._read(replaced(self.batch, floating[0], changed))
        if now is None or now.shape != self.rest.shape:
            return None
        moved = now != self.rest
        return moved if bool(moved.any()) else None

    def moved_by_end(self, extents: Mapping[str, int]) -> Tensor | None:
        """Which of its numbers move when the last quarter of the input along every axis of places changes."""

        def change(given: Tensor) -> Tensor | None:
            spans: dict[int, tuple[int, int]] = {}
            for extent in extents.values():
                # A square has one extent twice: its axes follow one another.
                axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == extent and axis not in spans]
                if not axes:
                    return None
                spans[axes[0]] = (extent - max(1, extent // 4), extent)
            part = part_of(given, spans)
            part.copy_(noisy(part))
            return given

        return self.moved(change)

    def special_tokens(self) -> list[int] | None:
        """Tokens of [B, T, F] that no input moves: class tokens, registers."""
        moved = self.moved(noisy)
        if moved is None or moved.ndim != 3:
            return None
        return [i for i, any_moved in enumerate(moved.any(2).any(0).tolist()) if not any_moved]

    def features_first(self, extents: Mapping[str, int]) -> bool | None:
        """Whether places lie behind the features, by what a change in one corner of the input moves along either axis."""
        moved = self.moved_by_end(extents)
        if moved is None or moved.ndim < 3:
            return None
        first = float(moved.flatten(2).any(2).float().mean())
        last = float(moved.transpose(1, -1).flatten(2).any(2).float().mean())
        return last <= LOCAL if (first <= LOCAL) != (last <= LOCAL) else None

    def variates_apart(self, variates: int) -> bool | None:
        """Whether tokens [B, T, F] belong to one variate each, so that a change of the first leaves most as they are."""

        def change(given: Tensor) -> Tensor | None:
            axes = [axis for axis in range(1, given.ndim) if given.shape[axis] == variates]
            if len(axes) != 1:
                return None
            first = given.narrow(axes[0], 0, 1)
            first.copy_(noisy(first))
            return given

        moved = self.moved(change)
        return None if moved is None or moved.ndim != 3 else float(moved.any(2).float().mean()) <= LOCAL

    def rows_follow_samples(self, rows: int) -> bool:
        """Whether the first sample moves its own `rows` of the batch axis, and no others."""

        def change(given: Tensor) -> Tensor:
            given[0] = noisy(given[0])
            return given

        moved = self.moved(change)
        return moved is None or not bool(moved[rows:].any())
