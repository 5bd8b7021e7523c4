"""Taps of towers that keep the patches of all images of a batch behind one another, [B * T, F] or [1, B * T, F].

Shape suffixes: B sample, T token, F feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap
from diagnostics.encoders.hooks import first_tensor, recorded
from diagnostics.encoders.perturbation import Forward


def packed_taps(
    module: nn.Module,
    names: Sequence[str],
    batch: Any,
    forward: Forward,
    grid: Grid,
    order: tuple[int, ...],
    encoder: str,
) -> list[Tap]:
    """`embed`, the layers, and the first norm behind them that keeps all tokens; `batch` is of two samples."""
    norms = [n for n, part in module.named_modules() if "norm" in type(part).__name__.lower() and not _within(n, names)]
    with torch.no_grad(), recorded(module, (*names, *norms)) as calls:
        forward(module, batch)
    first = next((call for call in calls if call.name == names[0]), None)
    entered = first_tensor((*first.args, *first.kwargs.values())) if first is not None else None
    seen: list[tuple[str, str, Any]] = [(names[0], "before", entered)]
    seen += [(call.name, "after", first_tensor(call.output)) for call in calls]
    seen = [entry for entry in seen if isinstance(entry[2], Tensor)]
    last = max(i for i, (name, _, _) in enumerate(seen) if name in names)
    behind = [entry for entry in seen[last + 1 :] if _tokens(entry[2]) == _tokens(seen[last][2])]
    steps = [entry for entry in seen[: last + 1] if entry[0] in names] + behind[:1]
    layout: Any = "packed"
    taps: list[Tap] = []
    for i, (name, when, tensor) in enumerate(steps):
        if not order and _is_quarter(grid, _tokens(tensor)):
            # Four neighbours become one, of what lies in raster order.
            grid = Grid(tuple(n // 2 for n in grid.shape), grid.axes)
        if _tokens(tensor) != 2 * (grid.prefix + grid.tokens):
            raise DiagnosticsError(
                f"{encoder} has {_tokens(tensor)} tokens at {name} for two images of {grid.tokens} patches: it merges them on "
                "its way, which is not supported yet."
            )
        depth = min(1.0, i / len(names))
        site = Site(name, when="before" if when == "before" else "after", layout=layout, order=order)
        part = "embedding" if i == 0 else "trunk"
        taps.append(Tap("embed" if i == 0 else name, depth, part, tensor.shape[-1], grid, site))
    if len(steps) < len(names) + 1:
        raise DiagnosticsError(f"{encoder} does not run all its layers once on two images: it is not supported yet.")
    return taps


def _is_quarter(grid: Grid, tokens: int) -> bool:
    return not grid.prefix and all(n % 2 == 0 for n in grid.shape) and 4 * tokens == 2 * grid.tokens


def _within(name: str, names: Sequence[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in names)


def _tokens(tensor: Tensor) -> int:
    """Tokens of all samples together; 0 where they do not lie in one row."""
    if tensor.ndim == 3 and len(tensor) == 1:
        return tensor.shape[1]
    return len(tensor) if tensor.ndim == 2 else 0
