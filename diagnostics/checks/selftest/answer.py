"""Known answers of choice, verdict and comparison, of a planted encoder; each is how far all its numbers are from those by hand."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from diagnostics.checks.selftest import by_hand
from diagnostics.checks.selftest.by_hand import SEED
from diagnostics.checks.selftest.planted import (
    OUTPUT,
    PLANTED,
    SPLIT,
    TAPS,
    Planted,
    encoder,
    losses,
    profile,
    results,
    target,
    truth,
)
from diagnostics.measures import result as attribute
from diagnostics.measures import statistics
from diagnostics.measures.apply import common_tap, measure_all, too_few
from diagnostics.measures.confidence_set import confidence_set
from diagnostics.measures.known_answers import Case
from diagnostics.measures.probes import logistic_choice, out_of_fold
from diagnostics.measures.probes.least_squares import PENALTIES
from diagnostics.measures.probes.protocol import Rows
from diagnostics.measures.probes.softmax import LogisticRows
from diagnostics.measures.result import choosing_losses, losses_of, shorten_reasons, store_interval
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.tap_choice import choose_tap, standard_error
from diagnostics.measures.verdict import units_needed
from diagnostics.runs.comparison import differences, estimates, shares
from diagnostics.runs.comparison.group_scores import family_gaps, group_scores_of
from diagnostics.runs.comparison.probe_losses import by_depth, near, probe_losses, shared_depths
from diagnostics.runs.profile import Profile, first_probes, rounded
from diagnostics.runs.recommendation import recommend
from diagnostics.runs.redraws import add_redraws, redraw_splits, redraws_of

OWN = "docs/explanation/statistics.md"
Fact = tuple[Any, Any]
"""What is found, and what is known: numbers, texts, and lists of both."""


def off(fact: Fact) -> float:
    """The largest difference of what is found from what is known; infinite where they differ in another way."""
    found, known = fact
    if isinstance(known, (list, tuple)):
        return max((off(pair) for pair in zip(found, known, strict=True)), default=0.0)
    if known is None or isinstance(known, (str, bool)):
        return 0.0 if found == known else float("inf")
    found, known = np.asarray(found, float), np.asarray(known, float)
    if found.shape != known.shape or (np.isnan(found) != np.isnan(known)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(found - known) / np.maximum(1, np.abs(known))).max(initial=0.0))


def ends(interval: Interval | None) -> tuple[float, float, float]:
    """An interval as three numbers."""
    assert interval is not None
    return interval.value, interval.low, interval.high


# Choice, gaps and verdict


def choice(name: str, choose_on: Any, draw: int = 0) -> Fact:
    """The chosen tap, best tap, set, gaps and bound."""
    share, split = PLANTED[name].classes > 0, "fit" if choose_on == "fit" else "val"
    fit, test = sum(PLANTED[name].known[:2]), losses(name, "test", draw)
    tap, best, alike = by_hand.choose(losses(name, split, draw), OUTPUT, share, fit >= 10)
    gaps = [by_hand.gap(test[each], test[OUTPUT], fit, share) for each in range(OUTPUT)]
    low = by_hand.gap(test[tap], test[OUTPUT], fit, share, 0.8)[1] if tap != OUTPUT else None
    made = profile(name, draw, choose_on)
    found = made.chosen_tap, made.best_tap, made.tap_set, ends(made.hidden_gap), made.gap_bound
    known = TAPS[tap], TAPS[best], [TAPS[each] for each in alike], gaps[best], max(0.0, *(high for _, _, high in gaps))
    return (*found, made.data.attrs.get(attribute.CHOSEN_GAP_LOW)), (*known, low)


def score_ends(name: str) -> Fact:
    """The scores of all taps, with their ends."""
    share, fit = PLANTED[name].classes > 0, sum(PLANTED[name].known[:2])
    known: list[tuple[float, ...]] = []
    for pair in losses(name, "test"):
        value, n = float(by_hand.score(pair)[0]), by_hand.effective(pair[1], share)
        low, high = by_hand.ends(value, by_hand.resample(pair, share), len(pair[0]), fit, n)
        all_right = 1 - np.sqrt(1 + len(pair[0]) / fit) * (1 - 0.025 ** (1 / len(pair[0])))
        known.append((value, all_right if share and value == 1 else low, min(high, 1.0)))
    return [ends(profile(name).at(tap)) for tap in TAPS], known


def finding(name: str) -> Fact:
    """Verdict and confidence, with the numbers behind them."""
    made, said = profile(name), recommend(profile(name))
    floor = 0.4 if PLANTED[name].classes else 0.0
    score, output, gap = (ends(each) for each in (made.score, made.output, made.hidden_gap))
    margin = 0.05 * max(max(score[0], output[0]) - floor, 0.0)
    needed = np.ceil(PLANTED[name].known[2] * ((gap[2] - gap[1]) / 2 / margin) ** 2) if margin else None
    also = [tap for tap in made.tap_set if tap != made.chosen_tap]
    known = (
        *PLANTED[name].finding,
        made.chosen_tap,
        also,
        margin,
        floor,
        needed,
        made.chosen_tap == "norm",
        score,
        output,
    )
    found = said.verdict.value, said.confidence, said.tap, list(said.also), made.margin, made.floor, made.units_needed
    return (*found, said.at_output, ends(said.score), ends(said.output)), known


def controls(name: str) -> Fact:
    """What the controls reach, by how much the chosen tap beats them, and which of them do as well or nearly."""
    made, test = profile(name), losses(name, "test")
    share, own = PLANTED[name].classes > 0, test[TAPS.index(str(made.chosen_tap))]
    beside = [losses(name, "test", 7 + i, (error,))[0] for i, error in enumerate(PLANTED[name].controls)]
    margins = [by_hand.gap(own, other, 120, share) for other in beside]
    scores = [float(by_hand.score(other)[0]) for other in beside]
    # Of two draws the one that chooses better is the control; the smaller margin counts.
    chosen = [float(by_hand.score(losses(name, "fit", 7 + i, (PLANTED[name].controls[i],))[0])[0]) for i in (0, 1)]
    reach = [scores[int(np.argmax(chosen))], *scores[2:]]
    smallest = min(margins[:2], key=lambda margin: margin[1]), *margins[2:]
    named = list(zip(("fresh weights", "raw input", "shuffled labels"), reach, smallest, strict=True))
    rivals = [
        control for control, _, margin in named if not margin[1] > 0 and (not share or control != "shuffled labels")
    ]
    best = max(named, key=lambda item: item[1])
    above = by_hand.score(own)[0] * 0.9
    near = [
        control
        for control, reached, _ in named
        if max(reached, *(scores[:2] if control == "fresh weights" else [-np.inf])) >= above
    ]
    names = ("fresh_weights", "raw_input", "shuffled_labels")
    found = (
        [ends(made.over(each)) for each in names],
        [ends(made.control(each))[0] for each in names],
        made.rivals,
        made.near,
    )
    spread, control = made.spread("fresh_weights"), made.best_control
    assert control is not None
    known = [*smallest], reach, rivals, [each for each in near if not share or each != "shuffled labels"]
    return (
        (*found, spread, control[0].replace("_", " "), made.spread("raw_input"), recommend(made).best_control_score),
        (*known, (min(scores[:2]), max(scores[:2])), best[0], None, best[1]),
    )


def words() -> Fact:
    """Cautions and remarks, by what makes them necessary."""
    shown, plain = (
        profile("hidden"),
        Profile("planted", "hidden", profile("hidden").data.assign_attrs(token_samples=19), {}),
    )
    far = shown.data.assign(loss=shown.data["loss"] * np.where(np.arange(80) < 2, 1e3, 1.0))
    rough = shown.data.assign(oof_reference=shown.data["oof_reference"] * np.where(np.arange(120) < 6, 40.0, 1.0))
    even = shown.data.assign(
        oof_reference=xr.ones_like(shown.data["oof_reference"]), oof_loss=xr.ones_like(shown.data["oof_loss"])
    )
    skewed, calm, tested = (Profile("planted", "hidden", data, {}) for data in (rough, even, far))
    given = [profile(name).few for name in ("nine", "ten", "young", "hidden")]
    known = ["only 9 test units: they cannot tell", "", "only 9 units of train and val: they cannot tell", ""]
    counted = profile("class").data
    without = counted.copy()
    without.attrs = {key: value for key, value in counted.attrs.items() if "shuffled" not in key}
    tried = [
        Profile("planted", "class", data, {})
        for data in (
            counted,
            counted.assign_attrs(over_shuffled_labels_low=-0.1),
            without,
            without.drop_vars("line_chance"),
            counted.assign(line_chance=("tap", np.full(5, 0.9))),
        )
    ]
    given += [each.readability for each in tried] + [str(len(each.remarks)) for each in tried]
    known += ["readable", "undecided", "readable", "readable", "undecided"]
    known += [str(bool(tried[0].rivals) + at) for at in (0, 0, 0, 1, 0)]
    twice = shown.data.assign_attrs(
        store_interval("over_a", Interval(0.3, 0.1, 0.4)) | store_interval("over_a.2", Interval(0.3, 0.0, 0.9))
    )
    given += [str("Clopper" in data.attrs[attribute.INTERVALS]) for data in (counted, shown.data)]
    given.append(str(Profile("planted", "hidden", twice, {}).over("a")))
    known += ["True", "False", "0.300 [0.000, 0.900]"]
    return (
        (
            given,
            bool(plain.sparse),
            bool(shown.sparse),
            shown.token_samples,
            len(plain.cautions),
            skewed.skewed[:8],
            calm.skewed,
            tested.skewed == shown.skewed,
        ),
        (known, True, False, 20, 1 + bool(shown.skewed), "6 of 120", "", True),
    )


# Statistics of losses with parts, few units, and ties


def parts() -> tuple[np.ndarray, np.ndarray]:
    """Wrong answers and answers [tap, unit, part] of 12 units: three parts, of which one lies in two units and one in none; small numbers."""
    rng = np.random.default_rng(SEED)
    whole = np.stack(
        [rng.integers(1, 4, 12), np.where(np.arange(12) < 2, 2, 0), np.zeros(12, int), rng.integers(0, 3, 12)], axis=1
    )
    lost = rng.binomial(whole, np.array([0.2, 0.4, 0.6, 0.3])[:, None, None])
    return lost / 32, np.broadcast_to(whole, lost.shape) / 32


def scores_of_parts(share: bool) -> Fact:
    """Scores, their ends, and the gap of two taps, of losses with parts; one tap cannot be probed."""
    lost, whole = parts()
    pairs = list(zip(lost, whole, strict=True))
    found = statistics.profile_intervals(
        np.concatenate([lost, np.full((1, 12, 4), np.nan)]), np.concatenate([whole, whole[:1]]), 7, SEED, share
    )
    n = by_hand.effective(whole[0], share)
    known = [
        np.minimum((v := by_hand.score(pair)[0], *by_hand.ends(v, by_hand.resample(pair, share), 12, 7, n)), 1.0)
        for pair in pairs
    ]
    other = statistics.resampled_scores(lost, whole, statistics.resample_counts(12, SEED), SEED, share, 2)
    return (np.array(found).T, other.T, statistics.effective_units(whole, share)), (
        [*known, [np.nan] * 3], [by_hand.resample(pair, share, 2) for pair in pairs], n if share else n,
    )  # fmt: skip


def choice_of_parts() -> Fact:
    """The choice by balanced accuracy, and by losses with parts that are clipped; the set alone."""
    lost, whole = parts()
    depth, found = (
        np.array([0.0, 0.5, 1.0, 2.0]),
        [by_hand.choose(list(zip(lost, whole, strict=True)), 2, share) for share in (True, False)],
    )
    made = [choose_tap(Losses(lost, whole), 2, depth, SEED, share=share) for share in (True, False)]
    return [(each.tap, each.best, list(each.alike)) for each in made if each], found


def few_units() -> Fact:
    """What one unit, equal taps, taps without a score, and an output without one leave to choose."""
    flat = np.arange(1.0, 22.0)
    same, depth = np.stack([flat, flat, flat]), np.array([0.0, 0.5, 1.0])
    nan = np.where(np.arange(3)[:, None] == 2, np.nan, same)
    one = np.array([[0.3], [0.2], [0.25]])
    deeper = np.array([0.0, 1.0, 1.0])

    def chosen(loss: np.ndarray, output: int = 2, at: np.ndarray = depth, **given: bool) -> Any:
        made = choose_tap(Losses(loss, np.full(loss.shape, 16.0)), output, at, SEED, **given)
        return made and (made.tap, made.best, list(made.alike))

    ahead = np.stack([flat + 0.3, flat - np.resize([5, -6, 2, 0], 21) / 4, flat])
    sets = [
        confidence_set(Losses(loss, np.ones(loss.shape)), np.arange(3), SEED)
        for loss in (same, nan, one, np.stack([flat, flat, flat + 1]))
    ]
    found = [
        chosen(same),
        chosen(nan),
        chosen(np.full((3, 21), np.nan)),
        chosen(one),
        chosen(one, favour=False),
        chosen(same, 0),
    ]
    found += [chosen(ahead, at=deeper), chosen(ahead, favour=False), chosen(ahead), *sets]
    near, far = (1, 1, [1, 2]), (2, 1, [1, 2])
    return found, [
        (2, 0, [0, 1, 2]), (0, 0, [0, 1]), None, (2, 1, [0, 1, 2]), (1, 1, [0, 1, 2]), (0, None, [0]), near, near, far,
        [0, 1, 2], [0, 1], [0, 1, 2], [0, 1, 2],
    ]  # fmt: skip


def amounts() -> Fact:
    """Closed forms: units that count, what few carry, units needed, borders of intervals, exact ends, and reasons."""
    holds = np.zeros((1, 6, 3))
    holds[0, :, 0], holds[0, :2, 1], holds[0, :1, 2] = 1, 1, 1
    satterthwaite = (1 / 6 + 1 / 2 + 1) ** 2 / (1 / (36 * 5) + 1 / 4 + 1 / 0.5) + 1
    alone = np.eye(3)[None]
    most = np.ones((40, 2))
    most[:2, 0], most[:, 1] = 20, 0
    ramp = np.linspace(-1, 1, 2001)
    right, wrong = np.zeros((2, 1, 9))
    ones, tail = np.ones((1, 9)), stats.norm.cdf(-np.sqrt(4 / 3) * stats.t.ppf(0.975, 3))
    exact = 1 - 0.025 ** (1 / 9)
    wide = np.sqrt(1 + 9 / 3)
    found = [
        statistics.effective_units(holds), statistics.effective_units(holds, True), statistics.effective_units(alone), statistics.effective_units(alone, True),
        statistics.effective_units(np.zeros((1, 3))), statistics.carried_by_few(most), statistics.carried_by_few(most[:39]), statistics.carried_by_few(0 * most),
        statistics.interval(0.0, ramp, 4), statistics.interval(0.0, ramp, 9, 3, 4.0), statistics.interval(0.0, ramp, 4, None, 9.0),
        statistics.interval(0.0, np.where(np.abs(ramp) > 0.5, np.nan, ramp), 4), statistics.interval(2.0, ramp, 4), statistics.interval(-2.0, ramp, 4),
        statistics.interval(0.0, ramp, 1), statistics.interval(0.0, ramp, 9, None, 1.0), statistics.interval(0.0, ramp, 2)[1],
        [statistics.profile_intervals(right + x, ones, fit, SEED, True)[end][0] for x, fit, end in ((0, 0, 1), (0, 3, 1), (1, 0, 2), (1, 3, 2), (0, 0, 2), (1, 0, 1))],
        statistics.profile_intervals(right, 0 * ones, 0, SEED, True), statistics.profile_intervals(right, ones, 0, SEED)[1:],
        [statistics.profile_intervals(np.eye(2)[None, :, 0], np.ones((1, 2)), 0, SEED)[2]],
        units_needed(Interval(0.4, 0.1, 0.5), 30, 0.05), units_needed(Interval(0.4, 0.1, 0.5), 30, 0.0), units_needed(Interval(0.4, np.nan, 0.5), 30, 0.05),
        [rounded(12345), rounded(7)], statistics.resample_counts(5, SEED), statistics.resample_counts(5, SEED).flags.writeable,
    ]  # fmt: skip
    known = [
        satterthwaite, 6.0, 0.0, 0.0, 0.0, (2, 40 / 78), (1, np.nan), (2, np.nan),
        (2 * tail - 1, 1 - 2 * tail), (2 * (2 * tail - 1), 2 * (1 - 2 * tail)), (2 * tail - 1, 1 - 2 * tail),
        (tail - 0.5, 0.5 - tail), (2 * tail - 1, 2.0), (-2.0, 1 - 2 * tail),
        (np.nan, np.nan), (np.nan, np.nan), 1 - 2 * stats.norm.cdf(-np.sqrt(2) * stats.t.ppf(0.975, 1)),
        [1 - exact, 1 - wide * exact, exact, wide * exact, 1.0, 0.0],
        ([np.nan],) * 3, ([1.0], [1.0]),
        [[1.0]],
        30 * 16, None, None,
        [12000, 7], by_hand.draws(5), False,
    ]  # fmt: skip
    return found, known


def ranks() -> Fact:
    """Spearman's correlation with ends, of tied samples in groups, and of one that is not finite."""
    rng = np.random.default_rng(SEED)
    truth, unit_of = np.round(rng.standard_normal(60), 1), np.arange(60) // 3
    guesses = np.stack(
        [
            truth + rng.standard_normal(60),
            np.round(-truth + 0.5 * rng.standard_normal(60)),
            np.full(60, 1.0),
            np.full(60, np.inf),
        ]
    )
    weights, known = by_hand.draws(20)[:, unit_of], []
    for guess in guesses[:2]:
        value = by_hand.weighted_ranks(guess, truth, np.ones((1, 60)))[0]
        low, high = by_hand.ends(value, by_hand.weighted_ranks(guess, truth, weights), 20, 10, 20)
        known.append((value, max(low, -1.0), min(high, 1.0)))
    long = np.arange(12000.0)
    few = statistics.rank_correlation(long[None], long, np.arange(12000) // 6000, SEED)
    return (np.array(statistics.rank_correlation(guesses, truth, unit_of, SEED, 10)).T, np.ravel(few)), (
        [*known, [np.nan] * 3, [np.nan] * 3],
        [1.0] * 3,
    )


def reasons() -> Fact:
    """A reason of more than two taps stands once; a reason may hold the mark between reasons."""
    text = "a: x; y; b: x; y; a.b: x; y; c: z; b: z; a: q; c: q"
    return [shorten_reasons(text, ["a", "b", "a.b", "c"]), shorten_reasons("x; y", ["a"])], [
        "a and 2 others: x; y; c: z; b: z; a: q; c: q",
        "x; y",
    ]


# Losses out of fold


def rows_in_groups(train: int, val: int, most: int) -> Rows:
    """Rows of train, val and one of test, in groups of one to three rows, the first of `most`."""
    groups = np.repeat(np.arange(train + val), [most, *np.resize([1, 2, 3], train + val - 1).clip(max=most)])
    split = np.where(groups < train, "train", "val")
    by_split = {name: np.flatnonzero(split == name) for name in ("train", "val")} | {"test": np.array([0])}
    return Rows.of(by_split, np.array([f"{group:04}" for group in groups]))


def left_out() -> Fact:
    """Ridge without each group, and in folds where a group is large: penalties and losses by fits without those rows."""
    rng = np.random.default_rng(SEED)
    facts: list[Fact] = []
    for most, wide in ((3, 3), (1, 30), (256, 3), (257, 3)):
        rows = rows_in_groups(12, 6, most)
        n = len(rows.fit)
        x = rng.standard_normal((2, n, wide)) + 1
        y = x[0, :, :2] + rng.standard_normal((n, 2)) * [0.5, 3.0] + 2
        made = out_of_fold.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED, 2)
        penalties = np.concatenate([made.choose(slice(i, i + 1), torch.tensor(x[i : i + 1]))[0] for i in (0, 1)])
        known = [_ridge_left_out(each, y, made.part, most > 256) for each in x]
        sums = np.stack(
            [np.bincount(rows.unit_of_fit, w) for _, lost, whole in known for w in (*lost.T, *whole.T)]
        ).reshape(2, 2, 2, -1)
        facts.append(
            (
                [penalties, made.losses.loss, made.losses.reference],
                [[p for p, _, _ in known], *sums.transpose(1, 0, 3, 2)],
            )
        )
    return [found for found, _ in facts], [known for _, known in facts]


