"""What objectives put on the backbone, and both as one module. Heads stay in the saved encoder, and their taps stand beyond depth 1.

A head is called with the trunk's tokens [B, N, F] and the grid, and `taps` says what can be read while it runs.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import Grid, Site, Tap
from diagnostics_training.models.backbone import Backbone, Sizes, initialise, positions, stack


class Head(nn.Module):
    """Base of all heads."""

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Any:
        """Runs every part that a tap reads."""
        raise NotImplementedError

    def taps(self, depth: int, grid: Grid) -> list[Tap]:
        """For a trunk of `depth` blocks; one part of a head goes as far as one block."""
        raise NotImplementedError


def head_tap(name: str, at: int, depth: int, features: int, grid: Grid, site: Site) -> Tap:
    """The `at`-th part of a head, counted from 1."""
    return Tap(f"head.{name}", 1.0 + at / depth, "head", features, grid, site)


def one_place(grid: Grid) -> Grid:
    return Grid((1,) * len(grid.shape), grid.axes)


class Linear(Head):
    """One linear map of every token (`out`); its tap is `head.<name>`."""

    def __init__(self, name: str, width: int, outputs: int) -> None:
        super().__init__()
        self.name = name
        self.out = nn.Linear(width, outputs)
        initialise(self)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.out(tokens)

    def taps(self, depth: int, grid: Grid) -> list[Tap]:
        return [head_tap(self.name, 1, depth, self.out.out_features, grid, Site("head.out"))]


class Projector(Head):
    """SimCLR's g (arXiv 2002.05709, section 2.1): W2 ReLU(W1 h), of the mean over tokens, or of `each` token."""

    def __init__(self, width: int, outputs: int, each: bool) -> None:
        super().__init__()
        self.each = each
        self.enter, self.hidden, self.out = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        initialise(self)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.out(self.hidden(self.enter(tokens if self.each else tokens.mean(1))))

    def taps(self, depth: int, grid: Grid) -> list[Tap]:
        grid, layout = (grid, "tokens") if self.each else (one_place(grid), "features")
        return [
            head_tap("hidden", 1, depth, self.enter.out_features, grid, Site("head.hidden", layout=layout)),
            head_tap("projector", 2, depth, self.out.out_features, grid, Site("head.out", layout=layout)),
        ]


class Filler(Head):
    """A light transformer that fills places from those that are seen: MAE's decoder, JEPA's predictor.

    It has a quarter of the trunk's depth and half its width, to which tokens are mapped; a learned mask token stands at each place to be filled, all have their positions, and what
    stands at those places after the blocks becomes `outputs`. When an encoder is read nothing is missing: then every token
    goes through, and no mask token.
    """

    def __init__(self, sizes: Sizes, outputs: int) -> None:
        super().__init__()
        inner = max(2 * sizes.heads, sizes.width // 2 // (2 * sizes.heads) * 2 * sizes.heads)
        self.enter = nn.Linear(sizes.width, inner)
        self.mask = nn.Parameter(torch.zeros(inner))
        self.blocks = stack(inner, max(1, math.ceil(sizes.depth / 4)), sizes.heads)
        self.norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, outputs)
        initialise(self)
        nn.init.trunc_normal_(self.mask, std=0.02)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        return self.out(self._blocks(self.enter(tokens) + self._positions(grid, tokens)))

    def fill(self, tokens: Tensor, grid: tuple[int, ...], seen: Tensor, wanted: Tensor) -> Tensor:
        """From tokens [B, K, F] at the places `seen` [B, K], what is at `wanted` [B, M]: [B, M, outputs]."""
        places = self._positions(grid, tokens)
        masks = (self.mask + places[wanted]).to(tokens.dtype)
        both = torch.cat([self.enter(tokens) + places[seen], masks], dim=1)
        return self.out(self._blocks(both)[:, tokens.shape[1] :])

    def _positions(self, grid: tuple[int, ...], tokens: Tensor) -> Tensor:
        return positions(grid, self.enter.out_features, str(tokens.device))

    def _blocks(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def taps(self, depth: int, grid: Grid) -> list[Tap]:
        inner, count = self.enter.out_features, len(self.blocks)
        return [
            *(head_tap(f"blocks.{i}", i + 1, depth, inner, grid, Site(f"head.blocks.{i}")) for i in range(count)),
            head_tap("norm", count, depth, inner, grid, Site("head.norm")),
            head_tap("out", count + 1, depth, self.out.out_features, grid, Site("head.out")),
        ]


class Readout(Head):
    """Targets of a sample, linear in the mean over its tokens and, of a series, in its last token beside it."""

    def __init__(self, width: int, outputs: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.out = nn.Linear(width * (1 + last), outputs)
        initialise(self)

    def forward(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        mean = tokens.mean(1)
        return self.out(torch.cat([mean, tokens[:, -1]], dim=1) if self.last else mean)

    def taps(self, depth: int, grid: Grid) -> list[Tap]:
        site = Site("head.out", layout="features")
        return [head_tap("targets", 1, depth, self.out.out_features, one_place(grid), site)]


class Model(nn.Module):
    """`backbone`, and `head` where the objective has one."""

    def __init__(self, backbone: Backbone, head: Head | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Any:
        """Of [B, C, *extent] what the head makes, or the trunk's tokens [B, N, F]."""
        tokens = self.backbone(x)
        return tokens if self.head is None else self.head(tokens, self.backbone.patches.grid(tuple(x.shape[2:])))
