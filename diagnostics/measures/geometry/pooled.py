"""Geometry of pooled activations.

The loop over taps, how samples are spread over directions, and their intrinsic dimension.

Directions are samples scaled to length 1, not centred. A component that all samples share (a large mean) therefore
decides: it pulls all directions together. A sample of length zero has no direction and is left out.

Dimension comes from distances to nearest neighbours. Both estimators fall short in many dimensions (the edge of the
data is near every sample) and change with the number of samples: compare at equal n. They do not change with shift,
rotation and scale of all features.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, naming
from diagnostics.measures.arrays import centre, over_taps, rescale, rounding, samples
from diagnostics.measures.base import Case, Measure, circle, define, normal, rotation
from diagnostics.measures.result import CENTRING, FUNCTIONAL, INTERVAL, POOLING, REASON, SEED, N, store_reasons
from diagnostics.measures.statistics import group_blocks, influence_interval, subset_interval

MOST_ROWS = 4096


@dataclass(frozen=True)
class TapNumbers:
    """Numbers of one tap by variable name (`score`, `low`, `high`, `line_...`, others), and why one has no value."""

    numbers: Mapping[str, float]
    reason: str = ""


class GeometryMeasure(Measure):
    """A number a tap, without a target; neither way is better by itself."""

    family = "geometry"
    higher_is_better = None
    functional: ClassVar[str]
    centring: ClassVar[str]
    interval: ClassVar[str]
    about: ClassVar[Mapping[str, str]] = {}
    """Variable -> what it is, for those beside `score`, `low` and `high`."""

    def laid_out(
        self, activations: Activations, by_tap: Mapping[str, TapNumbers], attrs: Mapping[str, str | int]
    ) -> xr.Dataset:
        """The results of all taps: `score`, `low`, `high` and those of `about`, NaN where a tap has none."""
        names = dict.fromkeys(["score", "low", "high", *self.about])
        variables = {name: [row.numbers.get(name, float("nan")) for row in by_tap.values()] for name in names}
        reason = store_reasons((tap, row.reason) for tap, row in by_tap.items())
        stated = {FUNCTIONAL: self.functional, CENTRING: self.centring, INTERVAL: self.interval}
        return over_taps(activations, variables, {**stated, **self.about, REASON: reason, **attrs})


class PooledMeasure(GeometryMeasure):
    """A function of one pooling of the samples, [sample, feature]."""

    least: ClassVar[int] = 2
    most_rows: ClassVar[int] = MOST_ROWS

    @abstractmethod
    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        """The numbers of one tap from x [sample, feature], float64 and finite."""

    def rows(self, activations: Activations) -> np.ndarray:
        """The rows that are read."""
        return np.arange(min(len(activations.ids), self.most_rows))

    def beside(self, n: int) -> str:
        """The things that n counts, in words."""
        return f"{n} samples"

    def at_tap(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> TapNumbers:
        label, rows = f"Tap {tap.name} for {self.name}", self.rows(activations)
        pooled = activations.pooled(tap.name, activations.poolings[0])[rows]
        x = samples(torch.as_tensor(pooled, device=activations.device), label, self.least)
        with naming(label):
            return self.of_tap(x, activations.groups[rows], seed)

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        pooling, rows = activations.poolings[0], self.rows(activations)
        by_tap = {tap.name: self.find_at(activations, target, tap, seed) for tap in activations.taps}
        attrs: dict[str, str | int] = {POOLING: pooling, N: len(rows), "rows": self.beside(len(rows)), SEED: seed}
        return self.laid_out(activations, by_tap, attrs)


def no_interval(groups: np.ndarray) -> str:
    """The reason why there is no interval over these groups, in words; nothing where there is one."""
    return "" if len(set(groups.astype(str))) > 1 else "all samples are of one group, so no interval"


WANG = "Wang and Isola 2020 (2005.10242)"
ETHAYARAJH = "Ethayarajh 2019 (1909.00512)"
BLOCK_ELEMENTS = 2**20
"""Largest array held for a block, in numbers: 8 MiB."""


def uniformity(x: Any, *, t: float = 2.0) -> float:
    """Uniformity (Wang and Isola 2020, 2005.10242): log mean exp(-t |u_i - u_j|^2) over pairs i < j.

    u are the rows of x [sample, feature] at length 1, as they are (a shift changes the value). From -4 t (two opposite
    samples) to 0 (all alike); lower is more uniform. No sample is paired with itself. NaN where fewer than 2 samples
    have a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import uniformity
        >>> round(uniformity(np.eye(32)), 4)  # orthonormal: |u_i - u_j|^2 is 2
        -4.0
    """
    if not t > 0:
        raise DiagnosticsError(f"t is {t}: give a number above 0.", code="bad-value")
    u = directions(samples(x, "x", 2))
    return _log_mean(_kernel_means(u, t)) if len(u) >= 2 else float("nan")


def mean_cosine(x: Any) -> float:
    """Anisotropy: the mean cosine similarity over pairs i < j of rows of x [sample, feature] (Ethayarajh 2019).

    Not centred: a component common to all samples raises it to 1. 0 for directions without preference, -1 / (n - 1) at
    least. NaN where fewer than 2 samples have a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import mean_cosine
        >>> round(mean_cosine(np.eye(4)), 4)  # at right angles
        0.0
        >>> round(mean_cosine(np.eye(4) + 1), 4)  # shifted: (4 + 2) / (4 + 3)
        0.8571
    """
    u = directions(samples(x, "x", 2))
    return float(_mean_cosines(u).mean()) if len(u) >= 2 else float("nan")


def directions(x: Tensor) -> Tensor:
    """The rows of [sample, feature] at length 1, without those of length zero."""
    # Divided by the largest entry first: its square must neither overflow nor vanish.
    largest = x.abs().amax(dim=1)
    rows = x[largest > 0] / largest[largest > 0, None]
    return rows / rows.square().sum(dim=1).sqrt()[:, None]


def _kernel_means(u: Tensor, t: float) -> Tensor:
    """Mean of exp(-t |u_i - u_j|^2) over j other than i, [sample]."""
    sums = torch.empty(len(u), dtype=u.dtype, device=u.device)
    step = max(1, BLOCK_ELEMENTS // len(u))
    for start in range(0, len(u), step):
        block = u[start : start + step]
        kernel = (block @ u.T).sub_(1).clamp_(max=0).mul_(2 * t).exp_()
        own = torch.arange(len(block), device=u.device)
        kernel[own, start + own] = 0
        sums[start : start + step] = kernel.sum(dim=1)
    return sums / (len(u) - 1)


def _log_mean(means: Tensor) -> float:
    mean = float(means.mean())
    return math.log(mean) if mean > 0 else float("nan")


def _mean_cosines(u: Tensor) -> Tensor:
    """Mean cosine of each sample with the others, [sample], through their sum."""
    return (u @ u.sum(dim=0) - 1) / (len(u) - 1)


class _Directional(PooledMeasure):
    """A mean over pairs of directions: the influence of a sample is twice its mean's excess over all, over n."""

    invariant_to = ("rotation", "each sample's own scale")
    centring: ClassVar[str] = "none; samples scaled to length 1"
    interval = "95 % infinitesimal jackknife over groups"

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        has = (x != 0).any(dim=1).cpu().numpy()
        lost = int((~has).sum())
        if has.sum() < 2:
            return TapNumbers({"line_noise": self.noise(x.shape[1])}, f"{lost} of {len(x)} samples have length zero")
        score, influence = self.value(directions(x))
        low, high = influence_interval(score, influence, groups[has], logarithm=False)
        lacking = f"{lost} of {len(x)} samples have length zero and are left out" if lost else ""
        numbers = {"score": score, "low": low, "high": high, "line_noise": self.noise(x.shape[1])}
        return TapNumbers(numbers, ", ".join(filter(None, (lacking, no_interval(groups[has])))))

    @abstractmethod
    def value(self, u: Tensor) -> tuple[float, np.ndarray]:
        """The value and each sample's influence on it, from directions."""

    @abstractmethod
    def noise(self, features: int) -> float:
        """Its value for independent directions without preference."""


