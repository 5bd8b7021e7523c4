"""The one backbone of all objectives: a pre-norm transformer on patches, with fixed positions.

Shape suffixes: B sample, C channel (variate, colour), N patch in raster order, K visible patch, P value of a patch, F feature.
"""

import functools
import math
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError

AXES = {"series": ("t",), "image": ("y", "x"), "video": ("t", "y", "x")}


@dataclass(frozen=True)
class Patches:
    """How a prepared sample [C, *extent] is cut: `size` steps, pixels or frames along each of `axes`."""

    channels: int
    size: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def values(self) -> int:
        """Numbers in a patch."""
        return self.channels * math.prod(self.size)

    def grid(self, extent: tuple[int, ...]) -> tuple[int, ...]:
        """Patches along each axis; raises where they do not fit."""
        if len(extent) != len(self.size) or any(n < s or n % s for n, s in zip(extent, self.size, strict=True)):
            shown, size = ("x".join(map(str, n)) for n in (extent, self.size))
            raise DiagnosticsError(
                f"A sample of {shown} ({', '.join(self.axes)}) cannot be cut into patches of {size}: let the patch divide it."
            )
        return tuple(n // s for n, s in zip(extent, self.size, strict=True))

    def cut(self, x: Tensor) -> Tensor:
        """[B, C, *extent] as [B, N, P]: within a patch the channel first, then the places."""
        grid = self.grid(tuple(x.shape[2:]))
        split = [part for pair in zip(grid, self.size, strict=True) for part in pair]
        x = x.reshape(*x.shape[:2], *split)
        places, within = range(2, x.ndim, 2), range(3, x.ndim, 2)
        return x.permute(0, *places, 1, *within).reshape(len(x), math.prod(grid), self.values)


def positions(grid: tuple[int, ...], width: int, device: str = "cpu") -> Tensor:
    """Fixed sine-cosine positions [N, F] (Vaswani et al., arXiv 1706.03762): each axis has an equal share of the features,
    half sines and half cosines of frequencies from 1 down to 1/10,000; features left over are 0."""
    # A compiler makes them once itself, and warns of a cache.
    return _positions(grid, width, device) if torch.compiler.is_compiling() else _kept(grid, width, device)


def _positions(grid: tuple[int, ...], width: int, device: str) -> Tensor:
    share = width // (2 * len(grid)) * 2
    rates = 10_000.0 ** -(torch.arange(share // 2, dtype=torch.float64) / max(1, share // 2))
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [place.reshape(-1, 1) * rates for place in places]
    features = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    return nn.functional.pad(features, (0, width - features.shape[1])).float().to(device)


_kept = functools.lru_cache(32)(_positions)


class Backbone(nn.Module):
    """`embed` (linear, of patches), `blocks`, `norm`; `causal` lets a patch see itself and those before it only."""

    def __init__(self, patches: Patches, width: int, depth: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.patches, self.width, self.causal = patches, width, causal
        self.embed = nn.Linear(patches.values, width)
        self.blocks = stack(width, depth, heads)
        self.norm = nn.LayerNorm(width)
        initialise(self)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, C, *extent] as [B, N, F], or [B, K, F] of the patches `keep` [B, K]; the others are never looked at."""
        grid = self.patches.grid(tuple(x.shape[2:]))
        patches = self.patches.cut(x)
        places = positions(grid, self.width, str(x.device))
        if keep is not None:
            patches, places = pick(patches, keep), places[keep]
        return self.encode(self.embed(patches) + places)

    def encode(self, tokens: Tensor) -> Tensor:
        """Blocks and final norm of tokens [B, K, F]."""
        for block in self.blocks:
            tokens = block(tokens, is_causal=self.causal)
        return self.norm(tokens)


def stack(width: int, depth: int, heads: int) -> nn.ModuleList:
    """timm's pre-norm blocks."""
    return nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))


def initialise(module: nn.Module) -> None:
    """Matrices from Glorot's uniform distribution, biases 0, as MAE (arXiv 2111.06377, appendix A.1) does."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def pick(tokens: Tensor, which: Tensor) -> Tensor:
    """Of tokens [B, N, F] those of `which` [B, K]."""
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[-1]))
