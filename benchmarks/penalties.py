"""Whether the penalty of ridge is better chosen by out-of-fold losses that are clipped: regret, written down before it was first run.

**Cases.** *Planted* encoders (`planted`): 6 taps of 64 features with a decaying spectrum, which hold the signal of the target in 0 to .6
of their variance; 80, 160 and 320 rows to choose and fit on, 2,000 to score on. Families: *normal* noise about a linear target; noise of
*t*(2.5); a *lognormal* target, exp of the same; *rows* with normal noise, but features scaled by a factor of each row (root of an
inverse gamma of 2.5 degrees), so that few rows have most of the leverage. *Real*: the redraws of `recommend.py real` (fracast on 2,400
Lorenz series, 100, 200 and 400 of them, 80 % to choose and fit on, scored on those that were not drawn), all five targets.

**Rules.** Today: at each tap the penalty with the least sum of squared errors out of fold. Clipped: the same with each penalty's errors cut at
their own 95th percentile over rows, as taps are chosen. Both choose the tap by clipped losses of the chosen penalty.

**Regret.** The best score of any tap and penalty on the other rows minus the score of the chosen tap at the chosen penalty, fitted on
all rows that choose; a score below -1 counts as -1.

**Criterion.** Of the heavy cases (t, lognormal and rows; `log_switch`) the mean regret falls by .01 or more, and the mean of its worst
twentieth of draws as well; in no other case (family or target, and size) does the mean regret rise by more than .002.

    python benchmarks/penalties.py [--smallest | KEPT_RUN]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from _recommend_real import SIZES, TARGETS, Ridge, real_run
from _recommend_rules import CLIP

from diagnostics.measures.probes.least_squares import PENALTIES

from _common import ARGUMENTS, SMALLEST, finish, verdict

DRAWS, ROWS, OTHERS = 60, (80, 160, 320), 2000
TAPS, FEATURES, FREEDOM = 6, 64, 2.5
HEAVY = ("t", "lognormal", "rows", "log_switch")


def planted(family: str, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """x [tap, row, feature] and y [row, 1]."""
    signal = rng.standard_normal(rows)
    held = np.linspace(0, 0.6, TAPS)[rng.permutation(TAPS), None, None]
    spectrum = np.arange(1, FEATURES + 1) ** -0.5
    towards = rng.standard_normal((TAPS, 1, FEATURES))
    towards /= np.linalg.norm(towards, axis=2, keepdims=True)
    x = rng.standard_normal((TAPS, rows, FEATURES)) * spectrum * np.sqrt(1 - held)
    x = x + signal[:, None] * towards * np.sqrt(held) * np.linalg.norm(spectrum)
    if family == "rows":
        x *= np.sqrt(FREEDOM / rng.chisquare(FREEDOM, rows))[:, None]
    noise = rng.standard_t(FREEDOM, rows) / np.sqrt(5) if family == "t" else rng.standard_normal(rows)
    y = signal + 0.5 * noise
    return x, (np.exp(y) if family == "lognormal" else y)[:, None]


def clipped(squares: np.ndarray) -> np.ndarray:
    """Errors [penalty, row, target] cut at each penalty's 95th percentile."""
    return np.minimum(squares, np.quantile(squares, CLIP, axis=1, keepdims=True))


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"today": lambda squares: squares, "clipped": clipped}


def regrets(x: np.ndarray, y: np.ndarray, fit: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """Of each rule the regret [target]."""
    ridges = [Ridge.of(features[fit], y[fit]) for features in x]
    left_out = [ridge.left_out() for ridge in ridges]
    away = ((y[others] - y[fit].mean(axis=0)) ** 2).sum(axis=0)
    grid = np.array(PENALTIES)[:, None]
    squares = [
        ridge.squares(features[others], y[others], grid).sum(axis=1) for ridge, features in zip(ridges, x, strict=True)
    ]
    scores = np.maximum(1 - np.stack(squares) / away, -1)
    found: dict[str, np.ndarray] = {}
    for rule, seen in RULES.items():
        at = np.stack([seen(errors).sum(axis=1).argmin(axis=0) for errors in left_out])
        lost = [
            np.take_along_axis(clipped(errors), of[None, None], axis=0).sum(axis=(0, 1))
            for errors, of in zip(left_out, at, strict=True)
        ]
        tap, target = np.stack(lost).argmin(axis=0), np.arange(y.shape[1])
        found[rule] = scores.max(axis=(0, 1)) - scores[tap, at[tap, target], target]
    return found


def cases(draws: int, kept: Path | None, real: bool) -> dict[str, dict[str, np.ndarray]]:
    """Of each case and rule the regret [draw]."""
    found: dict[str, dict[str, list[float]]] = {}

    def put(name: str, made: dict[str, np.ndarray], target: int) -> None:
        for rule, values in made.items():
            found.setdefault(name, {}).setdefault(rule, []).append(float(values[target]))

    for number, family in enumerate(("normal", "t", "lognormal", "rows")):
        for rows in ROWS:
            for seed in range(draws):
                x, y = planted(family, rows + OTHERS, np.random.default_rng([number, rows, seed]))
                put(f"{family} {rows}", regrets(x, y, np.arange(rows), np.arange(rows, rows + OTHERS)), 0)
    if real:
        x, y = real_run(kept)
        for size in SIZES:
            for seed in range(draws):
                order = np.random.default_rng([seed, size]).permutation(x.shape[1])
                made = regrets(x, y, order[: 8 * size // 10], order[size:])
                for at, target in enumerate(TARGETS):
                    put(f"{target} {8 * size // 10}", made, at)
    return {case: {rule: np.array(values) for rule, values in of.items()} for case, of in found.items()}


def worst(values: np.ndarray) -> float:
    """The mean of the largest twentieth."""
    return float(np.sort(values)[-max(1, len(values) // 20) :].mean())


def main() -> bool:
    """Print the table; False where clipping does not meet the criterion."""
    kept = [Path(argument) for argument in ARGUMENTS]
    found = cases(1 if SMALLEST else DRAWS, kept[0] if kept else None, not SMALLEST)
    print("| case, rows | today: mean | worst twentieth | clipped: mean | worst twentieth |\n|---|---|---|---|---|")
    for case, of in found.items():
        print(f"| {case} | " + " | ".join(f"{each:.3f}" for x in of.values() for each in (x.mean(), worst(x))) + " |")
    heavy = [of for case, of in found.items() if case.split(" ")[0] in HEAVY]
    today, cut = (np.concatenate([of[rule] for of in heavy]) for rule in RULES)
    held = [
        verdict("heavy cases: fall of the mean regret", today.mean() - cut.mean(), 0.01, at_least=True),
        verdict("heavy cases: fall of the worst twentieth", worst(today) - worst(cut), 0.01, at_least=True),
    ]
    for case, of in found.items():
        if case.split(" ")[0] not in HEAVY:
            held.append(verdict(f"{case}: rise of the mean regret", (of["clipped"] - of["today"]).mean(), 0.002))
    return all(held)


if __name__ == "__main__":
    finish(main())
