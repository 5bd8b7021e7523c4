"""Nearest neighbours of every sample, in blocks, without the cancellation of |a|^2 + |b|^2 - 2 a.b."""

from __future__ import annotations

import torch
from torch import Tensor

from diagnostics.measures.arrays import centre, rescaled, rounding

BLOCK_ELEMENTS = 2**23
"""Largest array held for a block, in numbers: 64 MiB."""
SPARE = 4
"""Candidates beyond those asked for."""
TOLERANCE = 1e-9
"""Relative error of a squared distance from which it is taken from differences."""


def distinct(x: Tensor) -> Tensor:
    """Places of the first of each set of rows of [sample, feature] that are equal but for rounding, in order."""
    x = rescaled(x)
    # Along a direction that knows nothing of the data, what is nearly equal lies side by side, and little else does.
    draws = torch.Generator(device="cpu").manual_seed(0)
    direction = torch.randn(x.shape[1], generator=draws, dtype=x.dtype, device="cpu").to(x.device)
    order = (x @ direction).argsort(stable=True)
    rows = x[order]
    new = torch.ones(len(x), dtype=torch.bool, device=x.device)
    new[1:] = rows.diff(dim=0).norm(dim=1) > rounding(x) * rows[1:].norm(dim=1)
    of_row = new.cumsum(0) - 1
    first = torch.full((int(new.sum()),), len(x), device=x.device)
    return first.scatter_reduce(0, of_row, order, "amin").sort().values


def nearest_distances(x: Tensor, k: int) -> Tensor:
    """Euclidean distances from each row of [sample, feature] to its k nearest others, [sample, k], nearest first.

    Squared distances come from products of a block of rows with all. Where points are so close beside their norm that
    this loses digits, the distances of the nearest and a few more are taken from differences; where the loss could have
    hidden a neighbour from these, those of all rows are. Needs more than k rows; memory is a block's, never n x n.
    """
    n, d = x.shape
    # Products lose least about the mean; differences are exact only where nothing was rounded before.
    about_mean = centre(x)
    squares = about_mean.square().sum(dim=1)
    wanted = min(k + SPARE, n - 1)
    # Bound on the rounding of |a|^2 + |b|^2 - 2 a.b for norms up to the largest.
    noise = 4 * (d + 4) * torch.finfo(x.dtype).eps * squares.max()
    distances = torch.empty((n, k), dtype=x.dtype, device=x.device)
    unsure: list[Tensor] = []
    step = max(1, BLOCK_ELEMENTS // max(n, wanted * d))
    for start in range(0, n, step):
        block = about_mean[start : start + step]
        own = torch.arange(len(block), device=x.device)
        gaps = torch.addmm(squares, block, about_mean.T, alpha=-2).add_(squares[start : start + step, None])
        gaps[own, start + own] = torch.inf
        values, places = gaps.topk(wanted, largest=False)
        close = (noise > TOLERANCE * values[:, 0]).nonzero()[:, 0]
        distances[start : start + step] = values[:, :k].clamp(min=0).sqrt()
        if len(close):
            exact = (x[places[close]] - x[start + close, None]).square().sum(dim=2).sort(dim=1).values[:, :k]
            distances[start + close] = exact.sqrt()
            if wanted < n - 1:
                unsure.append(start + close[exact[:, -1] > values[close, -1] - noise])
    return _again(x, k, distances, torch.cat(unsure)) if unsure else distances


def _again(x: Tensor, k: int, distances: Tensor, rows: Tensor) -> Tensor:
    """`distances` with these rows taken from differences alone."""
    step = max(1, BLOCK_ELEMENTS // len(x))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        gaps = torch.cdist(x[some], x, compute_mode="donot_use_mm_for_euclid_dist")
        gaps[torch.arange(len(some), device=x.device), some] = torch.inf
        distances[some] = gaps.topk(k, largest=False).values
    return distances
