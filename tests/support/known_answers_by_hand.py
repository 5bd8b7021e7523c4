"""What each case of `checks/selftest/answer.py` should find, by hand; running this file writes `answers.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from diagnostics.checks.selftest import planted as planted_losses
from diagnostics.checks.selftest.answer import ENDS_OF_GRID, GRID, ORDERED, WEAK
from diagnostics.checks.selftest.comparisons import GROUPS
from diagnostics.checks.selftest.planted import OUTPUT, PLANTED, SEED, SEEDS, SPLIT, TAPS, digest, encoder, truth
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.softmax import LogisticRows
from tests.support import by_hand
from tests.support.by_hand import Pair

Terms = list[tuple[float, Pair]]
"""A weighted sum of scores."""


@cache
def losses(name: str, split: str, draw: int = 0, errors: tuple[float, ...] = ()) -> list[Pair]:
    """The losses and references [unit] of each tap on a split, or on train and val together ("fit")."""
    return losses_of(name, encoder(name, errors, draw), split)


def losses_of(name: str, made: Arrays, split: str) -> list[Pair]:
    y, classes = truth(name), PLANTED[name].classes
    known = y >= 0 if classes else np.isfinite(y)
    of = known & ((made.split != "test") if split == "fit" else (made.split == split))
    mean = y[known & (made.split != "test")].mean()
    read = [values[:, 0] for values in made.values.values()]
    wrong = [np.where(np.round(x) != y, 1.0, 0.0) if classes else (x - y) ** 2 for x in read]
    return [(loss[of], np.ones(of.sum()) if classes else (y[of] - mean) ** 2) for loss in wrong]


@cache
def chosen(name: str, on: str = "fit", draw: int = 0) -> tuple[int, int, list[int]]:
    """The tap, the best one, the set; of the target with nine units of train and val the output is in no favour."""
    return by_hand.choose(losses(name, on, draw), OUTPUT, PLANTED[name].classes > 0, sum(PLANTED[name].known[:2]) >= 10)


def value(pair: Pair) -> float:
    return float(by_hand.score(pair)[0])


def choice(name: str, on: str) -> list[Any]:
    share, fit, test = PLANTED[name].classes > 0, sum(PLANTED[name].known[:2]), losses(name, "test")
    tap, best, alike = chosen(name, on)
    ends = [by_hand.upper_end(test[each], test[OUTPUT], fit, share) for each in range(OUTPUT)]
    low = by_hand.gap(test[tap], test[OUTPUT], fit, share, 0.8)[1] if tap != OUTPUT else None
    return [
        TAPS[tap],
        TAPS[best],
        [TAPS[each] for each in alike],
        by_hand.gap(test[best], test[OUTPUT], fit, share),
        max(0.0, *ends),
        low,
    ]


def score_ends(pair: Pair, fit: int, share: bool) -> list[float]:
    units, at = len(pair[0]), value(pair)
    low, high = by_hand.ends(at, by_hand.resample(pair, share), units, fit, by_hand.effective(pair[1], share))
    all_right = 1 - np.sqrt(1 + units / fit) * (1 - 0.025 ** (1 / units))
    low = all_right if share and at == 1 and pair[0].ndim == 1 else low
    return [at, max(low, 0.0) if share else low, min(high, 1.0)]


def finding(name: str) -> list[Any]:
    share, fit, floor = PLANTED[name].classes > 0, sum(PLANTED[name].known[:2]), 0.4 if PLANTED[name].classes else 0.0
    every = [score_ends(pair, fit, share) for pair in losses(name, "test")]
    tap, best, alike = chosen(name)
    _, low, high = by_hand.gap(losses(name, "test")[best], losses(name, "test")[OUTPUT], fit, share)
    margin = 0.05 * max(max(every[tap][0], every[OUTPUT][0]) - floor, 0.0)
    needed = int(np.ceil(PLANTED[name].known[2] * ((high - low) / 2 / margin) ** 2)) if margin else 0
    needed = needed if needed > PLANTED[name].known[2] else None
    few = {
        "nine": "only 9 test units: they cannot tell",
        "young": "only 9 units of train and val: they cannot tell",
    }.get(name, "")
    said = {"shown": "hidden b", "excluded": "gaps abo", "at chance": "at chanc", "undecided": few[:8] or "gaps up "}
    also = [TAPS[each] for each in alike if each != tap]
    return [
        *PLANTED[name].finding,
        TAPS[tap],
        also,
        few,
        said[PLANTED[name].finding[0]],
        20,
        ["number"],
        ["chance"] if share else [],
        "train and val, out of fold",
        margin,
        floor,
        needed,
        tap == OUTPUT,
        max(high for _, _, high in every[: OUTPUT + 1]),
        every[tap],
        every[OUTPUT],
        every,
    ]


def controls(name: str) -> list[Any]:
    share, own = PLANTED[name].classes > 0, losses(name, "test")[chosen(name)[0]]
    errors = [(error,) for error in PLANTED[name].controls]
    beside = [losses(name, "test", 7 + i, error)[0] for i, error in enumerate(errors)]
    margins, scores = [by_hand.gap(own, other, 120, share) for other in beside], [value(other) for other in beside]
    # Of two draws the one that chooses better is the control; the smaller lower end counts.
    first = max((0, 1), key=lambda i: value(losses(name, "fit", 7 + i, errors[i])[0]))
    smallest = [min(margins[:2], key=lambda margin: margin[1]), *margins[2:]]
    reach = [score_ends(beside[i], 120, share) for i in (first, 2, 3)]
    asked = [
        ("fresh weights", scores[:2]),
        ("raw input", scores[2:3]),
        *([] if share else [("shuffled labels", scores[3:])]),
    ]
    rivals = [words for (words, _), margin in zip(asked, smallest, strict=False) if not margin[1] > 0]
    near = [words for words, reached in asked if max(reached) >= 0.9 * value(own)]
    best = ("fresh_weights", "raw_input", "shuffled_labels")[int(np.argmax([each[0] for each in reach]))]
    score, chance = value(own), 0.4 if share else 0.0
    # Of those not beaten by more than the margin, above chance, one over which gains of it are excluded, of those one without the model, else the highest.
    most, inputs = 0.05 * (max(score, value(losses(name, "test")[OUTPUT])) - chance), ("raw_input",)
    keys = {"fresh weights": "fresh_weights", "raw input": "raw_input", "shuffled labels": "shuffled_labels"}
    able = [
        (margin[2] < most, keys[words], at)
        for (words, _), (at, _, _), margin in zip(asked, reach, smallest, strict=False)
        if (words in rivals or margin[2] < most) and at > chance + 0.05 * (1 - chance)
    ]
    rival = max(able, key=lambda each: (each[0], each[0] and each[1] in inputs, each[2]), default=None)
    needless = "" if rival is None or not rival[0] else "model" if rival[1] in inputs else "training"
    return [
        smallest,
        reach,
        rivals,
        near,
        best,
        rival and rival[1],
        needless,
        [[min(scores[:2]), max(scores[:2])], None, None],
    ]


def drawn_scores(name: str, on: str) -> list[Any]:
    """Of scores whose resamples are drawn with another seed: a standard error is their standard deviation."""
    chosen_by, test = losses(name, on), losses(name, "test")
    fit, units = sum(PLANTED[name].known[:2]), len(test[0][0])
    again, drawn = (
        [by_hand.score(pair, by_hand.draws(len(pair[0]), 0)) for pair in side] for side in (chosen_by, test)
    )
    best = max(range(OUTPUT), key=lambda tap: value(chosen_by[tap]))
    ahead = value(chosen_by[best]) - value(chosen_by[OUTPUT])
    tap = best if ahead > max(np.std(again[best] - again[OUTPUT]), 0.001) else OUTPUT

    def gap(at: int, level: float = 0.95) -> list[float]:
        apart = value(test[at]) - value(test[OUTPUT])
        return [apart, *by_hand.ends(apart, drawn[at] - drawn[OUTPUT], units, fit, units, level)]

    wide = np.sqrt(1 + units / fit) * np.sqrt(units / (units - 1)) * stats.t.ppf(0.975, units - 1)
    ends = [max(gap(at)[2], gap(at)[0] + wide * np.std(drawn[at] - drawn[OUTPUT])) for at in range(OUTPUT)]
    return [
        TAPS[tap],
        TAPS[best],
        [TAPS[at] for at in sorted({tap, *by_hand.alike(chosen_by, range(OUTPUT + 1), again)})],
        gap(best),
        max(0.0, *ends),
        [
            [value(pair), *by_hand.ends(value(pair), own, units, fit, units)]
            for pair, own in zip(test, drawn, strict=True)
        ],
        gap(tap, 0.8)[1] if tap != OUTPUT else None,
    ]


def misfits() -> list[list[bool]]:
    """Refused (1) or not, in the order of the results in `answer.misfits`."""
    rows = "0111111011010101111011101011101", "0111", "01110", "01", "10"
    return [[of == "1" for of in row] for row in rows]


def older() -> list[Any]:
    """With a standard error of losses on val, and by their scores alone, which tell no taps apart."""
    names = choice("unsure", "val")[:5]
    by_scores = by_hand.choose(losses("unsure", "val"), OUTPUT, share=True, favour=False)
    every = [TAPS[at] for at in range(OUTPUT + 1)]
    bare = [TAPS[by_scores[0]], TAPS[by_scores[1]], every, *names[3:]]
    return [[names, "val, by an older version: run again"], [bare, "val"], True]


def read_by_kernel() -> list[Any]:
    """At the output and at the linear probe's best tap, by both; a gap where the kernel has the same best tap."""

    def read(linear: str, kernel: str, gap: bool) -> list[Any]:
        share = PLANTED[linear].classes > 0
        ends = [score_ends(losses(name, "test")[at], 120, share) for name in (kernel, linear) for at in (OUTPUT, 1)]
        best = chosen(kernel)[1]
        found = by_hand.gap(losses(kernel, "test")[best], losses(kernel, "test")[OUTPUT], 120, share) if gap else None
        return [*ends, found, "middle", 0.4 if share else 0.0]

    nothing = [None] * 5
    return [
        [read("hidden", "aligned", True), read("hidden", "aligned", False), *nothing, read("class", "class", True)],
        [0, 0, *nothing, 1],
        [1, 2, 1, 1, 2, 1, 1, 2],
    ]


