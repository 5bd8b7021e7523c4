"""Videos: frames drawn evenly, then as images."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError
from diagnostics_transformers.images import Resized, cropped, interpolating, side_of
from diagnostics_transformers.prepared import Prepared, Wanted, from_directory, setting
from diagnostics_transformers.towers import arguments, model_type

FRAMES = 16
# Models of videos whose argument has the name of images.
_VIDEO_TYPES = ("videomae", "vivit", "timesformer", "xclip_vision_model")
# They take frames as images of their own, those of a video one after the other.
_FOLDED = ("xclip_vision_model",)


def is_video(tower: nn.Module) -> bool:
    """Whether a vision tower takes [B, t, channel, y, x]."""
    return "pixel_values_videos" in arguments(tower) or model_type(tower) in _VIDEO_TYPES


def prepare_videos(tower: nn.Module, source: str | None, name: str, wanted: Wanted) -> Prepared:
    """Video [t, y, x, channel] as [t, channel, y, x] under the tower's own name for it."""
    config: Any = tower.config
    processor = from_directory("video processor", source)
    of_frames = processor if processor is not None else from_directory("image processor", source)
    resize = Resized.of(tower, of_frames, name, wanted.size or setting(config, "crop_size"))
    frames = wanted.frames or int(setting(config, "num_frames", "frames_per_clip", default=FRAMES))
    tubelet = setting(config, "tubelet_size", default=1)
    step, *cut = tubelet if isinstance(tubelet, (list, tuple)) else (tubelet,)
    patch = tuple(cut) if len(cut) == 2 else side_of(setting(config, "patch_size")) or (1, 1)
    if frames < 1 or frames % step:
        raise DiagnosticsError(
            f"{name} takes frames {step} at a time, so not {frames}: choose a multiple with ?frames=."
        )
    clips = Clips.of(resize, frames, processor if wanted.size is None else None)
    height, width = clips.size
    if height % patch[0] or width % patch[1]:
        raise DiagnosticsError(
            f"{name} cuts frames of {height} x {width} pixels into patches of {patch[0]} x {patch[1]}, which do not fit: choose "
            "a size that is a multiple of the patch."
        )
    takes = arguments(tower)
    key = next(k for k in ("pixel_values_videos", "pixel_values") if k in takes)
    folded = model_type(tower) in _FOLDED
    stretched = interpolating(tower, (height, width), "image_size", "crop_size")

    def of(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        return {key: batch["pixel_values"].flatten(0, 1) if folded else batch["pixel_values"], **stretched}

    return Prepared(
        "video",
        clips,
        _example(frames),
        {"t": frames, "y": height, "x": width},
        places=[(frames // step, height // patch[0], width // patch[1])],
        description=f"{frames} frames drawn evenly, {height}x{width}, {clips.description}",
        arguments=of,
        covers=clips.covers,
        guessed="" if of_frames is not None else "video processor",
    )


def _example(frames: int) -> np.ndarray:
    """Noise, of more frames than are drawn, and not square."""
    return np.random.default_rng(0).integers(0, 256, (frames + 3, 60, 80, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Clips:
    """So many frames of a video, drawn evenly from its first to its last; repeated where there are fewer.

    By the directory's video processor where it gives one size, otherwise each as an image.
    """

    resize: Resized
    frames: int
    size: tuple[int, int]
    processor: Any = None

    @classmethod
    def of(cls, resize: Resized, frames: int, processor: Any) -> Clips:
        with contextlib.suppress(Exception):  # a processor that fails, or None: each frame is prepared as an image
            trial = cls(resize, frames, (0, 0), processor)
            first, second = (tuple(trial._processed(_example(frames)[:, :y]).shape) for y in (60, 50))
            if len(first) == 4 and first == second and first[0] == frames:
                return cls(resize, frames, first[2:], processor)
        return cls(resize, frames, resize.size)

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        if sample.dtype != np.uint8 or sample.ndim != 4 or sample.shape[-1] not in (1, 3) or 0 in sample.shape:
            raise DiagnosticsError(
                f"{self.resize.encoder} takes videos of dtype uint8 and shape [t, y, x, 1 or 3 channels], not {sample.dtype} of "
                f"shape {list(sample.shape)}: convert the samples."
            )
        if self.processor is not None:
            return {"pixel_values": self._processed(sample)}
        drawn = self._drawn(len(sample))
        frames = {i: self.resize(sample[i])["pixel_values"] for i in set(drawn)}
        return {"pixel_values": torch.stack([frames[i] for i in drawn])}

    def _drawn(self, count: int) -> list[int]:
        return np.linspace(0, count - 1, self.frames).round().astype(int).tolist()

    def _processed(self, sample: np.ndarray) -> Tensor:
        """[t, channel, y, x]."""
        frames = np.repeat(sample, 3, axis=-1) if sample.shape[-1] == 1 else sample
        frames = frames[self._drawn(len(frames))]
        prepared = self.processor(videos=[frames], return_tensors="pt", do_sample_frames=False)
        return next(prepared[key] for key in ("pixel_values_videos", "pixel_values") if key in prepared)[0].float()

    @property
    def description(self) -> str:
        return type(self.processor).__name__ if self.processor is not None else self.resize.description

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """All frames, and of each what the crop leaves."""
        if self.processor is None:
            return self.resize.covers(shape)
        return ((0.0, float(shape[0])), *cropped(self.processor, shape[1:]))
