"""Intervals of measures without a target, over independent groups (videos, series, subjects; never tokens)."""

import numpy as np

from diagnostics.measures.statistics import LEVEL, interval, resample_counts


def group_blocks(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Block number of each row, int [row]: whole groups, dealt at random into at most `count` blocks of like number."""
    unique, inverse = np.unique(groups.astype(str), return_inverse=True)
    of_group = np.random.default_rng(seed).permutation(len(unique)) % count
    return of_group[inverse]


def linearised_interval(
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
    values = np.append(left_out, estimate)
    if count < 2 or not np.isfinite(values).all() or (logarithm and not (values > 0).all()):
        return float("nan"), float("nan")
    whole, parts = (np.log(estimate), np.log(left_out)) if logarithm else (estimate, left_out)
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


def known_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0))


def mean_with_interval(values: np.ndarray, groups: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """`score`, `low` and `high` of each column: `known_mean` of values [sample, column] and its interval."""
    low, high = bootstrap_mean_interval(values, groups, seed)
    return {"score": known_mean(values), "low": low, "high": high}


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
    weights = resample_counts(len(unique), seed)
    total = weights @ counts
    means = np.divide(weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    for column, units in enumerate((counts > 0).sum(axis=0)):
        if units >= 2:
            drawn = means[np.isfinite(means[:, column]), column]
            whole = sums[:, column].sum() / counts[:, column].sum()
            low[column], high[column] = interval(whole, drawn, int(units))
    return low, high
