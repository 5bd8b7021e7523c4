"""Massive activations: features that are large and almost the same for every input."""

from collections.abc import Mapping
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
    median,
    one_thread,
    quotient,
    rescaled,
    samples,
    token_count,
)
from diagnostics.measures.geometry.pooled import GeometryMeasure, TapNumbers, no_interval
from diagnostics.measures.geometry.tokens import of_first_samples
from diagnostics.measures.known_answers import Case
from diagnostics.measures.result import POOLING, SEED, N
from diagnostics.measures.target_free_intervals import bootstrap_mean_interval, linearised_interval

SUN = "Sun et al. 2024 (2402.17762)"
MOST_SAMPLES = 64

# Values of the samples that are looked at together.
_NEAR = 2**18


@dataclass(frozen=True, repr=False)
class Activity(ShortRepr):
    """How far features are from varying about zero.

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
    hold nearly one value for all inputs, so that their squared mean is far above their variance (`ratio`). Not centred: a
    shift is what this looks for. Needs 2 rows.

    Examples:
        >>> from diagnostics.measures.geometry import massive_activations
        >>> tokens = [[12.0, 1.0], [8.0, -1.0]]  # feature 0 has mean 10, variance 4
        >>> activity = massive_activations(tokens)
        >>> activity.feature, activity.largest
        (0, 25.0)
    """
    rows = rescaled(samples(x, "x", 2))
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


class MassiveActivations(GeometryMeasure):
    name = "massive_activations"
    answers = "Is there a feature that is large whatever the input is?"
    source = SUN
    invariant_to = ("scale",)
    needs = "tokens"
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
        Case("a feature of mean 10 and variance 4: mean squared over variance", 25, SUN, lambda: float(massive_activations([[12.0, 1.0], [8.0, -1.0]]).ratio[0])),
    )  # fmt: skip

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, MOST_SAMPLES)
        by_tap = {tap.name: self._of_tap(activations, tap, n, seed) for tap in activations.taps}
        attrs: dict[str, str | int] = {POOLING: "none: grid tokens, prefix tokens left out", N: n, SEED: seed}
        return self.laid_out(activations, by_tap, attrs)

    def _of_tap(self, activations: Activations, tap: Tap, n: int, seed: int) -> TapNumbers:
        # A few samples at a time stay in the cache of a core.
        some = max(1, _NEAR // (tap.grid.tokens * tap.features))
        parts = [
            (*_moments(part), _peaks(part), part[:, 0])
            for tokens in of_first_samples(activations, tap, n, self.name)
            for part in tokens.split(some)
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
        influence = (score * by_sample / n).cpu().numpy()
        ends = linearised_interval(score, influence, groups)
        numbers |= {"score": score, "low": ends[0], "high": ends[1], "feature": float(feature)}
        return TapNumbers(numbers, no_interval(groups))
