"""A teacher of relations by its name: `masks`, `sam2:FOLDER`, or an encoder as `NAME` or `NAME:TAP`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, Grid, UntrustedCodeError
from diagnostics_training.alignment.augmentation import Places, View, places_of, sampled
from diagnostics_training.alignment.relations.base import SECTION, Relations
from diagnostics_training.alignment.relations.masks import MaskRelations
from diagnostics_training.alignment.relations.sam2 import Sam2Relations
from diagnostics_training.alignment.start import Start
from diagnostics_training.alignment.teachers import Teacher, named_teacher, on_grid, put_section, taught
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch, silent
from diagnostics_training.trainer.objective import Batch

# Any encoder as a teacher of relations: the cosines of its tokens.

PART = f"{SECTION}_part"
"""Of a batch: which part of what the teacher's grid covers the student's does, in cells of a grid of the student's shape."""


class EncoderRelations(Relations):
    """The grid tokens of a frozen encoder at a tap, brought to the places of the student's."""

    def __init__(self, name: str, teacher: Teacher, places: Places) -> None:
        self.name, self.places = name, places
        self.teacher = Teacher(teacher.encoder, teacher.tap, SECTION)
        self.covers = places_of(teacher.encoder, teacher.tap).covers
        weights = teacher.encoder.identity["weights"]
        self.about = f"tap {teacher.tap.name} of {teacher.encoder.name} (weights {weights[:12]})"

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        self.teacher.encoder.to(world.device)

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        extent = image.shape[:2]
        ends = zip(self.places.covers(extent), self.covers(extent), self.places.shape, strict=True)
        part = [[(end - low) / (high - low) * cells for end in own] for own, (low, high), cells in ends]
        return {PART: torch.tensor(part)} | put_section(SECTION, self.teacher.encoder.preprocess(image))

    def relations(self, batch: Batch) -> Tensor:
        grid = self.teacher.tap.grid
        tokens = on_grid(taught(self.teacher, batch).float(), grid, Grid(self.places.shape, grid.axes))
        maps = tokens[:, grid.prefix :].transpose(1, 2).unflatten(2, self.places.shape)
        return sampled(maps, batch[PART], self.places.shape).flatten(2).transpose(1, 2)


def relations_of(name: str, start: Start, trust_code: bool = False) -> Relations:
    """The teacher of that name, for the samples of an alignment and the tokens of the tap that learns.

    Raises DiagnosticsError for an unknown name, and where the teacher cannot teach these data or this grid.
    """
    places = places_of(start.own, start.tap)
    if name == "masks":
        return MaskRelations(start.dataset, places)
    if name.startswith("sam2:"):
        return Sam2Relations(name.removeprefix("sam2:"), start.dataset, places)
    try:
        teacher = named_teacher(name, start, SECTION, trust_code)
    except UntrustedCodeError:
        raise
    except DiagnosticsError as error:
        raise DiagnosticsError(
            f"'{name}' is no teacher of relations: give masks, sam2:FOLDER, or an encoder. As an encoder: {error}"
        ) from error
    if teacher.weight != 1:
        raise DiagnosticsError(f"Relations have no weight but 1: give --relations {name.rpartition('@')[0]}.")
    return EncoderRelations(name, teacher, places)
