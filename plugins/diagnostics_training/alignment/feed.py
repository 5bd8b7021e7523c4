"""An alignment's batches: a section for each teacher's input, and one for the student's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics import (
    Dataset,
    Encoder,
)
from diagnostics_training.alignment.hidden_cells import hidden
from diagnostics_training.alignment.objective import Teacher, put_section
from diagnostics_training.trainer.feed import EpochOrder


class Feed:
    """`feed(step, rank, world)`: a process's part of a step's batch, with a section for whoever reads another input."""

    def __init__(
        self, dataset: Dataset, rows: np.ndarray, teachers: Sequence[Teacher], batch: int, mask: float, seed: int
    ) -> None:
        self.dataset, self.teachers, self.mask, self.seed = dataset, tuple(teachers), mask, seed
        self.order = EpochOrder(rows, batch, seed)

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        samples = [self.dataset[int(row)] for row in rows]
        batch: dict[str, Tensor] = {}
        for teacher in self.teachers:
            batch |= self._section(teacher.section, teacher.encoder, samples)
        if self.mask:
            rngs = [np.random.default_rng([self.seed, 1, step, first + i]) for i in range(own.start, own.stop)]
            less = [hidden(self.dataset.modality, s, self.mask, rng) for s, rng in zip(samples, rngs, strict=True)]
            batch |= self._section("masked", self.teachers[0].encoder, less)
        return batch

    def _section(self, name: str, encoder: Encoder, samples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return put_section(name, default_collate([encoder.preprocess(sample) for sample in samples]))
