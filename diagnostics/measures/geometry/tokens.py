"""Geometry of tokens.

How many directions those of a sample use, how their path bends, and features that are large for all of them.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.measures.arrays import (
    SINGLE,
    ShortRepr,
    centre,
    first_tokens,
    median,
    quotient,
    rescale,
    rounding,
    samples,
    token_count,
    token_samples,
)
from diagnostics.measures.base import Case, circle, define
from diagnostics.measures.geometry.pooled import GeometryMeasure, TapNumbers, no_interval
from diagnostics.measures.geometry.views import matrix_entropy
from diagnostics.measures.result import POOLING, SEED, N
from diagnostics.measures.statistics import bootstrap_mean_interval, influence_interval

SKEAN = "Skean et al. 2025 (2502.02013)"
HOSSEINI = "Hosseini and Fedorenko 2023 (2311.04930)"


def curvature(tokens: Any) -> Any:
    """Curvature of each sample's path through its tokens, in radians (Hosseini and Fedorenko 2023, 2311.04930).

    The mean angle between successive steps v_k = x_{k+1} - x_k: 0 on a line, whatever the sizes of the steps, pi there
    and back, near 2 pi / 3 for independent tokens in many dimensions. Neither shift, scale nor rotation changes it.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], in the order of the path.

    Returns [sample] as an array, or a float for one sample. A step that is rounding has no direction: angles with it
    are left out. NaN where none is left, as with fewer than 3 tokens.

    Examples:
        >>> from diagnostics.measures.geometry import curvature
        >>> curvature([[0.0, 1.0], [1.0, 1.0], [5.0, 1.0]])  # along a line
        0.0
        >>> square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
        >>> round(curvature(square), 4)  # pi / 2
        1.5708
    """
    x, single = token_samples(tokens, "tokens")
    steps = x[:, 1:] - x[:, :-1]
    size = steps.abs().amax(dim=2, keepdim=True)
    least = rounding(x) * x[:, 1:].abs().amax(dim=2, keepdim=True)
    steps = torch.where(size > least, steps / size, torch.nan)
    unit = steps / steps.square().sum(dim=2, keepdim=True).sqrt()
    before, after = unit[:, :-1], unit[:, 1:]
    # Exact near 0 and pi, where the arc cosine loses half the digits.
    apart, along = (part.square().sum(dim=2).sqrt() for part in (before - after, before + after))
    bend = (2 * torch.atan2(apart, along)).nanmean(dim=1)
    return float(bend[0]) if single else bend.cpu().numpy()


def of_first_samples(activations: Activations, tap: Tap, n: int, measure: str) -> Iterator[Tensor]:
    """Grid tokens of a tap for the first n samples, float64 [sample, token, feature] in blocks.

    A few samples at a time stay in the cache of a core.
    """
    some = max(1, _NEAR // (tap.grid.tokens * tap.features))
    for _, tokens in first_tokens(activations, tap.name, n):
        for block in tokens.split(some):
            yield token_samples(block, f"Tap {tap.name} for {measure}")[0]


class _OfTokens(GeometryMeasure):
    """A number of the tokens of the first samples."""

    needs = "tokens"
    most_samples: ClassVar[int]
    order: ClassVar[str]
    """What the order of tokens means for it, or which it leaves out."""

    @abstractmethod
    def of_tap(self, activations: Activations, tap: Tap, n: int, seed: int) -> TapNumbers:
        """The numbers of one tap from its first n samples."""

    def at_tap(self, activations: Activations, target: StoredTarget | None, tap: Tap, seed: int) -> TapNumbers:
        return self.of_tap(activations, tap, token_count(activations, self.name, self.most_samples), seed)

    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, self.most_samples)
        by_tap = {tap.name: self.find_at(activations, target, tap, seed) for tap in activations.taps}
        return self.laid_out(activations, by_tap, {POOLING: f"none: grid tokens, {self.order}", N: n, SEED: seed})


class _TokenMeasure(_OfTokens):
    """The mean over samples of a number of each sample's tokens."""

    standard = False
    interval = "95 % bootstrap over groups"

    @staticmethod
    @abstractmethod
    def of_samples(tokens: Tensor) -> Any:
        """[sample] from [sample, token, feature]; NaN where a sample has no value."""

    @abstractmethod
    def lines(self, tokens: int, features: int) -> dict[str, float]:
        """Reference lines."""

    @abstractmethod
    def lacks(self, tokens: int) -> str:
        """The reason why a sample has no value."""

    def of_tap(self, activations: Activations, tap: Tap, n: int, seed: int) -> TapNumbers:
        values = np.concatenate([self.of_samples(x) for x in of_first_samples(activations, tap, n, self.name)])
        lines = self.lines(tap.grid.tokens, tap.features)
        known = np.isfinite(values)
        if not known.any():
            return TapNumbers(lines, self.lacks(tap.grid.tokens))
        low, high = (float(end[0]) for end in bootstrap_mean_interval(values[:, None], activations.groups[:n], seed))
        lacking = "" if known.all() else f"{(~known).sum()} of {n} samples: {self.lacks(tap.grid.tokens)}"
        lacking = ", ".join(filter(None, (lacking, no_interval(activations.groups[:n][known]))))
        return TapNumbers({"score": float(values[known].mean()), "low": low, "high": high, **lines}, lacking)


