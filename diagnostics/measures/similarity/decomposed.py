"""Similarities by a decomposition of every pair of taps: canonical correlations, shape distances, and transfer.

Canonical correlations do not depend on the variance of the directions. All three read an orthonormal basis of the
centred samples: the canonical correlations are the singular values of the product of two of them (Björck and Golub
1973). Directions whose singular value is at most `RANK` of the largest are rounding (of activations in single
precision), not directions. Scales of features play no part above that. Two representations whose ranks add up to n or
more share directions whatever they hold, so that correlations of 1 are no finding there: the plain functions warn, the
measures give NaN and say so; at most 1 in 10 of n is a good rule. The mean squared correlation of unrelated data is
max(p, q) / (n - 1).

Shape distances say how far apart two representations are after optimal translation, scaling and rotation. Both are
metrics (the triangle inequality holds), so that taps can be clustered or embedded by them. Transfer similarity says how
far apart the predictions of ridge regression are.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import centre, pair, svd, svdvals, triangle
from diagnostics.measures.base import (
    Case,
    common_axes,
    cosine_axes,
    define,
    normal,
    overlapping_columns,
    rotation,
    sixty_samples,
)
from diagnostics.measures.similarity.base import NULL_DRAWS, Similarity, Taps

RAGHU = "Raghu et al. 2017 (1706.05806)"
MORCOS = "Morcos et al. 2018 (1806.05759)"
RANK = 1e-6
"""Singular values up to this share of the largest are rounding: single precision leaves some 1e-7 of it."""
VARIANCE = 0.99
FEW_PERMUTATIONS = 19
"""The fewest that can reject at .05: each costs a decomposition for every pair of taps, not an inner product."""

# By so much may a share of the variance be missed.
_NOTHING = 1e-12


def canonical_correlations(x: Any, y: Any) -> np.ndarray:
    """Canonical correlations (Hotelling 1936), descending, as many as the smaller rank.

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ.

    Invariant to any invertible linear map and any shift of either side. All are 1 where a side's rank is n - 1 (n at
    most the width), and some wherever the ranks add up to n or more: no finding there, and a UserWarning says so. Empty
    where a side is constant. Raises DiagnosticsError for fewer than 2 samples, unequal numbers of samples and values
    that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import canonical_correlations
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes[:, :2], axes[:, 1:] * [5, 1]  # one axis of two is shared
        >>> canonical_correlations(x, y).round(6).tolist()
        [1.0, 0.0]
    """
    a, b = (basis(side) for side in pair(x, y, 2))
    _warn_of_shared("canonical_correlations", a, b)
    return _correlations(a, b).cpu().numpy()


def cca(x: Any, y: Any) -> float:
    """Mean canonical correlation over the smaller rank (Raghu et al. 2017, 1706.05806).

    **Needs many samples**: where the ranks add up to n or more it is high for independent x and y too (1 for n at most
    the width), and a UserWarning says so. Arguments, invariances, the warning and errors as in
    `canonical_correlations`; NaN where a side is constant. Every direction counts alike, however little variance it
    has.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import cca
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> round(cca(x, x @ [[1, 5, 0], [0, 1, 7], [0, 0, 2]]), 6)  # any invertible map
        1.0
    """
    a, b = (basis(side) for side in pair(x, y, 2))
    _warn_of_shared("cca", a, b)
    return _mean(a, b)


def svcca(x: Any, y: Any, *, variance: float = VARIANCE) -> float:
    """SVCCA (Raghu et al. 2017, 1706.05806): `cca` of each side's first principal components.

    They are the fewest that hold `variance` of its variance (squared singular values; some codes sum the singular
    values and keep more).

    Invariant to rotation, scale and shift, not to every linear map, which changes the components. `variance` is in (0,
    1]. Otherwise as `cca`.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import svcca
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes[:, :2] * [10, 0.1], axes[:, ::2] * [10, 0.1]
        >>> round(svcca(x, y), 6)  # the axis with 99.99 % of the variance is shared
        1.0
    """
    if not 0 < variance <= 1:
        raise DiagnosticsError(
            f"svcca keeps a share of the variance, not {variance}: give more than 0 and at most 1.", code="bad-value"
        )
    a, b = (leading(side, variance) for side in pair(x, y, 2))
    _warn_of_shared("svcca", a, b)
    return _mean(a, b)


def pwcca(x: Any, y: Any) -> float:
    """PWCCA (Morcos et al. 2018, 1806.05759, section 2.2): canonical correlations weighted by what they explain of x.

    Direction i weighs alpha_i = sum_j |<h_i, x_j>|, with h_i the unit canonical variate on the side of x and x_j the
    centred features of x. **Asymmetric**: weights come from x, however wide it is (the authors' code takes those of the
    narrower side). Over the smaller rank, so that directions of a wider x without a partner carry no weight.

    Invariant to invertible maps of y, and to scale and shift of x; a rotation of x changes the weights. Where
    correlations are equal their variates, and so the value, are not unique. Otherwise as `cca`.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import pwcca
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes[:, :2] * [3, 1], axes[:, ::2]  # they share the first axis
        >>> round(pwcca(x, y), 6), round(pwcca(y, x), 6)  # 3 / (3 + 1), and 1 / (1 + 1)
        (0.75, 0.5)
    """
    a, b = (_variates(side) for side in pair(x, y, 2))
    _warn_of_shared("pwcca", a[0], b[0])
    return _projection_mean(a, b)


def spread(x: Tensor) -> Tensor:
    """x [sample, feature] centred, scaled to a largest entry of 1; [sample, 0] where the samples do not differ."""
    out = centre(x)
    peak = out.abs().max()
    return out.div_(peak) if peak > 0 else out[:, :0]


def principal(spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of centred samples without what is rounding: [sample, r], [r], [r, feature]."""
    u, s, v = svd(spread)
    rank = int((s > RANK * s[:1]).sum())
    return u[:, :rank], s[:rank], v[:rank]


