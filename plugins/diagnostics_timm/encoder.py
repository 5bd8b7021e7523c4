"""A timm model with its weights, and as an encoder.

From a raw image to its input, which part of the image that shows, and its taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import transforms

from diagnostics.plugin import (
    DiagnosticsError,
    Discovered,
    Grid,
    Tap,
    TorchEncoder,
    describe,
    discover,
    last_taps,
    misfits,
    name_error,
    names_of_outputs,
)
from diagnostics_timm.pixels import example, image_of
from diagnostics_timm.weights import is_fetching, quick_offline, read_tensors, seeding

# A timm model and its weights: from the hub, from a local file, or initial ones.

_INSTEAD = "give a local file with ?checkpoint=file.safetensors or take initial weights with ?pretrained=false."
MOST_PIXELS = 8192
"""Along a side: what is larger fills the memory before anything else is said."""


def model_of(name: str, pretrained: bool, checkpoint: str | None, img_size: int | None, seed: int) -> nn.Module:
    """The model with the weights that were asked for; a checkpoint goes before `pretrained`."""
    _check_name(name)
    if img_size is not None and not 1 <= img_size <= MOST_PIXELS:
        raise DiagnosticsError(
            f"timm:{name} cannot take img_size={img_size}: give a number of pixels of at least 1 and at most "
            f"{MOST_PIXELS:,}.",
            code="too-few",
        )
    if checkpoint is not None:
        return _from_file(name, Path(checkpoint), img_size)
    if pretrained:
        return _from_hub(name, img_size)
    with seeding(seed):
        return create(name, img_size)


def create(name: str, img_size: int | None, **options: Any) -> nn.Module:
    """The architecture with initial weights, or with those that timm's own `options` name."""
    sized: dict[str, Any] = {} if img_size is None else {"img_size": img_size}
    try:
        try:
            return timm.create_model(name, **sized, **options)
        except TypeError as error:
            # Convolutional models take any size and have no such argument; they only see another preprocessing.
            if not sized or "img_size" not in str(error):
                raise
            return timm.create_model(name, **options)
    except Exception as error:
        # What went wrong with the weights is told by who asked for them.
        if options:
            raise
        size = "" if img_size is None else f" with img_size={img_size} (try a multiple of its patch or window size)"
        raise DiagnosticsError(f"timm cannot build {name}{size}: {describe(error)}", code="foreign-error") from error


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise name_error("timm model", architecture, known, "See timm.list_models() for all.")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise name_error(f"weights of timm model {architecture}:", tag, tags)


def _from_hub(name: str, img_size: int | None) -> nn.Module:
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None or not configuration.has_weights:
        raise DiagnosticsError(f"timm has no pretrained weights of {name}: {_INSTEAD}", code="no-weights")
    reached = True
    try:
        with quick_offline() as reached:
            return create(name, img_size, pretrained=True)
    except Exception as error:
        if not is_fetching(error):
            size = "" if img_size is None else f" with img_size={img_size}"
            raise DiagnosticsError(f"timm cannot load {name}{size}: {describe(error)}", code="foreign-error") from error
        why = f"({describe(error)})" if reached else "(no network, and not in the local cache)"
        raise DiagnosticsError(
            f"Pretrained weights of timm:{name} cannot be fetched {why}: {_INSTEAD}", code="not-fetched"
        ) from error