def lost_draws() -> list[Any]:
    test, (tap, best, _) = losses("late", "test"), chosen("late")
    own, apart = value(test[tap]), value(test[best]) - value(test[OUTPUT])
    spread = [dict.fromkeys(("mean", "low", "high"), each) for each in (own, apart)]
    one = {"count": 1, "asked": 3, "score": spread[0], "gap": spread[1], "choices": {TAPS[tap]: 1}, "raw_input": None}
    return [["first", "first"], [None, one]]


def last() -> list[Any]:
    x, _, fold = planted_losses.class_data()
    return [[True, True, digest(of.mean(axis=1))] for of in (x[:, fold > 0], x)]


def cautions() -> list[Any]:
    rivals = len(controls("class")[2]) > 0
    states = ["readable", "undecided", "readable", "readable", "undecided"]
    # 6 * 25.2 of 6 * 25.2 + 114 is .57, more than .55; with 21.4 it is .53; equal amounts are not; errors count as
    # the spread does; test is not looked at.
    return [
        ["6 of 120", "", "", "6 of 120", ""],
        states,
        [rivals, rivals, rivals, rivals + 1, rivals],
        [0.3, 0.0, 0.9],
        [True, False],
        [[19, True, 1], [20, False, 0]],
        0.2,
        ["readable", "undecided", "undecided", "readable"],
        [True, False, True, False],
        [True, [], "undecided", [0.3, np.nan, 0.9]],
        ["", "only 1", "only 9", ""],
        [0.6, 0, True, True],
        [0, 0, 80],
    ]


