"""Known answers of choice, verdict and comparison, from a planted encoder and from planted losses.

`answers.json` holds what is known; `tests/checks/test_answer.py` computes it the plain way, from the definitions and without the code
under test, and writes it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.checks.selftest.planted import PLANTED, SEED, SEEDS, Planted, encoder, profile, results, target
from diagnostics.measures import apply, result, statistics, verdict
from diagnostics.measures import result as attribute
from diagnostics.measures.confidence_set import confidence_set
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes import logistic_choice, out_of_fold
from diagnostics.measures.probes.protocol import Rows
from diagnostics.measures.probes.softmax import LogisticRows
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.tap_choice import choose_tap, standard_error
from diagnostics.runs import redraws
from diagnostics.runs.comparison import differences, estimates, group_scores, probe_losses, shares
from diagnostics.runs.profile import Profile, first_probes, rounded
from diagnostics.runs.recommendation import recommend

BY_HAND = "computed by hand in tests/checks/test_answer.py"


def ends(interval: Interval | None) -> list[float] | None:
    """An interval as three numbers."""
    return interval and [interval.value, interval.low, interval.high]


def digest(values: Any) -> float:
    """Of many values one number, which changes with each."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return float(np.cos(np.arange(len(flat))) @ flat)


def deviation(found: Any, known: Any) -> float:
    """The largest difference of what is found from what is known, relative above 1; infinite where they differ in another way."""
    if isinstance(known, list):
        return max((deviation(*pair) for pair in zip(found, known, strict=True)), default=0.0)
    if isinstance(known, dict):
        return deviation(list(found.values()), list(known.values()))
    if isinstance(known, (int, float)) and found is not None and not np.isnan(known):
        return float(np.nan_to_num(abs(found - known) / max(1, abs(known)), nan=np.inf))
    return 0.0 if found == known or (found != found and known != known) else np.inf


# The planted encoder


def choice(name: str, choose_on: Any = "fit") -> list[Any]:
    """The tap to use, the best one, the set, the gap, the bound, and the lower end of the gap on one side."""
    made = profile(name, 0, choose_on)
    return [
        made.chosen_tap,
        made.best_tap,
        made.tap_set,
        ends(made.hidden_gap),
        made.gap_bound,
        made.data.attrs.get(attribute.CHOSEN_GAP_LOW),
    ]


def finding(name: str) -> list[Any]:
    """Verdict and confidence, with the numbers behind them, and the scores of all taps."""
    made, said = profile(name), recommend(profile(name))
    numbers = [
        made.margin,
        made.floor,
        made.units_needed,
        said.at_output,
        ends(said.score),
        ends(said.output),
        [ends(made.at(tap)) for tap in made.taps],
    ]
    return [said.verdict.value, said.confidence, said.tap, list(said.also), made.few, *numbers]


def controls(name: str) -> list[Any]:
    """By how much the chosen tap beats controls, what they reach, and which do as well or nearly."""
    made, names = profile(name), ("fresh_weights", "raw_input", "shuffled_labels")
    best, spreads = made.best_control, [made.spread(each) for each in names]
    return [
        [ends(made.over(each)) for each in names],
        [ends(made.control(each)) for each in names],
        made.rivals,
        made.near,
        best and best[0],
        spreads,
    ]


def changed(name: str, variables: Mapping[str, Any] = {}, without: str = "none", **attrs: Any) -> Profile:
    """A planted profile with other variables and attributes, and without the attributes that name something."""
    data = profile(name).data.assign(variables)
    data.attrs = {key: value for key, value in data.attrs.items() if without not in key} | attrs
    return Profile("planted", name, data, {})


def cautions() -> list[Any]:
    """Skew of train and val and never of test, few tokens, readability and remarks, and the margin that a user named."""
    few, loss = np.where(np.arange(120) < 6, 40.0, 1.0), profile("hidden").data["loss"]
    even = {name: xr.ones_like(profile("hidden").data[name]) for name in ("oof_loss", "oof_reference")}
    skewed = [
        changed("hidden", {"oof_reference": even["oof_reference"] * few, "oof_loss": even["oof_loss"]}),
        changed("hidden", even),
        changed("hidden", even | {"loss": loss * 0 + np.where(np.arange(80) < 2, 1e3, 1.0)}),
    ]
    of_class = [
        changed("class"),
        changed("class", over_shuffled_labels_low=-0.1),
        changed("class", without="shuffled"),
        changed("class", {"line_chance": ("tap", np.full(5, -np.inf))}, "shuffled"),
        changed("class", {"line_chance": ("tap", np.full(5, 0.9))}),
    ]
    twice = changed(
        "hidden",
        **result.store_interval("over_a", Interval(0.3, 0.1, 0.4)),
        **result.store_interval("over_a.2", Interval(0.3, 0.0, 0.9)),
    )
    stated = ["Clopper" in profile(name).data.attrs[attribute.INTERVALS] for name in ("class", "hidden")]
    sparse = [changed("hidden", token_samples=n) for n in (19, 20)]
    return [
        [each.skewed[:8] for each in skewed],
        [each.readability for each in of_class],
        [len(each.remarks) for each in of_class],
        ends(twice.over("a")),
        stated,
        [(each.token_samples, bool(each.sparse), len(each.cautions)) for each in sparse],
        changed("hidden", margin=0.2).margin,
    ]


