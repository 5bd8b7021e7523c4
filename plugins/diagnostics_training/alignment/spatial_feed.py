"""The batches of spatial alignment: images in one view each, which all teachers see whole and the student in part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from diagnostics import Dataset, Encoder
from diagnostics_training.alignment.augmentation import Places, View, draw_view
from diagnostics_training.alignment.feed import Feed, hidden, token_blocks
from diagnostics_training.alignment.relations.base import Relations
from diagnostics_training.alignment.teachers import Teacher


class SpatialFeed(Feed):
    """A `Feed` of images that are augmented, and of which blocks of `cell` x `cell` tokens are hidden, with what a teacher of
    relations reads. A sample's view and its hidden blocks follow from seed, step and its place alone.

    places: of the student's tokens.
    augmented: whether views are drawn, or each image is seen as it is.
    """

    def __init__(
        self, dataset: Dataset, rows: np.ndarray, student: Encoder, teachers: Sequence[Teacher], relations: Relations | None,
        places: Places, batch: int, mask: float, cell: int, seed: int, augmented: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(dataset, rows, student, teachers, batch, mask, seed)
        self.relations, self.places, self.cell, self.augmented = relations, places, cell, augmented

    def read_by(self, teachers: Sequence[Teacher]) -> SpatialFeed:
        feed = super().read_by(teachers)
        assert isinstance(feed, SpatialFeed)
        feed.relations = None
        return feed

    def read(self, rows: np.ndarray, step: int, places: Sequence[int]) -> dict[str, Tensor]:
        views = [self.view(step, place) for place in places]
        images = [view.image(self.dataset[int(row)]) for row, view in zip(rows, views, strict=True)]
        batch = self.sections(images, step, places)
        if self.relations is not None:
            seen = zip(rows, images, views, strict=True)
            batch |= default_collate([self.relations.inputs(int(row), image, view) for row, image, view in seen])
        return batch

    def view(self, step: int, place: int) -> View:
        """The one in which a sample is seen."""
        return draw_view(np.random.default_rng([self.seed, 2, step, place])) if self.augmented else View()

    def less(self, sample: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return hidden("image", sample, self.mask, rng, token_blocks(self.places, sample.shape[:2], self.cell))
