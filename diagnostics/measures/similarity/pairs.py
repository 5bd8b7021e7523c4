"""Agreement of two representations on pairs of samples: which are dissimilar (RSA), and which are nearest.

The n (n - 1) / 2 entries of a dissimilarity matrix share samples, so they are no independent units: test by permuting
samples (as the measure does), never by the p value of the correlation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, check_known
from diagnostics.measures.arrays import as_tensor, centre, pair, rescale, rounding, samples, scale_of, unit_rows
from diagnostics.measures.base import Case, define, normal, sixty_samples
from diagnostics.measures.similarity.base import Similarity, Taps
from diagnostics.measures.similarity.decomposed import RANK, still
from diagnostics.measures.similarity.kernels import cka, permute_entries, permute_pairs

Distance = Literal["euclidean", "correlation", "cosine"]
Comparison = Literal["spearman", "pearson", "kendall", "cosine"]
KRIEGESKORTE = "Kriegeskorte et al. 2008"

# Entries closer than this share of the largest differ by rounding; a cosine of this size is rounding error, and so is
# HSIC_1 of a kernel with itself beside the kernel's squares.
_NOTHING = 1e-12
MOST_SAMPLES = 8192
"""Of which all n (n - 1) / 2 dissimilarities are held, a few times over: 270 MB each."""


def rdm(x: Any, *, distance: Distance = "euclidean") -> np.ndarray:
    """Representational dissimilarity matrix (Kriegeskorte et al. 2008): upper triangle, row by row, [n (n - 1) / 2].

    Parameters
    ----------
    x: [sample, feature].
    distance: "euclidean"; "correlation", 1 - Pearson's r of two samples over the features, which removes each sample's
        mean over its features and so is invariant neither to rotation nor to a shift of the samples; "cosine", 1 -
        cosine, invariant to rotation only.

    Samples without a direction (equal in all features; zero for "cosine") have NaN. Raises DiagnosticsError for fewer
    than 2 samples and values that are not finite.

    Examples:
        >>> from diagnostics.measures.similarity import rdm
        >>> rdm([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]).tolist()  # pairs 01, 02, 12
        [5.0, 4.0, 3.0]
    """
    return _rdm(samples(x, "x", 2), distance).cpu().numpy()


def compare_rdms(a: Any, b: Any, *, method: Comparison = "spearman") -> float:
    """Likeness of two dissimilarity matrices (upper triangles, as from `rdm`), from -1 to 1.

    "spearman": Pearson's r of ranks, ties have their mean rank. "kendall": tau_a, over all pairs of entries, tied or
    not. "pearson" and "cosine" (0 to 1 for distances): of the entries. For both kinds of ranks, entries closer than
    1e-12 of the largest are tied.

    NaN where a side holds NaN or all its entries are equal (for "cosine": 0). Raises DiagnosticsError for unequal
    sizes.

    Examples:
        >>> from diagnostics.measures.similarity import compare_rdms
        >>> a, b = [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]
        >>> round(compare_rdms(a, b), 4)
        0.5
        >>> round(compare_rdms(a, b, method="cosine"), 4)  # 13 / 14
        0.9286
    """
    first, second = as_tensor(a), as_tensor(b)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise DiagnosticsError(
            f"compare_rdms has shapes {tuple(first.shape)} and {tuple(second.shape)}: give two upper triangles of one size, "
            "as rdm returns them.",
            code="bad-shape",
        )
    return _compare(first, second.to(first.device), method)


def rsa(x: Any, y: Any, *, distance: Distance = "correlation", method: Comparison = "spearman") -> float:
    """Representational similarity analysis (Kriegeskorte et al. 2008): `compare_rdms` of two `rdm`.

    x, y: [sample, feature], rows aligned; their widths may differ. Raises DiagnosticsError for fewer than 3 samples,
    unequal numbers of samples and values that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import rsa
        >>> x = np.random.default_rng(0).normal(size=(20, 2))
        >>> y = x @ [[0, 5], [-5, 0]] + 9  # rotated, scaled and shifted
        >>> round(rsa(x, y, distance="euclidean"), 6)
        1.0
    """
    first, second = pair(x, y, 3)
    return _compare(_rdm(first, distance), _rdm(second, distance), method)


def _rdm(x: Tensor, distance: str) -> Tensor:
    check_known("distance", distance, ("euclidean", "correlation", "cosine"))
    if len(x) > MOST_SAMPLES:
        raise DiagnosticsError(
            f"x has shape {tuple(x.shape)}: give at most {MOST_SAMPLES} samples; all pairs are held.", code="too-large"
        )
    # What samples that are all alike differ by is rounding, and ranks would make something of it.
    alike = not bool(centre(x).any())
    # By differences, not by inner products: duplicates then are 0 apart.
    if distance == "euclidean":
        scale = scale_of(float(x.abs().amax()))
        distances = torch.nn.functional.pdist(x * scale) / scale
        return torch.zeros_like(distances) if alike else distances
    z = x = rescale(x)
    if distance == "correlation":
        z = x - x[:, :1]
        z -= z.mean(dim=1, keepdim=True)
    length = torch.linalg.norm(z, dim=1, keepdim=True)
    known = length > rounding(x) * torch.linalg.norm(x, dim=1, keepdim=True)
    # 1 - cosine is half the squared distance of unit vectors.
    distances = torch.nn.functional.pdist(z / torch.where(known, length, torch.nan)) ** 2 / 2
    return distances * 0 if alike else distances


def _compare(a: Tensor, b: Tensor, method: str) -> float:
    check_known("comparison", method, ("spearman", "pearson", "kendall", "cosine"))
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    if method == "kendall":
        return _tau(a, b)
    return _inner(_direction(a, method), _direction(b, method))


def _direction(values: Tensor, method: str) -> Tensor:
    """The unit vector whose inner products are the comparison; empty where it has none."""
    out = _ranks(values) if method == "spearman" else values
    peak = out.abs().max()
    if method != "cosine":
        out = out - out.mean()
    if not out.abs().max() > _NOTHING * peak:
        return out[:0]
    out = out / out.abs().max()
    return out / torch.linalg.norm(out)


def _inner(a: Tensor, b: Tensor) -> float:
    return min(1.0, max(-1.0, float(a @ b))) if len(a) and len(b) else float("nan")


def _levels(values: Tensor) -> Tensor:
    """Dense ranks from 0, int64: equal values, and neighbours closer than rounding, have one level."""
    ordered, order = values.sort()
    step = torch.zeros_like(order)
    step[1:] = ordered.diff() > _NOTHING * values.abs().max()
    levels = torch.empty_like(order)
    levels[order] = step.cumsum(0)
    return levels


def _ranks(values: Tensor) -> Tensor:
    levels = _levels(values)
    count = levels.bincount().to(torch.float64)
    # The mean rank of a level: those below it, and half of its own.
    return (count.cumsum(0) - (count - 1) / 2)[levels]


def _tau(a: Tensor, b: Tensor) -> float:
    """Kendall's tau_a: concordant less discordant pairs of entries, over all pairs of entries."""
    from scipy.stats import kendalltau

    first, second = _levels(a).cpu().numpy(), _levels(b).cpu().numpy()
    if not (first.any() and second.any()):
        return float("nan")
    # scipy's tau_b is over the geometric mean of the pairs that are not tied on either side.
    tau_b: Any = kendalltau(first, second)
    return float(tau_b.statistic) * math.sqrt(_untied(first) * _untied(second))


