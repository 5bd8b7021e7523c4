"""The entry point: imports nothing heavy until an encoder is built."""

import importlib
import os
from collections.abc import Mapping
from typing import Any

from diagnostics.plugin import Entry, hookimpl, importing

PACKAGES = {"transformers": "transformers"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """`hf:NAME` or `hf:FOLDER`, with the options of `build`."""
    return {"hf:": Entry(build, modalities=("image", "video", "audio", "text", "series"), path_hint=_path_hint)}


def build(
    model: str,
    pretrained: bool = True,
    tower: str | None = None,
    size: int | None = None,
    length: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    heads: bool = False,
    tokenizer: str | None = None,
) -> Any:
    """A transformers model as an encoder with taps at its embedding, its layers, its final norm and its heads.

    Parameters
    ----------
    model: a directory with a config.json, or the hub's name of a model (`facebook/dinov2-small`).
    pretrained: the weights that lie there; otherwise initial ones, from the config.json alone.
    tower: `vision`, `audio` or `text`: which part of a model of several modalities.
    size: side of the square input in pixels, instead of the model's own.
    length: of a text in tokens (at most; 128 or the model's most), of a series in steps, of audio in samples.
    frames: of a video, instead of the model's own.
    seed: of the initial weights where `pretrained` is false.
    heads: the whole architecture that the config.json names, with its decoder or prediction head, instead of the bare
        encoder.
    tokenizer: `bytes`, where the model reads the bytes of a text and the directory has no tokenizer.
    """
    # Annotated Any and imported here: listing the encoders must not cost the import of torch.
    with importing("Encoders of transformers need", "pip install transformers"):
        importlib.import_module("transformers")
    from diagnostics_transformers.encoder import encoder_of
    from diagnostics_transformers.load import data_files, folder_of, load
    from diagnostics_transformers.towers import Wanted

    loaded = load(model, pretrained, seed, heads)
    options = {
        "pretrained": pretrained or None,
        "tower": tower,
        "size": size,
        "length": length,
        "frames": frames,
        "tokenizer": tokenizer,
    }
    name = _name(model, pretrained, seed, heads, options)
    encoder, folder = encoder_of(loaded, name, tower, Wanted(size, length, frames, tokenizer)), folder_of(loaded)
    return encoder.replace(skeleton=_name(str(folder), False, 0, heads, options), files=data_files(folder))


def _path_hint(path: str) -> str:
    return f"a checkpoint directory of transformers is hf:{path}" if os.path.isdir(path) else ""


def _name(model: str, pretrained: bool, seed: int, heads: bool, options: Mapping[str, Any]) -> str:
    """The specification: what is not the default."""
    parts = [f"{key}={value}" for key, value in options.items() if key != "pretrained" and value is not None]
    parts = [*([] if pretrained else ["pretrained=false", *([f"seed={seed}"] if seed else [])]), *parts]
    parts += ["heads=true"] if heads else []
    return f"hf:{model}{'?' if parts else ''}{'&'.join(parts)}"