# Losses with parts, few units and ties


def parts(units: int = 12) -> Losses:
    """Wrong answers and answers [tap, unit, part]: one part lies in two units and one in none; small numbers."""
    rng, at = np.random.default_rng(SEED), np.arange(units)
    whole = np.stack([1 + at % 3, np.where(at < 2, 2, 0), np.zeros(units, int), at % 4 // 2], axis=1)
    lost = rng.binomial(whole, np.array([0.2, 0.4, 0.6, 0.3])[:, None, None])
    return Losses(lost / 32, np.broadcast_to(whole, lost.shape) / 32)


def of_parts(share: bool) -> list[Any]:
    """Scores with ends, resamples, units that count, and the choice."""
    losses, chosen = parts(), choose_tap(parts(), 2, np.array([0.0, 0.5, 1.0, 2.0]), SEED, share=share)
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
    "a tap as deep as the output": (np.stack([FLAT + 1, FLAT - np.resize([5, -6, 2, 0], 21) / 4, FLAT]), 2, (0, 1, 1), True),
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
        statistics.effective_units(*each)
        for each in ((holds,), (holds, True), (np.eye(3)[None],), (np.eye(3)[None], True), (np.zeros((1, 3)),))
    ]
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


# Losses out of fold


def rows_in_groups(most: int) -> Rows:
    """Rows of train (12 groups), of val (6 groups) and one of test, in groups of one to three rows, the first of `most`."""
    groups = np.repeat(np.arange(18), [most, *np.resize([1, 2, 3], 17).clip(max=most)])
    by_split = {"train": np.flatnonzero(groups < 12), "val": np.flatnonzero(groups >= 12), "test": np.array([0])}
    return Rows.of(by_split, np.array([f"{group:04}" for group in groups]))


def ridge_data(most: int) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Rows, features [tap, row, feature] and targets [row, target]; wide where all groups are of one row."""
    rows, rng = rows_in_groups(most), np.random.default_rng(SEED)
    x = rng.standard_normal((2, len(rows.fit), 30 if most == 1 else 3)) + 1
    return rows, x, x[0, :, :2] + rng.standard_normal((len(rows.fit), 2)) * [0.5, 3.0] + 2


def left_out(most: int) -> list[Any]:
    """Ridge without each group, or in folds where one has more than 256 rows: penalties, losses and references."""
    rows, x, y = ridge_data(most)
    made = out_of_fold.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED, 2)
    penalties = [made.choose(slice(i, i + 1), torch.tensor(x[i : i + 1]))[0].tolist() for i in (0, 1)]
    return [penalties, *([digest(each) for each in sums] for sums in (made.losses.loss, made.losses.reference))]


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
    """Features [tap, row, feature] that show the class of most rows, labels, the last of which no other row has, and folds."""
    rng = np.random.default_rng(SEED)
    labels = np.append(rng.integers(0, 3, 89), 3)
    shown = np.where(rng.random((2, 90)) < [[0.1], [0.3]], rng.integers(0, 4, (2, 90)), labels)
    return np.eye(4)[shown][..., :3] + 0.1 * rng.standard_normal((2, 90, 3)), labels, np.resize(np.arange(5), 90)


GRID = (0.1, 1.0, 10.0)
PATHS: Sequence[tuple[Sequence[float], float, bool]] = (
    ((5, 4, 4.5, 4.6, 1), 9, False), ((5, 4, 4.5, 3, 3.5, 3.6, 1), 9, False), ((5, 4, 4.5, 4.6, 1), 9, True), ((5, 4, 9, 1), 0, False), ((5, 4, 4.9, 1), 2, False), ((5, 4, 4.9, 1), 2.3, False),
)  # fmt: skip
"""Losses of penalties, strong to weak; their spread over rows beside those before; and whether the path is asked for as a whole."""


def path(worth: Sequence[float], spread: float, whole: bool) -> int:
    """How many penalties are tried."""
    told = iter(
        [
            (
                torch.zeros((1, 1, 10), dtype=torch.bool),
                (w + i * spread * torch.linspace(-1, 1, 10).double())[None, None],
            )
            for i, w in enumerate(worth)
        ]
    )
    rows = LogisticRows(torch.tensor([[[-1.0], [1.0], [2.0]]]).double(), np.array([0, 1, 1]))
    return logistic_choice._path(rows, 10.0 ** -np.arange(len(worth))[None], lambda _: next(told), whole)[1].shape[1]  # pyright: ignore[reportPrivateUsage]


def classes() -> list[Any]:
    """The penalty within half a standard error of the best, where paths end, and wrong answers and penalties out of fold and on val."""
    x, labels, fold = class_data()
    right, level = torch.ones((1, 4, 100), dtype=torch.bool), torch.tensor([0.5, 0.9, 0.7, 0.6]).double()
    right[0, 0, :30], right[0, 1, 30:50], right[0, 2, :22], right[0, 3, :23] = False, False, False, False
    best = logistic_choice._best(right, level[None, :, None].expand(1, 4, 100))  # pyright: ignore[reportPrivateUsage]
    made = [
        logistic_choice.choose_out_of_fold(torch.tensor(x[taps]), labels, fold, GRID)
        for taps in (slice(0, 2), slice(0, 1), slice(1, 2))
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


# Comparison

GROUPS = {"before": "hidden", "after": "aligned", "taught": "control"}


def runs_of(name: str, draws: Sequence[int] = SEEDS) -> list[probe_losses.ProbeLosses]:
    """The runs of a training: of each seed the planted encoder."""
    return [probe_losses.probe_losses(profile(name, draw)) for draw in draws]


def numbers(estimate: estimates.Estimate | None) -> list[Any] | None:
    """Ends over samples, ends to believe, and p."""
    return estimate and [ends(estimate.over_samples), ends(estimate.interval), estimate.p]


def after_minus_before() -> list[Any]:
    """Differences in all quantities and pairs: run by run where they are matched; corrected after Holm."""
    groups = {"linear": {group: runs_of(name) for group, name in GROUPS.items()}}
    made = differences.differences_of(groups, SEED, {("after", "before"): [(at, at) for at in SEEDS]})
    return [[d.first, d.second, d.quantity, numbers(d.estimate), d.p_corrected, d.outcome] for d in made]


def numbers_of_shares(made: shares.Shares) -> list[Any]:
    """The shares with their ends, and what is said of them."""
    values = (
        made.recovered,
        made.kept_best,
        made.kept_output,
        made.recovered_over_control,
        made.cut,
        made.over_control,
        made.gap,
    )
    return [[ends(each) for each in values], made.floor, made.cut_is, made.lifted, sorted(made.reasons)]


def of_base() -> list[Any]:
    """Shares of an alignment with its control and cut, over seeds."""
    base, aligned, taught = (runs_of(name) for name in GROUPS.values())
    return numbers_of_shares(
        shares.shares_of(
            "linear",
            "after",
            "before",
            3,
            True,
            list(zip(aligned, base, strict=True)),
            taught,
            ["late", "middle", "late"],
            SEED,
        )
    )


def above_chance() -> list[Any]:
    """Kept shares where answers are counted, of an encoder that is right nine times in ten of those of the base."""
    base = runs_of("class")
    other = [
        probe_losses.probe_losses(
            replace(run.profile, data=run.profile.data.assign(loss=1.0 - 0.9 * (1.0 - run.profile.data["loss"])))
        )
        for run in base
    ]
    made = shares.shares_of(
        "linear", "a", "b", 3, False, list(zip(other, base, strict=True)), ["none", "x", "x"], [""] * 3, SEED
    )
    return [made.floor, ends(made.kept_output), ends(made.kept_best), made.reasons["over_control"]]


def without_value(name: str, cut: str) -> list[Any]:
    """Shares of a run against itself, without a control."""
    made = [(run, run) for run in runs_of(name, (0,))]
    return numbers_of_shares(shares.shares_of("linear", "a", "b", 1, False, made, ["none"], [cut], SEED))[1:]


def of_groups() -> list[Any]:
    """Scores of groups with the drop in the head, a run's own score, and the mean gap of a family of unequal units."""
    profiles = {
        "linear": {name: runs_of(name) for name in ("hidden", "aligned")},
        "ten": {name: runs_of("ten") for name in ("hidden", "aligned")},
        "young": {name: runs_of("young") for name in ("hidden", "aligned")},
        "alone": {"hidden": runs_of("class", (0,))},
    }
    made = group_scores.group_scores_of(profiles, SEED)
    family = group_scores.family_gaps(profiles, ["linear", "ten", "young"], SEED)
    found = [
        [each.profile, each.chosen_tap_text, *map(numbers, (each.chosen, each.output, each.hidden_gap, each.head_drop))]
        for each in (*made[:2], made[-1])
    ]
    return [found, len(made), [[each.group, list(each.profiles), numbers(each.hidden_gap)] for each in family]]


def along_depth() -> list[Any]:
    """Differences along depth with p by flips of signs; lines between taps; what each unit adds; where they differ most."""
    groups = {
        "linear": {"before": runs_of("hidden", (0,)), "after": runs_of("aligned", (0,))},
        "ten": {"before": runs_of("ten", (0,)), "after": runs_of("ten", (1,))},
    }
    curves = differences.curve_differences(groups, SEED, {})
    line = probe_losses.by_depth(
        np.array([[0.0], [2.0], [6.0], [7.0], [9.0]]),
        np.array([0.1, 0.5, 1.0, 1.0, 1.2]),
        np.array([0.0, 0.1, 0.2, 0.75, 1.0, 1.1, 1.2, 1.3]),
    )
    adds = [
        differences.score_influence(
            np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 2.0]]), np.array([[2.0, 0.0, 1.0], [2.0, 0.0, 3.0]])
        ).tolist(),
        differences.score_influence(np.ones((2, 1)), np.zeros((2, 1))).tolist(),
    ]
    most = [
        differences.CurveDifference("", "", "", np.arange(3), np.array([-3.0, 1.0, 9.0]), np.array(p)).at
        for p in ([0.01, 0.04, 0.05], [0.05, 0.06, 0.07])
    ]
    units = [["a"], list("abcdef"), list("abcdef"), list("ab")]
    flips = estimates.flipped(
        [np.ones((1, 1)), np.zeros((2, 6)), np.ones((1, 6)), np.ones((1, 2))], units, [0, 0, 0, 0], SEED
    )
    depths = probe_losses.shared_depths([np.array([0.5, 1e-9]), np.array([0.0, 0.5 + 2e-6])])
    return [
        [[each.difference.tolist(), each.p.tolist(), each.at] for each in curves],
        line[:, 0].tolist(),
        adds,
        most,
        [each.tolist() for each in flips],
        depths.tolist(),
    ]


