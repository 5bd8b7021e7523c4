"""Geometry of the tokens of one sample: how many directions they use, and how their path bends."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.measures.arrays import first_tokens, one_thread, rounding, token_count, token_samples
from diagnostics.measures.geometry.entropies import matrix_entropy
from diagnostics.measures.geometry.pooled import GeometryMeasure, TapNumbers, no_interval
from diagnostics.measures.known_answers import Case, circle
from diagnostics.measures.result import POOLING, SEED, N
from diagnostics.measures.target_free_intervals import bootstrap_mean_interval

SKEAN = "Skean et al. 2025 (2502.02013)"
HOSSEINI = "Hosseini and Fedorenko 2023 (2311.04930)"


def curvature(tokens: Any) -> Any:
    """Curvature of each sample's path through its tokens, in radians (Hosseini and Fedorenko 2023, 2311.04930).

    The mean angle between successive steps v_k = x_{k+1} - x_k: 0 on a line, whatever the sizes of the steps, pi there and
    back, near 2 pi / 3 for independent tokens in many dimensions. Neither shift, scale nor rotation changes it.

    Parameters
    ----------
    tokens: [sample, token, feature] or [token, feature], in the order of the path.

    Returns [sample] as an array, or a float for one sample. A step that is rounding has no direction: angles with it are left
    out. NaN where none is left, as with fewer than 3 tokens.

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
    """Grid tokens of a tap for the first n samples, float64 [sample, token, feature] in blocks."""
    for _, tokens in first_tokens(activations, tap.name, n):
        yield token_samples(tokens, f"Tap {tap.name} for {measure}")[0]


class _TokenMeasure(GeometryMeasure):
    """The mean over samples of a number of each sample's tokens."""

    needs = "tokens"
    standard = False
    interval = "95 % bootstrap over groups"
    most_samples: ClassVar[int]
    order: ClassVar[str]
    """What the order of tokens means for it."""

    @staticmethod
    @abstractmethod
    def of_samples(tokens: Tensor) -> Any:
        """[sample] from [sample, token, feature]; NaN where a sample has no value."""

    @abstractmethod
    def lines(self, tokens: int, features: int) -> dict[str, float]:
        """Reference lines."""

    @abstractmethod
    def lacks(self, tokens: int) -> str:
        """Why a sample has no value."""

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        n = token_count(activations, self.name, self.most_samples)
        by_tap = {tap.name: self._of_tap(activations, tap, n, seed) for tap in activations.taps}
        pooling = f"none: grid tokens, {self.order}"
        return self.laid_out(activations, by_tap, {POOLING: pooling, N: n, SEED: seed})

    def _of_tap(self, activations: Activations, tap: Tap, n: int, seed: int) -> TapNumbers:
        values = np.concatenate([self.of_samples(x) for x in of_first_samples(activations, tap, n, self.name)])
        lines = self.lines(tap.grid.tokens, tap.features)
        known = np.isfinite(values)
        if not known.any():
            return TapNumbers(lines, self.lacks(tap.grid.tokens))
        low, high = (float(end[0]) for end in bootstrap_mean_interval(values[:, None], activations.groups[:n], seed))
        lacking = "" if known.all() else f"{(~known).sum()} of {n} samples: {self.lacks(tap.grid.tokens)}"
        lacking = ", ".join(filter(None, (lacking, no_interval(activations.groups[:n][known]))))
        return TapNumbers({"score": float(values[known].mean()), "low": low, "high": high, **lines}, lacking)


class MatrixEntropy(_TokenMeasure):
    name = "matrix_entropy"
    answers = "Over how many directions do the tokens of a sample spread?"
    source = SKEAN
    invariant_to = ("rotation", "each sample's own scale")
    functional = "matrix entropy of order 1, in nats: entropy of the eigenvalues of K / tr K, K the tokens' Gram matrix"
    centring = "none"
    most_samples = 64
    order = "in any order"
    of_samples = staticmethod(matrix_entropy)
    about: ClassVar[Mapping[str, str]] = {"line_ceiling": "the logarithm of the smaller of tokens and features"}
    known_answers = (
        Case("16 orthonormal tokens: ln 16", math.log(16), SKEAN, lambda: matrix_entropy(np.eye(16))),
        Case("tokens a, a, -a, -a of 3 features: rank 1", 0, SKEAN, lambda: matrix_entropy(np.outer([1.0, 1.0, -1.0, -1.0], [3.0, -1.0, 2.0]))),
        Case("tokens a, a, -a and b at right angles: shares 3/4 and 1/4", 0.562335, SKEAN, lambda: matrix_entropy([[0.6, 0.8], [0.6, 0.8], [-0.6, -0.8], [0.8, -0.6]])),
        Case("16 orthonormal tokens, normalised", 1, SKEAN, lambda: matrix_entropy(np.eye(16), normalised=True)),
    )  # fmt: skip

    def lines(self, tokens: int, features: int) -> dict[str, float]:
        return {"line_ceiling": math.log(min(tokens, features))}

    def lacks(self, tokens: int) -> str:
        return "all tokens are zero"


class Curvature(_TokenMeasure):
    name = "curvature"
    answers = "How sharply does the path through the tokens of a sample bend?"
    source = HOSSEINI
    invariant_to = ("rotation", "scale", "shift")
    functional = "mean angle between successive differences of tokens, in radians"
    centring = "none needed: differences of tokens"
    most_samples = 256
    order = "in raster order (on a grid of several axes the path jumps from the end of a row to the next)"
    of_samples = staticmethod(curvature)
    about: ClassVar[Mapping[str, str]] = {"line_noise": "2 pi / 3, independent tokens in many dimensions"}
    known_answers = (
        Case("equally spaced points on a line beside the origin", 0, HOSSEINI, lambda: curvature(np.outer(np.arange(10.0), [1.0, 2.0, -1.0]) + np.array([0.0, 9.0, 5.0])), 1e-6),
        Case("regular polygon of 12 beside the origin: 2 pi / 12", 0.523599, HOSSEINI, lambda: curvature(np.vstack([circle(12)] * 2)[:14] + np.array([3.0, -1.0]))),
    )  # fmt: skip

    def lines(self, tokens: int, features: int) -> dict[str, float]:
        return {"line_noise": 2 * math.pi / 3}

    def lacks(self, tokens: int) -> str:
        if tokens < 3:
            return f"{tokens} tokens, and an angle takes three"
        return "no two successive steps have a direction"
