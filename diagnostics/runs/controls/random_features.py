"""Untrained features: of vectors (a Gaussian kernel), and of images (random patches as filters).

Both take their scales, and what a sample is held against, from samples that are handed over; draws come from a seed.
"""

import math

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad, relu, unfold

from diagnostics.measures.decompositions import eigh

LANDMARKS = 512
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0)
"""Widths of the Gaussian kernel, as shares of the median distance between landmarks."""
# Directions in which landmarks differ by less than this share of the largest are noise.
SMALLEST = 1e-8
PATCH = 5
FILTERS = 128
PATCHES_EACH = 16
"""Patches of each image that filters are drawn from and whitened by."""
# As Coates and Ng, for pixels from 0 to 1: what steadies the contrast of flat patches, and the whitening; the threshold.
FLAT, STEADY, THRESHOLD = 10 / 255**2, 0.1, 0.5


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
    centred = kernel - kernel.mean(dim=0)
    values, axes = eigh(centred - centred.mean(dim=1, keepdim=True))
    kept = values > SMALLEST * max(1.0, float(values[-1]))
    axes, size = axes[:, kept] / values[kept].sqrt(), 1 << max(0, int(kept.sum()) - 1).bit_length()
    turn = torch.from_numpy(hadamard(size).astype(np.float64))[: axes.shape[1]] / math.sqrt(size)
    return (axes - axes.mean(dim=0)) @ turn


class PatchFeatures:
    """Random convolutional features: patches of images as filters, a threshold on both sides, means over cells.

    The encoding of Coates and Ng 2011 (ICML, "The importance of encoding versus training") with patches drawn at random:
    contrast is evened out within each patch, and patches are whitened. `images` [sample, channel, y, x] from 0 to 1 give the
    patches; `cells` is into how many parts each axis is cut, `stride` the pixels from patch to patch.
    """

    def __init__(self, images: Tensor, cells: tuple[int, int], stride: int, seed: int) -> None:
        self.cells, self.stride = cells, stride
        rng = np.random.default_rng([seed, *images.shape[2:]])
        rows = torch.cat([self._drawn(image, rng) for image in images]).double()
        centre = rows.mean(dim=0)
        variances, axes = eigh((rows - centre).T @ (rows - centre) / len(rows))
        whitening = (axes / (variances.clamp(min=0) + STEADY).sqrt()) @ axes.T
        drawn = (rows[rng.permutation(len(rows))[:FILTERS]] - centre) @ whitening
        filters = whitening @ normalize(drawn, dim=1).T
        self.filters, self.shift = filters.float(), (centre @ filters).float()

    def __call__(self, images: Tensor) -> Tensor:
        """[sample, cell, feature] from [sample, channel, y, x], cells in raster order; one image at a time, for memory."""
        return torch.stack([self._over_cells(image) for image in images])

    def _drawn(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        rows = _patches(image, self.stride)
        return rows[rng.permutation(len(rows))[:PATCHES_EACH]]

    def _over_cells(self, image: Tensor) -> Tensor:
        rows, columns = (extent // self.stride for extent in image.shape[1:])
        answers = (_patches(image, self.stride) @ self.filters - self.shift).T.reshape(-1, rows, columns)
        beyond = torch.cat([relu(answers - THRESHOLD), relu(-answers - THRESHOLD)])
        means = avg_pool2d(beyond[None], (rows // self.cells[0], columns // self.cells[1]))
        return means[0].flatten(1).T


def _patches(image: Tensor, stride: int) -> Tensor:
    """[place, value] around the places of [channel, y, x], with mean 0 and contrast evened out."""
    rows = unfold(pad(image[None], (PATCH // 2,) * 4, mode="replicate"), PATCH, stride=stride)[0].T
    rows = rows - rows.mean(dim=1, keepdim=True)
    return rows / (rows.square().mean(dim=1, keepdim=True) + FLAT).sqrt()
