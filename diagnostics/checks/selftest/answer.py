"""Known answers of intervals, choice, verdict and comparison, from a planted encoder and from planted losses.

`answers.json` holds what is known; `tests/checks/test_answer.py` computes it the plain way, from the definitions and
without the code under test.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import xarray as xr

from diagnostics.checks.selftest.planted import (
    PLANTED,
    SEED,
    Planted,
    changed,
    class_data,
    encoder,
    parts,
    profile,
    result,
    ridge_data,
    rows_in_groups,
    runs_of,
    target,
    without,
)
from diagnostics.measures import apply, statistics, verdict
from diagnostics.measures import result as attribute
from diagnostics.measures.base import Case
from diagnostics.measures.probes import least_squares, protocol, softmax
from diagnostics.measures.statistics import Interval, Losses, interval
from diagnostics.runs import recommendation, redraws
from diagnostics.runs.comparison import differences, estimates
from diagnostics.runs.profile import Profile

BY_HAND = "computed by hand in tests/checks/test_answer.py"


def plain(found: Any) -> Any:
    """A value that JSON does not know, in lists."""
    if isinstance(found, estimates.Estimate):
        return [found.over_samples, found.interval, found.p]
    return found.tolist() if hasattr(found, "tolist") else list(vars(found).values())


def deviation(found: Any, known: Any) -> float:
    """The largest difference of what is found from what is known, relative above 1; infinite where they differ in
    another way.
    """
    if isinstance(known, (list, dict)):
        pairs = zip(*(each.values() if isinstance(each, dict) else each for each in (found, known)), strict=True)
        return max((deviation(*pair) for pair in pairs), default=0.0)
    if isinstance(known, (int, float)) and found is not None and not np.isnan(known):
        return float(np.nan_to_num(abs(found - known) / max(1, abs(known)), nan=np.inf))
    return 0.0 if found == known or (found != found and known != known) else np.inf


def digest(values: Any) -> float:
    """Of many values one number, which changes with each."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    return float(np.cos(np.arange(len(flat))) @ flat)


# The planted encoder.


CHOICE = attrgetter("chosen_tap", "best_tap", "tap_set", "hidden_gap", "gap_bound")
RECOMMENDED = attrgetter("verdict", "confidence", "tap", "also", "at_output", "score", "output")
FOUND = attrgetter("few", "token_samples", "chosen_on", "margin", "floor", "units_needed", "ceiling")


def controls(name: str) -> list[Any]:
    """By how much the chosen tap beats controls, what they reach, and which do as well or nearly."""
    made, names = profile(name), ("fresh_weights", "raw_input", "shuffled_labels")
    first = [each and each[0] for each in (made.best_control, made.rival)]
    of_each = [[of(each) for each in names] for of in (made.over, made.control, made.spread)]
    return [*of_each[:2], made.rivals, made.near, *first, made.needless, of_each[2]]


ON_FIT, ON_TEST, FEW = ("tap", "fit_unit"), ("tap", "unit"), np.where(np.arange(120) < 6, 25.2, 1.0)
# References of train and val, and losses on test.
SKEWS: Sequence[tuple[Any, Mapping[str, Any]]] = (
    (FEW, {}),
    ((0.85 * FEW).clip(1), {}),
    (1, {}),
    (1, {"loss": (ON_TEST, np.ones((6, 1)) * np.where(np.arange(80) < 2, 1e3, 1.0))}),
)
OF_CLASS: Sequence[Mapping[str, Any]] = (
    {},
    {"attrs": {"over_shuffled_labels_low": -0.1}},
    {"lacks": "shuffled"},
    {"variables": {"line_chance": ("tap", np.full(6, -np.inf))}, "lacks": "shuffled"},
    {"variables": {"line_chance": ("tap", np.full(6, 0.9))}},
)


def ends_changed(end: str, *cases: tuple[str, float]) -> list[Profile]:
    """Planted profiles with other ends of all intervals."""
    return [changed(name, {end: ("tap", np.full(6, x))}) for name, x in cases]


def over_draws(low: float) -> Interval | None:
    """The margin over a control of two draws."""
    two = [
        attribute.store_interval(f"over_a{i}", Interval(0.3, *ends))
        for i, ends in (("", (0.1, 0.4)), (".2", (low, 0.9)))
    ]
    return changed("hidden", attrs=two[0] | two[1]).over("a")


