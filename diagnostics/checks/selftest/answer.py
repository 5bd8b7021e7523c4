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

from diagnostics.checks.selftest import comparisons
from diagnostics.checks.selftest.planted import (
    PLANTED,
    QUARTERS,
    SEED,
    Drawn,
    Planted,
    class_data,
    digest,
    encoder,
    parts,
    profile,
    result,
    ridge_data,
    rows_in_groups,
    target,
    vary,
    without,
)
from diagnostics.errors import DiagnosticsError
from diagnostics.measures import apply, statistics, tap_choice, verdict
from diagnostics.measures import result as attribute
from diagnostics.measures.base import Case
from diagnostics.measures.probes import out_of_fold, protocol, softmax
from diagnostics.measures.statistics import Interval, Losses, interval
from diagnostics.runs.comparison import estimates
from diagnostics.runs.results import recommendation, redraws
from diagnostics.runs.results.profile import Profile
from diagnostics.vocabulary import ChooseOn

ORDERED = ("noise", "late", "perhaps", "hidden", "alike", "ten")
BY_HAND = "computed by hand in tests/checks/test_answer.py"


def plain(found: Any) -> Any:
    """A value that JSON does not know, in lists."""
    if isinstance(found, estimates.Estimate):
        return [found.over_samples, found.interval, found.p]
    return found.tolist() if hasattr(found, "tolist") else list(vars(found).values())


def deviation(found: Any, known: Any) -> float:
    """The largest difference of what is found from what is known, relative above 1.

    Infinite where they differ in another way.
    """
    if isinstance(known, (list, dict)):
        pairs = zip(*(each.values() if isinstance(each, dict) else each for each in (found, known)), strict=True)
        return max((deviation(*pair) for pair in pairs), default=0.0)
    if isinstance(known, (int, float)) and found is not None and not np.isnan(known):
        return float(np.nan_to_num(abs(found - known) / max(1, abs(known)), nan=np.inf))
    return 0.0 if found == known or (found != found and known != known) else np.inf


# The planted encoder.


CHOICE = attrgetter("chosen_tap", "best_tap", "tap_set", "hidden_gap", "gap_bound")
RECOMMENDED = ("verdict", "confidence", "tap", "also", "at_output", "score", "output")
FOUND = ("few", "token_samples", "chosen_on", "margin", "floor", "units_needed", "ceiling")


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
    (1, {"oof_loss": (ON_FIT, np.ones((6, 1)) * FEW)}),
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
    return [vary(name, {end: ("tap", np.full(6, x))}) for name, x in cases]


def over_draws(low: float) -> Interval | None:
    """The margin over a control of two draws."""
    two = [
        attribute.store_interval(f"over_a{i}", Interval(0.3, *ends))
        for i, ends in (("", (0.1, 0.4)), (".2", (low, 0.9)))
    ]
    return vary("hidden", attrs=two[0] | two[1]).over("a")


def drawn_controls() -> list[Any]:
    """Of two draws of a control, the first without a value or a choice, whether the second is taken."""
    own, known = profile("hidden").controls["fresh_weights"], profile("hidden").control("fresh_weights")
    blind = own.assign(score=own["score"] * 0)
    lost = blind.assign(oof_loss=own["oof_loss"] * np.nan), without(blind, "chosen_tap")
    made = [Profile.of("planted", "hidden", own, {"fresh_weights": each, "fresh_weights.2": own}) for each in lost]
    return [each.control("fresh_weights") == known for each in made]


def drawn_scores(name: str, on: ChooseOn) -> list[Any]:
    """Choice, gaps and scores of a probe whose scores are drawn."""
    (data,) = apply.measure_all([Drawn()], encoder(name, choose_on=on), target(name)).results.values()
    made = Profile("drawn", name, data, {})
    return [*CHOICE(made), list(map(made.at, made.taps)), data.attrs.get(attribute.CHOSEN_GAP_LOW)]