def _from_file(name: str, path: Path, img_size: int | None) -> nn.Module:
    tensors = read_tensors(path)
    if not tensors:
        raise DiagnosticsError(
            f"Checkpoint {path} holds no tensors: save the model's state_dict() into it.", code="no-weights"
        )
    model = create(name, img_size)
    differences = misfits(model.state_dict(), tensors)
    if not differences:
        model.load_state_dict(tensors, strict=True)
        return model
    # Not timm's own layout, or another resolution: timm knows how to convert the formats of a model's makers and to
    # resample position embeddings. It is as strict, and what it cannot place is told from the file's own tensors.
    try:
        return create(name, img_size, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
    except Exception as error:
        raise DiagnosticsError(
            f"Checkpoint {path} does not fit timm:{name} ({differences}): name the model that it was saved from, or, "
            f"if its head is another, return it from a function, file.py:function.",
            code="other-weights",
        ) from error


# From a raw image to the model's input, and which part of the image that shows.


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
        configuration: Any = resolve_model_data_config(model)
        if img_size is not None:
            channels = configuration["input_size"][0]
            configuration = resolve_model_data_config(model, args={"input_size": (channels, img_size, img_size)})
        channels, height, width = configuration["input_size"]
        if channels not in (1, 3):
            raise DiagnosticsError(
                f"{encoder} takes {channels} channels: only models of 1 or 3 are supported yet.", code="unsupported"
            )
        return cls(encoder, (channels, height, width), create_transform(**configuration, is_training=False))

    def __call__(self, sample: np.ndarray) -> Tensor:
        return self.transform(image_of(sample, self.encoder, "RGB" if self.input_size[0] == 3 else "L"))

    def covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        """(start, stop) along y and x, in pixels of the original, of what the model sees.

        Reaches beyond the image where the transform pads (crop mode `border`).
        """
        if len(shape) != 2 or min(shape) < 1:
            raise DiagnosticsError(
                f"{self.encoder} sees images with extents along y and x, not {list(shape)}.", code="other-modality"
            )
        sides = [(0.0, float(n)) for n in shape]
        size = (int(shape[0]), int(shape[1]))
        for step in self.transform.transforms:
            new, offsets = _step(step, size)
            # Of a resize there are none: pixels change, what is seen does not.
            if offsets is not None:
                sides = [
                    (start + offset * (stop - start) / old, start + (offset + n) * (stop - start) / old)
                    for (start, stop), offset, n, old in zip(sides, offsets, new, size, strict=True)
                ]
            size = new
        return tuple(sides)


def _step(step: Any, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """The size after one step of timm's evaluation transform, rounded as there.

    Also where a crop begins (None: a resize).
    """
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
    raise DiagnosticsError(
        f"What preprocessing step {kind} does to places is not known yet, so targets cannot be cut.", code="unsupported"
    )


def encoder_of(
    module: nn.Module, name: str, img_size: int | None = None, fresh: Callable[[], nn.Module] | None = None
) -> TorchEncoder:
    """The model with timm's own evaluation transform and the taps that discovery gives.

    `img_size` is the side of the square input where that is not the model's own; `fresh` draws new weights.
    """
    preprocess = Preprocess.of(module, name, img_size)
    size = preprocess.input_size

    def settle() -> nn.Module:
        """New weights after one pass, in which some models (ConViT) make tables that are part of what they are."""
        assert fresh is not None
        model = fresh().eval()
        with torch.no_grad():
            model(torch.zeros(1, *size))
        return model

    discovered = model_taps(module, name, size)
    encoder = TorchEncoder(
        name,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess=preprocess,
        example=example(),
        fresh=None if fresh is None else settle,
        configuration=f"input {'x'.join(str(n) for n in size)}",
        covers=preprocess.covers,
    )
    ends = last_taps(encoder.taps, encoder.output_tap)[-1:]
    names = names_of_outputs(
        encoder, lambda model, image: {"forward_features": forward_features(model, image)}, [encoder.output_tap, *ends]
    )
    return encoder.replace(left_out=discovered.left_out, maker_names=names)


def model_taps(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> Discovered:
    """`embed`, every block, the trunk's end, and the heads; in order of execution."""
    _check_size(model, encoder, input_size)
    image = torch.randn((2, *input_size), generator=torch.Generator().manual_seed(0))
    declared = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    prefix: Any = getattr(model, "num_prefix_tokens", None)
    grid = Grid(tuple(map(int, declared)), ("y", "x"), prefix or 0) if declared is not None else None
    return discover(
        model,
        image,
        encoder,
        {"y": input_size[1], "x": input_size[2]},
        grid=grid,
        prefix=prefix,
        channels_last=getattr(model, "output_fmt", "NCHW") == "NHWC",
        trunk=forward_features,
        with_order=_tokens_in_order(model) if hasattr(model, "reroll") else lambda tap: tap,
    )


def forward_features(module: Any, batch: Any) -> Any:
    """The trunk of a model of timm, without its heads."""
    return module.forward_features(batch)


def _tokens_in_order(model: nn.Module) -> Callable[[Tap], Tap]:
    """Order of Hiera's tokens, which lie in units that later stages pool.

    It is that of indices sent through its own reroll.
    """
    reroll: Any = model.reroll

    def with_order(tap: Tap) -> Tap:
        site = tap.site
        if site is None or site.layout != "tokens":
            return tap
        name, _, block = site.module.partition(".")
        at = int(block) if name == "blocks" else max(reroll.schedule)
        places = torch.arange(tap.tokens, dtype=torch.float64)[None, :, None]
        order = tuple(int(place) for place in reroll(places, at).flatten())
        return tap if order == tuple(range(tap.tokens)) else replace(tap, site=replace(site, order=order))

    return with_order


def _check_size(model: nn.Module, encoder: str, input_size: tuple[int, int, int]) -> None:
    """Patches that do not divide the image would leave its last rows and columns unseen."""
    cut = getattr(getattr(model, "patch_embed", None), "proj", None)
    # Overlapping patches are padded, and leave nothing out.
    if not isinstance(cut, nn.Conv2d) or cut.kernel_size != cut.stride:
        return
    if any(n % side for n, side in zip(input_size[1:], cut.stride, strict=True)):
        raise DiagnosticsError(
            f"{encoder} cuts images of {list(input_size[1:])} pixels into patches of {list(cut.stride)}, "
            "which do not fit: choose an img_size that is a multiple of the patch.",
            code="bad-value",
        )
