"""Numbers of groups of runs with intervals: over the test units that all runs share, and over the seeds of training.

Two things vary: which samples were tested, and which seed trained the encoder. Samples are resampled, the same ones for
all runs, so that differences are paired. A few seeds cannot be resampled (a bootstrap of three is far too narrow), so the
variance between them is estimated and added, with the degrees of freedom of Welch and Satterthwaite: with three seeds a
side the t quantile is about 2.8 and not 1.96. Seed variance seen on the same test samples holds the interaction of seed
and sample too, which the resampling counts once more: the interval errs on the wide side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from diagnostics.statistics import LEVEL, Interval, effective_units, interval, resample_counts, scores


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over test units alone and, where every group in it has two seeds or more, over both.

    `p` is of the test that the number is 0, from the wider of the two; NaN where there is no interval.
    """

    over_samples: Interval
    over_both: Interval | None
    p: float

    @property
    def value(self) -> float:
        """The number itself."""
        return self.over_samples.value

    @property
    def interval(self) -> Interval:
        """The interval to believe: over seeds too where they are known."""
        return self.over_both or self.over_samples


def estimate(
    combine: Callable[[np.ndarray], np.ndarray],
    losses: Sequence[np.ndarray],
    reference: np.ndarray,
    members: Sequence[Sequence[float]],
    fit_units: int,
    seed: int,
) -> Estimate:
    """A function of scores of groups, with its intervals.

    Parameters
    ----------
    combine: scores [..., term] -> the number [...]; smooth.
    losses: one [unit, part] for each term, the mean over the seeds of its group.
    reference: [unit, part], the same for all.
    members: for each independent set of seeds, what each seed adds to the number: its spread is the variance of one seed.
        Sets of one seed have no variance to see; then there is no interval over seeds.
    fit_units: independent units that the probes were fitted on.
    """
    units = len(reference)
    stacked, whole = np.stack(losses), np.broadcast_to(reference, (len(losses), *reference.shape))
    value = float(combine(scores(stacked, whole)))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = combine(scores(stacked, whole, resample_counts(units, seed)))
    # A ratio may meet a denominator of 0 in a resample.
    drawn = np.where(np.isfinite(drawn), drawn, np.nan)
    effective = effective_units(whole)
    low, high = interval(value, drawn, units, fit_units, effective)
    samples = Interval(value, float(low), float(high))
    if not np.isfinite(value) or not np.isfinite([low, high]).all():
        return Estimate(samples, None, float("nan"))
    count = min(effective, units)
    widened = (1 + units / fit_units) if fit_units else 1.0
    # The bootstrap's variance is that of the sample's own spread, short by (n - 1) / n.
    variance = float(np.nanvar(drawn)) * widened * count / (count - 1)
    by_seed = [(np.var(spread, ddof=1) / len(spread), len(spread) - 1) for spread in members if len(spread) > 1]
    both: Interval | None = None
    freedom = count - 1
    if members and len(by_seed) == len(members):
        total = variance + sum(each for each, _ in by_seed)
        parts = [(variance, count - 1), *by_seed]
        under = sum(each**2 / degrees for each, degrees in parts)
        freedom = total**2 / under if under > 0 else count - 1
        variance = float(total)
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * variance**0.5
        both = Interval(value, value - reach, value + reach)
    return Estimate(samples, both, _p(value, variance, float(freedom)))


def _p(value: float, variance: float, freedom: float) -> float:
    """Two-sided, of a t test that the number is 0."""
    if variance > 0:
        return float(2 * stats.t.sf(abs(value) / variance**0.5, freedom))
    return 1.0 if value == 0 else 0.0


def score_of(losses: np.ndarray, reference: np.ndarray) -> float:
    """The score of losses [unit, part]."""
    return float(scores(losses[None], reference[None])[0])


def holm(p: np.ndarray) -> np.ndarray:
    """p values that hold for all of them together (Holm 1979), in the order given; NaN, which are no tests, stay."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    most = 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(order) - rank) * float(p[i])))
        adjusted[i] = most
    return adjusted


FLIPS = 1999


def flipped(differences: Sequence[np.ndarray], units: Sequence[Sequence[str]], seed: int) -> list[np.ndarray]:
    """p of many differences at once, corrected for having looked at all of them, [row] for each of `differences`.

    Parameters
    ----------
    differences: each [row, unit], what every test unit adds to a difference.
    units: names of the units of each; what has one name is flipped together.

    If two encoders were alike, a unit's differences could as well have the other sign, in all rows at once; the t of each
    row is held against the largest t of all rows over random flips (max-T: Westfall and Young 1993). The t is by the root
    of the sum of squares, which flips do not change. NaN where a row has no value; 1 where there is no difference at all.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(name for each in units for name in each))}
    signs = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, len(names))) * 2.0 - 1
    most = np.zeros(FLIPS)
    scaled: list[np.ndarray] = []
    for x, own in zip(differences, units, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            x = x / np.sqrt((x**2).sum(axis=1))[:, None]
        scaled.append(x)
        known = np.isfinite(x).all(axis=1)
        if known.any() and len(own) > 1:
            drawn = np.abs(signs[:, [names[name] for name in own]] @ x[known].T)
            most = np.maximum(most, drawn.max(axis=1))
    most = np.sort(most)
    found: list[np.ndarray] = []
    for x, whole, own in zip(scaled, differences, units, strict=True):
        seen = np.abs(x.sum(axis=1))
        # What is equal but for rounding is as large.
        passed = FLIPS - np.searchsorted(most, seen - 1e-12)
        p = np.where(np.isfinite(seen), (1 + passed) / (FLIPS + 1), np.where((whole == 0).all(axis=1), 1.0, np.nan))
        found.append(p if len(own) > 1 else np.full(len(p), np.nan))
    return found
