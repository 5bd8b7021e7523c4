"""The penalty of logistic regression that val chooses, or that losses out of fold on train and val choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diagnostics.measures.probes.softmax import FINAL, PENALTIES, RANKING, LogisticFits, LogisticRows

Judge = Callable[[LogisticFits], tuple[Tensor, Tensor]]
"""Fits [tap, penalty] -> whether they are right, and losses, of rows that they were not fitted on, [tap, penalty, row]."""
Start = tuple[LogisticRows, LogisticFits]
"""Rows to fit on, and fits [tap, 1] to start from."""


def choose_logistic(
    x: Tensor, labels: np.ndarray, val: Tensor, val_labels: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> tuple[np.ndarray, LogisticFits]:
    """The penalty [tap] that val chooses (see `_best`) and its fits [tap, 1] on x; labels are codes from 0.

    x [tap, row, feature] and val [tap, val row, feature]. On a GPU, and for several taps, all are fitted together. Of one tap
    on a CPU the path runs from strong to weak (the slowest to fit) and ends where neither accuracy nor loss gets better twice
    in a row, or once where the loss is worse by more than two standard errors of the paired difference.
    """
    order = sorted(penalties, reverse=True)
    fits, right, losses = _path(LogisticRows(x, labels), _of_taps(order, x), lambda fits: fits.judged(val, val_labels))
    best = _best(right, losses)
    return np.array(order)[best.cpu().numpy()], fits.at(best)


@dataclass(frozen=True)
class OutOfFold:
    """The penalty [tap] that losses out of fold choose, where its fits are wrong about rows left out, bool [tap, row], and what its fits on
    all rows start from."""

    penalty: np.ndarray
    wrong: np.ndarray
    start: Start

    @property
    def fits(self) -> LogisticFits:
        """[tap, 1], on all rows."""
        return last_fits(self.start, self.penalty)


def choose_out_of_fold(
    x: Tensor, labels: np.ndarray, fold: np.ndarray, penalties: Sequence[float] = PENALTIES
) -> OutOfFold:
    """The penalty by rows left out, `fold` [row] after fold; x [tap, row, feature], labels codes from 0.

    The whole path as of `choose_logistic` without the first fold, and without the others the penalty that is best there and its
    neighbours. These never start from fits that have seen the fold: weak penalties would not forget it. A row whose class only its
    own fold shows is wrong at every penalty.
    """
    order = sorted(penalties, reverse=True)
    rows = LogisticRows(x, labels)

    def without(number: int) -> tuple[LogisticRows, Judge]:
        out = fold == number
        present = np.unique(labels[~out])
        codes = np.minimum(np.searchsorted(present, labels), len(present) - 1)
        known = torch.as_tensor((present[codes] == labels)[out], device=x.device)

        def judge(fits: LogisticFits) -> tuple[Tensor, Tensor]:
            right, losses = fits.judged(x[:, out], codes[out])
            return right & known, losses * known

        return rows.only(torch.as_tensor(~out, device=x.device), codes[~out]), judge

    part, judge = without(0)
    fits, of_first, losses_of_first = _path(part, _of_taps(order, x), judge)
    near = (_best(of_first, losses_of_first)[:, None] + torch.arange(-1, 2, device=x.device)).clamp(
        0, of_first.shape[1] - 1
    )
    near = near.unique(dim=1) if len(near) == 1 else near
    taps = torch.arange(len(x), device=x.device)
    right = torch.zeros((*near.shape, len(labels)), dtype=torch.bool, device=x.device)
    losses = x.new_zeros(right.shape)
    right[:, :, fold == 0], losses[:, :, fold == 0] = (
        each[taps[:, None], near] for each in (of_first, losses_of_first)
    )
    grid = np.array(order)[near.cpu().numpy()]
    for number in range(1, int(fold.max()) + 1):
        part, judge = without(number)
        _, right[:, :, fold == number], losses[:, :, fold == number] = _path(part, grid, judge, whole=True)
    best = _best(right, losses)
    penalty = grid[np.arange(len(x)), best.cpu().numpy()]
    return OutOfFold(penalty, ~right[taps, best].cpu().numpy(), (rows, fits.at(near[taps, best])))


def start_of_last(x: Tensor, labels: np.ndarray, val: np.ndarray, penalty: np.ndarray, whole: bool) -> Start:
    """What the last fits of train and val start from once penalties [tap] are chosen: the fits on train, through stronger penalties.

    x [tap, fit row, feature], labels [fit row], `val` bool [fit row]. `whole`: features are standardised with val throughout, as where
    losses out of fold choose.
    """
    rows = LogisticRows(x, labels) if whole else None
    train = torch.as_tensor(~val, device=x.device)
    part = rows.only(train, labels[~val]) if rows else LogisticRows(x[:, ~val], labels[~val])
    fits = None
    for stronger in sorted(PENALTIES, reverse=True):
        if stronger >= penalty.max():
            fits = part.fit(np.full((len(x), 1), stronger), decrease=RANKING, start=fits)
    assert fits is not None
    return rows or LogisticRows(x, labels, like=fits), fits


def last_fits(start: Start, penalty: np.ndarray) -> LogisticFits:
    """Fits [tap, 1] at a penalty [tap], as far as what is read on test goes."""
    rows, fits = start
    return rows.fit(penalty[:, None], decrease=FINAL, start=fits)


def _of_taps(order: Sequence[float], x: Tensor) -> np.ndarray:
    return np.tile(order, (len(x), 1))


def _path(
    rows: LogisticRows, grid: np.ndarray, judge: Judge, whole: bool = False
) -> tuple[LogisticFits, Tensor, Tensor]:
    """Fits of penalties [tap, penalty], strong to weak, together or one by one until (unless `whole`) they get no better; and what
    `judge` says of them."""
    if rows.mean.is_cuda or len(grid) > 1:
        fits = rows.fit(grid, decrease=RANKING)
        return fits, *judge(fits)
    tried, judged, worse = list[LogisticFits](), list[tuple[Tensor, Tensor]](), 0
    for penalty in grid[0]:
        tried.append(rows.fit([[penalty]], decrease=RANKING, start=tried[-1] if tried else None))
        right, losses = judge(tried[-1])
        certain = False
        if judged:
            least = min((before[1] for before in judged), key=lambda before: float(before.mean()))
            lost = (losses - least)[0, 0]
            better = lost.mean() < 0 or right.sum() > max(int(before[0].sum()) for before in judged)
            worse = 0 if better else worse + 1
            certain = bool(lost.mean() > 2 * lost.std() / len(lost) ** 0.5)
        judged.append((right, losses))
        if not whole and (worse == 2 or (worse and certain)):
            break
    right, losses = (torch.cat(parts, dim=1) for parts in zip(*judged, strict=True))
    return LogisticFits.beside(tried), right, losses


def _best(right: Tensor, losses: Tensor) -> Tensor:
    """Index [tap] of the penalty of least loss [tap, penalty, row] among those within half a standard error of the best."""
    right = right.double()
    top = right.mean(dim=2).argmax(dim=1)
    short = right[torch.arange(len(right), device=right.device), top][:, None] - right
    error = (short.square().mean(dim=2) - short.mean(dim=2) ** 2).clamp(min=0).sqrt() / right.shape[2] ** 0.5
    near = short.mean(dim=2) <= error / 2
    return losses.mean(dim=2).masked_fill(~near, torch.inf).argmin(dim=1)
