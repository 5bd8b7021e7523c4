"""The batches of spatial alignment: samples in one view each, of which all teachers see all and the student what is not hidden."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics import Dataset, Encoder
from diagnostics_training.alignment.augmentation import Places, View, draw_view
from diagnostics_training.alignment.feed import hidden, token_blocks
from diagnostics_training.alignment.objective import Teacher, put_section
from diagnostics_training.alignment.relations.base import Relations
from diagnostics_training.trainer.data import EpochOrder


class SpatialFeed:
    """`feed(step, rank, world)`: a process's part of a step's batch: `clean` and, where something is hidden, `masked` for the
    student; a section for each further teacher; what the teacher of relations reads.

    View and hidden blocks of a sample follow from seed, step and its place in the batch alone.

    student: whose preprocessing the student's section has.
    places: of the student's tokens, of which blocks of `block` x `block` are hidden; `mask` is their share.
    augmented: whether views are drawn, or each sample is seen as it is.
    """

    def __init__(
        self, dataset: Dataset, rows: np.ndarray, student: Encoder, teachers: Sequence[Teacher], relations: Relations | None,
        places: Places, batch: int, mask: float, block: int, seed: int, augmented: bool = True,
    ) -> None:  # fmt: skip
        self.dataset, self.student, self.teachers, self.relations = dataset, student, tuple(teachers), relations
        self.places, self.mask, self.block, self.seed, self.augmented = places, mask, block, seed, augmented
        self.order = EpochOrder(rows, batch, seed)

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        where = [first + i for i in range(own.start, own.stop)]
        views = [self._view(step, place) for place in where]
        images = [view.image(self.dataset[int(row)]) for row, view in zip(rows, views, strict=True)]
        batch = _section("clean", self.student, images)
        for teacher in self.teachers:
            batch |= _section(teacher.section, teacher.encoder, images) if teacher.section not in batch else {}
        if self.mask:
            less = [self._less(image, step, place) for image, place in zip(images, where, strict=True)]
            batch |= _section("masked", self.student, less)
        if self.relations is not None:
            seen = zip(rows, images, views, strict=True)
            batch |= default_collate([self.relations.inputs(int(row), image, view) for row, image, view in seen])
        return batch

    def _view(self, step: int, place: int) -> View:
        return draw_view(np.random.default_rng([self.seed, 2, step, place])) if self.augmented else View()

    def _less(self, image: np.ndarray, step: int, place: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1, step, place])
        return hidden("image", image, self.mask, rng, token_blocks(self.places, image.shape[:2], self.block))


def _section(name: str, encoder: Encoder, images: Sequence[np.ndarray]) -> dict[str, Tensor]:
    return put_section(name, default_collate([encoder.preprocess(image) for image in images]))