def drawn_controls() -> list[Any]:
    """Of two draws of a control, the first without a value or a choice, whether the second is taken."""
    own, known = profile("hidden").controls["fresh_weights"], profile("hidden").control("fresh_weights")
    blind = own.assign(score=own["score"] * 0)
    lost = blind.assign(oof_loss=own["oof_loss"] * np.nan), without(blind, "chosen_tap")
    made = [Profile.of("planted", "hidden", own, {"fresh_weights": each, "fresh_weights.2": own}) for each in lost]
    return [each.control("fresh_weights") == known for each in made]


def drawn_again() -> list[Any]:
    """Scores, gaps and choices on other splits, and their spread."""
    made = encoder("perhaps")
    measured = apply.measure_all([Planted()], made, target("perhaps"), SEED)
    redraws.add_redraws(measured, [Planted()], made, target("perhaps"), 3, SEED, what="planted")
    data = measured.results["planted/perhaps"]
    found, bare = redraws.redraws_of(data, data), redraws.redraws_of(data)
    splits = redraws.redraw_splits(made.groups, made.split, 3, SEED)
    counts = [[(split == each).sum() for each in ("train", "val", "test")] for split in splits]
    nothing = redraws.redraws_of(profile("perhaps").data) is None
    return [
        *(data[key].values for key in (redraws.SCORE, redraws.GAP, redraws.TAP)),
        found and found.to_json(),
        counts,
        nothing,
        bare and bare.raw_input,
    ]


def measured(targets: Iterable[str], probe: type[Planted] = Planted, asked: Sequence[str] = ()) -> apply.Measured:
    """What the encoder of one target gives of several."""
    read = {key: each for name in targets for key, each in target(name).items()}
    return apply.measure_all([probe()], encoder("young"), read, SEED, asked=asked)


# Planted losses.

