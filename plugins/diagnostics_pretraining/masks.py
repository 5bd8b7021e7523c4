"""Batches of which every n-th image is seen again with patches hidden: which patches, drawn for the whole batch."""

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
            f"Every {every}-th image of a batch is seen again with patches hidden, and a batch of {batch} in {processes} "
            f"process{'es' if processes > 1 else ''} is no multiple of {every * processes}: give one."
        )


class MaskedFeed:
    """Batches of a feed with `hidden`, for the images 0, n, 2 n, ... of each: a share of 1/n of the batch.

    The patches are drawn for the batch over all processes and then dealt out, so that how many there are changes nothing.
    """

    def __init__(self, feed: Feed, share: float, hidden: float, patch: int) -> None:
        self.feed, self.every, self.share_hidden, self.patch = feed, round(1 / share), hidden, patch

    def ids(self, step: int, rank: int = 0, world: int = 1) -> Sequence[str]:
        """Of the samples of that part of the batch."""
        return self.feed.ids(step, rank, world)

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        patches = (self.feed.stage(step).size // self.patch) ** 2
        rng = np.random.default_rng([self.feed.seed, 2, step])
        hidden = np.zeros((self.feed.batch // self.every, patches), bool)
        np.put_along_axis(hidden, random_masks(rng, len(hidden), patches, self.share_hidden)[1], True, 1)
        own = hidden.reshape(world, -1, patches)[rank]
        return self.feed(step, rank, world) | {HIDDEN: torch.from_numpy(own)}
