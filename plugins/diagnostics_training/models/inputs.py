"""Samples as models read them, what is changed at random in pictures, and which patches are hidden."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, central_part

# What is changed at random in pictures that are trained on: which part is seen, mirrored or not, and its colours.


LUMA = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class PictureChanges:
    """Ranges from which changes are drawn; by default those of SimCLR (arXiv 2002.05709, appendix A) with larger crops.

    area, aspect: of a crop, as shares of the picture's own; as likely as its inverse is each aspect.
    mirror, grey: how often left and right are exchanged, and all colours become grey.
    brightness, contrast, saturation: how far the factor of each lies from 1 at most; contrast is about the mean grey.
    """

    area: tuple[float, float] = (0.4, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    grey: float = 0.2

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        """Changes of `count` pictures, arrays [picture, ...].

        half, centre: half sides (y, x) of the crop as shares of the picture's half sides, and its centre, from -1 to 1.
        mirror: -1 or 1. colour: factors of brightness, contrast and saturation.
        """
        area = rng.uniform(*self.area, count)
        aspect = np.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1]), count))
        half = np.stack([np.sqrt(area / aspect), np.sqrt(area * aspect)], axis=1).clip(max=1)
        centre = rng.uniform(-1, 1, (count, 2)) * (1 - half)
        mirror = np.where(rng.random(count) < self.mirror, -1.0, 1.0)
        reach = np.array([self.brightness, self.contrast, self.saturation])
        colour = rng.uniform(1 - reach, 1 + reach, (count, 3))
        colour[rng.random(count) < self.grey, 2] = 0
        return {"half": half, "centre": centre, "mirror": mirror, "colour": colour}


def recoloured(pixels: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast about the mean grey, and saturation [B, 3] of pixels [B, colour, ...] from 0 to 1."""
    bright, contrast, saturation = (f.reshape(-1, *[1] * (pixels.ndim - 1)) for f in factors.unbind(1))
    pixels = (pixels * bright).clamp_(0, 1)
    middle = _grey(pixels).flatten(1).mean(1).reshape(bright.shape)
    # No branch, which would wait for a GPU.
    pixels = torch.where(contrast == 1, pixels, ((pixels - middle) * contrast + middle).clamp_(0, 1))
    grey = _grey(pixels)
    return ((pixels - grey) * saturation + grey).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * torch.tensor(LUMA, device=pixels.device).reshape(1, 3, *[1] * (pixels.ndim - 2))).sum(
        1, keepdim=True
    )


# Which patches are hidden, drawn for a whole batch: as many in every sample, so that they batch.
#
# Shape suffixes: B sample, N patch, K visible patch, M target block, W patch of a target block.


TRIES = 4


