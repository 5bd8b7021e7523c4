"""Where tokens lie in towers that keep them in an order of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap
from diagnostics.encoders.hooks import first_tensor
from diagnostics_transformers.towers import model_type
from diagnostics_transformers.trial import Trial

TRAILING = ("llama4_vision_model",)
"""Their special tokens stand behind those of the patches."""

_FILLED = ("mllama_vision_model",)
"""Behind a class token and the patches comes what fills up: zeros to a multiple of 8 tokens, and tiles without an image."""


def with_order(tower: nn.Module, tap: Tap) -> Tap:
    """A tap as discovered, with the order of its tokens where the model is known to have one."""
    kind = model_type(tower)
    order, site = _ORDERS.get(kind), tap.site
    if kind in _FILLED and site is not None and tap.grid.prefix > 1:
        filling = tap.grid.prefix - 1
        return replace(tap, grid=replace(tap.grid, prefix=1), site=replace(site, trailing=filling))
    if order is None or site is None or site.layout != "tokens":
        return tap
    return replace(tap, site=replace(site, order=order(tower, tap)))


def _rolled(tower: Any, tap: Tap) -> tuple[int, ...]:
    """Hiera keeps windows together; each stage of fewer tokens has one step less of that to undo."""
    count = tap.grid.tokens
    encoder = tower.encoder
    for stage, (_, size) in encoder.schedule.items():
        if size[0] * size[1] == count and not tap.grid.prefix:
            return tuple(encoder.reroll(torch.arange(count).reshape(1, count, 1), stage).flatten().tolist())
    return ()


def _queries_last(_: Any, tap: Tap) -> tuple[int, ...]:
    """YOLOS: a class token, the patches, the tokens that detect."""
    queries, count = tap.grid.prefix - 1, tap.grid.tokens
    return (0, *range(1 + count, 1 + count + queries), *range(1, 1 + count)) if queries > 0 else ()


_ORDERS = {"hiera": _rolled, "yolos": _queries_last}


def packed_taps(trial: Trial, names: Sequence[str], grid: Grid, order: tuple[int, ...]) -> list[Tap]:
    """`embed`, the layers, and the first norm behind them that keeps all tokens, of a tower that keeps the patches of all
    images of a batch behind one another, [B * T, F] or [1, B * T, F].
    """
    layers = tuple(f"{name}." for name in names)
    modules = trial.module.named_modules()
    norms = [n for n, part in modules if "norm" in type(part).__name__.lower() and not n.startswith(layers)]
    calls = trial.calls((*names, *norms))
    entered = trial.entering(names[0], trial.batch)
    assert entered is not None
    seen = [(names[0], entered), *((call.name, first_tensor(call.output)) for call in calls)]
    seen = [entry for entry in seen if isinstance(entry[1], Tensor)]
    last = max(i for i, (name, _) in enumerate(seen) if name in names)
    behind = [entry for entry in seen[last + 1 :] if _tokens(entry[1]) == _tokens(seen[last][1])]
    steps = [entry for entry in seen[: last + 1] if entry[0] in names] + behind[:1]
    taps: list[Tap] = []
    for i, (name, tensor) in enumerate(steps):
        mergeable = not order and not grid.prefix and all(n % 2 == 0 for n in grid.shape)
        if mergeable and 4 * _tokens(tensor) == 2 * grid.tokens:
            # Four neighbours become one, of what lies in raster order.
            grid = Grid(tuple(n // 2 for n in grid.shape), grid.axes)
        if _tokens(tensor) != 2 * (grid.prefix + grid.tokens):
            raise DiagnosticsError(
                f"{trial.name} has {_tokens(tensor)} tokens at {name} for two images of {grid.tokens} patches: it merges them on "
                "its way, which is not supported yet."
            )
        depth = min(1.0, i / len(names))
        site = Site(name, when="after" if i else "before", layout="packed", order=order)
        tap = Tap(name, depth, "trunk", tensor.shape[-1], grid, site)
        taps.append(tap if i else replace(tap, name="embed", part="embedding"))
    if len(steps) < len(names) + 1:
        raise DiagnosticsError(f"{trial.name} does not run all its layers once on two images: it is not supported yet.")
    return taps


def _tokens(tensor: Tensor) -> int:
    """Tokens of all samples together; 0 where they do not lie in one row."""
    if tensor.ndim == 3 and len(tensor) == 1:
        return tensor.shape[1]
    return len(tensor) if tensor.ndim == 2 else 0
