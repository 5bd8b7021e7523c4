"""Rules that choose the tap to use, for `recommend.py`: losses of many draws in, the index of one tap a draw out.

Losses are [draw, tap, unit, part], references [draw, unit, part]; the last tap is the output. Standard errors are those of a
paired difference of scores by the infinitesimal jackknife: each unit's influence on the score, summed in squares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from _common import paired_difference

CLIP = 0.95
CAP = 0.01
RULE = "out of fold, 1 SE, clipped"
"""The one that is used, whose verdicts are printed."""


def score_of(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[draw, tap], the mean over the parts that are there of 1 - sum(loss) / sum(reference)."""
    rate, there = _rates(loss, reference)
    return 1 - rate.sum(axis=2) / there.sum(axis=1)[:, None]


def influence(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[draw, tap, unit], by how much the score is lower for that unit; sums to 0."""
    rate, there = _rates(loss, reference)
    whole = np.where(there, reference.sum(axis=1), 1.0)[:, None, None]
    each = (loss - rate[:, :, None] * reference[:, None]) / whole * there[:, None, None]
    return each.sum(axis=3) / there.sum(axis=1)[:, None, None]


def _rates(loss: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole = reference.sum(axis=1)
    there = whole > 0
    return loss.sum(axis=2) / np.where(there, whole, np.inf)[:, None], there


def clipped(loss: np.ndarray) -> np.ndarray:
    """Each tap's losses, and each part's, cut at their own 95th percentile over units."""
    return np.minimum(loss, np.quantile(loss, CLIP, axis=2, keepdims=True))


def errors_from(effect: np.ndarray, tap: np.ndarray) -> np.ndarray:
    """[draw, tap], the standard error of each score's difference from that of one tap a draw; infinite for one unit."""
    draws, _, units = effect.shape
    if units < 2:
        return np.full(effect.shape[:2], np.inf)
    away = effect - effect[np.arange(draws), tap][:, None]
    return np.sqrt(units / (units - 1) * (away**2).sum(axis=2))


def best(loss: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The first tap with the highest score."""
    return score_of(loss, reference).argmax(axis=1)


def favour(loss: np.ndarray, reference: np.ndarray, errors: float, cap: float = np.inf) -> np.ndarray:
    """The best other tap, unless the output is within so many standard errors of it, and within `cap`: then the output."""
    rows, output = np.arange(len(loss)), loss.shape[1] - 1
    score = score_of(loss, reference)
    other = score[:, :output].argmax(axis=1)
    error = errors_from(influence(loss, reference), other)[:, output]
    ahead = score[rows, other] - score[:, output]
    # Nothing is given up for 0 errors of an infinite one: ties are the output's.
    return np.where(ahead <= np.minimum(errors * error if errors else 0.0, cap), output, other)


def earliest(
    loss: np.ndarray, reference: np.ndarray, errors: float, cap: float = np.inf, output_first: bool = False
) -> np.ndarray:
    """The earliest tap within so many standard errors of the best, and within `cap`; the output, where asked, if it is."""
    rows, output = np.arange(len(loss)), loss.shape[1] - 1
    score = score_of(loss, reference)
    top = score.argmax(axis=1)
    error = errors_from(influence(loss, reference), top)
    error[rows, top] = 0.0
    near = score[rows, top][:, None] - score <= np.minimum(errors * error, cap)
    first = near.argmax(axis=1)
    return np.where(near[:, output], output, first) if output_first else first


def today(
    val: np.ndarray,
    val_reference: np.ndarray,
    test: np.ndarray,
    test_reference: np.ndarray,
    fit_units: int,
    share: bool,
) -> np.ndarray:
    """The rule until now: the output, unless the best tap on val shows a hidden gap on test.

    Where it does, the earliest tap within one standard error of the best and within .01.
    """
    output = val.shape[1] - 1
    top = best(val, val_reference)
    near = earliest(val, val_reference, 1.0, CAP)
    chosen = np.full(len(val), output)
    for i in np.flatnonzero(top != output):
        # Without the axis of parts where there is one.
        ours, theirs, whole = (
            side[..., 0] if val.shape[3] == 1 else side
            for side in (test[i, top[i]], test[i, output], test_reference[i])
        )
        if paired_difference(ours, whole, theirs, whole, fit_units, share).low > 0:
            chosen[i] = near[i]
    return chosen


Rule = Callable[[np.ndarray, np.ndarray], np.ndarray]
PLAIN: dict[str, Rule] = {
    "out of fold, .5 SE": partial(favour, errors=0.5),
    "out of fold, 1 SE": partial(favour, errors=1.0),
    "out of fold, 2 SE": partial(favour, errors=2.0),
    "out of fold, 1 SE, cap .01": partial(favour, errors=1.0, cap=CAP),
    "earliest in 1 SE": partial(earliest, errors=1.0),
    "earliest in 1 SE, cap .01": partial(earliest, errors=1.0, cap=CAP),
    "output, else earliest in 1 SE": partial(earliest, errors=1.0, output_first=True),
}
"""Rules of out-of-fold losses with a standard error; each also of clipped ones."""


def choices(
    oof: np.ndarray,
    reference: np.ndarray,
    val: np.ndarray,
    val_reference: np.ndarray,
    share: bool,
) -> dict[str, np.ndarray]:
    """The tap that each rule takes, [draw], today's excepted.

    Wrong answers are never clipped: of a tap that is right in 95 % of units nothing would be left.
    """
    cut, val_cut = (oof, val) if share else (clipped(oof), clipped(val))
    return {
        "output": np.full(len(oof), oof.shape[1] - 1),
        "val": best(val, val_reference),
        "val, 1 SE": favour(val, val_reference, 1.0),
        "val, 1 SE, clipped": favour(val_cut, val_reference, 1.0),
        "out of fold": favour(oof, reference, 0.0),
        "out of fold, clipped": favour(cut, reference, 0.0),
        **{name: rule(oof, reference) for name, rule in PLAIN.items()},
        **{f"{name}, clipped": rule(cut, reference) for name, rule in PLAIN.items()},
    }