def _uniformity(u: Tensor) -> tuple[float, np.ndarray]:
    """Uniformity at t = 2, and its change with the weight of each sample."""
    means = _kernel_means(u, 2.0)
    return _log_mean(means), (2 * (means / means.mean() - 1) / len(u)).cpu().numpy()


def _uniformity_of_noise(features: int) -> float:
    from scipy.special import hyp0f1

    # E exp(2 t c) over the cosine c of such directions is 0F1(; d / 2; t^2), at t = 2.
    return float(np.log(hyp0f1(features / 2, 4.0)) - 4.0)


def _mean_cosine(u: Tensor) -> tuple[float, np.ndarray]:
    """Mean cosine, and its change with the weight of each sample."""
    means = _mean_cosines(u)
    return float(means.mean()), (2 * (means - means.mean()) / len(u)).cpu().numpy()


Uniformity = define(
    _Directional,
    "Uniformity",
    name="uniformity",
    answers="How evenly do the samples cover the sphere of directions?",
    source=WANG,
    standard=False,
    functional="uniformity: log mean exp(-2 |u_i - u_j|^2) over pairs i < j of samples at length 1",
    about={"line_noise": "the value of independent, evenly spread directions of that width"},
    known_answers=(
        # -3.0161 with the pairs of a sample and itself.
        Case("orthonormal vectors", -4, WANG, lambda: uniformity(np.eye(32))),
        Case(
            "unit circle: ln I0(4) - 4 (2000 points)", -1.575027204484541, WANG, lambda: uniformity(circle(2000)), 2e-3
        ),
    ),
    value=lambda self, u: _uniformity(u),
    noise=lambda self, features: _uniformity_of_noise(features),
)