def misfits() -> list[Any]:
    """Of results of a probe, of drawn scores, of a measure without target and of a similarity, which are refused."""
    made, hidden = encoder("hidden"), target("hidden")["hidden"]
    good, drawn = (probe().compute(made, hidden, SEED) for probe in (Planted, Drawn))
    taps, zero = good["tap"], np.zeros(6)
    text, numbers = (
        np.array(["a"] * 6, dtype=object),
        xr.Dataset(dict.fromkeys(("score", "low", "high"), ("tap", zero))),
    )
    plain, pairs = xr.Dataset(coords={"tap": taps}).merge(numbers), ("tap", "tap_other")
    odd: Mapping[type[Planted], Sequence[Any]] = {
        Planted: (
            *(
                good,
                None,
                good.drop_vars("loss"),
                good.rename(unit="row"),
                without(good, "units_val"),
                good.isel(tap=[0]),
            ),
            *(good.drop_vars("tap"), plain, plain.drop_vars("high")),
            *(good.assign({name: 1.0}) for name in ("a b", "n" * 200, "n" * 201)),
            *(good.assign({name: ("tap", text)}) for name in ("a", "line_a", "low", "val_score")),
            *(good.assign(a=("unit", np.array(of))) for of in ([1j] * 80, [np.longdouble(1)] * 80, [b"a"] * 80)),
            *(good.assign({name: good["loss"]}) for name in ("a", "line_a", "depth", "val_score")),
            *(good.assign({name: good[name].expand_dims("part")}) for name in ("loss", "val_score")),
            *(good.assign_attrs(a=of) for of in (zero, "\ud800", zero.sum, [{1: 2}], ({"b": [1]},), {"b": {1: 2}})),
        ),
        Drawn: (drawn, drawn.drop_vars("unit"), drawn.drop_vars("val_score"), good),
        type("Plain", (Planted,), {"kinds": ()}): (plain, *(plain.drop_vars(str(end)) for end in numbers), good),
        type("Pairs", (Planted,), {"kinds": (), "pairwise": True}): (xr.Dataset({"matrix": (pairs, np.eye(6))}), plain),
        type("Silent", (Planted,), {"kinds": (), "losses": None}): (good, plain),
    }
    return [[bool(apply.misfit(each, probe(), made)) for each in results] for probe, results in odd.items()]


def older() -> list[Any]:
    """Choices in a result of an older version, and by scores on val alone; others stay as they are."""
    new = result("unsure", choose_on="val")
    old = apply.with_choice(without(new, "chosen_tap").assign_attrs(best_tap="head"))
    bare = apply.choose_taps({"": without(new.drop_dims("val_unit"), "gap")})[""]
    found = [
        [CHOICE(made), made.chosen_on] for made in (Profile("planted", "unsure", data, {}) for data in (old, bare))
    ]
    return [*found, apply.with_choice(new) is new]


def refuses(margin: float | None) -> bool:
    """Test for a margin that is none."""
    try:
        verdict.check_margin(margin)
    except DiagnosticsError:
        return True
    return False


def wrong_answers() -> xr.Dataset:
    """A result of classes whose answers are all wrong."""
    data = result("class")
    return data.assign(loss=data["reference_loss"])


def read_with(readout: str, data: xr.Dataset) -> Profile:
    return Profile(f"{readout}_probe", "hidden", data.assign_attrs(readout=readout), {})


def read_by_kernel() -> list[Any]:
    """Readings of a target by a kernel, and which profiles have a row of their own."""
    hidden, other, wrong = (result(name).assign_attrs(n_train=80) for name in ("hidden", "aligned", "class"))
    linear, kernel = (partial(read_with, readout) for readout in ("linear", "kernel"))
    two = other.isel(tap=[1, 3]).assign_attrs(best_tap="middle")
    pairs = (
        *((linear(hidden), kernel(data)) for data in (two, other, hidden.isel(tap=[3, 2]))),
        *(
            (linear(without(hidden, "best_tap")), kernel(two)),
            (linear(hidden.assign_attrs(best_tap="norm")), kernel(other)),
        ),
        *((linear(hidden),), (kernel(two),), (linear(wrong), kernel(wrong))),
    )
    read = [recommendation.nonlinear_reading(each, "hidden") for each in pairs]
    words = [each and each.words.count(";") for each in read]
    return [
        [
            each and [each.output, each.best, each.linear_output, each.linear_best, each.gap, each.tap, each.floor]
            for each in read
        ],
        words,
        [len(recommendation.without_nonlinear(each)) for each in pairs],
    ]


