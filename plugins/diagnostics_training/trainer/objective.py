"""What the trainer asks of an objective."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

Batch = Mapping[str, Tensor]


class Objective(nn.Module):
    """A loss with everything that it trains; subclasses implement `forward`, and whatever else they need of these.

    What is not to be trained (a teacher) has `requires_grad` False: the trainer optimises all other parameters, and saves
    the whole `state_dict`.

    pairs, moves, noise: which views of a sample it is given: two (`x` and `y`) rather than one; windows and crops drawn at
        random; noise on a series.
    compares_samples: whether the loss compares samples of a batch with each other, so that it is no mean of what the loss is
        of parts of the batch.
    phases: whether `before_step` decides which parameters learn, so that some have no gradient in some steps.
    """

    pairs: bool = False
    moves: bool = True
    noise: bool = True
    compares_samples: bool = False
    phases: bool = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, a scalar that is a mean over the batch's samples, and any further scalars to log."""
        raise NotImplementedError

    def output(self, batch: Batch) -> Tensor | None:
        """What the encoder would hand to users for this batch, pooled: float [sample, feature]; watched for collapse.

        Called without gradients, in eval mode, and by the first process only (so it must not wait for others); None where there
        is nothing to watch.
        """
        return None

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Scalars after so many steps, which are logged as `evaluation/NAME`; how often is a setting.

        Called without gradients, in eval mode, and by the first process only (so it must not wait for others). What it draws from
        torch's generators changes nothing that is drawn later.
        """
        return {}

    def blocks(self) -> Sequence[nn.Module]:
        """The modules of which each one's memory can be saved by computing it once more in the backward pass."""
        return ()

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Any]:
        """What is drawn for each of `count` samples (masks): arrays [sample, ...], which join the batch.

        Drawn for the batch over all processes and then dealt out, so that how many there are changes nothing.
        """
        return {}

    def before_step(self, step: int) -> None:
        """Before each step, `step` counted from 0: where it decides what learns. A parameter without a gradient stays as it is."""

    def after_step(self, done: int, total: int) -> None:
        """After each optimiser step, `done` counted from 1: where a teacher follows."""
