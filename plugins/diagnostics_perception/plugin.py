"""The encoders of this plugin and `diagnostics export meta`; importing it imports nothing heavy."""

import importlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics.plugin import Entry, hookimpl, importing, printable

PACKAGES = {"timm": "timm"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Name or scheme -> builder."""
    return {"pe:": Entry(build, modalities=("image",)), "pe-video:": Entry(build_video, modalities=("video",))}


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {"export meta": export_meta}


def build(
    model: str,
    pretrained: bool = True,
    checkpoint: str | None = None,
    partial: bool = False,
    img_size: int | None = None,
    positions: str = "index",
    seed: int = 0,
    depth: int | None = None,
    layer_scale: float | None = None,
    rope: bool = True,
    pool: str = "attention",
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
    depth: how many blocks, instead of all of the model's.
    layer_scale: initial value of LayerScale in all blocks, instead of the model's own; 0 for none.
    rope: rotary positions beside the learned ones, as all published models have.
    pool: what the embedding is projected from, `attention` (over all tokens, as in all published models) or the `class`
    token.
    """
    needs_timm()
    # Annotated Any and imported here: listing the encoders must not cost the import of torch.
    from diagnostics_perception.encoder import build_encoder

    return build_encoder(
        model,
        pretrained,
        checkpoint,
        partial,
        img_size=img_size,
        positions=positions,
        seed=seed,
        depth=depth,
        layer_scale=layer_scale,
        rope=rope,
        pool=pool,
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
    depth: int | None = None,
    layer_scale: float | None = None,
    rope: bool = True,
    pool: str = "attention",
) -> Any:
    """A Perception Encoder on videos, frame by frame and averaged, as its makers do.

    Parameters
    ----------
    frames: how many of a clip are seen.
    sampler: which: `floor` (int(i T / n)) or `endpoints` (int(i (T - 1) / (n - 1))). All others: as of `pe:`.
    """
    from diagnostics.plugin import frames_of

    image = build(
        model,
        pretrained,
        checkpoint,
        partial,
        img_size=img_size,
        positions=positions,
        seed=seed,
        depth=depth,
        layer_scale=layer_scale,
        rope=rope,
        pool=pool,
    )
    name = f"pe-video:{model}?frames={frames}&sampler={sampler}"
    options, skeletal = (text.partition("?")[2] for text in (image.name, image.skeleton))
    video = frames_of(image, frames, sampler)
    names = dict(video.maker_names)
    if "head" in names:
        names["head"] = "encode_image of each frame, whose mean is encode_video"
    return video.replace(
        name=f"{name}{'&' if options else ''}{options}", skeleton=f"{name}&{skeletal}", maker_names=names
    )


def export_meta(
    encoder: Annotated[
        str,
        typer.Argument(
            metavar="ENCODER",
            help="A Perception Encoder by any name for `diagnostics run`: pe:NAME, or a saved, cut or aligned one.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="File to write: .safetensors, or .pt for Meta's own code."),
    ],
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow a saved encoder to run the Python file that builds it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write a Perception Encoder's weights under Meta's names.

    The layout is that of the published files. An existing file is refused.

    \b
    Example:
      diagnostics export meta models/lifted --out lifted.pt
    """
    needs_timm()
    from diagnostics_perception.checkpoint import export

    exported = export(encoder, out, trust_code)
    if json:
        print(to_json(asdict(exported)))
        return
    print(printable(f"{exported.file}: {exported.encoder}, {exported.tensors:,} tensors, {exported.bytes:,} bytes"))
    if exported.left_out:
        print(printable(f"Meta's layout has no place for {', '.join(exported.left_out)}, which the file does without"))
    if exported.code:
        print(printable(f"Meta's code reads it with {exported.code}"))
    print(printable(f"Next: diagnostics inspect {shlex.quote(exported.name)}"))
    if exported.text:
        print(printable(f"its text tower: diagnostics inspect {shlex.quote(exported.text)}"))


def needs_timm() -> None:
    """Raise where what Perception Encoders are made of is missing."""
    with importing("Perception Encoders need", "pip install timm torchvision"):
        for needed in ("timm", "PIL"):
            importlib.import_module(needed)
