"""Known answers of intervals and of the choice of a tap."""

import numpy as np
from scipy import stats

from diagnostics.measures.hidden_gap import paired_difference
from diagnostics.measures.known_answers import Case
from diagnostics.measures.statistics import Losses, interval
from diagnostics.measures.tap_choice import choose_tap

HESTERBERG = "Hesterberg 2015 (1411.5279), section 5.2"
NADEAU = "Nadeau and Bengio 2003, equation 8"
OWN = "docs/explanation/statistics.md"


def _chosen(losses: np.ndarray) -> int:
    """The tap of three with these losses [tap, unit], the last of which is the output."""
    choice = choose_tap(Losses(losses, np.ones_like(losses)), 2, np.array([0.0, 0.5, 1.0]), 0)
    assert choice is not None
    return choice.tap


def _better_by(difference: float) -> np.ndarray:
    """Losses of 40 units, those of the middle tap lower by this on average than the output's, with a spread of 1."""
    rng = np.random.default_rng(0)
    output, noise = 2 + rng.random(40), stats.norm.ppf((np.arange(40) + 0.5) / 40)
    return np.stack([output + 3, output - difference + rng.permutation(noise) / noise.std(), output])


def _width_of_a_constant_gap() -> float:
    """Width of the gap's interval where the output loses 1/5 more than the best tap in every unit."""
    loss, whole = np.random.default_rng(1).random(40), np.ones(40)
    gap = paired_difference(loss, whole, loss + 0.2, whole, 200, 0)
    return gap.high - gap.low


def _low(units: int, fit_units: int | None) -> float:
    """Lower end for replicates that are the quantiles of a normal distribution about 0."""
    replicates = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    return float(interval(0.0, replicates, units, fit_units)[0])


def cases() -> list[Case]:
    """All of them."""
    expanded = -float(np.sqrt(5 / 4) * stats.t.ppf(0.975, 4))
    return [
        Case("better than the output by three standard errors: that tap", 1, OWN, lambda: _chosen(_better_by(3 / np.sqrt(40))), measure="chosen tap"),
        Case("better by a third of one: the output", 2, OWN, lambda: _chosen(_better_by(0.33 / np.sqrt(40))), measure="chosen tap"),
        Case("width where the output loses as much more in every unit: paired", 0, OWN, _width_of_a_constant_gap, measure="hidden gap"),
        Case("lower end of 5 units: t quantile times sqrt(5 / 4)", expanded, HESTERBERG, lambda: _low(5, None), 1e-2, measure="interval"),
        Case("the same, fitted on 5 others: sqrt(1 + 5 / 5) times as far", expanded * np.sqrt(2), NADEAU, lambda: _low(5, 5), 1.5e-2, measure="interval"),
    ]  # fmt: skip
