"""Similarity by nearest neighbours: agreement of two representations on the nearest samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import centre, pair, rounding, unit_rows
from diagnostics.measures.known_answers import Case, normal, sixty_samples
from diagnostics.measures.similarity.base import Similarity
from diagnostics.measures.similarity.kernels import cka

HUH = "Huh et al. 2024 (2405.07987)"
K = 10
"""Neighbours of the measures of a run."""
# Elements of the block of cosines that is held at a time.
BLOCK = 2**23
# Samples up to which entries are looked up in a table of all places.
TABLE_ROWS = 2048
# A cosine of this size is rounding error, and so is HSIC_1 of a kernel with itself beside the kernel's squares.
_NOTHING = 1e-12


def mutual_knn(x: Any, y: Any, *, k: int = K) -> float:
    """Mutual k-nearest-neighbour alignment (Huh et al. 2024, 2405.07987, appendix A): the mean share of a sample's k
    nearest neighbours in x that are among its k nearest in y.

    Neighbours are those of largest cosine, as in the paper, which scales every row of features to unit length and does
    not centre them; a sample is not its own neighbour. Samples that tie for the last of the k places count in parts: the
    value is what breaking ties at random, on either side by itself, gives on average, so that unrelated sides are at
    k / (n - 1) and equal sides at 1, or below where ties leave open who the neighbours are. Cosines tie where they differ by
    rounding. Samples that all point one way have no neighbours: NaN.

    x, y: [sample, feature], rows aligned. Never holds n x n. Raises DiagnosticsError for k below 1 or above n - 1,
    unequal numbers of samples and values that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import mutual_knn
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> mutual_knn(x, 5 * x, k=4)  # equal directions
        1.0
        >>> round(mutual_knn(x, np.eye(40), k=4), 4)  # all equally near: 4 / 39
        0.1026
    """
    first, second = _both(x, y, k, 1)
    if not (_spread(first) and _spread(second)):
        return float("nan")
    shared = sum(float((a * b).sum()) for (a, _), (b, _) in zip(_chances(first, k), _chances(second, k), strict=True))
    return shared / (len(first) * k)


def cknna(x: Any, y: Any, *, k: int = K) -> float:
    """Centred kernel nearest-neighbour alignment (Huh et al. 2024, 2405.07987, appendix A): CKA of what is near.

    Kernels of cosines of uncentred features are set to 0 except where j is among the k nearest of i on both sides, then
    compared by HSIC_1 (Song et al. 2012, eq. 5) and divided by the root of the same of either side with itself. That is
    the authors' code, whose centring differs from the formula in the paper, without the constant that it adds below. Being
    near is not mutual, so cknna(x, y) and cknna(y, x) differ a little.
    With k = n - 1 it is debiased CKA of the rows scaled to unit length. Neighbours as in `mutual_knn`: where samples tie,
    an entry of the kernels counts by the chance that ties broken at random, on either side by itself, leave it there.

    NaN where a side has nothing to compare. Memory grows with k n, and with the ties. Raises DiagnosticsError for k below 2
    or above n - 1, fewer than 4 samples, unequal numbers of samples and values that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import cka, cknna
        >>> both = np.random.default_rng(0).normal(size=(2, 20, 3))
        >>> x, y = both / np.linalg.norm(both, axis=2, keepdims=True)
        >>> round(cknna(x, 5 * x, k=4), 6)  # equal directions
        1.0
        >>> bool(np.isclose(cknna(x, y, k=19), cka(x, y)))  # all samples are neighbours
        True
    """
    first, second = _both(x, y, k, 2)
    if not (_spread(first) and _spread(second)):
        return float("nan")
    return _aligned(_kernel(neighbours(first, k)), _kernel(neighbours(second, k)))


@dataclass(frozen=True)
class Neighbours:
    """Who is near whom among n samples, an entry for each sample and each that may be among its k nearest.

    `rows` and `columns` int64 [entry]; `chance` that ties broken at random leave the column among the k nearest of the row,
    and the `cosine`, float64 [entry + 1] with a last one of 0 for what has no entry. `order` int64 [sample]: which of the
    samples stands at each place, where they are reordered.
    """

    rows: Tensor
    columns: Tensor
    chance: Tensor
    cosine: Tensor
    order: Tensor

    def entry(self, keys: Tensor) -> Tensor:
        """Of pairs of samples row * n + column, [pair]: which entry is theirs, the last where none is."""
        if len(self.order) <= TABLE_ROWS:
            return self._table.index_select(0, keys)
        where = torch.searchsorted(self.keys, keys).clamp_(max=len(self.rows) - 1)
        return torch.where(self.keys.index_select(0, where) == keys, where, len(self.rows))

    @cached_property
    def keys(self) -> Tensor:
        """row * n + column of each entry, ascending."""
        return self.rows * len(self.order) + self.columns

    @cached_property
    def _table(self) -> Tensor:
        """The entry of each of n x n pairs, int32."""
        entries = torch.arange(len(self.rows), dtype=torch.int32, device=self.rows.device)
        return entries.new_full((len(self.order) ** 2,), len(self.rows)).index_copy_(0, self.keys, entries)

    @cached_property
    def mirror(self) -> Tensor:
        """The entry of (column, row) for each entry (row, column)."""
        return self.entry(self.columns * len(self.order) + self.rows)

    def reordered(self, order: Tensor) -> Neighbours:
        """The same once the samples stand in another order."""
        moved = replace(self, order=self.order.index_select(0, order))
        # Entries stay as they are, and so does what is kept of them.
        for kept in ("keys", "_table", "mirror"):
            if kept in self.__dict__:
                moved.__dict__[kept] = self.__dict__[kept]
        return moved


def neighbours(x: Tensor, k: int) -> Neighbours:
    """The k nearest of each row of [sample, feature] by cosine, those that tie for the last place in parts."""
    places, chances, cosines = list[Tensor](), list[Tensor](), list[Tensor]()
    start = 0
    for chance, cosine in _chances(x, k):
        rows, columns = chance.nonzero(as_tuple=True)
        places.append(torch.stack([rows + start, columns]))
        chances.append(chance[rows, columns])
        cosines.append(cosine[rows, columns])
        start += len(chance)
    rows, columns = torch.cat(places, dim=1)
    none = chances[0].new_zeros(1)
    order = torch.arange(start, device=x.device)
    return Neighbours(rows, columns, torch.cat([*chances, none]), torch.cat([*cosines, none]), order)


def _chances(x: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """In blocks of rows [row, sample]: the chance that a sample is among the row's k nearest, and its cosine."""
    n = len(x)
    unit = unit_rows(x)
    # Through distances about the mean: where all samples point nearly one way, cosines differ by less than their rounding.
    about_mean = centre(unit)
    squares = about_mean.square().sum(dim=1)
    length = unit.abs().amax(dim=1).sign()
    digits = rounding(x)
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        own = slice(start, start + rows)
        # The cosine less (1 + the length of the row itself) / 2; a row of zeros has cosine 0 with all.
        near = about_mean[own] @ about_mean.T
        near -= (squares + 1 - length) / 2
        near -= squares[own, None] / 2
        here = torch.arange(len(near), device=x.device)
        near[here, here + start] = -torch.inf
        last = near.topk(k, dim=1).values[:, -1:]
        # What the product rounds, and what was rounded before it: squared lengths of about this size, and lengths.
        size = squares[own, None] - last
        width = _NOTHING * size + digits * size.sqrt()
        above, tied = near > last + width, (near - last).abs() <= width
        part = (k - above.sum(dim=1, keepdim=True)).to(x.dtype) / tied.sum(dim=1, keepdim=True)
        yield above + part * tied, near.add_((1 + length[own, None]) / 2)


