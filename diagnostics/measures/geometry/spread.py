"""How samples are spread over directions: samples are scaled to length 1, and not centred.

A component that all samples share (a large mean) therefore decides: it pulls all directions together. A sample of length
zero has no direction and is left out.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import samples
from diagnostics.measures.geometry.pooled import PooledMeasure, TapNumbers, no_interval
from diagnostics.measures.known_answers import Case, circle
from diagnostics.measures.target_free_intervals import linearised_interval

WANG = "Wang and Isola 2020 (2005.10242)"
ETHAYARAJH = "Ethayarajh 2019 (1909.00512)"
BLOCK_ELEMENTS = 2**23
"""Largest array held for a block, in numbers: 64 MiB."""


def uniformity(x: Any, *, t: float = 2.0) -> float:
    """Uniformity (Wang and Isola 2020, 2005.10242): log mean exp(-t |u_i - u_j|^2) over pairs i < j.

    u are the rows of x [sample, feature] at length 1, as they are (a shift changes the value). From -4 t (two opposite
    samples) to 0 (all alike); lower is more uniform. No sample is paired with itself. NaN where fewer than 2 samples have
    a direction.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import uniformity
        >>> round(uniformity(np.eye(32)), 4)  # orthonormal: |u_i - u_j|^2 is 2
        -4.0
    """
    if not t > 0:
        raise DiagnosticsError(f"t is {t}: give a number above 0.")
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
        low, high = linearised_interval(score, influence, groups[has], logarithm=False)
        lacking = f"{lost} of {len(x)} samples have length zero and are left out" if lost else ""
        numbers = {"score": score, "low": low, "high": high, "line_noise": self.noise(x.shape[1])}
        return TapNumbers(numbers, ", ".join(filter(None, (lacking, no_interval(groups[has])))))

    @abstractmethod
    def value(self, u: Tensor) -> tuple[float, np.ndarray]:
        """The value and each sample's influence on it, from directions."""

    @abstractmethod
    def noise(self, features: int) -> float:
        """Its value for independent directions without preference."""


class Uniformity(_Directional):
    name = "uniformity"
    answers = "How evenly do the samples cover the sphere of directions?"
    source = WANG
    standard = False
    t: ClassVar[float] = 2.0
    functional = "uniformity: log mean exp(-2 |u_i - u_j|^2) over pairs i < j of samples at length 1"
    about: ClassVar[Mapping[str, str]] = {
        "line_noise": "the value of independent, evenly spread directions of that width"
    }
    known_answers = (
        # -3.0161 with the pairs of a sample and itself.
        Case("orthonormal vectors", -4, WANG, lambda: uniformity(np.eye(32))),
        Case("unit circle: ln I0(4) - 4 (2000 points)", -1.575027204484541, WANG, lambda: uniformity(circle(2000)), 2e-3),
    )  # fmt: skip

    def value(self, u: Tensor) -> tuple[float, np.ndarray]:
        means = _kernel_means(u, self.t)
        whole = means.mean()
        return _log_mean(means), (2 * (means / whole - 1) / len(u)).cpu().numpy()

    def noise(self, features: int) -> float:
        from scipy.special import hyp0f1

        # E exp(2 t c) over the cosine c of such directions is 0F1(; d / 2; t^2).
        return float(np.log(hyp0f1(features / 2, self.t**2)) - 2 * self.t)


class MeanCosine(_Directional):
    name = "mean_cosine"
    answers = "Do all samples point the same way (anisotropy)?"
    source = ETHAYARAJH
    functional = "mean cosine similarity over pairs i < j of samples"
    about: ClassVar[Mapping[str, str]] = {"line_noise": "0, the value of independent, evenly spread directions"}
    known_answers = (
        Case("orthonormal vectors", 0, ETHAYARAJH, lambda: mean_cosine(np.eye(8))),
        Case("the same vector", 1, ETHAYARAJH, lambda: mean_cosine(np.ones((8, 3)))),
    )  # fmt: skip

    def value(self, u: Tensor) -> tuple[float, np.ndarray]:
        means = _mean_cosines(u)
        return float(means.mean()), (2 * (means - means.mean()) / len(u)).cpu().numpy()

    def noise(self, features: int) -> float:
        return 0.0
