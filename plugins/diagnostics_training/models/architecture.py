"""The encoders of all objectives: backbone and head from a few numbers, which also are their name."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, TorchEncoder, stack_taps
from diagnostics_training.models.backbone import AXES, Backbone, Patches
from diagnostics_training.models.heads import Filler, Head, Linear, Projector, Readout
from diagnostics_training.models.inputs import channels_of, extent_of, prepare

OBJECTIVES = ("forecast", "reconstruct", "contrastive", "jepa", "random", "supervised")
LEVELS = tuple(i / 10 for i in range(1, 10))
"""Quantile levels of a forecast."""
TUBE = 2
"""Frames in a patch of a clip, as V-JEPA (arXiv 2404.08471) has them."""
PROJECTED = 128
"""Features of the projection at most."""
INITIAL = 7919
"""Apart from the seeds of controls: `fresh(0)` must not draw the initial weights of training seed 0."""


MOST = {"width": 16_384, "depth": 1_000, "heads": 1_024, "patch": 65_536, "channels": 10_000, "outputs": 1_000_000}
"""Sizes of an encoder at most: what has more is a slip, or meant to fill the memory of whoever builds it."""
MOST_WEIGHTS, MOST_VALUES = 10**10, 10**8
"""Of the trunk, and numbers in a sample."""

CHOICES = {
    "objective": OBJECTIVES,
    "modality": tuple(AXES),
    "likelihood": ("quantile", "gaussian"),
    "positives": ("views", "temporal"),
}


def check_choices(**chosen: str) -> None:
    """Raises for a word that is none of `CHOICES`."""
    for what, value in chosen.items():
        if value not in CHOICES[what]:
            raise DiagnosticsError(f"There is no {what} '{value}': choose one of {', '.join(CHOICES[what])}.")


def check_sizes(width: int, depth: int, heads: int, **more: int) -> None:
    """Raises for sizes that no encoder has."""
    for what, value in {"width": width, "depth": depth, "heads": heads, **more}.items():
        if value < 1:
            raise DiagnosticsError(f"An encoder cannot have {what}={value}: give at least 1.")
        if value > MOST[what]:
            raise DiagnosticsError(f"An encoder cannot have {what}={value}: give at most {MOST[what]:,}.")
    if 12 * depth * width**2 > MOST_WEIGHTS:
        raise DiagnosticsError(
            f"An encoder of depth {depth} and width {width} has more than {MOST_WEIGHTS:,} weights: give less of either."
        )
    if width % (2 * heads):
        raise DiagnosticsError(
            f"A width of {width} cannot be divided among {heads} heads in pairs, as sines and cosines of positions need it: "
            f"give a multiple of {2 * heads} (2 x heads)."
        )


class Model(nn.Module):
    """`backbone`, and `head` where the objective has one."""

    def __init__(self, backbone: Backbone, head: Head | None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Any:
        """Of [B, C, *extent] what the head makes, or the trunk's tokens [B, N, F]."""
        tokens = self.backbone(x)
        return tokens if self.head is None else self.head(tokens, self.backbone.patches.grid(tuple(x.shape[2:])))


