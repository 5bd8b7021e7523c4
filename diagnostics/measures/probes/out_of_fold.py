"""Losses on train and val out of fold: each row predicted by a fit without all rows of its group.

They choose taps and penalties where train and val are random parts of one pool, from all of it where val is a part. Whole groups
are left out: leaving out rows prefers a tap that knows nothing but the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.decompositions import cholesky
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, refit
from diagnostics.measures.probes.protocol import Rows

FOLDS = 5
MOST_ROWS = 256
"""Rows of the largest group up to which ridge leaves out each group by itself."""

# Values of blocks of the hat matrix, and of what they are made of, held at a time: 32 MiB.
_BLOCK = 2**22
# Draws of folds, of which the one is taken that leaves the fewest classes without a row to fit on.
_DRAWS = 20


def folds(rows: Rows, labels: np.ndarray | None, seed: int) -> np.ndarray:
    """The fold of each row of train and val, int [fit row]: val is fold 0, and the groups of train are dealt out to the others.

    So the fits without fold 0 are those on train, which give the losses on val. `labels` (codes from 0) [fit row]: groups with the
    same rarest class are dealt out evenly, larger ones first, so that folds have similar shares of classes, and of rows.
    """
    inside = np.arange(len(rows.fit)) < len(rows.train)
    units, unit_of = np.unique(rows.unit_of_fit[inside], return_inverse=True)
    codes = np.zeros(len(rows.fit), dtype=np.int64) if labels is None else labels
    has = np.zeros((len(units), int(codes.max()) + 1), dtype=bool)
    has[unit_of, codes[inside]] = True
    # A class with groups in val too is never left without a row.
    at_risk = ~np.isin(np.arange(has.shape[1]), codes[~inside]) & (has.sum(axis=0) > 1)
    rarest, sizes = np.where(has, has.sum(axis=0), len(units) + 1).argmin(axis=1), np.bincount(unit_of)
    drawn = np.random.default_rng(seed).random((_DRAWS if at_risk.any() else 1, len(units)))
    # The place of each group in an order gives its fold.
    dealt = [np.argsort(np.lexsort((each, -sizes, rarest))) % (FOLDS - 1) + 1 for each in drawn]
    in_folds = [sum(has[each == fold].any(axis=0).astype(int) for fold in range(1, FOLDS)) for each in dealt]
    alone = [(at_risk & (each == 1)).sum() for each in in_folds]
    result = np.zeros(len(rows.fit), dtype=np.int64)
    result[inside] = dealt[int(np.argmin(alone))][unit_of]
    return result


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

    def choose(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, RidgeStack | None]:
        """The penalties [tap] of x [tap, fit row, feature], their losses [tap, fit row, part], and the fits on all these rows where they
        were made."""
        y = torch.tensor(self.y, device=x.device)
        if self.by_unit:
            stack = RidgeStack.from_data(x, y)
            grid, errors = np.tile(PENALTIES, (len(x), 1)), left_out_errors(stack, x, y, self.part)
        else:
            stack, (grid, errors) = None, self._in_folds(x, y)
        losses = self.loss(errors)
        around = self.reference.sum(axis=0)
        best = [choose_index(of_tap, around) for of_tap in losses.sum(dim=2).cpu().numpy()]
        taps = np.arange(len(x))
        return grid[taps, best], losses[taps, best].cpu().numpy(), stack

    def _in_folds(self, x: Tensor, y: Tensor) -> tuple[np.ndarray, Tensor]:
        """A few penalties [tap, penalty], and the errors [tap, penalty, row, target] of fits without each fold.

        All penalties on the first fold, and on the others the best of it and its neighbours, each from a Cholesky factor.
        """
        first = torch.as_tensor(self.part == 0, device=x.device)
        tried = RidgeStack.from_data(x[:, ~first], y[~first]).predict(x[:, first])
        sums, around = self.loss(tried - y[first]).sum(dim=2).cpu().numpy(), self.reference[self.part == 0].sum(axis=0)
        near = np.array([choose_index(of_tap, around) for of_tap in sums])[:, None] + np.arange(-1, 2)
        grid = np.array(PENALTIES)[near.clip(0, len(PENALTIES) - 1)]
        errors = x.new_zeros((*grid.shape, *y.shape))
        for fold in np.unique(self.part):
            out = torch.as_tensor(self.part == fold, device=x.device)
            penalties = torch.as_tensor(grid, device=x.device)
            maps = refit(x[:, ~out], y[~out], penalties)
            errors[:, :, out] = torch.stack([each.values(x[:, out]) for each in maps], dim=1) - y[out]
        return grid, errors


def choose_index(errors: np.ndarray, around: np.ndarray) -> int:
    """The index of the penalty with the best mean score over the parts that vary, from losses [penalty, part] and those of the
    reference [part]; penalties ascend, and of equals the largest is taken."""
    varies = around > 0
    relative = (errors[:, varies] / around[varies]).mean(axis=1) if varies.any() else errors.sum(axis=1)
    return len(relative) - 1 - int(relative[::-1].argmin())


def left_out_errors(stack: RidgeStack, x: Tensor, y: Tensor, part: np.ndarray) -> Tensor:
    """Errors [tap, penalty, row, target] of ridge fitted on the rows of all other parts, for all penalties.

    `stack` is fitted on x [tap, row, feature] and y [row, target]. With H the hat matrix, and r the errors of a fit on all rows,
    those of rows g left out are (I - H_gg)^-1 r_g. Features keep the mean and scale of all rows, and the penalty their number;
    the intercept is fitted without g. Nothing is singular: I - H_gg is positive definite unless g is everything.
    """
    n = stack.n
    penalties = torch.as_tensor(PENALTIES, dtype=x.dtype, device=x.device)
    # That of the constant is 0 but for rounding, which would count beside what is left of I - H where that is nearly 0.
    floor = n * torch.finfo(x.dtype).eps * stack.eigenvalues.amax(dim=1, keepdim=True)
    eigenvalues = stack.eigenvalues.where(stack.eigenvalues > floor, 0.0)
    u, shares = stack.coordinates(x), 1 / (eigenvalues[:, None] + n * penalties[:, None])
    columns = (shares[..., None] * stack.right[:, None]).transpose(1, 2)
    if stack.u is not None:
        shares, columns = shares * eigenvalues[:, None], columns * eigenvalues[..., None, None]
    fitted = (u @ columns.flatten(2)).unflatten(2, columns.shape[2:]).transpose(1, 2)
    errors = y - stack.mean_y - fitted
    for rows in _blocks(part, u.shape[2] * len(PENALTIES)):
        at = torch.as_tensor(rows, device=x.device)
        some, size = u[:, at], rows.shape[1]
        if size == 1:
            rest = 1 - 1 / n - some[:, :, 0].square() @ shares.mT
            errors[:, :, at[:, 0]] /= rest.mT[..., None]
            continue
        hat = (some[:, :, None] * shares[:, None, :, None]).flatten(2, 3) @ some.mT
        system = torch.eye(size, dtype=x.dtype, device=x.device) - 1 / n - hat.unflatten(2, (-1, size))
        solved = torch.cholesky_solve(errors[:, :, at].transpose(1, 2), cholesky(system))
        errors[:, :, at] = solved.transpose(1, 2)
    return errors


def _blocks(part: np.ndarray, wide: int) -> Iterator[np.ndarray]:
    """Rows [part, row] of parts of equal size, some at a time; `wide` values are held for each row."""
    order, sizes = np.argsort(part, kind="stable"), np.bincount(part)
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes[sizes > 0]):
        rows = order[starts[sizes == size][:, None] + np.arange(size)]
        step = max(1, _BLOCK // (int(size) * (wide if size > 1 else 1)))
        yield from (rows[at : at + step] for at in range(0, len(rows), step))