# Losses of 21 units, whose 95th percentile is one of them.
FLAT = np.arange(1.0, 22.0)
NEAR = FLAT - np.resize([5, -6, 2, 0], 21) / 4
ONE = np.array([[0.3], [0.2], [0.25]])
TIES: Mapping[str, tuple[np.ndarray, int, Sequence[float], bool]] = {
    "equal taps": (np.stack([FLAT] * 3), 2, (0, 0.5, 1), True),
    "an output without a score": (np.stack([FLAT, FLAT, FLAT * np.nan]), 2, (0, 0.5, 1), True),
    "no scores": (np.full((3, 21), np.nan), 2, (0, 0.5, 1), True),
    "one unit": (ONE, 2, (0, 0.5, 1), True),
    "one unit, not in the output's favour": (ONE, 2, (0, 0.5, 1), False),
    "no other tap": (np.stack([FLAT] * 3), 0, (0, 0.5, 1), True),
    "a tap after the output": (np.stack([FLAT + 1, FLAT, NEAR]), 1, (0, 1, 1), True),
    "ahead by .0005 in all units": (np.stack([FLAT + 1, FLAT - 0.008, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by .0015 in all units": (np.stack([FLAT + 1, FLAT - 0.024, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by less than a standard error": (np.stack([FLAT + 1, NEAR, FLAT]), 2, (0, 0.5, 1), True),
}
RAMP = np.linspace(-1, 1, 2001)
HOLDS = np.array([[[1.0, 1, 1], [1, 1, 0], *[[1, 0, 0]] * 4]])
MOST = np.stack([np.where(np.arange(40) < 2, 0.02, 0.001), np.zeros(40)], axis=1)
GAP = Interval(0.4, 0.1, 0.5)
# One and three right answers of four.
QUARTERS = Losses(np.array([[0.0, 1, 1, 1], [1, 0, 0, 0]]), np.ones((2, 4)), counts=True)
TEXTS = "a: x; y; b: x; y; a.b: x; y; c: z; b: z; a: q; c: q", "x; y"


def of_parts(share: bool) -> list[Any]:
    """Scores with ends, resamples, units that count, and the choice."""
    losses, drawn = parts(), statistics.resample_counts(12, SEED)
    both = losses.loss, losses.reference
    again = statistics.resampled_scores(*both, drawn, SEED, share, 2)[::400]
    chosen = verdict.choose_tap(replace(losses, counts=share), 2, np.array([0.0, 0.5, 1.0, 2.0]), SEED)
    ends = np.array(statistics.profile_intervals(*both, 7, SEED, share)).T
    return [ends, again, statistics.effective_units(losses.reference, share), chosen]


def sets(units: int) -> list[list[int]]:
    """Model confidence sets of five taps, in several draws."""
    loss = np.random.default_rng(SEED).random((30, 5, units)) * np.linspace(1, 2.5, 5)[:, None]
    return [verdict.confidence_set(Losses(each, np.ones_like(each)), np.arange(5), SEED) for each in loss]


def ranks(samples: int) -> np.ndarray:
    """Spearman's correlation with ends, of tied samples in groups of three, of equal values, and of one that is not
    finite.
    """
    rng, unit_of = np.random.default_rng(SEED), np.arange(samples) * 20 // samples
    truth = np.round(rng.standard_normal(samples), 1)
    noise = [rng.standard_normal(samples), np.round(-truth + 0.5 * rng.standard_normal(samples))]
    guesses = np.stack([truth + noise[0], noise[1], truth * 0, truth + np.inf])
    return np.array(statistics.rank_correlation(guesses, truth, unit_of, SEED, 10)).T


SQUARES = np.arange(12.0) ** 2 / 100


COLUMNS = np.stack(
    [SQUARES, np.where(np.arange(12) % 5 < 3, -SQUARES, np.nan), np.where(np.arange(12) < 2, SQUARES, np.nan)], 1
)
"""The second is unknown in some rows of each group, the third in all groups but one."""


def without_blocks(*sizes: int, logarithm: bool = False) -> tuple[float, float]:
    """Ends of the mean of twelve rows, or of its exponential, by leaving blocks of so many out."""
    left = (SQUARES.sum() - np.add.reduceat(SQUARES, np.cumsum((0, *sizes[:-1])))) / (12 - np.array(sizes))
    of = np.exp if logarithm else np.asarray
    return statistics.jackknife_interval(float(of(SQUARES.mean())), of(left), np.array(sizes), logarithm=logarithm)


def left_out(most: int) -> list[Any]:
    """Ridge without each group, or in folds where one has more than 256 rows: penalties, losses and references."""
    rows, x, y = ridge_data(most)
    made = least_squares.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED)
    chosen = [made.choose(torch.tensor(x[i : i + 1])) for i in (0, 1)]
    sums = [
        [digest(protocol.sum_by_unit(each, rows, "fit")) for each in losses]
        for losses in ([lost[0] for _, lost, _ in chosen], [made.reference] * 2)
    ]
    return [[penalty for penalty, _, _ in chosen], *sums]


def folds() -> list[Any]:
    """Groups whole, val in fold 0, groups and classes even over the others."""
    rows = rows_in_groups(3)
    fold = least_squares.folds(rows, np.where(rows.unit_of_fit < 4, 0, 1), SEED)
    of_group = [sorted(set(fold[rows.unit_of_fit == group].tolist())) for group in range(18)]
    some = of_group[:4], of_group[4:12], of_group[12:]
    return [list(map(len, of_group)), [np.sort(np.bincount([of[0] for of in each], minlength=5)) for each in some]]


# Class 7 is in two groups.
FOLDED = protocol.Rows.of(
    {"train": np.arange(12), "val": np.arange(12, 14), "test": np.arange(1)}, np.repeat(list("abcdefg"), 2)
)
LABELS = np.array([1, 7, 1, 1, 2, 2, 2, 2, 3, 7, 3, 3, 0, 0])
GRID = (0.1, 1.0, 10.0)
# Losses of penalties, strong to weak, and right answers; the spread of losses over rows beside those before; and
# whether the path is asked for as a whole.
PATHS: Sequence[tuple[Sequence[float], Sequence[int], float, bool]] = (
    ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9, False),
    ((5, 4, 4.5, 3, 3.5, 3.6, 1), (0,) * 7, 9, False),
    ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9, True),
    ((5, 4, 9, 1), (0,) * 4, 0, False),
    ((5, 4, 4.9, 1), (0,) * 4, 2, False),
    ((5, 4, 4.9, 1), (0,) * 4, 2.3, False),
    ((5, 6, 7, 7, 7, 7), (1, 2, 3, 3, 3, 9), 9, False),
)
RIGHT = torch.tensor(
    [[(at < start) | (at >= end) for start, end in ((0, 25), (30, 50), (0, 22), (0, 23))] for at in range(100)]
).T[None]
LEVEL = torch.tensor([0.5, 0.9, 0.7, 0.6]).double()[None, :, None].expand(1, 4, 100)