def constant(*lost: float) -> list[estimates.Term]:
    """Terms of six units that all lose as much."""
    return [estimates.Term(np.full((6, 1), each), np.ones((6, 1)), tuple("abcdef"), 12) for each in lost]


def certain() -> list[Any]:
    """p where all units say the same, or nothing differs; outcomes; Holm's beside what is no test; references that are the same."""
    less, more = constant(0.5, 0.75)
    made = [
        estimates.estimate_sum([([pair], 1.0)], SEED)
        for pair in (
            (less, less),
            (less, more),
            (more, less),
            (replace(less, loss=np.ones((1, 1)), reference=np.ones((1, 1)), units=("a",)),),
        )
    ]
    told = [
        differences.Difference("", "", "", "output", each, p).outcome
        for each, p in ((made[1], 0.04), (made[2], 0.04), (made[2], 0.05))
    ]
    flat = [
        probe_losses.probe_losses(
            changed(
                "ten",
                {
                    "loss": 0 * profile("ten").data["loss"] + each,
                    "reference_loss": 0 * profile("ten").data["loss"] + 1.0,
                },
            )
        )
        for each in (0.75, 0.5)
    ]
    sure = [
        ends(each.estimate.interval)
        for each in differences.differences_of({"p": {"a": flat[:1], "b": flat[1:]}}, SEED, {})
    ][1]
    near = [probe_losses.near(np.ones(3), np.ones(3) + each) for each in (1e-8, 1e-12)]
    return [
        [each.p for each in made],
        told,
        sure,
        estimates.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.9])).tolist(),
        near,
    ]


