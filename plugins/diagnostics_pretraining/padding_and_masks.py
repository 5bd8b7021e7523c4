"""What a feed's batches get for the objective: texts no longer than they need to be, and patches that are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diagnostics_training.models.patch_masks import random_masks
from torch import Tensor

from diagnostics import DiagnosticsError

if TYPE_CHECKING:
    from diagnostics_pretraining.feed.feed import Feed

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

    def ids(self, step: int, rank: int = 0, world: int = 1) -> Sequence[str]:
        """Of the samples of that part of the batch."""
        return self.feed.ids(step, rank, world)

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