def of_parts(share: bool) -> list[Any]:
    made = planted_losses.parts()
    pairs = list(zip(made.loss, made.reference, strict=True))
    n = by_hand.effective(pairs[0][1], share)
    again = np.stack([by_hand.resample(pair, share, 2) for pair in pairs], axis=1)[::400]
    tap, best, alike = by_hand.choose(pairs, 2, share)
    return [[score_ends(pair, 7, share) for pair in pairs], again, n, [tap, best, alike]]


TIES: Mapping[str, list[Any] | None] = {
    "equal taps": [2, 0, [0, 1, 2]],
    "an output without a score": [0, 0, [0, 1]],
    "no scores": None,
    "one unit": [2, 1, [0, 1, 2]],
    "one unit, not in the output's favour": [1, 1, [0, 1, 2]],
    "no other tap": [0, None, [0]],
    "a tap after the output": [2, 2, [1, 2]],
    "two units": list(
        by_hand.choose([(np.array(loss), np.full(2, 16.0)) for loss in ([0.3, 0.3], [0.2, 0.1], [0.25, 0.3])], 2)
    ),
    "ahead by .0005 in all units": [2, 1, [0, 1, 2]],
    "ahead by .0015 in all units": [1, 1, [0, 1, 2]],
    "ahead by less than a standard error": [2, 1, [1, 2]],
}


def sets(units: int) -> list[list[int]]:
    loss = np.random.default_rng(SEED).random((30, 5, units)) * np.linspace(1, 2.5, 5)[:, None]
    return [
        by_hand.alike([(each, np.ones(units)) for each in taps], range(5)) if units > 1 else list(range(5))
        for taps in loss
    ]


def two_taps() -> list[list[int]]:
    made = planted_losses.parts()
    pairs = [(made.loss[at], made.reference[at]) for at in range(len(made.loss))]
    return [[of[at] for at in by_hand.alike([pairs[tap] for tap in of], (0, 1))] for of in ([0, 1], [0, 2])]


def amounts() -> list[Any]:
    def tail(n: int, level: float = 0.95) -> float:
        return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + level / 2, n - 1)))

    def even(n: int, wide: float = 1.0, level: float = 0.95) -> list[float]:
        return [wide * (2 * tail(n, level) - 1), wide * (1 - 2 * tail(n, level))]

    satterthwaite = (1 / 6 + 1 / 2 + 1) ** 2 / (1 / (36 * 5) + 1 / 4 + 1 / 0.5) + 1
    taken = [
        even(4),
        even(4, 2),
        even(4),
        [tail(4) - 0.5, 0.5 - tail(4)],
        [2 * tail(4) - 1, 2],
        [-2, 1 - 2 * tail(4)],
        [np.nan] * 2,
        [np.nan] * 2,
        even(2),
        even(9, 1, 0.8),
    ]
    exact = 1 - 0.025 ** (1 / 9)
    made = planted_losses.parts()
    pair = [(made.loss[i], made.reference[i]) for i in (0, 2)]
    texts = ["a and 2 others: x; y; c: z; b: z; a: q; c: q", "c: z; w; b: x; y", "x; y"]
    drawn = by_hand.draws(5)
    return [
        taken,
        [1 - exact, 1 - 2 * exact, exact, 2 * exact, 1, 0, 0.025 ** (1 / 6)],
        [satterthwaite, 6, 0, 0, 2, 2, 0, satterthwaite],
        [[2, 20 / 39], [1, np.nan], [2, np.nan]],
        [30 * 16, None, None, 12000, 7],
        [True, False],
        texts,
        by_hand.standard_error(*pair),
        digest(drawn),
        drawn.size,
        [1],
    ]