def drawn_again() -> list[Any]:
    """Scores, gaps and choices on other splits, and their spread."""
    made = encoder("perhaps")
    measured = apply.measure_all([Planted()], made, target("perhaps"))
    redraws.add_redraws(measured, [Planted()], made, target("perhaps"), 3, what="planted")
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


def lost_draws() -> list[Any]:
    """Redraws of which none, or one, gave a value."""
    lost = [apply.Measured(skipped={"p": why}) for why in ("first", "second")]
    found = [
        redraws._with_draws(result("perhaps"), "p", draws)
        for draws in (lost, [apply.Measured({"p": result("late")}), *lost])
    ]
    made = list(map(redraws.redraws_of, found))
    return [[each.attrs[redraws.NO_REDRAWS] for each in found], [each and each.to_json() for each in made]]


def results_on(targets: Iterable[str], probe: type[Planted] = Planted, asked: Sequence[str] = ()) -> apply.Measured:
    """The results on the encoder of one target for several."""
    read = {key: each for name in targets for key, each in target(name).items()}
    return apply.measure_all([probe()], encoder("young"), read, asked=asked)


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
    "two units": (np.array([[0.3, 0.3], [0.2, 0.1], [0.25, 0.3]]), 2, (0, 0.5, 1), True),
    "ahead by .0005 in all units": (np.stack([FLAT + 1, FLAT - 0.008, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by .0015 in all units": (np.stack([FLAT + 1, FLAT - 0.024, FLAT]), 2, (0, 0.5, 1), True),
    "ahead by less than a standard error": (np.stack([FLAT + 1, NEAR, FLAT]), 2, (0, 0.5, 1), True),
}
RAMP = np.linspace(-1, 1, 2001)
HOLDS = np.array([[[1.0, 1, 1], [1, 1, 0], *[[1, 0, 0]] * 4]])
MOST = np.stack([np.where(np.arange(40) < 2, 0.02, 0.001), np.zeros(40)], axis=1)
GAP = Interval(0.4, 0.1, 0.5)
TEXTS = "a: x; y; b: x; y; a.b: x; y; c: z; b: z; a: q; c: q", "c: z; w; b: x; y", "x; y"


def of_parts(share: bool) -> list[Any]:
    """Scores with ends, resamples, units that count, and the choice."""
    losses, drawn = parts(), statistics.resample_counts(12, SEED)
    both, given = (losses.loss, losses.reference), [True] * share
    again = statistics.resample_scores(*both, drawn, SEED, *given, *[2] * share)[::400]
    chosen = tap_choice.choose_tap(replace(losses, counts=share), 2, np.array([0.0, 0.5, 1.0, 2.0]), SEED)
    ends = np.array(statistics.profile_intervals(*both, 7, SEED, *given)).T
    return [ends, again, statistics.effective_units(losses.reference, *given), chosen]


def sets(units: int) -> list[list[int]]:
    """Model confidence sets of five taps, in several draws."""
    loss = np.random.default_rng(SEED).random((30, 5, units)) * np.linspace(1, 2.5, 5)[:, None]
    return [tap_choice.confidence_set(Losses(each, np.ones_like(each)), np.arange(5), SEED) for each in loss]


def ranks(samples: int) -> np.ndarray:
    """Spearman's correlation with ends, of samples tied in threes, of equal values, and of one that is not finite."""
    rng, unit_of = np.random.default_rng(SEED), np.arange(samples) * 20 // samples
    truth = np.round(rng.standard_normal(samples), 1)
    noise = [rng.standard_normal(samples), np.round(-truth + 0.5 * rng.standard_normal(samples))]
    guesses = np.stack([truth + noise[0], noise[1], truth * 0, truth + np.inf])
    return np.array(statistics.rank_correlation(guesses, truth, unit_of, SEED, 10)).T


SQUARES = np.arange(12.0) ** 2 / 100


COLUMNS = np.stack(
    [
        SQUARES,
        np.where(np.arange(12) % 5 < 3, -SQUARES, np.nan),
        np.where(np.arange(12) < 2, SQUARES, np.nan),
        np.where(np.arange(12) < 5, SQUARES, np.nan),
    ],
    1,
)
"""The second is unknown in some rows of each group, the others in all groups but one or two."""


def keywords(logarithm: bool) -> dict[str, bool]:
    """The argument that an interval needs, none for one on the logarithm, which is the default."""
    return {} if logarithm else {"logarithm": False}


def without_blocks(*sizes: int, logarithm: bool = False) -> tuple[float, float]:
    """Ends of the mean of twelve rows, or of its exponential, by leaving blocks of so many out."""
    left = (SQUARES.sum() - np.add.reduceat(SQUARES, np.cumsum((0, *sizes[:-1])))) / (12 - np.array(sizes))
    of = np.exp if logarithm else np.asarray
    return statistics.jackknife_interval(float(of(SQUARES.mean())), of(left), np.array(sizes), **keywords(logarithm))


def left_out(most: int) -> list[Any]:
    """Ridge without each group, or in folds where one has more than 256 rows: penalties, losses and references."""
    rows, x, y = ridge_data(most)
    made = out_of_fold.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED)
    chosen = [made.choose(torch.tensor(x[i : i + 1])) for i in (0, 1)]
    sums = [
        [digest(protocol.sum_by_unit(each, rows, "fit")) for each in losses]
        for losses in ([lost[0] for _, lost, _ in chosen], [made.reference] * 2)
    ]
    return [[penalty for penalty, _, _ in chosen], *sums]


def folds() -> list[Any]:
    """Groups whole, val in fold 0, groups and classes even over the others."""
    rows = rows_in_groups(3)
    fold = protocol.folds(rows, np.where(rows.unit_of_fit < 4, 0, 1), SEED)
    of_group = [sorted(set(fold[rows.unit_of_fit == group].tolist())) for group in range(18)]
    some = of_group[:4], of_group[4:12], of_group[12:]
    return [list(map(len, of_group)), [np.sort(np.bincount([of[0] for of in each], minlength=5)) for each in some]]


def several_classes() -> list[Any]:
    """Groups that all hold a common class, and some of them one of two rarer ones, even over the folds."""
    by_split = {"train": np.arange(24), "val": np.arange(24, 28), "test": np.arange(1)}
    rows = protocol.Rows.of(by_split, np.repeat([f"{group:02}" for group in range(14)], 2))
    labels = np.where(np.arange(28) % 2, np.repeat(np.arange(14) % 3, 2), 0)
    dealt = [protocol.folds(rows, labels, seed)[:24:2] for seed in range(4)]
    return [[np.bincount(fold[np.arange(12) % 3 == rare]) for rare in range(3)] for fold in dealt]


# Class 7 is in two groups.
FOLDED = protocol.Rows.of(
    {"train": np.arange(12), "val": np.arange(12, 14), "test": np.arange(1)}, np.repeat(list("abcdefg"), 2)
)
LABELS = np.array([1, 7, 1, 1, 2, 2, 2, 2, 3, 7, 3, 3, 0, 0])
GRID, ENDS_OF_GRID = (0.1, 1.0, 10.0), ((0.001, 0.01, 0.1), (10.0, 100.0, 1000.0))
WEAK = (1e-5, 1e-4, 0.001, 0.1, 1.0, 10.0)
# Losses of penalties, strong to weak, and right answers; the spread of losses over rows beside those before; and
# that the path is asked for as a whole.
PATHS: Sequence[tuple[Any, ...]] = (
    ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9),
    ((5, 4, 4.5, 3, 3.5, 3.6, 1), (0,) * 7, 9),
    ((5, 4, 4.5, 4.6, 1), (0,) * 5, 9, True),
    ((5, 4, 9, 1), (0,) * 4, 0),
    ((5, 4, 4.9, 1), (0,) * 4, 2),
    ((5, 4, 4.9, 1), (0,) * 4, 2.3),
    ((5, 6, 7, 7, 7, 7), (1, 2, 3, 3, 3, 9), 9),
    ((5, 4, 4, 4, 1), (0,) * 5, 9),
)
# Wrong rows: of the best nine, of the others eleven, ten and eleven.
WRONG = ((*range(9), 30, 31), range(30, 39), range(10), range(11))
RIGHT = torch.tensor([[at not in rows for at in range(100)] for rows in WRONG])[None]
LEVEL = torch.tensor([0.5, 0.9, 0.7, 0.6]).double()[None, :, None].expand(1, 4, 100)


