"""The taps that the losses do not tell apart from the best one: a model confidence set."""

from __future__ import annotations

import numpy as np

from diagnostics.measures.statistics import Losses

COVERAGE = 0.9
"""How often the set holds a tap that none is better than."""


def confidence_set(losses: Losses, candidates: np.ndarray, seed: int) -> list[int]:
    """The `candidates` (indices of taps) that are not shown to be worse than the others that stay, in their order.

    Hansen, Lunde and Nason (2011, Econometrica 79, T_max): of the taps that remain, the one that is worst against their mean,
    in standard errors, leaves as long as the largest such distance is larger than in 90 % of bootstrap resamples of the units,
    about what was found. For few units that level is expanded as `statistics.interval` expands its own (Hesterberg 2015). A
    single unit tells no taps apart. Taps without a score leave first.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.confidence_set import confidence_set
        >>> from diagnostics.measures.statistics import Losses
        >>> loss = np.random.default_rng(0).random((3, 80)) * [[1.0], [1.0], [1.5]]
        >>> confidence_set(Losses(loss, np.ones((3, 80))), np.arange(3), seed=0)
        [0, 1]
    """
    from scipy import special

    score = losses.scores
    left = np.asarray(candidates)[np.isfinite(score[candidates])]
    units = losses.loss.shape[1]
    if len(left) < 2 or units < 2:
        return left.tolist()
    away = losses.at(left.tolist()).resampled(seed) - score[left]
    # A part (class) that a resample draws in no unit leaves it without a score.
    away = away[np.isfinite(away).all(axis=1)]
    level = special.ndtr(np.sqrt(units / (units - 1)) * special.stdtrit(units - 1, COVERAGE))
    while len(left) > 1:
        around = away.mean(axis=1, keepdims=True) - away
        error = around.std(axis=0)
        told = error > 1e-12
        if not told.any():
            break
        scale = np.divide(1.0, error, out=np.zeros_like(error), where=told)
        distance = (score[left].mean() - score[left]) * scale
        if distance.max() <= np.quantile((around * scale).max(axis=1), level):
            break
        stays = np.arange(len(left)) != distance.argmax()
        left, away = left[stays], away[:, stays]
    return left.tolist()