@dataclass(frozen=True)
class Architecture:
    """What decides an encoder but its weights.

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
        check_choices(
            objective=self.objective, modality=self.modality, likelihood=self.likelihood, positives=self.positives
        )
        check_sizes(self.width, self.depth, self.heads, patch=self.patch, channels=self.channels, outputs=self.outputs)
        if self.positives == "temporal" and self.modality != "series":
            raise DiagnosticsError("Temporal positives are for series: leave --positives out for images and clips.")
        self.patches.grid(self.extent)
        values = self.channels * math.prod(self.extent)
        if values > MOST_VALUES:
            shown = "x".join(map(str, self.extent))
            raise DiagnosticsError(
                f"Samples of {shown} have {values:,} numbers, more than the {MOST_VALUES:,} that an encoder is made for: make them smaller."
            )

    @property
    def patches(self) -> Patches:
        """How samples are cut."""
        size = {"series": (self.patch,), "image": (self.patch,) * 2, "video": (TUBE, self.patch, self.patch)}
        return Patches(self.channels, size[self.modality], AXES[self.modality])

    @property
    def spec(self) -> str:
        """The name under which the plugin builds this architecture."""
        if self.modality == "series":
            size = f"length={self.extent[0]}" + (f"&variates={self.channels}" if self.channels > 1 else "")
        else:
            size = f"size={self.extent[-1]}" + (f"&frames={self.extent[0]}" if self.modality == "video" else "")
        more = {
            "forecast": f"&likelihood={self.likelihood}",
            "contrastive": f"&positives={self.positives}" if self.positives != "views" else "",
            "supervised": f"&outputs={self.outputs}",
        }.get(self.objective, "")
        sizes = f"width={self.width}&depth={self.depth}&heads={self.heads}&patch={self.patch}"
        return f"objective:{self.objective}?modality={self.modality}&{size}&{sizes}{more}"

    def model(self) -> Model:
        """Backbone and head with weights from torch's generator."""
        causal = self.objective == "forecast"
        return Model(Backbone(self.patches, self.width, self.depth, self.heads, causal), self._head())

    def initial(self, seed: int) -> Model:
        """The weights that training of this seed starts from; backbones of one seed are equal for all objectives."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([INITIAL, seed]).generate_state(1)[0]))
            return self.model()

    def _head(self) -> Head | None:
        width = self.width
        if self.objective == "forecast":
            each = len(LEVELS) if self.likelihood == "quantile" else 2
            return Linear("forecast", width, self.patches.values * each)
        if self.objective in ("reconstruct", "jepa"):
            # Light: a quarter of the trunk's depth and half its width.
            inner = max(2 * self.heads, width // 2 // (2 * self.heads) * 2 * self.heads)
            outputs = self.patches.values if self.objective == "reconstruct" else width
            return Filler(width, inner, max(1, math.ceil(self.depth / 4)), self.heads, outputs)
        if self.objective == "contrastive":
            return Projector(width, min(PROJECTED, width), each=self.positives == "temporal")
        return Readout(width, self.outputs, self.modality == "series") if self.objective == "supervised" else None

    def encoder(self, model: Model, name: str) -> TorchEncoder:
        """A model of this architecture as an encoder, which reads samples of any size that patches fit."""
        grid = Grid(self.patches.grid(self.extent), AXES[self.modality])
        taps = stack_taps("backbone.blocks", self.depth, self.width, grid, norm="backbone.norm")
        if model.head is not None:
            taps += model.head.taps(self.depth, grid)
        encoder = TorchEncoder(
            name,
            self.modality,  # pyright: ignore[reportArgumentType]
            model.eval(),
            taps,
            "norm",
            self.preprocess,
            self._example(),
            fresh=self.model,
            configuration=self.spec,
            sized_for=lambda sample: self._sized(sample, model, name),
        )
        return encoder.replace(skeleton=self.spec)

    def preprocess(self, sample: np.ndarray) -> Tensor:
        """One raw sample as [C, *extent]."""
        sample = np.asarray(sample)
        self.patches.grid(extent_of(self.modality, sample))
        if channels_of(self.modality, sample) != self.channels:
            raise DiagnosticsError(
                f"This encoder reads series of {self.channels} variate(s), not of {channels_of(self.modality, sample)}."
            )
        return prepare(self.modality, sample[None])[0]

    def _sized(self, sample: np.ndarray, model: Model, name: str) -> TorchEncoder | None:
        extent = extent_of(self.modality, np.asarray(sample))
        if extent == self.extent:
            return None
        return replace(self, extent=extent).encoder(model, name).replace(configuration=self.spec)

    def _example(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        if self.modality == "series":
            shape = self.extent if self.channels == 1 else (*self.extent, self.channels)
            return rng.standard_normal(shape).cumsum(0).astype(np.float32)
        return rng.integers(0, 256, (*self.extent, 3)).astype(np.uint8)