MeanCosine = define(
    _Directional,
    "MeanCosine",
    name="mean_cosine",
    answers="Do all samples point the same way (anisotropy)?",
    source=ETHAYARAJH,
    functional="mean cosine similarity over pairs i < j of samples",
    about={"line_noise": "0, the value of independent, evenly spread directions"},
    known_answers=(
        Case("orthonormal vectors", 0, ETHAYARAJH, lambda: mean_cosine(np.eye(8))),
        Case("the same vector", 1, ETHAYARAJH, lambda: mean_cosine(np.ones((8, 3)))),
    ),
    value=lambda self, u: _mean_cosine(u),
    noise=lambda self, features: 0.0,
)


FACCO = "Facco et al. 2017"
LEVINA = "Levina and Bickel 2004; MacKay and Ghahramani 2005"
DISCARD = 0.1
"""Share of the largest ratios that TwoNN's regression leaves out (Facco et al. 2017)."""
NEIGHBOURS = 20
PARTS = 10
FEWEST_PARTS = 3
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
    fit: `regression`, the paper's: through the origin, of -log(1 - i / N) on the i-th smallest log mu, the largest
    tenth
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
        raise DiagnosticsError(f"fit is {fit!r}: give 'regression' or 'mle'.", code="bad-value")
    return _two_nn(_distinct(samples(x, "x", 3)))["score" if fit == "regression" else fit]


def mle_dimension(x: Any, *, k: int = NEIGHBOURS) -> float:
    """Maximum likelihood dimension (Levina and Bickel 2004).

    It is averaged over samples as MacKay and Ghahramani 2005 showed.

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
        raise DiagnosticsError(f"k is {k}: give at least 2 neighbours.", code="bad-value")
    return _mle(_distinct(samples(x, "x", k + 1)), k)


def distinct_samples(x: Any) -> int:
    """The number of samples of x [sample, feature] without copies, rounding aside: the n of `two_nn`, `mle_dimension`.

    Examples:
        >>> from diagnostics.measures.geometry import distinct_samples
        >>> distinct_samples([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0]])
        2
    """
    return len(distinct(samples(x, "x")))


def _distinct(x: Tensor) -> Tensor:
    x = rescale(x)
    return x[distinct(x)]


def _two_nn(x: Tensor) -> dict[str, float]:
    """`score`, by regression, and `mle`."""
    logs, equal = _log_ratios(x, 2)
    log_mu, order = logs.flatten().sort()
    n = len(log_mu)
    kept = log_mu[: max(2, int(n * (1 - DISCARD)))]
    height = -torch.log1p(-torch.arange(1, len(kept) + 1, dtype=x.dtype, device=x.device) / n)
    nothing = n < 3 or bool(equal[order[: len(kept)]].all())
    return {
        "score": float("nan") if nothing else _ratio(float(kept @ height), float(kept @ kept)),
        "mle": float("nan") if n < 3 or bool(equal.all()) else _ratio(float(n - 1), float(log_mu.sum())),
    }


def _mle(x: Tensor, k: int) -> float:
    logs, equal = _log_ratios(x, k)
    return float("nan") if bool(equal.all()) else _ratio(1.0, float(logs.mean()))


def _log_ratios(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """log(T_k / T_j), j < k, [sample, k - 1] of distances T_j to the j-th nearest other.

    Also whether they are equal but for rounding.
    """
    nearest = nearest_distances(x, k) if len(x) > k else x.new_empty((0, k))
    there = nearest[:, 0] > 0
    nearest, own = nearest[there], x[: len(nearest)][there].norm(dim=1, keepdim=True)
    logs = (nearest[:, -1:] / nearest[:, :-1]).log()
    # What distances are computed to, and what rounding of the samples, none larger than this, moves them by.
    return logs, logs <= TOLERANCE + rounding(x) * (own + nearest[:, -1:]) / nearest[:, :-1]


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")


def distinct(x: Tensor) -> Tensor:
    """Places of the first of each set of rows of [sample, feature] that are equal but for rounding, in order."""
    x = rescale(x)
    # Along a direction that knows nothing of the data, what is nearly equal lies side by side, and little else does.
    draws = torch.Generator(device="cpu").manual_seed(0)
    direction = torch.randn(x.shape[1], generator=draws, dtype=x.dtype, device="cpu").to(x.device)
    order, least = (x @ direction).argsort(stable=True), rounding(x)
    new = torch.ones(len(x), dtype=torch.bool, device=x.device)
    step = max(1, BLOCK_ELEMENTS // x.shape[1])
    for start in range(1, len(x), step):
        rows = x[order[start - 1 : start + step]]
        new[start : start + step] = rows.diff(dim=0).norm(dim=1) > least * rows[1:].norm(dim=1)
    of_row = new.cumsum(0) - 1
    first = torch.full((int(new.sum()),), len(x), device=x.device)
    return first.scatter_reduce(0, of_row, order, "amin").sort().values


def nearest_distances(x: Tensor, k: int) -> Tensor:
    """Euclidean distances from each row of [sample, feature] to its k nearest others, [sample, k], nearest first.

    Needs more than k rows; never holds n x n. Squared distances come from products, where these lose digits those of
    the nearest and a few more from differences, and where the loss could have hidden a neighbour those of all rows.
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
        x = rescale(x)
        kept = distinct(x)
        points, groups = x if len(kept) == len(x) else x[kept], groups[kept.cpu().numpy()]
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
        if len(points) < self.least:
            reason = f"{len(points)} distinct samples, and it needs {self.least}"
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


