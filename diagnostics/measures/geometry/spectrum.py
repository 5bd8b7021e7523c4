"""The effective number of dimensions of a representation: functions of its spectrum.

Names get mixed up in the literature, so each says whether it reads singular values (sigma) or eigenvalues of the
covariance (lambda, proportional to sigma^2), centred or not. None changes with the scale or a rotation of the features;
the centred ones do not change with a shift either, the uncentred ones do.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import SINGLE, centre, eigh, eigvalsh, gram, rescale, samples, svd, svdvals, triangle
from diagnostics.measures.base import Case, cosine_axes, define, rotation
from diagnostics.measures.geometry.pooled import PooledMeasure, TapNumbers, no_interval
from diagnostics.measures.statistics import influence_interval

GARRIDO = "Garrido et al. 2023 (2210.02885), eq. 1 and 2"
ROY = "Roy and Vetterli 2007"
AGRAWAL = "Agrawal et al. 2022"
GAO = "Gao et al. 2017 (bioRxiv 214262)"
RANKS = (11, 100)
"""Eigenvalues between which `alpha_req` fits the decay, counted from 1, both ends in it (reptrix)."""


def rankme(z: Any) -> float:
    """RankMe (Garrido et al. 2023, 2210.02885, eq. 1 and 2): exp of the entropy of the **uncentred** singular values.

    p_k = sigma_k / sum(sigma) + 1e-7 over the min(n, d) singular values of z [sample, feature], not normalised again.
    At most about min(n, d), so comparable only at equal n and d. NaN where z is zero.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import rankme
        >>> round(rankme(np.eye(6)), 3)  # six equal singular values
        6.0
        >>> round(rankme(np.diag([3.0, 1.0])), 4)
        1.7548
    """
    return RankMe.of(samples(z, "z"))


def effective_rank(x: Any) -> float:
    """Effective rank (Roy and Vetterli 2007, EUSIPCO): exp of the entropy of the **uncentred** singular values.

    p_k = sigma_k / sum(sigma) of x [sample, feature]: RankMe without its 1e-7, from 1 to min(n, d). NaN where x is
    zero.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import effective_rank
        >>> round(effective_rank(np.eye(5)), 4)  # five equal singular values
        5.0
        >>> round(effective_rank(np.diag([3.0, 1.0])), 4)
        1.7548
    """
    return EffectiveRank.of(samples(x, "x"))


def alpha_req(x: Any, *, ranks: tuple[int, int] = RANKS) -> float:
    """Decay of the spectrum (alpha-ReQ, Agrawal et al. 2022): minus the slope of log lambda_i on log i.

    Parameters
    ----------
    x: [sample, feature], **centred** here; lambda are the eigenvalues of its covariance, largest first.
    ranks: first and last i of the fit, counted from 1, both in it. Least squares with weights 1 / i, as reptrix fits.

    The slope depends on the range, so a spectrum that ends inside it gives NaN, not the slope of a shorter one: x needs
    more than ranks[1] samples and at least as many features that are not combinations of others.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import alpha_req
        >>> rank = np.arange(1, 11)
        >>> axes = np.cos(np.pi / 64 * np.outer(np.arange(64) + 0.5, rank))
        >>> x = axes * rank**-0.65  # orthogonal axes, so the eigenvalues are rank^-1.3
        >>> round(alpha_req(x, ranks=(1, 10)), 6)
        1.3
    """
    first, last = ranks
    if not 1 <= first < last:
        raise DiagnosticsError(
            f"ranks is {tuple(ranks)}: give two different ranks, the smaller first, from 1 on.", code="bad-value"
        )
    return _of_spectrum(lambda sigma: _decay(sigma, first, last), singular_values(samples(x, "x", 2), centred=True))


def nesum(x: Any) -> float:
    """NESum: sum(lambda) / lambda_1 over the eigenvalues of the **centred** covariance of x [sample, feature].

    He and Ozay 2022 (ICML); compared with others in 2305.16562. The stable rank of centred data. Needs 2 samples; NaN
    where all samples are equal.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import nesum
        >>> half = np.diag([4.0, 2.0, 1.0, 1.0]) ** 0.5
        >>> x = np.vstack([half, -half])  # eigenvalues in ratio 4 : 2 : 1 : 1
        >>> round(nesum(x), 6)  # 8 / 4
        2.0
    """
    return NeSum.of(samples(x, "x", 2))


def participation_ratio(x: Any) -> float:
    """(sum lambda)^2 / sum lambda^2 over the eigenvalues of the **centred** covariance of x [sample, feature].

    Gao et al. 2017 (bioRxiv 214262). Needs 2 samples; NaN where all samples are equal.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import participation_ratio
        >>> half = np.diag([4.0, 2.0, 1.0, 1.0]) ** 0.5
        >>> x = np.vstack([half, -half])  # eigenvalues in ratio 4 : 2 : 1 : 1
        >>> round(participation_ratio(x), 4)  # 8^2 / (16 + 4 + 1 + 1)
        2.9091
    """
    return ParticipationRatio.of(samples(x, "x", 2))


def stable_rank(x: Any) -> float:
    """Stable rank: squared Frobenius norm over squared spectral norm of x [sample, feature], **uncentred**.

    Rudelson and Vershynin 2007 (J. ACM 54, "numerical rank"). sum(sigma^2) / sigma_1^2; NaN where x is zero.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.geometry import stable_rank
        >>> x = np.diag([4.0, 2.0, 1.0, 1.0]) ** 0.5  # squared singular values 4, 2, 1, 1
        >>> round(stable_rank(x), 6)  # 8 / 4
        2.0
    """
    return StableRank.of(samples(x, "x"))


Functional = Callable[[Tensor], Tensor]
"""A scalar from singular values [k], largest first and not all zero; differentiable, and without a scale."""
_ROUNDING = 16 * torch.finfo(torch.float64).eps


def singular_values(x: Tensor, *, centred: bool) -> Tensor:
    """The min(n, d) singular values of [sample, feature], largest first; rounding error is set to 0."""
    return _without_rounding(svdvals(_triangle(centre(x) if centred else x)), x)


def singular_values_and_parts(x: Tensor, *, centred: bool) -> tuple[Tensor, Tensor]:
    """`singular_values`, and what each row adds to their squares, [sample, k]."""
    rows = centre(x) if centred else x
    left, sigma, right = svd(_triangle(rows))
    sigma = _without_rounding(sigma, x)
    # The triangle of a wide matrix keeps its rows' left vectors, that of a tall one its right vectors.
    return sigma, (left * sigma if len(rows) <= rows.shape[1] else rows @ right.mT).square()


def spectrum_of_products(functional: Functional, x: Tensor, *, centred: bool) -> tuple[Tensor, Tensor] | None:
    """`singular_values_and_parts` up to a scale, at a third of their cost.

    None where rounding may change the functional by more than `SINGLE` of it, which is what the storage of the
    activations changes.

    Eigenvalues of products are wrong by a share `_ROUNDING` of the largest, and so small singular values, their roots,
    by more than their digits: what that does to the functional is bounded by its derivatives.
    """
    rows = rescale(centre(x) if centred else x)
    wide = len(rows) <= rows.shape[1]
    ascending, vectors = eigh(gram(rows if wide else rows.mT.contiguous()))
    roots, vectors = ascending.clamp(min=0).flip(0).sqrt(), vectors.flip(1)
    least = math.sqrt(_ROUNDING) * roots[0]
    sigma, above = roots * (roots > least), torch.maximum(roots, least)
    value = functional(sigma).abs()
    if bool(value.isnan()) or bool(_slope(functional, above).abs() @ (least.square() / above) > SINGLE * value):
        return None
    return sigma, (vectors * sigma if wide else rows @ vectors).square()


def influence(functional: Functional, sigma: Tensor, parts: Tensor) -> Tensor:
    """Derivative of a functional of the spectrum by the weight of each row, [sample]; sums to 0."""
    # A row adds (v_k . x_i)^2 to the k-th eigenvalue of x^T x. That the mean moves with the weight changes nothing.
    there = sigma > 0
    return parts[:, there] @ (_slope(functional, sigma[there]) / (2 * sigma[there]))


def _slope(functional: Functional, sigma: Tensor) -> Tensor:
    """Derivative of a functional by each singular value."""
    values = sigma.clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(functional(values), values)[0]


def _triangle(rows: Tensor) -> Tensor:
    """A square matrix with the singular values of [sample, feature]."""
    return triangle(rows.mT).mT if len(rows) <= rows.shape[1] else triangle(rows)


def _without_rounding(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma * (sigma > sigma[0] * max(x.shape) * torch.finfo(x.dtype).eps)


def _of_spectrum(functional: Functional, sigma: Tensor) -> float:
    return float(functional(sigma)) if bool(sigma[0] > 0) else float("nan")


def _energy(sigma: Tensor) -> Tensor:
    return (sigma / sigma[0]).square().sum()


def _decay(sigma: Tensor, first: int = RANKS[0], last: int = RANKS[1]) -> Tensor:
    if len(sigma) < last or not bool(sigma[last - 1] > 0):
        return sigma.new_tensor(float("nan"))
    rank = torch.arange(first, last + 1, dtype=sigma.dtype, device=sigma.device)
    weight = 1 / rank
    along = rank.log() - (weight @ rank.log()) / weight.sum()
    height = 2 * (sigma[first - 1 : last] / sigma[0]).log()
    return -(weight * along) @ height / ((weight * along) @ along)


@functools.lru_cache(maxsize=16)
def _of_noise(n: int, d: int, seed: int, device: str, centred: bool) -> Tensor:
    """Singular values of one draw of independent standard Gaussian features; taps and measures share it."""
    draws = torch.Generator(device=device).manual_seed(seed)
    noise = torch.randn((n, d), generator=draws, dtype=torch.float64, device=device)
    rows = centre(noise) if centred else noise
    # None is so small that its square lacks digits, but for the last where centring leaves one of 0.
    sigma = eigvalsh(gram(rows if n <= d else rows.mT.contiguous())).clamp(min=0).flip(0).sqrt()
    sigma[n - centred :] = 0
    return sigma


class _Spectral(PooledMeasure):
    """A functional of the spectrum with its value for noise, and an interval from the influence of each group."""

    centred: ClassVar[bool]
    empty: ClassVar[str]
    """Why there is no value where all singular values are 0."""
    interval = (
        "95 % infinitesimal jackknife over groups, on the logarithm; about the value at this n, which grows with n"
    )
    about: ClassVar[Mapping[str, str]] = {
        "line_noise": "the value of independent standard Gaussian features, one draw of the same n and width",
        "line_ceiling": "the largest value that n and the number of features allow",
    }

    of_sigma: "ClassVar[staticmethod[[Tensor], Tensor]]"
    """The functional; NaN where it has no value."""

    @classmethod
    def of(cls, x: Tensor) -> float:
        """The value of [sample, feature]; NaN where all singular values are 0."""
        return _of_spectrum(cls.of_sigma, singular_values(x, centred=cls.centred))

    def read(self, x: Tensor) -> tuple[float, Tensor, str]:
        """The value of [sample, feature], the influence of each sample, and why there is no value."""
        sigma, parts = spectrum_of_products(self.of_sigma, x, centred=self.centred) or singular_values_and_parts(
            x, centred=self.centred
        )
        score = _of_spectrum(self.of_sigma, sigma)
        lacks = self.lacks(sigma) if np.isnan(score) else ""
        return score, parts if lacks else influence(self.of_sigma, sigma, parts), lacks

    def of_tap(self, x: Tensor, groups: np.ndarray, seed: int) -> TapNumbers:
        score, by_sample, lacks = self.read(x)
        n, d = x.shape
        noise = _of_spectrum(self.of_sigma, _of_noise(n, d, seed, str(x.device), self.centred))
        lines = {"line_noise": noise, "line_ceiling": float(min(n - self.centred, d))}
        if lacks:
            return TapNumbers(lines, lacks)
        low, high = influence_interval(score, by_sample.cpu().numpy(), groups)
        return TapNumbers({"score": score, "low": low, "high": high, **lines}, no_interval(groups))

    def lacks(self, sigma: Tensor) -> str:
        """The reason why there is no value."""
        return self.empty


class _OfSingularValues(_Spectral):
    """Of the singular values of the features as they are."""

    centring = "none"
    centred = False
    invariant_to = ("rotation", "scale")
    least = 1
    empty = "all features are zero"


class _OfCovariance(_Spectral):
    """Of the eigenvalues of the features' covariance."""

    centring = "features centred over samples"
    centred = True
    invariant_to = ("rotation", "scale", "shift")
    empty = "all samples are equal"