def path(worth: Sequence[float], right: Sequence[int], spread: float, *whole: bool) -> int:
    """The number of penalties that are tried."""
    answers = (torch.arange(10)[None, None] < n for n in right)
    lost = ((w + i * spread * torch.linspace(-1, 1, 10).double())[None, None] for i, w in enumerate(worth))
    judged = zip(answers, lost, strict=True)
    rows = softmax.LogisticRows(torch.tensor([[[-1.0], [1.0], [2.0]]]).double(), np.array([0, 1, 1]))
    return softmax._path(rows, 10.0 ** -np.arange(len(worth))[None], lambda _: next(judged), *whole)[1].shape[1]


def last() -> list[Any]:
    """Tests of fits on train, and on train and val, for being near those that go all the way; and where features are about."""
    x, labels, fold = class_data()
    features, codes, val, penalty = torch.tensor(x), labels.clip(max=2), fold == 0, np.array([0.1, 1.0, 0.01])
    rows, train = softmax.LogisticRows(features, codes, exact=True), torch.tensor(~val)
    own = softmax.LogisticRows(features[:, train], codes[~val], exact=True)

    def apart(fits: softmax.LogisticFits, whole: softmax.LogisticRows, penalties: np.ndarray) -> float:
        both = (each.scores(features).softmax(dim=2) for each in (fits, whole.fit(penalties, tolerance=1e-7)))
        return float(torch.stack([*both]).diff(dim=0).abs().max())

    found: list[Any] = []
    for whole in (False, True):
        start = softmax.start_of_last(features, codes, val, penalty, whole)
        first = apart(start[1], rows.only(train, codes[~val]) if whole else own, np.ones((3, 1)))
        again = apart(softmax.last_fits(start, penalty), rows, penalty[:, None])
        found.append([first < 0.01, again < 0.001, digest(start[1].mean)])
    return found


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
        softmax.choose_logistic(train[0][2:], train[1], val[0][2:], val[1], WEAK)[0],
        [softmax.choose_out_of_fold(some[0], labels, fold, grid).penalty for grid in ENDS_OF_GRID],
    ]


