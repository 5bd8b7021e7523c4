"""Intrinsic dimension from distances to nearest neighbours.

Both estimators fall short in many dimensions (the edge of the data is near every sample) and change with the number of
samples: compare at equal n. They do not change with shift, rotation and scale of all features together.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import centre, rescaled, rounding, samples
from diagnostics.measures.geometry.pooled import PooledMeasure, TapNumbers
from diagnostics.measures.known_answers import Case, normal, rotation
from diagnostics.measures.target_free_intervals import group_blocks, subset_interval

FACCO = "Facco et al. 2017"
LEVINA = "Levina and Bickel 2004; MacKay and Ghahramani 2005"
DISCARD = 0.1
"""Share of the largest ratios that TwoNN's regression leaves out (Facco et al. 2017)."""
NEIGHBOURS = 20
PARTS = 10
FEWEST_PARTS = 3
BLOCK_ELEMENTS = 2**23
"""Largest array held for a block, in numbers: 64 MiB."""
SPARE = 4
"""Candidates beyond those asked for."""
TOLERANCE = 1e-9
"""Relative error of a squared distance from which it is taken from differences."""


def two_nn(x: Any, *, fit: Literal["regression", "mle"] = "regression") -> float:
    """TwoNN (Facco et al. 2017): intrinsic dimension from mu = r2 / r1, the distances to the two nearest neighbours.

    Parameters
    ----------
    x: [sample, feature], at least 3 samples. Only the first of samples that are equal but for rounding counts
        (`distinct_samples` says how many are left): a copy would make mu infinite, or huge.
    fit: `regression`, the paper's: through the origin, of -log(1 - i / N) on the i-th smallest log mu, the largest tenth
        left out. `mle`: (N - 1) / sum(log mu), of variance d^2 / (N - 2) were the mu independent.

    Distances that differ by no more than rounding are equal. NaN where fewer than 3 distinct samples are left or every
    second neighbour is as near as the first (a lattice).

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import two_nn
        >>> plane = np.random.default_rng(0).normal(size=(1000, 2))
        >>> x = plane @ [[1, 0, 0, 1], [0, 1, -1, 0]]  # in four features
        >>> round(two_nn(x))
        2
    """
    if fit not in ("regression", "mle"):
        raise DiagnosticsError(f"fit is {fit!r}: give 'regression' or 'mle'.")
    return _two_nn(_distinct(samples(x, "x", 3)))[fit]


def mle_dimension(x: Any, *, k: int = NEIGHBOURS) -> float:
    """Maximum likelihood dimension (Levina and Bickel 2004), averaged over samples as MacKay and Ghahramani 2005 showed.

    The inverse of the mean over samples i and j < k of log(T_k / T_j), T_j the distance from i to its j-th nearest
    neighbour: the inverses of the samples' estimates are averaged, not the estimates.

    Parameters
    ----------
    x: [sample, feature], more than k samples; only the first of equal samples counts, as in `two_nn`.
    k: neighbours, at least 2.

    NaN where no more than k distinct samples are left or all neighbours are equally near.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import mle_dimension
        >>> plane = np.random.default_rng(0).normal(size=(1000, 2))
        >>> x = plane @ [[1, 0, 0, 1], [0, 1, -1, 0]]  # in four features
        >>> round(mle_dimension(x))
        2
    """
    if k < 2:
        raise DiagnosticsError(f"k is {k}: give at least 2 neighbours.")
    return _mle(_distinct(samples(x, "x", k + 1)), k)


def distinct_samples(x: Any) -> int:
    """How many samples of x [sample, feature] are not copies of another, rounding aside: the n of `two_nn` and
    `mle_dimension`.

    Examples:
        >>> from diagnostics.measures.geometry import distinct_samples
        >>> distinct_samples([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
        2
    """
    return len(distinct(samples(x, "x")))


def _distinct(x: Tensor) -> Tensor:
    x = rescaled(x)
    return x[distinct(x)]


