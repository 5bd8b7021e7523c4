"""Where tokens lie in towers that keep them in an order of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from diagnostics import Tap
from diagnostics_transformers.prepared import setting

TRAILING = ("llama4_vision_model",)
"""Their special tokens stand behind those of the patches."""

_FILLED = ("mllama_vision_model",)
"""Behind a class token and the patches comes what fills up: zeros to a multiple of 8 tokens, and tiles without an image."""


def with_order(tower: nn.Module, tap: Tap) -> Tap:
    """A tap as discovered, with the order of its tokens where the model is known to have one."""
    kind = str(setting(tower.config, "model_type"))
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