def _ridge_left_out(
    x: np.ndarray, y: np.ndarray, part: np.ndarray, folds: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """The penalty with the best mean score of y [row, target], its losses, and those of the mean of the others."""
    lost, whole = np.zeros((len(PENALTIES), *y.shape)), np.zeros(y.shape)
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
    best = int(np.where(np.abs(np.arange(len(at)) - at.argmin()) <= (1 if folds else len(at)), every, np.inf).argmin())
    return PENALTIES[best], lost[best], whole


def folds() -> Fact:
    """Val is fold 0; classes, large groups and classes of two groups are dealt out evenly to the others."""
    rows = rows_in_groups(24, 4, 3)
    labels = np.where(rows.unit_of_fit < 8, 0, 1)
    fold = out_of_fold.folds(rows, labels, SEED)
    unit_fold = np.array([set(fold[rows.unit_of_fit == unit].tolist()) for unit in range(28)])
    known_folds = [len(each) for each in unit_fold]
    counts = np.array(
        [
            [np.isin(fold[np.isin(rows.unit_of_fit, some)], k).sum() for k in range(5)]
            for some in (range(8), range(8, 24), range(24, 28))
        ]
    )
    rare = np.where(np.isin(rows.unit_of_fit, (3, 17)), 2, labels)
    apart = out_of_fold.folds(rows, rare, SEED)
    pair = {int(apart[rows.unit_of_fit == unit][0]) for unit in (3, 17)}
    rest = (
        out_of_fold.choose_index(np.array([[2.0, 1.0], [1.0, 9.0], [1.0, 9.0]]), np.array([1.0, 0.0])),
        out_of_fold.choose_index(np.ones((4, 2)), np.zeros(2)),
    )
    y = np.array([[1.0], [2.0], [6.0], [7.0]])
    mean = out_of_fold.mean_of_others(y, np.array([0, 0, 1, 2]))
    few = Rows.of(
        {"train": np.arange(12), "val": np.arange(12, 14), "test": np.arange(1)}, np.repeat(list("abcdefg"), 2)
    )
    dealt = [
        out_of_fold.folds(few, np.array([1, 7, 1, 1, 2, 2, 2, 2, 3, 7, 3, 3, 0, 0]), seed)[[1, 9]] for seed in range(8)
    ]
    spread = [max(c) - min(c) for c in (counts[0][1:], counts[1][1:])]
    return (known_folds, counts[2].tolist(), counts[:2, 0].tolist(), [s <= 3 for s in spread], len(pair), rest, mean, [bool(a != b) for a, b in dealt]), (
        [1] * 28, [len(rows.val), 0, 0, 0, 0], [0, 0], [True, True], 2, (2, 3), [[6.5], [6.5], [10 / 3], [3.0]], [True] * 8,
    )  # fmt: skip


def logistic() -> Fact:
    """The penalty within half a standard error of the best, where a path of penalties ends, and wrong answers out of fold."""
    right = torch.ones((1, 4, 100), dtype=torch.bool)
    right[0, 0, :30], right[0, 1, 30:50], right[0, 2, :22] = False, False, False
    right[0, 3, :23] = False
    level = torch.tensor([0.5, 0.9, 0.7, 0.6])
    best = logistic_choice._best(right[:, :, :], level[None, :, None].expand(1, 4, 100).double())
    tried: list[int] = []
    for worth, whole in (
        ((5, 4, 4.5, 4.6, 1), False),
        ((5, 4, 4.5, 3, 3.5, 3.6, 1), False),
        ((5, 4, 4.5, 4.6, 1), True),
        ((5, 4, 9, 1), False),
    ):
        noisy = torch.linspace(-1, 1, 10).double() * (0.0 if 9 in worth else 9.0)
        told = iter(
            [
                (torch.zeros((1, 1, 10), dtype=torch.bool), (loss + i * noisy)[None, None])
                for i, loss in enumerate(torch.tensor(worth).double())
            ]
        )
        rows = LogisticRows(torch.tensor([[[-1.0], [1.0], [2.0]]]).double(), np.array([0, 1, 1]))
        grid = np.array([[10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5][: len(worth)]])
        tried.append(logistic_choice._path(rows, grid, lambda _, told=told: next(told), whole)[1].shape[1])
    rng = np.random.default_rng(SEED)
    labels = np.append(rng.integers(0, 3, 89), 3)
    shown = np.where(rng.random((2, 90)) < [[0.1], [0.3]], rng.integers(0, 4, (2, 90)), labels)
    x = torch.tensor(np.eye(4)[shown][..., :3] + 0.1 * rng.standard_normal((2, 90, 3)))
    fold = np.resize(np.arange(5), 90)
    grid = (1e-3, 1e-1, 10.0)
    made = logistic_choice.choose_out_of_fold(x, labels, fold, grid)
    known = np.ones((2, 3, 90), dtype=bool)
    lost = np.zeros((2, 3, 90))
    for out in (fold == each for each in range(5)):
        codes = np.unique(labels[~out], return_inverse=True)[1]
        rows = LogisticRows(x, labels).only(torch.tensor(~out), codes)
        seen = np.isin(labels[out], labels[~out])
        correct, loss = rows.fit([grid] * 2, tolerance=1e-7).judged(x[:, out], np.minimum(labels[out], codes.max()))
        known[:, :, out], lost[:, :, out] = ~(correct.numpy() & seen), loss.numpy() * seen
    short = known.mean(axis=2) - known.mean(axis=2).min(axis=1, keepdims=True)
    at = np.where(short <= 0.02, lost.mean(axis=2), np.inf).argmin(axis=1)
    val = logistic_choice.choose_logistic(
        x[:, fold > 0], np.minimum(labels[fold > 0], 2), x[:, fold == 0], np.minimum(labels[fold == 0], 2), grid
    )
    return (best.tolist(), tried, made.penalty, made.wrong, len(val[0])), (
        [3],
        [4, 6, 5, 3],
        np.array(grid)[at],
        known[np.arange(2), at],
        2,
    )


# Comparison

GROUPS = {"before": "hidden", "after": "aligned", "taught": "control"}
SEEDS = (0, 1, 2)


def runs_of(name: str, draws: tuple[int, ...] = SEEDS) -> list[Any]:
    """The runs of a training: of each seed the planted encoder."""
    return [probe_losses(profile(name, draw)) for draw in draws]


@cache
def places(name: str, quantity: str) -> list[list[tuple[float, by_hand.Pair]]]:
    """By seed: weights and losses of what a quantity is made of."""
    made: list[list[tuple[float, by_hand.Pair]]] = []
    for draw in SEEDS:
        test, taps = losses(name, "test", draw), by_hand.choose(losses(name, "fit", draw), OUTPUT)
        signs = {
            "chosen tap": {taps[0]: 1},
            "output": {OUTPUT: 1},
            "hidden gap": {taps[1]: 1, OUTPUT: -1},
            "best": {taps[1]: 1},
        }[quantity]
        made.append([(sign, test[tap]) for tap, sign in signs.items()])
    return made


def total(terms: list[tuple[float, by_hand.Pair]], of: Callable[[by_hand.Pair], np.ndarray]) -> Any:
    """A weighted sum of scores, or of their resamples."""
    return sum(weight * of(pair) for weight, pair in terms)


def numbers(estimate: estimates.Estimate) -> list[float]:
    """Ends over samples, ends to believe, and p."""
    return [*ends(estimate.over_samples), *ends(estimate.interval), estimate.p]


def difference_of_groups() -> Fact:
    """After minus before in all quantities and pairs: run by run where they are matched; corrected after Holm."""
    groups = {"linear": {group: runs_of(name) for group, name in GROUPS.items()}}
    matched = {("after", "before"): [(at, at) for at in SEEDS]}
    made = differences.differences_of(groups, SEED, matched)
    known: list[list[float]] = []
    for before, after in (("before", "after"), ("before", "taught"), ("after", "taught")):
        for quantity in ("chosen tap", "output", "hidden gap"):
            sides = [places(GROUPS[group], quantity) for group in (after, before)]
            each = [[float(total(terms, by_hand.score)[0]) for terms in side] for side in sides]
            members = [np.subtract(*each).tolist()] if (after, before) in matched else each
            replicates = sum(
                sign * np.mean([total(terms, by_hand.resample) for terms in side], axis=0)
                for sign, side in zip((1, -1), sides, strict=True)
            )
            known.append(by_hand.estimate(np.mean(each[0]) - np.mean(each[1]), replicates, members, 120))
    p = by_hand.holm([numbers[-1] for numbers in known])
    told = [
        "cannot tell" if each >= 0.05 else "gained" if numbers[0] > 0 else "lost"
        for each, numbers in zip(p, known, strict=True)
    ]
    names = [(d.first, d.second) for d in made]
    return (
        ([numbers(d.estimate) for d in made], [d.p_corrected for d in made], [d.outcome for d in made], names),
        (
            known,
            p,
            told,
            [pair for pair in (("after", "before"), ("taught", "before"), ("taught", "after")) for _ in range(3)],
        ),
    )


def shares_of_base() -> Fact:
    """Recovered and kept shares, what the control adds, and the cut, with their ends over seeds."""
    base, aligned, taught = (runs_of(name) for name in GROUPS.values())
    made = shares.shares_of(
        "linear",
        "after",
        "before",
        2,
        True,
        list(zip(aligned, base, strict=True)),
        taught,
        ["late", "middle", "late"],
        SEED,
    )
    at = {
        (group, quantity): places(name, quantity)
        for group, name in GROUPS.items()
        for quantity in ("chosen tap", "output", "hidden gap")
    }
    cut = [[(1, losses("hidden", "test", draw)[tap])] for draw, tap in zip(SEEDS, (2, 1, 2), strict=True)]

    def less(ours: Any, theirs: Any) -> Any:
        return [own + [(-weight, pair) for weight, pair in other] for own, other in zip(ours, theirs, strict=True)]

    gap, output = at["before", "hidden gap"], at["before", "output"]
    gained, lifted = less(at["after", "output"], output), less(at["after", "output"], at["taught", "output"])
    ratios = [
        (gained, gap),
        (at["after", "chosen tap"], at["before", "chosen tap"]),
        (at["after", "output"], output),
        (lifted, gap),
        (less(cut, output), gap),
    ]
    known = []
    for over, under in ratios:
        (above, below), (up, down) = (
            [np.array([total(terms, f) for terms in side]) for side in (over, under)]
            for f in (by_hand.score, by_hand.resample)
        )
        value = float(above.mean() / below.mean())
        spread = (above - value * below)[:, 0] / below.mean()
        known.append(by_hand.estimate(value, up.mean(axis=0) / down.mean(axis=0), [spread.tolist()], 120)[3:6])
    for side in (lifted, gap):
        each = [float(total(terms, by_hand.score)[0]) for terms in side]
        known.append(
            by_hand.estimate(
                float(np.mean(each)), np.mean([total(terms, by_hand.resample) for terms in side], axis=0), [each], 120
            )[3:6]
        )
    found = (
        made.recovered,
        made.kept_best,
        made.kept_output,
        made.recovered_over_control,
        made.cut,
        made.over_control,
        made.gap,
    )
    return ([ends(each) for each in found], made.floor, made.cut_is, made.lifted, made.seeds), (
        known,
        0.0,
        "recovered",
        known[5][1] > 0,
        len(SEEDS),
    )


def shares_above_chance() -> Fact:
    """Kept shares where answers are counted: of what lies above the mean of what shuffled labels reach, over seeds."""
    of_class = runs_of("class")
    other = [
        probe_losses(
            replace(run.profile, data=run.profile.data.assign(loss=1.0 - 0.9 * (1.0 - run.profile.data["loss"])))
        )
        for run in of_class
    ]
    made = shares.shares_of(
        "linear", "a", "b", 3, False, list(zip(other, of_class, strict=True)), ["none", "x", "x"], [""] * 3, SEED
    )
    floor = float(np.mean([by_hand.score(losses("class", "test", 10, (1.5,))[0])[0] for _ in SEEDS]))
    test = [losses("class", "test", draw)[OUTPUT] for draw in SEEDS]
    below = np.array([by_hand.score(pair)[0] for pair in test]) - floor
    above = 0.9 * (below + floor) - floor
    value = above.mean() / below.mean()
    fewer = [(1 - 0.9 * (1 - loss), whole) for loss, whole in test]
    up, down = (
        np.mean([by_hand.resample(pair, True, at * 3 + i) for i, pair in enumerate(side)], axis=0) - floor
        for at, side in enumerate((fewer, test))
    )
    spread = ((above - value * below) / below.mean()).tolist()
    assert made.kept_output is not None
    return (made.reasons["over_control"], made.floor, ends(made.kept_output)), (
        "none",
        floor,
        by_hand.estimate(float(value), up / down, [spread], 120)[3:6],
    )


def losses_for_comparison() -> Fact:
    """Losses with parts, units in the order of their names, a run's taps, and the terms at them."""
    lost, whole = parts()
    lost = np.concatenate([lost, lost[:1]])
    data = profile("hidden").data.drop_dims(("unit", "val_unit", "fit_unit"))
    order = np.random.default_rng(SEED).permutation(12)
    units = [f"u{at:02}" for at in order]
    axes = ("part", "unit", "tap")
    shuffled = data.assign(
        loss=(axes, lost[:, order].T),
        reference_loss=(axes, np.broadcast_to(whole[0], lost.shape)[:, order].T),
        unit=units,
    )
    run = probe_losses(Profile("planted", "hidden", shuffled, {}))
    alone = probe_losses(
        Profile("planted", "hidden", shuffled.isel(tap=[0, 1, 2, 3]).assign_attrs(score_name="accuracy"), {})
    )
    nowhere = run.at(None)
    assert run.ends is not None and run.common_reference is not None
    pair = Losses(lost[[0, 2]], np.broadcast_to(whole[0], lost.shape)[[0, 2]])
    similar = [xr.Dataset(attrs={"n": n, "measure": "cka"}) for n in (19, 20)]
    return (
        (
            run.loss,
            run.units == tuple(sorted(units)),
            run.at_chosen.loss,
            run.at_best.loss,
            run.at_output.loss,
            run.ends[0].loss,
            run.ends[1].loss,
            alone.ends is None,
            run.share,
            alone.share,
            run.fit_units,
            nowhere.loss,
            run.common_reference,
            standard_error(pair),
            [bool(too_few(each)) for each in similar],
        ),
        (
            lost,
            True,
            lost[1],
            lost[1],
            lost[3],
            lost[3],
            lost[4],
            True,
            False,
            True,
            120,
            np.full((12, 4), np.nan),
            whole[0],
            by_hand.standard_error(*zip(pair.loss, pair.reference, strict=True)),
            [True, False],
        ),
    )


def shares_without_value() -> Fact:
    """Why a share has no value, chance where answers are counted, and the cut where nothing is hidden."""
    pairs = {name: [(run, run) for run in runs_of(name, (0,))] for name in ("alike", "noise", "class", "hidden")}
    alike, noise, of_class, hidden = (
        shares.shares_of("linear", "a", "b", 1, False, pairs[name], ["none"], [cut], SEED)
        for name, cut in zip(pairs, ("late", "gone", "", ""), strict=True)
    )
    chance = profile("class").control("shuffled_labels")
    fit, test = by_hand.choose(losses("class", "fit"), OUTPUT, True)[0], losses("class", "test")
    shown = [sorted(made.reasons) for made in (alike, noise, of_class, hidden)]
    assert chance is not None and alike.cut is not None
    cut = by_hand.score(losses("alike", "test")[2])[0] / by_hand.score(losses("alike", "test")[OUTPUT])[0]
    small = probe_losses(Profile("planted", "hidden", profile("hidden").data, {}))
    tiny = estimates.Term(
        small.at_output.loss * (1 - 0.005 * small.at_output.reference.sum() / small.at_output.loss.sum()),
        small.at_output.reference,
        small.units,
        120,
    )
    little = shares.shares_of(
        "linear",
        "a",
        "b",
        1,
        False,
        [(small, replace(small, _terms={small.best: tiny, small.output: small.at_output}))],
        ["none"],
        [""],
        SEED,
    )
    return (
        (
            shown,
            of_class.floor,
            alike.cut.value,
            alike.cut_is,
            alike.lifted,
            of_class.kept_output.value if of_class.kept_output else None,
            "recovered" in little.reasons,
            little.gap.low > 0,
            fit,
        ),
        (
            [
                ["over_control", "recovered"],
                ["cut", "kept_best", "kept_output", "over_control", "recovered"],
                ["over_control"],
                ["over_control"],
            ],
            chance.value,
            cut,
            "kept",
            False,
            1.0,
            True,
            True,
            len(test[0][0]) // 80,
        ),
    )


def scores_of_groups() -> Fact:
    """Scores of groups at the chosen tap and the output, hidden gap and drop in the head, and the mean gap of a family."""
    one = {
        "linear": {"before": runs_of("hidden"), "after": runs_of("aligned")},
        "ten": {"before": runs_of("ten"), "after": runs_of("ten")},
        "alone": {"before": runs_of("class", (0,))},
    }
    made = group_scores_of(one, SEED)
    known: list[list[float]] = []
    sides: list[list[list[tuple[float, by_hand.Pair]]]] = []
    for name in ("hidden", "aligned"):
        sides += [places(name, quantity) for quantity in ("chosen tap", "output", "hidden gap")]
        sides.append(
            [
                [(1.0, losses(name, "test", draw)[OUTPUT]), (-1.0, losses(name, "test", draw)[OUTPUT + 1])]
                for draw in SEEDS
            ]
        )
    for at, side in enumerate(sides):
        each = [float(total(terms, by_hand.score)[0]) for terms in side]
        numbered = by_hand.estimate(
            float(np.mean(each)), np.mean([total(terms, by_hand.resample) for terms in side], axis=0), [each], 120
        )
        known.append([min(x, 1.0) if i < 6 and at % 4 < 2 else x for i, x in enumerate(numbered)])
    found = [
        numbers(each)
        for score in made[:2]
        for each in (score.chosen, score.output, score.hidden_gap, score.head_drop or score.output)
    ]
    lone = made[-1]
    texts = [made[0].chosen_tap_text, lone.chosen_tap_text]
    family = family_gaps(one, ["linear", "ten"], SEED)[0]
    first = np.random.default_rng(SEED).multinomial(80, [1 / 80] * 80, size=by_hand.RESAMPLES)
    gaps = [places("hidden", "hidden gap"), places("ten", "hidden gap")]
    each = [np.mean([total(terms, by_hand.score)[0] for terms in pair]) for pair in zip(*gaps, strict=True)]
    drawn = np.mean(
        [total(terms, lambda pair: by_hand.score(pair, first[:, : len(pair[0])])) for side in gaps for terms in side],
        axis=0,
    )
    low, high = by_hand.ends(float(np.mean(each)), drawn, 80, 120, 10.0)
    return (found, texts, ends(lone.chosen.interval), ends(family.hidden_gap.over_samples), family.profiles, len(made)), (
        known, ["middle (0.33) 3/3", "middle (0.33)"], ends(profile("class").score), (float(np.mean(each)), low, high), ("linear", "ten"), 5,
    )  # fmt: skip


def along_depth() -> Fact:
    """Differences along depth with p by flips of signs; a straight line between taps; what has no common reference has none."""
    groups = {
        "linear": {"before": runs_of("hidden", (0,)), "after": runs_of("aligned", (0,))},
        "ten": {"before": runs_of("ten", (0,)), "after": runs_of("ten", (1,))},
    }
    (far, ten) = differences.curve_differences(groups, SEED, {})
    rows: list[np.ndarray] = []
    for before, after in (
        (losses("hidden", "test"), losses("aligned", "test")),
        (losses("ten", "test"), losses("ten", "test", 1)),
    ):
        rows.append(
            np.array(
                [(b[0] - a[0]) / b[1].sum() for a, b in zip(after[: OUTPUT + 1], before[: OUTPUT + 1], strict=True)]
            )
        )
    p = by_hand.flip_test(rows, [120, 120])
    whole = np.array([[2.0, 0.0, 1.0], [2.0, 0.0, 3.0]])
    influence = (
        differences.score_influence(np.array([[1.0, 5.0, 2.0], [3.0, 5.0, 2.0]]), whole),
        differences.score_influence(np.ones((2, 1)), np.zeros((2, 1))),
    )
    values = np.array([[0.0], [2.0], [6.0], [7.0], [9.0]])
    line = by_depth(values, np.array([0.1, 0.5, 1.0, 1.0, 1.2]), np.array([0.0, 0.1, 0.2, 0.75, 1.0, 1.1, 1.2, 1.3]))
    at = differences.CurveDifference(
        "", "", "", np.arange(3), np.array([-3.0, 1.0, 9.0]), np.array([0.01, 0.04, 0.05])
    ).at
    data = profile("ten").data
    other = probe_losses(
        Profile(
            "planted",
            "ten",
            data.assign(reference_loss=data["reference_loss"] * np.array([[1], [1], [2], [1], [1]])),
            {},
        )
    )
    lone = estimates.flipped(
        [np.ones((1, 1)), np.zeros((2, 6)), np.ones((1, 6))], [["a"], list("abcdef"), list("abcdef")], [0, 0, 0], SEED
    )
    six = estimates.flipped([np.ones((1, 6))], [list("abcdef")], [0], SEED)[0]
    signs = np.random.default_rng(SEED).integers(0, 2, (1999, 6))
    return (
        (far.difference, far.p, ten.p, influence, line[:, 0], at, other.common_reference is None, shared_depths([np.array([0.5, 1e-9]), np.array([0.0, 0.5 + 2e-6])]), lone[:2], six),
        (
            rows[0].sum(axis=1), *p, ([0.375, 0.625], [0.0, 0.0]), [np.nan, 0, 0.5, 4.5, 7, np.nan, 9, np.nan], 0, True, [0.0, 0.5, 0.5 + 2e-6], [[np.nan], [1.0, 1.0]],
            [(1 + (np.abs(signs.sum(axis=1) - 3) == 3).sum()) / 2000],
        ),
    )  # fmt: skip


def certain() -> Fact:
    """p where all units say the same, where there is no difference, and Holm's of some that are no tests."""
    term = estimates.Term(np.full((6, 1), 0.5), np.ones((6, 1)), tuple("abcdef"), 12)
    other = estimates.Term(np.full((6, 1), 0.75), np.ones((6, 1)), tuple("abcdef"), 12)
    same, apart, less, lone = (
        estimates.estimate_sum([([pair], 1.0)], SEED)
        for pair in ((term, term), (term, other), (other, term), (estimates.Term(*[np.ones((1, 1))] * 2, ("a",), 12),))
    )
    (difference,) = (
        each
        for each in differences.differences_of({"p": {"a": [_flat(0.75)], "b": [_flat(0.5)]}}, SEED, {})
        if each.quantity == "output"
    )
    told = [
        differences.Difference("", "", "", "output", estimate, p).outcome
        for estimate, p in ((apart, 0.04), (less, 0.04), (less, 0.05))
    ]
    return (
        (
            told,
            same.p,
            apart.p,
            less.p,
            lone.p,
            estimates.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.9])),
            near(np.ones(3), np.ones(3) + 1e-8),
            near(np.ones(3), np.ones(3) + 1e-12),
            ends(difference.estimate.interval),
        ),
        (
            ["gained", "lost", "cannot tell"],
            1.0,
            2.0**-5,
            2.0**-5,
            np.nan,
            [0.04, np.nan, 0.09, 0.09, 0.9],
            False,
            True,
            (0.25, np.nan, np.nan),
        ),
    )


