"""Multinomial logistic regression with an L2 penalty, solved by scikit-learn's L-BFGS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import one_thread
from diagnostics.measures.probes.ridge import standardiser

PENALTIES: tuple[float, ...] = tuple(10.0**k for k in range(-5, 2))
"""The grid for every tap: decades from 1e-5 to 10, beside the mean loss and for features of variance 1."""


@dataclass(frozen=True)
class Logistic:
    """A fitted model: class scores x @ `weights` [feature, class] + `intercept` [class], through a softmax.

    With z the standardised features and W their weights, it minimises mean cross-entropy + penalty / 2 * ||W||^2,
    intercepts free; so scikit-learn's C is 1 / (n * penalty).
    """

    penalty: float
    classes: np.ndarray
    mean: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    def log_probability(self, x: np.ndarray) -> np.ndarray:
        """[row, class] for x [row, feature]."""
        scores = (x - self.mean) @ self.weights + self.bias
        scores -= scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[row], the most probable class of each row."""
        return self.classes[self.log_probability(x).argmax(axis=1)]

    def log_loss(self, x: np.ndarray, labels: np.ndarray) -> float:
        """Mean cross-entropy in nats; every label must be one of the classes."""
        columns = np.searchsorted(self.classes, labels)
        return -float(self.log_probability(x)[np.arange(len(x)), columns].mean())


@one_thread()
def logistic_path(
    x: np.ndarray, labels: np.ndarray, penalties: Sequence[float] = PENALTIES, tolerance: float = 1e-6
) -> list[Logistic]:
    """Models for all penalties, in their order, each started from the next stronger one's solution.

    Parameters
    ----------
    x: float64 [row, feature], finite.
    labels: int [row], at least two different ones.
    tolerance: largest entry of the objective's gradient at the solution.
    """
    found = {model.penalty: model for model in from_strongest(x, labels, penalties, tolerance)}
    return [found[penalty] for penalty in penalties]


def choose_logistic(
    x: np.ndarray, labels: np.ndarray, val: np.ndarray, val_labels: np.ndarray, tolerance: float = 1e-4
) -> Logistic:
    """The model, fitted on x, whose penalty has the smallest log loss on val; the strongest of those that tie.

    The loss falls and then rises as the penalty weakens, and the weakest penalties are the slowest to fit, so the path
    ends where two in a row did worse. The tolerance is enough to rank penalties, not to report the model's weights.
    """
    best, least, worse = None, np.inf, 0
    for model in from_strongest(x, labels, PENALTIES, tolerance):
        loss = model.log_loss(val, val_labels)
        if best is None or loss < least:
            best, least, worse = model, loss, 0
        else:
            worse += 1
        if worse == 2:
            break
    assert best is not None
    return best


def from_strongest(
    x: np.ndarray, labels: np.ndarray, penalties: Sequence[float], tolerance: float
) -> Iterator[Logistic]:
    """The models of `logistic_path`, the strongest penalty first, each fitted when it is asked for."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) < 2:
        raise DiagnosticsError("A logistic probe needs rows of at least two classes: give more rows, or leave it out.")
    mean, scale = standardiser(x)
    z = (x - mean) * scale
    # The penalty and the loss do not change under rotation, and the solution lies in the span of the rows: with fewer
    # rows than features, coordinates in an orthogonal basis of that span give the same solution, cheaper.
    basis = np.linalg.qr(z.T)[0] if z.shape[0] < z.shape[1] else None
    reduced = z if basis is None else z @ basis
    model = LogisticRegression(warm_start=True, tol=tolerance, max_iter=10_000)
    for penalty in sorted(penalties, reverse=True):
        # Two classes are fitted as one difference of scores v = w1 - w0, where ||W||^2 is ||v||^2 / 2.
        model.C = (2 if len(classes) == 2 else 1) / (len(x) * penalty)
        model.fit(reduced, labels)
        coefficients, bias = _per_class(model)
        weights = coefficients.T if basis is None else basis @ coefficients.T
        yield Logistic(penalty, classes, mean, scale[:, None] * weights, bias)


def _per_class(model: Any) -> tuple[np.ndarray, np.ndarray]:
    coefficients, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if len(coefficients) == 1:
        return np.concatenate([-coefficients / 2, coefficients / 2]), np.concatenate([-bias / 2, bias / 2])
    return coefficients, bias