def path(worth: Sequence[float], right: Sequence[int], spread: float, whole: bool) -> int:
    """How many penalties are tried."""
    answers = (torch.arange(10)[None, None] < n for n in right)
    lost = ((w + i * spread * torch.linspace(-1, 1, 10).double())[None, None] for i, w in enumerate(worth))
    told = zip(answers, lost, strict=True)
    rows = softmax.LogisticRows(torch.tensor([[[-1.0], [1.0], [2.0]]]).double(), np.array([0, 1, 1]))
    return softmax._path(rows, 10.0 ** -np.arange(len(worth))[None], lambda _: next(told), whole)[1].shape[1]


def classes() -> list[Any]:
    """Penalties and wrong answers out of fold, and penalties on val."""
    x, labels, fold = class_data()
    some = torch.tensor(x), torch.tensor(x[:1]), torch.tensor(x[1:2])
    made = [softmax.choose_out_of_fold(each, labels, fold, GRID) for each in some]
    train, val = ((torch.tensor(x[:, of]), labels[of].clip(max=2)) for of in (fold > 0, fold == 0))
    return [
        [each.penalty for each in made],
        [digest(each.wrong) for each in made],
        softmax.choose_logistic(*train, *val, GRID)[0],
    ]


# Comparisons.

GROUPS = {"before": "hidden", "after": "aligned", "taught": "control"}


def scored(name: str, variables: Mapping[str, Any]) -> estimates.ProbeLosses:
    """A planted run with other variables."""
    return estimates.probe_losses(changed(name, variables))


def of_differences() -> list[Any]:
    """Differences in all quantities and pairs: run by run where they are matched; corrected after Holm."""
    groups = {"linear": {group: runs_of(name) for group, name in GROUPS.items()}}
    made = differences.differences_of(groups, SEED, {("after", "before"): [(at, at) for at in (0, 1, 2)]})
    return [[d.first, d.second, d.quantity, d.estimate, d.p_corrected, d.outcome] for d in made]


def shared(
    pairs: Iterable[Any], controls: Sequence[Any] = ("none",), cut: Sequence[str] = ("",), purpose: bool = False
) -> differences.Shares:
    """Shares of runs, each with its base."""
    pairs = list(pairs)
    return differences.shares_of(
        "linear",
        "after",
        "before",
        of_seeds=len(pairs),
        purpose=purpose,
        pairs=pairs,
        controls=controls,
        cut_at=cut,
        seed=SEED,
    )


def share_values(made: differences.Shares) -> list[Any]:
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
    return [values, made.floor, made.cut_is, made.lifted, sorted(made.reasons)]


def of_base(draws: Sequence[int], cut: Sequence[str]) -> list[Any]:
    """Shares of an alignment with its control and cut, over seeds."""
    base, aligned, taught = (runs_of(name, draws) for name in GROUPS.values())
    return share_values(shared(zip(aligned, base, strict=True), taught, cut, purpose=True))


def above_chance() -> list[Any]:
    """Kept shares where answers are counted, of an encoder that is right nine times in ten of those of the base."""
    base = runs_of("class")
    other = [
        estimates.probe_losses(
            replace(run.profile, data=run.profile.data.assign(loss=0.1 + 0.9 * run.profile.data["loss"]))
        )
        for run in base
    ]
    made = shared(zip(other, base, strict=True), ["none", "x", "x"], [""] * 3)
    unknown = shared([(scored("class", {}),) * 2])
    weak = replace(
        base[0], profile=replace(base[0].profile, data=base[0].profile.data.assign_attrs(over_shuffled_labels_low=-0.1))
    )
    return [
        made.floor,
        made.kept_output,
        made.kept_best,
        made.reasons["over_control"],
        unknown.floor,
        sorted((name, why[:9]) for name, why in unknown.reasons.items()),
        sorted(shared([(weak, weak)]).reasons),
    ]


def of_little(gap: float) -> list[str]:
    """Shares without a value of a base whose best tap is better by so much in all units."""
    data = profile("ten").data
    better = (data["tap"] == "middle") * gap * data["reference_loss"][3]
    return sorted(shared([(scored("ten", {"loss": data["loss"][3] - better}),) * 2]).reasons)