def _flat(lost: float) -> Any:
    """A run whose units all lose as much."""
    data = profile("ten").data
    return probe_losses(
        Profile(
            "planted",
            "ten",
            data.assign(loss=xr.full_like(data["loss"], lost), reference_loss=xr.ones_like(data["loss"])),
            {},
        )
    )


# Redraws, and what is read of several targets


def redraws() -> Fact:
    """Scores, gaps and choices on other splits of the same samples; groups whole, and as many in each split."""
    name = "hidden"
    made, read = encoder(name, PLANTED[name].errors, 0), target(name)
    splits = redraw_splits(made.groups, made.split, 3, SEED)
    measured = measure_all([Planted()], made, {name: read}, SEED)
    add_redraws(measured, [Planted()], made, {name: read}, 3, SEED, what="planted")
    data = measured.results["planted/hidden"]
    found = redraws_of(data, data)
    assert found is not None
    known, gaps, taps = [], [], []
    for split in splits:
        there = made.with_split(split)
        test, (tap, best, _) = losses(name, "test", made=there), by_hand.choose(losses(name, "fit", made=there), OUTPUT)
        scores = [float(by_hand.score(pair)[0]) for pair in test]
        known.append(scores)
        gaps.append(scores[best] - scores[OUTPUT])
        taps.append(tap)
    chosen = [scores[tap] for scores, tap in zip(known, taps, strict=True)]
    spread = [(float(np.mean(x)), min(x), max(x)) for x in (chosen, gaps)]
    counts = [[int((split == each).sum()) for each in ("train", "val", "test")] for split in splits]
    return (
        (
            data["redraw_score"].values,
            data["redraw_gap"].values,
            [(each.mean, each.low, each.high) for each in (found.score, found.gap)],
            dict(found.choices) == dict(Counter(TAPS[tap] for tap in taps)),
            found.count,
            found.asked,
            found.raw_input,
            counts,
            redraws_of(profile(name).data) is None,
            len({tuple(split) for split in splits}),
        ),
        (known, gaps, spread, True, 3, 3, spread[0][0], [[80, 40, 80]] * 3, True, 3),
    )


