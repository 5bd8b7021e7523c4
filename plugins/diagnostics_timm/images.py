"""From a raw image to a model's input, and which part of the image that shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import transforms

from diagnostics.plugin import DiagnosticsError
from diagnostics_timm.pixels import image_of


@dataclass(frozen=True)
class Preprocess:
    """timm's own evaluation transform of a model; takes uint8 [y, x] or [y, x, channel].

    `input_size` is (channels, y, x).
    """

    encoder: str
    input_size: tuple[int, int, int]
    transform: Any

    @classmethod
    def of(cls, model: nn.Module, encoder: str, img_size: int | None) -> Preprocess:
        """The transform of the model's own configuration, at `img_size` where that is given."""
        configuration: dict[str, Any] = resolve_model_data_config(model)
        if img_size is not None:
            channels = configuration["input_size"][0]
            configuration = resolve_model_data_config(model, args={"input_size": (channels, img_size, img_size)})
        channels, height, width = configuration["input_size"]
        if channels not in (1, 3):
            raise DiagnosticsError(f"{encoder} takes {channels} channels: only models of 1 or 3 are supported yet.")
        transform = create_transform(**configuration, is_training=False)
        return cls(encoder, (channels, height, width), transform)

    def __call__(self, sample: np.ndarray) -> Tensor:
        return self.transform(image_of(sample, self.encoder, "RGB" if self.input_size[0] == 3 else "L"))

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """(start, stop) along y and x, in pixels of the original, of what the model sees.

        Reaches beyond the image where the transform pads (crop mode `border`).
        """
        if len(shape) != 2 or min(shape) < 1:
            raise DiagnosticsError(f"{self.encoder} sees images with extents along y and x, not {list(shape)}.")
        sides = [(0.0, float(n)) for n in shape]
        size = (int(shape[0]), int(shape[1]))
        for step in self.transform.transforms:
            new, offsets = _step(step, size)
            if offsets is None:
                # A resize: pixels change, what is seen does not.
                size = new
                continue
            sides = [
                (start + offset * (stop - start) / old, start + (offset + n) * (stop - start) / old)
                for (start, stop), offset, n, old in zip(sides, offsets, new, size, strict=True)
            ]
            size = new
        return tuple(sides)


def _step(step: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The size after one step of timm's evaluation transform, rounded as there, and where a crop begins (None: a resize)."""
    kind = type(step).__name__
    if kind == "Resize":
        wanted = (step.size,) if isinstance(step.size, int) else tuple(step.size)
        if len(wanted) == 2:
            return (wanted[0], wanted[1]), None
        short, long = min(size), max(size)
        longer = int(wanted[0] * long / short)
        return ((wanted[0], longer) if size[0] <= size[1] else (longer, wanted[0])), None
    if kind == "ResizeKeepRatio":
        ratios = [n / target for n, target in zip(size, step.size, strict=True)]
        ratio = max(ratios) * step.longest + min(ratios) * (1.0 - step.longest)
        return (round(size[0] / ratio), round(size[1] / ratio)), None
    if kind in ("CenterCrop", "CenterCropOrPad"):
        wanted = (step.size, step.size) if isinstance(step.size, int) else tuple(step.size)
        offsets = [
            -math.floor((n - old) / 2) if n > old else round((old - n) / 2.0)
            for n, old in zip(wanted, size, strict=True)
        ]
        return (wanted[0], wanted[1]), (offsets[0], offsets[1])
    if isinstance(step, transforms.Normalize) or kind in ("MaybeToTensor", "ToTensor", "MaybePILToTensor"):
        return size, None
    raise DiagnosticsError(f"What preprocessing step {kind} does to places is not known yet, so targets cannot be cut.")
