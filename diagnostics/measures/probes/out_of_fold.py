"""Ridge's penalty by losses out of fold: each row of train and val is predicted by a fit without all rows of its group.

These losses choose taps and penalties where train and val are random parts of one pool, from all of it where val is a
part. Whole groups are left out: leaving out rows prefers a tap that knows nothing but the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.arrays import cholesky
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, refit
from diagnostics.measures.probes.protocol import Rows, folds

MOST_ROWS = 256
"""Rows of the largest group up to which ridge leaves out each group by itself."""

FEW = 32
"""Effective dimensions of the residual below which a mean error is raised to its upper limit (`upper_factor`)."""

_LEVEL = 0.99  # of the upper limit
_BLOCK = 2**22  # values of blocks of the hat matrix, and of what they are made of, held at a time: 32 MiB


def mean_of_others(y: np.ndarray, part: np.ndarray) -> np.ndarray:
    """[row, target]: for each row the mean of y [row, target] over the rows of other parts."""
    sums = np.zeros((part.max() + 1, y.shape[1]))
    around = y.mean(axis=0)
    np.add.at(sums, part, y - around)
    return around - (sums / (len(y) - np.bincount(part, minlength=len(sums)))[:, None])[part]


class RidgeOutOfFold:
    """Chooses the penalty of ridge by losses out of fold.

    Parameters
    ----------
    y: [fit row, target].
    loss: errors [..., target] -> losses [..., part], of numpy or torch.
    reference: [fit row, part], of what a score compares with; by default the loss of the mean of the other rows.
    """

    def __init__(
        self, rows: Rows, y: np.ndarray, loss: Callable[[Any], Any], seed: int, reference: np.ndarray | None = None
    ) -> None:
        self.y, self.loss = y, loss
        self.by_unit = np.bincount(rows.unit_of_fit).max() <= MOST_ROWS
        self.part = rows.unit_of_fit if self.by_unit else folds(rows, None, seed)
        """What is left out together, [fit row]."""
        self.reference = loss(y - mean_of_others(y, self.part)) if reference is None else reference

    def choose(self, x: Tensor, given: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, RidgeStack | None]:
        """Penalties [tap] of x [tap, fit row, feature], losses [tap, fit row, part], and the last fits if made.

        Of penalties that are `given` [tap] only the losses.
        """
        y, stack, root = torch.tensor(self.y, device=x.device), None, np.ones((1, 1))
        grid = np.tile(PENALTIES, (len(x), 1)) if given is None else given[:, None]
        if self.by_unit:
            one = None if given is None else torch.as_tensor(given, device=x.device)
            stack = RidgeStack.from_data(x, y) if one is None else RidgeStack.at_one(x, y, one)
            errors = left_out_errors(stack, x, y, self.part, grid)
            root = np.sqrt(upper_factor(stack, grid)) if one is None else root  # nothing is chosen from one
        else:
            grid = self._near(x, y) if given is None else grid
            errors = self._in_folds(x, y, grid)
        losses = self.loss(errors)
        upper = (
            self.loss(errors * torch.as_tensor(root, device=x.device)[..., None, None]) if (root > 1).any() else losses
        )
        around = self.reference.sum(axis=0)
        best = [choose_index(of_tap, around) for of_tap in upper.sum(dim=2).cpu().numpy()]
        taps = np.arange(len(x))
        return grid[taps, best], losses[taps, best].cpu().numpy(), stack

    def _near(self, x: Tensor, y: Tensor) -> np.ndarray:
        """A few penalties [tap, penalty]: of all the one that is best on the first fold, and its neighbours."""
        first = torch.as_tensor(self.part == 0, device=x.device)
        tried = RidgeStack.from_data(x[:, ~first], y[~first]).predict(x[:, first])
        sums, around = self.loss(tried - y[first]).sum(dim=2).cpu().numpy(), self.reference[self.part == 0].sum(axis=0)
        near = np.add.outer([choose_index(of_tap, around) for of_tap in sums], [-1, 0, 1])
        return np.array(PENALTIES)[near.clip(0, len(PENALTIES) - 1)]

    def _in_folds(self, x: Tensor, y: Tensor, grid: np.ndarray) -> Tensor:
        """The errors [tap, penalty, row, target] of fits without each fold, each from a Cholesky factor."""
        errors = x.new_zeros((*grid.shape, *y.shape))
        for fold in np.unique(self.part):
            out = torch.as_tensor(self.part == fold, device=x.device)
            maps = refit(x[:, ~out], y[~out], torch.as_tensor(grid, device=x.device))
            errors[:, :, out] = torch.stack([each.values(x[:, out]) for each in maps], dim=1) - y[out]
        return errors


def choose_index(errors: np.ndarray, around: np.ndarray) -> int:
    """The index of the penalty with the best mean score over the parts that vary.

    It is chosen from losses [penalty, part] and those of the reference [part]; penalties ascend, and of equals the
    largest is taken.
    """
    varies = around > 0
    relative = (errors[:, varies] / around[varies]).mean(axis=1) if varies.any() else errors.sum(axis=1)
    return len(relative) - 1 - int(relative[::-1].argmin())


def upper_factor(stack: RidgeStack, grid: np.ndarray) -> np.ndarray:
    """Factors [tap, penalty] of squared errors of rows left out, by which penalties are compared.

    With H the hat matrix about the mean, the residual has tr(I - H)^2 / tr((I - H)^2) effective dimensions (Satterthwaite
    1946). A mean over few is small by chance: of 64 rows of 60 features the best penalty read R2 -16 of new rows, in one
    draw of fifty. So it is raised to its upper limit, by chi-square of these dimensions, relative to that of `FEW`; of as
    many or more it stays. Dimensions are those of rows: of few groups of many rows they are more than what is independent.
    """
    from scipy.special import chdtri

    # Of as many axes as rows the first, of no variance, is the constant's, which has no penalty.
    eigenvalues = stack.eigenvalues.cpu().numpy()[:, None, max(0, stack.eigenvalues.shape[1] - stack.n + 1) :]
    left = stack.n * grid[..., None] / (eigenvalues + stack.n * grid[..., None])
    beside = stack.n - 1 - eigenvalues.shape[-1]
    dimensions = (left.sum(axis=-1) + beside) ** 2 / ((left**2).sum(axis=-1) + beside)
    few = dimensions.clip(1, FEW)
    return few / chdtri(few, _LEVEL) / (FEW / chdtri(FEW, _LEVEL))


def left_out_errors(
    stack: RidgeStack, x: Tensor, y: Tensor, part: np.ndarray, grid: Sequence[float] | np.ndarray = PENALTIES
) -> Tensor:
    """Errors [tap, penalty, row, target] of ridge fitted on the rows of all other parts.

    `stack` is fitted on x [tap, row, feature] and y [row, target]. With H the hat matrix, and r the errors of a fit on
    all rows, those of rows g left out are (I - H_gg)^-1 r_g. Features keep the mean and scale of all rows, and the
    penalty their number; the intercept is fitted without g. Nothing is singular: I - H_gg is positive definite unless g
    is everything.
    """
    n = stack.n
    penalties = torch.as_tensor(grid, dtype=x.dtype, device=x.device).expand(len(x), -1)
    # That of the constant is 0 but for rounding, which would count beside what is left of I - H where that is nearly 0.
    floor = n * torch.finfo(x.dtype).eps * stack.eigenvalues.amax(dim=1, keepdim=True)
    eigenvalues = stack.eigenvalues.where(stack.eigenvalues > floor, 0.0)
    u, shares = stack.coordinates(x), 1 / (eigenvalues[:, None] + n * penalties[..., None])
    columns = (shares[..., None] * stack.right[:, None]).transpose(1, 2)
    if stack.u is not None:
        shares, columns = shares * eigenvalues[:, None], columns * eigenvalues[..., None, None]
    fitted = (u @ columns.flatten(2)).unflatten(2, columns.shape[2:]).transpose(1, 2)
    errors = y - stack.mean_y - fitted
    for rows in _blocks(part, u.shape[2] * penalties.shape[1]):
        at = torch.as_tensor(rows, device=x.device)
        some, size = u[:, at], rows.shape[1]
        if size == 1:
            rest = 1 - 1 / n - some.squeeze(2).square() @ shares.mT
            errors[:, :, at.flatten()] /= rest.mT[..., None]
            continue
        hat = (some[:, :, None] * shares[:, None, :, None]).flatten(2, 3) @ some.mT
        system = torch.eye(size, dtype=x.dtype, device=x.device) - 1 / n - hat.unflatten(2, (-1, size))
        errors[:, :, at] = torch.cholesky_solve(errors[:, :, at].transpose(1, 2), cholesky(system)).transpose(1, 2)
    return errors


def _blocks(part: np.ndarray, wide: int) -> Iterator[np.ndarray]:
    """Rows [part, row] of parts of equal size, some at a time; `wide` values are held for each row."""
    order, sizes = np.argsort(part, kind="stable"), np.bincount(part)
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        step = max(1, _BLOCK // (int(size) * (wide if size > 1 else 1)))
        yield from (rows[at : at + step] for at in range(0, len(rows), step))