def several_targets() -> Fact:
    """One tap for targets with few units; the first probe of each target; relative losses; reading of the stored losses."""
    names = ("hidden", "late", "alike")
    scores = np.array([[float(by_hand.score(pair)[0]) for pair in losses(name, "fit")[: OUTPUT + 1]] for name in names])
    remaining = 1 - scores
    common = int((remaining / remaining.mean(axis=1, keepdims=True)).mean(axis=0).argmin())
    tap = common_tap([results(name).results[f"planted/{name}"] for name in names])
    data = profile("hidden").data
    both = measure_all(
        [Planted()],
        encoder("young", PLANTED["young"].errors, 0),
        {"young": target("young"), "hidden": target("hidden")},
        SEED,
    )
    firsts = first_probes(
        [profile("hidden"), Profile("other", "hidden", data, {}), Profile("cka", None, data.drop_vars("loss"), {})]
    )
    chosen = choosing_losses(data)
    assert chosen is not None
    depth = profile("hidden").depth_of("late")
    return (tap, common_tap([]), [each.measure for each in firsts.values()], chosen.loss, losses_of(data, "val_unit").loss, depth, both.results["planted/young"].attrs["chosen_tap"] == both.results["planted/hidden"].attrs["chosen_tap"]), (
        common, None, ["planted"], [loss for loss, _ in losses("hidden", "fit")], [loss for loss, _ in losses("hidden", "val")], 2 / 3, True,
    )  # fmt: skip


