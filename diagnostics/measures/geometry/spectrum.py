"""How many dimensions a representation fills: functionals of its spectrum.

Names get mixed up in the literature, so each says whether it reads singular values or eigenvalues, centred or not.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from diagnostics.activations import Activations, StoredTarget
from diagnostics.measures.arrays import centred, matrix, one_thread, over_taps
from diagnostics.measures.base import Measure
from diagnostics.measures.intervals import group_blocks, jackknife_log_interval

MOST_ROWS = 4096
BLOCKS = 20


def rankme(z: Any) -> float:
    """RankMe (Garrido et al. 2023, 2210.02885, eq. 1 and 2): exp of the entropy of the **uncentred** singular values.

    p_k = sigma_k / sum(sigma) + 1e-7 over the min(n, d) singular values of z [sample, feature], not normalised again.
    At most about min(n, d), so comparable only at equal n and d. NaN where z is zero.
    """
    array = matrix(z, "z")
    if len(array) > array.shape[1]:
        # The triangular factor has the same singular values and fewer rows.
        array = np.linalg.qr(array, mode="r")
    return _rankme_of(np.linalg.svd(array, compute_uv=False))


def participation_ratio(x: Any) -> float:
    """(sum lambda)^2 / sum lambda^2 over the eigenvalues of the **centred** covariance of x [sample, feature].

    Gao et al. 2017 (bioRxiv 214262). Needs 2 samples; NaN where all samples are equal.
    """
    return _participation_of(_gram(centred(matrix(x, "x", least=2))))


def _rankme_of(singular: np.ndarray) -> float:
    total = singular.sum()
    if not total > 0:
        return float("nan")
    p = singular / total + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def _participation_of(gram: np.ndarray) -> float:
    # Trace and Frobenius norm are the sums of the eigenvalues and of their squares: no decomposition needed.
    squares = float(np.vdot(gram, gram))
    return float(np.trace(gram)) ** 2 / squares if squares > 0 else float("nan")


def _gram(x: np.ndarray) -> np.ndarray:
    """The smaller of x xT and xT x; their non-zero eigenvalues agree."""
    return x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x


class _Spectral(Measure):
    """A functional of the spectrum of one pooling, with a jackknife interval over groups.

    Leaving a block of rows out is a sub-matrix of x xT, or a subtraction from xT x, so that no replicate goes through
    the rows again.
    """

    family = "geometry"
    higher_is_better = None
    functional: ClassVar[str]
    centring: ClassVar[str]
    centre: ClassVar[bool]
    least: ClassVar[int]

    @abstractmethod
    def whole(self, x: np.ndarray) -> float:
        """The statistic from all rows."""

    @abstractmethod
    def of_gram(self, gram: np.ndarray, most: int) -> float:
        """The statistic from a Gram matrix whose rank is at most `most`."""

    @one_thread()
    def compute(self, activations: Activations, target: StoredTarget | None, seed: int) -> xr.Dataset:
        pooling = activations.poolings[0]
        n = min(len(activations.ids), MOST_ROWS)
        blocks = group_blocks(activations.groups[:n], BLOCKS, seed)
        score, low, high, ceiling = (np.full(len(activations.taps), np.nan) for _ in range(4))
        for i, tap in enumerate(activations.taps):
            x = matrix(activations.pooled(tap.name, pooling)[:n], f"Tap {tap.name} for {self.name}", self.least)
            ceiling[i] = min(n - self.centre, x.shape[1])
            score[i] = self.whole(x)
            low[i], high[i] = self._interval(score[i], x, blocks)
        found = {"score": score, "low": low, "high": high, "ceiling": ceiling}
        variables = {name: ("tap", values) for name, values in found.items()}
        attrs = {
            "functional": self.functional,
            "pooling": pooling,
            "centring": self.centring,
            "interval": f"95 % delete-a-group jackknife on the logarithm, {len(np.unique(blocks))} blocks of groups",
            "ceiling": "the largest value that n and the number of features allow",
            "n": n,
            "d": max(tap.features for tap in activations.taps),
            "seed": seed,
        }
        return over_taps(activations, variables, attrs)

    def _interval(self, estimate: float, x: np.ndarray, blocks: np.ndarray) -> tuple[float, float]:
        # Centred once over all rows even where each replicate is centred again: the subtraction then costs no digits.
        x = centred(x) if self.centre else x
        wide = x.shape[0] <= x.shape[1]
        gram = _gram(x)
        numbers, sizes = np.unique(blocks, return_counts=True)
        left_out = np.full(len(numbers), np.nan)
        for j, number in enumerate(numbers):
            keep = blocks != number
            n = int(keep.sum())
            if n < self.least:
                continue
            if wide:
                part = gram[np.ix_(keep, keep)]
                if self.centre:
                    rows = part.mean(axis=0)
                    part = part - rows - rows[:, None] + rows.mean()
            else:
                dropped = x[~keep]
                part = gram - dropped.T @ dropped
                if self.centre:
                    mean = -dropped.sum(axis=0) / n
                    part -= n * np.outer(mean, mean)
            left_out[j] = self.of_gram(part, min(n, x.shape[1]))
        return jackknife_log_interval(estimate, left_out, sizes)


class RankMe(_Spectral):
    """RankMe at every tap."""

    name = "rankme"
    answers = "How many dimensions does the representation fill, by its singular values?"
    source = "Garrido et al. 2023 (2210.02885), eq. 1 and 2"
    functional = "RankMe: exp of the entropy of sigma / sum(sigma) + 1e-7, singular values"
    centring = "none"
    centre = False
    least = 1

    def whole(self, x: np.ndarray) -> float:
        return rankme(x)

    def of_gram(self, gram: np.ndarray, most: int) -> float:
        eigenvalues = np.linalg.eigvalsh(gram)[::-1][:most]
        return _rankme_of(np.sqrt(np.maximum(eigenvalues, 0.0)))


class ParticipationRatio(_Spectral):
    """Participation ratio at every tap."""

    name = "participation_ratio"
    answers = "Over how many principal components is the variance spread?"
    source = "Gao et al. 2017 (bioRxiv 214262)"
    functional = "participation ratio: (sum lambda)^2 / sum lambda^2, eigenvalues of the covariance"
    centring = "features centred over samples"
    centre = True
    least = 2

    def whole(self, x: np.ndarray) -> float:
        return participation_ratio(x)

    def of_gram(self, gram: np.ndarray, most: int) -> float:
        return _participation_of(gram)
