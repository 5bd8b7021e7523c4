"""Known answers of dynamics."""

import numpy as np

from diagnostics.measures import dynamics
from diagnostics.measures.known_answers import Case, normal, rotation
from diagnostics.measures.statistics import scores

HYNDMAN = "Hyndman and Koehler 2006"
HENAFF = "after Hénaff et al. 2019"
DMD = "Schmid 2010"
SKILL = "1 - MAE / MAE of the naive forecast"
BRODERSEN = "Brodersen et al. 2010"


def _polygon(corners: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(corners + 2) / corners
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _turning() -> np.ndarray:
    steps = [normal(30, 4, seed=0)]
    for _ in range(7):
        steps.append(steps[-1] @ rotation(4, 0))
    return np.stack(steps, axis=1) + 100


def _skill(share: float) -> float:
    """Skill of a forecast that lies this share of the way from the naive one to the truth, on steps of all sizes."""
    series = np.cumsum(normal(6, 20, seed=2), axis=1)
    naive, truth = dynamics.seasonal_naive(series[:, :16], 4), series[:, 16:]
    guess = naive + share * (truth - naive)
    return float(scores(np.abs(guess - truth)[None], np.abs(naive - truth)[None])[0])


def _balanced(missed: int, false: int) -> float:
    """Balanced accuracy where 4 tokens hold an event and 96 none, in two units, as the event probe's losses are scored."""
    wrong = np.array([[[false, missed], [0, 0]]], dtype=np.float64)
    return float(scores(wrong, np.array([[[48.0, 2.0], [48.0, 2.0]]]))[0])


def cases() -> list[Case]:
    """All of them."""
    trend = np.arange(24.0)[None]
    split = np.array(["train", "val", "train", "test", "train"] * 6)
    last = dynamics.seasonal_naive(trend[:, :20], 1)
    return [
        Case("forecast_probe", "MASE: naive forecast of a straight trend", 1, HYNDMAN, lambda: float(dynamics.mase(last, trend[:, 20:21], trend[:, :20])[0])),
        Case("forecast_probe", "MASE: truth shifted by 2.5, steps of 1", 2.5, HYNDMAN, lambda: float(dynamics.mase(trend[:, 20:] + 2.5, trend[:, 20:], trend[:, :20])[0])),
        Case("forecast_probe", "MASE: off by 2, steps of 1 over a season of 2 (and of 5 and 4 in it)", 2, HYNDMAN, lambda: float(dynamics.mase([[6.0]], [[4.0]], [[0.0, 5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0]], season=2)[0])),
        Case("forecast_probe", "seasonal naive: third value of a season of 4 after 0 ... 19", 18, HYNDMAN, lambda: float(dynamics.seasonal_naive(np.arange(20.0), 4, 4)[2])),
        Case("forecast_probe", "skill of the naive forecast itself", 0, SKILL, lambda: _skill(0)),
        Case("forecast_probe", "skill half way from the naive forecast to the truth", 0.5, SKILL, lambda: _skill(0.5)),
        Case("event_probe", "balanced accuracy, 1 of 4 events missed: (1 + 3/4) / 2", 0.875, BRODERSEN, lambda: _balanced(1, 0)),
        Case("event_probe", "balanced accuracy, 2 of 4 events missed, 24 of 96 others taken for one", 0.625, BRODERSEN, lambda: _balanced(2, 24)),
        Case("straightness", "straight line", 1, HENAFF, lambda: dynamics.straightness(np.outer(np.arange(9.0), [1.0, -2.0]))),
        Case("straightness", "regular polygon of 12: cos(2 pi / 12)", float(np.cos(np.pi / 6)), HENAFF, lambda: dynamics.straightness(_polygon(12))),
        Case("straightness", "steps of lengths 1, 2, 3, 1 with one right angle: every turn counts alike", 2 / 3, HENAFF, lambda: dynamics.straightness([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, 3.0], [3.0, 4.0]])),
        Case("straightness", "of two paths the second", 1, HENAFF, lambda: dynamics.straightness(np.stack([_polygon(12), np.outer(np.arange(14.0), [1.0, 2.0])]))[1]),
        Case("straightness", "there and back", -1, HENAFF, lambda: dynamics.straightness([[0.0], [1.0], [0.0], [1.0]])),
        Case("straightness", "independent points in 64 dimensions (mean of 100)", -0.5, HENAFF, lambda: float(np.mean(dynamics.straightness(normal(100, 30, 64, seed=0)))), 0.01),
        Case("linear_predictability", "rotation, shifted by 100", 1, DMD, lambda: dynamics.linear_predictability(_turning(), split)[0], 1e-4),
        Case("linear_predictability", "noise (R2 of persistence is 1 - 2)", -1, DMD, lambda: dynamics.linear_predictability(normal(30, 200, 4, seed=1), split)[1], 0.05),
    ]  # fmt: skip