def of_groups() -> list[Any]:
    """Scores of groups with the drop in the head, a run's own score, and the mean gap of a family of unequal units."""
    profiles = {
        profile: {"hidden": runs_of(first), "aligned": runs_of(second)}
        for profile, first, second in (
            ("linear", "hidden", "aligned"),
            ("ten", "ten", "ten"),
            ("young", "young", "young"),
        )
    } | {"alone": {"hidden": runs_of("class", (0,))}}
    made = differences.group_scores_of(profiles, SEED)
    family = differences.family_gaps(profiles, ["linear", "ten", "young"], SEED)
    found = [
        [each.profile, each.chosen_tap_text, each.chosen, each.output, each.hidden_gap, each.head_drop]
        for each in (*made[:2], made[-1])
    ]
    return [found, len(made), [[each.group, each.profiles, each.hidden_gap] for each in family]]


def curves(*groups: Mapping[str, Sequence[estimates.ProbeLosses]]) -> list[differences.CurveDifference]:
    """Differences along depth of several profiles."""
    return differences.curve_differences({str(i): each for i, each in enumerate(groups)}, SEED, {})


def constant(lost: float, units: str = "abcdef") -> estimates.Term:
    """A term of units that all lose as much."""
    return estimates.Term(np.full((len(units), 1), lost), np.ones((len(units), 1)), tuple(units), 12)


def apart(first: estimates.Term, second: estimates.Term) -> estimates.Estimate:
    """The difference of two terms."""
    return estimates.estimate_sum([([(first, second)], 1.0)], SEED)


def flat_difference(*lost: float) -> Interval:
    """That of two runs whose every unit loses as much at each tap."""
    zero = 0 * profile("ten").data["loss"]
    first, second = ([scored("ten", {"loss": zero + each, "reference_loss": zero + 1.0})] for each in lost)
    return differences.differences_of({"p": {"a": first, "b": second}}, SEED, {})[1].estimate.interval


def quarters(*weights: float) -> estimates.Estimate:
    """A sum of the shares of one and of three right answers of four."""
    terms = [
        estimates.Term(loss[:, None], reference[:, None], tuple("abcd"), 3, share=True)
        for loss, reference in zip(QUARTERS.loss, QUARTERS.reference, strict=True)
    ]
    return estimates.estimate_sum([([(term,)], weight) for term, weight in zip(terms, weights, strict=True)], SEED)


def losses_by_name() -> list[Any]:
    """Losses with parts whose units come in another order, a run's places, and what all taps are compared with."""
    made, order = parts(), np.random.default_rng(SEED).permutation(12)
    loss, whole = (np.concatenate([x, x[:2]])[:, order].T for x in (made.loss, made.reference))
    axes, bare = ("part", "unit", "tap"), profile("hidden").data.drop_dims(("unit", "val_unit", "fit_unit"))
    data = bare.assign(loss=(axes, loss), reference_loss=(axes, whole), unit=[f"u{at:02}" for at in order])
    uneven = (
        data.isel(tap=[0, 1, 2, 3])
        .assign_attrs(losses="counts")
        .assign(reference_loss=data["reference_loss"] * np.arange(1, 7))
    )
    run, other = (estimates.probe_losses(Profile("planted", "hidden", each, {})) for each in (data, uneven))
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
        run.loss.shape,
        digest(run.common_reference),
    ]


