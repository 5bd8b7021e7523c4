"""What a teacher of relations is.

Shape suffixes: B sample, T token (the student's grid tokens, in raster order), M whatever a teacher tells of a token.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import Dataset, DiagnosticsError, Grid
from diagnostics.plugin import on_grid as averaged_over_cells
from diagnostics_training.alignment.augmentation import Places, View, places_of, sampled
from diagnostics_training.alignment.objective import Teacher, on_grid, put_section, taught
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch, silent
from diagnostics_training.trainer.objective import Batch

SECTION = "relations"
"""With what the names begin under which a batch holds what a teacher of relations reads."""


class Relations(ABC):
    """A frozen teacher of relations: of each of the student's grid tokens some numbers, of which only cosines count.

    `inputs` is called where batches are made, on the CPU and perhaps in another process, and `relations` where the loss is
    computed. A token whose numbers are all 0 is one of which nothing is known.
    """

    name: str
    """As it was asked for."""
    about: str
    """What it is, for the lineage."""

    @abstractmethod
    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Makes it ready on the process's device: computes what is computed once, for these samples of the dataset."""

    @abstractmethod
    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        """What a batch holds of one sample, under names that begin with `relations`: of the sample's row in the dataset, its
        augmented image, and the view that this is of the sample."""

    def relations(self, batch: Batch) -> Tensor:
        """Of a batch, float [B, T, M], without a gradient; what `inputs` gave, unless a teacher computes more."""
        return batch[SECTION]


# Exact masks of the data as a teacher: in each cell, the share of each object and of the background.


class MaskRelations(Relations):
    """Shares [T, M] of what the maps of a dataset show: objects of a target of kind `masks`, or else classes of a `token_label`.

    M is the largest number of objects (or classes) of any sample, background included. A cell of which less than half is known
    is unknown. Raises DiagnosticsError for a dataset that has neither.
    """

    def __init__(self, dataset: Dataset, places: Places) -> None:
        self.name, self.places = "masks", places
        kinds = {target.kind: name for name, target in reversed(dataset.targets.items())}
        target = kinds.get("masks") or kinds.get("token_label")
        if target is None:
            raise DiagnosticsError(
                f"{dataset.name} has no masks: give data with a target of kind masks or token_label (shapes, segmentation:FOLDER), "
                "or another teacher to --relations."
            )
        self.target, self.maps = target, dataset.targets[target].values
        self.about = f"exact masks, target {target} of {dataset.name}"
        self.most = max(len(present(np.asarray(labels))) for labels in self.maps)

    def prepare(self, rows: Sequence[int], world: World, watch: Watch = silent) -> None:
        """Nothing: shares are counted as they are asked for."""

    def inputs(self, row: int, image: np.ndarray, view: View) -> dict[str, Tensor]:
        return {SECTION: torch.from_numpy(self.shares(np.asarray(self.maps[row]), view)).float()}

    def shares(self, labels: np.ndarray, view: View) -> np.ndarray:
        """Float64 [T, M] of a map int [y, x] (-1 unknown), in a view of it."""
        extent = labels.shape
        rows, columns = view.part(self.places.covers(extent), extent)
        mirrored = columns[0] > columns[1]
        known = present(labels)
        one_hot = np.where(labels < 0, np.nan, labels == known[:, None, None])
        shares = averaged_over_cells(one_hot, (rows, (min(columns), max(columns))), self.places.shape)
        cells = shares.reshape(-1, *self.places.shape)
        cells = np.nan_to_num(cells[:, :, ::-1] if mirrored else cells).reshape(len(known), -1).T
        return np.pad(cells, ((0, 0), (0, self.most - len(known))))


def present(labels: np.ndarray) -> np.ndarray:
    """Which numbers a map holds, in order, without the unknown."""
    return np.flatnonzero(np.bincount(labels[labels >= 0]))


# A teacher of relations by its name: `masks`, `sam2:FOLDER`, or an encoder as `NAME` or `NAME:TAP`.

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
