"""What this plugin offers; importing it imports nothing heavy."""

from collections.abc import Callable, Mapping
from typing import Any

from diagnostics import hookimpl
from diagnostics.hookspecs import Entry
from diagnostics_pretraining.recaption.command import recaption

PACKAGES = {"timm": "timm", "open_clip_torch": "open_clip"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {"recaption": recaption}


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
