"""Exact masks of the data as a teacher: in each cell, the share of each object and of the background."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import Dataset, DiagnosticsError, on_grid
from diagnostics_training.alignment.augmentation import Places, View
from diagnostics_training.alignment.relations.base import SECTION, Relations
from diagnostics_training.trainer.distributed import World
from diagnostics_training.trainer.monitor import Watch, silent


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
        shares = on_grid(one_hot, (rows, (min(columns), max(columns))), self.places.shape)
        cells = shares.reshape(-1, *self.places.shape)
        cells = np.nan_to_num(cells[:, :, ::-1] if mirrored else cells).reshape(len(known), -1).T
        return np.pad(cells, ((0, 0), (0, self.most - len(known))))


def present(labels: np.ndarray) -> np.ndarray:
    """Which numbers a map holds, in order, without the unknown."""
    return np.flatnonzero(np.bincount(labels[labels >= 0]))
