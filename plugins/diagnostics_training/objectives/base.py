"""What an objective of this plugin declares beside its loss: the head of its encoder, and what it needs of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from diagnostics.plugin import Target
from diagnostics_training.models.backbone import Sizes
from diagnostics_training.models.heads import Head, Model
from diagnostics_training.trainer.objective import Batch, Objective


@dataclass(frozen=True)
class Answers:
    """What the dataset knows of each sample, for an objective that learns it.

    arrays: [sample, ...] each; they join the batch under their names.
    classes: how many each label has.
    outputs: numbers that a readout of all of them gives.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    classes: tuple[int, ...] = ()
    outputs: int = 1


class EncoderObjective(Objective):
    """An objective that trains a `Model`; a subclass implements `forward`, and overrides what differs from below.

    trained: whether there is anything to train; otherwise only `head` is used.
    causal: whether a patch attends only to itself and to earlier ones.
    options: fields of `Sizes` that it reads beside the sizes of the trunk; they stand in the encoder's name.
    training_options: options of the command that change the training and not the encoder.
    """

    trained: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()
    training_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Model, sizes: Sizes, regulariser: str = "none", classes: tuple[int, ...] = ()) -> None:
        """For a model of these sizes; `classes` as of `Answers`."""
        super().__init__()
        self.model, self.sizes, self.regulariser, self.classes = model, sizes, regulariser, classes

    @classmethod
    def head(cls, sizes: Sizes) -> Head | None:
        """The head of a model of these sizes, with weights from torch's generator."""
        return None

    @classmethod
    def answers(cls, targets: Mapping[str, Target], rows: np.ndarray, dataset: str) -> Answers:
        """What it learns of the samples `rows`; raises where the dataset does not have it."""
        return Answers()

    def blocks(self) -> Sequence[nn.Module]:
        return [part for part in self.modules() if isinstance(part, Block)]

    def output(self, batch: Batch) -> Tensor:
        return self.model.backbone(batch["x"]).mean(1)