MatrixEntropy = define(
    _TokenMeasure, "MatrixEntropy",
    name="matrix_entropy",
    answers="Over how many directions do the tokens of a sample spread?",
    source=SKEAN,
    invariant_to=("rotation", "each sample's own scale"),
    functional="matrix entropy of order 1, in nats: entropy of the eigenvalues of K / tr K, K the tokens' Gram matrix",
    centring="none",
    most_samples=64,
    order="in any order",
    of_samples=staticmethod(matrix_entropy),
    about={"line_ceiling": "the logarithm of the smaller of tokens and features"},
    known_answers=(
        Case("16 orthonormal tokens: ln 16", math.log(16), SKEAN, lambda: matrix_entropy(np.eye(16))),
        Case("tokens a, a, -a, -a of 3 features: rank 1", 0, SKEAN, lambda: matrix_entropy(np.outer([1.0, 1.0, -1.0, -1.0], [3.0, -1.0, 2.0]))),
        Case("tokens a, a, -a and b at right angles: shares 3/4 and 1/4", 0.562335, SKEAN, lambda: matrix_entropy([[0.6, 0.8], [0.6, 0.8], [-0.6, -0.8], [0.8, -0.6]])),
        Case("16 orthonormal tokens, normalised", 1, SKEAN, lambda: matrix_entropy(np.eye(16), normalised=True)),
    ),
    lines=lambda self, tokens, features: {"line_ceiling": math.log(min(tokens, features))},
    lacks=lambda self, tokens: "all tokens are zero",
)  # fmt: skip


Curvature = define(
    _TokenMeasure, "Curvature",
    name="curvature",
    answers="How sharply does the path through the tokens of a sample bend?",
    source=HOSSEINI,
    invariant_to=("rotation", "scale", "shift"),
    functional="mean angle between successive differences of tokens, in radians",
    centring="none needed: differences of tokens",
    most_samples=256,
    order="in raster order (on a grid of several axes the path jumps from the end of a row to the next)",
    of_samples=staticmethod(curvature),
    about={"line_noise": "2 pi / 3, independent tokens in many dimensions"},
    known_answers=(
        Case("equally spaced points on a line beside the origin", 0, HOSSEINI, lambda: curvature(np.outer(np.arange(10.0), [1.0, 2.0, -1.0]) + np.array([0.0, 9.0, 5.0])), 1e-6),
        Case("regular polygon of 12 beside the origin: 2 pi / 12", 0.523599, HOSSEINI, lambda: curvature(np.vstack([circle(12)] * 2)[:14] + np.array([3.0, -1.0]))),
    ),
    lines=lambda self, tokens, features: {"line_noise": 2 * math.pi / 3},
    lacks=lambda self, tokens: f"{tokens} tokens, and an angle takes three" if tokens < 3 else "no two successive steps have a direction",
)  # fmt: skip


SUN = "Sun et al. 2024 (2402.17762)"

# Values of the samples that are looked at together.
_NEAR = 2**18


@dataclass(frozen=True, repr=False)
class Activity(ShortRepr):
    """Distance of features from varying about zero.

    `ratio` [feature]: squared mean over variance, NaN for a feature that never varies; `largest` of these and its
    `feature` (-1 where none varies); `peak`: largest magnitude over the median one, NaN where that is 0.

    Examples:
        >>> from diagnostics.measures.geometry import massive_activations
        >>> tokens = [[12.0, 1.0], [8.0, -1.0]]
        >>> massive_activations(tokens).ratio.tolist()  # 10^2 / 4, and 0 / 1
        [25.0, 0.0]
    """

    ratio: np.ndarray
    largest: float
    feature: int
    peak: float


