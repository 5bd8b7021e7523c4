"""Known answers of intervals and of the choice of a tap."""

import numpy as np
from scipy import stats

from diagnostics.measures.hidden_gap import Selection, select
from diagnostics.measures.known_answers import Case
from diagnostics.measures.statistics import interval

HESTERBERG = "Hesterberg 2015 (1411.5279), section 5.2"
NADEAU = "Nadeau and Bengio 2003, equation 8"
OWN = "docs/explanation/statistics.md"


def _chosen() -> Selection:
    """Tap `first` has the better val score, loses 1/2 a unit on test, and tap `second` a varying part less than 0.2."""
    varying = np.random.default_rng(0).random(40) / 5
    loss = np.stack([np.full(40, 0.5), varying])
    selection = select(["first", "second"], "second", np.array([0.9, 0.1]), loss, np.ones((2, 40)), 200, 0)
    assert selection is not None
    return selection


def _width_of_a_constant_gap() -> float:
    """Width of the gap's interval where the output loses 1/5 more than the best tap in every unit."""
    loss = np.random.default_rng(1).random(40)
    selection = select(["a", "b"], "b", np.array([1.0, 0.0]), np.stack([loss, loss + 0.2]), np.ones((2, 40)), 200, 0)
    assert selection is not None
    return selection.hidden_gap.high - selection.hidden_gap.low


def _low(units: int, fit_units: int | None) -> float:
    """Lower end for replicates that are the quantiles of a normal distribution about 0."""
    replicates = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    return float(interval(0.0, replicates, units, fit_units)[0])


def cases() -> list[Case]:
    """All of them."""
    expanded = -float(np.sqrt(5 / 4) * stats.t.ppf(0.975, 4))
    return [
        Case("best tap", "chosen on val, where it is .9 to .1, and read on test, where it is .5 to .9", 0.5, OWN, lambda: _chosen().best.value),
        Case("hidden gap", "width where the output loses as much more in every unit: paired", 0, OWN, _width_of_a_constant_gap),
        Case("interval", "lower end of 5 units: t quantile times sqrt(5 / 4)", expanded, HESTERBERG, lambda: _low(5, None), 1e-2),
        Case("interval", "the same, fitted on 5 others: sqrt(1 + 5 / 5) times as far", expanded * np.sqrt(2), NADEAU, lambda: _low(5, 5), 1.5e-2),
    ]  # fmt: skip
