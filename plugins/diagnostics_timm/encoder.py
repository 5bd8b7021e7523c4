"""A timm model at hand as an encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from diagnostics import TorchEncoder
from diagnostics_timm.images import Preprocess
from diagnostics_timm.pixels import example
from diagnostics_timm.taps import model_taps


def encoder_of(
    module: nn.Module, name: str, img_size: int | None = None, fresh: Callable[[], nn.Module] | None = None
) -> TorchEncoder:
    """The model with timm's own evaluation transform and the taps that it is found to have.

    `img_size` is the side of the square input where that is not the model's own; `fresh` draws new weights.
    """
    preprocess = Preprocess.of(module, name, img_size)
    size = preprocess.input_size

    def settled() -> nn.Module:
        """New weights after one pass, in which some models (ConViT) make tables that are part of what they are."""
        assert fresh is not None
        made = fresh().eval()
        with torch.no_grad():
            made(torch.zeros(1, *size))
        return made

    found = model_taps(module, name, size)
    encoder = TorchEncoder(
        name,
        "image",
        module,
        found.taps,
        found.output_tap,
        preprocess,
        example(),
        fresh=None if fresh is None else settled,
        configuration=f"input {'x'.join(str(n) for n in size)}",
        covers=preprocess.covers,
    )
    encoder.left_out = found.left_out
    return encoder
