"""What is found of planted losses: scores of parts, few units and ties, closed forms, and losses out of fold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.checks.selftest.planted import SEED
from diagnostics.measures import apply, result, statistics, verdict
from diagnostics.measures.confidence_set import confidence_set
from diagnostics.measures.probes import logistic_choice, out_of_fold
from diagnostics.measures.probes.protocol import Rows, sum_by_unit
from diagnostics.measures.probes.softmax import LogisticRows
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.tap_choice import choose_tap, standard_error
from diagnostics.runs.profile import rounded


def digest(values: Any) -> float:
    """Of many values one number, which changes with each."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return float(np.cos(np.arange(len(flat))) @ flat)


def parts(units: int = 12) -> Losses:
    """Wrong answers and answers [tap, unit, part]: one part lies in two units and one in none; small numbers."""
    rng, at = np.random.default_rng(SEED), np.arange(units)
    whole = np.stack([1 + at % 3, np.where(at < 2, 2, 0), np.zeros(units, int), at % 4 // 2], axis=1)
    lost = rng.binomial(whole, np.array([0.2, 0.4, 0.6, 0.3])[:, None, None])
    return Losses(lost / 32, np.broadcast_to(whole, lost.shape) / 32)


def of_parts(share: bool) -> list[Any]:
    """Scores with ends, resamples, units that count, and the choice."""
    losses, chosen = parts(), choose_tap(replace(parts(), counts=share), 2, np.array([0.0, 0.5, 1.0, 2.0]), SEED)
    again = statistics.resampled_scores(
        losses.loss, losses.reference, statistics.resample_counts(12, SEED), SEED, share, 2
    )
    ends_of = np.array(statistics.profile_intervals(losses.loss, losses.reference, 7, SEED, share)).T.tolist()
    return [
        ends_of,
        again[::400].tolist(),
        statistics.effective_units(losses.reference, share),
        chosen and [chosen.tap, chosen.best, list(chosen.alike)],
    ]


FLAT = np.arange(1.0, 22.0)
"""Losses of 21 units, whose 95th percentile is one of them."""
TIES: Mapping[str, tuple[np.ndarray, int, Sequence[float], bool]] = {
    "equal taps": (np.stack([FLAT] * 3), 2, (0, 0.5, 1), True), "an output without a score": (np.stack([FLAT, FLAT, FLAT * np.nan]), 2, (0, 0.5, 1), True),
    "no scores": (np.full((3, 21), np.nan), 2, (0, 0.5, 1), True), "one unit": (np.array([[0.3], [0.2], [0.25]]), 2, (0, 0.5, 1), True),
    "one unit, not in the output's favour": (np.array([[0.3], [0.2], [0.25]]), 2, (0, 0.5, 1), False), "no other tap": (np.stack([FLAT] * 3), 0, (0, 0.5, 1), True),
    "a tap after the output": (np.stack([FLAT + 1, FLAT, FLAT - np.resize([5, -6, 2, 0], 21) / 4]), 1, (0, 1, 1), True),
    "ahead by .0005 in all units": (np.stack([FLAT + 1, FLAT - 0.008, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by .0015 in all units": (np.stack([FLAT + 1, FLAT - 0.024, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by less than a standard error": (np.stack([FLAT + 1, FLAT - np.resize([5, -6, 2, 0], 21) / 4, FLAT]), 2, (0, 0.5, 1), True),
}  # fmt: skip


def ties(name: str) -> list[Any] | None:
    """The choice where taps are equal, or few units or taps have a score."""
    loss, output, depth, favour = TIES[name]
    chosen = choose_tap(Losses(loss, np.full(loss.shape, 16.0)), output, np.array(depth), SEED, favour=favour)
    return chosen and [chosen.tap, chosen.best, list(chosen.alike)]


def sets(units: int) -> list[list[int]]:
    """Model confidence sets of five taps, in several draws."""
    loss = np.random.default_rng(SEED).random((30, 5, units)) * np.linspace(1, 2.5, 5)[:, None]
    return [confidence_set(Losses(each, np.ones_like(each)), np.arange(5), SEED) for each in loss]


def amounts() -> list[Any]:
    """Closed forms: units that count, what few carry, units needed, ends of intervals, exact ends, standard errors, reasons."""
    holds, most, ramp, right, ones = (
        np.zeros((1, 6, 3)),
        np.full((40, 2), 1e-3),
        np.linspace(-1, 1, 2001),
        np.zeros((1, 9)),
        np.ones((1, 9)),
    )
    holds[0, :, 0], holds[0, :2, 1], holds[0, :1, 2], most[:2, 0], most[:, 1] = 1, 1, 1, 0.02, 0
    interval, exact, gap = (
        statistics.interval,
        partial(statistics.profile_intervals, seed=SEED, share=True),
        Interval(0.4, 0.1, 0.5),
    )
    taken = [
        interval(0.0, ramp, 4),
        interval(0.0, ramp, 9, 3, 4.0),
        interval(0.0, ramp, 4, None, 9.0),
        interval(0.0, np.where(np.abs(ramp) > 0.5, np.nan, ramp), 4),
        interval(2.0, ramp, 4),
        interval(-2.0, ramp, 4),
        interval(0.0, ramp, 1),
        interval(0.0, ramp, 9, None, 1.0),
        interval(0.0, ramp, 2),
        interval(0.0, ramp, 9, level=0.8),
    ]
    borders = [
        exact(right + x, ones, fit)[end][0]
        for x, fit, end in ((0, 0, 1), (0, 3, 1), (1, 0, 2), (1, 3, 2), (0, 0, 2), (1, 0, 1))
    ]
    counted = [
        statistics.effective_units(each, share)
        for each, share in (
            (holds, False),
            (holds, True),
            (np.eye(3)[None], False),
            (np.eye(3)[None], True),
            (np.zeros((1, 3)), False),
        )
    ]
    counted.append(statistics.effective_units(holds))
    carried = [list(statistics.carried_by_few(each)) for each in (most, most[:39], 0 * most)]
    needed = [
        verdict.units_needed(gap, 30, 0.05),
        verdict.units_needed(gap, 30, 0.0),
        verdict.units_needed(replace(gap, low=np.nan), 30, 0.05),
        rounded(12345),
        rounded(7),
    ]
    few = [bool(apply.too_few(xr.Dataset(attrs={"n": n, "measure": "cka"}))) for n in (19, 20)]
    texts = [
        result.shorten_reasons(text, ["a", "b", "a.b", "c"])
        for text in ("a: x; y; b: x; y; a.b: x; y; c: z; b: z; a: q; c: q", "x; y")
    ]
    drawn = statistics.resample_counts(5, SEED)
    return [
        np.array(taken).tolist(),
        borders,
        counted,
        carried,
        needed,
        few,
        texts,
        standard_error(parts().at([0, 2])),
        digest(drawn),
        drawn.size,
        statistics.profile_intervals(right, ones, 0, SEED)[1].tolist(),
    ]


def ranks(samples: int) -> list[Any]:
    """Spearman's correlation with ends, of tied samples in groups of three, of equal values, and of one that is not finite."""
    rng, unit_of = np.random.default_rng(SEED), np.arange(samples) * 20 // samples
    truth = np.round(rng.standard_normal(samples), 1)
    guesses = np.stack(
        [
            truth + rng.standard_normal(samples),
            np.round(-truth + 0.5 * rng.standard_normal(samples)),
            truth * 0,
            truth + np.inf,
        ]
    )
    return np.array(statistics.rank_correlation(guesses, truth, unit_of, SEED, 10)).T.tolist()


def rows_in_groups(most: int) -> Rows:
    """Rows of train (12 groups), of val (6 groups) and one of test, in groups of one to three rows, the first of `most`."""
    groups = np.repeat(np.arange(18), [most, *np.resize([1, 2, 3], 17).clip(max=most)])
    by_split = {"train": np.flatnonzero(groups < 12), "val": np.flatnonzero(groups >= 12), "test": np.array([0])}
    return Rows.of(by_split, np.array([f"{group:04}" for group in groups]))


RIDGE_SEED = 14
"""Of data for which the first fold prefers other penalties than all of them together."""


def ridge_data(most: int) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Rows, features [tap, row, feature] and targets [row, target]; wide where all groups are of one row."""
    rows, rng = rows_in_groups(most), np.random.default_rng(RIDGE_SEED)
    x = rng.standard_normal((2, len(rows.fit), 30 if most == 1 else 3)) + 1
    return rows, x, x[0, :, :2] + rng.standard_normal((len(rows.fit), 2)) * [0.5, 3.0] + 2


def left_out(most: int) -> list[Any]:
    """Ridge without each group, or in folds where one has more than 256 rows: penalties, losses and references."""
    rows, x, y = ridge_data(most)
    made = out_of_fold.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED)
    chosen = [made.choose(torch.tensor(x[i : i + 1])) for i in (0, 1)]
    sums = [
        [digest(sum_by_unit(each, rows, "fit")) for each in losses]
        for losses in ([lost[0] for _, lost, _ in chosen], [made.reference] * 2)
    ]
    return [[penalty.tolist() for penalty, _, _ in chosen], *sums]


def folds() -> list[Any]:
    """Groups whole, val in fold 0, groups and classes even over the others; a class of two groups in two folds; means and penalties."""
    rows, few = (
        rows_in_groups(3),
        Rows.of(
            {"train": np.arange(12), "val": np.arange(12, 14), "test": np.arange(1)}, np.repeat(list("abcdefg"), 2)
        ),
    )
    fold = out_of_fold.folds(rows, np.where(rows.unit_of_fit < 4, 0, 1), SEED)
    of_group = [sorted(set(fold[rows.unit_of_fit == group].tolist())) for group in range(18)]
    dealt = [
        out_of_fold.folds(few, np.array([1, 7, 1, 1, 2, 2, 2, 2, 3, 7, 3, 3, 0, 0]), seed)[[1, 9]] for seed in range(8)
    ]
    best = [
        out_of_fold.choose_index(np.array(lost), np.array(whole))
        for lost, whole in (
            ([[2, 1], [1, 9], [1, 9]], [1, 0]),
            (np.ones((4, 2)), [0, 0]),
            ([[0.02, 0.9], [0.03, 0.3]], [0.1, 0.9]),
        )
    ]
    counts = [
        sorted(np.bincount([each[0] for each in some], minlength=5).tolist())
        for some in (of_group[:4], of_group[4:12], of_group[12:])
    ]
    return [
        [len(each) for each in of_group],
        counts,
        [bool(a != b) for a, b in dealt],
        best,
        out_of_fold.mean_of_others(np.array([[1.0], [2.0], [6.0], [7.0]]), np.array([0, 0, 1, 2])).tolist(),
    ]


def class_data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [tap, row, feature] that show the class of most rows, at the last tap of those outside the first fold; labels, of which no
    other row has the last; and folds."""
    rng = np.random.default_rng(SEED)
    labels = np.append(rng.integers(0, 3, 89), 3)
    fold = np.resize([0, 1, 2, 3, 4, 1, 2], 90)
    shown = np.where(rng.random((2, 90)) < [[0.1], [0.3]], rng.integers(0, 4, (2, 90)), labels)
    x = np.eye(4)[shown][..., :3] + 0.1 * rng.standard_normal((2, 90, 3))
    misled = np.where((fold == 0)[:, None], np.roll(x[0], 7, axis=0), x[0])
    return np.stack([*x, misled]), labels, fold


GRID = (0.1, 1.0, 10.0)
PATHS: Sequence[tuple[Sequence[float], Sequence[int], float, bool]] = (
    ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9, False), ((5, 4, 4.5, 3, 3.5, 3.6, 1), (0,) * 7, 9, False), ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9, True),
    ((5, 4, 9, 1), (0,) * 4, 0, False), ((5, 4, 4.9, 1), (0,) * 4, 2, False), ((5, 4, 4.9, 1), (0,) * 4, 2.3, False),
    ((5, 6, 7, 7, 7, 7), (1, 2, 3, 3, 3, 9), 9, False),
)  # fmt: skip
"""Losses of penalties, strong to weak, and right answers; the spread of losses over rows beside those before; and whether the path is
asked for as a whole."""


def path(worth: Sequence[float], right: Sequence[int], spread: float, whole: bool) -> int:
    """How many penalties are tried."""
    answers = (torch.arange(10)[None, None] < n for n in right)
    lost = ((w + i * spread * torch.linspace(-1, 1, 10).double())[None, None] for i, w in enumerate(worth))
    told = zip(answers, lost, strict=True)
    rows = LogisticRows(torch.tensor([[[-1.0], [1.0], [2.0]]]).double(), np.array([0, 1, 1]))
    return logistic_choice._path(rows, 10.0 ** -np.arange(len(worth))[None], lambda _: next(told), whole)[1].shape[1]  # pyright: ignore[reportPrivateUsage]


def classes() -> list[Any]:
    """The penalty within half a standard error of the best, where paths end, and wrong answers and penalties out of fold and on val."""
    x, labels, fold = class_data()
    right, level = torch.ones((1, 4, 100), dtype=torch.bool), torch.tensor([0.5, 0.9, 0.7, 0.6]).double()
    right[0, 0, :25], right[0, 1, 30:50], right[0, 2, :22], right[0, 3, :23] = False, False, False, False
    best = logistic_choice._best(right, level[None, :, None].expand(1, 4, 100))  # pyright: ignore[reportPrivateUsage]
    made = [
        logistic_choice.choose_out_of_fold(torch.tensor(x[taps]), labels, fold, GRID)
        for taps in (slice(0, 3), slice(0, 1), slice(1, 2))
    ]
    val = logistic_choice.choose_logistic(
        torch.tensor(x[:, fold > 0]),
        labels[fold > 0].clip(max=2),
        torch.tensor(x[:, fold == 0]),
        labels[fold == 0],
        GRID,
    )[0]
    return [
        best.tolist(),
        [path(*each) for each in PATHS],
        [each.penalty.tolist() for each in made],
        [digest(each.wrong) for each in made],
        val.tolist(),
    ]