def massive_activations(x: Any) -> Activity:
    """Massive-activation statistics of x [row, feature], rows being samples or tokens (Sun et al. 2024, 2402.17762).

    They call an activation massive that is above 100 and about 1,000 times the median magnitude (`peak`); such features
    hold nearly one value for all inputs, so that their squared mean is far above their variance (`ratio`). Not centred:
    a shift is what this looks for. Needs 2 rows.

    Examples:
        >>> from diagnostics.measures.geometry import massive_activations
        >>> tokens = [[12.0, 1.0], [8.0, -1.0]]  # feature 0 has mean 10, variance 4
        >>> activity = massive_activations(tokens)
        >>> activity.feature, activity.largest
        (0, 25.0)
    """
    rows = rescale(samples(x, "x", 2))
    mean, variance = _moments(rows)
    ratio = quotient(mean.square(), variance).cpu().numpy()
    feature = int(np.nanargmax(ratio)) if not np.isnan(ratio).all() else -1
    return Activity(
        ratio, float(ratio[feature]) if feature >= 0 else float("nan"), feature, float(_peaks(rows[None])[0])
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (divided by n) along the last axis but one."""
    if x.ndim == 2:
        return x.mean(dim=0), centre(x).square().mean(dim=0)
    # From each sample's first token, so that a feature that never varies has exactly no variance.
    apart = x - x[:, :1]
    shift = apart.mean(dim=1)
    return x[:, 0] + shift, (apart - shift[:, None]).square().mean(dim=1)


def _peaks(x: Tensor) -> Tensor:
    """Largest over median magnitude of each [row, feature] of [sample, row, feature]."""
    size = x.abs().flatten(1)
    return quotient(size.amax(dim=1), median(size))


class MassiveActivations(_OfTokens):
    name = "massive_activations"
    answers = "Is there a feature that is large whatever the input is?"
    source = SUN
    invariant_to = ("scale",)
    most_samples = 64
    order = "prefix tokens left out"
    functional = "the largest over features of squared mean over variance, over all grid tokens of the samples"
    centring = "none"
    interval = "95 % infinitesimal jackknife over groups, on the logarithm, for the feature that is largest here"
    about: ClassVar[Mapping[str, str]] = {
        "feature": "the feature that is largest, counted from 0",
        "peak": "largest over median magnitude of a sample's tokens, mean over samples; massive from about 1000 on",
        "peak_low": "lower end of its 95 % bootstrap interval over groups",
        "peak_high": "upper end of its 95 % bootstrap interval over groups",
        "constant": "features that never vary, up to rounding",
    }
    known_answers = (
        Case(
            "a feature of mean 10 and variance 4: mean squared over variance",
            25,
            SUN,
            lambda: float(massive_activations([[12.0, 1.0], [8.0, -1.0]]).ratio[0]),
        ),
    )

    def of_tap(self, activations: Activations, tap: Tap, n: int, seed: int) -> TapNumbers:
        parts = [
            (*_moments(part), _peaks(part), part[:, 0].clone())
            for part in of_first_samples(activations, tap, n, self.name)
        ]
        means, variances, peaks, firsts = (torch.cat([part[i] for part in parts]) for i in range(4))
        groups = activations.groups[:n]
        peak = peaks.cpu().numpy()
        low, high = (float(end[0]) for end in bootstrap_mean_interval(peak[:, None], groups, seed))
        numbers = {"peak": float(np.nanmean(peak)) if not np.isnan(peak).all() else float("nan")}
        numbers |= {"peak_low": low, "peak_high": high}
        # Of all tokens, from their samples': the variance within, and that of the samples' means.
        mean = firsts[0] + (means - firsts[0]).mean(dim=0)
        apart = means - mean
        variance = variances.mean(dim=0) + apart.square().mean(dim=0)
        # Stored activations come in single precision, which leaves a constant feature some variance.
        ratio = quotient(mean.square(), torch.where(variance > (SINGLE * mean).square(), variance, 0.0))
        numbers["constant"] = float(ratio.isnan().sum())
        if bool(ratio.isnan().all()):
            return TapNumbers(numbers, "no feature varies")
        feature = int(ratio.nan_to_num(-1.0).argmax())
        centre_, spread = mean[feature], variance[feature]
        gap = apart[:, feature]
        by_sample = 2 * gap / centre_ - ((variances[:, feature] + gap.square()) / spread - 1)
        score = float(ratio[feature])
        ends = influence_interval(score, (score * by_sample / n).cpu().numpy(), groups)
        numbers |= {"score": score, "low": ends[0], "high": ends[1], "feature": float(feature)}
        return TapNumbers(numbers, no_interval(groups))
