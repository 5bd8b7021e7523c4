"""Images: the directory's own image processor, or a resize to the model's size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diagnostics_timm.pixels import Middle, example, image_of
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, describe
from diagnostics_transformers.prepared import Prepared, from_directory, setting
from diagnostics_transformers.towers import arguments, model_type

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
    pixels = preprocess(example())["pixel_values"]
    height, width = (int(n) for n in pixels.shape[-2:])
    further = _FURTHER.get(model_type(tower))
    stretched = interpolating(tower, (height, width), "image_size")

    def of(batch: Mapping[str, Tensor]) -> dict[str, Any]:
        given = {"pixel_values": batch["pixel_values"], **stretched}
        return given | (further(config, batch["pixel_values"]) if further else {})

    patch = side_of(setting(config, "patch_size"))
    places = [(height // patch[0], width // patch[1])] if patch and min(patch) > 1 else []
    if patch and min(patch) > 1 and _is_plain(tower) and (height % patch[0] or width % patch[1]):
        raise DiagnosticsError(
            f"{name} cuts images of {height} x {width} pixels into patches of {patch[0]} x {patch[1]}, which do not fit: "
            "choose a size that is a multiple of the patch."
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
    """How many tokens stand for no place, where there are many: those that detect, or all that fill up Mllama's tiles."""
    if places and setting(config, "model_type") == "mllama_vision_model":
        patches = int(np.prod(places[0]))
        tile = -(-(patches + 1) // 8) * 8
        return config.max_num_tiles * tile - patches
    return 1 + int(setting(config, "num_detection_tokens", default=-1))


def _is_plain(tower: nn.Module) -> bool:
    """Whether its patches are cut by a convolution that leaves nothing between them."""
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
        try:
            pixels = self.processor(images=image, return_tensors="pt")["pixel_values"]
        except Exception as error:
            raise DiagnosticsError(
                f"The image processor of {self.encoder} fails on an image of {image.height} x {image.width} pixels "
                f"({describe(error)}): choose another size with ?size=."
            ) from error
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
    resized = _resized(processor, height, width)
    return tuple(
        ((new - cut) / 2 * old / new, ((new - cut) / 2 + cut) * old / new)
        for old, new, cut in zip((height, width), resized, crop, strict=True)
    )


def _plain(value: Any) -> Any:
    """A processor's size as a mapping of what is set in it."""
    if value is None or isinstance(value, (int, list, tuple)):
        return value
    return {key: value[key] for key in ("height", "width", "shortest_edge", "longest_edge") if value.get(key)}


def _resized(processor: Any, height: int, width: int) -> tuple[int, int]:
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
            raise DiagnosticsError(f"{name} cannot take size={size}: give a number of pixels of at least 1.")
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
    patches = images.unfold(2, p, p).unfold(3, p, p)  # [B, channel, ny, nx, p, p]
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def _as_tiles(config: Any, images: Tensor) -> Tensor:
    """[B, channel, y, x] as [B, 1, tile, channel, y, x]: the image, then zeros, as the makers' own processor pads."""
    tiles = images.new_zeros((len(images), 1, config.max_num_tiles, *images.shape[1:]))
    tiles[:, 0, 0] = images
    return tiles


def _first_tile(config: Any, images: Tensor) -> Tensor:
    tiles = torch.zeros((len(images), 1, config.max_num_tiles), dtype=torch.long, device=images.device)
    tiles[..., 0] = 1
    return tiles