class _OfSquares(_OfCovariance):
    """The participation ratio, from the features' products alone: a tenth of the cost of a decomposition."""

    @classmethod
    def of(cls, x: Tensor) -> float:
        return cls().read(x)[0]

    def read(self, x: Tensor) -> tuple[float, Tensor, str]:
        rows = centre(x)
        largest = rows.abs().max()
        if not bool(largest > 0):
            return float("nan"), rows, self.empty
        rows = rows / largest
        # Products of samples say at once what each row adds; those of features, with another product of their size.
        wide = len(rows) <= 3 * rows.shape[1]
        products = gram(rows if wide else rows.mT.contiguous())
        # Sums over the eigenvalues, and what each row adds to them.
        own = rows.square().sum(dim=1)
        reached = products.square().sum(dim=1) if wide else ((rows @ products) * rows).sum(dim=1)
        total, squares = own.sum(), products.square().sum()
        return float(total**2 / squares), 2 * total / squares * (own - total / squares * reached), ""


def _with_singular_values(*values: float, n: int = 24) -> np.ndarray:
    """Centred data with these singular values, turned so that no axis is special."""
    count = len(values)
    return cosine_axes(n, count) * np.array(values) @ rotation(count, 0)


def _with_eigenvalues(*values: float) -> np.ndarray:
    return _with_singular_values(*np.sqrt(values))


