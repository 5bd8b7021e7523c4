"""What this plugin offers; importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from diagnostics.plugin import Entry, hookimpl
from diagnostics_pretraining.commands import export_open_clip, needs_open_clip, recaption, train_pe, zeroshot

if TYPE_CHECKING:
    from diagnostics.plugin import Encoder

PACKAGES = {"timm": "timm", "open_clip_torch": "open_clip"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Name or scheme -> builder."""
    return {"pe-text:": Entry(text, modalities=("text",))}


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {"export open_clip": export_open_clip, "recaption": recaption, "train pe": train_pe, "zeroshot": zeroshot}


def text(
    model: str,
    checkpoint: str | None = None,
    pretrained: bool = True,
    context: int | None = None,
    seed: int = 0,
) -> Encoder:
    """The text tower of a Perception Encoder, with taps from its embedding to its CLIP embedding.

    Parameters
    ----------
    model: `core-b16-224`, `nano`, ..., or a folder that describes one with a vocabulary of its own.
    checkpoint: a local file, Meta's .pt of the whole model; nothing is downloaded.
    pretrained: with false, initial weights.
    context: tokens of a text, start and end included, instead of the model's own.
    seed: of the initial weights.
    """
    needs_open_clip()
    from diagnostics_pretraining.text_encoder import build_text

    return build_text(model, checkpoint, pretrained, context, seed)


@hookimpl
def datasets() -> Mapping[str, Entry]:
    """Scheme -> builder."""
    return {"recaptioned:": Entry(recaptioned, modalities=("image", "video"))}


def recaptioned(table: str, data: str, caption: str = "caption") -> Any:
    """A dataset with the captions of a table that `diagnostics recaption` wrote in place of its own texts, joined by id.

    `data` is the dataset, as `recaptioned:clips.jsonl?data=shapes?frames=8`; in its own options `&` is written `%26`. `caption`
    names the column: caption, or video_caption.
    """
    # Annotated Any and imported here: listing datasets must not cost the import of numpy.
    from diagnostics_pretraining.recaption.table import recaptioned

    return recaptioned(table, data, caption)
