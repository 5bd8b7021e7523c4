"""How a tap's central token depends on each place of the input: gradients through a torch module."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.encoders.encoder import Captured
from diagnostics.encoders.grid import Grid
from diagnostics.encoders.hooks import captured_at
from diagnostics.encoders.perturbation import floating_in, replaced
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError

SEED = 0


def read_gradients(
    module: nn.Module, taps: Sequence[Tap], encoder: str, batch: Any, forward: Callable[[Any], Any]
) -> Captured:
    """`{tap: [sample, *places]}`: |gradient| of the tap's central grid token by the input, summed over channels.

    Of a token's features the gradient is taken through one projection on random signs (the same in all samples): the sum
    itself is constant behind a layer norm. Its expected square is the sum over features of the squared derivatives. For
    an even extent the central token is the one just behind the middle. Float32, on the batch's device.
    """
    floating = floating_in(batch)
    if len(floating) != 1:
        raise DiagnosticsError(
            f"{encoder} takes {len(floating)} tensors of floating point numbers, so it is unclear which to differentiate by: a "
            "receptive field needs preprocessing that gives one."
        )
    given = floating[0]
    leaf = given.detach().clone().requires_grad_(True)

    def reduce(tap: Tap, tokens: Tensor) -> Tensor:
        signs = torch.randint(0, 2, (tap.features,), generator=torch.Generator().manual_seed(SEED)) * 2 - 1
        return (tokens[:, tap.grid.prefix + centre(tap.grid)] * signs.to(tokens)).sum()

    with torch.inference_mode(False), torch.enable_grad(), captured_at(module, taps, encoder, reduce) as signals:
        # A copy, since a model may change its input in place.
        forward(replaced(batch, given, leaf.clone()))
    result = Captured({}, {})
    axes = _place_axes(tuple(leaf.shape), taps)
    for tap in taps:
        where = axes.get(len(tap.grid.shape), [])
        if len(where) != 1:
            shape = tuple(leaf.shape)
            reason = "does not show which axes are places" if where else "has no axes that its cells divide evenly"
            result.left_out[tap.name] = f"the input of shape {shape} {reason} for a grid of {tap.grid}"
        elif not signals[tap.name].requires_grad:
            result.left_out[tap.name] = "no gradient comes through"
        else:
            (gradient,) = torch.autograd.grad(signals[tap.name], leaf, retain_graph=True, materialize_grads=True)
            result[tap.name] = _on_places(gradient, where[0], tap)
    if not result:
        reasons = "; ".join(f"{tap}: {reason}" for tap, reason in list(result.left_out.items())[:2])
        raise DiagnosticsError(f"{encoder} gives no gradients: {reasons}.")
    return result


def centre(grid: Grid) -> int:
    """The central grid token; of an even extent the one just behind the middle."""
    return int(np.ravel_multi_index(tuple(n // 2 for n in grid.shape), grid.shape))


def _place_axes(shape: tuple[int, ...], taps: Sequence[Tap]) -> dict[int, list[tuple[int, ...]]]:
    """For grids of so many axes: the choices of input axes, in order, that the cells of all such taps divide evenly."""
    choices: dict[int, list[tuple[int, ...]]] = {}
    # Cells that are as many as an axis is long may stand on another, longer axis with overlap: variates against steps.
    for count in {len(tap.grid.shape) for tap in taps}:
        grids = [_cells(tap) for tap in taps if len(tap.grid.shape) == count]
        able = list(itertools.combinations(range(1, len(shape)), count))
        even = [axes for axes in able if all(shape[axis] % n == 0 for axis, n in _pairs(axes, grids))]
        if len(even) == 1 and any(shape[axis] == n for axis, n in _pairs(even[0], grids)):
            even += [
                axes for axes in able if axes not in even and all(shape[axis] > n for axis, n in _pairs(axes, grids))
            ]
        choices[count] = even
    return choices


def _pairs(axes: tuple[int, ...], grids: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    return [pair for grid in grids for pair in zip(axes, grid, strict=True)]


def _cells(tap: Tap) -> tuple[int, ...]:
    """Extents of the grid with the padding that its site leaves out."""
    dropped = tap.site.dropped if tap.site else 0
    return (tap.grid.shape[0] + dropped,) if dropped else tap.grid.shape


def _on_places(gradient: Tensor, axes: tuple[int, ...], tap: Tap) -> Tensor:
    """[sample, *places] of the part that the grid covers."""
    channels = [axis for axis in range(1, gradient.ndim) if axis not in axes]
    size = gradient.abs().float()
    size = size.sum(channels) if channels else size
    if tap.site and tap.site.dropped:
        step = size.shape[1] // _cells(tap)[0]
        size = size[:, tap.site.padding * step : size.shape[1] - tap.site.trailing * step]
    return size