def _untied(levels: np.ndarray) -> float:
    """Share of all pairs that differ."""
    count = np.bincount(levels)
    return 1 - float((count * (count - 1)).sum()) / (len(levels) * (len(levels) - 1))


# Of the dissimilarities (1, 2, 3) and (1, 3, 2), by hand.
_COMPARED: dict[Comparison, float] = {"pearson": 0.5, "spearman": 0.5, "kendall": 1 / 3, "cosine": 13 / 14}


class Rsa(Similarity):
    name = "rsa"
    answers = "Do two taps agree on which pairs of samples are dissimilar?"
    source = KRIEGESKORTE
    invariant_to = ("order of the features", "each sample's own scale and offset")
    functional = "Spearman correlation of the dissimilarities 1 - r of all pairs of samples"
    centring = "each sample over its features (not invariant to rotation)"
    least = 3
    most_rows = 1024
    known_answers = tuple(
        Case(
            f"RDMs (1, 2, 3) and (1, 3, 2), {method}",
            value,
            KRIEGESKORTE,
            # pyrefly: ignore[bad-argument-type]
            lambda method=method: compare_rdms([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], method=method),
        )
        for method, value in _COMPARED.items()
    )

    def reason(self, x: Tensor) -> str:
        if why := still(x):
            return why
        distances = _rdm(x, "correlation")
        if bool(distances.isnan().any()):
            return "a sample has one value in all features, so its correlation with others does not exist"
        if not bool(distances.max() - distances.min() > RANK * distances.max()):
            return "all its samples are equally unlike"
        return ""

    def prepare(self, x: Tensor) -> Tensor:
        return _direction(_rdm(x, "correlation"), "spearman")

    def compare(self, a: Tensor, b: Tensor) -> float:
        return _inner(a, b)

    def permute(self, a: Tensor, order: Tensor) -> Tensor:
        return permute_pairs(a, order)

    def shuffle(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        ones, others = torch.stack(list(firsts)).float(), torch.stack(list(seconds)).float()
        for order in orders:
            yield (ones @ others[:, permute_entries(order)].T).double().cpu().numpy()


HUH = "Huh et al. 2024 (2405.07987)"
K = 10
"""Neighbours of the measures of a run."""
# Elements of the block of cosines that is held at a time.
BLOCK = 2**23
# Samples up to which entries are looked up in a table of all places.
TABLE_ROWS = 2048


def mutual_knn(x: Any, y: Any, *, k: int = K) -> float:
    """Mutual k-nearest-neighbour alignment (Huh et al. 2024, 2405.07987, appendix A).

    The mean share of a sample's k nearest neighbours in x that are among its k nearest in y.

    Neighbours are those of largest cosine, as in the paper, which scales every row of features to unit length and does
    not centre them; a sample is not its own neighbour. Samples that tie for the last of the k places count in parts:
    the value is what breaking ties at random, on either side by itself, gives on average, so that unrelated sides are
    at k / (n - 1) and equal sides at 1, or below where ties leave open who the neighbours are. Cosines tie where they
    differ by rounding. Samples that all point one way have no neighbours: NaN.

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
    the authors' code, whose centring differs from the formula in the paper, without the constant that it adds below.
    Being near is not mutual, so cknna(x, y) and cknna(y, x) differ a little.
    With k = n - 1 it is debiased CKA of the rows scaled to unit length. Neighbours as in `mutual_knn`: where samples
    tie, an entry of the kernels counts by the chance that ties broken at random, on either side by itself, leave it
    there.

    NaN where a side has nothing to compare. Memory grows with k n, and with the ties. Raises DiagnosticsError for k
    below 2 or above n - 1, fewer than 4 samples, unequal numbers of samples and values that are not finite.

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
    """Neighbours among n samples, an entry for each sample and each that may be among its k nearest.

    `rows` and `columns` int64 [entry]; `chance` that ties broken at random leave the column among the k nearest of the
    row, and the `cosine`, float64 [entry + 1] with a last one of 0 for what has no entry. `order` int64 [sample]: which
    of the samples stands at each place, where they are reordered.
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

    def reorder(self, order: Tensor) -> Neighbours:
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
    # Through distances about the mean: where all samples point nearly one way, cosines differ by less than their
    # rounding.
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
        raise DiagnosticsError(f"k is {k} for {n} samples: give {least} to {n - 1} neighbours.", code="bad-value")
    return first, second


def _spread(x: Tensor) -> bool:
    """Test for rows that point in more than one direction, rounding aside."""
    unit = unit_rows(x)
    return bool((unit - unit[:1]).abs().amax() > rounding(x))


def _match(a: Neighbours, b: Neighbours) -> tuple[Neighbours, Neighbours, Tensor]:
    """The side with fewer entries, the other side, and the other's entry at each place of the first."""
    few, many = (a, b) if len(a.rows) <= len(b.rows) else (b, a)
    to = many.order.index_select(0, few.order.argsort())
    keys = (to * len(to)).index_select(0, few.rows).add_(to.index_select(0, few.columns))
    return few, many, many.entry(keys)


class _Kernel(NamedTuple):
    """Neighbours, with n (n - 3) HSIC_1 of their kernel with itself (in any order of the samples).

    0 for rounding error.
    """

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
    few, many, where = _match(a.neighbours, b.neighbours)
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


def _neighbour_share(a: Neighbours, b: Neighbours) -> float:
    """Mean share of the neighbours of a that are those of b."""
    few, many, where = _match(a, b)
    return float(few.chance[:-1] @ many.chance.index_select(0, where)) / (len(a.order) * K)


MutualKnn = define(
    _Nearest,
    "MutualKnn",
    name="mutual_knn",
    answers="Which taps agree on which samples are nearest?",
    source=f"{HUH}, appendix A",
    invariant_to=("rotation", "each sample's own scale"),
    functional=f"mean share of the {K} nearest neighbours that two taps have in common, ties in parts",
    known_answers=(
        Case("copy", 1, HUH, lambda: mutual_knn(sixty_samples(), sixty_samples(), k=5)),
        Case(
            "independent, n = 1024, k = 10: k / (n - 1)",
            0.009775,
            HUH,
            lambda: mutual_knn(normal(1024, 16, seed=0), normal(1024, 16, seed=1), k=10),
            3e-3,
        ),
    ),
    prepare=lambda self, x: neighbours(x, K),
    permute=lambda self, a, order: a.reorder(order),
    compare=staticmethod(_neighbour_share),
    attributes=lambda self, n: {"k": K, "chance": K / (n - 1)},
)


def _all_neighbours_minus_cka() -> float:
    """CKNNA with all others as neighbours, minus debiased CKA of the same rows at length 1."""
    x, y = sixty_samples(), normal(60, 6, seed=7)
    unit, unit_other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    return cknna(x, y, k=59) - cka(unit, unit_other)


Cknna = define(
    _Nearest,
    "Cknna",
    name="cknna",
    answers="Which taps hold similar geometries of near samples?",
    source=f"{HUH}, appendix A, as its authors compute it",
    invariant_to=("rotation", "each sample's own scale"),
    symmetric=False,
    functional=f"HSIC_1 ratio of cosine kernels at the {K} nearest neighbours that both sides share, ties in parts",
    known_answers=(
        Case("copy", 1, HUH, lambda: cknna(sixty_samples(), sixty_samples(), k=5)),
        Case("all neighbours minus debiased CKA of rows of length 1", 0, HUH, _all_neighbours_minus_cka),
    ),
    prepare=lambda self, x: _kernel(neighbours(x, K)),
    permute=lambda self, a, order: _Kernel(a.neighbours.reorder(order), a.own),
    compare=staticmethod(_aligned),
    attributes=lambda self, n: {"k": K},
)
