"""The objective of pretraining: the contrast of images and texts, and mask regularisation beside it.

Bolya et al., Perception Encoder (arXiv 2504.13181), section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diagnostics_training.trainer.objective import Batch, Objective
from torch import Tensor, nn

from diagnostics_pretraining.contrast import clamp_scale, contrast
from diagnostics_pretraining.feed.clips import flattened, pooled
from diagnostics_pretraining.padding_and_masks import HIDDEN
from diagnostics_pretraining.towers import Towers


def regularisation(masked: Tensor, whole: Tensor, hidden: Tensor) -> Tensor:
    """Minus the cosine of tokens [image, patch, feature] at hidden patches and of the same ones of the whole image, their mean.

    The whole image's tokens are the target and get no gradient. hidden: bool [image, patch].
    """
    with torch.autocast(masked.device.type, enabled=False):
        cosines = nn.functional.cosine_similarity(masked.float(), whole.detach().float(), dim=-1)
        return -(cosines * hidden).sum() / hidden.sum()


class Pretraining(Objective):
    """Contrast of `pixels` [b, 3, y, x] and `tokens` [b, context], plus mask regularisation where a batch has `hidden`.

    Samples may be clips too (see `feed.clips`).

    Of a batch of b images with `hidden` [m, patch], the images 0, b/m, 2 b/m, ... are seen again, with these patches replaced by the
    learned token. The contrast never sees those, and the two have no gradient in common but in the image tower.
    """

    compares_samples = True

    def __init__(self, towers: Towers) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        towers, pixels = self.towers, flattened(batch)
        tokens, images = towers.tokens_and_embeddings(pixels)
        loss = contrast(pooled(images, batch), towers.embed_texts(batch["tokens"]), towers.log_scale)
        values = {"loss": loss, "contrast": loss, "scale": towers.log_scale.detach().exp()}
        if HIDDEN in batch:
            hidden = batch[HIDDEN]
            every = len(pixels) // len(hidden)
            masked = towers.image_tokens(pixels[::every], hidden)
            values["masked"] = regularisation(masked, tokens[::every], hidden)
            values["loss"] = loss + values["masked"]
        return values

    def output(self, batch: Batch) -> Tensor:
        embeddings = pooled(self.towers.embed_images(flattened(batch)), batch)
        return nn.functional.normalize(embeddings.float(), dim=-1)

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.towers.image.blocks, *self.towers.text.transformer.resblocks]

    def after_step(self, done: int, total: int) -> None:
        clamp_scale(self.towers.log_scale)
