"""What statistics, choice and comparison should give, computed the plain way: numpy, one tap and one resample after another.

Losses and references are [unit] or [unit, part]. Nothing of `measures` or `runs` is called.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy import stats

SEED, RESAMPLES, FLIPS = 3, 2000, 1999
Pair = tuple[np.ndarray, np.ndarray]
"""Loss and reference."""


def score(
    pair: Pair, weights: np.ndarray | None = None, added: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """[resample], of units drawn as often as `weights` [resample, unit] says; `added`: wrong and right answers [resample, part]."""
    loss, whole = (x.reshape(len(x), -1) for x in pair)
    weights = np.ones((1, len(loss))) if weights is None else weights
    wrong, right = (np.zeros(1), np.zeros(1)) if added is None else added
    there = weights @ whole > 0
    rates = np.divide(weights @ loss + wrong, weights @ whole + wrong + right, out=np.zeros(there.shape), where=there)
    with np.errstate(invalid="ignore"):
        return 1 - rates.sum(axis=1) / there.sum(axis=1)


@cache
def draws(units: int, seed: int = SEED) -> np.ndarray:
    """How often each unit is in each resample, [resample, unit]."""
    return np.random.default_rng(seed).multinomial(units, [1 / units] * units, size=RESAMPLES)


def resample(pair: Pair, share: bool = False, stream: int = 0) -> np.ndarray:
    """The score in each resample; of a share with half a unit right and half a unit wrong, shared out among the parts."""
    loss, whole = (x.reshape(len(x), -1) for x in pair)
    if not share:
        return score(pair, draws(len(loss)))
    loss, whole = loss[:, whole.any(axis=0)], whole[:, whole.any(axis=0)]
    total = whole.sum(axis=0)
    missed, mean = loss.sum(axis=0) / total, (whole**2).sum(axis=0) / total
    varies = ((loss - missed * whole) ** 2).sum(axis=0) + mean**2 / 2
    size = varies / (total * missed * (1 - missed) + mean / 2)
    halves = size / total / (size / total).sum() / 2
    right, wrong = np.random.default_rng([SEED, stream]).standard_gamma(halves, (2, RESAMPLES, len(halves))) * size
    return score((loss, whole), draws(len(loss)), (wrong, right))


def effective(whole: np.ndarray, share: bool = False) -> float:
    """Units that a score rests on, by Welch and Satterthwaite over the parts."""
    holds = (whole.reshape(len(whole), -1) > 0).sum(axis=0)
    variance = 1 / holds[holds > 0]
    freedom = variance.sum() ** 2 / sum(v**2 / max(1 / v - 1, 0.5) for v in variance)
    return len(whole) if share else min(freedom + 1, len(whole))


def ends(
    value: float, replicates: np.ndarray, units: int, fit: int, n: float, level: float = 0.95
) -> tuple[float, float]:
    """Of the expanded percentile interval, widened for the training set."""
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + level / 2, n - 1))
    low, high = np.nanquantile(replicates, tail), np.nanquantile(replicates, 1 - tail)
    wide = np.sqrt(1 + units / fit) if fit else 1.0
    return min(value, value + wide * (low - value)), max(value, value + wide * (high - value))


def gap(ours: Pair, theirs: Pair, fit: int, share: bool = False, level: float = 0.95) -> tuple[float, float, float]:
    """How much better the first scores than the second, with the ends."""
    value = float((score(ours) - score(theirs))[0])
    apart = resample(ours, share) - resample(theirs, share, 1)
    n = max(2.0, min(effective(side[1], share) for side in (ours, theirs)))
    low, high = ends(value, apart, len(ours[0]), fit, n, level)
    return (value, max(low, -1.0), min(high, 1.0)) if share else (value, low, high)


def upper_end(ours: Pair, theirs: Pair, fit: int, share: bool = False) -> float:
    """The upper end of the same, and no lower than Student's with the standard deviation of the resamples."""
    value, _, high = gap(ours, theirs, fit, share)
    units, n = len(ours[0]), max(2.0, min(effective(side[1], share) for side in (ours, theirs)))
    apart = resample(ours, share) - resample(theirs, share, 1)
    error = np.nanstd(apart) * np.sqrt(n / (n - 1)) * np.sqrt(1 + units / fit if fit else 1.0)
    return max(high, value + float(stats.t.ppf(0.975, n - 1) * error))


def standard_error(ours: Pair, theirs: Pair) -> float:
    """Of the difference of two scores: how it changes with the weight of each unit, by finite differences."""
    units, step = len(ours[0]), 1e-6
    more = 1 + step * np.concatenate([np.eye(units), -np.eye(units)])
    changes = np.split(score(ours, more) - score(theirs, more), 2)
    return float(np.sqrt(units / (units - 1) * (((changes[0] - changes[1]) / (2 * step)) ** 2).sum()))


