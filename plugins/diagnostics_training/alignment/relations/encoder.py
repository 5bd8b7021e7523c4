"""Any encoder as a teacher of relations: the cosines of its tokens."""

import numpy as np
import torch
from torch import Tensor

from diagnostics_training.alignment.augmentation import Places, View, places_of, sampled
from diagnostics_training.alignment.objective import Teacher, put_section, taught
from diagnostics_training.alignment.relations.base import SECTION, Relations
from diagnostics_training.trainer.objective import Batch

PART = f"{SECTION}_part"
"""Of a batch: which part of the teacher's grid, in cells, the student's grid lies on."""


class EncoderRelations(Relations):
    """The grid tokens of a frozen encoder at a tap, at the places of the student's (bilinear, where grids differ)."""

    def __init__(self, name: str, teacher: Teacher, places: Places) -> None:
        self.name, self.places = name, places
        self.teacher = Teacher(teacher.encoder, teacher.tap, SECTION)
        self.own = places_of(teacher.encoder, teacher.tap)
        self.about = f"tap {teacher.tap.name} of {teacher.encoder.name}"

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        extent = image.shape[:2]
        ends = zip(self.places.covers(extent), self.own.covers(extent), self.own.shape, strict=True)
        part = [[(end - low) / (high - low) * cells for end in student] for student, (low, high), cells in ends]
        return {PART: torch.tensor(part)} | put_section(SECTION, self.teacher.encoder.preprocess(image))

    def relations(self, batch: Batch) -> Tensor:
        tokens = taught(self.teacher, batch)[:, self.teacher.tap.grid.prefix :]
        maps = tokens.transpose(1, 2).unflatten(2, self.own.shape)
        return sampled(maps, batch[PART], self.places.shape).flatten(2).transpose(1, 2)

    def to(self, device: str) -> None:
        self.teacher.encoder.to(device)