def cases() -> list[Case]:
    """All of them: 0 each, where what is found is what is known."""
    asked: list[tuple[str, str, Callable[[], Fact]]] = [
        (made, f"{what} of the target {name}", lambda compute=compute, name=name: compute(name))
        for name in PLANTED
        for made, what, compute in (
            ("choose_taps", "out of fold: tap, set, gaps and bound", lambda name: choice(name, "fit")),
            ("choose_taps", "on val: tap, set, gaps and bound", lambda name: choice(name, "val")),
            ("profile_intervals", "scores with ends", score_ends),
            ("recommend", "planted verdict and confidence, margin, units needed", finding),
        )
    ]
    asked += [
        ("against_control", f"controls of the target {name}: margins, reach, rivals", lambda name=name: controls(name))
        for name in ("hidden", "late", "class")
    ]
    asked += [
        ("Profile", "cautions", words), ("profile_intervals", "parts: R2", lambda: scores_of_parts(False)),
        ("profile_intervals", "parts: shares", lambda: scores_of_parts(True)), ("choose_tap", "losses with parts", choice_of_parts),
        ("choose_tap", "ties, one unit, taps without a score", few_units), ("statistics", "closed forms", amounts),
        ("rank_correlation", "ties and groups", ranks), ("shorten_reasons", "three taps, two taps", reasons),
        ("RidgeOutOfFold", "penalties and losses by fits without the group", left_out), ("folds", "even", folds),
        ("choose_out_of_fold", "penalties, paths and wrong answers by fits without the fold", logistic),
        ("differences_of", "after minus before", difference_of_groups), ("shares_of", "recovered, kept, over the control, cut", shares_of_base),
        ("shares_of", "above chance", shares_above_chance), ("probe_losses", "parts, order of units, places", losses_for_comparison),
        ("shares_of", "without value", shares_without_value), ("group_scores_of", "by seed, and of a family", scores_of_groups),
        ("curve_differences", "p by flips; lines between taps", along_depth), ("estimate", "all units alike; Holm", certain),
        ("add_redraws", "three draws", redraws), ("common_tap", "three targets", several_targets),
    ]  # fmt: skip
    return [
        Case(made, what, 0.0, "by hand, from planted losses", lambda compute=compute: off(compute()), 1e-7)
        for made, what, compute in asked
    ]