def alike(
    pairs: Sequence[Pair], candidates: Sequence[int], again_by_tap: Sequence[np.ndarray] | None = None
) -> list[int]:
    """The model confidence set: the worst tap leaves while it is further from the mean than 9 of 10 resamples bring any."""
    units, left = len(pairs[0][0]), list(candidates)
    level = stats.norm.cdf(np.sqrt(units / (units - 1)) * stats.t.ppf(0.9, units - 1))
    found, again = [score(pair) for pair in pairs], again_by_tap or [resample(pair) for pair in pairs]
    while len(left) > 1:
        away = np.array([again[tap] - found[tap] for tap in left])
        away = away[:, np.isfinite(away).all(axis=0)]
        around = away.mean(axis=0) - away
        far = (np.mean([found[tap] for tap in left]) - np.array([found[tap][0] for tap in left])) / around.std(axis=1)
        if far.max() <= np.quantile((around / around.std(axis=1, keepdims=True)).max(axis=0), level):
            break
        left.pop(int(far.argmax()))
    return left


def choose(pairs: Sequence[Pair], output: int, share: bool = False, favour: bool = True) -> tuple[int, int, list[int]]:
    """The tap to use, the best before the output, and the set; taps behind the output are no candidates."""
    clipped = [(loss if share else np.minimum(loss, np.quantile(loss, 0.95, axis=0)), whole) for loss, whole in pairs]
    best = max(range(output), key=lambda tap: score(clipped[tap])[0])
    ahead = (score(clipped[best]) - score(clipped[output]))[0]
    tap = best if ahead > favour * max(standard_error(clipped[best], clipped[output]), 0.001) else output
    return tap, best, sorted({tap, *alike(clipped, range(output + 1))})


def with_seeds(reach: float, freedom: float, members: Sequence[Sequence[float]]) -> tuple[float, float]:
    """How far an interval reaches over samples and seeds (Welch and Satterthwaite), and its degrees of freedom."""
    parts = [((reach / stats.t.ppf(0.975, freedom)) ** 2, freedom)]
    parts += [(float(np.var(spread)) / (len(spread) - 1), len(spread) - 1) for spread in members]
    total = sum(part for part, _ in parts)
    joint = total**2 / sum(part**2 / degrees for part, degrees in parts)
    return float(stats.t.ppf(0.975, joint) * np.sqrt(total)), joint


def p_value(value: float, reach: float, freedom: float) -> float:
    """Two-sided, of the t whose interval reaches so far towards 0."""
    return float(2 * stats.t.cdf(-abs(value) / reach * stats.t.ppf(0.975, freedom), freedom))


def holm(p: Sequence[float]) -> np.ndarray:
    """Each p times the number of those not smaller, and no smaller than those before."""
    order = np.argsort(p)
    found = np.empty(len(p))
    for place, at in enumerate(order):
        found[at] = max(min(1.0, p[other] * (len(p) - i)) for i, other in enumerate(order[: place + 1]))
    return found


def flip_test(rows: Sequence[np.ndarray], fit: Sequence[int]) -> list[np.ndarray]:
    """p [row] of each of several differences [row, unit], against the largest of all rows.

    The signs of units are drawn; of fewer units they are the first.
    """
    signs = 2.0 * np.random.default_rng(SEED).integers(0, 2, (FLIPS, max(each.shape[1] for each in rows))) - 1
    t = [each / np.sqrt((each**2).sum(axis=1, keepdims=True)) for each in rows]
    largest = np.max([np.abs(signs[:, : each.shape[1]] @ each.T).max(axis=1) for each in t], axis=0)
    seen = [np.abs(each.sum(axis=1)) / np.sqrt(1 + each.shape[1] / n) for each, n in zip(t, fit, strict=True)]
    return [np.array([(1 + (largest >= own - 1e-12).sum()) / (FLIPS + 1) for own in each]) for each in seen]


def weighted_ranks(values: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation in each resample: samples repeated as often as drawn."""
    rows = [np.repeat(np.arange(len(truth)), w) for w in weights.astype(int)]
    return np.array([np.corrcoef(stats.rankdata(values[at]), stats.rankdata(truth[at]))[0, 1] for at in rows])


def estimate(
    value: float, replicates: np.ndarray, members: Sequence[Sequence[float]], fit: int, units: int = 80, n: float = 0
) -> list[float]:
    """A number with its ends over samples, over seeds too where there are any, and its p."""
    n = n or units
    low, high = ends(value, replicates, units, fit, n)
    if any(len(spread) < 2 for spread in members):
        reach = value - low if value > 0 else high - value
        return [value, low, high, value, low, high, p_value(value, reach, n - 1)]
    below, above = (with_seeds(reach, n - 1, members) for reach in (value - low, high - value))
    reach, freedom = below if value > 0 else above
    return [value, low, high, value, value - below[0], value + above[0], p_value(value, reach, freedom)]
