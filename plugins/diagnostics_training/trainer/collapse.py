"""Whether an output still tells samples apart: its effective rank and the spread of its features.

Effective rank: the exponential of the entropy of the singular values, taken as shares of their sum (Roy and Vetterli, The
effective rank, EUSIPCO 2007; of embeddings: RankMe, arXiv 2210.02885), here of the outputs without their mean, so that a
constant counts for nothing. Spread: the root mean square over features of the standard deviation over samples, as a share
of the outputs' own root mean square.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.plugin import svdvals

LEAST_SPREAD = 0.01
LEAST_RANK = 1.5
FEWEST = 4
"""Samples from which ranks are told: without their mean, two have a rank of 1 and three of 2 at most, whatever the output."""


@dataclass(frozen=True)
class Look:
    """What was seen of an output [sample, feature] at a step."""

    step: int
    rank: float
    spread: float

    @property
    def collapsed(self) -> bool:
        """All samples have one output, or differ along one line only."""
        return not (self.spread >= LEAST_SPREAD and self.rank >= LEAST_RANK)

    def __str__(self) -> str:
        return f"effective rank {self.rank:.2f}, spread {self.spread:.2g} at step {self.step}"


def look(step: int, output_BF: Tensor) -> Look:
    """The two figures of an output float [sample, feature] of at least two samples; zeros where it is not finite."""
    output = output_BF.detach().double()
    if not bool(output.isfinite().all()):
        return Look(step, 0.0, 0.0)
    size = float(output.square().mean().sqrt())
    centred = output - output.mean(0)
    spread = float(centred.square().mean().sqrt()) / size if size > 0 else 0.0
    return Look(step, effective_rank(centred), spread)


def effective_rank(centred_BF: Tensor) -> float:
    """exp(entropy) of the singular values' shares; 0 of a matrix of zeros."""
    values = svdvals(centred_BF.cpu())
    total = values.sum()
    if not float(total) > 0:
        return 0.0
    shares = values / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