def _both(x: Any, y: Any, k: int, least: int) -> tuple[Tensor, Tensor]:
    first, second = pair(x, y, 4 if least == 2 else 2)
    n = len(first)
    if not least <= k < n:
        raise DiagnosticsError(f"k is {k} for {n} samples: give {least} to {n - 1} neighbours.")
    return first, second


def _spread(x: Tensor) -> bool:
    """Whether rows point in more than one direction, rounding aside."""
    unit = unit_rows(x)
    return bool((unit - unit[:1]).abs().amax() > rounding(x))


def _matched(a: Neighbours, b: Neighbours) -> tuple[Neighbours, Neighbours, Tensor]:
    """The side with fewer entries, the other side, and which entry of the other stands where each of the first's does."""
    few, many = (a, b) if len(a.rows) <= len(b.rows) else (b, a)
    to = many.order.index_select(0, few.order.argsort())
    keys = (to * len(to)).index_select(0, few.rows).add_(to.index_select(0, few.columns))
    return few, many, many.entry(keys)


class _Kernel(NamedTuple):
    """Neighbours, with n (n - 3) HSIC_1 of their kernel with itself (in any order of the samples); 0 for rounding error."""

    neighbours: Neighbours
    own: float


def _kernel(side: Neighbours) -> _Kernel:
    cosines = (side.chance * side.cosine)[:-1]
    own = _masked_hsic(side, cosines, cosines)
    something = own > _NOTHING * float(cosines @ cosines) and float(side.cosine.abs().max()) > _NOTHING
    return _Kernel(side, own if something else 0.0)