TwoNn = define(
    _Dimension, "TwoNn",
    name="two_nn",
    answers="On how many dimensions do the samples lie, by their two nearest neighbours?",
    source=f"{FACCO} (Scientific Reports 7, 12140)",
    invariant_to=("rotation", "scale", "shift"),
    functional="TwoNN: slope through the origin of -log(1 - F) on log(r2 / r1), the largest tenth left out, Euclidean "
        "distances",
    least=3,
    least_part=15,
    about={"mle": "(N - 1) / sum(log(r2 / r1)) over all samples", **_Dimension.about},
    known_answers=(
        Case("unit cube of 2 dimensions, n = 1000 (mean of 8)", 1.97, FACCO, lambda: _of_cube(2, 8), 0.09),
        Case("unit cube of 5 dimensions, n = 1000 (mean of 8)", 4.65, FACCO, lambda: _of_cube(5, 8), 0.22),
        Case("unit cube of 10 dimensions, n = 1000 (mean of 8)", 8.49, FACCO, lambda: _of_cube(10, 8), 0.4),
        Case("the smallest nine tenths of 60 draws minus a fit by hand", 0, FACCO, lambda: two_nn(normal(60, 3, seed=5)) - _fit_by_hand(normal(60, 3, seed=5))),
        Case("each point twice minus once", 0, FACCO, lambda: two_nn(np.repeat(normal(300, 3, seed=0), 2, axis=0)) - two_nn(normal(300, 3, seed=0))),
    ),
    dimension=lambda self, x: _two_nn(x),
)  # fmt: skip


MleDimension = define(
    _Dimension,
    "MleDimension",
    name="mle_dimension",
    answers=f"On how many dimensions do the samples lie, by their {NEIGHBOURS} nearest neighbours?",
    source="Levina and Bickel 2004 (NeurIPS); MacKay and Ghahramani 2005 for the average",
    invariant_to=("rotation", "scale", "shift"),
    standard=False,
    functional=f"1 / mean of log(T_k / T_j) over samples and j < k = {NEIGHBOURS}, Euclidean distances",
    least=NEIGHBOURS + 1,
    least_part=3 * (NEIGHBOURS + 1),
    known_answers=(
        Case(
            "Gaussian on a plane in 6 dimensions, n = 2000",
            2,
            LEVINA,
            lambda: mle_dimension(normal(2000, 2, seed=1) @ rotation(6, 3)[:2]),
            0.12,
        ),
    ),
    dimension=lambda self, x: {"score": _mle(x, NEIGHBOURS)},
)