def ranks(samples: int) -> list[Any]:
    rng, unit_of = np.random.default_rng(SEED), np.arange(samples) * 20 // samples
    truth = np.round(rng.standard_normal(samples), 1)
    guesses = [truth + rng.standard_normal(samples), np.round(-truth + 0.5 * rng.standard_normal(samples))]
    # 2**21 samples in all, and 200 resamples at least.
    resamples = min(2000, max(200, 2**21 // samples))
    weights = np.random.default_rng(SEED).multinomial(20, [1 / 20] * 20, size=resamples)[:, unit_of]
    found: list[list[float]] = []
    for guess in guesses:
        at = by_hand.weighted_ranks(guess, truth, np.ones((1, samples)))[0]
        low, high = by_hand.ends(at, by_hand.weighted_ranks(guess, truth, weights), 20, 10, 20)
        found.append([at, max(low, -1.0), min(high, 1.0)])
    return [*found, [np.nan] * 3, [np.nan] * 3]


def intervals_of_statistics() -> list[Any]:
    """Student's intervals of a mean from the means of blocks, of a sum from those of groups, of a mean logarithm."""

    def about(at: float, error: float, n: int, logarithm: bool) -> list[float]:
        reach = float(stats.t.ppf(0.975, n - 1)) * error
        return [at * np.exp(-reach), at * np.exp(reach)] if logarithm else [at - reach, at + reach]

    rows = np.arange(12.0) ** 2 / 100
    of_blocks: list[list[float]] = []
    for sizes, logarithm in (((4, 4, 4), False), ((2, 7, 3), False), ((5, 7), False), ((2, 7, 3), True)):
        means = [each.mean() for each in np.split(rows, np.cumsum(sizes)[:-1])]
        squares = [(mean - rows.mean()) ** 2 * n / (12 - n) for mean, n in zip(means, sizes, strict=True)]
        at = np.exp(rows.mean()) if logarithm else rows.mean()
        of_blocks.append(about(at, np.sqrt(np.mean(squares)), len(sizes), logarithm))
    of_groups: list[list[float]] = []
    for groups, logarithm in ((6, False), (4, True), (2, False)):
        sums = (rows - rows.mean()).reshape(groups, -1).sum(1)
        error = np.sqrt(groups) * sums.std(ddof=1)
        of_groups.append(about(2.0, error / 2 if logarithm else error, groups, logarithm))
    nothing = [np.nan] * 2
    of_parts = [about(2.0, np.log(4) / np.sqrt(12), 3, True), about(2.0, np.log(4) / 2, 2, True)]
    of_parts += [about(2.0, np.log(2) / 2, 2, True), nothing, about(0.5, np.log(4) / 2, 2, True), nothing]
    # Logarithms a fifth below, at and above; of n equal blocks each tells n - 1 times as much.
    below_one = about(0.5, np.sqrt(2 * np.log(0.8) ** 2 * 2 / 3), 3, True)
    return [[*of_blocks, nothing, nothing, below_one], [*of_groups, nothing], of_parts]


def means_of_columns() -> list[list[float]]:
    """Of squares, of some with their sign turned, of those of one group, and of two, with ends over the groups."""
    rows, groups = np.arange(12.0) ** 2 / 100, np.repeat([0, 1, 2, 3], [2, 3, 2, 5])
    times = np.random.default_rng(SEED).multinomial(4, [1 / 4] * 4, size=2000)[:, groups]
    found: list[list[float]] = []
    for values, known, units in (
        (rows, np.full(12, True), 4),
        (-rows, np.arange(12) % 5 < 3, 4),
        (rows, np.arange(12) < 5, 2),
    ):
        with np.errstate(invalid="ignore"):
            drawn = (times * known) @ np.where(known, values, 0) / (times * known).sum(axis=1)
        found.append([values[known].mean(), *by_hand.ends(values[known].mean(), drawn, 4, 0, units)])
    return np.array([*found[:2], [rows[:2].mean(), np.nan, np.nan], found[2]]).T.tolist()


def left_out(most: int) -> list[Any]:
    rows, x, y = planted_losses.ridge_data(most)
    if most > 256:
        from diagnostics.measures.probes.protocol import folds

        part = folds(rows, None, SEED)
    else:
        part = rows.unit_of_fit
    known = [ridge_left_out(each, y, part, most > 256) for each in x]
    sums = [
        digest(
            np.stack([[np.bincount(rows.unit_of_fit, w) for w in each[which].T] for each in known]).transpose(0, 2, 1)
        )
        for which in (1, 2)
    ]
    by_tap = [
        [digest(np.stack([np.bincount(rows.unit_of_fit, w) for w in each[which].T], axis=1)) for each in known]
        for which in (1, 2)
    ]
    assert len(sums) == 2
    return [[[each[0]] for each in known], *by_tap]


def ridge_left_out(x: np.ndarray, y: np.ndarray, part: np.ndarray, folds: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """The penalty with the best mean score of y [row, target], its losses, and those of the mean of the others.

    Without a group, features keep the mean and scale of all rows, and the penalty their number; without a fold they have their own, and
    of all penalties those near the best one on the first fold are tried.
    """
    lost, whole, z0 = np.zeros((len(PENALTIES), *y.shape)), np.zeros(y.shape), (x - x.mean(axis=0)) / x.std(axis=0)
    for out in (part == each for each in np.unique(part)):
        base = ~out if folds else np.ones(len(x), dtype=bool)
        z = (x - x[base].mean(axis=0)) / x[base].std(axis=0)
        own, mean = z[~out] - z[~out].mean(axis=0), y[~out].mean(axis=0)
        whole[out] = (y[out] - mean) ** 2
        for i, penalty in enumerate(PENALTIES):
            w = np.linalg.solve(own.T @ own + base.sum() * penalty * np.eye(x.shape[1]), own.T @ (y[~out] - mean))
            lost[i, out] = (y[out] - mean - (z[out] - z[~out].mean(axis=0)) @ w) ** 2
    first = part == 0 if folds else np.ones(len(x), dtype=bool)
    at, every = ((lost[:, of].sum(axis=1) / whole[of].sum(axis=0)).mean(axis=1) for of in (first, first | True))
    if not folds:
        # An error over few dimensions of the residual counts by its upper limit.
        rest = [
            np.eye(len(x)) - 1 / len(x) - z0 @ np.linalg.solve(z0.T @ z0 + len(x) * each * np.eye(x.shape[1]), z0.T)
            for each in PENALTIES
        ]
        few = np.minimum([np.trace(each) ** 2 / np.sum(each**2) for each in rest], 32)
        every = every * few / stats.chi2.ppf(0.01, few)
        at = every
    best = int(np.where(np.abs(np.arange(len(at)) - at.argmin()) <= (1 if folds else len(at)), every, np.inf).argmin())
    return PENALTIES[best], lost[best], whole


def ridge_at_the_ends() -> list[Any]:
    """What is a sum of the features is read with the least penalty, what has nothing to do with them with a large one."""
    from diagnostics.measures.probes.protocol import folds

    rows, (other, x), _ = planted_losses.ridge_data(257)
    every = (x @ np.ones((3, 1)), other[:, :1])
    found = [[ridge_left_out(x, y, folds(rows, None, SEED), True)[0]] for y in every]
    assert found[0] == [min(PENALTIES)]
    return found


def folds() -> list[Any]:
    return [
        [1] * 18,
        [[0, 1, 1, 1, 1], [0, 2, 2, 2, 2], [0, 0, 0, 0, 6]],
        [True] * 8,
        [2, 3, 1, 1],
        [[6.5], [6.5], [10 / 3], [3.0]],
        [[[0, 1, 1, 1, 1]] * 3] * 4,
    ]


def least(wrong: np.ndarray, lost: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Index [tap] of the penalty of least loss among those `allowed` [tap, penalty] that are wrong of no more rows than the best."""
    count = np.where(allowed, wrong.sum(axis=2), np.inf)
    return np.where(count == count.min(axis=1, keepdims=True), lost.mean(axis=2), np.inf).argmin(axis=1)


def class_penalties(grid: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The index of the penalty [tap], and what is wrong there out of fold [tap, row]."""
    x, labels, fold = planted_losses.class_data()
    wrong, lost = np.ones((3, 3, 90), dtype=bool), np.zeros((3, 3, 90))
    for out in (fold == each for each in range(5)):
        codes = np.unique(labels[~out], return_inverse=True)[1]
        rows = LogisticRows(torch.tensor(x), labels).only(torch.tensor(~out), codes)
        seen = np.isin(labels[out], labels[~out])
        right, loss = rows.fit([grid] * 3, tolerance=1e-7).judge(
            torch.tensor(x[:, out]), np.minimum(labels[out], codes.max())
        )
        wrong[:, :, out], lost[:, :, out] = ~(right.numpy() & seen), loss.numpy() * seen
    # Where penalties are wrong of the same rows the least loss chooses: in the first fold, then near what is chosen there.
    every = np.ones((3, 3), dtype=bool)
    first = least(wrong[:, :, fold == 0], lost[:, :, fold == 0], every)
    at = least(wrong, lost, np.abs(np.arange(3) - first[:, None]) <= 1)
    assert grid != GRID or (first[2] == 2 and least(wrong, lost, every)[2] == 0)
    return at, wrong[np.arange(3), at]


def classes() -> list[Any]:
    x, labels, fold = planted_losses.class_data()
    at, picked = class_penalties(GRID)
    penalties, train, val = np.array(GRID)[at], fold > 0, fold == 0

    def on_val(x: np.ndarray, grid: Sequence[float]) -> np.ndarray:
        fits = LogisticRows(torch.tensor(x[:, train]), labels[train].clip(max=2)).fit([grid] * len(x), tolerance=1e-7)
        right, loss = (each.numpy() for each in fits.judge(torch.tensor(x[:, val]), labels[val]))
        return np.array(grid)[least(~right, loss, np.ones(right.shape[:2], dtype=bool))]

    # A penalty that is worse by .9 ends a path where two standard errors are .85 (spread 2), not .98.
    # Two more that are wrong are within half a standard error of 100 paired answers where 20 differ, not where 16 do.
    return [
        [3],
        [4, 6, 5, 3, 3, 4, 5, 4],
        [penalties, penalties[:1], penalties[1:2]],
        [digest(picked), digest(picked[:1]), digest(picked[1:2])],
        on_val(x, GRID),
        on_val(x[2:], WEAK),
        [np.array(grid)[class_penalties(grid)[0]] for grid in ENDS_OF_GRID],
    ]


@cache
def places(name: str, quantity: str) -> list[Terms]:
    """By seed: weights and losses of what a quantity is made of."""
    found: list[Terms] = []
    for draw in SEEDS:
        test, (tap, best, _) = losses(name, "test", draw), chosen(name, "fit", draw)
        signs = {
            "chosen tap": {tap: 1},
            "output": {OUTPUT: 1},
            "hidden gap": {best: 1, OUTPUT: -1},
            "head": {OUTPUT: 1, OUTPUT + 2: -1},
        }
        found.append([(sign, test[at]) for at, sign in signs[quantity].items()])
    return found


def total(terms: Terms, of: Callable[[Pair], np.ndarray]) -> Any:
    return sum(weight * of(pair) for weight, pair in terms)


def values(side: list[Terms]) -> list[float]:
    return [float(total(terms, by_hand.score)[0]) for terms in side]


def resamples(side: list[Terms]) -> np.ndarray:
    return np.mean([total(terms, by_hand.resample) for terms in side], axis=0)


def three(estimate: list[float], most: float = np.inf) -> list[Any]:
    """Ends over samples, ends to believe, and p."""
    at, low, high, _, below, above, p = estimate
    return [[at, low, min(high, most)], [at, below, min(above, most)], p]


def after_minus_before() -> list[Any]:
    rows: list[list[Any]] = []
    for before, after in (("before", "after"), ("before", "taught"), ("after", "taught")):
        for quantity in ("chosen tap", "output", "hidden gap"):
            sides = [places(GROUPS[group], quantity) for group in (after, before)]
            each = [values(side) for side in sides]
            members = [np.subtract(*each).tolist()] if after == "after" else each
            at = float(np.mean(each[0]) - np.mean(each[1]))
            rows.append(
                [
                    after,
                    before,
                    quantity,
                    three(by_hand.estimate(at, resamples(sides[0]) - resamples(sides[1]), members, 120)),
                ]
            )
    p = by_hand.holm([row[3][-1] for row in rows])
    return [
        [*row, each, "cannot tell" if each >= 0.05 else "gained" if row[3][0][0] > 0 else "lost"]
        for row, each in zip(rows, p, strict=True)
    ]


def less(ours: list[Terms], theirs: list[Terms]) -> list[Terms]:
    return [own + [(-weight, pair) for weight, pair in other] for own, other in zip(ours, theirs, strict=True)]


def ratio(over: list[Terms], under: list[Terms]) -> list[float]:
    above, below = np.array(values(over)), np.array(values(under))
    at = float(above.mean() / below.mean())
    return by_hand.estimate(
        at, resamples(over) / resamples(under), [((above - at * below) / below.mean()).tolist()], 120
    )[3:6]


def of_base() -> list[Any]:
    at = {
        (group, quantity): places(name, quantity)
        for group, name in GROUPS.items()
        for quantity in ("chosen tap", "output", "hidden gap")
    }
    cut: list[Terms] = [
        [(1.0, losses("hidden", "test", draw)[tap])] for draw, tap in zip(SEEDS, (2, 1, 2), strict=True)
    ]
    gap, output = at["before", "hidden gap"], at["before", "output"]
    lifted = less(at["after", "output"], at["taught", "output"])
    shares = [
        (less(at["after", "output"], output), gap),
        (at["after", "chosen tap"], at["before", "chosen tap"]),
        (at["after", "output"], output),
        (lifted, gap),
        (less(cut, output), gap),
    ]
    means = [
        by_hand.estimate(float(np.mean(values(side))), resamples(side), [values(side)], 120)[3:6]
        for side in (lifted, gap)
    ]
    return [[*(ratio(*pair) for pair in shares), *means], 0.0, "recovered", means[0][1] > 0, []]


def of_one() -> list[Any]:
    gap = by_hand.gap(losses("aligned", "test")[OUTPUT], losses("control", "test")[OUTPUT], 120)
    return [gap, gap[1] > 0]


def above_chance() -> list[Any]:
    floor = float(np.mean([value(losses("class", "test", 10, (1.5,))[0]) for _ in SEEDS]))
    found: list[list[float]] = []
    for at in ([OUTPUT] * 3, [chosen("class", "fit", draw)[0] for draw in SEEDS]):
        test = [losses("class", "test", draw)[tap] for draw, tap in zip(SEEDS, at, strict=True)]
        fewer = [(1 - 0.9 * (1 - loss), whole) for loss, whole in test]
        above, below = (np.array([value(pair) for pair in side]) - floor for side in (fewer, test))
        share = float(above.mean() / below.mean())
        up, down = (
            np.mean([by_hand.resample(pair, True, k * 3 + i) for i, pair in enumerate(side)], axis=0) - floor
            for k, side in enumerate((fewer, test))
        )
        found.append(by_hand.estimate(share, up / down, [((above - share * below) / below.mean()).tolist()], 120)[3:6])
    return [
        floor,
        *found,
        "none",
        np.nan,
        [["kept_best", "the chanc"], ["kept_output", "the chanc"], ["over_control", "none"]],
        ["kept_best", "over_control"],
    ]


def without_value(name: str) -> list[Any]:
    reasons = {
        "alike": ["over_control", "recovered"],
        "noise": ["cut", "kept_best", "kept_output", "over_control", "recovered"],
    }
    floor = value(losses("class", "test", 10, (1.5,))[0]) if name == "class" else 0.0
    return [floor, "kept" if name == "alike" else None, False, reasons.get(name, ["over_control"])]


def of_groups() -> list[Any]:
    rows: list[list[Any]] = []
    for name in ("hidden", "aligned"):
        sides = [
            (places(name, quantity), most)
            for quantity, most in (("chosen tap", 1.0), ("output", 1.0), ("hidden gap", np.inf), ("head", np.inf))
        ]
        taps = Counter(chosen(name, "fit", draw)[0] for draw in SEEDS)
        tap, count = taps.most_common(1)[0]
        known = [
            three(by_hand.estimate(float(np.mean(values(side))), resamples(side), [values(side)], 120), most)
            for side, most in sides
        ]
        rows.append(["linear", f"{TAPS[tap]} ({tap / OUTPUT:.2f}) {count}/3", *known])
    test, (tap, best, _) = losses("class", "test"), chosen("class")
    gap = by_hand.gap(test[best], test[OUTPUT], 120, True)
    at = [score_ends(test[each], 120, True) for each in (tap, OUTPUT)]
    apart = test[OUTPUT], test[OUTPUT + 2]
    drop = by_hand.gap(*apart, 120, True)
    lone = [
        "alone",
        f"{TAPS[tap]} ({tap / OUTPUT:.2f})",
        *([each, each, np.nan] for each in at),
        [gap, gap, p_of(gap, 80)],
        [drop, drop, p_of(drop, 80)],
    ]
    family: list[Any] = []
    for group, first in (("hidden", "hidden"), ("aligned", "aligned")):
        gaps = [places(name, "hidden gap") for name in (first, "ten", "young")]
        each = np.mean([values(side) for side in gaps], axis=0).tolist()
        # Of the units of all, those with ten are the first.
        again = np.mean(
            [
                total(terms, lambda pair: by_hand.score(pair, by_hand.draws(80)[:, : len(pair[0])]))
                for side in gaps
                for terms in side
            ],
            axis=0,
        )
        family.append(
            [group, ["linear", "ten", "young"], three(by_hand.estimate(float(np.mean(each)), again, [each], 9, 80, 10))]
        )
    return [[*rows, lone], 7, family]


def p_of(gap: tuple[float, float, float], units: int) -> float:
    return by_hand.p_value(gap[0], gap[0] - gap[1] if gap[0] > 0 else gap[2] - gap[0], units - 1)


def along_depth() -> list[Any]:
    def row(before: str, after: str, draws: tuple[tuple[int, int], ...]) -> np.ndarray:
        sides = [(losses(before, "test", first), losses(after, "test", second)) for first, second in draws]
        whole = sides[0][0][0][1].sum()
        by_draw = [[(b[0] - a[0]) / whole for b, a in zip(*side, strict=True)] for side in sides]
        return np.mean(by_draw, axis=0)[: OUTPUT + 1]

    rows = [row("hidden", "aligned", ((0, 0), (1, 1))), row("ten", "ten", ((0, 1),))]
    p = by_hand.flip_test(rows, [120, 120])
    at = [
        int(np.where(each < 0.05, np.abs(row.sum(axis=1)), -1).argmax()) if (each < 0.05).any() else None
        for each, row in zip(p, rows, strict=True)
    ]
    signs = np.random.default_rng(SEED).integers(0, 2, (1999, 6)) * 2 - 1
    six, two = (signs[:, :n] / np.sqrt(n) for n in (6, 2))
    apart = np.array([1, 1, 1, 1, -1, -1])
    most = np.abs([six.sum(axis=1), six @ apart, two.sum(axis=1)]).max(axis=0)
    p_six, p_apart, p_two = ((1 + (most >= t - 1e-12).sum()) / 2000 for t in np.sqrt([6, 2 / 3, 2]))
    line = [np.nan, 0, 0.5, 4.5, 7, np.nan, 9, np.nan]
    return [
        [[row.sum(axis=1), each, first] for row, each, first in zip(rows, p, at, strict=True)],
        line,
        [[0.375, 0.625], [0, 0], [2, 2]],
        [0, None],
        [[np.nan], [1, 1], [p_six, p_apart], [p_two]],
        [0.0, 0.5, 0.5 + 2e-6],
        [np.nan] * 4,
        [np.nan] * 4,
    ]


def losses_by_name() -> list[Any]:
    made = planted_losses.parts()
    loss, whole = (np.concatenate([x, x[:2]]) for x in (made.loss, made.reference))
    at = (1, 1, 3, 3, 5)
    return [
        [digest(loss[tap]) for tap in at],
        [digest(whole[tap]) for tap in at],
        True,
        np.nan,
        120,
        False,
        True,
        True,
        True,
        [6, 12, 4],
        digest(whole[0]),
    ]


def drawn_again() -> list[Any]:
    from diagnostics.runs.results.redraws import redraw_splits

    made = encoder("perhaps")
    scores, gaps, taps = [], [], []
    for split in redraw_splits(made.groups, made.split, 3, SEED):
        there = made.with_other(split=split)
        tap, best, _ = by_hand.choose(losses_of("perhaps", there, "fit"), OUTPUT)
        scores.append([value(pair) for pair in losses_of("perhaps", there, "test")])
        gaps.append(scores[-1][best] - scores[-1][OUTPUT])
        taps.append(tap)
    own = [each[tap] for each, tap in zip(scores, taps, strict=True)]
    spread = [{"mean": float(np.mean(x)), "low": min(x), "high": max(x)} for x in (own, gaps)]
    choices = dict(Counter(TAPS[tap] for tap in taps).most_common())
    found = {
        "count": 3,
        "asked": 3,
        "score": spread[0],
        "gap": spread[1],
        "choices": choices,
        "raw_input": spread[0]["mean"],
    }
    return [
        scores,
        gaps,
        [TAPS[tap] for tap in taps],
        found,
        [[(each == SPLIT).sum() for each in ("train", "val", "test")]] * 3,
        True,
        np.nan,
    ]


def finding_order(name: str) -> tuple[int, float]:
    """Of the verdict, then of the gap, the largest first."""
    return ("shown", "undecided", "excluded", "at chance").index(PLANTED[name].finding[0]), -choice(name, "fit")[3][0]


def certain_differences() -> list[Any]:
    """Of R2 no width is known; of shares, all right and all wrong, half a unit each way."""
    found: list[Any] = [[0.25, np.nan, np.nan], [0, 0, 0]]
    for value, lost in ((1.0, (0.0, 1.0)), (-1.0, (1.0, 0.0))):
        again = [by_hand.resample((np.full(80, each), np.ones(80)), True, stream) for stream, each in enumerate(lost)]
        low, high = by_hand.ends(value, again[0] - again[1], 80, 120, 80)
        found.append([value, max(low, -1.0), min(high, 1.0)])
    return found


def several() -> list[Any]:
    remaining = np.array(
        [[1 - value(pair) for pair in losses(name, "fit")[: OUTPUT + 1]] for name in ("hidden", "late", "alike")]
    )
    common = int((remaining / remaining.mean(axis=1, keepdims=True)).mean(axis=0).argmin())
    both = [losses_of(name, encoder("young"), "fit") for name in ("alike",)]
    tap = by_hand.choose(both[0], OUTPUT)[0]
    best = int(np.argmax([value(pair) for pair in both[0][: OUTPUT + 1]]))
    # Nothing is fitted, or on ten units and more: the output, which is within a standard error; on fewer: the best of the other target, or
    # the best one.
    (own, alone), of_other = (TAPS[at] for at in chosen("unsure", "val")[:2]), TAPS[chosen("hidden")[1]]
    order = sorted(ORDERED, key=lambda name: finding_order(name))
    return [
        common,
        None,
        [TAPS[best], TAPS[tap]],
        [[], ["planted"]],
        ["planted"],
        [PLANTED[name].of or name for name in order],
        ["yes", "no"],
        [own, alone, alone, own, own, of_other, of_other, own],
        [True, False, False, False],
    ]


def quarters() -> list[Any]:
    """Ends of one and three right answers of four, fitted on three units, of their difference, and of sums over runs."""
    pairs = [(np.array(lost, dtype=float), np.ones(4)) for lost in ([0, 1, 1, 1], [1, 0, 0, 0])]
    own = np.transpose([score_ends(pair, 3, True) for pair in pairs])
    again = [by_hand.resample(pair, True, stream) for stream, pair in enumerate(pairs)]
    sums: list[Any] = []
    for weights in ((1, 0), (0.5, 0.5), (-1, 1)):
        drawn = sum(weight * each for weight, each in zip(weights, again, strict=True))
        at, p = float(np.dot(weights, [0.25, 0.75])), 0.0
        low, high = by_hand.ends(at, np.asarray(drawn), 4, 3, 4)
        p = by_hand.p_value(at, at - low, 3)
        ends = [at, max(low, min(weights[0], 0)), min(high, sum(max(each, 0) for each in weights))]
        sums.append([ends, ends, p])
    return [[own, [by_hand.gap(*pairs, 3, True)]], sums]


def students() -> list[Any]:
    """No nearer than the t quantile times the standard deviation of the resamples, as of n units."""
    ramp = np.linspace(-1, 1, 2001)
    found: list[list[float]] = []
    for at, drawn, n, wide in ((0.0, ramp**9, 4, 1.0), (0.5, ramp**9, 4, 2.0), (0.0, ramp, 9, 1.0)):
        reach = float(stats.t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1)) * drawn.std())
        low, high = by_hand.ends(at, drawn, n, 0, n)
        found.append([at + wide * (min(low, at - reach) - at), at + wide * (max(high, at + reach) - at)])
    return found


def named(of: Callable[[], list[Any]], places: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Parts of what a function gives, by name: the one in a place, or a list of those in several; of a part in it a pair of places."""

    def pick(at: Any) -> Any:
        if isinstance(at, list):
            return [pick(each) for each in at]
        return of()[at] if isinstance(at, int) else of()[at[0]][at[1]]

    return {name: partial(pick, at) for name, at in places.items()}


BY_HAND: Mapping[str, Callable[[], Any]] = {
    **{f"choice of {name} on {on}": lambda name=name, on=on: choice(name, on)[:5] for name in PLANTED for on in ("fit", "val")},
    **{f"gap of the chosen tap of {name}": lambda name=name: choice(name, "fit")[5] for name in PLANTED},
    **{f"recommendation of {name}": lambda name=name: [finding(name)[i] for i in (0, 1, 2, 3, 13, 15, 16)] for name in PLANTED},
    **{f"finding of {name}": lambda name=name: [finding(name)[i] for i in (4, 6, 9, 10, 11, 12, 14)] for name in PLANTED},
    **{f"words on {name}": lambda name=name: [finding(name)[i] for i in (5, 7, 8)] for name in PLANTED},
    **{f"scores of {name}": lambda name=name: finding(name)[17] for name in PLANTED},
    **{f"controls of {name}": partial(controls, name) for name in ("hidden", "late", "alike", "class")},
    **{f"drawn scores of {name} on {on}": partial(drawn_scores, name, on) for name in ("hidden", "unsure") for on in ("fit", "val")},
    "what fits": misfits, "choices of older results": older, "margins refused": lambda: [False, False, True, False, True, True],
    "what a kernel reads": read_by_kernel,
    "kinds of profiles": lambda: [
        ["hidden (R2)", True, True, "train and val, out of fold"], ["x (planted R2)", False, True, "val"], ["rank (R2)", None, False, "train and val, out of fold"],
    ],
    "what rests on tokens": lambda: [True, True, False],
    "rivals at the border of chance": lambda: [True, False, True, False],
    "shuffled labels as rivals": lambda: [["shuffled labels"], ["shuffled labels"], controls("class")[2]],
    **named(cautions, {
        "skew of train and val": 0, "readability of classes": 1, "remarks on classes": 2, "margin over two draws": [3, (9, 3)], "exact ends stated": 4,
        "few tokens": 5, "margin named": 6, "readable": 7}), "readable without a chance": lambda: ["undecided", "readable"], "exact ends of wrong answers": lambda: True, **named(cautions, {"at chance": 8, "ahead of shuffled labels": (9, 0), "ahead of all controls": (9, 1), "a gap that ends at 0": (9, 2),
        "units of train and val": 10, "floor and margin": [(11, 0), (11, 1)], "draws of a control": [(11, 2), (11, 3)], "units": 12,
    }),
    "parts, R2": partial(of_parts, False), "parts, share": partial(of_parts, True),
    **{f"choice with {name}": partial(TIES.get, name) for name in TIES}, **{f"sets of {units} units": partial(sets, units) for units in (1, 2, 3, 8, 40)},
    "sets of two taps": two_taps,
    **named(amounts, {"ends of intervals": 0}), "Student's ends": students, **named(amounts, {"ends where all are right or wrong": 1}),
    **named(quarters, {"ends of quarters": 0, "sums of quarters": 1}),
    **named(amounts, {
        "units that count": 2, "what few carry": 3, "units needed": 4, "too few to compare": 5, "reasons": 6, "standard error": 7, "resamples": [8, 9], "nothing fitted": 10,
    }),
    **{f"ranks of {samples} samples": partial(ranks, samples) for samples in (60, 12000)},
    "means of columns": means_of_columns,
    **named(intervals_of_statistics, {"ends by blocks left out": 0, "ends by influence": 1, "ends of parts": 2}),
    **{f"ridge without groups of {most}": partial(left_out, most) for most in (1, 2, 3, 256, 257)},
    "ridge penalties at the ends": ridge_at_the_ends,
    **named(folds, {"folds": [0, 1], "folds of several classes": 5, "a class in two folds": 2, "penalty of several parts": 3, "mean of others": 4}),
    **named(classes, {"penalty within half an error": 0, "paths": 1, "classes out of fold": [2, 3, 4, 5, 6]}), "last fits of classes": last,
    "after minus before": after_minus_before, "shares of the base": of_base, "shares of one seed": of_one, "shares above chance": above_chance,
    **{f"shares of {name}": partial(without_value, name) for name in ("alike", "noise", "class", "hidden")},
    "shares of a gap of 0.0095 in 10 units": lambda: ["kept_best", "kept_output", "over_control", "recovered"],
    "shares of a gap of 0.0105 in 10 units": lambda: ["kept_best", "kept_output", "over_control"],
    "shares of a gap of 0.5 in 2 units": lambda: ["kept_best", "kept_output", "over_control", "recovered"],
    "scores of groups": of_groups,
    **named(along_depth, {"differences along depth": 0, "lines between taps": 1, "what units add": 2, "where curves differ most": 3, "flips": 4, "shared depths": 5}),
    "curves of other references": lambda: [along_depth()[6:]],
    "p of certain differences": lambda: [1, 2.0**-5, 2.0**-5, np.nan], "certain over seeds": lambda: [[0.5] * 3, [0.5] * 3, 2.0**-5], "no more than its control": lambda: [False],
    "outcomes": lambda: ["gained", "lost", "cannot tell"],
    "certain differences": certain_differences, "Holm": lambda: [0.04, np.nan, 0.09, 0.09, 0.9], "the same but for rounding": lambda: [False, True],
    "losses by name": losses_by_name, "redraws": drawn_again, "draws without a value": lost_draws,
    **named(several, {
        "one tap for several targets": [0, 1], "few units beside another target": 2, "a target that no probe reads": 3, "first probes": 4, "order of findings": 5, "ways": 6, "favours": 7, "beside a control": 8,
    }),
}  # fmt: skip


def plain(known: Any) -> Any:
    """As JSON holds it."""
    if isinstance(known, dict):
        return {key: plain(each) for key, each in known.items()}
    if isinstance(known, (list, tuple, np.ndarray)):
        return [plain(each) for each in known]
    return known.item() if isinstance(known, np.generic) else known


if __name__ == "__main__":
    place = Path(str(files("diagnostics.checks.selftest") / "answers.json"))
    place.write_text(
        "{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(plain(known()))}" for name, known in BY_HAND.items())
        + "\n}\n"
    )
