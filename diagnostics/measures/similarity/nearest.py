"""Similarity by nearest neighbours: which samples lie nearest, and how near, in either representation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import centre, pair
from diagnostics.measures.similarity.base import Similarity

K = 10
"""Neighbours of the measures of a run."""
# Elements of the block of cosines that is held at a time.
BLOCK = 2**23
# A cosine of this size is rounding error, and so is HSIC_1 of a kernel with itself beside the kernel's squares.
_NOTHING = 1e-12
# Bits of a key that a float64 holds exactly.
_BITS = 52


class Neighbours(NamedTuple):
    """The k nearest samples of each: `nearest` int64 and `cosine` float64 [sample, k], each row by ascending index."""

    nearest: Tensor
    cosine: Tensor


def mutual_knn(x: Any, y: Any, *, k: int = K) -> float:
    """Mutual k-nearest-neighbour alignment (Huh et al. 2024, 2405.07987, appendix A): the mean share of a sample's k
    nearest neighbours in x that are among its k nearest in y.

    Neighbours are those of largest cosine, as in the paper, which scales every row of features to unit length and does
    not centre them; a sample is not its own neighbour. Between equally near ones the earlier sample comes first. From
    k / (n - 1) (unrelated) to 1. Samples that all point one way have no neighbours: NaN.

    x, y: [sample, feature], rows aligned. Never holds n x n. Raises DiagnosticsError for k below 1 or above n - 1,
    unequal numbers of samples and values that are not finite.
    """
    first, second = _both(x, y, k, 1)
    if not (_spread(first) and _spread(second)):
        return float("nan")
    return _shared(neighbours(first, k), neighbours(second, k))


def cknna(x: Any, y: Any, *, k: int = K) -> float:
    """Centred kernel nearest-neighbour alignment (Huh et al. 2024, 2405.07987, appendix A): CKA of what is near.

    Kernels of cosines of uncentred features are set to 0 except where j is among the k nearest of i on both sides, then
    compared by HSIC_1 (Song et al. 2012, eq. 5) and divided by the root of the same of either side with itself. That is
    the authors' code, whose centring differs from the formula in the paper, without the constant that it adds below. Being
    near is not mutual, so cknna(x, y) and cknna(y, x) differ a little.
    With k = n - 1 it is debiased CKA of the rows scaled to unit length. Neighbours as in `mutual_knn`.

    NaN where a side has nothing to compare. Raises DiagnosticsError for k below 2 or above n - 1, fewer than 4 samples,
    unequal numbers of samples and values that are not finite.
    """
    first, second = _both(x, y, k, 2)
    if not (_spread(first) and _spread(second)):
        return float("nan")
    return _aligned(_kernel(neighbours(first, k)), _kernel(neighbours(second, k)))


def neighbours(x: Tensor, k: int) -> Neighbours:
    """The k nearest of each row of [sample, feature] by cosine, the earlier first where two are equally near."""
    n = len(x)
    unit = _unit_rows(x)
    # Through distances about the mean: where all samples point nearly one way, cosines differ by less than their rounding.
    about_mean = centre(unit)
    squares = about_mean.square().sum(dim=1)
    length = unit.abs().amax(dim=1).sign()
    largest = 2 * squares.max() + (1 - length.min()) / 2
    # One number holds the cosine, in steps far above rounding, and before equals the order of the samples.
    order = max(1, (n - 1).bit_length())
    steps = 2.0 ** (_BITS - 2 - order) / torch.where(largest > 0, largest, 1.0)
    columns = torch.arange(n, dtype=torch.float64, device=x.device)
    index, cosine = [], []
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        # The cosine less (1 + the length of the row itself) / 2; a row of zeros has cosine 0 with all.
        near = about_mean[start : start + rows] @ about_mean.T
        near -= (squares + 1 - length) / 2
        near -= squares[start : start + rows, None] / 2
        keys = (near * steps).round_().mul_(2.0**order).sub_(columns)
        here = torch.arange(len(keys), device=x.device)
        keys[here, here + start] = -torch.inf
        found = keys.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
        index.append(found)
        cosine.append(near.gather(1, found) + (1 + length[start : start + rows, None]) / 2)
    return Neighbours(torch.cat(index), torch.cat(cosine))


def _both(x: Any, y: Any, k: int, least: int) -> tuple[Tensor, Tensor]:
    first, second = pair(x, y, 4 if least == 2 else 2)
    n = len(first)
    if not least <= k < n:
        raise DiagnosticsError(f"k is {k} for {n} samples: give {least} to {n - 1} neighbours.")
    return first, second


def _unit_rows(x: Tensor) -> Tensor:
    """Rows divided by their length; rows of zeros stay."""
    # The largest goes first: squares of small numbers vanish.
    largest = x.abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1.0)
    length = scaled.norm(dim=1, keepdim=True)
    return scaled / torch.where(length > 0, length, 1.0)


def _spread(x: Tensor) -> bool:
    """Whether rows point in more than one direction, rounding aside."""
    unit = _unit_rows(x)
    return bool((unit - unit[:1]).abs().amax() > 1e-12)


def _keys(side: Neighbours) -> Tensor:
    """One ascending number for each (sample, neighbour)."""
    n = len(side.nearest)
    return (side.nearest + torch.arange(n, device=side.nearest.device)[:, None] * n).flatten()


def _common(a: Neighbours, b: Neighbours) -> tuple[Tensor, Tensor]:
    """Of each (sample, neighbour) of a: whether b has it too, and where."""
    first, second = _keys(a), _keys(b)
    where = torch.searchsorted(second, first).clamp_(max=len(second) - 1)
    return second.index_select(0, where) == first, where


def _shared(a: Neighbours, b: Neighbours) -> float:
    return float(_common(a, b)[0].double().mean())


class _Kernel(NamedTuple):
    """Neighbours with HSIC_1, times n (n - 3), of their kernel with itself, which no order of the samples changes; 0 where
    it is rounding error."""

    neighbours: Neighbours
    own: float


def _kernel(side: Neighbours) -> _Kernel:
    cosines = side.cosine.flatten()
    own = _masked_hsic(_keys(side), cosines, cosines, len(side.nearest))
    something = own > _NOTHING * float(cosines @ cosines) and float(cosines.abs().max()) > _NOTHING
    return _Kernel(side, own if something else 0.0)


def _aligned(a: _Kernel, b: _Kernel) -> float:
    # Written so that NaN fails too.
    if not (a.own > 0 and b.own > 0):
        return float("nan")
    first, second = a.neighbours, b.neighbours
    both, where = _common(first, second)
    values = first.cosine.flatten()[both], second.cosine.flatten()[where[both]]
    return _masked_hsic(_keys(first)[both], *values, len(first.nearest)) / (a.own**0.5 * b.own**0.5)


def _masked_hsic(keys: Tensor, k: Tensor, m: Tensor, n: int) -> float:
    """HSIC_1, times n (n - 3), of two matrices that are zero but at the same places, ascending `keys` i * n + j.

    Neighbourhood is not mutual between samples, so neither matrix is symmetric: the trace meets (i, j) with (j, i).
    """
    rows, columns = keys // n, keys % n
    mirrored = columns * n + rows
    where = torch.searchsorted(keys, mirrored).clamp_(max=max(len(keys) - 1, 0))
    there = keys.index_select(0, where) == mirrored
    trace = (k * m.index_select(0, where))[there].sum()
    nothing = torch.zeros(n, dtype=k.dtype, device=k.device)
    cross = nothing.index_add(0, columns, k) @ nothing.index_add(0, rows, m)
    return float(trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2))


def _moved(side: Neighbours, order: Tensor) -> Neighbours:
    """The neighbours of samples that are reordered."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    nearest, by = place[side.nearest.index_select(0, order)].sort(dim=1)
    return Neighbours(nearest, side.cosine.index_select(0, order).gather(1, by))


