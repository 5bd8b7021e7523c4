"""How often intervals of R2 and of gaps hold the truth for skewed targets, and how well the share that a twentieth of train and val carries says so beforehand.

The table of docs/explanation/statistics.md. Readouts are fixed, with a population R2 of .75, on a quarter as many test units as the
target has in train and val. Errors are of one size everywhere, or grow with the value (in proportion to it; for a target that is
symmetric about its mean, to its distance from that). Errors of two taps on a unit are correlated by .7. Gaps are 0 between two taps
whose errors are of one size, 0 between one of each kind, and .2 between two of one size.

    python benchmarks/skew.py [--quick] [--smallest]
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diagnostics.measures.statistics import (
    OUTLYING,
    heaviest_units,
    interval,
    profile_intervals,
    resample_counts,
    scores,
)

from _common import ARGUMENTS, SMALLEST, finish, verdict

UNITS = (80,) if SMALLEST else (80, 320, 1280)
"""In train and val."""
ASKED = ("score", "score, growing", "gap 0", "gap 0, one of each", "gap .2")
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def lognormal(sigma: float) -> tuple[Draw, float, float, bool]:
    spread = np.exp(sigma**2)
    return lambda rng, shape: rng.lognormal(0, sigma, shape), np.sqrt(spread), (spread - 1) * spread, False


def student(freedom: float) -> tuple[Draw, float, float, bool]:
    return lambda rng, shape: rng.standard_t(freedom, shape), 0.0, freedom / (freedom - 2), True


TARGETS: dict[str, tuple[Draw, float, float, bool]] = {
    "uniform": (lambda rng, shape: rng.random(shape), 0.5, 1 / 12, True),
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0, 1.0, True),
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0, 1.0, False),
    "t(4)": student(4),
    "t(2.5)": student(2.5),
    **{f"lognormal {sigma:g}": lognormal(sigma) for sigma in (0.5, 1, 1.5, 2)},
}
"""Draws, mean, variance, and whether it is symmetric."""


def gap_holds(loss: np.ndarray, other: np.ndarray, reference: np.ndarray, truth: float, fit_units: int) -> np.ndarray:
    """Whether the interval of the paired difference of scores holds the truth, for losses [draw, unit]."""
    counts = resample_counts(loss.shape[1], 0)
    value = scores(loss, reference) - scores(other, reference)
    drawn = scores(loss, reference, counts) - scores(other, reference, counts)
    low, high = interval(value, drawn, loss.shape[1], fit_units)
    return (low <= truth) & (truth <= high)


def simulate(target: str, units: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each draw the share of the largest in train and val, and whether each of `ASKED` is held on test, [asked, draw]."""
    draw, mean, variance, symmetric = TARGETS[target]
    rng = np.random.default_rng(0)
    known, truth = draw(rng, (draws, units)), draw(rng, (draws, units // 4))
    reference = (truth - known.mean(axis=1, keepdims=True)) ** 2
    noise = rng.standard_normal((3, *truth.shape))
    first, second = (np.sqrt(0.7) * noise[0] + np.sqrt(0.3) * own for own in noise[1:])
    size = np.sqrt(variance)
    growing = np.abs(truth - mean) if symmetric else truth * np.sqrt(variance / (variance + mean**2))
    held: list[np.ndarray] = []
    for scale in (size, growing):
        _, low, high = profile_intervals(0.25 * (first * scale) ** 2, reference, units, 0)
        held.append((low <= 0.75) & (high >= 0.75))
    ours = 0.25 * (first * size) ** 2
    for share, scale, gap in ((0.25, size, 0.0), (0.25, growing, 0.0), (0.45, size, 0.2)):
        held.append(gap_holds(ours, share * (second * scale) ** 2, reference, gap, units))
    return np.array([heaviest_units((values - values.mean()) ** 2)[1] for values in known]), np.array(held)


def main() -> None:
    draws = 5 if SMALLEST else 200 if "--quick" in ARGUMENTS else 1000
    print(
        f"| target | train and val | share of the largest | flagged | {' | '.join(ASKED)} |\n|{'---|' * (4 + len(ASKED))}"
    )
    flags: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    for target in TARGETS:
        for units in UNITS:
            share, held = simulate(target, units, draws)
            flags.append(share > OUTLYING)
            covered.append(held)
            cells = [f"{value:.2f}" for value in (np.median(share), flags[-1].mean(), *held.mean(axis=1))]
            print(f"| {target} | {units} | {' | '.join(cells)} |", flush=True)
    flagged, held = np.concatenate(flags), np.concatenate(covered, axis=1)
    for name, which in (("flagged", flagged), ("not flagged", ~flagged)):
        print(
            f"| all {name} | | | {which.mean():.2f} | {' | '.join(f'{x:.3f}' for x in held[:, which].mean(axis=1))} |"
        )
    good, bad = held[:, ~flagged].mean(axis=1), held[:, flagged].mean(axis=1)
    finish(
        verdict("score where not flagged", good[0], 0.93, at_least=True),
        verdict("score where flagged", bad[0], 0.9),
        verdict("score of growing errors where flagged", bad[1], 0.9),
        verdict("gap of 0, errors alike, where flagged", bad[2], 0.93, at_least=True),
        verdict("gap of 0, errors of two kinds, where flagged", bad[3], 0.9),
        verdict("gap of .2 where not flagged", good[4], 0.93, at_least=True),
        verdict("gap of .2 where flagged", bad[4], 0.9),
    )


if __name__ == "__main__":
    main()