def random_masks(rng: np.random.Generator, count: int, patches: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Visible and hidden patches of each sample, int64 [B, K] and [B, N - K], each in order; `share` of them hidden."""
    hidden = min(max(1, round(share * patches)), patches - 1)
    order = rng.random((count, patches)).argsort(1)
    return np.sort(order[:, hidden:], 1), np.sort(order[:, :hidden], 1)


def block_masks(rng: np.random.Generator, count: int, grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Context and targets of a joint-embedding prediction, int64 [B, K] and [B, M, W].

    Series and images as I-JEPA (arXiv 2301.08243, section 3 and appendix A.1) hides them: four target blocks of 0.15 to
    0.2 of the patches and aspect 0.75 to 1.5, their size drawn once for the batch, and as context a block of 0.85 to 1
    without what is in a target. Clips as V-JEPA (arXiv 2404.08471, section 3.2, short-range masks) does: eight blocks
    of 0.15 of each frame through all frames are one target, and all else is the context. Of several draws the first is
    taken that leaves enough context; then contexts (and the targets of clips) are cut at random to the fewest of the
    batch.
    """
    clip = len(grid) == 3
    patches, space = math.prod(grid), grid[1:] if clip else grid
    blocks = 8 if clip else 4
    shape = _shape(rng, space, 0.15 if clip else rng.uniform(0.15, 0.2), rng.uniform(0.75, 1.5))
    hidden = _placed(rng, (count, TRIES, blocks), space, shape)
    union = np.asarray(hidden.any(2))
    seen = ~union
    if not clip:
        shape = _shape(rng, space, rng.uniform(0.85, 1.0), 1.0)
        seen &= _placed(rng, (count, TRIES, 1), space, shape)[:, :, 0]
    left = seen.sum(-1)
    enough = left >= (0.15 if clip else 0.25) * math.prod(space)
    chosen = np.where(enough.any(1), enough.argmax(1), left.argmax(1))
    rows = np.arange(count)
    seen, union, hidden = seen[rows, chosen], union[rows, chosen], hidden[rows, chosen]
    if clip:
        seen, union = (np.tile(mask, grid[0]) for mask in (seen, union))
        return _cut(rng, seen), _cut(rng, union)[:, None]
    if not seen.any(1).all():
        # A grid of so few patches that blocks can cover it: one patch stays.
        bare = ~seen.any(1)
        seen[bare, rng.integers(0, patches, bare.sum())] = True
    return _cut(rng, seen), np.nonzero(hidden)[2].reshape(count, blocks, -1)


def _shape(rng: np.random.Generator, space: tuple[int, ...], scale: float, aspect: float) -> tuple[int, ...]:
    """Sides of a block with that share of the patches: at least one and at most the whole along each axis."""
    if len(space) == 1:
        sides: tuple[float, ...] = (scale * space[0],)
    else:
        area = scale * math.prod(space)
        sides = (math.sqrt(area * aspect), math.sqrt(area / aspect))
    return tuple(min(max(1, round(side)), n) for side, n in zip(sides, space, strict=True))


def _placed(
    rng: np.random.Generator, count: tuple[int, ...], space: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Blocks of that shape at random places, bool [*count, N]."""
    mask = np.ones((*count, *(1 for _ in space)), bool)
    for axis, (side, extent) in enumerate(zip(shape, space, strict=True)):
        start = rng.integers(0, extent - side + 1, count)[..., None]
        within = (np.arange(extent) >= start) & (np.arange(extent) < start + side)
        mask = mask & np.expand_dims(within, tuple(len(count) + i for i in range(len(space)) if i != axis))
    return mask.reshape(*count, -1)


def _cut(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Places of a mask [B, N], as many of each row as the row with the fewest has, at random and in order."""
    fewest = int(mask.sum(1).min())
    order = np.where(mask, rng.random(mask.shape), 2.0).argsort(1)
    return np.sort(order[:, :fewest], 1)


# Raw samples as what the backbone takes, with and without augmentation.
#
# One family of views for all objectives. Series: a window at random (where the sample is longer than what the encoder
# reads), normed, scaled by exp(0.1 N(0, 1)), with noise of 0.05 of its deviation. Images and clips: a random crop of
# 0.4 to 1 of the area and aspect 3/4 to 4/3, resized; mirrored half of the time; brightness, contrast and saturation
# times 0.6 to 1.4; grey one time in five (SimCLR, arXiv 2002.05709, appendix A, with larger crops since the objects are
# small). All frames of a clip are treated alike. Time never runs backwards and is never stretched: frequencies are what
# dynamics is about.
#
# Shape suffixes: B sample, C channel (variate, colour).


SCALE, NOISE = 0.1, 0.05


def channels_of(modality: str, sample: np.ndarray) -> int:
    """Variates of a series, 3 of a picture."""
    return 3 if modality != "series" else 1 if sample.ndim == 1 else sample.shape[1]


def extent_of(modality: str, sample: np.ndarray) -> tuple[int, ...]:
    """Its extents along time and space; raises where it is no such sample."""
    ranks = {"series": (1, 2), "image": (2, 3), "video": (4,)}[modality]
    if sample.ndim not in ranks or (modality != "series" and sample.ndim == ranks[-1] and sample.shape[-1] != 3):
        wanted = {"series": "[time] or [time, variate]", "image": "[y, x] or [y, x, 3]", "video": "[t, y, x, 3]"}
        raise DiagnosticsError(
            f"This encoder reads a {modality} as {wanted[modality]}, not as shape {sample.shape}.", code="bad-sample"
        )
    return tuple(sample.shape[: {"series": 1, "image": 2, "video": 3}[modality]])


def resized(modality: str, sample: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A picture's or clip's middle with the proportions of `size` (y, x), brought to it with antialiasing, in bytes."""
    parts = central_part(extent_of(modality, sample), size)
    part = torch.from_numpy(np.ascontiguousarray(sample[tuple(slice(*ends) for ends in parts)]))
    grey = modality == "image" and part.ndim == 2
    pixels = (part[..., None] if grey else part).movedim(-1, 0).float()
    # The frames of a clip stand where channels do.
    whole = nn.functional.interpolate(pixels.flatten(0, -3)[None], size, mode="bilinear", antialias=True)[0]
    whole = whole.reshape(*pixels.shape[:-2], *size).movedim(0, -1).round().clamp(0, 255).byte().numpy()
    return whole[..., 0] if grey else whole


def prepare(modality: str, samples: np.ndarray) -> Tensor:
    """Raw samples [B, ...] as float32 [B, C, *extent]: series with mean 0 and deviation 1, pixels from -2 to 2."""
    return _norm(_series(samples)) if modality == "series" else _pixels_normed(_pixels(modality, samples))


def _series(samples: np.ndarray) -> Tensor:
    """[B, time(, variate)] as [B, C, time]."""
    series = torch.from_numpy(np.asarray(samples, np.float32))
    series = series[:, None] if series.ndim == 2 else series.transpose(1, 2)
    if not bool(series.isfinite().all()):
        raise DiagnosticsError(
            "This encoder has no mask, and a series has gaps or NaN padding: fill or cut it.", code="not-finite"
        )
    return series


def _norm(series: Tensor) -> Tensor:
    mean, std = series.mean(-1, keepdim=True), series.std(-1, correction=0, keepdim=True)
    return (series - mean) / (std + 1e-6)


def _pixels(modality: str, samples: np.ndarray) -> Tensor:
    """[B, (t,) y, x(, colour)] as [B, colour, (t,) y, x], from 0 to 1."""
    pixels = torch.from_numpy(np.ascontiguousarray(samples))
    if modality == "image" and pixels.ndim == 3:
        pixels = pixels[..., None].expand(-1, -1, -1, 3)
    return pixels.movedim(-1, 1).float() / 255


def _pixels_normed(pixels: Tensor) -> Tensor:
    return (pixels - 0.5) / 0.25


@dataclass(frozen=True)
class Views:
    """Views of samples for training.

    extent: what the encoder reads.
    moves: whether windows and crops are drawn; otherwise the end of a series and the whole picture are seen. Without
    for
        targets that are about places or about the last moment.
    noise: whether a series gets noise. Without where values are what is predicted.
    """

    modality: str
    extent: tuple[int, ...]
    moves: bool = True
    noise: bool = True

    def draw(self, rng: np.random.Generator, count: int, samples: np.ndarray) -> dict[str, Any]:
        """Draws for a view of each of `count` samples like those of `samples`: arrays [sample, ...]."""
        if self.modality == "series":
            slack = samples.shape[1] - self.extent[0]
            noise = rng.standard_normal((count, math.prod(samples.shape[2:]), *self.extent), np.float32)
            starts = rng.integers(0, slack + 1, count)
            return {
                "start": starts if self.moves else np.full(count, slack),
                "scale": np.exp(SCALE * rng.standard_normal((count, 1, 1), np.float32)),
                "noise": noise * np.float32(NOISE * self.noise),
            }
        return PictureChanges().draw(rng, count)

    def make(self, samples: np.ndarray, drawn: Mapping[str, Any]) -> Tensor:
        """The view [B, C, *extent] of raw samples [B, ...]."""
        if self.modality == "series":
            places = drawn["start"][:, None] + np.arange(self.extent[0])
            window = _norm(_series(samples[np.arange(len(samples))[:, None], places]))
            return window * torch.from_numpy(drawn["scale"]) + torch.from_numpy(drawn["noise"])
        pixels = _pixels(self.modality, samples)
        if self.moves or tuple(pixels.shape[-2:]) != self.extent[-2:]:
            pixels = self._crop(pixels, drawn)
        return _pixels_normed(recoloured(pixels, torch.from_numpy(drawn["colour"]).float()))

    def _crop(self, pixels: Tensor, drawn: Mapping[str, Any]) -> Tensor:
        theta = torch.zeros(len(pixels), 2, 3)
        half, centre, mirror = (torch.from_numpy(drawn[key]).float() for key in ("half", "centre", "mirror"))
        if self.moves:
            # The sampler's first axis is x; half and centre are (y, x).
            theta[:, 0, 0], theta[:, 1, 1] = half[:, 1] * mirror, half[:, 0]
            theta[:, 0, 2], theta[:, 1, 2] = centre[:, 1], centre[:, 0]
        else:
            theta[:, 0, 0] = theta[:, 1, 1] = 1
        flat = pixels.flatten(1, -3)
        grid = nn.functional.affine_grid(theta, [len(flat), 1, *self.extent[-2:]], align_corners=False)
        resampled = nn.functional.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
        return resampled.reshape(*pixels.shape[:-2], *self.extent[-2:])
