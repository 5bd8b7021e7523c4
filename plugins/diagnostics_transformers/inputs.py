"""From raw samples to what a tower takes, by its modality."""

from __future__ import annotations

from torch import nn

from diagnostics import DiagnosticsError
from diagnostics_transformers.audio import prepare_audio
from diagnostics_transformers.images import prepare_images
from diagnostics_transformers.patches import prepare_patches, takes_patches
from diagnostics_transformers.prepared import Prepared, Wanted
from diagnostics_transformers.series import prepare_series
from diagnostics_transformers.text import prepare_text
from diagnostics_transformers.towers import arguments, kind_of
from diagnostics_transformers.videos import is_video, prepare_videos


def prepare(tower: nn.Module, source: str | None, name: str, wanted: Wanted) -> Prepared:
    """The preprocessing of a tower: that of its own directory where it has one, otherwise the configuration's sizes."""
    kind, takes = kind_of(tower), arguments(tower)
    if kind == "text":
        return prepare_text(tower, source, name, wanted.length)
    if kind == "audio":
        return prepare_audio(tower, source, name, wanted.length)
    if kind == "series":
        return prepare_series(tower, name, wanted.length)
    if kind == "vision":
        if takes_patches(tower):
            return prepare_patches(tower, source, name, wanted.size)
        if is_video(tower):
            return prepare_videos(tower, source, name, wanted)
        return prepare_images(tower, source, name, wanted.size)
    raise DiagnosticsError(
        f"{name} ({type(tower).__name__}) takes {', '.join(t for t in takes[:3])}, which is no image, video, audio, text or "
        "series by itself: tap it as a torch module of your own (docs/plugins.md)."
    )
