"""Shape distances: how far apart two representations are after optimal translation, scaling and rotation.

Both are metrics (the triangle inequality holds), so that taps can be clustered or embedded by them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from diagnostics.measures.arrays import pair
from diagnostics.measures.decompositions import svd, svdvals, triangle
from diagnostics.measures.known_answers import Case, centred_axes, rotation, shared_axes, sixty_samples
from diagnostics.measures.similarity.canonical import Decomposed, spread, still

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
    """x centred, with Frobenius norm 1 and no more columns than samples (turned, which changes no distance); [sample, 0] where
    the samples do not differ."""
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

    def prepared(self, x: Tensor) -> Tensor:
        return unit(x)


class Procrustes(_Shape):
    name = "procrustes"
    answers = "How far apart are two taps after one is rotated onto the other?"
    source = f"{DING}; {WILLIAMS}"
    functional = "sqrt(2 - 2 ||X^T Y||_*)"
    known_answers = (
        Case("rotated copy", 0, DING, lambda: procrustes(sixty_samples(), 3 * sixty_samples() @ rotation(8, 1) + 5)),
        Case("same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.422650, DING, lambda: procrustes(*shared_axes())),
        Case("orthogonal subspaces", math.sqrt(2), DING, lambda: procrustes(centred_axes(16, 3), centred_axes(16, 6)[:, 3:])),
    )  # fmt: skip

    def compared(self, a: Tensor, b: Tensor) -> float:
        return _distance(a, b)


class AngularDistance(_Shape):
    name = "angular_distance"
    answers = "By what angle do the shapes of two taps differ?"
    source = WILLIAMS
    functional = "arccos ||X^T Y||_*, radians"
    known_answers = (
        Case("same axes, eigenvalues (3, 2, 1) and (1, 2, 3)", 0.425860, WILLIAMS, lambda: angular_distance(*shared_axes())),
        Case("rotated copy", 0, WILLIAMS, lambda: angular_distance(sixty_samples(), sixty_samples() @ rotation(8, 2))),
    )  # fmt: skip

    def compared(self, a: Tensor, b: Tensor) -> float:
        return _angle(a, b)
