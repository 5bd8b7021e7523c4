"""Which tokens of an attention are a tap's, and where these lie on its grid."""

from __future__ import annotations

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
        >>> from diagnostics.encoders.attention_statistics import Tokens
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
