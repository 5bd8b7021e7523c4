"""How many trainings and test units show a gap of .05: a simulation from the spreads of the study before.

    python power.py      # writes power.json, from which plan.toml took its numbers

Each of the 56 hidden gaps of `../objectives-across-depth` (4 objectives, 3 systems, all targets) has a spread between its three
trainings and an error over 400 test series. A simulated claim takes both from one of them at random, has a true gap of .05, and is
judged as `study.py` judges it: Student's t over trainings, each measured on data of its own, the level of Holm's first
step. What was unknown there stays so: three trainings say little about a spread, so that a spread is drawn anew from what
three trainings leave of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.stats import t as student

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from common import LEVEL, read_json, write_json  # noqa: E402  (the folder of studies)

GAP, MARGIN, UNITS_BEFORE, DRAWS = 0.05, 0.01, 400, 4000
TRAININGS, UNITS = (3, 5, 8, 12), (400, 800, 1600)
SYSTEMS, OBJECTIVES = ("lorenz", "pendulum", "damped_oscillator"), ("forecast", "reconstruct", "contrastive", "jepa")


def spreads() -> np.ndarray:
    """Spread between trainings and error over units of each gap, [gap, 2]."""
    found = []
    for system in SYSTEMS:
        kept = read_json(HERE.parent / "objectives-across-depth" / "results" / f"{system}.json")
        members = {name: [run["name"] for run in kept["runs"] if run["group"] == name] for name in OBJECTIVES}
        for profile in kept["profiles"]:
            if profile["profile"].startswith("linear_probe/"):
                for names in members.values():
                    gaps = np.array([profile["runs"][name]["hidden_gap"] for name in names], dtype=float)
                    found.append([gaps[:, 0].std(ddof=1), np.mean(gaps[:, 2] - gaps[:, 1]) / 3.92])
    return np.array(found)


def power(
    trainings: int, units: int, claims: int, known: np.ndarray, gap: float = GAP, margin: float = MARGIN
) -> float:
    """Share of simulated claims that are shown."""
    rng = np.random.default_rng(0)
    spread, error = known[rng.integers(len(known), size=DRAWS)].T
    # The variance of three trainings, on 400 shared units each, over the chi square that it leaves of the true one.
    between = np.maximum(spread**2 * 2 / rng.chisquare(2, DRAWS).clip(0.2), 0.0) - error**2
    scale = np.sqrt(between.clip(0) + error**2 * UNITS_BEFORE / units).clip(1e-4)
    values = gap + scale[:, None] * rng.standard_normal((DRAWS, trainings))
    z = (values.mean(1) - margin) / (values.std(1, ddof=1) / np.sqrt(trainings))
    return float((student.sf(z, trainings - 1) < LEVEL / (2 * claims)).mean())


def main() -> None:
    known, claims = spreads(), 100
    found = [
        {
            "trainings": trainings,
            "units": units,
            "shown": power(trainings, units, claims, known),
            "shown_alone": power(trainings, units, 1, known),
            "shown_without_a_gap": power(trainings, units, claims, known, gap=0.0),
        }
        for trainings in TRAININGS for units in UNITS
    ]  # fmt: skip
    write_json(
        HERE / "power.json", {"gaps": len(known), "claims": claims, "gap": GAP, "margin": MARGIN, "power": found}
    )


if __name__ == "__main__":
    main()
