"""Encoders that objectives train: the backbone, its heads, and what an objective declares of both."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Grid, Site, Tap, Target, check_known, refuse_values
from diagnostics_training.trainer.objective import Batch, Objective

# The one backbone of all objectives: a pre-norm transformer on patches, with fixed positions.
#
# Shape suffixes: B sample, C channel (variate, colour), N patch in raster order, K visible patch, P value of a patch, F
# feature.


AXES = {"series": ("t",), "image": ("y", "x"), "video": ("t", "y", "x")}


@dataclass(frozen=True)
class Patches:
    """The cut of a prepared sample [C, *extent]: `size` steps, pixels or frames along each of `axes`."""

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
                f"A sample of {shown} ({', '.join(self.axes)}) cannot be cut into patches of {size}: let the patch "
                f"divide it.",
                code="bad-sample",
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
    """Fixed sine-cosine positions [N, F] (Vaswani et al., arXiv 1706.03762).

    Each axis has an equal share of the features, half sines and half cosines of frequencies from 1 down to 1/10,000;
    features left over are 0.
    """
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
    """Raise for a word that is none of `CHOICES`."""
    for name, value in chosen.items():
        check_known(name, value, CHOICES[name])


def check_sizes(width: int, depth: int, heads: int, **more: int) -> None:
    """Raise for sizes that no encoder has."""
    for option, value in {"width": width, "depth": depth, "heads": heads, **more}.items():
        if not 1 <= value <= MOST[option]:
            limit = "at least 1" if value < 1 else f"at most {MOST[option]:,}"
            raise DiagnosticsError(f"An encoder cannot have {option}={value}: give {limit}.", code="bad-value")
    refuse_values(
        (
            12 * depth * width**2 > MOST_WEIGHTS,
            f"An encoder of depth {depth} and width {width} has more than {MOST_WEIGHTS:,} weights: give less of "
            f"either.",
            "too-large",
        ),
        (
            width % (2 * heads),
            f"A width of {width} cannot be divided among {heads} heads in pairs, as sines and cosines of positions "
            f"need it: give a multiple of {2 * heads} (2 x heads).",
        ),
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
        if self.positives == "temporal" and self.modality == "image":
            raise DiagnosticsError(
                "Temporal positives are for series and clips: leave --positives out for images.", code="other-modality"
            )
        _ = self.grid
        values = self.channels * math.prod(self.extent)
        if values > MOST_VALUES:
            shown = "x".join(map(str, self.extent))
            raise DiagnosticsError(
                f"Samples of {shown} have {values:,} numbers, more than the {MOST_VALUES:,} that an encoder is made "
                f"for: make them smaller.",
                code="too-large",
            )

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along each axis."""
        return self.patches.grid(self.extent)

    @property
    def patches(self) -> Patches:
        """The cut of samples."""
        size = {"series": (self.patch,), "image": (self.patch,) * 2, "video": (TUBE, self.patch, self.patch)}
        return Patches(self.channels, size[self.modality], AXES[self.modality])


# What objectives put on the backbone, and both as one module. Heads stay in the saved encoder, and their taps stand
# beyond depth 1.
#
# A head is called with the trunk's tokens [B, N, F] and the grid, and `taps` says what can be read while it runs.


class Head(nn.Module):
    """Base of all heads: called with tokens and grid, it runs every part that a tap reads."""

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

    It has a quarter of the trunk's depth and half its width, to which tokens are mapped; a learned mask token stands at
    each place to be filled, all have their positions, and what stands at those places after the blocks becomes
    `outputs`. When an encoder is read nothing is missing: then every token goes through, and no mask token.
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


# What an objective of this plugin declares beside its loss: the head of its encoder, and what it needs of the data.


@dataclass(frozen=True)
class Answers:
    """The dataset's answers on each sample, for an objective that learns it.

    arrays: [sample, ...] each; they join the batch under their names.
    classes: how many each label has.
    outputs: numbers that a readout of all of them gives.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    classes: tuple[int, ...] = ()
    outputs: int = 1


class EncoderObjective(Objective):
    """An objective that trains a `Model`; a subclass implements `forward`, and overrides what differs from below.

    trained: whether there is anything to train; otherwise only `head` is used.
    causal: whether a patch attends only to itself and to earlier ones.
    options: fields of `Sizes` that it reads beside the sizes of the trunk; they stand in the encoder's name.
    training_options: options of the command that change the training and not the encoder.
    """

    trained: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    training_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Model, sizes: Sizes, regulariser: str = "none", classes: tuple[int, ...] = ()) -> None:
        """For a model of these sizes; `classes` as of `Answers`."""
        super().__init__()
        self.model, self.sizes, self.regulariser, self.classes = model, sizes, regulariser, classes

    @classmethod
    def head(cls, sizes: Sizes) -> Head | None:
        """The head of a model of these sizes, with weights from torch's generator."""
        return None

    @classmethod
    def answers(cls, targets: Mapping[str, Target], rows: np.ndarray, dataset: str) -> Answers:
        """Answers that it learns for the samples `rows`; raises where the dataset does not have it."""
        return Answers()

    def blocks(self) -> Sequence[nn.Module]:
        return [part for part in self.modules() if isinstance(part, Block)]

    def output(self, batch: Batch) -> Tensor:
        return self.model.backbone(batch["x"]).mean(1)