ASKED: Mapping[str, Callable[[], Any]] = {
    **{f"choice of {name} on {on}": lambda name=name, on=on: CHOICE(profile(name, 0, on)) for name in PLANTED for on in ("fit", "val")},
    **{f"gap of the chosen tap of {name}": lambda name=name: profile(name).data.attrs.get(attribute.CHOSEN_GAP_LOW) for name in PLANTED},
    **{f"recommendation of {name}": lambda name=name: RECOMMENDED(recommendation.recommend(profile(name))) for name in PLANTED},
    **{f"finding of {name}": lambda name=name: FOUND(profile(name)) for name in PLANTED},
    **{f"words on {name}": lambda name=name: [profile(name).reading[:8], sorted(profile(name).beside), sorted(profile(name).lines)] for name in PLANTED},
    **{f"scores of {name}": lambda name=name: list(map(profile(name).at, profile(name).taps)) for name in PLANTED},
    **{f"controls of {name}": partial(controls, name) for name in ("hidden", "late", "alike", "class")},
    "skew of train and val": lambda: [changed("hidden", {"oof_loss": (ON_FIT, np.ones((6, 120))), "oof_reference": (ON_FIT, np.ones((6, 1)) * np.broadcast_to(few, 120)), **test}).skewed[:8] for few, test in SKEWS],
    "readability of classes": lambda: [changed("class", **each).readability for each in OF_CLASS],
    "remarks on classes": lambda: [len(changed("class", **each).remarks) for each in OF_CLASS],
    "margin over two draws": lambda: [over_draws(0.0), over_draws(np.nan)],
    "exact ends stated": lambda: ["Clopper" in profile(name).data.attrs[attribute.INTERVALS] for name in ("class", "hidden")],
    "few tokens": lambda: [(n, bool(made.sparse), len(made.cautions)) for n in (19, 20) for made in [changed("hidden", attrs={"token_samples": n})]],
    "margin named": lambda: changed("hidden", attrs={"margin": 0.2}).margin,
    "readable": lambda: [made.readability for made in ends_changed("low", ("hidden", 0.05), ("hidden", 0.0), ("class", 0.39), ("class", 0.41))],
    "at chance": lambda: [bool(made.is_at_chance) for made in ends_changed("high", ("hidden", 0.049), ("hidden", 0.051), ("class", 0.429), ("class", 0.431))],
    "ahead of shuffled labels": lambda: changed("class", attrs={"over_shuffled_labels_low": 0.05}).is_readable,
    "ahead of all controls": lambda: changed("late", attrs={f"over_{each}_low": 0.05 for each in ("fresh_weights", "fresh_weights.2", "raw_input")}).rivals,
    "a gap that ends at 0": lambda: changed("hidden", attrs={"hidden_gap_low": 0.0}).verdict,
    "units of train and val": lambda: [changed("hidden", attrs={"units_train": n, "units_val": 0}).few[:6] for n in (0, 1, 9, 10)],
    "floor and margin": lambda: [changed("class", {"line_commonest": ("tap", np.full(6, 0.6))}).floor, changed("hidden", {"score": ("tap", np.full(6, np.nan))}).margin],
    "draws of a control": drawn_controls,
    "units": lambda: list(changed("hidden", lacks="units_").units.values()),
    "parts, R2": partial(of_parts, False), "parts, share": partial(of_parts, True),
    **{f"choice with {name}": partial(verdict.choose_tap, Losses(loss, np.full(loss.shape, 16.0)), output, np.array(depth), SEED, favour) for name, (loss, output, depth, favour) in TIES.items()},
    **{f"sets of {units} units": partial(sets, units) for units in (1, 3, 8, 40)},
    "ends of intervals": lambda: [
        interval(0.0, RAMP, 4), interval(0.0, RAMP, 9, 3, 4.0), interval(0.0, RAMP, 4, None, 9.0), interval(0.0, np.where(np.abs(RAMP) > 0.5, np.nan, RAMP), 4),
        interval(2.0, RAMP, 4), interval(-2.0, RAMP, 4), interval(0.0, RAMP, 1), interval(0.0, RAMP, 9, None, 1.0), interval(0.0, RAMP, 2), interval(0.0, RAMP, 9, level=0.8),
    ],
    "Student's ends": lambda: [interval(0.0, RAMP**9, 4, student=True), interval(0.5, RAMP**9, 9, 3, 4.0, student=True), interval(0.0, RAMP, 9, student=True)],
    "ends where all are right or wrong": lambda: [
        statistics.profile_intervals(np.full((1, 9), x), np.ones((1, 9)), fit, SEED, True)[end][0] for x, fit, end in ((0.0, 0, 1), (0.0, 3, 1), (1.0, 0, 2), (1.0, 3, 2), (0.0, 0, 2), (1.0, 0, 1))
    ],
    "ends of quarters": lambda: [QUARTERS.intervals(3, SEED), verdict.paired_differences(QUARTERS.at([0]), QUARTERS.at([1]), 3, SEED)],
    "sums of quarters": lambda: [quarters(1.0, 0.0), quarters(0.5, 0.5), quarters(-1.0, 1.0)],
    "units that count": lambda: [
        *(statistics.effective_units(each, share) for each in (HOLDS, np.eye(3)[None]) for share in (False, True)), statistics.effective_units(np.zeros((1, 3))), statistics.effective_units(HOLDS),
    ],
    "what few carry": lambda: [statistics.carried_by_few(each) for each in (MOST, MOST[:39], 0 * MOST)],
    "units needed": lambda: [verdict.units_needed(GAP, 30, 0.05), verdict.units_needed(GAP, 30, 0.0), verdict.units_needed(replace(GAP, low=np.nan), 30, 0.05), verdict.round_count(12345), verdict.round_count(7)],
    "too few to compare": lambda: [bool(apply.too_few(xr.Dataset(attrs={"n": n, "measure": "cka"}))) for n in (19, 20)],
    "reasons": lambda: [attribute.shorten_reasons(text, ["a", "b", "a.b", "c"]) for text in TEXTS],
    "standard error": lambda: verdict.standard_error(parts().at([0, 2])),
    "resamples": lambda: [digest(statistics.resample_counts(5, SEED)), statistics.resample_counts(5, SEED).size],
    "nothing fitted": lambda: statistics.profile_intervals(np.zeros((1, 9)), np.ones((1, 9)), 0, SEED)[1],
    **{f"ranks of {samples} samples": partial(ranks, samples) for samples in (60, 12000)},
    "means of columns": lambda: [*map(list, statistics.mean_with_interval(COLUMNS, np.array(list("aabbbccddddd")), SEED).values())],
    "ends by blocks left out": lambda: [
        without_blocks(4, 4, 4), without_blocks(2, 7, 3), without_blocks(5, 7), without_blocks(2, 7, 3, logarithm=True), statistics.jackknife_interval(1.0, np.ones(1), np.ones(1)), statistics.jackknife_interval(1.0, -np.ones(3), np.ones(3)),
        statistics.jackknife_interval(0.5, np.array([0.4, 0.5, 0.625]), np.ones(3), logarithm=True),
    ],
    "ends by influence": lambda: [
        statistics.linearised_interval(2.0, SQUARES - SQUARES.mean(), np.repeat(list(of), 12 // len(of)), logarithm=logarithm) for of, logarithm in (("abcdef", False), ("abcd", True), ("ab", False), ("a", False))
    ],
    "ends of parts": lambda: [statistics.subset_interval(2.0, np.array(of)) for of in ([1.0, 2.0, 4.0], [1.0, 4.0], [np.nan, 1.0, 2.0, 0.0], [1.0])],
    **{f"ridge without groups of {most}": partial(left_out, most) for most in (1, 3, 256, 257)},
    "folds": folds, "a class in two folds": lambda: [len(set(least_squares.folds(FOLDED, LABELS, seed)[[1, 9]])) == 2 for seed in range(8)],
    "penalty of several parts": lambda: [
        least_squares.choose_index(np.array(lost), np.array(whole)) for lost, whole in (([[2, 1], [1, 9], [1, 9]], [1, 0]), (np.ones((4, 2)), [0, 0]), ([[0.02, 0.9], [0.03, 0.3]], [0.1, 0.9]))
    ],
    "mean of others": lambda: least_squares.mean_of_others(np.array([[1.0], [2.0], [6.0], [7.0]]), np.array([0, 0, 1, 2])),
    "penalty within half an error": lambda: softmax._best(RIGHT, LEVEL),
    "paths": lambda: [path(*each) for each in PATHS], "classes out of fold": classes,
    "after minus before": of_differences, "shares of the base": partial(of_base, (0, 1, 2), ("late", "middle", "late")),
    "shares of one seed": lambda: [of_base((0,), [""])[0][5], of_base((0,), [""])[3]], "shares above chance": above_chance,
    **{f"shares of {name}": lambda name=name, cut=cut: share_values(shared([(run, run) for run in runs_of(name, (0,))], cut=[cut]))[1:] for name, cut in (("alike", "late"), ("noise", "gone"), ("class", ""), ("hidden", ""))},
    **{f"shares of a gap of {gap}": partial(of_little, gap) for gap in (0.0095, 0.0105)},
    "scores of groups": of_groups,
    "differences along depth": lambda: [[each.difference, each.p, each.at] for each in curves(
        {"before": runs_of("hidden", (0, 1)), "after": runs_of("aligned", (0, 1))}, {"before": runs_of("ten", (0,)), "after": runs_of("ten", (1,))}
    )],
    "lines between taps": lambda: estimates.by_depth(np.array([0.0, 2, 6, 7, 9])[:, None], np.array([0.1, 0.5, 1, 1, 1.2]), np.array([0, 0.1, 0.2, 0.75, 1, 1.1, 1.2, 1.3]))[:, 0],
    "what units add": lambda: [
        differences.score_influence(np.array([[1.0, 5, 2], [3, 5, 2]]), np.array([[2.0, 0, 1], [2, 0, 3]])), differences.score_influence(np.ones((2, 1)), np.zeros((2, 1))),
    ],
    "where curves differ most": lambda: [
        differences.CurveDifference("", "", "", np.arange(3), np.array([-3.0, 1.0, 9.0]), np.array(p)).at for p in ([0.01, 0.04, 0.05], [0.05, 0.06, 0.07])
    ],
    "flips": lambda: estimates.flipped(
        [np.ones((1, 1)), np.zeros((2, 6)), np.ones((1, 6)), np.ones((1, 2))], [["a"], list("abcdef"), list("abcdef"), list("ab")], [0, 0, 0, 0], SEED
    ),
    "shared depths": lambda: estimates.shared_depths([np.array([0.5, 1e-9]), np.array([0.0, 0.5 + 2e-6])]),
    "curves of other references": lambda: [[each.difference, each.p] for each in curves(
        {"before": runs_of("ten", (0,)), "after": [scored("ten", {"reference_loss": 2 * profile("ten").data["reference_loss"]})]}
    )],
    "p of certain differences": lambda: [apart(*map(constant, lost)).p for lost in ((0.5, 0.5), (0.5, 0.75), (0.75, 0.5))] + [apart(constant(0.5), constant(1.0, "a")).p],
    "outcomes": lambda: [
        differences.Difference("", "", "", "output", apart(*map(constant, lost)), p).outcome for lost, p in (((0.5, 0.75), 0.04), ((0.75, 0.5), 0.04), ((0.75, 0.5), 0.05))
    ],
    "certain differences": lambda: [flat_difference(0.75, 0.5), flat_difference(0.75, 0.75)],
    "Holm": lambda: estimates.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.9])),
    "the same but for rounding": lambda: [estimates.near(np.ones(3), np.ones(3) + each) for each in (1e-8, 1e-12)],
    "losses by name": losses_by_name, "redraws": drawn_again,
    "one tap for several targets": lambda: [apply.common_tap(list(map(result, ("hidden", "late", "alike")))), apply.common_tap([])],
    "few units beside another target": lambda: [each.attrs["chosen_tap"] for each in measured(("young", "alike")).results.values()],
    "a target that no probe reads": lambda: [list(measured((), asked=asked).skipped) for asked in ((), ("planted",))],
    "first probes": lambda: [
        each.measure for each in recommendation.first_probes([profile("hidden"), Profile("other", "hidden", result("hidden"), {}), Profile("cka", None, result("hidden").drop_vars("loss"), {})]).values()
    ],
    "ways": lambda: [measured(("alike",), kind).results["planted/alike"].attrs[attribute.HIGHER_IS_BETTER] for kind in (Planted, type("Lower", (Planted,), {"higher_is_better": False}))],
    "favours": lambda: [
        apply.choose_taps({"p": result("unsure").assign_attrs(units_train=n, units_val=0), "q": result("hidden")}, SEED)["p"].attrs["chosen_tap"] for n in (0, 1, 9, 10)
    ],
    "beside a control": lambda: ["over_c" in apply.against_control(*pair, "c", SEED).attrs for pair in (
        (result("unsure"), result("unsure")), (without(result("unsure"), "chosen_tap"), result("unsure")), (result("unsure"), without(result("unsure"), "chosen_tap")), (result("unsure"), result("ten"))
    )],
}  # fmt: skip


def compute_answer(name: str) -> Any:
    """Answer that the measures and statistics give, as JSON holds it."""
    return json.loads(json.dumps(ASKED[name](), default=plain))


@cache
def known() -> dict[str, Any]:
    """The answers, by the same names."""
    return json.loads((files("diagnostics.checks.selftest") / "answers.json").read_text())


def cases() -> list[Case]:
    """All of them: 0 each, where what is found is what is known."""
    return [
        Case(
            name, 0.0, BY_HAND, lambda name=name: deviation(compute_answer(name), known()[name]), 1e-7, measure="answer"
        )
        for name in ASKED
    ]
