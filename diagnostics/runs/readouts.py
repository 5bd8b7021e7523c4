"""What was fitted, as functions of features that can be pickled.

Each gives the numbers [..., column] or the class codes [...] that it reads out of x [sample, feature]; of x [sample, token,
feature] where a probe reads tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from diagnostics.datasets.grid_targets import resample
from diagnostics.encoders.taps import Grid
from diagnostics.measures.arrays import ShortRepr
from diagnostics.measures.probes.cross_attention import Attentive
from diagnostics.measures.probes.nearest import knn
from diagnostics.measures.probes.softmax import LogisticFits


class Readout(Protocol):
    """A function of features, float64."""

    def __call__(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, repr=False)
class Linear(ShortRepr):
    """x @ `weights` [feature, column] + `bias` [column], the standardisation multiplied in."""

    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weights + self.bias


@dataclass(frozen=True, repr=False)
class LargestScore(ShortRepr):
    """The code of the class whose score is largest."""

    scores: Linear

    @classmethod
    def of(cls, fits: LogisticFits) -> LargestScore:
        """Of the fit of one tap at one penalty."""
        weights, mean = fits.weights[0, 0].cpu().numpy().T, fits.mean[0].cpu().numpy()
        return cls(Linear(weights, fits.bias[0, 0].cpu().numpy() - mean @ weights))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.scores(x).argmax(axis=-1)


@dataclass(frozen=True, repr=False)
class Above(ShortRepr):
    """1 where x @ `weights` [feature] is above `threshold`, else 0."""

    weights: np.ndarray
    threshold: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x @ self.weights > self.threshold).astype(np.int64)


@dataclass(frozen=True, repr=False)
class Neighbours(ShortRepr):
    """The class of the `k` rows of `bank` [row, feature] that are nearest; see `diagnostics.measures.probes.knn`."""

    bank: np.ndarray
    codes: np.ndarray
    k: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return knn(self.bank, self.codes, x, self.k)


@dataclass(frozen=True)
class EachToken:
    """A readout of single tokens: of those of a tap's `grid`, once they are averaged over the cells of the grid `on`."""

    readout: Readout = field(repr=False)
    grid: Grid
    on: Grid

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.grid.shape != self.on.shape:
            # As the probe read them.
            x = resample(x.astype(np.float32), self.grid.shape, self.on.shape).astype(np.float64)
        return self.readout(x)


@dataclass(frozen=True, repr=False)
class Attention(ShortRepr):
    """One output a sample from all of its tokens; the code of the largest where outputs are scores of `classes`."""

    fitted: Attentive
    classes: bool

    def __call__(self, x: np.ndarray) -> np.ndarray:
        outputs = self.fitted.outputs(torch.from_numpy(x).float()[None])[0, 0].double().numpy()
        return outputs.argmax(axis=-1) if self.classes else outputs
