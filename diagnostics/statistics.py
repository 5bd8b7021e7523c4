"""Intervals over independent units, and selection that is honest about the best tap.

A probe hands over, for each tap, the loss and the reference loss of each independent test unit (series, image, video,
subject). Its score is 1 - sum(loss) / sum(reference), which is R2 with squared errors against the train mean, and
accuracy with wrong answers against counts. The best tap is the one with the best score on val; its score, the output's
score and their paired difference (the hidden gap) are read on test, where nothing was chosen.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low` and `high` are NaN where fewer than two units leave it unknown."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Selection:
    """The best tap, the output tap, and what the output hides."""

    best_tap: str
    best: Interval
    output_tap: str
    output: Interval
    hidden_gap: Interval


@functools.lru_cache(maxsize=4)
def resample_counts(units: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each of `units` independent units is drawn in each resample, float64 [resample, unit], read-only.

    Kept for the next call: all taps, targets and comparisons of a run share the same draws.
    """
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)
    counts.setflags(write=False)
    return counts


def interval(
    value: np.ndarray | float,
    replicates: np.ndarray,
    units: int,
    fit_units: int | None = None,
    effective: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval at LEVEL from bootstrap replicates [resample, ...] over `units` independent units, or the fewer
    that `effective_units` counts. Replicates without a value (NaN) are left out.

    The expanded percentile interval: the percentile interval of few units is too narrow, and drawing its ends at the
    level that a t interval with the same n needs mends it (Hesterberg 2015, arXiv 1411.5279, section 5.2).

    For what was fitted on `fit_units` other units, resampling test units alone would ask how good these fits are, not
    how good the taps are: another training set would have given other fits. The variance that this adds is about
    units / fit_units of the one that is seen (Nadeau and Bengio 2003, Machine Learning 52, equation 8), so the
    replicates are spread about the value by the root of one plus that share.
    """
    count = units if effective is None else min(effective, units)
    if units < 2 or count <= 1:
        nothing = np.full(np.shape(value), np.nan)
        return nothing, nothing
    t = stats.t.ppf(0.5 + LEVEL / 2, count - 1)
    tail = stats.norm.cdf(-np.sqrt(count / (count - 1)) * t)
    ends = [tail, 1 - tail]
    if np.isnan(replicates).any():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")
            low, high = np.nanquantile(replicates, ends, axis=0)
    else:
        low, high = np.quantile(replicates, ends, axis=0)
    spread = np.sqrt(1 + units / fit_units) if fit_units else 1.0
    return value + spread * (low - value), value + spread * (high - value)


def effective_units(reference: np.ndarray) -> float:
    """How many units the score of a reference [tap, unit] or [tap, unit, part] rests on; 0 where no part lies in two.

    A part (class) that few units hold decides how sure a mean over parts is, however many units there are. With variances
    of the parts' scores about 1 / units that hold them, the degrees of freedom of their mean are those of Welch (1947) and
    Satterthwaite (1946).
    """
    holds = (reference.reshape(*reference.shape[:2], -1) > 0).any(axis=0).sum(axis=0)
    holds = holds[holds > 0].astype(np.float64)
    if len(holds) == 0 or holds.max() < 2:
        return 0.0
    # A part in one unit shows no variance of its own; half a degree of freedom stands for knowing next to nothing.
    freedom = (1 / holds).sum() ** 2 / (1 / (holds**2 * np.maximum(holds - 1, 0.5))).sum()
    return float(freedom + 1)


def scores(loss: np.ndarray, reference: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """1 - sum(loss) / sum(reference) over units, [tap] from [tap, unit]; [resample, tap] with resample counts.

    From [tap, unit, part] the mean of that over the parts whose reference is not 0 (a class that is not there has no
    score).
    """
    weights = np.ones((1, loss.shape[1])) if counts is None else counts
    by_part = (x.reshape(*x.shape[:2], -1) for x in (loss, reference))
    lost, whole = (np.tensordot(weights, part, axes=(1, 1)) for part in by_part)
    there = whole > 0
    # NaN losses are taps that cannot be probed: they must stay NaN, whatever their reference.
    share = np.divide(lost, whole, out=np.where(np.isnan(lost), np.nan, 0.0), where=there)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 1.0 - share.sum(axis=2) / there.sum(axis=2)
    return found[0] if counts is None else found


def profile_intervals(
    loss: np.ndarray, reference: np.ndarray, fit_units: int, seed: int, share: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, low and high of each tap from test losses [tap, unit] or [tap, unit, part].

    `share` says that losses [tap, unit] count wrong answers among the reference's. Where all answers are right, or all wrong,
    every resample says the same; the end away from the border is then that of Clopper and Pearson (1934, Biometrika 26) for
    n of n units, which holds for the share of units whose answers are all right (wrong), spread as `interval` spreads.
    """
    units = loss.shape[1]
    score = scores(loss, reference)
    replicates = scores(loss, reference, resample_counts(units, seed))
    low, high = interval(score, replicates, units, fit_units, effective_units(reference))
    if share:
        count = (reference > 0).sum(axis=1)
        exact = 1 - ((1 - LEVEL) / 2) ** (1 / np.maximum(count, 1))
        reach = np.minimum(np.sqrt(1 + units / fit_units) * exact if fit_units else exact, 1.0)
        known = np.isfinite(low)
        low = np.where(known & (score == 1), 1 - reach, low)
        high = np.where(known & (score == 0), reach, high)
    # A loss is never negative, so no score passes 1.
    return score, low, np.minimum(high, 1.0)


def select(
    taps: list[str],
    output_tap: str,
    val_score: np.ndarray,
    loss: np.ndarray,
    reference: np.ndarray,
    fit_units: int,
    seed: int,
    share: bool = False,
) -> Selection | None:
    """The best tap by val and what it beats the output tap by on test, paired over units; None when no tap has a score.

    `share` is that of `profile_intervals`; a difference of two shares stays the bootstrap's.
    """
    if not np.isfinite(val_score).any():
        return None
    best = int(np.nanargmax(val_score))
    output = taps.index(output_tap)
    ends = [
        Interval(*(float(found[0]) for found in profile_intervals(loss[[i]], reference[[i]], fit_units, seed, share)))
        for i in (best, output)
    ]
    gap = paired_difference(loss[best], reference[best], loss[output], reference[output], fit_units, seed)
    return Selection(taps[best], ends[0], output_tap, ends[1], gap)


def paired_difference(
    loss: np.ndarray,
    reference: np.ndarray,
    other_loss: np.ndarray,
    other_reference: np.ndarray,
    fit_units: int,
    seed: int,
) -> Interval:
    """By how much one score beats another on the same test units, from losses [unit] or [unit, part] in the same order."""
    both = np.stack([loss, other_loss]), np.stack([reference, other_reference])
    value = scores(*both)
    replicates = scores(*both, resample_counts(len(loss), seed))
    gap = float(value[0] - value[1])
    low, high = interval(gap, replicates[:, 0] - replicates[:, 1], len(loss), fit_units, effective_units(both[1]))
    return Interval(gap, float(low), float(high))
