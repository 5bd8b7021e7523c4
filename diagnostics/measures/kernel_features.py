"""Features whose dot products are a Gaussian kernel's: a linear readout of them is kernel ridge regression.

Scales, and the rows that others are held against (the landmarks), come from rows that are handed over; draws come from a seed.
"""

import math

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.decompositions import eigh

LANDMARKS = 512
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the Gaussian kernel, as shares of the median distance between landmarks."""
LEAST_TRAIN = 100
"""Training samples below which no kernel is fitted: one learnt from fewer says little either way."""
# Directions in which landmarks differ by less than this share of the largest are noise.
SMALLEST = 1e-8


class KernelFeatures:
    """Features of standardised rows whose distances are those of a Gaussian kernel, averaged over a sample's rows.

    Those of Nystrom (Williams and Seeger 2001, NeurIPS): kernel principal components from landmarks among `rows`
    [row, value], all of them where they are few. A linear readout is then kernel ridge regression; of the average over
    windows, with the kernel between their distributions. Centre, scale and median distance are those of the landmarks;
    `weights` [value] says how much each value counts after that.

    The components are turned by a Hadamard matrix, after which all features vary alike over the landmarks: probes
    standardise what they read, which would otherwise make as much of the least component as of the first.
    """

    def __init__(self, rows: np.ndarray, seed: int, weights: np.ndarray | float = 1.0) -> None:
        chosen = np.random.default_rng(seed).permutation(len(rows))[:LANDMARKS]
        marks = torch.from_numpy(rows[np.sort(chosen)].astype(np.float64))
        self.centre, spread = marks.mean(dim=0), marks.std(dim=0, correction=0)
        self.scale = torch.where(spread > 1e-6 * self.centre.abs(), 1 / spread, torch.zeros_like(spread))
        self.scale *= torch.as_tensor(weights)
        self.marks = (marks - self.centre) * self.scale
        apart = torch.pdist(self.marks)
        apart = apart[apart > 0]
        self.median = float(apart.median()) if len(apart) else 1.0
        squares = _squared_distances(self.marks, self.marks)
        self.components = {share: _components(self._kernel(squares, share)) for share in BANDWIDTHS}

    def _kernel(self, squares: Tensor, share: float) -> Tensor:
        return (squares * (-0.5 / (share * self.median) ** 2)).exp()

    def __call__(self, x: Tensor) -> dict[float, Tensor]:
        """Share of the median distance -> float32 [sample, 1, feature], from x [sample, row, value]."""
        squares = _squared_distances((x.double() - self.centre) * self.scale, self.marks)
        return {
            share: (self._kernel(squares, share).mean(dim=1, keepdim=True) @ components).float()
            for share, components in self.components.items()
        }


def _squared_distances(x: Tensor, marks: Tensor) -> Tensor:
    """[..., row, landmark]."""
    squares = x.square().sum(-1, keepdim=True) + marks.square().sum(-1) - 2 * x @ marks.T
    return squares.clamp_(min=0)


def _components(kernel: Tensor) -> Tensor:
    """[landmark, feature]: from kernel values to turned principal components; a constant is left out."""
    from scipy.linalg import hadamard

    centred = kernel - kernel.mean(dim=0)
    values, axes = eigh(centred - centred.mean(dim=1, keepdim=True))
    kept = values > SMALLEST * max(1.0, float(values[-1]))
    axes, size = axes[:, kept] / values[kept].sqrt(), 1 << max(0, int(kept.sum()) - 1).bit_length()
    turn = torch.from_numpy(hadamard(size).astype(np.float64))[: axes.shape[1]] / math.sqrt(size)
    return (axes - axes.mean(dim=0)) @ turn
