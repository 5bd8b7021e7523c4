"""Scores and intervals over independent units (series, images, videos, subjects; never tokens).

A probe gives, for each tap, the loss and the reference loss of each independent test unit; its score is
1 - sum(loss) / sum(reference). Below are intervals of measures without a target, over independent groups.
"""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95

OUTLYING = 0.55
"""What a twentieth of the units carries (`heaviest_units`) where R2 and its interval miss what is rare and large."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low` and `high` are NaN where fewer than two units leave it unknown."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def _repr_html_(self) -> str:
        """As a notebook shows it; numbers alone, nothing to escape."""
        cells = "".join(f"<td>{end:.4g}</td>" for end in (self.value, self.low, self.high))
        return f"<table><tr><th>value</th><th>low</th><th>high</th></tr><tr>{cells}</tr></table>"


@dataclass(frozen=True)
class Losses:
    """`loss` and `reference` of each tap and independent unit of a split, [tap, unit] or [tap, unit, part].

    Of a score that is no sum of losses both are 1, and `drawn` [tap, draw] is what `score_draws` gave.
    """

    loss: np.ndarray
    reference: np.ndarray
    counts: bool = False
    """Losses count wrong answers among the reference's."""
    drawn: np.ndarray | None = None
    least: float = -math.inf
    """Below which no drawn score can be."""

    @property
    def scores(self) -> np.ndarray:
        """[tap]; NaN where the loss is, and where nothing is in the reference."""
        return scores(self.loss, self.reference) if self.drawn is None else self.drawn[:, 0]

    def at(self, taps: Sequence[int]) -> Self:
        """Those of some taps."""
        some = None if self.drawn is None else self.drawn[taps]
        return replace(self, loss=self.loss[taps], reference=self.reference[taps], drawn=some)

    def resample(self, seed: int, stream: int = 0) -> np.ndarray:
        """Scores in each resample of the units, [resample, tap]; those of `drawn` are the same whatever the seed."""
        if self.drawn is not None:
            return self.drawn[:, 1:].T
        drawn = Resamples(self.loss.shape[1], seed)
        return resample_scores(self.loss, self.reference, drawn, seed, self.counts, stream)

    def intervals(self, fit_units: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, low and high of each tap."""
        if self.drawn is None:
            return profile_intervals(self.loss, self.reference, fit_units, seed, self.counts)
        low, high = interval(self.scores, self.resample(seed), self.loss.shape[1], fit_units)
        return self.scores, np.maximum(low, self.least), np.minimum(high, np.maximum(self.scores, 1.0))


# Counts that are kept, in bytes, and those of a block, in numbers.
_KEPT, _BLOCK = 2**24, 2**19


@dataclass(frozen=True)
class Resamples:
    """`resample_counts` in blocks of resamples, float64 [some, unit], 4 MB each.

    Of many units all are never held, and each iteration draws them again. `columns`: which units there are, all where
    it is None.
    """

    units: int
    seed: int
    resamples: int = RESAMPLES
    columns: Sequence[int] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        kept = self.units * self.resamples <= _KEPT
        for counts in (_kept_counts if kept else _draw_counts)(self.units, self.seed, self.resamples):
            yield (counts if self.columns is None else counts[:, self.columns]).astype(np.float64)


def _draw_counts(units: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    rng, step = np.random.default_rng(seed), max(1, _BLOCK // units)
    for start in range(0, resamples, step):
        yield rng.multinomial(units, np.full(units, 1 / units), size=min(step, resamples - start))


@functools.lru_cache(maxsize=4)
def _kept_counts(units: int, seed: int, resamples: int) -> list[np.ndarray]:
    # Of many units none is drawn 256 times: ten times are rare.
    return [counts.astype(np.uint8) for counts in _draw_counts(units, seed, resamples)]


def resample_counts(units: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """The number of times that each of `units` units is drawn in each resample, float64 [resample, unit]."""
    return np.concatenate(list(Resamples(units, seed, resamples)))


def score_draws(score: Callable[[np.ndarray], np.ndarray], unit_of: Sequence[str] | np.ndarray) -> np.ndarray:
    """A score that is no sum of losses in `RESAMPLES` resamples of the units, [tap, 1 + draw].

    Such are average precision and Spearman's correlation.

    Parameters
    ----------
    score: how often each row is drawn, float64 [row], whole numbers -> the score at every tap, [tap]; larger is better.
    unit_of: [row], the independent unit of each row, as `Activations.groups`; rows of one unit are drawn together.

    The first column has each row once: the score itself. Units of the same names are drawn alike, so that differences
    of taps, of runs and of controls are paired.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.statistics import drawn_scores
        >>> values = np.array([[0.0, 1.0, 5.0], [2.0, 2.0, 2.0]])  # of two taps
        >>> def medians_of(times):
        ...     return np.array([np.median(np.repeat(x, times.astype(int))) for x in values])
        >>> medians = drawn_scores(medians_of, ["a", "b", "c"])
        >>> medians.shape, medians[:, 0]
        ((2, 2001), array([1., 2.]))
    """
    units, at = np.unique(np.asarray(unit_of).astype(str), return_inverse=True)
    draws = (times for block in Resamples(len(units), 0) for times in block)
    return np.stack([score(times[at]) for times in itertools.chain([np.ones(len(units))], draws)], axis=1)


def resample_scores(
    loss: np.ndarray,
    reference: np.ndarray,
    counts: np.ndarray | Resamples,
    seed: int,
    share: bool = False,
    stream: int = 0,
) -> np.ndarray:
    """Scores in each resample, [resample, tap], of losses [tap, unit] or [tap, unit, part] with `resample_counts`.

    Of a share (`share`: losses count wrong answers among the reference's) resampling sees no variance where all units
    of a part (class) are right, however few they are. So half a unit that is right and half a unit that is wrong are
    shared out among the parts and drawn with the others, with random weights (gamma): Jeffreys' prior for a proportion,
    whose interval Brown, Cai and DasGupta recommend (2001, Statistical Science 16). Scores that are compared take
    `stream`s of their own.
    """
    blocks = [counts] if isinstance(counts, np.ndarray) else counts
    if not share:
        return np.concatenate([scores(loss, reference, block) for block in blocks])
    lost, whole = (x.reshape(*x.shape[:2], -1) for x in (loss, reference))
    drawn: list[np.ndarray] = []
    # As many taps at a time as sums of 32 MB allow.
    for taps in np.array_split(np.arange(len(lost)), max(1, -(-lost.shape[0] * lost.shape[2] * RESAMPLES // 2**21))):
        some = lost[taps], whole[taps]
        sums = [np.stack([np.tensordot(block, x, axes=(1, 1)) for x in some]) for block in blocks]
        for i, (wrong, asked) in enumerate(np.concatenate(sums, axis=1).transpose(2, 0, 1, 3)):
            size, halves = _half_units(some[0][i], some[1][i])
            rng = np.random.default_rng([seed, stream])
            right_half, wrong_half = size * rng.standard_gamma(halves, size=(2, *wrong.shape))
            there, answers = asked > 0, asked + wrong_half + right_half
            rate = np.divide(wrong + wrong_half, answers, out=np.zeros_like(wrong), where=there)
            with np.errstate(invalid="ignore", divide="ignore"):
                score = 1.0 - np.where(np.isnan(wrong), np.nan, rate).sum(axis=1) / there.sum(axis=1)
            drawn.append(score)
    return np.stack(drawn, axis=1)


def _half_units(loss: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each part: how much of the reference one independent unit is, and how much of half a unit it gets.

    [part] each.
    """
    whole = reference.sum(axis=0)
    per = np.where(whole > 0, whole, np.inf)
    missed = loss.sum(axis=0) / per
    mean = (reference**2).sum(axis=0) / per
    # A unit is as large as answers that go together, half a unit of mean size, wrong throughout, among them.
    between = ((loss - missed * reference) ** 2).sum(axis=0) + 0.5 * mean**2
    alone = whole * missed * (1 - missed) + 0.5 * mean
    size = np.divide(between, alone, out=np.zeros_like(per), where=alone > 0)
    # By what each adds to the variance of the mean: half a unit each would pull a mean of many parts towards one half.
    halves = 0.5 * np.divide(size / per, (size / per).sum(), out=np.zeros_like(per), where=size > 0)
    return size, halves


def interval(
    value: np.ndarray | float,
    replicates: np.ndarray,
    units: int,
    fit_units: int | None = None,
    effective: float | None = None,
    level: float = LEVEL,
    *,
    student: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval at a level from bootstrap replicates [resample, ...] over independent units.

    These are `units`, or the fewer that `effective_units` counts. Replicates without a value (NaN) are left out. With
    `student` the ends are also no nearer than those of Student's interval, whose standard error is that of the
    replicates: of few skewed units the percentiles miss a tail.

    The expanded percentile interval: the percentile interval of few units is too narrow, and drawing its ends at the
    level that a t interval with the same n needs mends it (Hesterberg 2015, arXiv 1411.5279, section 5.2).

    For what was fitted on `fit_units` other units the training set adds about units / fit_units of the variance that is
    seen (Nadeau and Bengio 2003, Machine Learning 52, equation 8), so the replicates are spread about the value by the
    root of one plus that share. An interval holds its value.
    """
    from scipy import special

    count = units if effective is None else min(effective, units)
    if units < 2 or count <= 1:
        nothing = np.full(np.shape(value), np.nan)
        return nothing, nothing
    t = special.stdtrit(count - 1, 0.5 + level / 2)
    tail = special.ndtr(-np.sqrt(count / (count - 1)) * t)
    ends = [tail, 1 - tail]
    if np.isnan(replicates).any():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")
            low, high = np.nanquantile(replicates, ends, axis=0)
    else:
        low, high = np.quantile(replicates, ends, axis=0)
    if student:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Degrees of freedom")
            reach = t * np.sqrt(count / (count - 1)) * np.nanstd(replicates, axis=0)
        low, high = np.minimum(low, value - reach), np.maximum(high, value + reach)
    spread = np.sqrt(1 + units / fit_units) if fit_units else 1.0
    return value + spread * np.minimum(low - value, 0.0), value + spread * np.maximum(high - value, 0.0)


def effective_units(reference: np.ndarray, share: bool = False) -> float:
    """Units that the score of a reference [tap, unit] or [tap, unit, part] rests on; 0 where no part lies in two.

    Of a share all units: `resample_scores` adds what its rare parts leave open. Of other scores, with variances of the
    parts' scores about 1 / units that hold them, the degrees of freedom of their mean by Welch (1947) and Satterthwaite
    (1946).
    """
    holds = (np.atleast_3d(reference) > 0).any(axis=0).sum(axis=0)
    holds = holds[holds > 0].astype(np.float64)
    if len(holds) == 0 or holds.max() < 2:
        return 0.0
    if share:
        return float(reference.shape[1])
    # A part in one unit shows no variance of its own; half a degree of freedom stands for knowing next to nothing.
    freedom = (1 / holds).sum() ** 2 / (1 / (holds**2 * np.maximum(holds - 1, 0.5))).sum()
    return float(freedom + 1)


def heaviest_units(amount: np.ndarray) -> tuple[int, float]:
    """The twentieth of the units that has the most of a loss or reference, and the share that it carries.

    Of [unit] or [unit, part], summed over parts that each count alike; NaN for fewer than 40 units, of which two would
    be a matter of luck.

    Of squares of normal values a twentieth carries about .28, of 40 units .45 in less than 2 % of draws. Where it
    carries more, resampling cannot know of larger values.
    """
    amount = amount.reshape(len(amount), -1)
    few = len(amount) // 20
    whole = amount.sum(axis=0)
    if few < 2 or not (whole > 0).any():
        return few, float("nan")
    by_unit = np.sort((amount[:, whole > 0] / whole[whole > 0]).sum(axis=1))
    return few, float(by_unit[-few:].sum() / by_unit.sum())


def rank_correlation(
    prediction: np.ndarray,
    truth: np.ndarray,
    unit_of: Sequence[str] | np.ndarray,
    seed: int,
    fit_units: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spearman's rank correlation of predictions [tap, sample] with the truth [sample], low and high; [tap] each.

    It is no sum of losses, so each resample of the units that `unit_of` [sample] names ranks anew, ties by their mean
    rank. NaN where all predictions are equal or one is not finite.
    """
    units, at = np.unique(unit_of, return_inverse=True)
    # The cost grows with samples and resamples, and the interval of many samples is narrow anyway.
    resamples = min(RESAMPLES, max(200, 2**21 // len(at)))
    counts = np.concatenate([np.ones((1, len(units))), resample_counts(len(units), seed, resamples)])
    found: list[np.ndarray] = []
    # Sixteen megabytes of float64 for each column of ranks.
    for part in np.array_split(counts, -(-len(counts) * len(at) // 2**21)):
        weights = part[:, at]
        true, *guesses = (_ranks(column, weights) for column in (truth, *prediction))
        spread = [np.sqrt((weights * x**2).sum(axis=1)) for x in (true, *guesses)]
        shared = [(weights * true * x).sum(axis=1) for x in guesses]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.stack(shared, axis=1) / np.stack(spread[1:], axis=1) / spread[0][:, None])
    drawn = np.where(np.isfinite(prediction).all(axis=1), np.concatenate(found), np.nan)
    low, high = interval(drawn[0], drawn[1:], len(units), fit_units)
    return drawn[0], np.maximum(low, -1.0), np.minimum(high, 1.0)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks less their mean, [resample, sample]; `weights` [resample, sample]: how often each sample counts."""
    distinct, at = np.unique(values, return_inverse=True)
    order = np.argsort(at, kind="stable")
    count = np.add.reduceat(weights[:, order], np.searchsorted(at[order], np.arange(len(distinct))), axis=1)
    return (count.cumsum(axis=1) - (count + count.sum(axis=1, keepdims=True)) / 2)[:, at]


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
        score = 1.0 - share.sum(axis=2) / there.sum(axis=2)
    return score.squeeze(axis=0) if counts is None else score


def profile_intervals(
    loss: np.ndarray, reference: np.ndarray, fit_units: int, seed: int, share: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, low and high of each tap from test losses [tap, unit] or [tap, unit, part].

    `share` is that of `resample_scores`. Where all answers of a share without parts are right, or all wrong, the end
    away from the border is that of Clopper and Pearson (1934, Biometrika 26) for n of n units, which holds for the
    share of units whose answers are all right (wrong), spread as `interval` spreads.
    """
    units = loss.shape[1]
    score = scores(loss, reference)
    replicates = resample_scores(loss, reference, Resamples(units, seed), seed, share)
    low, high = interval(score, replicates, units, fit_units, effective_units(reference, share))
    if share and loss.ndim == 2:
        exact = 1 - ((1 - LEVEL) / 2) ** (1 / np.maximum((reference > 0).sum(axis=1), 1))
        reach = np.minimum(np.sqrt(1 + units / fit_units) * exact if fit_units else exact, 1.0)
        known = np.isfinite(low)
        low = np.where(known & (score == 1), 1 - reach, low)
        high = np.where(known & (score == 0), reach, high)
    # A loss is never negative, so no score passes 1; wrong answers are at most all of them.
    return score, np.maximum(low, 0.0) if share else low, np.minimum(high, 1.0)


def group_blocks(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Block number of each row, int [row]: whole groups, dealt at random into at most `count` blocks of like number."""
    unique, inverse = np.unique(groups.astype(str), return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(unique)) % count)[inverse]


def influence_interval(
    estimate: float, influence: np.ndarray, groups: np.ndarray, *, logarithm: bool = True
) -> tuple[float, float]:
    """95 % interval for a smooth statistic from the influence of each row, summed over groups.

    The infinitesimal jackknife (Jaeckel 1972; Efron 1982, chapter 6) over groups: the variance is G / (G - 1) times the
    sum of squares of the groups' influences, with t quantiles of G - 1 degrees of freedom.

    Parameters
    ----------
    estimate: from all rows.
    influence: [row], derivative of the statistic by the row's weight, all weights being 1; sums to 0.
    groups: [row].
    logarithm: the interval is symmetric on the logarithm of a positive statistic.

    NaN for fewer than two groups.
    """
    unique, inverse = np.unique(groups.astype(str), return_inverse=True)
    count = len(unique)
    whole = np.bincount(inverse, influence, minlength=count)
    if count < 2 or not np.isfinite(estimate) or not np.isfinite(whole).all():
        return float("nan"), float("nan")
    spread = float(np.sqrt(count / (count - 1) * (whole @ whole)))
    return _about(estimate, spread / estimate if logarithm else spread, count - 1, logarithm)


def subset_interval(estimate: float, parts: np.ndarray) -> tuple[float, float]:
    """95 % interval for a positive statistic from its values on disjoint parts of the groups, [part].

    The variance of the logarithm falls as 1 / n, so that of the whole is the variance among m parts over m; t quantiles
    of m - 1 degrees of freedom. For statistics of nearest neighbours, where leaving rows out (a jackknife) gives up to
    twice the right width. NaN for fewer than two parts with a value.
    """
    known = parts[np.isfinite(parts) & (parts > 0)]
    if len(known) < 2 or not (np.isfinite(estimate) and estimate > 0):
        return float("nan"), float("nan")
    spread = float(np.log(known).std(ddof=1)) / np.sqrt(len(known))
    return _about(estimate, spread, len(known) - 1, True)


def jackknife_interval(
    estimate: float, left_out: np.ndarray, sizes: np.ndarray, *, logarithm: bool = True
) -> tuple[float, float]:
    """95 % interval for a statistic from its values with one block of rows left out each.

    Delete-m_j jackknife for blocks of unequal size (Busing, Meijer, Van der Leeden 1999, eq. 3), with t quantiles of
    blocks - 1 degrees of freedom; NaN for fewer than two blocks.

    Parameters
    ----------
    estimate: from all rows.
    left_out: [block], the statistic without that block.
    sizes: [block], rows in each block.
    logarithm: the interval is symmetric on the logarithm of a positive statistic.
    """
    count = len(left_out)
    with np.errstate(invalid="ignore", divide="ignore"):
        whole, *parts = np.log([estimate, *left_out]) if logarithm else (estimate, *left_out)
    if count < 2 or not np.isfinite([whole, *parts]).all():
        return float("nan"), float("nan")
    share = sizes.sum() / sizes
    pseudo = share * whole - (share - 1) * parts
    centre = count * whole - ((1 - 1 / share) * parts).sum()
    spread = float(np.sqrt(np.mean((pseudo - centre) ** 2 / (share - 1))))
    return _about(estimate, spread, count - 1, logarithm)


def _about(estimate: float, spread: float, freedom: int, logarithm: bool) -> tuple[float, float]:
    """The t interval about an estimate from its standard error, or that of its logarithm."""
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * spread
    if not logarithm:
        return estimate - reach, estimate + reach
    with np.errstate(over="ignore"):
        return float(estimate * np.exp(-reach)), float(estimate * np.exp(reach))


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))


def mean_with_interval(values: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """`score`, `low` and `high` of each column: `mean_of_known` of values [sample, column] and its interval."""
    low, high = bootstrap_mean_interval(values, groups, seed)
    return {"score": mean_of_known(values), "low": low, "high": high}


def bootstrap_mean_interval(values: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals for means over samples, resampling whole groups; see `diagnostics.measures.statistics.interval`.

    Parameters
    ----------
    values: [sample, column]; NaN where a sample has no value, which leaves it out of that column.
    groups: [sample].

    Returns low and high, [column]; NaN where fewer than two groups have values. All columns share the same draws.
    """
    unique, inverse = np.unique(groups.astype(str), return_inverse=True)
    known = np.isfinite(values)
    sums = np.zeros((len(unique), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, inverse, np.where(known, values, 0.0))
    np.add.at(counts, inverse, known.astype(np.float64))
    drawn = [(weights @ sums, weights @ counts) for weights in Resamples(len(unique), seed)]
    added, total = (np.concatenate(part) for part in zip(*drawn, strict=True))
    with np.errstate(invalid="ignore"):
        means = added / total
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for column, units in enumerate((counts > 0).sum(axis=0)):
        if units >= 2:
            drawn = means[np.isfinite(means[:, column]), column]
            whole = sums[:, column].sum() / counts[:, column].sum()
            low[column], high[column] = interval(whole, drawn, int(units))
    return low, high
