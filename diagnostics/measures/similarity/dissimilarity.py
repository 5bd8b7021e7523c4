"""Representational similarity analysis: whether two representations agree on which samples are dissimilar.

The n (n - 1) / 2 entries of a dissimilarity matrix share samples, so they are no independent units: test by permuting
samples (as the measure does), never by the p value of the correlation.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor, centre, pair, rescaled, rounding, samples, scale_of
from diagnostics.measures.known_answers import Case
from diagnostics.measures.similarity.base import Similarity, Taps
from diagnostics.measures.similarity.canonical import RANK, still

Distance = Literal["euclidean", "correlation", "cosine"]
Comparison = Literal["spearman", "pearson", "kendall", "cosine"]
KRIEGESKORTE = "Kriegeskorte et al. 2008"

# Entries closer than this share of the largest differ by rounding.
_NOTHING = 1e-12
MOST_SAMPLES = 8192
"""Of which all n (n - 1) / 2 dissimilarities are held, a few times over: 270 MB each."""


def rdm(x: Any, *, distance: Distance = "euclidean") -> np.ndarray:
    """Representational dissimilarity matrix (Kriegeskorte et al. 2008): upper triangle, row by row, [n (n - 1) / 2].

    Parameters
    ----------
    x: [sample, feature].
    distance: "euclidean"; "correlation", 1 - Pearson's r of two samples over the features, which removes each sample's
        mean over its features and so is invariant neither to rotation nor to a shift of the samples; "cosine", 1 - cosine,
        invariant to rotation only.

    Samples without a direction (equal in all features; zero for "cosine") have NaN. Raises DiagnosticsError for fewer than
    2 samples and values that are not finite.

    Examples:
        >>> from diagnostics.measures.similarity import rdm
        >>> rdm([[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]).tolist()  # pairs 01, 02, 12
        [5.0, 4.0, 3.0]
    """
    return _rdm(samples(x, "x", 2), distance).cpu().numpy()


def compare_rdms(a: Any, b: Any, *, method: Comparison = "spearman") -> float:
    """How alike two dissimilarity matrices are (upper triangles, as from `rdm`), from -1 to 1.

    "spearman": Pearson's r of ranks, ties have their mean rank. "kendall": tau_a, over all pairs of entries, tied or not.
    "pearson" and "cosine" (0 to 1 for distances): of the entries. For both kinds of ranks, entries closer than 1e-12 of the
    largest are tied.

    NaN where a side holds NaN or all its entries are equal (for "cosine": 0). Raises DiagnosticsError for unequal sizes.

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
            "as rdm returns them."
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
    if len(x) > MOST_SAMPLES:
        raise DiagnosticsError(
            f"x has shape {tuple(x.shape)}: give at most {MOST_SAMPLES} samples; all pairs are held."
        )
    # What samples that are all alike differ by is rounding, and ranks would make something of it.
    alike = not bool(centre(x).any())
    # By differences, not by inner products: duplicates then are 0 apart.
    if distance == "euclidean":
        scale = scale_of(float(x.abs().amax()))
        distances = torch.nn.functional.pdist(x * scale) / scale
        return torch.zeros_like(distances) if alike else distances
    if distance not in ("correlation", "cosine"):
        raise DiagnosticsError(f'There is no distance "{distance}": give euclidean, correlation or cosine.')
    z = x = rescaled(x)
    if distance == "correlation":
        z = x - x[:, :1]
        z -= z.mean(dim=1, keepdim=True)
    length = torch.linalg.norm(z, dim=1, keepdim=True)
    known = length > rounding(x) * torch.linalg.norm(x, dim=1, keepdim=True)
    # 1 - cosine is half the squared distance of unit vectors.
    distances = torch.nn.functional.pdist(z / torch.where(known, length, torch.nan)) ** 2 / 2
    return distances * 0 if alike else distances


def _compare(a: Tensor, b: Tensor, method: str) -> float:
    if not bool(a.isfinite().all() and b.isfinite().all()):
        return float("nan")
    if method == "kendall":
        return _tau(a, b)
    if method not in ("spearman", "pearson", "cosine"):
        raise DiagnosticsError(f'There is no comparison "{method}": give spearman, pearson, kendall or cosine.')
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
        Case(f"RDMs (1, 2, 3) and (1, 3, 2), {method}", value, KRIEGESKORTE, lambda method=method: compare_rdms([1.0, 2.0, 3.0], [1.0, 3.0, 2.0], method=method))
        for method, value in _COMPARED.items()
    )  # fmt: skip

    def reason(self, x: Tensor) -> str:
        if why := still(x):
            return why
        distances = _rdm(x, "correlation")
        if bool(distances.isnan().any()):
            return "a sample has one value in all features, so its correlation with others does not exist"
        if not bool(distances.max() - distances.min() > RANK * distances.max()):
            return "all its samples are equally unlike"
        return ""

    def prepared(self, x: Tensor) -> Tensor:
        return _direction(_rdm(x, "correlation"), "spearman")

    def compared(self, a: Tensor, b: Tensor) -> float:
        return _inner(a, b)

    def permuted(self, a: Tensor, order: Tensor) -> Tensor:
        return a[_entries(order)]

    def shuffled(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        ones, others = torch.stack(list(firsts)).float(), torch.stack(list(seconds)).float()
        for order in orders:
            yield (ones @ others[:, _entries(order)].T).double().cpu().numpy()


def _entries(order: Tensor) -> Tensor:
    """Where the entries of an upper triangle stand that become its entries when the samples are put in this order."""
    n = len(order)
    row, column = torch.triu_indices(n, n, 1, device=order.device)
    rows, columns = order[row], order[column]
    low, high = torch.minimum(rows, columns), torch.maximum(rows, columns)
    return low * (2 * n - low - 1) // 2 + high - low - 1
