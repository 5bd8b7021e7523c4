"""From an encoder's tokens to a decoder's: the projector, and the encoder that has it as a head."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor, nn

from diagnostics.plugin import Grid, Site, Tap, TorchEncoder

MODULE = "language_projector"
"""Name of the projector in the module of its encoder."""
TAP = "head.projector"


def pooled(grid: Grid, pool: int) -> Grid:
    """The grid after pooling to `1 / pool` along y and x, or along every axis where there are neither."""
    axes = {"y", "x"} & set(grid.axes) or set(grid.axes)
    shape = [math.ceil(n / pool) if axis in axes else n for n, axis in zip(grid.shape, grid.axes, strict=True)]
    return Grid(tuple(shape), grid.axes)


class Projector(nn.Module):
    """Linear, GELU, Linear on each grid token, after adaptive average pooling of the grid (see `pooled`); the hidden layer is as wide
    as the output."""

    def __init__(self, features: int, width: int, pool: int = 1) -> None:
        super().__init__()
        self.pool = pool
        self.enter, self.gelu, self.out = nn.Linear(features, width), nn.GELU(), nn.Linear(width, width)

    def forward(self, tokens: Tensor, grid: Grid, valid: Tensor | None = None) -> Tensor:
        """Of grid tokens [B, T, features], those that are not `valid` left out of means: [B, K, width]."""
        if self.pool > 1:
            tokens = self._pooled(tokens, grid, valid)
        return self.out(self.gelu(self.enter(tokens)))

    def valid(self, valid: Tensor, grid: Grid) -> Tensor:
        """Which tokens it gives rest on valid ones, bool [B, K]."""
        return self._mean(valid[..., None].float(), grid)[..., 0] > 0 if self.pool > 1 else valid

    def _pooled(self, tokens: Tensor, grid: Grid, valid: Tensor | None) -> Tensor:
        if valid is None:
            return self._mean(tokens, grid)
        known = valid[..., None].to(tokens.dtype)
        # What is no data may be anything, NaN too.
        share = self._mean(known, grid)
        return self._mean(torch.where(valid[..., None], tokens, 0), grid) / share.clamp_min(
            torch.finfo(share.dtype).tiny
        )

    def _mean(self, tokens: Tensor, grid: Grid) -> Tensor:
        maps = tokens.transpose(1, 2).unflatten(2, grid.shape)
        kind = (nn.functional.adaptive_avg_pool1d, nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_avg_pool3d)
        return kind[len(grid.shape) - 1](maps, pooled(grid, self.pool).shape).flatten(2).transpose(1, 2)  # pyright: ignore[reportArgumentType] # as many sizes as axes


def with_projector(encoder: TorchEncoder, width: int, pool: int = 1) -> TorchEncoder:
    """An encoder whose output is the last thing it has, with a projector as a head tap beyond depth 1; the output stays its output.

    The projector becomes a part of the encoder's own module, where that has none yet. Built again by `projected?base=...`.
    """
    tap = encoder.tap(encoder.output_tap)
    _give(encoder.module, tap, width, pool)
    trunk = [one for one in encoder.taps if one.part == "trunk"]
    head = Tap(TAP, 1.0 + 1.0 / max(1, len(trunk)), "head", width, pooled(tap.grid, pool), Site(MODULE))

    def forward(module: nn.Module, batch: Any) -> None:
        own = encoder.with_module(module, encoder.name)
        tokens = own.capture(batch, [tap.name], gradient=torch.is_grad_enabled())[tap.name]
        projector_of(module)(tokens[:, tap.grid.prefix :], tap.grid, encoder.valid(batch, tap))

    def valid(batch: Any, one: Tap) -> Tensor | None:
        known = encoder.valid(batch, tap if one.name == TAP else one)
        return known if known is None or one.name != TAP else projector_of(encoder.module).valid(known, tap.grid)

    def fresh() -> nn.Module:
        assert encoder.fresh_module is not None
        return _give(encoder.fresh_module(), tap, width, pool)

    base = encoder.skeleton or encoder.spec
    cut = str(bool(encoder.cut)).lower()
    spec = f"projected?base={quote(base, safe='{}')}&at={tap.name}&cut={cut}&width={width}&pool={pool}"
    return encoder.replace(
        taps=[*encoder.taps, head],
        forward=forward,
        valid=valid,
        fresh=fresh if encoder.fresh_module else None,
        spec=spec,
        skeleton=spec if base else "",
        cut="",
        absent=(),
        lineage={},
        configuration=f"{encoder.configuration}; {TAP} of {width} features, pool {pool}".removeprefix("; "),
        resized=lambda sized: with_projector(sized, width, pool),
    )


def projector_of(module: nn.Module) -> Projector:
    """The projector in the module of its encoder."""
    projector = module.get_submodule(MODULE)
    assert isinstance(projector, Projector)
    return projector


def _give(module: nn.Module, tap: Tap, width: int, pool: int) -> nn.Module:
    # What a base had, and was cut off, is no projector any more.
    if not isinstance(getattr(module, MODULE, None), Projector):
        like = next(module.parameters())
        setattr(module, MODULE, Projector(tap.features, width, pool).to(like.device).eval())
    return module
