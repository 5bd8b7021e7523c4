"""Forecasts from a representation, compared with a naive forecast that uses no model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import as_tensor
from diagnostics.measures.known_answers import Case, normal
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.protocol import rows_of
from diagnostics.measures.probes.samples import RidgeProbe, Task
from diagnostics.measures.statistics import Losses, scores

HYNDMAN = "Hyndman and Koehler 2006"
SKILL = "1 - MAE / MAE of the naive forecast"


def seasonal_naive(series: Any, horizon: int, season: int = 1) -> np.ndarray:
    """The forecast that repeats the last season (Hyndman and Athanasopoulos 2021, section 5.2); season 1: the last value.

    Parameters
    ----------
    series: [sample, time] or [time], at least `season` steps.
    horizon: steps ahead.

    Returns [sample, horizon] (or [horizon]): the value at step h ahead is the one `season` steps before it, or as many
    seasons as it takes to be inside the series.

    Examples:
        >>> from diagnostics.measures.dynamics import seasonal_naive
        >>> seasonal_naive([1.0, 2.0, 3.0, 1.0, 2.0, 4.0], horizon=5, season=3).tolist()
        [1.0, 2.0, 4.0, 1.0, 2.0]
    """
    values = np.asarray(as_tensor(series).cpu())
    if values.ndim not in (1, 2) or not 1 <= season <= values.shape[-1] or horizon < 1:
        raise DiagnosticsError(
            f"Series of shape {values.shape} give no naive forecast of {horizon} steps with season {season}: give "
            "[sample, time] with at least one season, and a horizon of 1 or more."
        )
    return values[..., values.shape[-1] - season + np.arange(horizon) % season]


def mase(prediction: Any, truth: Any, history: Any, season: int = 1) -> np.ndarray:
    """Mean absolute scaled error of each series (Hyndman and Koehler 2006, section 4).

    Parameters
    ----------
    prediction, truth: [sample, horizon].
    history: [sample, time], the series before; its mean absolute difference over `season` steps is the scale.

    Returns [sample]; NaN where the history repeats itself exactly, so that there is no scale.

    Examples:
        >>> from diagnostics.measures.dynamics import mase
        >>> history = [[0.0, 1.0, 2.0, 3.0]]  # steps of 1
        >>> float(mase([[3.0]], [[4.0]], history)[0])  # a naive forecast of a line
        1.0
        >>> float(mase([[6.5]], [[4.0]], history)[0])
        2.5
    """
    guess, known, past = (np.asarray(as_tensor(x).cpu()) for x in (prediction, truth, history))
    if guess.shape != known.shape or guess.ndim != 2 or past.ndim != 2 or len(past) != len(known):
        raise DiagnosticsError(
            f"Predictions {guess.shape}, truths {known.shape} and histories {past.shape} do not fit: give [sample, horizon] "
            "twice and [sample, time]."
        )
    if not all(np.isfinite(x).all() for x in (guess, known, past)):
        raise DiagnosticsError(
            f"Predictions {guess.shape}, truths or histories {past.shape} hold NaN or infinity: leave those samples out."
        )
    if not 1 <= season < past.shape[1]:
        raise DiagnosticsError(
            f"Histories of shape {past.shape} do not fit a season of {season} steps: give longer ones."
        )
    scale = np.abs(past[:, season:] - past[:, :-season]).mean(axis=1)
    error = np.abs(guess - known).mean(axis=1)
    return np.divide(error, scale, out=np.full(len(scale), np.nan), where=scale > 0)


def _naive_on_a_trend() -> float:
    """MASE of the last value as the forecast of a straight trend's next one."""
    trend = np.arange(21.0)[None]
    return float(mase(seasonal_naive(trend[:, :20], 1), trend[:, 20:], trend[:, :20])[0])


def _shifted_trend() -> float:
    """MASE of a straight trend of steps of 1 that is forecast 2.5 too high."""
    trend = np.arange(24.0)[None]
    return float(mase(trend[:, 20:] + 2.5, trend[:, 20:], trend[:, :20])[0])


def _skill(share: float) -> float:
    """Skill of a forecast that lies this share of the way from the naive one to the truth, on steps of all sizes."""
    series = np.cumsum(normal(6, 20, seed=2), axis=1)
    naive, truth = seasonal_naive(series[:, :16], 4), series[:, 16:]
    guess = naive + share * (truth - naive)
    return float(scores(np.abs(guess - truth)[None], np.abs(naive - truth)[None])[0])


class ForecastProbe(RidgeProbe):
    """Skill of ridge from pooled activations to all horizons at once: the mean over horizons of 1 - MAE / MAE of the naive
    forecast of the dataset; 0 says no better than naive, below 0 worse."""

    name = "forecast_probe"
    answers = "How far ahead can the future be read out, beyond a naive forecast?"
    source = "Hyndman and Athanasopoulos 2021, Forecasting: principles and practice, section 5.8"
    kinds = ("future",)
    losses, score_name, chance, exact = "squares", "skill", 0.0, True
    known_answers = (
        Case("MASE: naive forecast of a straight trend", 1, HYNDMAN, _naive_on_a_trend),
        Case("MASE: truth shifted by 2.5, steps of 1", 2.5, HYNDMAN, _shifted_trend),
        Case("MASE: off by 2, steps of 1 over a season of 2 (and of 5 and 4 in it)", 2, HYNDMAN, lambda: float(mase([[6.0]], [[4.0]], [[0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0]], season=2)[0])),
        Case("seasonal naive: third value of a season of 4 after 0 ... 19", 18, HYNDMAN, lambda: float(seasonal_naive(np.arange(20.0), 4, 4)[2])),
        Case("skill of the naive forecast itself", 0, SKILL, lambda: _skill(0)),
        Case("skill half way from the naive forecast to the truth", 0.5, SKILL, lambda: _skill(0.5)),
    )  # fmt: skip

    def reads(self, target: StoredTarget) -> bool:
        return super().reads(target) and target.naive is not None

    def task(self, activations: Activations, target: StoredTarget, seed: int) -> Task:
        if target.naive is None:
            raise DiagnosticsError(
                f"Target {target.name} comes without naive forecasts, which {self.name} compares with: give Target(naive=...)."
            )
        values, naive = (np.asarray(x, dtype=np.float64).reshape(len(x), -1) for x in (target.values, target.naive))
        known: np.ndarray = np.asarray(np.isfinite(np.hstack([values, naive])).all(axis=1))
        rows = rows_of(activations, target.name, known)
        return Task(target, rows, values, seed, activations.choose_on == "fit", abs, np.abs(naive - values))

    def stated(self, task: Task) -> dict[str, Any]:
        functional = "skill: mean over horizons of 1 - MAE / MAE of the naive forecast; ridge to all horizons"
        centring = "features standardised with the rows fitted"
        return {"functional": functional, "centring": centring, "penalties": list(PENALTIES)}

    def beside(self, task: Task, read: Mapping[int, np.ndarray], losses: Losses) -> dict[str, Any]:
        lost, whole = losses.loss.sum(axis=1), losses.reference.sum(axis=1)
        skill = 1 - np.divide(lost, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return {"skill_by_horizon": (("tap", "horizon"), skill)}
