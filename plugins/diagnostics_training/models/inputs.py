"""Raw samples as what the backbone takes, with and without augmentation.

One family of views for all objectives. Series: a window at random (where the sample is longer than what the encoder reads),
normed, scaled by exp(0.1 N(0, 1)), with noise of 0.05 of its deviation. Images and clips: a random crop of 0.4 to 1 of the
area and aspect 3/4 to 4/3, resized; mirrored half of the time; brightness, contrast and saturation times 0.6 to 1.4; grey
one time in five (SimCLR, arXiv 2002.05709, appendix A, with larger crops since the objects are small). All frames of a clip
are treated alike. Time never runs backwards and is never stretched: frequencies are what dynamics is about.

Shape suffixes: B sample, C channel (variate, colour).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, central_part
from diagnostics_training.models.picture_changes import PictureChanges, recoloured

SCALE, NOISE = 0.1, 0.05


def channels_of(modality: str, sample: np.ndarray) -> int:
    """Variates of a series, 3 of a picture."""
    return 3 if modality != "series" else 1 if sample.ndim == 1 else sample.shape[1]


def extent_of(modality: str, sample: np.ndarray) -> tuple[int, ...]:
    """Its extents along time and space; raises where it is no such sample."""
    ranks = {"series": (1, 2), "image": (2, 3), "video": (4,)}[modality]
    if sample.ndim not in ranks or (modality != "series" and sample.ndim == ranks[-1] and sample.shape[-1] != 3):
        wanted = {"series": "[time] or [time, variate]", "image": "[y, x] or [y, x, 3]", "video": "[t, y, x, 3]"}
        raise DiagnosticsError(f"This encoder reads a {modality} as {wanted[modality]}, not as shape {sample.shape}.")
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
    if modality == "series":
        return _normed(_series(samples))
    return _pixels_normed(_pixels(modality, samples))


def _series(samples: np.ndarray) -> Tensor:
    """[B, time(, variate)] as [B, C, time]."""
    series = torch.from_numpy(np.asarray(samples, np.float32))
    series = series[:, None] if series.ndim == 2 else series.transpose(1, 2)
    if not bool(series.isfinite().all()):
        raise DiagnosticsError("This encoder has no mask, and a series has gaps or NaN padding: fill or cut it.")
    return series


def _normed(series: Tensor) -> Tensor:
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
    moves: whether windows and crops are drawn; otherwise the end of a series and the whole picture are seen. Without for
        targets that are about places or about the last moment.
    noise: whether a series gets noise. Without where values are what is predicted.
    """

    modality: str
    extent: tuple[int, ...]
    moves: bool = True
    noise: bool = True

    def draw(self, rng: np.random.Generator, count: int, samples: np.ndarray) -> dict[str, Any]:
        """What is drawn for a view of each of `count` samples like those of `samples`: arrays [sample, ...]."""
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
            window = _normed(_series(samples[np.arange(len(samples))[:, None], places]))
            return window * torch.from_numpy(drawn["scale"]) + torch.from_numpy(drawn["noise"])
        pixels = _pixels(self.modality, samples)
        if self.moves or tuple(pixels.shape[-2:]) != self.extent[-2:]:
            pixels = self._cropped(pixels, drawn)
        return _pixels_normed(recoloured(pixels, torch.from_numpy(drawn["colour"]).float()))

    def _cropped(self, pixels: Tensor, drawn: Mapping[str, Any]) -> Tensor:
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