def losses_by_name() -> list[Any]:
    """Losses with parts whose units come in another order, a run's places, and what all taps are compared with."""
    made, order = parts(), np.random.default_rng(SEED).permutation(12)
    loss, whole = (np.concatenate([x, x[:1]])[:, order].T for x in (made.loss, made.reference))
    bare = profile("hidden").data.drop_dims(("unit", "val_unit", "fit_unit"))
    data = bare.assign(
        loss=(("part", "unit", "tap"), loss),
        reference_loss=(("part", "unit", "tap"), whole),
        unit=[f"u{at:02}" for at in order],
    )
    run, other = (
        probe_losses.probe_losses(Profile("planted", "hidden", each, {}))
        for each in (
            data,
            data.isel(tap=[0, 1, 2, 3])
            .assign_attrs(score_name="accuracy")
            .assign(reference_loss=data["reference_loss"] * np.arange(1, 6)),
        )
    )
    terms = run.at_chosen, run.at_best, run.at_output, *(run.ends or ())
    return [
        [digest(each.loss) for each in terms],
        [digest(each.reference) for each in terms],
        run.units == tuple(sorted(run.units)),
        run.at(None).score,
        run.fit_units,
        run.share,
        other.share,
        other.ends is None,
        other.common_reference is None,
        digest(run.common_reference),
    ]


