"""Helpers of token measures: grids, unit tokens, and their cosines in bounded memory.

Shape suffixes below: S sample, T grid token in raster order, F feature, R some of the tokens.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor, gram, rounding

MOST_SAMPLES = 256
"""Samples read of each tap: more would narrow no interval that a reader acts on."""

# Float64 numbers in a matrix of cosines at most: 32 MiB.
_MOST = 2**22
# And in a block of samples, where there is more than one in it: what stays in the cache of a core.
_NEAR = 2**18

# Of `product_type`, from CPU times at grids of one and two axes with 48 to 1,536 features, on one core.
_PER_PAIR = 100
_PER_STEP = 24.0
_SINGLE_FEATURES, _SINGLE_TOKENS = 512, 256
"""From which on products of tokens that come in single precision are taken in it, at half the cost: with few, rounding
averages out less."""


def extents(grid: Any) -> tuple[int, ...]:
    """The extents of a grid from any sequence of whole numbers above 0; raises DiagnosticsError for everything else."""
    try:
        shape = tuple(operator.index(extent) for extent in grid)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1:
        raise DiagnosticsError(f"grid is {grid!r}: give the extents of the grid, as (14, 14).", code="bad-value")
    return shape


def plane(grid: Any, of: str) -> tuple[int, int]:
    """The extents of a grid of y and x; `of` says of what ("an image")."""
    cells = extents(grid)
    if len(cells) != 2:
        raise DiagnosticsError(f"grid is {cells}: give the cells of {of} along y and x, as (14, 14).", code="bad-value")
    return cells


def lengths(cell: Any, axes: int) -> tuple[float, ...]:
    """The length of a cell along each of `axes`, from one number for all of them or one for each."""
    given = list(cell) if isinstance(cell, Sequence) and not isinstance(cell, str) else cell
    values = np.asarray(np.nan) if isinstance(cell, str) else np.asarray(as_tensor(given).cpu())
    sizes = tuple(np.full(axes, values).tolist()) if values.ndim == 0 else tuple(values.ravel().tolist())
    if len(sizes) != axes or values.ndim > 1 or not all(math.isfinite(x) and x > 0 for x in sizes):
        raise DiagnosticsError(
            f"A grid of {axes} axes has no cells of {cell}: give a length above 0, or one per axis.", code="bad-value"
        )
    return sizes


def places(grid: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """int [token, axis], where each token of a grid lies."""
    axes = [torch.arange(extent, device=device) for extent in grid]
    return torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], dim=1)


def rook_pairs(field: Tensor, grid: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Every pair of neighbours along each axis once, from [sample, token(, feature)].

    They are two views [sample, *, (feature)].
    """
    on_grid = field.reshape(len(field), *grid, *field.shape[2:])
    for axis, extent in enumerate(grid, start=1):
        if extent > 1:
            yield on_grid.narrow(axis, 0, extent - 1), on_grid.narrow(axis, 1, extent - 1)


