"""Ridge regression in closed form: one decomposition for all penalties and all target columns.

Shapes: x [row, feature], y [row, target], float64. With z the standardised features, the weights minimise
||y - mean(y) - z w||^2 + n * penalty * ||w||^2, so that one penalty means the same at every n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diagnostics.errors import DiagnosticsError

PENALTIES: tuple[float, ...] = tuple(10 ** (k / 2) for k in range(-10, 9))
"""The grid for every tap: half decades from 1e-5 to 1e4, relative to n and to features of variance 1."""

# A feature that varies less than this beside its mean is constant up to rounding.
_CONSTANT = 1e-10


class Moments:
    """Sums of products of features and targets, gathered block by block; all that ridge needs of its rows.

    Everything is relative to `origin_x` [feature] and `origin_y` [target]: with some row for an origin, a large common
    offset costs no digits and a constant feature has exactly no variance. Moments that share their origin add up.
    """

    def __init__(self, origin_x: np.ndarray, origin_y: np.ndarray) -> None:
        self.origin_x, self.origin_y = origin_x.astype(np.float64), origin_y.astype(np.float64)
        d, t = len(origin_x), len(origin_y)
        self.n = 0
        self.x, self.y, self.yy = np.zeros(d), np.zeros(t), np.zeros(t)
        self.xx, self.xy = np.zeros((d, d)), np.zeros((d, t))

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Takes in rows x [row, feature] and y [row, target]; all must be finite."""
        x, y = x - self.origin_x, y - self.origin_y
        _check_finite(x, y)
        self.n += len(x)
        self.x += x.sum(axis=0)
        self.y += y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.einsum("nt,nt->t", y, y)

    def __add__(self, other: Moments) -> Moments:
        if not (np.array_equal(self.origin_x, other.origin_x) and np.array_equal(self.origin_y, other.origin_y)):
            raise DiagnosticsError("Moments with different origins cannot be added: gather both from one origin.")
        out = Moments(self.origin_x, self.origin_y)
        for name in ("n", "x", "y", "xx", "xy", "yy"):
            setattr(out, name, getattr(self, name) + getattr(other, name))
        return out

    def squared_error(self, path: RidgePath, penalty: float) -> np.ndarray:
        """[target], the summed squared error of a fit (its own rows or others) on the rows behind these moments."""
        w = path.weights(penalty)
        offset = path.mean_y - self.origin_y - (path.mean_x - self.origin_x) @ w
        quadratic = np.einsum("dt,dt->t", w, self.xx @ w) - 2 * np.einsum("dt,dt->t", w, self.xy)
        linear = -2 * offset * (self.y - self.x @ w)
        return np.maximum(self.yy + quadratic + linear + self.n * offset**2, 0.0)

    def spread(self, around: np.ndarray) -> np.ndarray:
        """[target], the summed squared distance of y from a point [target]."""
        away = around - self.origin_y
        return self.yy - 2 * away * self.y + self.n * away**2


@dataclass(frozen=True)
class RidgePath:
    """Ridge fits for all penalties from one decomposition.

    `mean_x` [feature] and `mean_y` [target] are those of the rows fitted. The weights for a penalty are
    `left` [feature, k] @ (`right` [k, target] / (`eigenvalues` [k] + n * penalty)).
    """

    n: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    left: np.ndarray
    eigenvalues: np.ndarray
    right: np.ndarray

    @classmethod
    def from_data(cls, x: np.ndarray, y: np.ndarray) -> RidgePath:
        """From rows in memory, through whichever of z zT and zT z is smaller.

        The penalty bounds the condition of either by about d / 1e-5, far from where squaring would cost digits that a
        score could show, and a symmetric eigenproblem is several times cheaper than an SVD of z.
        """
        n, d = x.shape
        if n == 0 or len(y) != n:
            raise DiagnosticsError(f"Ridge cannot be fitted on x {x.shape} and y {y.shape}: give as many rows of each.")
        if n >= d:
            moments = Moments(x[0], y[0])
            moments.update(x, y)
            return cls.from_moments(moments)
        _check_finite(x, y)
        mean_x, scale = standardiser(x)
        mean_y = y.mean(axis=0)
        z = (x - mean_x) * scale
        eigenvalues, u = np.linalg.eigh(z @ z.T)
        left = scale[:, None] * (z.T @ u)
        return cls(n, mean_x, mean_y, left, np.maximum(eigenvalues, 0.0), u.T @ (y - mean_y))

    @classmethod
    def from_moments(cls, moments: Moments) -> RidgePath:
        """From gathered moments; standardisation is applied to them afterwards."""
        n = moments.n
        if n == 0:
            raise DiagnosticsError("Ridge has no rows to be fitted on: give at least one with a known target.")
        x, y = moments.x / n, moments.y / n
        covariance = moments.xx - n * np.outer(x, x)
        scale = _inverse_scale(np.diagonal(covariance) / n, x + moments.origin_x)
        eigenvalues, v = np.linalg.eigh(covariance * scale * scale[:, None])
        right = v.T @ (scale[:, None] * (moments.xy - n * np.outer(x, y)))
        return cls(
            n, x + moments.origin_x, y + moments.origin_y, scale[:, None] * v, np.maximum(eigenvalues, 0.0), right
        )

    def weights(self, penalty: float) -> np.ndarray:
        """[feature, target] in units of target a unit of feature; 0 for features that are constant where fitted."""
        return self.left @ (self.right / (self.eigenvalues + self.n * penalty)[:, None])

    def intercept(self, penalty: float) -> np.ndarray:
        """[target]."""
        return self.mean_y - self.mean_x @ self.weights(penalty)

    def predict(self, x: np.ndarray, penalties: Sequence[float] = PENALTIES) -> np.ndarray:
        """[penalty, row, target] for x [row, feature]."""
        z = (x - self.mean_x) @ self.left
        shrunk = [self.right / (self.eigenvalues + self.n * penalty)[:, None] for penalty in penalties]
        return np.stack([z @ part for part in shrunk]) + self.mean_y


def standardiser(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 1 / standard deviation (ddof 0) of x [row, feature]; 0 in place of the latter for constant features."""
    shifted = x - x[:1]
    offset = shifted.mean(axis=0)
    shifted -= offset
    return offset + x[0], _inverse_scale(np.einsum("nd,nd->d", shifted, shifted) / len(x), offset + x[0])


def choose(errors: Sequence[float] | np.ndarray, penalties: Sequence[float] = PENALTIES) -> float:
    """The penalty with the smallest error [penalty]; the largest of those that tie."""
    values = np.asarray(errors)[::-1]
    return tuple(penalties)[::-1][int(np.argmin(values))]


def _inverse_scale(variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """1 / sd, and 0 for features that are constant up to rounding: these drop out instead of being blown up."""
    sd = np.sqrt(np.maximum(variance, 0.0))
    return np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > _CONSTANT * np.abs(mean))


def _check_finite(x: np.ndarray, y: np.ndarray) -> None:
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DiagnosticsError(f"Rows of shape {x.shape} hold NaN or infinity: leave them out.")
