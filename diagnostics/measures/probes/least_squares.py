"""Ridge regression in closed form: one decomposition for all penalties and all target columns.

Shapes: x [row, feature], y [row, target], float64. With z the standardised features, the weights minimise
||y - mean(y) - z w||^2 + n * penalty * ||w||^2, so that one penalty means the same at every n.

`RidgeStack` computes, for several taps at once and on their device; `RidgePath` is one tap of it in numpy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.activations.cache import Kept
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, as_tensor, cholesky, eigh, finite, gram, samples, solve_shifted, svd
from diagnostics.measures.probes.protocol import TapReadouts

PENALTIES: tuple[float, ...] = tuple(10 ** (k / 2) for k in range(-10, 9))
"""The grid for every tap: half decades from 1e-5 to 1e4, relative to n and to features of variance 1."""

# A feature that varies less than this beside its mean is constant up to rounding.
_CONSTANT = 1e-10
_COLUMNS = 64  # that are standardised at a time
# Decompositions in bytes: all taps of 1,024 features and 24 blocks. The next target is read from the same rows.
_KEPT = Kept(2**28)


class Moments:
    """Sums of products of features and targets, gathered block by block; all that ridge needs of its rows.

    Relative to `origin_x` [feature] and `origin_y` [target]: with some row for an origin, a large common offset costs
    no digits and a constant feature has exactly no variance. Moments that share their origin add up.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import Moments, RidgePath
        >>> moments = Moments(np.zeros(1), np.zeros(1))
        >>> for x in np.array([[[0.0]], [[1.0]], [[2.0]]]):
        ...     moments.update(x, 2 * x + 1)
        >>> moments.spread(np.array([3.0])).tolist()  # 4 + 0 + 4 about the mean
        [8.0]
        >>> path = RidgePath.from_moments(moments)  # at penalty 1, half the slope
        >>> moments.squared_error(path, 1.0).round(6).tolist()  # 1 + 0 + 1
        [2.0]
    """

    def __init__(self, origin_x: np.ndarray, origin_y: np.ndarray) -> None:
        self.origin_x, self.origin_y = origin_x.astype(np.float64), origin_y.astype(np.float64)
        d, t = len(origin_x), len(origin_y)
        self.n = 0
        self.x, self.y, self.yy = np.zeros(d), np.zeros(t), np.zeros(t)
        self.xx, self.xy = np.zeros((d, d)), np.zeros((d, t))

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in rows x [row, feature] and y [row, target]; all must be finite."""
        x, y = x - self.origin_x, y - self.origin_y
        for each in (x, y):
            finite(as_tensor(each), "The array of rows")
        self.n += len(x)
        self.x, self.y = self.x + x.sum(axis=0), self.y + y.sum(axis=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += np.einsum("nt,nt->t", y, y)

    def __add__(self, other: Moments) -> Moments:
        if not (np.array_equal(self.origin_x, other.origin_x) and np.array_equal(self.origin_y, other.origin_y)):
            raise DiagnosticsError("Moments of different origins do not add up: gather both from one.", code="conflict")
        out = Moments(self.origin_x, self.origin_y)
        for name in ("n", "x", "y", "xx", "xy", "yy"):
            setattr(out, name, getattr(self, name) + getattr(other, name))
        return out

    def squared_error(self, path: RidgePath, penalty: float) -> np.ndarray:
        """[target], the summed squared error of a fit (its own rows or others) on the rows behind these moments."""
        return self.squared_errors(path, [penalty])[0]

    def squared_errors(self, path: RidgePath, penalties: Sequence[float]) -> np.ndarray:
        """[penalty, target], as `squared_error`, in products of all penalties together."""
        times = len(penalties)
        w = path.left @ np.hstack([path.right / (path.eigenvalues + path.n * each)[:, None] for each in penalties])
        xy, y, yy, mean_y = (np.tile(each, times) for each in (self.xy, self.y, self.yy, path.mean_y - self.origin_y))
        offset = mean_y - (path.mean_x - self.origin_x) @ w
        quadratic = np.einsum("dt,dt->t", w, self.xx @ w) - 2 * np.einsum("dt,dt->t", w, xy)
        linear = -2 * offset * (y - self.x @ w)
        return np.maximum(yy + quadratic + linear + self.n * offset**2, 0.0).reshape(times, -1)

    def spread(self, around: np.ndarray) -> np.ndarray:
        """[target], the summed squared distance of y from a point [target]."""
        away = around - self.origin_y
        return self.yy - 2 * away * self.y + self.n * away**2


@dataclass(frozen=True, repr=False)
class LinearMaps(ShortRepr, TapReadouts):
    """(x - `mean_x` [tap, feature]) @ weights + `mean_y` [target]; weights: `left`, or `left` @ `right`."""

    mean_x: Tensor
    mean_y: Tensor
    left: Tensor
    """[tap, feature, target], or [tap, feature, k] before `right` [tap, k, target]."""
    right: Tensor | None = None

    @property
    def weights(self) -> np.ndarray:
        """[feature, target] of the first tap, in units of target a unit of feature; 0 for constant features."""
        return (self.left if self.right is None else self.left @ self.right)[0].cpu().numpy()

    @property
    def bias(self) -> np.ndarray:
        """[target] of the first tap: what is predicted for features of zero."""
        return self.mean_y.cpu().numpy() - self.mean_x[0].cpu().numpy() @ self.weights

    def __call__(self, x: Tensor) -> np.ndarray:
        return self.values(x).cpu().numpy()

    def values(self, x: Tensor) -> Tensor:
        """[tap, row, target] of x [tap, row, feature], where x lies."""
        return _map(x - self.mean_x[:, None], self.left, self.right) + self.mean_y


@dataclass(frozen=True, repr=False)
class RidgeStack(ShortRepr):
    """Ridge fits of one target from several taps, for all penalties from one decomposition a tap, all on one device.

    `mean_x` [tap, feature] and `mean_y` [target] are those of the rows fitted. The weights for a penalty are
    `left` [tap, feature, k] @ (`right` [tap, k, target] / (`eigenvalues` [tap, k] + n * penalty)); with `u`,
    `left` [tap, feature, row] @ `u` @ the same.
    """

    n: int
    mean_x: Tensor
    mean_y: Tensor
    left: Tensor
    eigenvalues: Tensor
    right: Tensor
    u: Tensor | None = None
    """Eigenvectors [tap, row, k] of z zT, where there are fewer rows than features."""

    @classmethod
    def from_data(cls, x: Tensor, y: Tensor) -> RidgeStack:
        """From x [tap, row, feature] and y [row, target], through whichever of z zT and zT z is smaller.

        It is several times cheaper than an SVD of z, and the penalty bounds the condition by about d / 1e-5.
        """
        n, d = x.shape[1:]
        if n == 0 or len(y) != n:
            raise DiagnosticsError(
                f"Ridge cannot be fitted on x {(n, d)} and y {tuple(y.shape)}: give as many rows of each, at least one.",
                code="bad-shape",
            )
        for each in (x, y):
            finite(as_tensor(each), "The array of rows")
        mean_x, scale, z = standardise(x)
        mean_y, u = y.mean(dim=0), None
        if n >= d:
            eigenvalues, left = principal_axes(z)
            right = left.mT @ (z.mT @ (y - mean_y))
        else:
            eigenvalues, u = principal_axes(z.mT)
            left, right = z.mT, u.mT @ (y - mean_y)
        return cls(
            n, mean_x, mean_y, left=scale[..., None] * left, eigenvalues=eigenvalues.clamp(min=0.0), right=right, u=u
        )

    @classmethod
    def at_one(cls, x: Tensor, y: Tensor, penalty: Tensor) -> RidgeStack:
        """Fits for one penalty [tap] alone, from a Cholesky factor where that is cheaper.

        Its inverse takes the place of the axes, which at this penalty shrink alike.
        """
        n, d = x.shape[1:]
        if n < d:
            return cls.from_data(x, y)
        (mean_x, scale, z), mean_y = standardise(x), y.mean(dim=0)
        weight, unit = (n * penalty)[:, None, None], torch.eye(d, dtype=x.dtype, device=x.device)
        factor = cholesky(products(z) + weight * unit)
        left = torch.linalg.solve_triangular(factor, unit.expand_as(factor), upper=False).mT * weight.sqrt()
        none = x.new_zeros(len(x), d)
        return cls(n, mean_x, mean_y, scale[..., None] * left, none, left.mT @ (z.mT @ (y - mean_y)))

    def coordinates(self, x: Tensor) -> Tensor:
        """The rows fitted, x, in `u`, or [tap, row, k] in the principal axes of z."""
        return (x - self.mean_x[:, None]) @ self.left if self.u is None else self.u

    def predict(self, x: Tensor, penalties: Sequence[float] | Tensor = PENALTIES) -> Tensor:
        """[tap, penalty, row, target] for x [tap, row, feature] and penalties [penalty] or [tap, penalty]."""
        taps, k, targets = self.right.shape
        shares = torch.as_tensor(penalties, dtype=x.dtype, device=x.device).expand(taps, -1)
        fitted = _map(x - self.mean_x[:, None], self.left, self._columns(shares).reshape(taps, k, -1))
        return fitted.reshape(taps, x.shape[1], shares.shape[1], targets).transpose(1, 2) + self.mean_y

    def at(self, penalties: Any) -> LinearMaps:
        """The maps at one penalty [tap] of each tap."""
        shares = torch.as_tensor(penalties, dtype=self.left.dtype, device=self.left.device)
        return LinearMaps(self.mean_x, self.mean_y, self.left, self._columns(shares[:, None])[:, :, 0])

    def _columns(self, shares: Tensor) -> Tensor:
        """[tap, k, penalty, target], for penalties [tap, penalty]."""
        columns = self.right[:, :, None] / (self.eigenvalues[..., None] + self.n * shares[:, None])[..., None]
        return columns if self.u is None else (self.u @ columns.flatten(2)).reshape(columns.shape)


def _map(away: Tensor, left: Tensor, right: Tensor | None) -> Tensor:
    """away @ left (@ right), in whichever order multiplies the smaller matrices."""
    if right is None:
        return away @ left
    few = right.shape[2] < min(away.shape[1], right.shape[1])
    return away @ (left @ right) if few else (away @ left) @ right


def refit(x: Tensor, y: Tensor, penalties: Tensor) -> list[LinearMaps]:
    """`RidgeStack`'s maps for each of a few penalties [tap, penalty], by Cholesky, at a tenth of its cost."""
    n, d = x.shape[1:]
    (mean_x, scale, z), mean_y = standardise(x), y.mean(dim=0)
    wide = n < d
    system = products(z.mT if wide else z)
    away = (y - mean_y).expand(len(x), -1, -1)
    towards = away if wide else z.mT @ away
    maps: list[LinearMaps] = []
    for penalty in penalties.T:
        shifted = system.clone()
        shifted.diagonal(dim1=1, dim2=2).add_(n * penalty[:, None])
        weights = torch.cholesky_solve(towards, cholesky(shifted))
        weights = z.mT @ weights if wide else weights
        maps.append(LinearMaps(mean_x, mean_y, scale[..., None] * weights))
    return maps


@dataclass(frozen=True, repr=False)
class RidgePath(ShortRepr):
    """Ridge fits of one tap for all penalties; as `RidgeStack`, without its axis `tap`, in numpy.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import Moments, RidgePath
        >>> x, y = np.array([[-1.0], [1.0]]), np.array([[1.0], [5.0]])
        >>> path = RidgePath.from_data(x, y)  # penalty 1 halves the slope
        >>> path.predict([[1.0]], (1e-9, 1.0, 1e9)).round(4).ravel().tolist()
        [5.0, 4.0, 3.0]
        >>> moments = Moments(x[0], y[0])
        >>> moments.update(x, y)
        >>> same = RidgePath.from_moments(moments)
        >>> same.weights(1.0).round(4).tolist(), same.intercept(1.0).round(4).tolist()
        ([[1.0]], [3.0])
    """

    n: int
    mean_x: np.ndarray
    mean_y: np.ndarray
    left: np.ndarray
    eigenvalues: np.ndarray
    right: np.ndarray

    @classmethod
    def from_data(cls, x: Any, y: Any) -> RidgePath:
        """From rows in memory, x [row, feature] and y [row, target], numpy or torch; fitted where x lies."""
        features = as_tensor(x)
        stack = RidgeStack.from_data(features[None], as_tensor(y).to(features.device))
        left = stack.left[0] if stack.u is None else stack.left[0] @ stack.u[0]
        fields = (stack.mean_x[0], stack.mean_y, left, stack.eigenvalues[0], stack.right[0])
        return cls(stack.n, *(field.cpu().numpy() for field in fields))

    @classmethod
    def from_moments(cls, moments: Moments) -> RidgePath:
        """From gathered moments; standardisation is applied to them afterwards."""
        mean_x, mean_y, scale, squares, towards = standardise_moments(moments)
        eigenvalues, v = (part.numpy() for part in eigh(torch.from_numpy(squares)))
        right = v.T @ towards
        v *= scale[:, None]
        return cls(moments.n, mean_x, mean_y, v, np.maximum(eigenvalues, 0.0), right)

    def of_columns(self, moments: Moments) -> RidgePath:
        """The fits of other targets on the same rows, from sums that share those of the features."""
        x, y = moments.x / moments.n, moments.y / moments.n
        right = self.left.T @ (moments.xy - moments.n * np.outer(x, y))
        return replace(self, mean_y=y + moments.origin_y, right=right)

    def weights(self, penalty: float) -> np.ndarray:
        """[feature, target] in units of target a unit of feature; 0 for features that are constant where fitted."""
        return self.left @ (self.right / (self.eigenvalues + self.n * penalty)[:, None])

    def intercept(self, penalty: float) -> np.ndarray:
        """[target]."""
        return self.mean_y - self.mean_x @ self.weights(penalty)

    def at(self, penalty: float) -> LinearMaps:
        """The map at one penalty."""
        return self._stack.at([penalty])

    @property
    def _stack(self) -> RidgeStack:
        fields = (as_tensor(field)[None] for field in (self.left, self.eigenvalues, self.right))
        return RidgeStack(self.n, as_tensor(self.mean_x)[None], as_tensor(self.mean_y), *fields)

    def predict(self, x: Any, penalties: float | Sequence[float] = PENALTIES) -> np.ndarray:
        """[penalty, row, target] for x [row, feature], numpy or torch; of one penalty too, [1, row, target]."""
        new, chosen = as_tensor(x).cpu(), several(penalties)
        if new.ndim != 2 or new.shape[1] != len(self.mean_x):
            raise DiagnosticsError(
                f"x has shape {tuple(new.shape)}: give [row, feature] with the {len(self.mean_x)} features fitted.",
                code="bad-shape",
            )
        return self._stack.predict(new[None], chosen)[0].numpy()


def standardise_moments(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Means of x and y, 1 / sd of x (0 if constant), products of standardised rows with themselves and targets."""
    n = moments.n
    if n == 0:
        raise DiagnosticsError("Ridge has no rows to be fitted on: give one with a known target.", code="too-few")
    x, y = moments.x / n, moments.y / n
    # In place: of eight joined taps each matrix takes half a gigabyte.
    covariance = np.outer(x, x)
    covariance *= -n
    covariance += moments.xx
    mean_x, mean_y = x + moments.origin_x, y + moments.origin_y
    sd = np.sqrt(np.maximum(np.diagonal(covariance) / n, 0.0))
    scale = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > _CONSTANT * np.abs(mean_x))
    towards = scale[:, None] * (moments.xy - n * np.outer(x, y))
    covariance *= scale
    covariance *= scale[:, None]
    return mean_x, mean_y, scale, covariance, towards


@dataclass(frozen=True, repr=False)
class RidgeFits(ShortRepr):
    """`RidgePath` at a few penalties alone, from a Cholesky factor each.

    `weights` [penalty, feature, target] are for x less `mean_x` [feature]; predictions are about `mean_y` [target].
    """

    mean_x: np.ndarray
    mean_y: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_moments(cls, moments: Moments, penalties: Sequence[float]) -> RidgeFits:
        """As `RidgePath.from_moments`."""
        mean_x, mean_y, scale, squares, towards = standardise_moments(moments)
        weights = [solve_shifted(squares, moments.n * penalty, towards) for penalty in penalties]
        return cls(mean_x, mean_y, scale[:, None] * np.stack(weights))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[penalty, row, target] for x [row, feature]."""
        return (x - self.mean_x) @ self.weights + self.mean_y


def ridge(x: Any, y: Any) -> RidgePath:
    """Ridge regression (Hoerl and Kennard 1970) of y on the standardised x, for every penalty from one decomposition.

    Parameters
    ----------
    x: [row, feature], numpy or torch; the decomposition happens on its device.
    y: [row] or [row, target].

    A penalty is relative to n and to features of variance 1 (scikit-learn's alpha is n times it); intercepts are free.
    Features that are constant over the rows get weight 0. Raises DiagnosticsError for NaN, infinity and unequal rows.

    Examples:
        >>> from diagnostics.measures.probes import ridge
        >>> path = ridge([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0])  # y = 2 x + 1
        >>> path.weights(1e-9).round(4).tolist(), path.intercept(1e-9).round(4).tolist()
        ([[2.0]], [1.0])
    """
    features = samples(x, "x")
    return RidgePath.from_data(features, _targets(y, features))


def several(penalties: float | Sequence[float]) -> tuple[float, ...]:
    """Penalties above 0 from one number or several; raises DiagnosticsError for anything else."""
    values = as_tensor(penalties).flatten().tolist()
    if not values or not all(math.isfinite(p) and p > 0 for p in values):
        raise DiagnosticsError(f"penalties are {penalties}: give one number or several, above 0.", code="bad-value")
    return tuple(values)


def _targets(y: Any, features: Tensor) -> Tensor:
    """y [row] or [row, target] as [row, target] beside its features."""
    targets = as_tensor(y).to(features.device)
    targets = targets[:, None] if targets.ndim == 1 else targets
    if targets.ndim != 2 or len(targets) != len(features):
        raise DiagnosticsError(
            f"x has shape {tuple(features.shape)} and y {tuple(targets.shape)}: give y as [row] or [row, target], as many "
            "rows as of x.",
            code="bad-shape",
        )
    return finite(targets, "y")


def leave_one_out(x: Any, y: Any, penalties: float | Sequence[float] = PENALTIES) -> np.ndarray:
    """[penalty, row, target]: what ridge predicts for each row when fitted on the others, from one SVD.

    x [row, feature], y [row] or [row, target]. The features keep the mean and scale of all rows, the penalty their
    number; the intercept is fitted without the row. The hat matrix H gives y - (y - H y) / (1 - diag H) (Allen 1974's
    PRESS).

    Examples:
        >>> from diagnostics.measures.probes import leave_one_out
        >>> x = [[1.0], [1.0], [1.0]]  # a constant leaves the mean of the other rows
        >>> leave_one_out(x, [0.0, 3.0, 6.0], 0.1).ravel().round(4).tolist()
        [4.5, 3.0, 1.5]
        >>> x = [[0.0], [1.0], [2.0]]  # a line is known from two points
        >>> leave_one_out(x, [1.0, 3.0, 5.0], 1e-9).ravel().round(4).tolist()
        [1.0, 3.0, 5.0]
    """
    features = samples(x, "x", least=2)
    targets = _targets(y, features)
    mean = targets.mean(dim=0)
    u, singular, _ = svd(standardise(features)[2])
    predictions: list[Tensor] = []
    for penalty in several(penalties):
        shrunk = singular**2 / (singular**2 + len(features) * penalty)
        fitted = mean + (u * shrunk) @ (u.mT @ (targets - mean))
        leverage = 1 / len(features) + (u**2 * shrunk).sum(dim=1, keepdim=True)
        predictions.append(targets - (targets - fitted) / (1 - leverage))
    return torch.stack(predictions).cpu().numpy()


def standardise(x: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and 1 / standard deviation (ddof 0) [..., feature] of x [..., row, feature], and x standardised by them.

    The last two are 0 for constant features, the last of a `dtype`.
    """
    out, means, scales = torch.empty_like(x, dtype=dtype), list[Tensor](), list[Tensor]()
    # Some features at a time, so that no other copy is held; never one alone, which torch adds in another order.
    cuts = [*range(_COLUMNS, x.shape[-1] - _COLUMNS + 1, _COLUMNS)] if x.ndim == 2 or len(x) == 1 else []
    for some, into in zip(x.tensor_split(cuts, dim=-1), out.tensor_split(cuts, dim=-1), strict=True):
        first = some[..., :1, :]
        z = some - first
        offset = z.mean(dim=-2, keepdim=True)
        z -= offset
        means.append((first + offset).squeeze(-2))
        sd = (z * z).mean(dim=-2).sqrt()
        scales.append(torch.where(sd > _CONSTANT * means[-1].abs(), 1 / sd, torch.zeros_like(sd)))
        into.copy_(z.mul_(scales[-1][..., None, :]))
    return torch.cat(means, dim=-1), torch.cat(scales, dim=-1), out


def principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [tap, k] and eigenvectors [tap, k, k] of zT z; of the same numbers as before the same as then."""
    if z.device.type != "cpu":
        return eigh(products(z))
    name = f"{tuple(z.shape)} {hashlib.blake2b(np.ascontiguousarray(z.numpy()).data, digest_size=16).hexdigest()}"

    def both() -> np.ndarray:
        eigenvalues, vectors = eigh(products(z))
        return torch.cat([eigenvalues[:, None], vectors.mT], dim=1).numpy()

    decomposed = as_tensor(_KEPT.get("eigh", name, both))
    # In memory of their own, as they come from `eigh`: products round by where it starts.
    return decomposed[:, 0].clone(), decomposed[:, 1:].clone().mT


def products(z: Tensor) -> Tensor:
    """zT z of [tap, row, feature] -> [tap, feature, feature]."""
    return torch.stack([gram(tap.mT) for tap in z]) if z.device.type == "cpu" else z.mT @ z


def choose(errors: Sequence[float] | np.ndarray, penalties: Sequence[float] = PENALTIES) -> float:
    """The penalty with the smallest error [penalty]; the largest of those that tie."""
    return tuple(penalties)[::-1][int(np.argmin(np.asarray(errors)[::-1]))]
