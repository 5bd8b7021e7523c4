"""Images for models that take patches instead of pixels: all patches of a batch in one row, or a row for each image.

Shape suffixes: B sample, N patch, D numbers of a patch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import example, image_of, resized
from PIL import Image
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, describe
from diagnostics_transformers.images import Resized, side_of
from diagnostics_transformers.prepared import Prepared, from_directory, setting
from diagnostics_transformers.towers import arguments, model_type

# How many patches an image has along y and x, under the name that a model has for it.
_SIZES = ("grid_thw", "image_grid_thw", "spatial_shapes", "target_sizes", "pixel_position_ids", "image_grid_hw")
# These keep one row of patches for each image; the others put those of all images behind one another.
_A_ROW_EACH = ("spatial_shapes", "pixel_position_ids")
_WHOLE = ("radio",)
# Flat, as they go into a two-dimensional convolution, that in a batch of one, or as small images of merged patches.
_FORMS = ("flat", "convolved", "one row", "blocks")
# As an image of one row of patches.
_STRIP = ("strip",)
_SIDE = 16
"""Patches along each side where neither the model nor the user says how many."""


def takes_patches(tower: nn.Module) -> bool:
    """Whether a vision tower takes patches, and not whole images as well."""
    return model_type(tower) not in _WHOLE and any(key in arguments(tower) for key in _SIZES)


def prepare_patches(tower: nn.Module, source: str | None, name: str, size: int | None) -> Prepared:
    """A square image as its patches, all images with the same number of them."""
    config: Any = tower.config
    takes = arguments(tower)
    sizes = next(key for key in _SIZES if key in takes)
    patch = (side_of(setting(config, "patch_size")) or (14, 14))[0]
    merge = _merge(config, sizes)
    own = (side_of(setting(config, "image_size")) or (0, 0))[0]
    places = setting(config, "num_patches", "max_num_patches")
    if not own and isinstance(places, int):
        own = patch * max(1, int(places**0.5))
    merge = merge if merge > 1 else int(setting(config, "pooling_kernel_size", default=1))
    size = size or own // (patch * merge) * (patch * merge) or patch * (_SIDE // merge * merge)
    if size % (patch * merge):
        raise DiagnosticsError(
            f"{name} cuts images into patches of {patch} pixels, of which {merge} x {merge} are merged, so {size} pixels do "
            f"not fit: choose a size that is a multiple of {patch * merge}."
        )
    side = size // patch
    processor = from_directory("image processor", source)
    cut = Patches.of(tower, processor, name, size, patch, _merge(config, sizes))
    packed = sizes not in _A_ROW_EACH

    channels = cut.resize.channels

    def of(batch: Mapping[str, Tensor], shape: str = "flat") -> dict[str, Any]:
        patches = batch["patches"]
        count = len(patches)
        given: dict[str, Any] = {}
        key = "hidden_states" if "hidden_states" in takes else "pixel_values"
        given[key] = patches.flatten(0, 1) if packed else patches
        if shape == "strip":
            given[key] = given[key].reshape(-1, channels, patch, patch).permute(1, 2, 0, 3).flatten(2)[None]
        elif shape == "blocks":
            given[key] = _as_blocks(given[key], channels, patch, cut.merge)
        elif shape != "flat":
            given[key] = given[key].reshape(-1, channels, patch, patch)
        if shape == "one row":
            given[key] = given[key][None]
        pair = torch.tensor([side, side], device=patches.device)
        if sizes in ("grid_thw", "image_grid_thw"):
            across = side // cut.merge if shape == "blocks" else side
            given[sizes] = torch.tensor([1, across, across], device=patches.device).repeat(count, 1)
        elif sizes == "pixel_position_ids":
            y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            given[sizes] = torch.stack([x.flatten(), y.flatten()], -1).to(patches.device).expand(count, -1, -1)
        else:
            given[sizes] = pair.repeat(count, 1)
        if "pixel_attention_mask" in takes:
            given["pixel_attention_mask"] = torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device)
        if "merge_sizes" in takes:
            given["merge_sizes"] = torch.ones(count, dtype=torch.long, device=patches.device)
        return given

    return Prepared(
        "image",
        cut,
        example(),
        {"y": size, "x": size},
        places=[(side, side)],
        packed=packed,
        covers=cut.resize.covers,
        description=f"input {size}x{size} in patches of {patch}, {cut.description}",
        forms=[partial(of, shape=shape) for shape in (_STRIP if sizes == "target_sizes" else _FORMS)],
        guessed="" if processor is not None else "image processor",
    )


def _as_blocks(patches: Tensor, channels: int, p: int, m: int) -> Tensor:
    """Patches [N, channel * p * p], block by block, as [N / m^2, m * p, m * p, channel]."""
    blocks = patches.reshape(-1, m, m, channels, p, p)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(-1, m * p, m * p, channels)


def _merge(config: Any, sizes: str) -> int:
    """How many patches along a side lie together, block by block, in the order that the model expects."""
    if sizes not in ("grid_thw", "image_grid_thw"):
        return 1
    merge = setting(config, "spatial_merge_size", "merge_size", default=1)
    merge = merge if isinstance(merge, int) else (side_of(merge) or (1, 1))[0]
    kernel = side_of(setting(config, "merge_kernel_size")) or (1, 1)
    return max(1, merge, kernel[0])


@dataclass(frozen=True)
class Patches:
    """A square image as `patches` [N, D]: by the directory's processor where it has one, otherwise cut here."""

    encoder: str
    resize: Resized
    size: int
    patch: int
    merge: int
    frames: int
    processor: Any = None

    @classmethod
    def of(cls, tower: nn.Module, processor: Any, name: str, size: int, patch: int, merge: int) -> Patches:
        frames = int(setting(tower.config, "temporal_patch_size", "patch_temporal", default=1))
        here = cls(name, Resized.of(tower, processor, name, size), size, patch, merge, frames)
        processed = replace(here, processor=processor)
        with contextlib.suppress(DiagnosticsError):
            if processed.processor is not None and len(processed(example())["patches"]) == (size // patch) ** 2:
                return processed
        return here

    @property
    def description(self) -> str:
        return type(self.processor).__name__ if self.processor is not None else self.resize.description

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        if self.processor is None:
            return {"patches": self._cut(self.resize(sample)["pixel_values"])}
        image = resized(image_of(sample, self.encoder), (self.size, self.size), Image.Resampling.BICUBIC)
        try:
            patches = self.processor(images=image, return_tensors="pt")["pixel_values"].float()
        except Exception as error:
            raise DiagnosticsError(f"The image processor of {self.encoder} fails ({describe(error)}).") from error
        # A row of patches for each image, or those of this one image alone.
        return {"patches": patches[0] if patches.ndim == 3 and len(patches) == 1 else patches}

    def _cut(self, pixels: Tensor) -> Tensor:
        """[channel, y, x] as [N, D], block by block of merge x merge patches; still images are repeated for `frames`."""
        p, m = self.patch, self.merge
        n = self.size // p // m
        blocks = pixels.reshape(pixels.shape[0], n, m, p, n, m, p)
        blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6).flatten(0, 3)  # [N, channel, p, p]
        if self.frames > 1:
            blocks = blocks[:, :, None].repeat(1, 1, self.frames, 1, 1)
        return blocks.flatten(1)
