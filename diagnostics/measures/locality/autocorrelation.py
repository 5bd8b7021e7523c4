"""Moran's I: whether neighbouring tokens of the grid deviate from the mean in the same way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.encoders.taps import Grid
from diagnostics.measures.arrays import as_tensor, token_samples
from diagnostics.measures.known_answers import Case, normal
from diagnostics.measures.locality.blocks import SampleMean, deviations, extents, rook_pairs, sample_blocks, scalar


def morans_i(tokens: Any, grid: Sequence[int]) -> float | np.ndarray:
    """Moran's I with rook neighbours (Moran 1950; Cliff and Ord 1981), on grids of one to three axes.

    I = (T / number of pairs) * sum of z_i z_j over neighbouring pairs / sum of z_i^2, where z is what deviates from the
    sample's mean. Of many features the mean of their I, each weighted by its variance, which is the ratio of the sums
    over features; so it does not change when features are rotated.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order; [token] for one value each.
    grid: extents of the axes.

    Returns [sample], or a float where there was no sample axis. About -1 / (T - 1) where places mean nothing; NaN where
    all tokens of a sample are equal, or the grid has one token.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import morans_i
        >>> y, x = np.indices((16, 16)).reshape(2, 256)
        >>> round(morans_i((y + x) % 2, (16, 16)), 4)  # a checkerboard
        -1.0
        >>> round(morans_i(x, (16, 16)), 4)  # values that rise along each row
        0.9333
    """
    grid = extents(grid)
    x = as_tensor(tokens)
    x, single = token_samples(x[:, None] if x.ndim == 1 else x, "The array of tokens", grid)
    return scalar(torch.cat([_morans_i(block, grid) for block in sample_blocks(x, pairs=False)]), single)


def null_morans_i(grid: Sequence[int]) -> float:
    """-1 / (T - 1), the mean of Moran's I over all orders of the tokens; NaN for one token.

    Examples:
        >>> from diagnostics.measures.locality import null_morans_i
        >>> null_morans_i((3, 7))
        -0.05
    """
    tokens = int(np.prod(extents(grid)))
    return -1 / (tokens - 1) if tokens > 1 else float("nan")


def _morans_i(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    z = deviations(x)
    together = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    pairs = 0
    for cell, neighbour in rook_pairs(z, grid):
        together += (cell * neighbour).flatten(1).sum(dim=1)
        pairs += cell[0, ..., 0].numel()
    total = z.square().sum(dim=(1, 2))
    nothing = torch.full_like(total, float("nan"))
    return torch.where(total > 0, together / total * (x.shape[1] / pairs), nothing) if pairs else nothing


def _of_places(values: np.ndarray) -> float:
    """Moran's I of values [y, x]."""
    return float(morans_i(values.ravel(), values.shape))


class MoransI(SampleMean):
    name = "morans_i"
    answers = "Do neighbouring tokens deviate from their sample's mean in the same way?"
    source = "Moran 1950 (Biometrika 37); Cliff and Ord 1981"
    invariant_to = ("rotation", "scale", "shift")
    functional = "Moran's I with rook neighbours, mean over features weighted by their variance, mean over samples"
    centring = "each sample's mean token removed"
    line = "null"
    without = "have equal tokens everywhere"
    of_samples = staticmethod(morans_i)
    of_no_order = staticmethod(null_morans_i)
    known_answers = (
        Case("checkerboard", -1, "Moran 1950", lambda: _of_places((-1.0) ** np.indices((16, 16)).sum(axis=0))),
        Case("column ramp, 16 x 16", 0.933333, "Moran 1950", lambda: _of_places(np.indices((16, 16))[1].astype(np.float64))),
        Case("noise, -1 / (T - 1) (mean of 2000 features)", -0.003922, "Moran 1950", lambda: float(morans_i(normal(256, 2000, seed=0), (16, 16))), 4e-3),
    )  # fmt: skip

    def lacks(self, grid: Grid) -> str:
        return "one token, no neighbours" if grid.tokens < 2 else ""
