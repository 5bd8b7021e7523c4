"""Models that read images, patches of their own cutting, and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import Middle, example, image_of, resized
from PIL import Image
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, explaining
from diagnostics_transformers.towers import Prepared, Wanted, arguments, from_directory, model_type, setting

# Images: the directory's own image processor, or a resize to the model's size.


SIZE = 224

# Further arguments, without which a model does something else than encode the whole image; from a batch of images.
_FURTHER: dict[str, Callable[[Any, Tensor], dict[str, Any]]] = {
    # Shuffles and drops tokens otherwise, even with a mask ratio of 0.
    "vit_mae": lambda config, images: {"noise": _in_order(config, images)},
    "mllama_vision_model": lambda config, images: {
        "pixel_values": _as_tiles(config, images),
        "aspect_ratio_ids": torch.ones((len(images), 1), dtype=torch.long, device=images.device),
        "aspect_ratio_mask": _first_tile(config, images),
    },
    "molmo2_vision": lambda config, images: {"pixel_values": _flat_patches(config, images)},
    "pixtral": lambda config, images: {
        "image_sizes": images.new_tensor(images.shape[-2:]).long().expand(len(images), 2)
    },
}


def prepare_images(tower: nn.Module, source: str | None, name: str, size: int | None) -> Prepared:
    """Image [y, x] or [y, x, channel] as `pixel_values` [channel, y, x]."""
    config: Any = tower.config
    processor = from_directory("image processor", source)
    preprocess = Processed.of(tower, processor, name) if size is None else None
    preprocess = preprocess or Resized.of(tower, processor, name, size)
    height, width = map(int, preprocess(example())["pixel_values"].shape[-2:])
    further = _FURTHER.get(model_type(tower))
    stretched = interpolating(tower, (height, width), "image_size")

    def of(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        given = {"pixel_values": batch["pixel_values"], **stretched}
        return given | (further(config, batch["pixel_values"]) if further else {})

    patch = side_of(setting(config, "patch_size"))
    places: list[tuple[int, ...]] = [(height // patch[0], width // patch[1])] if patch and min(patch) > 1 else []
    if patch and min(patch) > 1 and _is_plain(tower) and (height % patch[0] or width % patch[1]):
        raise DiagnosticsError(
            f"{name} cuts images of {height} x {width} pixels into patches of {patch[0]} x {patch[1]}, which "
            f"do not fit: choose a size that is a multiple of the patch.",
            code="bad-value",
        )
    return Prepared(
        "image",
        preprocess,
        example(),
        {"y": height, "x": width},
        places=places,
        description=f"input {height}x{width}, {preprocess.description}",
        arguments=of,
        covers=preprocess.covers,
        special=_special(config, places),
        guessed="" if processor is not None else "image processor",
    )


def interpolating(tower: nn.Module, size: tuple[int, int], *settings: str) -> dict[str, Any]:
    """The argument by which a model stretches its positions, where the input has another size than the settings say."""
    own = side_of(setting(tower.config, *settings))
    stretches = "interpolate_pos_encoding" in arguments(tower) and own not in (None, size)
    return {"interpolate_pos_encoding": True} if stretches else {}


def _special(config: Any, places: list[tuple[int, ...]]) -> int:
    """Number of tokens that stand for no place, where there are many.

    Those that detect, or all that fill up Mllama's tiles.
    """
    if places and setting(config, "model_type") == "mllama_vision_model":
        patches = int(np.prod(places[0]))
        return config.max_num_tiles * -(-(patches + 1) // 8) * 8 - patches
    return 1 + int(setting(config, "num_detection_tokens", default=-1))


def _is_plain(tower: nn.Module) -> bool:
    """True if its patches are cut by a convolution that leaves nothing between them."""
    for part in tower.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            return tuple(part.kernel_size) == tuple(part.stride) and not any(part.padding)
    return False


def _own(config: Any) -> tuple[int, int] | None:
    """The size that the configuration names, its own or that of the timm model that it wraps."""
    size = side_of(setting(config, "image_size", "crop_size"))
    for part in (config, setting(config, "vision_config")):
        built_with = setting(part, "model_args")
        if size is None and isinstance(built_with, Mapping):
            size = side_of(built_with.get("img_size"))
        pretrained = setting(part, "pretrained_cfg")
        if size is None and isinstance(pretrained, Mapping):
            size = side_of(pretrained.get("input_size"))
    return size


def side_of(value: Any) -> tuple[int, int] | None:
    """(y, x) of a size given as a number, a pair or a mapping."""
    if isinstance(value, Mapping):
        value = (value.get("height"), value.get("width"))
    if isinstance(value, int):
        return value, value
    sizes: list[Any] = list(value) if isinstance(value, (list, tuple)) else []
    return (sizes[-2], sizes[-1]) if len(sizes) >= 2 and all(isinstance(n, int) for n in sizes) else None


@dataclass(frozen=True)
class Processed:
    """The image processor of the directory, where it gives one image of one size."""

    encoder: str
    processor: Any
    channels: int

    @classmethod
    def of(cls, tower: nn.Module, processor: Any, name: str) -> Processed | None:
        """None where there is no processor, or where it cuts images into tiles or keeps their proportions."""
        if processor is None:
            return None
        processed = cls(name, processor, int(setting(tower.config, "num_channels", default=3)))
        try:
            blank = (np.zeros(shape, np.uint8) for shape in ((240, 320, 3), (300, 200, 3)))
            shapes = {tuple(processed(image)["pixel_values"].shape) for image in blank}
        except DiagnosticsError:
            return None
        return processed if len(shapes) == 1 and len(next(iter(shapes))) == 3 else None

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        image = image_of(sample, self.encoder, "RGB" if self.channels == 3 else "L")
        with explaining(
            f"The image processor of {self.encoder} fails on an image of {image.height} x {image.width} pixels",
            "choose another size with ?size=",
        ):
            pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels[0].float()}

    @property
    def description(self) -> str:
        return type(self.processor).__name__

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """(start, stop) along y and x, in pixels of the original, of what the crop leaves."""
        return cropped(self.processor, shape)


def cropped(processor: Any, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
    """(start, stop) along y and x of images of this shape, of what a processor's crop leaves."""
    height, width = (int(n) for n in shape)
    crop = side_of(_plain(getattr(processor, "crop_size", None)))
    if not getattr(processor, "do_center_crop", False) or crop is None:
        return ((0.0, float(height)), (0.0, float(width)))
    resized = _size_behind(processor, height, width)
    return tuple(
        ((new - cut) / 2 * old / new, ((new - cut) / 2 + cut) * old / new)
        for old, new, cut in zip((height, width), resized, crop, strict=True)
    )


