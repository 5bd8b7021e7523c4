"""Language alignment's batches: samples, and of each a question with its answer."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from diagnostics_training.alignment.feed import Feed
from diagnostics_training.alignment.start import Start
from diagnostics_training.language.pairs import Pairs, laid_out


class QuestionFeed(Feed):
    """`feed(step, rank, world)`: a process's part of a step's batch; which question of a sample, and in which of its wordings, is a
    function of the step and of where the sample stands in the batch."""

    def __init__(self, start: Start, pairs: Pairs, batch: int) -> None:
        super().__init__(start.dataset, start.rows, start.own, (), batch, 0.0, start.seed)
        self.pairs = pairs

    def __call__(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        rows, own, first = self.order.part(step, rank, world)
        places: Sequence[int] = range(first + own.start, first + own.stop)
        rngs = [np.random.default_rng([self.seed, 2, step, place]) for place in places]
        drawn = [self.pairs.drawn(int(row), rng) for row, rng in zip(rows, rngs, strict=True)]
        return super().__call__(step, rank, world) | laid_out(drawn)
