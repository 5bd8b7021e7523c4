"""How often intervals of regrets hold the truth: the table of docs/explanation/statistics.md, by simulation.

Tasks are drawn as in `recommend.py` (a ramp whose peak differs between tasks, 12 taps, the best .15 above the output), and taps of
encoders differ by .05 more from encoder to encoder. Readouts are fixed, and `fit_units` is 4 times the test units, so that the interval over
units should hold the truth of the tasks in .972 of draws. That over tasks and encoders should hold the mean of all tasks and
encoders in .95; of two encoders, which are kept, that of all tasks of these. The tap used is the best in the population.
`python benchmarks/regret.py normal "over units" 1000`: 1,000 draws of the rows with these words.
"""

from __future__ import annotations

import itertools

import numpy as np
from _recommend_losses import Setting, losses, population

from diagnostics.measures.regret import FEWEST_ENCODERS, Regrets, mean_over_tasks, mean_over_units
from diagnostics.measures.statistics import Losses

from _common import ARGUMENTS, SMALLEST, finish, verdict

WORDS = [word for word in ARGUMENTS if not word.isdigit()]
DRAWS = 2 if SMALLEST else int(next(filter(str.isdigit, ARGUMENTS), 300))
TIMES = 10
"""Draws of the interval over tasks, which takes no resamples, to one of that over units."""
MANY = 40 if SMALLEST else 4000
"""Encoders of which the mean over all is taken."""
TASKS, TAPS = 6, 12
APART = 0.05
"""Standard deviation of a tap's score between encoders."""
LEAST, SLACK = 0.93, 2.0
"""The limit, and by how many standard errors of a simulated share below it a share is within it."""
FAMILIES = ("normal", "classes", "rare", "clusters")
RULES = {"random": np.full(TAPS, 1 / TAPS), "output": np.eye(TAPS)[-1], "depth 1/2": np.eye(TAPS)[TAPS // 2]}


def every_task(setting: Setting) -> np.ndarray:
    """Population scores [task, tap] of each task that is drawn, all alike often."""
    drawn = population(setting, 400, np.random.default_rng(0))
    return np.unique(drawn.round(12), axis=0)


def shift(encoders: int, rng: np.random.Generator) -> np.ndarray:
    """By how much taps of encoders differ from those of their population, [encoder, 1, tap]."""
    return APART * rng.standard_normal((encoders, 1, TAPS)) * (encoders > 1)


def scores_of(tasks: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Population scores [encoder, task, tap] of tasks [task, tap]."""
    return np.clip(tasks + apart, 0.05, 0.95) if len(apart) > 1 else tasks[None]


def regrets(score: np.ndarray, used: np.ndarray) -> dict[str, np.ndarray]:
    """Population regret of each rule, [encoder, task]."""
    best = np.take_along_axis(score, used[..., None], axis=2)[..., 0]
    return {name: best - score @ shares for name, shares in RULES.items()}


def mean_of(score: np.ndarray) -> dict[str, float]:
    """The mean population regret of each rule."""
    return {name: float(of.mean()) for name, of in regrets(score, score.argmax(axis=2)).items()}


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
    held, every = np.zeros(len(RULES)), every_task(setting)
    for _ in range(DRAWS):
        score = scores_of(rng.choice(every, TASKS), shift(1, rng))
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
    held, every = np.zeros(len(RULES)), every_task(setting)
    kept = encoders < FEWEST_ENCODERS
    truth = mean_of(scores_of(every, shift(MANY, rng)))
    for _ in range(TIMES * DRAWS):
        apart = shift(encoders, rng)
        truth = mean_of(scores_of(every, apart)) if kept else truth
        score = scores_of(rng.choice(every, TASKS), apart)
        test = np.stack([each.scores for each in observed(setting, score, units, rng)]).reshape(score.shape)
        for i, (name, own) in enumerate(regrets(test, score.argmax(axis=2)).items()):
            found = mean_over_tasks(own)
            held[i] += found.low <= truth[name] <= found.high
    return held / (TIMES * DRAWS)


def main() -> None:
    """Print a row for each setting, and end with status 1 where a limit is missed by more than the simulation's own error."""
    ok = True
    for seed, (family, size) in enumerate(itertools.product(FAMILIES, (30, 100))):
        units = size // 3 if family == "clusters" else size
        setting, rng = Setting(family, "ramp", 0.15, 0.7, TAPS, 4 * units), np.random.default_rng(seed)
        for encoders in range(5):
            draws = TIMES * DRAWS if encoders else DRAWS
            where = f"over tasks, encoders: {encoders}" if encoders else "over units"
            title = f"{family}, {units} test units, {where}"
            if not all(word in title for word in WORDS):
                continue
            held = over_tasks(setting, units, encoders, rng) if encoders else over_units(setting, units, rng)
            each = ", ".join(f"{rule} {share:.3f}" for rule, share in zip(RULES, held, strict=True))
            limit = LEAST - SLACK * float(np.sqrt(0.05 * 0.95 / draws))
            ok &= verdict(f"{title}, {draws} draws; {each}; lowest", held.min(), limit, at_least=True)
    finish(ok)


if __name__ == "__main__":
    main()
