"""The reduction of attention to a few numbers for each sample and head, as it is recorded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.encoders.attention import (
    Implementation,
    Statistics,
    Tokens,
    attention_statistics,
    of_matrix,
)
from diagnostics.encoders.attention.capture import FusedCall, OfCall
from diagnostics.encoders.taps import Grid, Site, Tap
from diagnostics.measures.locality.blocks import places


@dataclass(frozen=True)
class ReduceAttention:
    """The reduction of attention to some `columns` [sample, head, column], with or without its matrix: `distance` in cells,
    `entropy` in nats, `normalised_entropy`, shares (`prefix`, `top_key`, `peak`, `received`), `logit`.

    `by` is the implementation where there is no matrix: `auto`, `plain`, `blocks` or `triton`.

    Examples:
        >>> import diagnostics as dx
        >>> from diagnostics.measures.locality.reduce_attention import ReduceAttention
        >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
        >>> batch = encoder.preprocess(encoder.example())[None]
        >>> reduce = ReduceAttention(["entropy", "distance"])
        >>> encoder.attention(batch, ["blocks.0"], reduce)["blocks.0"].shape
        torch.Size([1, 4, 2])
    """

    columns: Sequence[str]
    by: Implementation = "auto"

    def __call__(self, tap: Tap, attention: Tensor) -> Tensor:
        grid = tap.grid
        cells = places(grid.shape, attention.device).double()
        return self._kept(tap, of_matrix(attention[..., grid.prefix :, :], grid.prefix, cells))

    def of_call(self, tap: Tap, site: Site, call: FusedCall, out: Tensor) -> OfCall:
        statistics = attention_statistics(call, out, Tokens.of(tap, site, out.device), self.by)
        return OfCall(self._kept(tap, statistics), statistics.error, statistics.padding)

    def _kept(self, tap: Tap, statistics: Statistics) -> Tensor:
        return torch.stack([COLUMNS[name](statistics, tap.grid) for name in self.columns], dim=-1).float()


COLUMNS: Mapping[str, Callable[[Statistics, Grid], Tensor]] = {
    "distance": lambda statistics, grid: statistics.distance,
    "entropy": lambda statistics, grid: statistics.entropy,
    "normalised_entropy": lambda statistics, grid: statistics.entropy / (math.log(grid.tokens) or math.nan),
    "prefix": lambda statistics, grid: statistics.prefix,
    "top_key": lambda statistics, grid: statistics.top_key,
    "peak": lambda statistics, grid: statistics.peak,
    "logit": lambda statistics, grid: statistics.logit,
    "received": lambda statistics, grid: statistics.received_by_most(),
}
"""What can be recorded of each sample and head [sample, head]."""
