"""Loss of a rule that chooses taps: the score on test of another tap less that of its own.

Two intervals say how sure a mean regret is. That over units keeps the tasks: other samples of the same. That over tasks
and encoders asks for other tasks; its variance counts each task and each encoder as one draw, so that it also holds
what the samples of a task have in common at every tap.
"""

from collections.abc import Sequence

import numpy as np

from diagnostics.measures.statistics import LEVEL, Interval, Losses, interval
from diagnostics.measures.tap_choice import standard_error


class Regrets:
    """The regrets of rules on one task, on test and in each resample of its units.

    Parameters
    ----------
    test: losses of all readers on test.
    used: index of the reader against which rules are held.
    fit_units: units on which the readers were fitted; spreads the resamples as `statistics.interval` does.
    seed: of the resamples; of tasks with the same units the same, so that these are drawn together.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.regret import Regrets
        >>> from diagnostics.measures.statistics import Losses
        >>> wrong = np.array([[0.0, 0, 0, 0], [1, 1, 0, 0]])  # of two taps on 4 units
        >>> regrets = Regrets(Losses(wrong, np.ones((2, 4)), counts=True), 0, 16, seed=0)
        >>> float(regrets.of(np.array([0.5, 0.5]))[0])
        0.25
    """

    def __init__(self, test: Losses, used: int, fit_units: int, seed: int) -> None:
        self.used, self.scores = used, test.scores
        # Streams of their own, as of any two scores that are compared.
        self.ours, self.theirs = test.at([used]).resample(seed)[:, 0], test.resample(seed, stream=1)
        self.spread = float(np.sqrt(1 + test.loss.shape[1] / fit_units)) if fit_units else 1.0

    def of(self, shares: np.ndarray) -> np.ndarray:
        """[1 + resample], the regret of a rule that takes each reader with a share [reader]; the shares add up to 1."""
        others = np.flatnonzero(shares)
        others = others[others != self.used]
        if not len(others):
            return np.zeros(1 + len(self.ours))
        kept, weights = 1 - shares[self.used], shares[others]
        value = kept * self.scores[self.used] - self.scores[others] @ weights
        away = kept * self.ours - self.theirs[:, others] @ weights - value
        return np.concatenate([[value], value + self.spread * away])


def mean_over_units(draws: Sequence[np.ndarray], units: int) -> Interval:
    """The mean regret of some tasks as `Regrets.of` gives them, with its interval over the units of each.

    `units`: of the task with the fewest.
    """
    mean = np.mean(draws, axis=0)
    low, high = interval(mean[0], mean[1:], units)
    return Interval(float(mean[0]), float(low), float(high))


def mean_over_tasks(regret: np.ndarray, datasets: Sequence[str] | None = None) -> Interval:
    """The mean of regrets [encoder, task], NaN where there is none, with its interval over tasks and encoders.

    Tasks of one of the `datasets` [task] are one draw.

    The variance is that of the sums of its influences by encoder plus that by task, of which Cameron, Gelbach and Miller
    (2011, Journal of Business and Economic Statistics 29) take what both hold once: with few encoders that covers too
    little (`benchmarks/regret.py`). t quantiles with the degrees of freedom of Satterthwaite (1946). A factor of one
    level adds nothing, and without two levels of either there is no interval.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.regret import mean_over_tasks
        >>> print(mean_over_tasks(np.array([[0.01, 0.02, 0.03]])))  # 0.02 and 4.30 * .01 / sqrt(3)
        0.020 [-0.005, 0.045]
    """
    from scipy.special import stdtrit

    known = np.isfinite(regret)
    mean = float(regret[known].mean()) if known.any() else float("nan")
    influence = np.where(known, regret - mean, 0.0) / max(known.sum(), 1)
    at = np.arange(regret.shape[1]) if datasets is None else np.unique(datasets, return_inverse=True)[1]
    by_dataset = np.eye(int(at.max()) + 1)[at]
    drawn = known.any(axis=1).sum(), (known.any(axis=0) @ by_dataset > 0).sum()
    levels = zip(map(int, drawn), (influence.sum(axis=1), influence.sum(axis=0) @ by_dataset), strict=True)
    parts = [(count, count / (count - 1) * float(sums @ sums)) for count, sums in levels if count > 1]
    if not parts:
        return Interval(mean, float("nan"), float("nan"))
    total = sum(part for _, part in parts)
    if total == 0:
        return Interval(mean, mean, mean)
    freedom = total**2 / sum(part**2 / (count - 1) for count, part in parts)
    reach = float(stdtrit(freedom, 0.5 + LEVEL / 2)) * np.sqrt(total)
    return Interval(mean, mean - reach, mean + reach)


def noise_floor(test: Losses, used: int, candidates: Sequence[int]) -> float:
    """By how much two equally good taps would differ on these units; NaN without any.

    It is the standard error of a paired difference from the tap used, mean over the other candidates.
    """
    errors = [standard_error(test.at([used, other])) for other in candidates if other != used]
    return float(np.mean(errors)) if errors else float("nan")
