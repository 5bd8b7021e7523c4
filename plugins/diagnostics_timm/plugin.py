"""The entry point: imports nothing heavy until an encoder is built."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from diagnostics.plugin import Entry, hookimpl, importing

PACKAGES = {"timm": "timm"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`timm:NAME`, with the options of `build`."""
    return {"timm:": Entry(build, modalities=("image",), path_hint=_path_hint)}


def build(
    model: str,
    pretrained: bool = True,
    checkpoint: str | None = None,
    img_size: int | None = None,
    seed: int = 0,
) -> Any:
    """A timm model as an encoder.

    It has taps at its embedding, its blocks, its final norm, and what it pools and classifies.

    Parameters
    ----------
    model: timm's name, with or without a tag: `vit_small_patch14_dinov2.lvd142m`.
    pretrained: weights from the hub; otherwise initial ones.
    checkpoint: a local .safetensors, .pth, .pt or .bin file; nothing is downloaded then.
    img_size: side of the square input, instead of the model's own.
    seed: of the initial weights where `pretrained` is false.
    """
    # Annotated Any and imported here: listing the encoders must not cost the import of torch.
    with importing("timm encoders need", "pip install timm torchvision"):
        from diagnostics_timm.encoder import create, encoder_of, model_of
        from diagnostics_timm.weights import name_of

    name = name_of(f"timm:{model}", pretrained or checkpoint is not None, seed, {"img_size": img_size})
    module = model_of(model, pretrained, checkpoint, img_size, seed).eval()
    encoder = encoder_of(module, name, img_size, partial(create, model, img_size))
    return encoder.replace(skeleton=name_of(f"timm:{model}", False, 0, {"img_size": img_size}))


def _path_hint(path: str) -> str:
    return f"weights of a timm model are timm:NAME?checkpoint={path}" if os.path.isfile(path) else ""
