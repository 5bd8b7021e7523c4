"""What a teacher of relations is.

Shape suffixes: B sample, T token (the student's grid tokens, in raster order), M whatever a teacher tells of a token.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from diagnostics_training.alignment.augmentation import View
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
