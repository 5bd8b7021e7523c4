"""Losses out of fold: against explicit fits without each group or fold, and against what they are there to prevent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack
from diagnostics.measures.probes.out_of_fold import left_out_errors, mean_of_others


def standardised(x: np.ndarray) -> np.ndarray:
    sd = x.std(axis=0)
    return np.divide(x - x.mean(axis=0), sd, out=np.zeros_like(x), where=sd > 1e-10 * np.abs(x.mean(axis=0)))


def refitted(x: np.ndarray, y: np.ndarray, part: np.ndarray, penalty: float) -> np.ndarray:
    """Errors [row, target] of ridge fitted without each part: features as of all rows, the intercept without the part."""
    z, errors = standardised(x), np.zeros(y.shape)
    for out in np.unique(part):
        fit, left = part != out, part == out
        mean, about = z[fit].mean(axis=0), y[fit].mean(axis=0)
        # In the dual, as there may be more features than rows.
        near = z[fit] - mean
        dual = np.linalg.solve(near @ near.T + len(x) * penalty * np.eye(fit.sum()), y[fit] - about)
        errors[left] = (z[left] - mean) @ (near.T @ dual) + about - y[left]
    return -errors


def groups_of(sizes: Sequence[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("d", [3, 39, 40, 41, 200])
@pytest.mark.parametrize(
    "sizes", [[1] * 40, [3] * 12 + [4], [1, 2, 5, 7, 12, 13], [20, 20], [39, 1]], ids=["1", "3", "mixed", "2", "39"]
)
def test_blocks_of_the_hat_matrix_are_fits_without_the_group(sizes: list[int], d: int) -> None:
    rng = np.random.default_rng(d)
    part, x, y = groups_of(sizes), rng.normal(size=(2, 40, d)) * np.linspace(0.01, 3, d) + 7, rng.normal(size=(40, 2))
    x[1, :, 0] = 4  # constant
    features, targets = torch.from_numpy(x), torch.from_numpy(y)
    errors = left_out_errors(RidgeStack.from_data(features, targets), features, targets, part).numpy()
    for tap in range(2):
        for i, penalty in enumerate(PENALTIES):
            np.testing.assert_allclose(errors[tap, i], refitted(x[tap], y, part, penalty), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "kind",
    ["one direction", "copies of rows", "nearly constant", "scales", "zero", "exact"],
)
def test_nothing_is_singular_where_rows_are_fewer_than_features(kind: str) -> None:
    """The hat matrix is then nearly the identity at small penalties, and errors and what divides them nearly 0."""
    rng = np.random.default_rng(1)
    n, d = 24, 3000
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, 1))
    part = groups_of([1] * 6 + [2, 2, 2, 6, 6])
    if kind == "one direction":
        x = x[:, :1] + 1e-4 * x
    elif kind == "copies of rows":
        x = x[np.arange(n) // 2]
    elif kind == "nearly constant":
        x = 1e6 + 1e-3 * x
    elif kind == "scales":
        x *= np.logspace(-12, 12, d)
    elif kind == "zero":
        x[:] = 0
    elif kind == "exact":
        y = x[:, :1] * 2
    features, targets = torch.from_numpy(x)[None], torch.from_numpy(y)
    errors = left_out_errors(RidgeStack.from_data(features, targets), features, targets, part).numpy()[0]
    for i, penalty in enumerate(PENALTIES):
        np.testing.assert_allclose(errors[i], refitted(x, y, part, penalty), rtol=1e-4, atol=1e-7)
    if kind == "zero":
        np.testing.assert_allclose(errors, np.broadcast_to(y - mean_of_others(y, part), errors.shape), rtol=1e-12)
