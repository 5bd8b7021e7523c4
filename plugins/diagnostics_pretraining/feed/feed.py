"""Batches of pictures and tokens as a function of the step: which samples, at which size, and what is changed in them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from diagnostics_training.models.picture_changes import PictureChanges
from diagnostics_training.trainer.data import EpochOrder, check_batch
from torch import Tensor

from diagnostics import Dataset
from diagnostics_pretraining.feed.pictures import pictures
from diagnostics_pretraining.stages import Stage, stage_at, steps_of


class Encodes(Protocol):
    """What turns texts into tokens."""

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """int64 [text, context], and how many texts are longer than that."""
        ...


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, `pixels` float32 [sample, 3, size, size] from -1 to 1 and
    `tokens` int64 [sample, context].

    Parameters
    ----------
    rows: the samples of the dataset that are trained on; each epoch has an order of its own.
    stages: one after the other; a batch has the size of its stage.
    batch: samples of a step over all processes. Everything is drawn for all of them and then dealt out, so that how many
        processes there are changes nothing.
    changes: what is changed at random in the pictures; None for nothing.

    Raises DiagnosticsError where stages are no whole batches, or a batch is larger than the samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        vocabulary: Encodes,
        stages: Sequence[Stage],
        batch: int,
        seed: int,
        changes: PictureChanges | None = None,
    ) -> None:
        check_batch(batch, len(rows))
        self.dataset, self.vocabulary, self.changes = dataset, vocabulary, changes
        self.stages, self.batch, self.seed = tuple(stages), batch, seed
        self.steps = steps_of(stages, batch)
        self.order = EpochOrder(rows, batch, seed)

    def ids(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """Of the samples of that part of the batch."""
        return [self.dataset.ids[row] for row in self.order.part(step, rank, world)[0]]

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, _ = self.order.part(step, rank, world)
        samples = [self.dataset[int(row)] for row in rows]
        tokens, _ = self.vocabulary.encode([self.dataset.texts[row] for row in rows])
        return {
            "pixels": pictures(samples, stage_at(self.stages, self.batch, step).size, self.dataset.name, self._drawn(step, own)),
            "tokens": tokens,
        }

    def _drawn(self, step: int, own: slice) -> dict[str, np.ndarray] | None:
        if self.changes is None:
            return None
        drawn = self.changes.draw(np.random.default_rng([self.seed, 1, step]), self.batch)
        return {key: value[own] for key, value in drawn.items()}
