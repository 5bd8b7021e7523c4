"""Untrained features of images: random patches as filters, drawn from images that are handed over."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad, relu, unfold

from diagnostics.measures.decompositions import eigh

PATCH = 5
FILTERS = 128
PATCHES_EACH = 16
"""Patches of each image that filters are drawn from and whitened by."""
# As Coates and Ng, for pixels from 0 to 1: what steadies the contrast of flat patches, and the whitening; the threshold.
FLAT, STEADY, THRESHOLD = 10 / 255**2, 0.1, 0.5


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