def _plain(value: Any) -> Any:
    """A processor's size as a mapping of what is set in it."""
    if value is None or isinstance(value, (int, list, tuple)):
        return value
    return {key: value[key] for key in ("height", "width", "shortest_edge", "longest_edge") if value.get(key)}


def _size_behind(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width behind the processor's resize."""
    size = _plain(getattr(processor, "size", None))
    if not getattr(processor, "do_resize", False) or not size:
        return height, width
    if isinstance(size, Mapping) and "shortest_edge" in size:
        short = size["shortest_edge"]
        scale = short / min(height, width)
        return (short, int(width * scale)) if height <= width else (int(height * scale), short)
    return side_of(size) or (height, width)


@dataclass(frozen=True)
class Resized(Middle):
    """By the one resize rule, with the mean and std of the processor that `owner` names, or 0.5."""

    owner: str = ""

    @classmethod
    def of(cls, tower: nn.Module, processor: Any, name: str, size: int | None) -> Resized:
        """At `size`, or at the model's own; mean and std of the processor, or 0.5."""
        config: Any = tower.config
        if size is not None and size < 1:
            raise DiagnosticsError(
                f"{name} cannot take size={size}: give a number of pixels of at least 1.", code="bad-value"
            )
        own = _own(config) or side_of(_plain(getattr(processor, "size", None)))
        channels = setting(config, "num_channels", "in_channels", "in_chans", default=3)
        channels = channels if channels in (1, 3) else 3
        mean, spread = (getattr(processor, key, None) for key in ("image_mean", "image_std"))
        known = isinstance(mean, (list, tuple)) and isinstance(spread, (list, tuple)) and len(mean) == channels
        half = (0.5,) * channels
        return cls(
            name,
            (size, size) if size is not None else own or (SIZE, SIZE),
            channels,
            tuple(mean) if known and mean else half,
            tuple(spread) if known and spread else half,
            owner=type(processor).__name__ if known else "",
        )

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels(sample)}

    @property
    def description(self) -> str:
        return f"the middle resized, mean and spread {f'of {self.owner}' if self.owner else '0.5'}"