# Redraws, and several targets


def drawn_again() -> list[Any]:
    """Scores, gaps and choices on other splits, and their spread."""
    made, read = encoder("hidden", PLANTED["hidden"].errors, 0), {"hidden": target("hidden")}
    measured = apply.measure_all([Planted()], made, read, SEED)
    redraws.add_redraws(measured, [Planted()], made, read, 3, SEED, what="planted")
    data = measured.results["planted/hidden"]
    found = redraws.redraws_of(data, data)
    counts = [
        [int((split == each).sum()) for each in ("train", "val", "test")]
        for split in redraws.redraw_splits(made.groups, made.split, 3, SEED)
    ]
    return [
        data[redraws.SCORE].values.tolist(),
        data[redraws.GAP].values.tolist(),
        data[redraws.TAP].values.tolist(),
        found and found.to_json(),
        counts,
        redraws.redraws_of(profile("hidden").data) is None,
    ]


def several() -> list[Any]:
    """One tap for several targets, and for one with few units; the first probe of a target; a target that no measure reads."""
    three = [results(name).results[f"planted/{name}"] for name in ("hidden", "late", "alike")]
    both = apply.measure_all(
        [Planted()],
        encoder("young", PLANTED["young"].errors, 0),
        {name: target(name) for name in ("young", "late")},
        SEED,
    )
    none = [
        list(
            apply.measure_all([Planted()], encoder("young", PLANTED["young"].errors, 0), {}, SEED, asked=asked).skipped
        )
        for asked in ((), ("planted",))
    ]
    firsts = first_probes(
        [
            profile("hidden"),
            Profile("other", "hidden", three[0], {}),
            Profile("cka", None, three[0].drop_vars("loss"), {}),
        ]
    )
    return [
        apply.common_tap(three),
        apply.common_tap([]),
        [both.results[f"planted/{name}"].attrs["chosen_tap"] for name in ("young", "late")],
        none,
        [each.measure for each in firsts.values()],
    ]


ASKED: Mapping[str, Callable[[], Any]] = {
    **{f"choice of {name} on {on}": partial(choice, name, on) for name in PLANTED for on in ("fit", "val")},
    **{f"finding of {name}": partial(finding, name) for name in PLANTED},
    **{f"controls of {name}": partial(controls, name) for name in ("hidden", "late", "alike", "class")},
    "cautions": cautions, **{f"parts, {what}": partial(of_parts, share) for what, share in (("R2", False), ("share", True))},
    **{f"choice with {name}": partial(ties, name) for name in TIES}, **{f"sets of {units} units": partial(sets, units) for units in (1, 3, 8, 40)},
    "closed forms": amounts, **{f"ranks of {samples} samples": partial(ranks, samples) for samples in (60, 12000)},
    **{f"ridge without groups of {most}": partial(left_out, most) for most in (1, 3, 256, 257)}, "folds": folds, "classes out of fold": classes,
    "after minus before": after_minus_before, "shares of the base": of_base, "shares above chance": above_chance,
    **{f"shares of {name}": partial(without_value, name, cut) for name, cut in (("alike", "late"), ("noise", "gone"), ("class", ""), ("hidden", ""))},
    "scores of groups": of_groups, "along depth": along_depth, "certain differences": certain, "losses by name": losses_by_name,
    "redraws": drawn_again, "several targets": several,
}  # fmt: skip


@cache
def known() -> dict[str, Any]:
    """The answers, by the same names."""
    return json.loads((files("diagnostics.checks.selftest") / "answers.json").read_text())


def cases() -> list[Case]:
    """All of them: 0 each, where what is found is what is known."""
    return [
        Case("answer", name, 0.0, BY_HAND, lambda name=name: deviation(ASKED[name](), known()[name]), 1e-7)
        for name in ASKED
    ]
