"""Intervals for measures without a target, over independent groups (videos, series, subjects; never tokens)."""

from __future__ import annotations

import numpy as np

from diagnostics.statistics import LEVEL, interval, resample_counts


def group_blocks(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Block number of each row, int [row]: whole groups, dealt at random into at most `count` blocks of like number."""
    unique, inverse = np.unique(groups.astype(str), return_inverse=True)
    of_group = np.random.default_rng(seed).permutation(len(unique)) % count
    return of_group[inverse]


def jackknife_log_interval(estimate: float, left_out: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """95 % interval for a positive statistic from its values with one block of rows left out each.

    Delete-m_j jackknife for blocks of unequal size (Busing, Meijer, Van der Leeden 1999, eq. 3) on the logarithm, with
    t quantiles of blocks - 1 degrees of freedom; NaN for fewer than two blocks.

    Parameters
    ----------
    estimate: from all rows.
    left_out: [block], the statistic without that block.
    sizes: [block], rows in each block.
    """
    count = len(left_out)
    if count < 2 or not (estimate > 0 and (left_out > 0).all()):
        return float("nan"), float("nan")
    from scipy.special import stdtrit

    whole, parts = np.log(estimate), np.log(left_out)
    share = sizes.sum() / sizes
    pseudo = share * whole - (share - 1) * parts
    centre = count * whole - ((1 - 1 / share) * parts).sum()
    spread = np.sqrt(np.mean((pseudo - centre) ** 2 / (share - 1)))
    reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * spread
    return float(np.exp(whole - reach)), float(np.exp(whole + reach))


def bootstrap_mean_interval(values: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals for means over samples, resampling whole groups; see `diagnostics.statistics.interval`.

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
