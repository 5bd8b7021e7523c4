"""Recovered share of a known one, by simulation: the table of docs/how-to/comparing.md.

Twelve taps whose R2 falls in a ramp on both sides of the best one (.6) to the output, `gap` below it; errors of two taps correlate by .7,
and so do those of the aligned output. The best tap is chosen out of fold on train and val, four times as many units as test has, and gap
and gain are read on test. A share is computed where the interval of the gap lies above 0, as `compare` does it.

    python benchmarks/recovered.py [--smallest]
"""

from __future__ import annotations

import sys

import numpy as np

from diagnostics.measures.statistics import Losses
from diagnostics.measures.tap_choice import CLIP
from diagnostics.measures.verdict import paired_differences
from diagnostics.runs.comparison.differences import LEAST_GAP

TAPS, BEST, TOP, CORRELATION = 12, 5, 0.6, 0.7
DRAWS = 400


def losses(rng: np.random.Generator, r2: np.ndarray, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors [tap, unit] of taps with these R2, and the squares of the target [unit]."""
    shared = np.sqrt(CORRELATION) * rng.standard_normal(units)
    own = np.sqrt(1 - CORRELATION) * rng.standard_normal((len(r2), units))
    return (1 - r2[:, None]) * (shared + own) ** 2, rng.chisquare(1, units)


def draw(rng: np.random.Generator, gap: float, share: float, units: int) -> tuple[bool, float]:
    """Whether the gap is shown, and the share."""
    r2 = TOP - gap * np.abs(np.arange(TAPS) - BEST) / (TAPS - 1 - BEST)
    fit, _ = losses(rng, r2, 4 * units)
    clipped = np.minimum(fit, np.quantile(fit, CLIP, axis=1, keepdims=True))
    best = int(clipped[:-1].mean(axis=1).argmin())
    test, reference = losses(rng, np.append(r2, r2[-1] + share * gap), units)
    ours, theirs = (Losses(test[[at]], reference[None]) for at in (best, -2))
    (shown,) = paired_differences(ours, theirs, 4 * units, 0)
    gained, hidden = (test[-2] - test[-1]) / reference.sum(), (test[-2] - test[best]) / reference.sum()
    return shown.low > 0 and shown.value >= LEAST_GAP, float(gained.sum() / hidden.sum())


def main() -> None:
    """The median share (and the mean), and how often one is computed, by gap, test units and true share."""
    draws, sizes = (40, (80,)) if "--smallest" in sys.argv else (DRAWS, (80, 200, 500))
    print("| true gap | test units | computed in | nothing recovered | half | all |\n|---|---|---|---|---|---|")
    for gap in (0.05, 0.1, 0.2, 0.3):
        for units in sizes:
            cells, often = [], []
            for share in (0.0, 0.5, 1.0):
                rng = np.random.default_rng(0)
                found = np.array([draw(rng, gap, share, units) for _ in range(draws)])
                shown = found[:, 0] == 1
                often.append(shown.mean())
                cells.append(
                    f"{np.median(found[shown, 1]):.2f} ({found[shown, 1].mean():.2f})" if shown.sum() > 9 else "too few"
                )
            print(f"| {gap:.2f} | {units} | {np.mean(often):.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