def sample_blocks(x: Tensor, pairs: bool = True) -> tuple[Tensor, ...]:
    """[sample, token, feature] in blocks of samples: many make no array that a step then waits for.

    `pairs`: a matrix of all pairs of tokens is such an array.
    """
    return x.split(max(1, _NEAR // (x.shape[1] * max(x.shape[1:] if pairs else x.shape[2:]))))


def directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of length 1 [S, T, F], and which tokens have a direction, bool [S, T]; the others become 0."""
    return unit_tokens(by_largest(x), False)


def by_largest(x: Tensor) -> Tensor:
    """Tokens [S, T, F] as shares of their sample's largest value, so that no square over- or underflows."""
    return x / _largest(x)


def unit_tokens(x: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """`directions` of tokens that are `by_largest`.

    `centred` removes each sample's mean token first. What is left of a token then is rounding error where it is shorter
    than 1e-13 of the sample's longest.
    """
    norm = torch.linalg.vector_norm(x, dim=2)
    least = torch.zeros_like(norm[:, :1])
    if centred:
        least = 1e-13 * norm.amax(dim=1, keepdim=True)
        x = x - x.mean(dim=1, keepdim=True)
        norm = torch.linalg.vector_norm(x, dim=2)
    directed = norm > least
    return x * torch.where(directed, 1 / norm, 0.0)[:, :, None], directed


def deviations(x: Tensor) -> Tensor:
    """Deviations of [S, T, F] from each sample's mean token, up to a factor a sample.

    0 where tokens are equal but for rounding.
    """
    least = rounding(x) * _largest(x)
    x = x - x[:, :1]
    largest = _largest(x)
    x = x / torch.where(largest > least, largest, torch.inf)
    return x - x.mean(dim=1, keepdim=True)


def _largest(x: Tensor) -> Tensor:
    """Largest absolute value of each sample [S, 1, 1]; 1 where all are 0."""
    largest = torch.maximum(x.amax(dim=(1, 2), keepdim=True), -x.amin(dim=(1, 2), keepdim=True))
    return torch.where(largest > 0, largest, 1.0)


def cosines(unit: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows, cosines [S, R, T] of these tokens with all) of unit tokens [S, T, F], bounded in memory."""
    samples, tokens, _ = unit.shape
    if tokens * tokens <= _MOST:
        # Symmetric, and `gram` uses that where it pays.
        products = torch.stack([gram(sample) for sample in unit]) if unit.device.type == "cpu" else unit @ unit.mT
        yield slice(0, tokens), products
        return
    step = max(1, _MOST // (samples * tokens))
    for start in range(0, tokens, step):
        rows = slice(start, min(start + step, tokens))
        yield rows, unit[:, rows] @ unit.mT


def lag_sums(field: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sums of the inner products of [S, T, F] over all ordered pairs of tokens at each lag, [S, lag].

    Beside them the lags' Manhattan distances, int [lag]. This is the autocorrelation, by Fourier transform in O(F T log
    T) where pairs take O(F T^2).
    """
    padded = grid_with_padding(grid)
    step = max(1, _NEAR // (len(field) * math.prod(padded)))
    power: Tensor | float = 0.0
    for part in field.split(step, dim=2):
        # Axis by axis, so that no transform is taken of rows that padding alone fills.
        wave = torch.fft.rfft(part.reshape(len(part), *grid, part.shape[2]), n=padded[-1], dim=len(grid))
        for axis in range(len(grid) - 1, 0, -1):
            wave = torch.fft.fft(wave, n=padded[axis - 1], dim=axis)
        power = power + (wave.real.square() + wave.imag.square()).sum(dim=-1)
    sums = torch.fft.irfftn(power, s=padded, dim=tuple(range(1, len(grid) + 1))).flatten(1)
    return sums, _lag_distances(grid, field.device)


def product_type(grid: tuple[int, ...], features: int, short: bool) -> torch.dtype | None:
    """In which precision products of all pairs of tokens are taken; None where transforms of the padded grid cost less.

    `short`: whether the tokens come in single precision.
    """
    tokens, places = math.prod(grid), math.prod(grid_with_padding(grid))
    halved = short and features >= _SINGLE_FEATURES and tokens >= _SINGLE_TOKENS
    of_pairs = tokens**2 * ((features / 2 if halved else features) + _PER_PAIR)
    if of_pairs > _PER_STEP * places * math.log2(places) * features:
        return None
    return torch.float32 if halved else torch.float64


def grid_with_padding(grid: tuple[int, ...]) -> tuple[int, ...]:
    """At least twice the extents, so that the grid meets itself at no lag from both sides.

    They have no prime factor above 7, which would make transforms up to four times as slow.
    """
    return tuple(2 * next(n for n in itertools.count(extent) if pow(210, 64, n) == 0) for extent in grid)


@functools.lru_cache(maxsize=2)
def _lag_distances(grid: tuple[int, ...], device: torch.device) -> Tensor:
    """int [lag] of the padded grid; lags that no two tokens have lie one beyond the farthest two."""
    beyond = sum(grid) - len(grid) + 1
    distance = torch.zeros(1, dtype=torch.int64, device=device)
    for extent, padded in zip(grid, grid_with_padding(grid), strict=True):
        lag = torch.arange(padded, device=device)
        lag = torch.minimum(lag, padded - lag)
        distance = (distance[:, None] + torch.where(lag < extent, lag, beyond)).flatten()
    return distance.clamp(max=beyond)


def lacks_axes(grid: Grid) -> str:
    """The sentence on a grid with too many axes for measures of tokens; "" where it has not."""
    return "a grid of more than three axes" if len(grid.shape) > 3 else ""


def lacks_places(grid: Grid) -> str:
    """The sentence on a grid without two places to compare, or with too many axes; "" where it has neither."""
    return "one token" if grid.tokens < 2 else lacks_axes(grid)


def readable_taps(
    taps: Sequence[Tap], lacks: Callable[[Grid], str], reasons: list[tuple[str, str]]
) -> Iterator[tuple[int, Tap]]:
    """The taps with their numbers, but for those whose grid lacks something, which is added to the reasons."""
    for t, tap in enumerate(taps):
        if lacking := lacks(tap.grid):
            reasons.append((tap.name, lacking))
        else:
            yield t, tap


def scalar(values: Tensor, single: bool) -> float | np.ndarray:
    """[sample] as numpy, or the float of the only sample where there was no sample axis."""
    return float(values[0]) if single else values.cpu().numpy()
