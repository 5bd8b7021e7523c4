"""The layers that a head stacks: a predictor's, a decoder's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import Grid, Site, Tap
from diagnostics_transformers.prepared import Prepared


def layers_of_head(
    module: nn.Module,
    head: str,
    layers: list[str],
    between: tuple[float, float],
    batch: Any,
    forward: Callable[[nn.Module, Any], Any],
    prepared: Prepared,
) -> list[Tap]:
    """Taps of a head's layers, evenly between two depths; nothing where their tokens fit no grid.

    Tokens of a grid that the configuration names, after at most a few special ones; or two for each place, as a predictor
    has that is given the context and asked for its targets: the targets are the grid then, the context its prefix.
    """
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def read(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor):
                seen.setdefault(name, []).append(first)

        return read

    names = [f"{head}.{name}" for name in layers]
    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        with torch.no_grad():
            forward(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    low, high = between
    taps: list[Tap] = []
    for i, name in enumerate(names):
        outputs = seen.get(name, [])
        found = _grid(outputs[0], prepared) if len(outputs) == 1 else None
        if found is None:
            return []
        grid, order = found
        depth = low + (high - low) * (i + 1) / (len(names) + 1)
        tap = name.removeprefix("tower.")
        taps.append(Tap(tap, depth, "head", outputs[0].shape[-1], grid, Site(name, order=order)))
    return taps


def _grid(seen: Tensor, prepared: Prepared) -> tuple[Grid, tuple[int, ...]] | None:
    axes = tuple(prepared.extents)
    for shape in prepared.places:
        grid = Grid(shape, axes)
        if seen.ndim != 3 or prepared.packed:
            return None
        more = seen.shape[1] - grid.tokens
        if 0 <= more <= 1:
            return Grid(shape, axes, more), ()
        if more == grid.tokens:
            # Sorted by place: the context of a place, then its target.
            return Grid(shape, axes, more), (*range(0, 2 * more, 2), *range(1, 2 * more, 2))
    return None