def _two_nn(x: Tensor) -> dict[Literal["regression", "mle"], float]:
    logs, equal = _log_ratios(x, 2)
    log_mu, order = logs.flatten().sort()
    n = len(log_mu)
    kept = log_mu[: max(2, int(n * (1 - DISCARD)))]
    height = -torch.log1p(-torch.arange(1, len(kept) + 1, dtype=x.dtype, device=x.device) / n)
    nothing = n < 3 or bool(equal[order[: len(kept)]].all())
    return {
        "regression": float("nan") if nothing else _ratio(float(kept @ height), float(kept @ kept)),
        "mle": float("nan") if n < 3 or bool(equal.all()) else _ratio(float(n - 1), float(log_mu.sum())),
    }


def _mle(x: Tensor, k: int) -> float:
    logs, equal = _log_ratios(x, k)
    return float("nan") if bool(equal.all()) else _ratio(1.0, float(logs.mean()))


def _log_ratios(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """log(T_k / T_j), j < k, [sample, k - 1] of distances T_j to the j-th nearest other; whether equal but for rounding."""
    nearest = nearest_distances(x, k) if len(x) > k else x.new_empty((0, k))
    there = nearest[:, 0] > 0
    nearest, own = nearest[there], x[: len(nearest)][there].norm(dim=1, keepdim=True)
    logs = (nearest[:, -1:] / nearest[:, :-1]).log()
    # What distances are computed to, and what rounding of the samples, none larger than this, moves them by.
    size = own + nearest[:, -1:]
    return logs, logs <= TOLERANCE + rounding(x) * size / nearest[:, :-1]


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")


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

    Needs more than k rows; never holds n x n. Squared distances come from products, where these lose digits those of the
    nearest and a few more from differences, and where the loss could have hidden a neighbour those of all rows.
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
    for some in torch.cat(unsure).split(max(1, BLOCK_ELEMENTS // n)) if unsure else ():
        gaps = torch.cdist(x[some], x, compute_mode="donot_use_mm_for_euclid_dist")
        gaps[torch.arange(len(some), device=x.device), some] = torch.inf
        distances[some] = gaps.topk(k, largest=False).values
    return distances


class _Dimension(PooledMeasure):
    """A dimension with its values for parts of the data, and an interval from disjoint parts."""

    needed: ClassVar[int]
    """Distinct samples that it needs."""
    least_part: ClassVar[int]
    """Samples of a part from which its spread stands for that of the whole: several times the neighbours asked for."""
    centring: ClassVar[str] = "none needed: distances between samples"
    interval = f"95 % from the spread of the logarithm over at most {PARTS} disjoint parts of the groups"
    about: ClassVar[Mapping[str, str]] = {
        "half": "mean of the values for two halves of the groups: how it changes with n",
        "quarter": "mean of the values for four quarters of the groups",
        "duplicates": "samples left out because they equal an earlier one, up to rounding",
    }

    @abstractmethod
    def dimension(self, x: Tensor) -> dict[str, float]:
        """`score` and numbers beside it, from distinct samples; NaN for too few."""

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        x = rescaled(x)
        kept = distinct(x)
        points, groups = x[kept], groups[kept.cpu().numpy()]
        whole = self.dimension(points)
        parts = {count: self._by_part(points, group_blocks(groups, count, seed)) for count in (2, 4)}
        count = min(PARTS, len(points) // self.least_part)
        blocks = group_blocks(groups, max(1, count), seed)
        spread = self._by_part(points, blocks) if count >= FEWEST_PARTS else np.empty(0)
        low, high = subset_interval(whole["score"], spread)
        numbers = {
            **whole,
            "low": low,
            "high": high,
            "half": float(parts[2].mean()) if len(parts[2]) == 2 else float("nan"),
            "quarter": float(parts[4].mean()) if len(parts[4]) == 4 else float("nan"),
            "duplicates": float(len(x) - len(points)),
        }
        if len(points) < self.needed:
            reason = f"{len(points)} distinct samples, and it needs {self.needed}"
        elif np.isnan(whole["score"]):
            reason = "all neighbours are equally near"
        else:
            few = f"{len(points)} distinct samples are too few, or of too few groups, for an interval"
            reason = few if np.isnan(low) else ""
        return TapNumbers(numbers, reason)

    def _by_part(self, x: Tensor, blocks: np.ndarray) -> np.ndarray:
        parts = (torch.from_numpy(np.flatnonzero(blocks == number)).to(x.device) for number in np.unique(blocks))
        return np.array([self.dimension(x[part])["score"] for part in parts])


def _of_cube(d: int, draws: int) -> float:
    """Mean TwoNN of 1000 uniform points in a unit cube."""
    return float(np.mean([two_nn(np.random.default_rng(i).random((1000, d))) for i in range(draws)]))


def _fit_by_hand(x: np.ndarray) -> float:
    """The paper's fit by loops: its slope through the origin, over the smallest nine tenths of log(r2 / r1)."""
    distances = [sorted(math.dist(a, b) for b in x) for a in x]
    mu = sorted(math.log(second / first) for _, first, second, *_ in distances)
    points = [(value, -math.log(1 - i / len(x))) for i, value in enumerate(mu[: len(x) * 9 // 10], 1)]
    return sum(a * b for a, b in points) / sum(a * a for a, _ in points)


class TwoNn(_Dimension):
    name = "two_nn"
    answers = "On how many dimensions do the samples lie, by their two nearest neighbours?"
    source = f"{FACCO} (Scientific Reports 7, 12140)"
    invariant_to = ("rotation", "scale", "shift")
    functional = "TwoNN: slope through the origin of -log(1 - F) on log(r2 / r1), the largest tenth left out, Euclidean distances"
    least = needed = 3
    least_part = 15
    about: ClassVar[Mapping[str, str]] = {"mle": "(N - 1) / sum(log(r2 / r1)) over all samples", **_Dimension.about}
    known_answers = (
        Case("unit cube of 2 dimensions, n = 1000 (mean of 8)", 1.97, FACCO, lambda: _of_cube(2, 8), 0.09),
        Case("unit cube of 5 dimensions, n = 1000 (mean of 8)", 4.65, FACCO, lambda: _of_cube(5, 8), 0.22),
        Case("unit cube of 10 dimensions, n = 1000 (mean of 8)", 8.49, FACCO, lambda: _of_cube(10, 8), 0.4),
        Case("the smallest nine tenths of 60 draws minus a fit by hand", 0, FACCO, lambda: two_nn(normal(60, 3, seed=5)) - _fit_by_hand(normal(60, 3, seed=5))),
        Case("each point twice minus once", 0, FACCO, lambda: two_nn(np.repeat(normal(300, 3, seed=0), 2, axis=0)) - two_nn(normal(300, 3, seed=0))),
    )  # fmt: skip

    def dimension(self, x: Tensor) -> dict[str, float]:
        by_fit = _two_nn(x)
        return {"score": by_fit["regression"], "mle": by_fit["mle"]}


class MleDimension(_Dimension):
    name = "mle_dimension"
    answers = f"On how many dimensions do the samples lie, by their {NEIGHBOURS} nearest neighbours?"
    source = "Levina and Bickel 2004 (NeurIPS); MacKay and Ghahramani 2005 for the average"
    invariant_to = ("rotation", "scale", "shift")
    standard = False
    functional = f"1 / mean of log(T_k / T_j) over samples and j < k = {NEIGHBOURS}, Euclidean distances"
    least = needed = NEIGHBOURS + 1
    least_part = 3 * needed
    known_answers = (
        Case("Gaussian on a plane in 6 dimensions, n = 2000", 2, LEVINA, lambda: mle_dimension(normal(2000, 2, seed=1) @ rotation(6, 3)[:2]), 0.12),
    )  # fmt: skip

    def dimension(self, x: Tensor) -> dict[str, float]:
        return {"score": _mle(x, NEIGHBOURS)}
