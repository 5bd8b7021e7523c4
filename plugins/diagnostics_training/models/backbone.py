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


# The numbers that decide an encoder's shape, whatever its objective; checked where they are given.

TUBE = 2
"""Frames in a patch of a clip, as V-JEPA (arXiv 2404.08471) has them."""
MOST = {"width": 16_384, "depth": 1_000, "heads": 1_024, "patch": 65_536, "channels": 10_000, "outputs": 1_000_000}
"""Largest allowed sizes: anything larger is a slip, or meant to fill the memory of whoever builds the encoder."""
MOST_WEIGHTS, MOST_VALUES = 10**10, 10**8
"""Largest trunk, in weights, and largest sample, in numbers."""

CHOICES = {
    "modality": tuple(AXES),
    "likelihood": ("quantile", "gaussian"),
    "positives": ("views", "temporal"),
}


def check_choices(**chosen: str) -> None:
    """Raises for a word that is none of `CHOICES`."""
    for name, value in chosen.items():
        if value not in CHOICES[name]:
            raise DiagnosticsError(f"There is no {name} '{value}': choose one of {', '.join(CHOICES[name])}.")


def check_sizes(width: int, depth: int, heads: int, **more: int) -> None:
    """Raises for sizes that no encoder has."""
    for option, value in {"width": width, "depth": depth, "heads": heads, **more}.items():
        if not 1 <= value <= MOST[option]:
            limit = "at least 1" if value < 1 else f"at most {MOST[option]:,}"
            raise DiagnosticsError(f"An encoder cannot have {option}={value}: give {limit}.")
    if 12 * depth * width**2 > MOST_WEIGHTS:
        raise DiagnosticsError(
            f"An encoder of depth {depth} and width {width} has more than {MOST_WEIGHTS:,} weights: give less of either."
        )
    if width % (2 * heads):
        raise DiagnosticsError(
            f"A width of {width} cannot be divided among {heads} heads in pairs, as sines and cosines of positions need it: "
            f"give a multiple of {2 * heads} (2 x heads)."
        )


@dataclass(frozen=True)
class Sizes:
    """Everything that decides an encoder except its weights and what its objective makes of these numbers.

    extent: steps, or pixels, or frames and pixels that a sample has; others are taken too where patches fit.
    patch: steps of a series, or pixels along each side, in a patch; of clips two frames deep.
    likelihood: of a forecast: `quantile` or `gaussian`.
    positives: of contrast: `views` or `temporal`.
    outputs: numbers that a supervised readout gives.
    """

    objective: str
    modality: str
    extent: tuple[int, ...]
    channels: int = 1
    width: int = 64
    depth: int = 6
    heads: int = 4
    patch: int = 16
    likelihood: str = "quantile"
    positives: str = "views"
    outputs: int = 1

    def __post_init__(self) -> None:
        check_choices(modality=self.modality, likelihood=self.likelihood, positives=self.positives)
        check_sizes(self.width, self.depth, self.heads, patch=self.patch, channels=self.channels, outputs=self.outputs)
        if self.positives == "temporal" and self.modality != "series":
            raise DiagnosticsError("Temporal positives are for series: leave --positives out for images and clips.")
        _ = self.grid
        values = self.channels * math.prod(self.extent)
        if values > MOST_VALUES:
            shown = "x".join(map(str, self.extent))
            raise DiagnosticsError(
                f"Samples of {shown} have {values:,} numbers, more than the {MOST_VALUES:,} that an encoder is made for: make them smaller."
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return self.patches.grid(self.extent)

    @property
    def patches(self) -> Patches:
        """How samples are cut."""
        size = {"series": (self.patch,), "image": (self.patch,) * 2, "video": (TUBE, self.patch, self.patch)}
        return Patches(self.channels, size[self.modality], AXES[self.modality])
