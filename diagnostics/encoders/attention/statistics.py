"""What is kept of the attention of each sample and head, how it follows from its rows, and which tokens of an attention are a tap's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.encoders.taps import Site, Tap


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a call in the tap's order: prefix tokens, grid tokens in raster order, then padding.

    `order` [token] holds their positions in the call, None where they lie in this order already; `places` [grid token, axis]
    the cells of the grid, float32. `queries` is their number where they are other tokens than the keys.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders.attention import Tokens
        >>> grid = dx.Grid((2, 2), ("y", "x"), prefix=1)
        >>> tap = dx.Tap("blocks.0", 0.5, "trunk", 8, grid)
        >>> tokens = Tokens.of(tap, dx.Site("blocks.0", padding=3), torch.device("cpu"))
        >>> tokens.order  # three tokens of padding come first in the call
        tensor([3, 4, 5, 6, 7, 0, 1, 2])
        >>> tokens.places.tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """

    prefix: int
    places: Tensor
    order: Tensor | None
    queries: int | None = None

    @classmethod
    def nowhere(cls, queries: int, keys: int, device: torch.device) -> Tokens:
        """Of an attention that is no tap's: all tokens alike, without places."""
        return cls(0, torch.zeros(keys, 1, device=device), None, queries)

    @classmethod
    def of(cls, tap: Tap, site: Site | None, device: torch.device) -> Tokens:
        """Of a tap whose module holds one sample a row, on that device."""
        axes = [torch.arange(extent, device=device, dtype=torch.float32) for extent in tap.grid.shape]
        places = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], dim=1)
        if site is None or not (site.padding or site.order):
            return cls(tap.grid.prefix, places, None)
        every = torch.arange(tap.tokens + site.dropped, device=device)
        own = every[site.kept]
        own = own[torch.tensor(site.order, device=device)] if site.order else own
        padding = torch.cat([every[: site.padding], every[site.padding + tap.tokens :]])
        return cls(tap.grid.prefix, places, torch.cat([own, padding]))

    @property
    def grid(self) -> slice:
        """The grid tokens, in the tap's order."""
        return slice(self.prefix, self.own)

    @property
    def looking(self) -> slice:
        """The queries that are counted, in the tap's order."""
        return self.grid if self.queries is None else slice(0, self.queries)

    @property
    def own(self) -> int:
        """Number of tokens of the tap: all but padding."""
        return self.prefix + len(self.places)

    def ordered(self, x: Tensor, dim: int = -2) -> Tensor:
        """With an axis of the call's tokens in the tap's order."""
        return x if self.order is None else x.index_select(dim, self.order)

    def cells_apart(self, queries: slice, dtype: torch.dtype) -> Tensor:
        """Distance in cells [query, grid key] of some tokens in the tap's order; of one without a place it means nothing."""
        rows = torch.arange(queries.start, queries.stop, device=self.places.device) - self.prefix
        rows = rows.clamp(0, len(self.places) - 1)
        squares = torch.zeros((), dtype=dtype, device=self.places.device)
        for axis in self.places.to(dtype).unbind(1):
            squares = (axis[rows, None] - axis).square_().add_(squares)
        return squares.sqrt_()


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each sample and head over the grid queries, float64 [B, H]; NaN for a head without any attention.

    Rows are renormalised over the grid keys, except in `prefix` and `received`.

    Examples:
        >>> import torch
        >>> import diagnostics as dx
        >>> from diagnostics.encoders import attention
        >>> from diagnostics.encoders.attention.fused import FusedCall
        >>> q = k = v = torch.zeros(1, 1, 10, 8)  # uniform over a token and 3 x 3 places
        >>> grid = dx.Grid((3, 3), ("y", "x"), prefix=1)
        >>> tap = dx.Tap("blocks.0", 0.5, "trunk", 8, grid)
        >>> tokens = attention.Tokens.of(tap, None, q.device)
        >>> seen = attention.attention_statistics(FusedCall.of((q, k, v), {}), v, tokens)
        >>> round(seen.prefix.item(), 3), round(seen.peak.item(), 3)
        (0.1, 0.111)
        >>> round(seen.received_by_most(0.5).item(), 3)
        0.5
    """

    entropy: Tensor
    """Mean of -sum p ln p, in nats."""
    distance: Tensor
    """Mean of sum p |place - place'|, in cells."""
    prefix: Tensor
    """Mean share of prefix keys."""
    peak: Tensor
    """Mean of the largest share."""
    logit: Tensor
    """Largest logit of a grid key, with its mask added, as softmax takes it; NaN where only shares are known."""
    received: Tensor
    """[B, H, K]: mean share of each grid key."""
    error: float = 0.0
    """How far attention times values is from what the model's kernel gave: the worst row's share of its sum of
    |attention| |value|."""
    padding: float = 0.0
    """The largest share of a row of the tap that goes to padding."""

    @property
    def top_key(self) -> Tensor:
        """Mean share of the grid key that receives most."""
        return self.received.amax(-1)

    def received_by_most(self, share: float = 0.01) -> Tensor:
        """What this share of the grid keys, those that receive most, gets of all that grid keys receive [B, H].

        The last key counts in part, so that uniform attention gives `share` for any number of keys.
        """
        keys = self.received.shape[-1]
        count = share * keys
        whole = math.floor(count)
        most = self.received.topk(min(keys, whole + 1), dim=-1).values
        weights = torch.ones(most.shape[-1], dtype=most.dtype, device=most.device)
        if whole < keys:
            weights[-1] = count - whole
        total = self.received.sum(-1)
        return (most * weights).sum(-1) / torch.where(total > 0, total, math.nan)


@dataclass(frozen=True, eq=False)
class Rows:
    """The same of every row in the tap's order, [B, H, Q]; NaN where a row has none, -inf for its logit."""

    entropy: Tensor
    distance: Tensor
    prefix: Tensor
    peak: Tensor
    logit: Tensor
    error: Tensor
    padding: Tensor

    @classmethod
    def empty(cls, *shape: int, dtype: torch.dtype, device: torch.device) -> Rows:
        """To be filled: what is not written is NaN, never what memory held before."""
        return cls(*(torch.full(shape, math.nan, dtype=dtype, device=device) for _ in range(7)))

    def reduced(self, tokens: Tokens, received: Tensor) -> Statistics:
        """Over the grid queries; `received` [B, H, K] is the sum of their shares of each grid key."""
        rows = tokens.looking
        logit = self.logit[..., rows].double().amax(-1)
        looking = (~self.prefix[..., rows].isnan()).sum(-1, keepdim=True)
        return Statistics(
            entropy=_mean(self.entropy[..., rows]).clamp_min(0),
            distance=_mean(self.distance[..., rows]),
            prefix=_mean(self.prefix[..., rows]),
            peak=_mean(self.peak[..., rows]),
            logit=torch.where(logit == -math.inf, math.nan, logit),
            received=received.double() / looking,
            error=float(self.error.nan_to_num(math.inf).amax()),
            padding=float(self.padding[..., : tokens.own].nan_to_num(0.0).amax()),
        )


def _mean(rows: Tensor) -> Tensor:
    return rows.double().nanmean(-1)
