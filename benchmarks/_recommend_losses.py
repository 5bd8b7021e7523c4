"""Losses of planted encoders whose population scores are known, for `recommend.py`; no probe is fitted.

A draw is one encoder and one data set. The last tap is the output. A unit's loss at a tap is a squared error (a wrong answer)
whose expectation gives the tap's population score, so nothing of the population has to be estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

OUTPUT = 0.6
"""The output's population score: R2, accuracy, or the recall of every class."""
GAPS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.3)
SHAPES = ("one", "ramp", "plateau", "none")
FAMILIES = ("normal", "t", "lognormal", "classes", "rare", "clusters", "ties")
HEAVY_FREEDOM = 2.5
RARE = (0.85, 0.1, 0.05)
"""How often each class of `rare` is drawn."""
IN_CLUSTER = 25


@dataclass(frozen=True)
class Setting:
    """A kind of encoder and of data; `alike`: the correlation of the taps' errors on a unit, `units`: of train and val."""

    family: str
    shape: str
    gap: float
    alike: float
    taps: int
    units: int

    @property
    def share(self) -> bool:
        return self.family in ("classes", "rare")

    @property
    def val_units(self) -> int:
        return max(self.units // 4, 1)


def population(setting: Setting, draws: int, rng: np.random.Generator) -> np.ndarray:
    """[draw, tap], the population scores; the largest is the output's plus the gap."""
    at = np.arange(setting.taps)
    last = setting.taps - 1
    best = OUTPUT + setting.gap
    score = np.empty((draws, setting.taps))
    for row in score:
        if setting.shape == "one":
            # One tap has the gap, at gap 0 beside the output; the others are up to .2 below the output.
            row[:] = OUTPUT - rng.uniform(0, 0.2, setting.taps)
            row[rng.integers(last)] = best
        elif setting.shape == "ramp":
            # Up from .3 below the output to the peak, then down to the output; at gap 0 the output is the peak.
            peak = rng.integers(setting.taps // 3, last) if setting.gap else last
            row[:] = np.interp(at, np.array([0, peak, last]), [OUTPUT - 0.3, best, OUTPUT])
            row[peak] = best
        elif setting.shape == "plateau":
            # Half of the taps, neighbours, have the gap; the others are .1 below the output.
            start = rng.integers(last - setting.taps // 2 + 1)
            row[:] = OUTPUT - 0.1
            row[start : start + setting.taps // 2] = best
        else:
            # No tap is as good as the output: all are .02 to .1 below it.
            row[:] = OUTPUT - rng.uniform(0.02, 0.1, setting.taps)
        row[last] = OUTPUT
        if setting.family == "ties":
            # Copies, as a residual stream before and after an identity: every tap is its right neighbour's.
            row[last - 1 :: -2] = row[last:0:-2]
            if setting.gap and row.max() < best:
                row[last - 3 : last - 1] = best
    return score


def losses(setting: Setting, score: np.ndarray, units: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Loss [draw, tap, unit, part] and reference [draw, unit, part] of so many units, for scores [draw, tap]."""
    draws, taps = score.shape
    if setting.family == "clusters":
        return _clusters(setting, score, units, rng)
    error = _alike(setting.alike, (draws, taps, units), rng)
    if setting.share:
        wrong = (error > stats.norm.ppf(score)[:, :, None]).astype(float)[..., None]
        if setting.family == "classes":
            return wrong, np.ones((draws, units, 1))
        units_of = np.eye(len(RARE))[rng.choice(len(RARE), (draws, units), p=RARE)]
        return wrong * units_of[:, None], units_of
    square = error**2
    if setting.family == "t":
        # Multivariate t: a hard unit is hard at every tap. Scaled to variance 1.
        square *= (HEAVY_FREEDOM - 2) / rng.chisquare(HEAVY_FREEDOM, (draws, 1, units))
    if setting.family == "lognormal":
        square *= np.exp(_alike(setting.alike, (draws, taps, units), rng) - 0.5)
    loss = square * (1 - score)[:, :, None]
    if setting.family == "ties":
        loss[:, taps - 2 :: -2] = loss[:, taps - 1 : 0 : -2]
    return loss[..., None], rng.chisquare(1, (draws, units, 1))


def _alike(alike: float, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers [draw, tap, unit] whose correlation between taps is `alike`."""
    draws, _, units = shape
    return np.sqrt(alike) * rng.standard_normal((draws, 1, units)) + np.sqrt(1 - alike) * rng.standard_normal(shape)


def _clusters(
    setting: Setting, score: np.ndarray, clusters: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A unit is a cluster of samples; how well a tap reads differs from cluster to cluster (a factor of about e^.3)."""
    draws, taps = score.shape
    spread = 0.3
    factor = np.exp(spread * _alike(setting.alike, (draws, taps, clusters), rng) - spread**2 / 2)
    error = _alike(setting.alike, (draws, taps, clusters * IN_CLUSTER), rng).reshape(draws, taps, clusters, IN_CLUSTER)
    loss = (error**2).sum(axis=3) * factor * (1 - score)[:, :, None]
    return loss[..., None], rng.chisquare(IN_CLUSTER, (draws, clusters, 1))
