"""Masked reconstruction: He et al., Masked autoencoders are scalable vision learners (MAE, arXiv 2111.06377).

The encoder sees visible patches only; a light decoder, given mask tokens, predicts the hidden ones; the loss is the
mean squared error over hidden patches, each normed to mean 0 and deviation 1. Hidden are 0.75 of an image (MAE), 0.9 of
a clip (at random in space and time: Feichtenhofer et al., arXiv 2205.09113) and 0.6 of a series (TimeMAE, arXiv
2303.00320).
"""

import math
from typing import Any

import numpy as np
from torch import Tensor

from diagnostics_training.models.encoder import EncoderObjective, Filler, Head, Sizes, pick
from diagnostics_training.models.inputs import random_masks
from diagnostics_training.trainer.objective import Batch

HIDDEN = {1: 0.6, 2: 0.75, 3: 0.9}
"""Share of hidden patches by number of axes."""


class Reconstruct(EncoderObjective):
    """`model`'s head is the decoder."""

    @classmethod
    def head(cls, sizes: Sizes) -> Head:
        return Filler(sizes, sizes.patches.values)

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        grid = self.sizes.grid
        seen, hidden = random_masks(rng, count, math.prod(grid), HIDDEN[len(grid)])
        return {"seen": seen, "hidden": hidden}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x, seen, hidden = batch["x"], batch["seen"], batch["hidden"]
        decoder = self.model.head
        assert isinstance(decoder, Filler)
        predicted = decoder.fill(self.model.backbone(x, seen), self.sizes.grid, seen, hidden)
        true = normed_patches(pick(self.model.backbone.patches.cut(x), hidden))
        return {"loss": (predicted.float() - true).square().mean()}


def normed_patches(patches: Tensor) -> Tensor:
    """Each patch [..., value] with mean 0 and deviation 1 (of a constant patch: 0)."""
    mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, correction=0)
    return (patches - mean) / (variance + 1e-6).sqrt()