def basis(x: Tensor) -> Tensor:
    """Orthonormal basis of the centred samples, [sample, rank]."""
    return principal(spread(x))[0]


def leading(x: Tensor, variance: float) -> Tensor:
    """The fewest unit principal components that hold this share of the variance, [sample, component]."""
    u, s, _ = principal(spread(x))
    held = (s**2).cumsum(0)
    # A share that is met exactly must not be missed by rounding.
    return u[:, : int((held < (variance - _NOTHING) * held[-1:]).sum()) + 1]


def still(x: Tensor) -> str:
    """The reason that a tap whose samples are all alike, but for rounding in single precision, has no value.

    Else "".
    """
    # Feature by feature, as rounding is: a large constant feature makes the others no less different.
    differs = centre(x).abs().amax(dim=0) > RANK * x.abs().amax(dim=0)
    return "" if bool(differs.any()) else "its samples do not differ"


def _warn_of_shared(name: str, a: Tensor, b: Tensor) -> None:
    """Warns the caller of a plain function where bases [sample, rank] have directions in common whatever the data."""
    n, ranks = len(a), (a.shape[1], b.shape[1])
    # Centred samples span n - 1 directions; a side without any has no value, and nothing to warn of.
    if min(ranks) and sum(ranks) >= n:
        warnings.warn(
            f"{name} of {n} samples with ranks {ranks[0]} and {ranks[1]} is no finding: ranks that add up to n or more share "
            "directions whatever x and y hold, so give more samples or fewer features.",
            UserWarning,
            stacklevel=3,
        )


