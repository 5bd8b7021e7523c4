"""Whether the tokens most similar to a token are its neighbours on the grid."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.encoders.taps import Grid
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import token_samples
from diagnostics.measures.known_answers import Case
from diagnostics.measures.locality.blocks import SampleMean, cosines, directions, extents, places, sample_blocks, scalar

NEIGHBOURS = 5
RADIUS = 1

# Cosines this close are equal up to rounding.
_TIE = 1e-12


def neighbour_consistency(
    tokens: Any, grid: Sequence[int], *, k: int = NEIGHBOURS, radius: int = RADIUS
) -> float | np.ndarray:
    """Share of each token's k most similar tokens that lie near it on the grid, averaged over the tokens of a sample.

    Similar by cosine, in the same sample, without the token itself; near where no coordinate differs by more than
    `radius` (Chebyshev distance: with radius 1 up to eight neighbours in an image). Of tokens that tie for the last of
    the k places each counts in part, as it would on average if the tie were broken at random: equal tokens give
    chance, `neighbour_chance`.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], grid tokens only, in raster order.
    grid: extents of one, two or three axes.

    A token of length zero has no direction and is left out. Returns [sample], or a float where there was no sample axis;
    NaN where fewer than k + 1 tokens have a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.locality import neighbour_consistency
        >>> angle = np.arange(8) / 8  # the direction turns from token to token
        >>> tokens = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        >>> neighbour_consistency(tokens, (8,), k=1)
        1.0
        >>> round(neighbour_consistency(np.ones((8, 2)), (8,), k=1), 4)  # chance: 14 / 56
        0.25
    """
    grid = extents(grid)
    x, single = token_samples(tokens, "The array of tokens", grid)
    if not (1 <= k < x.shape[1] and radius >= 1):
        raise DiagnosticsError(
            f"Tokens of shape {tuple(x.shape[-2:])} have no {k} others within a radius of {radius}: give k from 1 to "
            "the number of tokens less one, and a radius of at least 1."
        )
    return scalar(torch.cat([_consistency(block, grid, k, radius) for block in sample_blocks(x)]), single)


def neighbour_chance(grid: Sequence[int], radius: int = RADIUS) -> float:
    """Mean over the tokens of a grid of (tokens within the radius) / (T - 1): the consistency where places mean nothing.

    Tokens at the border have fewer neighbours, so it lies below that of a token inside. NaN for one token.

    Examples:
        >>> from diagnostics.measures.locality import neighbour_chance
        >>> round(neighbour_chance((3,)), 4)  # (1/2 + 2/2 + 1/2) / 3
        0.6667
    """
    grid = extents(grid)
    tokens = int(np.prod(grid))
    if tokens < 2:
        return float("nan")
    within = 1.0
    for extent in grid:
        at = np.arange(extent)
        within *= float((np.minimum(at + radius, extent - 1) - np.maximum(at - radius, 0) + 1).mean())
    return (within - 1) / (tokens - 1)


def _consistency(x: Tensor, grid: tuple[int, ...], k: int, radius: int) -> Tensor:
    unit, directed = directions(x)
    at = places(grid, x.device)
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for rows, cosine in cosines(unit):
        near = (at[rows, None] - at).abs().amax(dim=2) <= radius
        itself = torch.arange(len(at), device=x.device)[rows, None] == torch.arange(len(at), device=x.device)
        cosine = cosine.masked_fill(itself | ~directed[:, None], -torch.inf)
        last = cosine.topk(k, dim=2, sorted=True).values[:, :, -1:]
        above, tied = cosine > last + _TIE, (cosine - last).abs() <= _TIE
        # A quotient of counts would be float32.
        part = (k - above.sum(dim=2)).to(x.dtype) / tied.sum(dim=2)
        share = (above & near).sum(dim=2) + part * (tied & near).sum(dim=2)
        total += torch.where(directed[:, rows], share / k, 0.0).sum(dim=1)
    known = directed.sum(dim=1)
    return torch.where(known > k, total / known, float("nan"))


def _on_a_line() -> np.ndarray:
    """16 directions [token, feature], each a step further."""
    angle = np.arange(16) / 16
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class NeighbourConsistency(SampleMean):
    name = "neighbour_consistency"
    answers = "Are the most similar tokens of a token its neighbours on the grid?"
    source = "share of cosine nearest neighbours within a radius on the grid; chance by counting"
    invariant_to = ("rotation", "each token's own scale")
    functional = (
        f"share of each token's {NEIGHBOURS} nearest tokens of its sample (cosine) within Chebyshev distance {RADIUS}, ties "
        "in parts"
    )
    centring = "none"
    line = "chance"
    without = f"have fewer than {NEIGHBOURS + 1} tokens with a direction"
    of_samples = staticmethod(neighbour_consistency)
    of_no_order = staticmethod(neighbour_chance)
    known_answers = (
        Case("equal tokens minus chance", 0, "share of tokens within the radius", lambda: float(neighbour_consistency(np.ones((64, 3)), (8, 8))) - neighbour_chance((8, 8))),
        Case("points on a line, both neighbours, but for the ends", (2 * 0.5 + 14) / 16, "counted", lambda: float(neighbour_consistency(_on_a_line(), (16,), k=2))),
    )  # fmt: skip

    def lacks(self, grid: Grid) -> str:
        # With no more than k others, all are among the nearest, whatever they hold.
        return f"{grid.tokens} tokens, fewer than {NEIGHBOURS + 2}" if grid.tokens < NEIGHBOURS + 2 else ""
