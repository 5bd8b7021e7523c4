"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from diagnostics import hookimpl

PACKAGES = {"timm": "timm"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Callable[..., Any]]:
    """Name or scheme -> builder."""
    return {"pe:": build, "pe-video:": build_video}


def build(
    model: str,
    pretrained: bool = True,
    checkpoint: str | None = None,
    partial: bool = False,
    img_size: int | None = None,
    positions: str = "index",
    seed: int = 0,
) -> Any:
    """A Perception Encoder on images, with taps from its embedding to its CLIP embedding where it has one.

    Parameters
    ----------
    model: `core-b16-224`, `lang-l14-448`, `spatial-g14-448`, ...
    pretrained: weights from the hub, as timm keeps them; otherwise initial ones.
    checkpoint: a local file, Meta's .pt or timm's layout; nothing is downloaded then.
    partial: whether a checkpoint may have more blocks or a head too many, lack LayerScale, or have another grid of
        positions. The run then says what was changed.
    img_size: side of the square input, instead of the model's own.
    positions: at another size than the model's own, `index` (Meta's: positions count patches) or `rescaled` (timm's:
        positions are spread over the grid of training).
    seed: of the initial weights where `pretrained` is false.
    """
    # Annotated Any and imported here: listing the encoders must not cost the import of torch.
    _needs()
    from diagnostics_perception.encoder import build_encoder

    return build_encoder(
        model,
        pretrained=pretrained,
        checkpoint=checkpoint,
        partial=partial,
        img_size=img_size,
        positions=positions,
        seed=seed,
    )


def build_video(
    model: str,
    frames: int = 8,
    sampler: str = "floor",
    pretrained: bool = True,
    checkpoint: str | None = None,
    partial: bool = False,
    img_size: int | None = None,
    positions: str = "index",
    seed: int = 0,
) -> Any:
    """A Perception Encoder on videos: frame by frame, averaged, as its makers do; options as of `pe:`, and

    frames: how many of a clip are seen.
    sampler: which: `floor` (int(i T / n)) or `endpoints` (int(i (T - 1) / (n - 1))).
    """
    _needs()
    from diagnostics.encoders.frames import frames_of

    image = build(model, pretrained, checkpoint, partial, img_size, positions, seed)
    video = frames_of(image, frames, sampler)
    options = image.name.partition("?")[2]
    video.name = f"pe-video:{model}?frames={frames}&sampler={sampler}{'&' if options else ''}{options}"
    video.skeleton = f"pe-video:{model}?frames={frames}&sampler={sampler}&{image.skeleton.partition('?')[2]}"
    return video


def _needs() -> None:
    from diagnostics import DiagnosticsError

    try:
        for needed in ("timm", "PIL"):
            importlib.import_module(needed)
    except ImportError as error:
        raise DiagnosticsError(f"Perception Encoders need {error.name}: pip install timm torchvision.") from error
