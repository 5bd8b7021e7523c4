"""Which tap to read: a rule over the scores on val, and how often other val units would have chosen another tap.

The output, where no hidden gap is shown on test; else the earliest tap on the trunk whose score on val is within one standard
error of the best (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3), here the standard error of the
difference from the best tap, paired over val units; and no more than `FREE` below it, since few or heavy-tailed val units
make that error large, and a cheaper tap is to cost next to nothing. Taps behind the output are never chosen: it cannot hide
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diagnostics.measures.hidden_gap import paired_difference
from diagnostics.measures.statistics import Losses, resample_counts, resampled_scores

FREE = 0.01
"""What a cheaper tap may give up of the best score on val."""


@dataclass(frozen=True)
class TapChoice:
    """The tap that the rule chooses (its index), and how sure that is.

    `changed`: the share of bootstrap resamples of val in which the rule chooses another tap; `rival`: the one that it chooses most
    often then, None where it never does; `cost`: by how much the chosen tap's score on test is better than that of those
    others, on average over these resamples (negative where they are better), 0 where there are none.
    """

    tap: int
    changed: float
    rival: int | None
    cost: float


def choose_tap(
    val: Losses,
    test: Losses,
    output: int,
    depth: np.ndarray,
    fit_units: int,
    seed: int,
    share: bool = False,
) -> TapChoice | None:
    """The tap to read, from losses on val and on test; None where no tap up to the output has a score on val.

    Parameters
    ----------
    output: index of the output tap.
    depth: [tap]; deeper taps than the output are not looked at. Above 1 lie heads: the best tap may lie in one, but an earlier
        one is taken for it on the trunk only.
    fit_units, share: those of `hidden_gap.paired_difference`.
    """
    score = val.scores
    candidates = np.flatnonzero(np.isfinite(score) & (depth <= depth[output]))
    if len(candidates) == 0:
        return None
    counts = resample_counts(val.loss.shape[1], seed)
    replicates = resampled_scores(val.loss[candidates], val.reference[candidates], counts, seed, share)
    # A part (class) that a resample draws in no unit leaves it without a score.
    replicates = replicates[np.isfinite(replicates).all(axis=1)]
    errors = _errors_of_differences(replicates)
    hidden: dict[int, bool] = {output: False}

    def is_hidden(tap: int) -> bool:
        if tap not in hidden:
            sides = (test.loss[tap], test.reference[tap], test.loss[output], test.reference[output])
            hidden[tap] = bool(paired_difference(*sides, fit_units, seed, share).low > 0)
        return hidden[tap]

    def choose(by_candidate: np.ndarray) -> int:
        best = int(by_candidate.argmax())
        if not is_hidden(int(candidates[best])):
            return output
        near = (depth[candidates] <= 1) & (by_candidate >= by_candidate[best] - np.minimum(errors[best], FREE))
        near[best] = True
        return int(candidates[near.argmax()])

    tap = choose(score[candidates])
    chosen = np.array([choose(row) for row in replicates])
    others = chosen[chosen != tap]
    if len(others) == 0:
        return TapChoice(tap, 0.0, None, 0.0)
    on_test = test.scores
    cost = float(on_test[tap] - on_test[others].mean())
    return TapChoice(tap, len(others) / len(chosen), int(np.bincount(others).argmax()), cost)


def _errors_of_differences(replicates: np.ndarray) -> np.ndarray:
    """[tap, tap], the standard error of the difference of two taps' scores, from resamples [resample, tap]."""
    # Around their means, since sums of squares of scores such as -1e100 cancel.
    around = replicates - replicates.mean(axis=0)
    return np.stack([(around[:, [tap]] - around).std(axis=0) for tap in range(around.shape[1])])
