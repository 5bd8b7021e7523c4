"""Transfer similarity: how far apart the predictions of ridge regression from two representations are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import pair
from diagnostics.measures.decompositions import triangle
from diagnostics.measures.known_answers import Case, centred_axes, normal
from diagnostics.measures.similarity.base import Similarity, Taps
from diagnostics.measures.similarity.canonical import principal, still
from diagnostics.measures.similarity.shape import unit

REGULARIZATION = 1e-2
BOIX = "Boix-Adserà et al. 2022 (2210.06545)"


def gulp(x: Any, y: Any, *, regularization: float = REGULARIZATION) -> float:
    """GULP distance d_lambda (Boix-Adserà et al. 2022, 2210.06545): between the predictions of ridge regression from x
    and from y, added up in squares over orthonormal targets; no target of unit norm is predicted more differently.

    d^2 = tr[(S_x^-l S_x)^2] + tr[(S_y^-l S_y)^2] - 2 tr[S_x^-l S_xy S_y^-l S_yx] with S^-l = (S + lambda I)^-1 and
    covariances over n; equally the Frobenius distance of the two ridge hat matrices, which is computed (it keeps its
    digits near 0). The paper's code returns d^2.

    Parameters
    ----------
    x, y: [sample, feature], rows aligned; their widths may differ.
    regularization: lambda, absolute, on the covariances of features that are, as in the paper, centred and scaled to a
        total variance tr(S) of 1: .01 shrinks a direction that holds 1 % of the variance by half. 0 is the distance of the
        projections, invariant to any invertible linear map, and needs more samples than features.

    Between 0 and sqrt(p + q); invariant to rotation, scale and shift. NaN where a side is constant. Raises DiagnosticsError for fewer than 2 samples, unequal numbers of samples, values that are not
    finite, a negative lambda, and a lambda of 0 with no more samples than features.

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
    if not 0 <= regularization < float("inf"):
        raise DiagnosticsError(f"gulp has a regularization of {regularization}: give 0 or a positive number.")
    if regularization == 0 and n <= widest:
        raise DiagnosticsError(
            f"gulp without regularization has {n} samples of {widest} features: give more samples than features, or a "
            "positive regularization."
        )
    a, b = unit(first), unit(second)
    if n > a.shape[1] + b.shape[1]:
        # What counts lies in the span of both: fewer rows hold it, and no matrix of n x n is made.
        both = triangle(torch.cat([a, b], dim=1))
        a, b = both[:, : a.shape[1]], both[:, a.shape[1] :]
    return _distance(_hat(a, regularization), _hat(b, regularization))


def _hat(x: Tensor, regularization: float) -> Tensor:
    """The hat matrix of ridge regression on x of Frobenius norm 1, [sample, sample]; [sample, 0] where x is empty."""
    if not x.numel():
        return x
    u, s, _ = principal(x)
    return (u * (s**2 / (s**2 + regularization))) @ u.T


def _distance(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.norm(a - b)) if a.numel() and b.numel() else float("nan")


class Gulp(Similarity):
    name = "gulp"
    answers = "How differently do linear predictors from two taps predict, whatever the target?"
    source = BOIX
    invariant_to = ("rotation", "scale", "shift")
    functional = f"GULP distance d_lambda, lambda = {REGULARIZATION} of the total variance"
    centring = "features centred over samples, then total variance 1"
    least = 2
    most_rows = 1024
    distance = True
    known_answers = (
        Case("invertible map, no regularisation", 0, BOIX, lambda: gulp(normal(40, 5, seed=4), normal(40, 5, seed=4) @ (normal(5, 5, seed=6) + 3 * np.eye(5)), regularization=0.0)),
        Case("orthogonal subspaces of 3 and 4, no regularisation, squared: p + q", 7, BOIX, lambda: gulp(centred_axes(16, 3), centred_axes(16, 7)[:, 3:], regularization=0.0) ** 2),
    )  # fmt: skip

    def reason(self, x: Tensor) -> str:
        return still(x)

    def prepared(self, x: Tensor) -> Tensor:
        return _hat(unit(x), REGULARIZATION)

    def compared(self, a: Tensor, b: Tensor) -> float:
        return _distance(a, b)

    def permuted(self, a: Tensor, order: Tensor) -> Tensor:
        return a[order][:, order]

    def shuffled(self, firsts: Taps, seconds: Taps, orders: Iterator[Tensor], upper: bool) -> Iterator[np.ndarray]:
        # All pairs by one product. It costs half the digits near 0, where no permutation but the identity leads.
        ones, others = torch.stack(list(firsts)), torch.stack(list(seconds))
        squares = (ones**2).sum(dim=(1, 2))[:, None] + (others**2).sum(dim=(1, 2))
        for order in orders:
            moved = others[:, order][:, :, order]
            product = ones.flatten(1) @ moved.flatten(1).T
            yield (squares - 2 * product).clamp(min=0.0).sqrt().cpu().numpy()
