"""Small towers of a Perception Encoder, as training leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diagnostics_pretraining.text_encoder import Vocabulary, context_of, vocabulary_of
from diagnostics_pretraining.towers import TEXT, Pair, Towers, build_towers
from torch import Tensor

from diagnostics import save_encoder

CAPTIONS = ("a red striped star", "two blue circles left of a square", "a green square")


def trained(size: str = "micro", whole: bool = False, seed: int = 0, **more: Any) -> Towers:
    """With another number in each parameter than is drawn, as training leaves them."""
    context = context_of(size)
    vocabulary = Vocabulary(context) if whole else vocabulary_of(CAPTIONS, context)
    wanted = {"rope": True, "pool": "attention", **more}
    both = build_towers(size, vocabulary=vocabulary, seed=seed, masked=True, **wanted)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in both.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return both


def batch_of(pair: Pair) -> tuple[Tensor, dict[str, Tensor]]:
    texts = [pair.text.preprocess(pair.text.example()), pair.text.preprocess("a zebra")]
    images = [pair.image.preprocess(pair.image.example())] * 2
    return torch.stack(images), {key: torch.stack([text[key] for text in texts]) for key in texts[0]}


def save_pair(pair: Pair, folder: str | Path) -> Path:
    """Write both encoders, as `save_encoder` does; the image encoder, without which there is none, last. Returns the folder."""
    folder = Path(folder).expanduser()
    save_encoder(folder / TEXT, pair.text)
    save_encoder(folder, pair.image)
    return folder
