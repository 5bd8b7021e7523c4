"""How often intervals of regrets hold the truth: the table of docs/explanation/statistics.md, by simulation.

Tasks are drawn as in `recommend.py` (a ramp whose peak differs between tasks, 12 taps, the best .15 above the output), and taps of
encoders differ by .05 more from encoder to encoder. Readouts are fixed, and `fit_units` is 4 times the test units, so that the interval over
units should hold the truth of the tasks in .972 of draws. That over tasks and encoders should hold the mean of all tasks and
encoders in .95; of two encoders, which are kept, that of all tasks of these. The tap used is the best in the population, or the one next to it.
"""

from __future__ import annotations

import itertools

import numpy as np
from _recommend_losses import Setting, losses, population

from diagnostics.measures.regret import FEWEST_ENCODERS, Regrets, mean_over_tasks, mean_over_units
from diagnostics.measures.statistics import Losses

from _common import SMALLEST, finish, verdict

DRAWS = 2 if SMALLEST else 60
MANY = 400 if SMALLEST else 20_000
TASKS, TAPS = 6, 12
APART = 0.05
"""Standard deviation of a tap's score between encoders."""
LEAST = 0.93
RULES = {"random": np.full(TAPS, 1 / TAPS), "output": np.eye(TAPS)[-1], "depth 1/2": np.eye(TAPS)[TAPS // 2]}


def shift(encoders: int, rng: np.random.Generator) -> np.ndarray:
    """By how much taps of encoders differ from those of their population, [encoder, 1, tap]."""
    return APART * rng.standard_normal((encoders, 1, TAPS)) * (encoders > 1)


def draw(setting: Setting, tasks: int, apart: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Population scores [encoder, task, tap]."""
    of_tasks = population(setting, tasks, rng)[None]
    return np.clip(of_tasks + apart, 0.05, 0.95) if len(apart) > 1 else of_tasks


def regrets(score: np.ndarray, used: np.ndarray) -> dict[str, np.ndarray]:
    """Population regret of each rule, [encoder, task]."""
    best = np.take_along_axis(score, used[..., None], axis=2)[..., 0]
    return {name: best - score @ shares for name, shares in RULES.items()}


def observed(setting: Setting, score: np.ndarray, units: int, rng: np.random.Generator) -> list[Losses]:
    """Losses of each encoder and task on so many test units."""
    found: list[Losses] = []
    for loss, whole in zip(*losses(setting, score.reshape(-1, TAPS), units, rng), strict=True):
        reference = np.broadcast_to(whole, loss.shape)
        one = (loss[..., 0], reference[..., 0]) if loss.shape[2] == 1 else (loss, reference)
        found.append(Losses(*one, counts=setting.share))
    return found


def over_units(setting: Setting, units: int, rng: np.random.Generator) -> np.ndarray:
    """How often the interval over units holds the mean regret of these tasks, [rule]."""
    held = np.zeros(len(RULES))
    for _ in range(DRAWS):
        score = draw(setting, TASKS, shift(1, rng), rng)
        used = score.argmax(axis=2)
        tests = [
            Regrets(test, int(at), 4 * units, i)
            for i, (test, at) in enumerate(zip(observed(setting, score, units, rng), used.flat, strict=True))
        ]
        for i, (name, own) in enumerate(regrets(score, used).items()):
            found = mean_over_units([each.of(RULES[name]) for each in tests], units)
            held[i] += found.low <= own.mean() <= found.high
    return held / DRAWS


def over_tasks(setting: Setting, units: int, encoders: int, rng: np.random.Generator) -> np.ndarray:
    """How often the interval over tasks and encoders holds the mean regret of all of them, [rule]."""
    kept, held = 1 < encoders < FEWEST_ENCODERS, np.zeros(len(RULES))

    def mean_of(many: list[np.ndarray]) -> dict[str, float]:
        each = [regrets(score, score.argmax(axis=2)) for score in many]
        return {name: float(np.mean([of[name].mean() for of in each])) for name in RULES}

    truth = mean_of([draw(setting, MANY // 40, shift(encoders if encoders == 1 else 40, rng), rng) for _ in range(20)])
    for _ in range(5 * DRAWS):
        apart = shift(encoders, rng)
        truth = mean_of([draw(setting, MANY // 10, apart, rng)]) if kept else truth
        score = draw(setting, TASKS, apart, rng)
        test = np.stack([each.scores for each in observed(setting, score, units, rng)]).reshape(score.shape)
        for i, (name, own) in enumerate(regrets(test, score.argmax(axis=2)).items()):
            found = mean_over_tasks(own)
            held[i] += found.low <= truth[name] <= found.high
    return held / (5 * DRAWS)


def main() -> None:
    """Print a row for each setting, and end with status 1 where a limit is missed."""
    ok = True
    for seed, (family, size) in enumerate(itertools.product(("normal", "classes", "rare", "clusters"), (30, 100))):
        units = size // 3 if family == "clusters" else size
        setting, rng = Setting(family, "ramp", 0.15, 0.7, TAPS, 4 * units), np.random.default_rng(seed)
        found = {"over units": over_units(setting, units, rng)}
        found |= {f"over tasks, encoders: {n}": over_tasks(setting, units, n, rng) for n in (1, 2, 3, 4)}
        for where, held in found.items():
            each = ", ".join(f"{rule} {share:.3f}" for rule, share in zip(RULES, held, strict=True))
            ok &= verdict(f"{family}, {units} test units, {where}; {each}; lowest", held.min(), LEAST, at_least=True)
    finish(ok)


if __name__ == "__main__":
    main()