def _aligned(a: _Kernel, b: _Kernel) -> float:
    # Written so that NaN fails too.
    if not (a.own > 0 and b.own > 0):
        return float("nan")
    few, many, where = _matched(a.neighbours, b.neighbours)
    both = few.chance[:-1] * many.chance.index_select(0, where)
    of_few, of_many = both * few.cosine[:-1], both * many.cosine.index_select(0, where)
    values = (of_few, of_many) if few is a.neighbours else (of_many, of_few)
    return _masked_hsic(few, *values) / (a.own**0.5 * b.own**0.5)


def _masked_hsic(places: Neighbours, k: Tensor, m: Tensor) -> float:
    """HSIC_1, times n (n - 3), of two matrices that are zero but at the same entries, [entry] each."""
    # Neither matrix is symmetric, so the trace meets (i, j) with (j, i).
    n = len(places.order)
    nothing = k.new_zeros(n + 1)
    trace = k @ torch.cat([m, nothing[:1]]).index_select(0, places.mirror)
    cross = nothing.index_add(0, places.columns, k) @ nothing.index_add(0, places.rows, m)
    return float(trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2))


class _Nearest(Similarity):
    """A function of the neighbours on both sides."""

    least = K + 2
    centring = "none: rows scaled to unit length, neighbours by cosine"

    def reason(self, x: Tensor) -> str:
        return "" if _spread(x) else "all samples point one way"


class MutualKnn(_Nearest):
    name = "mutual_knn"
    answers = "Which taps agree on which samples are nearest?"
    source = f"{HUH}, appendix A"
    invariant_to = ("rotation", "each sample's own scale")
    functional = f"mean share of the {K} nearest neighbours that two taps have in common, ties in parts"
    known_answers = (
        Case("copy", 1, HUH, lambda: mutual_knn(sixty_samples(), sixty_samples(), k=5)),
        Case("independent, n = 1024, k = 10: k / (n - 1)", 0.009775, HUH, lambda: mutual_knn(normal(1024, 16, seed=0), normal(1024, 16, seed=1), k=10), 3e-3),
    )  # fmt: skip

    def prepared(self, x: Tensor) -> Any:
        return neighbours(x, K)

    def permuted(self, a: Any, order: Tensor) -> Any:
        return a.reordered(order)

    def compared(self, a: Any, b: Any) -> float:
        few, many, where = _matched(a, b)
        return float(few.chance[:-1] @ many.chance.index_select(0, where)) / (len(a.order) * K)

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"k": K, "chance": K / (n - 1)}


def _all_neighbours_minus_cka() -> float:
    """CKNNA with all others as neighbours, minus debiased CKA of the same rows at length 1."""
    x, y = sixty_samples(), normal(60, 6, seed=7)
    unit, unit_other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return cknna(x, y, k=59) - cka(unit, unit_other)


class Cknna(_Nearest):
    name = "cknna"
    answers = "Which taps hold similar geometries of near samples?"
    source = f"{HUH}, appendix A, as its authors compute it"
    invariant_to = ("rotation", "each sample's own scale")
    symmetric = False
    functional = f"HSIC_1 ratio of cosine kernels at the {K} nearest neighbours that both sides share, ties in parts"
    known_answers = (
        Case("copy", 1, HUH, lambda: cknna(sixty_samples(), sixty_samples(), k=5)),
        Case("all neighbours minus debiased CKA of rows of length 1", 0, HUH, _all_neighbours_minus_cka),
    )  # fmt: skip

    def prepared(self, x: Tensor) -> Any:
        return _kernel(neighbours(x, K))

    def permuted(self, a: Any, order: Tensor) -> Any:
        return _Kernel(a.neighbours.reordered(order), a.own)

    def compared(self, a: Any, b: Any) -> float:
        return _aligned(a, b)

    def attributes(self, n: int) -> Mapping[str, Any]:
        return {"k": K}
