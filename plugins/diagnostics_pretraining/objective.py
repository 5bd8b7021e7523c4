"""The objective of pretraining: the contrast of images and texts, and mask regularisation beside it.

Bolya et al., Perception Encoder (arXiv 2504.13181), section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diagnostics_training.models.inputs import random_masks
from diagnostics_training.trainer.objective import Batch, Objective, gathered, own
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError
from diagnostics_pretraining.feed import flattened, pooled
from diagnostics_pretraining.towers import Towers

if TYPE_CHECKING:
    from diagnostics_pretraining.feed import Feed

# What a feed's batches get for the objective: texts no longer than they need to be, and patches that are hidden.

HIDDEN = "hidden"
"""The batch's part that says which patches are hidden: bool [image seen again, patch]."""


def check_masks(batch: int, processes: int, share: float) -> None:
    """Raises where the images that are seen again are not as many in each process."""
    every = round(1 / share)
    if batch % (every * processes):
        raise DiagnosticsError(
            f"Every {every}-th image of a batch is used again with patches hidden, and a batch of {batch} in {processes} "
            f"process{'es' if processes > 1 else ''} is no multiple of {every * processes}: give one."
        )


class Batches:
    """Batches of a feed, with texts cut behind the longest one and, where a share of the images is seen again, `hidden`.

    Those are the images 0, n, 2 n, ... of a batch for a share of 1/n. Their patches are drawn for the batch over all processes and
    then dealt out, so that how many there are changes nothing.
    """

    def __init__(self, feed: Feed, patch: int, share: float = 0.0, hidden: float = 0.4) -> None:
        self.feed, self.patch, self.share, self.share_hidden = feed, patch, share, hidden
        self.ids = feed.ids

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        batch = self.feed(step, rank, world)
        batch["tokens"] = cut_padding(batch["tokens"])
        if self.share:
            batch[HIDDEN] = torch.from_numpy(self._hidden(step).reshape(world, -1, self._patches(step))[rank])
        return batch

    def _patches(self, step: int) -> int:
        return (self.feed.stage(step).size // self.patch) ** 2

    def _hidden(self, step: int) -> np.ndarray:
        """Of the whole batch, bool [image seen again, patch]."""
        patches, rng = self._patches(step), np.random.default_rng([self.feed.seed, 2, step])
        hidden = np.zeros((self.feed.batch // round(1 / self.share), patches), bool)
        np.put_along_axis(hidden, random_masks(rng, len(hidden), patches, self.share_hidden)[1], True, 1)
        return hidden


def cut_padding(tokens: Tensor) -> Tensor:
    """Texts [text, context] without what is behind the end of all of them; their length is a multiple of 8 or the whole one.

    A causal tower gives them the same embeddings, faster; few lengths mean few compilations.
    """
    # The end of a text is its largest token.
    longest = int(tokens.argmax(1).max()) + 1
    return tokens[:, : -(-longest // 8) * 8]


# The contrast of images and texts (Radford et al., CLIP, arXiv 2103.00020): softmax InfoNCE both ways, over all processes.

MOST_SCALE = 100.0
"""The learned scale of the cosines never exceeds it."""


def contrast(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Half the mean of -log softmax of an image's own text among all texts, and half that of a text's own image, a scalar.

    images, texts: embeddings [pair, feature] of this process's pairs, of any length; the cosines are multiplied by
    exp(log_scale). The others are those of all processes, with gradients to them: where data parallelism averages the gradients
    of the processes, they are those of the whole batch's loss.
    """
    # Logits of up to 100 lose too much in bfloat16, to which autocast would take their products.
    with torch.autocast(images.device.type, enabled=False):
        images = nn.functional.normalize(images.float(), dim=-1)
        texts = nn.functional.normalize(texts.float(), dim=-1)
        places = own(len(images))
        positives = torch.arange(places.start, places.stop, device=images.device)
        scale = log_scale.float().exp()
        losses = [
            nn.functional.cross_entropy(scale * anchors @ others.T, positives)
            for anchors, others in ((images, gathered(texts)), (texts, gathered(images)))
        ]
        return (losses[0] + losses[1]) / 2


@torch.no_grad()
def clamp_scale(log_scale: Tensor) -> None:
    """Holds the scale at 100 or below, in place, after each step of the optimiser: in the loss it would lose its gradient."""
    log_scale.clamp_(max=math.log(MOST_SCALE))


def equal_texts(tokens: Tensor) -> int:
    """How many texts of a batch [pair, context] are equal to another one of it: each is a false negative of that one."""
    counts = tokens.unique(dim=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


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