def _in_order(config: Any, images: Tensor) -> Tensor:
    patch = side_of(config.patch_size) or (1, 1)
    count = (images.shape[-2] // patch[0]) * (images.shape[-1] // patch[1])
    return torch.arange(count, device=images.device, dtype=torch.float32).expand(len(images), count)


def _flat_patches(config: Any, images: Tensor) -> Tensor:
    """[B, channel, y, x] as [B, N, D] in raster order, the channels of a pixel side by side."""
    p = config.patch_size
    # [B, channel, ny, nx, p, p] in between.
    return images.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _as_tiles(config: Any, images: Tensor) -> Tensor:
    """[B, channel, y, x] as [B, 1, tile, channel, y, x]: the image, then zeros, as the makers' own processor pads."""
    tiles = images.new_zeros((len(images), 1, config.max_num_tiles, *images.shape[1:]))
    tiles[:, 0, 0] = images
    return tiles


def _first_tile(config: Any, images: Tensor) -> Tensor:
    tiles = torch.zeros((len(images), 1, config.max_num_tiles), dtype=torch.long, device=images.device)
    tiles[..., 0] = 1
    return tiles


# Images for models that take patches instead of pixels: all patches of a batch in one row, or a row for each image.
#
# Shape suffixes: B sample, N patch, D numbers of a patch.


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
    """True if a vision tower takes patches, and not whole images as well."""
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
            f"{name} cuts images into patches of {patch} pixels, of which {merge} x {merge} are merged, so {size} "
            f"pixels do not fit: choose a size that is a multiple of {patch * merge}.",
            code="bad-value",
        )
    side = size // patch
    processor = from_directory("image processor", source)
    cut = Patches.of(tower, processor, name, size, patch, _merge(config, sizes))
    packed = sizes not in _A_ROW_EACH

    channels = cut.resize.channels

    def of(batch: Mapping[str, Tensor], shape: str = "flat") -> dict[str, Any]:
        patches = batch["patches"]
        count = len(patches)
        key = "hidden_states" if "hidden_states" in takes else "pixel_values"
        given: dict[str, Any] = {key: patches.flatten(0, 1) if packed else patches}
        if shape == "strip":
            given[key] = given[key].reshape(-1, channels, patch, patch).permute(1, 2, 0, 3).flatten(2)[None]
        elif shape == "blocks":
            given[key] = _as_blocks(given[key], channels, patch, cut.merge)
        elif shape != "flat":
            given[key] = given[key].reshape(-1, channels, patch, patch)
        if shape == "one row":
            given[key] = given[key][None]
        if sizes in ("grid_thw", "image_grid_thw"):
            across = side // cut.merge if shape == "blocks" else side
            given[sizes] = torch.tensor([1, across, across], device=patches.device).repeat(count, 1)
        elif sizes == "pixel_position_ids":
            y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            given[sizes] = torch.stack([x.flatten(), y.flatten()], -1).to(patches.device).expand(count, -1, -1)
        else:
            given[sizes] = torch.tensor([side, side], device=patches.device).repeat(count, 1)
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
    return patches.reshape(-1, m, m, channels, p, p).permute(0, 1, 4, 2, 5, 3).reshape(-1, m * p, m * p, channels)