ASKED: Mapping[str, Callable[[], Any]] = {
    **{f"choice of {name} on {on}": lambda name=name, on=on: CHOICE(profile(name, 0, on)) for name in PLANTED for on in ("fit", "val")},
    **{f"gap of the chosen tap of {name}": lambda name=name: profile(name).data.attrs.get(attribute.CHOSEN_GAP_LOW) for name in PLANTED},
    **{f"recommendation of {name}": lambda name=name: attrgetter(*RECOMMENDED)(recommendation.recommend(profile(name))) for name in PLANTED},
    **{f"finding of {name}": lambda name=name: attrgetter(*FOUND)(profile(name)) for name in PLANTED},
    **{f"words on {name}": lambda name=name: [profile(name).reading[:8], sorted(profile(name).beside), sorted(profile(name).lines)] for name in PLANTED},
    **{f"scores of {name}": lambda name=name: list(map(profile(name).at, profile(name).taps)) for name in PLANTED},
    **{f"controls of {name}": partial(controls, name) for name in ("hidden", "late", "alike", "class")},
    **{f"drawn scores of {name} on {on}": partial(drawn_scores, name, on) for name in ("hidden", "unsure") for on in ("fit", "val")},
    "what fits": misfits, "choices of older results": older, "margins refused": lambda: [refuses(margin) for margin in (None, 0.05, 0.0, 2.0, -1.0, np.nan)],
    "what a kernel reads": read_by_kernel,
    "kinds of profiles": lambda: [[made.label, made.higher_is_better, made.is_probe, made.chosen_on] for made in (
        read_with("linear", result("hidden")), Profile("planted", "x", result("hidden", choose_on="val").assign_attrs(higher_is_better="no"), {}),
        Profile("rank", None, result("hidden").drop_vars("loss").assign_attrs(higher_is_better="neither"), {}),
    )],
    "what rests on tokens": lambda: [attribute.TOKEN_SAMPLES in data.attrs for kind, places in (({}, "masks"), ({"needs": "tokens"}, "value"), ({}, "value")) for data in apply.measure_all(
        [type("Some", (Planted,), {"kinds": ("value", "masks"), **kind})()], encoder("hidden"), {"x": replace(target("hidden")["hidden"], kind=places)}
    ).results.values()],
    "rivals at the border of chance": lambda: [Profile.of("planted", name, profile(name).data.assign_attrs(over_raw_input_low=0.0), {"raw_input": other.assign(score=0 * other["score"] + at)}).rival is None for name, ats in (
        ("late", (0.047, 0.053)), ("class", (0.425, 0.435))
    ) for other in [result("alike")] for at in ats],
    "shuffled labels as rivals": lambda: [vary(name, attrs={"over_shuffled_labels_low": -0.1}).rivals for name in ("hidden", "alike", "class")],
    "skew of train and val": lambda: [vary("hidden", {"oof_loss": (ON_FIT, np.ones((6, 120))), "oof_reference": (ON_FIT, np.ones((6, 1)) * np.broadcast_to(few, 120)), **test}).skew[:8] for few, test in SKEWS],
    "readability of classes": lambda: [vary("class", **each).readability for each in OF_CLASS],
    "remarks on classes": lambda: [len(vary("class", **each).remarks) for each in OF_CLASS],
    "margin over two draws": lambda: [over_draws(0.0), over_draws(np.nan)],
    "exact ends stated": lambda: ["Clopper" in profile(name).data.attrs[attribute.INTERVALS] for name in ("class", "hidden")],
    "few tokens": lambda: [(n, bool(made.sparse), len(made.cautions)) for n in (19, 20) for made in [vary("hidden", attrs={"token_samples": n})]],
    "margin named": lambda: vary("hidden", attrs={"margin": 0.2}).margin,
    "readable": lambda: [made.readability for made in ends_changed("low", ("hidden", 0.05), ("hidden", 0.0), ("class", 0.39), ("class", 0.41))],
    "readable without a chance": lambda: [vary("hidden", {"low": ("tap", np.full(6, low))}, lacks="chance").readability for low in (-0.1, 0.1)],
    "exact ends of wrong answers": lambda: "Clopper" in apply.with_intervals(wrong_answers()).attrs[attribute.INTERVALS],
    "at chance": lambda: [bool(made.is_at_chance) for made in ends_changed("high", ("hidden", 0.049), ("hidden", 0.051), ("class", 0.429), ("class", 0.431))],
    "ahead of shuffled labels": lambda: vary("class", attrs={"over_shuffled_labels_low": 0.05}).is_readable,
    "ahead of all controls": lambda: vary("late", attrs={f"over_{each}_low": 0.05 for each in ("fresh_weights", "fresh_weights.2", "raw_input")}).rivals,
    "a gap that ends at 0": lambda: vary("hidden", attrs={"hidden_gap_low": 0.0}).verdict,
    "units of train and val": lambda: [vary("hidden", attrs={"units_train": n, "units_val": 0}).few[:6] for n in (0, 1, 9, 10)],
    "floor and margin": lambda: [vary("class", {"line_commonest": ("tap", np.full(6, 0.6))}).floor, vary("hidden", {"score": ("tap", np.full(6, np.nan))}).margin],
    "draws of a control": drawn_controls,
    "units": lambda: list(vary("hidden", lacks="units_").units.values()),
    "parts, R2": partial(of_parts, False), "parts, share": partial(of_parts, True),
    **{f"choice with {name}": partial(tap_choice.choose_tap, Losses(loss, np.full(loss.shape, 16.0)), output, np.array(depth), SEED, **({} if favour else {"favour": False})) for name, (loss, output, depth, favour) in TIES.items()},
    **{f"sets of {units} units": partial(sets, units) for units in (1, 2, 3, 8, 40)},
    "sets of two taps": lambda: [tap_choice.confidence_set(parts(), np.array(of), SEED) for of in ([0, 1], [0, 2])],
    "ends of intervals": lambda: [
        interval(0.0, RAMP, 4), interval(0.0, RAMP, 9, 3, 4.0), interval(0.0, RAMP, 4, None, 9.0), interval(0.0, np.where(np.abs(RAMP) > 0.5, np.nan, RAMP), 4),
        interval(2.0, RAMP, 4), interval(-2.0, RAMP, 4), interval(0.0, RAMP, 1), interval(0.0, RAMP, 9, None, 1.0), interval(0.0, RAMP, 2), interval(0.0, RAMP, 9, level=0.8),
    ],
    "Student's ends": lambda: [interval(0.0, RAMP**9, 4, student=True), interval(0.5, RAMP**9, 9, 3, 4.0, student=True), interval(0.0, RAMP, 9, student=True)],
    "ends where all are right or wrong": lambda: [
        statistics.profile_intervals(np.full((1, 9), x), np.ones((1, 9)), fit, SEED, True)[end][0] for x, fit, end in ((0.0, 0, 1), (0.0, 3, 1), (1.0, 0, 2), (1.0, 3, 2), (0.0, 0, 2), (1.0, 0, 1))
    ] + [statistics.profile_intervals(np.zeros((1, 9)), np.arange(9)[None] % 3, 0, SEED, True)[1][0]],
    "ends of quarters": lambda: [QUARTERS.intervals(3, SEED), verdict.paired_differences(QUARTERS.at([0]), QUARTERS.at([1]), 3, SEED)],
    "sums of quarters": lambda: [comparisons.quarters(1.0, 0.0), comparisons.quarters(0.5, 0.5), comparisons.quarters(-1.0, 1.0)],
    "units that count": lambda: [
        *(statistics.effective_units(each, share) for each in (HOLDS, np.eye(3)[None], np.ones((1, 2))) for share in (False, True)), statistics.effective_units(np.zeros((1, 3))), statistics.effective_units(HOLDS),
    ],
    "what few carry": lambda: [statistics.heaviest_units(each) for each in (MOST, MOST[:39], 0 * MOST)],
    "units needed": lambda: [verdict.units_needed(GAP, 30, 0.05), verdict.units_needed(GAP, 30, 0.0), verdict.units_needed(replace(GAP, low=np.nan), 30, 0.05), verdict.round_count(12345), verdict.round_count(7)],
    "too few to compare": lambda: [bool(apply.too_few(xr.Dataset(attrs={"n": n, "measure": "cka"}))) for n in (19, 20)],
    "reasons": lambda: [attribute.merge_reasons(text, ["a", "b", "a.b", "c"]) for text in TEXTS],
    "standard error": lambda: tap_choice.standard_error(parts().at([0, 2])),
    "resamples": lambda: [digest(statistics.resample_counts(5, SEED)), statistics.resample_counts(5, SEED).size],
    "nothing fitted": lambda: statistics.profile_intervals(np.zeros((1, 9)), np.ones((1, 9)), 0, SEED)[1],
    **{f"ranks of {samples} samples": partial(ranks, samples) for samples in (60, 12000)},
    "means of columns": lambda: [*map(list, statistics.mean_with_interval(COLUMNS, np.array(list("aabbbccddddd")), SEED).values())],
    "ends by blocks left out": lambda: [
        without_blocks(4, 4, 4), without_blocks(2, 7, 3), without_blocks(5, 7), without_blocks(2, 7, 3, logarithm=True), statistics.jackknife_interval(1.0, np.ones(1), np.ones(1)), statistics.jackknife_interval(1.0, -np.ones(3), np.ones(3)),
        statistics.jackknife_interval(0.5, np.array([0.4, 0.5, 0.625]), np.ones(3), logarithm=True),
    ],
    "ends by influence": lambda: [
        statistics.influence_interval(2.0, SQUARES - SQUARES.mean(), np.repeat(list(of), 12 // len(of)), **keywords(logarithm)) for of, logarithm in (("abcdef", False), ("abcd", True), ("ab", False), ("a", False))
    ],
    "ends of parts": lambda: [statistics.subset_interval(2.0, np.array(of)) for of in ([1.0, 2.0, 4.0], [1.0, 4.0], [np.nan, 1.0, 2.0, 0.0], [1.0])] + [statistics.subset_interval(at, np.array([1.0, 4.0])) for at in (0.5, 0.0)],
    **{f"ridge without groups of {most}": partial(left_out, most) for most in (1, 2, 3, 256, 257)},
    "ridge penalties at the ends": lambda: [out_of_fold.RidgeOutOfFold(rows, y, lambda errors: errors**2, SEED).choose(torch.tensor(x[1:]))[0] for rows, x, _ in [ridge_data(257)] for y in (x[1] @ np.ones((3, 1)), x[0, :, :1])],
    "folds": folds, "folds of several classes": several_classes, "a class in two folds": lambda: [len(set(protocol.folds(FOLDED, LABELS, seed)[[1, 9]])) == 2 for seed in range(8)],
    "penalty of several parts": lambda: [
        out_of_fold.choose_index(np.array(lost), np.array(whole)) for lost, whole in (([[2, 1], [1, 9], [1, 9]], [1, 0]), (np.ones((4, 2)), [0, 0]), ([[0.02, 0.9], [0.03, 0.3]], [0.1, 0.9]), ([[2, 1], [1, 9], [1.5, 9]], [1, 0]))
    ],
    "mean of others": lambda: out_of_fold.mean_of_others(np.array([[1.0], [2.0], [6.0], [7.0]]), np.array([0, 0, 1, 2])),
    "penalty within half an error": lambda: softmax._best(RIGHT, LEVEL),
    "paths": lambda: [path(*each) for each in PATHS], "classes out of fold": classes, "last fits of classes": last,
    **comparisons.ASKED,
    "redraws": drawn_again, "draws without a value": lost_draws,
    "one tap for several targets": lambda: [apply.common_tap(list(map(result, ("hidden", "late", "alike")))), apply.common_tap([])],
    "few units beside another target": lambda: [each.attrs["chosen_tap"] for each in results_on(("young", "alike")).results.values()],
    "a target that no probe reads": lambda: [list(results_on((), asked=asked).skipped) for asked in ((), ("planted",))],
    "first probes": lambda: [
        each.measure for each in recommendation.first_probes([profile("hidden"), Profile("other", "hidden", result("hidden"), {}), Profile("cka", None, result("hidden").drop_vars("loss"), {})]).values()
    ],
    "order of findings": lambda: [each.target for each in recommendation.by_verdict(list(map(profile, ORDERED)))],
    "ways": lambda: [results_on(("alike",), kind).results["planted/alike"].attrs[attribute.HIGHER_IS_BETTER] for kind in (Planted, type("Lower", (Planted,), {"higher_is_better": False}))],
    "favours": lambda: [
        apply.choose_taps({"p": result("unsure", choose_on="val").assign_attrs(units_train=n, units_val=0), **beside})["p"].attrs["chosen_tap"]
        for beside in ({}, {"q": result("hidden")}) for n in (0, 1, 9, 10)
    ],
    "beside a control": lambda: ["over_c" in apply.against_control(*pair, "c").attrs for pair in (
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
