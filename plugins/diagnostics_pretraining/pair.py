"""Two towers as two encoders, saved side by side: the image encoder in a folder, the text encoder in `text/` in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diagnostics_perception.encoder import encoder_of, name_of, variation
from diagnostics_perception.models import ARCHITECTURES

from diagnostics import DiagnosticsError, TorchEncoder, build, save_encoder
from diagnostics_pretraining.text_encoder import text_encoder_of, vocabulary_in
from diagnostics_pretraining.towers import Towers, build_towers

TEXT = "text"
"""Of the image encoder's folder, the one in which its text encoder lies."""


@dataclass(frozen=True)
class Pair:
    """An image encoder and the text encoder that was trained with it; tap `head` of each gives its embedding.

    scale: what multiplies the cosines of their embeddings before the softmax.
    """

    image: TorchEncoder
    text: TorchEncoder
    scale: float


def encoders_of(towers: Towers, name: str, lineage: Mapping[str, Any] | None = None) -> Pair:
    """Towers as encoders, which share their modules.

    lineage: of both, as plain JSON values; `scale` and `text` (the text tower's weights) are added to the image encoder's.
    """
    modes = [(module, module.training) for module in towers.modules()]
    one = towers.architecture
    text = text_encoder_of(f"{name}/{TEXT}", towers.size, towers.text, towers.vocabulary)
    scale = math.exp(float(towers.log_scale.detach()))
    mine = {**(lineage or {}), "scale": scale, TEXT: text.identity["weights"]}
    native = ARCHITECTURES[towers.size].image
    size = {"img_size": one.image if one.image != native else None}
    image = encoder_of(name, replace(one, image=native), towers.image, one.image)
    image = image.replace(skeleton=name_of(towers.size, False, 0, variation(one) | size), lineage=mine)
    for module, training in modes:  # making an encoder of a module puts it into eval mode
        module.training = training
    return Pair(image, text.replace(lineage=dict(lineage or {})), scale)


def save_pair(pair: Pair, folder: str | Path) -> Path:
    """Writes both encoders, as `save_encoder` does; the image encoder, without which there is none, last. Returns the folder."""
    folder = Path(folder).expanduser()
    save_encoder(folder / TEXT, pair.text)
    save_encoder(folder, pair.image)
    return folder


def load_pair(folder: str | Path, *, trust_code: bool = False) -> Pair:
    """Both encoders that `save_pair` wrote.

    Raises DiagnosticsError where there is no text encoder, and where it is not the one that the image encoder was trained with.
    """
    image = build("encoder", str(folder), trust_code=trust_code)
    inner = Path(folder).expanduser() / TEXT
    scale = image.lineage.get("scale")
    if not inner.is_dir() or not isinstance(scale, float) or not 0 < scale < math.inf:
        raise DiagnosticsError(
            f"{folder} has no text encoder that was trained with it: name a folder that `diagnostics train pe` wrote."
        )
    text = build("encoder", str(inner), trust_code=trust_code)
    if image.lineage.get(TEXT) != text.identity["weights"]:
        raise DiagnosticsError(
            f"{inner} is not the text encoder that {folder} was trained with: copy both folders again, together."
        )
    return Pair(image, text, scale)


def towers_of(pair: Pair, *, masked: bool = False, seed: int = 0) -> Towers:
    """New towers with a pair's weights, to be trained further; a mask token is drawn from the seed.

    Raises DiagnosticsError for encoders that are not as towers are, an aligned or cut one among them.
    """
    size, vocabulary = vocabulary_in(pair.text)
    module: Any = pair.image.module
    pool = "attention" if getattr(module, "attn_pool", None) is not None else "class"
    rope = getattr(module, "rope", None) is not None
    image = pair.image.taps[0].grid.shape[0] * ARCHITECTURES[size].patch
    towers = build_towers(size, rope=rope, pool=pool, vocabulary=vocabulary, seed=seed, masked=masked, image=image)
    try:
        towers.image.load_state_dict(module.state_dict())
        towers.text.load_state_dict(pair.text.module.state_dict())
    except RuntimeError as error:
        raise DiagnosticsError(
            f"{pair.image.name} does not fit towers of size {size}, as one that was cut or aligned: name what `train pe` wrote."
        ) from error
    with torch.no_grad():
        towers.log_scale.fill_(math.log(pair.scale))
    return towers