def _with_power_law() -> np.ndarray:
    """Centred data with eigenvalues i^-1.3."""
    return cosine_axes(256, 120) * np.arange(1, 121) ** -0.65


def _participation(sigma: Tensor) -> Tensor:
    share = (sigma / sigma[0]).square()
    return share.sum().square() / share.square().sum()


RankMe = define(
    _OfSingularValues,
    "RankMe",
    name="rankme",
    answers="How many dimensions does the representation fill, by its singular values?",
    source=GARRIDO,
    functional="RankMe: exp of the entropy of sigma / sum(sigma) + 1e-7, singular values",
    known_answers=(
        Case("singular values (3, 1)", 1.754765, GARRIDO, lambda: rankme(_with_singular_values(3, 1)), 2e-6 + 5e-6),
        Case("6 equal singular values", 6, GARRIDO, lambda: rankme(_with_singular_values(*[2.0] * 6)), 2e-5),
        Case(
            "singular values (3, 1) and 198 of 0, each of which counts 1e-7",
            math.exp(-sum(p * math.log(p) for p in [0.75 + 1e-7, 0.25 + 1e-7] + [1e-7] * 198)),
            GARRIDO,
            lambda: rankme(np.pad(_with_singular_values(3, 1, n=200), ((0, 0), (0, 198)))),
            1e-7,
        ),
    ),
    of_sigma=staticmethod(lambda sigma: torch.special.entr(sigma / sigma.sum() + 1e-7).sum().exp()),
)
EffectiveRank = define(
    _OfSingularValues,
    "EffectiveRank",
    name="effective_rank",
    answers="How many dimensions does the representation fill, by its singular values (without RankMe's constant)?",
    source=f"{ROY} (EUSIPCO)",
    functional="effective rank: exp of the entropy of sigma / sum(sigma), singular values",
    standard=False,
    known_answers=(
        Case(
            "singular values (3, 1)",
            math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))),
            ROY,
            lambda: effective_rank(_with_singular_values(3, 1)),
        ),
        Case("5 equal singular values", 5, ROY, lambda: effective_rank(_with_singular_values(*[1.0] * 5))),
    ),
    # 0 has no entropy, but an infinite derivative.
    of_sigma=staticmethod(lambda sigma: torch.special.entr(sigma[sigma > 0] / sigma.sum()).sum().exp()),
)
StableRank = define(
    _OfSingularValues,
    "StableRank",
    name="stable_rank",
    answers="How large is the total energy relative to that of the largest singular direction?",
    source="Rudelson and Vershynin 2007 (J. ACM 54)",
    functional="stable rank: sum(sigma^2) / sigma_1^2, singular values",
    standard=False,
    known_answers=(
        Case(
            "eigenvalues (4, 2, 1, 1)",
            2,
            "Rudelson and Vershynin 2007",
            lambda: stable_rank(_with_eigenvalues(4, 2, 1, 1)),
        ),
    ),
    of_sigma=staticmethod(_energy),
)
NeSum = define(
    _OfCovariance,
    "NeSum",
    name="nesum",
    answers="How large is the total variance relative to that of the first principal component?",
    source="He and Ozay 2022 (ICML); 2305.16562",
    functional="NESum: sum(lambda) / lambda_1, eigenvalues of the covariance",
    standard=False,
    known_answers=(
        Case("eigenvalues (4, 2, 1, 1)", 2, "He and Ozay 2022", lambda: nesum(_with_eigenvalues(4, 2, 1, 1))),
    ),
    of_sigma=staticmethod(_energy),
)
ParticipationRatio = define(
    _OfSquares,
    "ParticipationRatio",
    name="participation_ratio",
    answers="Over how many principal components is the variance spread?",
    source=GAO,
    functional="participation ratio: (sum lambda)^2 / sum lambda^2, eigenvalues of the covariance",
    known_answers=(
        Case("eigenvalues (9, 1)", 1.219512, GAO, lambda: participation_ratio(_with_eigenvalues(9, 1))),
        Case("eigenvalues (4, 2, 1, 1)", 2.909091, GAO, lambda: participation_ratio(_with_eigenvalues(4, 2, 1, 1))),
        Case(
            "the same, shifted by 1e4", 2.909091, GAO, lambda: participation_ratio(_with_eigenvalues(4, 2, 1, 1) + 1e4)
        ),
    ),
    of_sigma=staticmethod(_participation),
)
AlphaReq = define(
    _OfCovariance,
    "AlphaReq",
    name="alpha_req",
    answers="How fast do the variances along the principal components fall?",
    source=f"{AGRAWAL} (NeurIPS, alpha-ReQ); weights and range as reptrix",
    functional=f"alpha-ReQ: minus the slope of log lambda on log rank, ranks {RANKS[0]} to {RANKS[1]}, weights 1 / "
    f"rank, eigenvalues of the covariance",
    standard=False,
    about={"line_noise": _Spectral.about["line_noise"]},
    lacks=lambda self, sigma: f"{int((sigma > 0).sum())} eigenvalues are not 0 and the fit reads the first {RANKS[1]}",
    known_answers=(
        Case("eigenvalues i^-1.3", 1.3, AGRAWAL, lambda: alpha_req(_with_power_law())),
        # reptrix moves its range at every call.
        Case(
            "the same, asked a second time", 1.3, AGRAWAL, lambda: [alpha_req(_with_power_law()) for _ in range(2)][1]
        ),
    ),
    of_sigma=staticmethod(_decay),
)