def _merge(config: Any, sizes: str) -> int:
    """Number of patches along a side that lie together, block by block, in the order that the model expects."""
    if sizes not in ("grid_thw", "image_grid_thw"):
        return 1
    merge = setting(config, "spatial_merge_size", "merge_size", default=1)
    merge = merge if isinstance(merge, int) else (side_of(merge) or (1, 1))[0]
    return max(1, merge, (side_of(setting(config, "merge_kernel_size")) or (1, 1))[0])


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
        with explaining(f"The image processor of {self.encoder} fails"):
            patches = self.processor(images=image, return_tensors="pt")["pixel_values"].float()
        # A row of patches for each image, or those of this one image alone.
        return {"patches": patches[0] if patches.ndim == 3 and len(patches) == 1 else patches}

    def _cut(self, pixels: Tensor) -> Tensor:
        """[channel, y, x] as [N, D], block by block of merge x merge patches.

        Still images are repeated for `frames`.
        """
        p, m = self.patch, self.merge
        n = self.size // p // m
        blocks = pixels.reshape((pixels.shape[0], n, m, p, n, m, p))
        blocks = blocks.permute((1, 4, 2, 5, 0, 3, 6)).flatten(0, 3)  # [N, channel, p, p]
        if self.frames > 1:
            blocks = blocks[:, :, None].repeat(1, 1, self.frames, 1, 1)
        return blocks.flatten(1)


# Videos: frames drawn evenly, then as images.


FRAMES = 16
# Models of videos whose argument has the name of images.
_VIDEO_TYPES = ("videomae", "vivit", "timesformer", "xclip_vision_model")
# They take frames as images of their own, those of a video one after the other.
_FOLDED = ("xclip_vision_model",)


def is_video(tower: nn.Module) -> bool:
    """True if a vision tower takes [B, t, channel, y, x]."""
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
            f"{name} takes frames {step} at a time, so not {frames}: choose a multiple with ?frames=.", code="bad-value"
        )
    clips = Clips.of(resize, frames, processor if wanted.size is None else None)
    height, width = clips.size
    if height % patch[0] or width % patch[1]:
        raise DiagnosticsError(
            f"{name} cuts frames of {height} x {width} pixels into patches of {patch[0]} x {patch[1]}, which do not "
            f"fit: choose a size that is a multiple of the patch.",
            code="bad-value",
        )
    key = next(k for k in ("pixel_values_videos", "pixel_values") if k in arguments(tower))
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
            first, second = (tuple(trial._process(_example(frames)[:, :y]).shape) for y in (60, 50))
            if len(first) == 4 and first == second and first[0] == frames:
                return cls(resize, frames, first[2:], processor)
        return cls(resize, frames, resize.size)

    def __call__(self, sample: np.ndarray) -> dict[str, Tensor]:
        if sample.dtype != np.uint8 or sample.ndim != 4 or sample.shape[-1] not in (1, 3) or 0 in sample.shape:
            raise DiagnosticsError(
                f"{self.resize.encoder} takes videos of dtype uint8 and shape [t, y, x, 1 or 3 channels], not "
                f"{sample.dtype} of shape {list(sample.shape)}: convert the samples.",
                code="bad-sample",
            )
        if self.processor is not None:
            return {"pixel_values": self._process(sample)}
        drawn = self._drawn(len(sample))
        frames = {i: self.resize(sample[i])["pixel_values"] for i in set(drawn)}
        return {"pixel_values": torch.stack([frames[i] for i in drawn])}

    def _drawn(self, count: int) -> list[int]:
        return np.linspace(0, count - 1, self.frames).round().astype(int).tolist()

    def _process(self, sample: np.ndarray) -> Tensor:
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