def _variates(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis [sample, rank] and the features in it, [rank, feature]."""
    u, s, v = principal(spread(x))
    return u, s[:, None] * v


def _correlations(a: Tensor, b: Tensor) -> Tensor:
    # Only rounding passes 1.
    return svdvals(a.T @ b).clamp(0.0, 1.0)


def _mean(a: Tensor, b: Tensor) -> float:
    return float(_correlations(a, b).mean()) if a.numel() and b.numel() else float("nan")


def _projection_mean(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    (first, features), second = a, b[0]
    if not (first.numel() and second.numel()):
        return float("nan")
    u, rho, _ = svd(first.T @ second)
    weights = (u.to(features.dtype).T @ features).abs().sum(dim=1)
    return float((weights * rho.clamp(0.0, 1.0)).sum() / weights.sum())


class Decomposed(Similarity):
    """A similarity that takes a decomposition for every pair of taps.

    Its null has few permutations, in single precision.
    """

    permutations = FEW_PERMUTATIONS

    def shuffle(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        return super().shuffle(list(map(_single, firsts)), list(map(_single, seconds)), orders, upper)


def _single(decomposed: Tensor | tuple[Tensor, ...]) -> Any:
    return decomposed.float() if isinstance(decomposed, Tensor) else tuple(part.float() for part in decomposed)


class _Canonical(Decomposed):
    """A functional of canonical correlations; taps that fill half of the sample space have none."""

    centring = "features centred over samples"
    least = 2
    remedy: ClassVar[str]

    @abstractmethod
    def directions(self, x: Tensor) -> Tensor:
        """Orthonormal directions of a tap that are compared, [sample, direction]."""

    def prepare(self, x: Tensor) -> Any:
        return self.directions(x)

    def compare(self, a: Any, b: Any) -> float:
        return _mean(a, b)

    def reason(self, x: Tensor) -> str:
        n = len(x)
        if why := still(x):
            return why
        if 2 * min(x.shape) < n or 2 * (count := self.directions(x).shape[1]) < n:
            return ""
        limit = f" ({self.name} reads at most {self.most_rows})" if 2 * count >= self.most_rows else ""
        return (
            f"it fills {count} directions, and two such taps share some among {n} samples whatever they hold: use more "
            f"than {2 * count} samples{limit}{self.remedy}"
        )


def _invertible_map() -> np.ndarray:
    """[8, 8], by which the features of `sixty_samples` are mixed."""
    return normal(8, 8, seed=5) + 3 * np.eye(8)


def _strongest_shared() -> tuple[np.ndarray, np.ndarray]:
    """Two sides [16, 2] with singular values (3, 1), the first direction shared."""
    axes = cosine_axes(16, 3)
    return axes[:, [0, 1]] * [3.0, 1.0], axes[:, [0, 2]] * [3.0, 1.0]


def _one_shared_component(n: int = 500) -> float:
    """SVCCA where the strongest component, 100 times the variance of each of 20 others, is all that is shared."""
    shared = normal(n, 1, seed=0) * 10
    return svcca(np.hstack([shared, normal(n, 20, seed=1)]), np.hstack([shared, normal(n, 20, seed=2)]))


Cca = define(
    _Canonical,
    "Cca",
    name="cca",
    answers="Which taps hold the same directions up to any linear map, whatever their variance?",
    source=f"{RAGHU}; Hotelling 1936",
    invariant_to=("any invertible linear map", "shift"),
    functional="mean canonical correlation over the smaller rank",
    remedy=", or svcca",
    known_answers=(
        Case("invertible map", 1, RAGHU, lambda: cca(sixty_samples(), sixty_samples() @ _invertible_map())),
        Case("6 orthonormal columns of which 2 are shared", 1 / 3, RAGHU, lambda: cca(*overlapping_columns())),
        Case(
            "mean squared correlation, independent, n = 500, p = 20, q = 30: max(p, q) / (n - 1)",
            0.0601,
            "measures: Wishart mean",
            lambda: float(np.mean(canonical_correlations(normal(500, 20, seed=0), normal(500, 30, seed=1)) ** 2)),
            8e-3,
        ),
    ),
    directions=lambda self, x: basis(x),
)


Svcca = define(
    _Canonical,
    "Svcca",
    name="svcca",
    answers="Which taps hold the same principal directions up to a linear map of them?",
    source=RAGHU,
    invariant_to=("rotation", "scale", "shift"),
    functional=f"mean canonical correlation of the principal components that hold {VARIANCE:.0%} of the variance",
    remedy="",
    known_answers=(
        Case("only the strongest of 21 components shared", 0.2088, RAGHU, _one_shared_component, 0.05),
        Case(
            "singular values (3, 1), the first shared, 85 % of the variance kept: one component",
            1,
            RAGHU,
            lambda: svcca(*_strongest_shared(), variance=0.85),
        ),
        Case("the same, 95 % kept: two components", 0.5, RAGHU, lambda: svcca(*_strongest_shared(), variance=0.95)),
    ),
    directions=lambda self, x: leading(x, VARIANCE),
)


# Of every ordered pair of taps, weighted by the features of `tap`.
Pwcca = define(
    _Canonical,
    "Pwcca",
    name="pwcca",
    answers="How much of what a tap's features carry does another tap hold up to a linear map?",
    source=f"{MORCOS}, section 2.2",
    invariant_to=("any invertible linear map of tap_other", "scale", "shift"),
    functional="canonical correlations weighted by alpha_i = sum_j |<h_i, x_j>|, x_j the features of tap (not "
    "tap_other)",
    remedy=", or svcca",
    symmetric=False,
    most_rows=1024,
    known_answers=(
        Case(
            "singular values (3, 1), the first shared: 3 / (3 + 1)", 0.75, MORCOS, lambda: pwcca(*_strongest_shared())
        ),
        Case("invertible map", 1, MORCOS, lambda: pwcca(sixty_samples(), sixty_samples() @ _invertible_map())),
        Case("x wider than y, y inside x", 1, MORCOS, lambda: pwcca(sixty_samples()[:, :3], sixty_samples())),
    ),
    directions=lambda self, x: basis(x),
    prepare=lambda self, x: _variates(x),
    compare=lambda self, a, b: _projection_mean(a, b),
    permute=lambda self, a, order: (a[0][order], a[1]),
)


DING = "Ding et al. 2021 (2108.01661)"
WILLIAMS = "Williams et al. 2021 (2110.14739)"

# Below this squared distance, 2 - 2 nu has lost too many digits.
_NEAR = 1e-4


def procrustes(x: Any, y: Any) -> float:
    """Procrustes distance sqrt(2 - 2 ||X^T Y||_*) (Ding et al. 2021, 2108.01661; Williams et al. 2021, 2110.14739).

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ (the narrower is as if filled with zeros).

    X and Y are centred and divided by their Frobenius norms, so it lies between 0 (the same up to rotation, scale and
    shift) and sqrt(2) (no feature of one goes with any of the other). Ding et al. report its square. Not invariant to
    other linear maps. Unrelated features wider than n come near 0. NaN where a side is constant.
    Raises DiagnosticsError for fewer than 2 samples, unequal numbers of samples and values that are not finite.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import procrustes
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes * np.sqrt([3, 2, 1]), axes * np.sqrt([1, 2, 3])
        >>> round(procrustes(x, y), 5)  # sqrt(2 - 2 (2 + 2 sqrt(3)) / 6)
        0.42265
        >>> round(procrustes(axes[:, :1], axes[:, 1:]), 4)  # nothing shared: sqrt(2)
        1.4142
    """
    first, second = pair(x, y, 2)
    return _distance(unit(first), unit(second))


def angular_distance(x: Any, y: Any) -> float:
    """Angular Procrustes distance arccos ||X^T Y||_*, in radians from 0 to pi / 2 (Williams et al. 2021, 2110.14739).

    The length of the arc whose chord is `procrustes`; everything else as there.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import angular_distance
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes * np.sqrt([3, 2, 1]), axes * np.sqrt([1, 2, 3])
        >>> round(angular_distance(x, y), 5)  # arccos of (2 + 2 sqrt(3)) / 6
        0.42586
    """
    first, second = pair(x, y, 2)
    return _angle(unit(first), unit(second))


def unit(x: Tensor) -> Tensor:
    """x centred, with Frobenius norm 1 and no more columns than samples (turned, which changes no distance).

    [sample, 0] where the samples do not differ.
    """
    out = spread(x)
    if out.shape[1] > len(out):
        out = triangle(out.T).T
    return out / torch.linalg.norm(out)


def _distance(a: Tensor, b: Tensor) -> float:
    if not (a.numel() and b.numel()):
        return float("nan")
    product = a.T @ b
    squared = 2 - 2 * float(svdvals(product).sum())
    if squared < _NEAR:
        # The same as a sum of squares: what is left between the two when turned onto one another, and outside.
        u, _, v = svd(product)
        a, b = a.double(), b.double()
        turned, other = a @ u, b @ v.T
        squared = sum(float((part**2).sum()) for part in (turned - other, a - turned @ u.T, b - other @ v))
    return math.sqrt(squared)


def _angle(a: Tensor, b: Tensor) -> float:
    # arccos keeps half the digits near 1; the arc over a chord keeps all.
    return 2 * math.asin(_distance(a, b) / 2)


class _Shape(Decomposed):
    """A distance of shapes."""

    invariant_to = ("rotation", "scale", "shift")
    centring = "features centred over samples, then Frobenius norm 1"
    least = 2
    most_rows = 1024
    distance = True

    def reason(self, x: Tensor) -> str:
        return still(x)

    def prepare(self, x: Tensor) -> Tensor:
        return unit(x)


Procrustes = define(
    _Shape,
    "Procrustes",
    name="procrustes",
    answers="How far apart are two taps after one is rotated onto the other?",
    source=f"{DING}; {WILLIAMS}",
    functional="sqrt(2 - 2 ||X^T Y||_*)",
    known_answers=(
        Case("rotated copy", 0, DING, lambda: procrustes(sixty_samples(), 3 * sixty_samples() @ rotation(8, 1) + 5)),
        Case("same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.422650, DING, lambda: procrustes(*common_axes())),
        Case(
            "orthogonal subspaces",
            math.sqrt(2),
            DING,
            lambda: procrustes(cosine_axes(16, 3), cosine_axes(16, 6)[:, 3:]),
        ),
    ),
    compare=lambda self, a, b: _distance(a, b),
)


AngularDistance = define(
    _Shape,
    "AngularDistance",
    name="angular_distance",
    answers="By what angle do the shapes of two taps differ?",
    source=WILLIAMS,
    functional="arccos ||X^T Y||_*, radians",
    known_answers=(
        Case(
            "same axes, eigenvalues (3, 2, 1) and (1, 2, 3)",
            0.425860,
            WILLIAMS,
            lambda: angular_distance(*common_axes()),
        ),
        Case("rotated copy", 0, WILLIAMS, lambda: angular_distance(sixty_samples(), sixty_samples() @ rotation(8, 2))),
    ),
    compare=lambda self, a, b: _angle(a, b),
)


REGULARIZATION = 1e-2
BOIX = "Boix-Adserà et al. 2022 (2210.06545)"


def gulp(x: Any, y: Any, *, regularization: float = REGULARIZATION) -> float:
    """GULP distance d_lambda (Boix-Adserà et al. 2022, 2210.06545).

    It lies between the predictions of ridge regression from x and from y, added up in squares over orthonormal targets;
    no target of unit norm is predicted more differently.

    d^2 = tr[(S_x^-l S_x)^2] + tr[(S_y^-l S_y)^2] - 2 tr[S_x^-l S_xy S_y^-l S_yx] with S^-l = (S + lambda I)^-1 and
    covariances over n; equally the Frobenius distance of the two ridge hat matrices, which is computed (it keeps its
    digits near 0). The paper's code returns d^2.

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ.
    regularization: lambda, absolute, on the covariances of features that are, as in the paper, centred and scaled to a
        total variance tr(S) of 1: .01 shrinks a direction that holds 1 % of the variance by half. 0 is the distance of
        the projections, invariant to any invertible linear map, and needs more samples than features.

    Between 0 and sqrt(p + q); invariant to rotation, scale and shift. NaN where a side is constant. Raises
    DiagnosticsError for fewer than 2 samples, unequal numbers of samples, values that are not finite, a negative
    lambda, and a lambda of 0 with no more samples than features.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.similarity import gulp
        >>> axes = np.vstack([np.eye(3), -np.eye(3)])
        >>> x, y = axes[:, :2], axes[:, 2:]
        >>> round(gulp(x, x @ [[1, 5], [0, 2]], regularization=0), 6)  # invertible map
        0.0
        >>> round(gulp(x, y, regularization=0), 4)  # nothing shared: sqrt(2 + 1)
        1.7321
    """
    first, second = pair(x, y, 2)
    n, widest = len(first), max(first.shape[1], second.shape[1])
    refuse_values(
        (
            not 0 <= regularization < float("inf"),
            f"gulp has a regularization of {regularization}: give 0 or a positive number.",
        ),
        (
            regularization == 0 and n <= widest,
            f"gulp without regularization has {n} samples of {widest} features: give more samples than features, or a "
            "positive regularization.",
            "too-few",
        ),
    )
    a, b = unit(first), unit(second)
    if n > a.shape[1] + b.shape[1]:
        # What counts lies in the span of both: fewer rows hold it, and no matrix of n x n is made.
        both = triangle(torch.cat([a, b], dim=1))
        a, b = both[:, : a.shape[1]], both[:, a.shape[1] :]
    return _hat_distance(_hat(a, regularization), _hat(b, regularization))


def _hat(x: Tensor, regularization: float) -> Tensor:
    """The hat matrix of ridge regression on x of Frobenius norm 1, [sample, sample]; [sample, 0] where x is empty."""
    if not x.numel():
        return x
    u, s, _ = principal(x)
    return (u * (s**2 / (s**2 + regularization))) @ u.T


def _hat_distance(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.norm(a - b)) if a.numel() and b.numel() else float("nan")


class Gulp(_Shape):
    name = "gulp"
    answers = "How differently do linear predictors from two taps predict, whatever the target?"
    source = BOIX
    functional = f"GULP distance d_lambda, lambda = {REGULARIZATION} of the total variance"
    centring = "features centred over samples, then total variance 1"
    permutations = NULL_DRAWS
    known_answers = (
        Case("invertible map, no regularisation", 0, BOIX, lambda: gulp(normal(40, 5, seed=4), normal(40, 5, seed=4) @ (normal(5, 5, seed=6) + 3 * np.eye(5)), regularization=0.0)),
        Case("orthogonal subspaces of 3 and 4, no regularisation, squared: p + q", 7, BOIX, lambda: gulp(cosine_axes(16, 3), cosine_axes(16, 7)[:, 3:], regularization=0.0) ** 2),
    )  # fmt: skip

    def prepare(self, x: Tensor) -> Tensor:
        return _hat(unit(x), REGULARIZATION)

    def compare(self, a: Tensor, b: Tensor) -> float:
        return _hat_distance(a, b)

    def permute(self, a: Tensor, order: Tensor) -> Tensor:
        return a[order][:, order]

    def shuffle(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        # All pairs by one product. It costs half the digits near 0, where no permutation but the identity leads.
        ones, others = torch.stack(list(firsts)), torch.stack(list(seconds))
        squares = (ones**2).sum(dim=(1, 2))[:, None] + (others**2).sum(dim=(1, 2))
        for order in orders:
            moved = others[:, order][:, :, order]
            product = ones.flatten(1) @ moved.flatten(1).T
            yield (squares - 2 * product).clamp(min=0.0).sqrt().cpu().numpy()