class _Nearest(Similarity):
    """A function of the neighbours on both sides."""

    standard = False
    least = K + 2
    centring = "none: rows scaled to unit length, neighbours by cosine"

    def reason(self, x: Tensor) -> str:
        return "" if _spread(x) else "all samples point one way"


class MutualKnn(_Nearest):
    """Mutual kNN alignment of every pair of taps."""

    name = "mutual_knn"
    answers = "Which taps agree on which samples are nearest?"
    source = "Huh et al. 2024 (2405.07987), appendix A"
    functional = f"mean share of the {K} nearest neighbours that two taps have in common"

    def prepared(self, x: Tensor) -> Any:
        return neighbours(x, K)

    def permuted(self, a: Any, order: Tensor) -> Any:
        return _moved(a, order)

    def compared(self, a: Any, b: Any) -> float:
        return _shared(a, b)

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"k": K, "chance": K / (n - 1)}


class Cknna(_Nearest):
    """CKNNA of every pair of taps."""

    name = "cknna"
    answers = "Which taps hold alike geometries of near samples?"
    source = "Huh et al. 2024 (2405.07987), appendix A, as its authors compute it"
    symmetric = False
    functional = f"HSIC_1 ratio of cosine kernels at the {K} nearest neighbours that both sides share"

    def prepared(self, x: Tensor) -> Any:
        return _kernel(neighbours(x, K))

    def permuted(self, a: Any, order: Tensor) -> Any:
        return _Kernel(_moved(a.neighbours, order), a.own)

    def compared(self, a: Any, b: Any) -> float:
        return _aligned(a, b)

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"k": K}
