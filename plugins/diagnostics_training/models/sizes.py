"""The numbers that decide an encoder's shape, whatever its objective; checked where they are given."""

import math
from dataclasses import dataclass

from diagnostics.plugin import DiagnosticsError
from diagnostics_training.models.backbone import AXES, Patches

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
