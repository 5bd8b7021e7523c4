"""A timm model at hand as an encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from diagnostics import TorchEncoder
from diagnostics.encoders.maker_names import last_taps, names_of_outputs
from diagnostics_timm.images import Preprocess
from diagnostics_timm.pixels import example
from diagnostics_timm.taps import model_taps, trunk


def encoder_of(
    module: nn.Module, name: str, img_size: int | None = None, fresh: Callable[[], nn.Module] | None = None
) -> TorchEncoder:
    """The model with timm's own evaluation transform and the taps that discovery gives.

    `img_size` is the side of the square input where that is not the model's own; `fresh` draws new weights.
    """
    preprocess = Preprocess.of(module, name, img_size)
    size = preprocess.input_size

    def settled() -> nn.Module:
        """New weights after one pass, in which some models (ConViT) make tables that are part of what they are."""
        assert fresh is not None
        model = fresh().eval()
        with torch.no_grad():
            model(torch.zeros(1, *size))
        return model

    discovered = model_taps(module, name, size)
    encoder = TorchEncoder(
        name,
        "image",
        module,
        discovered.taps,
        discovered.output_tap,
        preprocess,
        example(),
        fresh=None if fresh is None else settled,
        configuration=f"input {'x'.join(str(n) for n in size)}",
        covers=preprocess.covers,
    )
    ends = last_taps(encoder.taps, encoder.output_tap)[-1:]
    names = names_of_outputs(
        encoder, lambda model, image: {"forward_features": trunk(model, image)}, [encoder.output_tap, *ends]
    )
    return encoder.replace(left_out=discovered.left_out, maker_names=names)
