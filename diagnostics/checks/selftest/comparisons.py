"""Answers of comparisons: differences, shares and curves of planted runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from diagnostics.checks.selftest.planted import QUARTERS, SEED, digest, parts, profile, runs_of, vary
from diagnostics.measures.statistics import Interval
from diagnostics.runs.comparison import differences, estimates
from diagnostics.runs.results.profile import Profile

GROUPS = {"before": "hidden", "after": "aligned", "taught": "control"}


def with_variables(name: str, variables: Mapping[str, Any]) -> estimates.ProbeLosses:
    """A planted run with other variables."""
    return estimates.probe_losses(vary(name, variables))


def of_differences() -> list[Any]:
    """Differences in all quantities and pairs: run by run where they are matched; corrected after Holm."""
    groups = {"linear": {group: runs_of(name) for group, name in GROUPS.items()}}
    made = differences.differences_of(groups, SEED, {("after", "before"): [(at, at) for at in (0, 1, 2)]})
    return [[d.first, d.second, d.quantity, d.estimate, d.p_corrected, d.outcome] for d in made]


def shares_of(
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
    return [values, made.floor, made.cut_is, made.is_lifted, sorted(made.reasons)]


def of_base(draws: Sequence[int], cut: Sequence[str]) -> list[Any]:
    """Shares of an alignment with its control and cut, over seeds."""
    base, aligned, taught = (runs_of(name, draws) for name in GROUPS.values())
    return share_values(shares_of(zip(aligned, base, strict=True), taught, cut, purpose=True))


def above_chance() -> list[Any]:
    """Kept shares where answers are counted, of an encoder that is right nine times in ten of those of the base."""
    base = runs_of("class")
    other = [
        estimates.probe_losses(
            replace(run.profile, data=run.profile.data.assign(loss=0.1 + 0.9 * run.profile.data["loss"]))
        )
        for run in base
    ]
    made = shares_of(zip(other, base, strict=True), ["none", "x", "x"], [""] * 3)
    unknown = shares_of([(with_variables("class", {}),) * 2])
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
        sorted(shares_of([(weak, weak)]).reasons),
    ]


def of_little(gap: float, units: int) -> list[str]:
    """Shares without a value of a base whose best tap is better by so much in the first units."""
    data = profile("ten").data
    better = (data["tap"] == "middle") * gap * data["reference_loss"][3] * (np.arange(10) < units)
    return sorted(shares_of([(with_variables("ten", {"loss": data["loss"][3] - better}),) * 2]).reasons)


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


def flat_difference(*lost: float, of: str = "ten") -> Interval:
    """That of two runs whose every unit loses as much at each tap."""
    zero = 0 * profile(of).data["loss"]
    first, second = ([with_variables(of, {"loss": zero + each, "reference_loss": zero + 1.0})] for each in lost)
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
    "after minus before": of_differences,
    "shares of the base": partial(of_base, (0, 1, 2), ("late", "middle", "late")),
    "shares of one seed": lambda: [of_base((0,), [""])[0][5], of_base((0,), [""])[3]],
    "shares above chance": above_chance,
    **{
        f"shares of {name}": lambda name=name, cut=cut: share_values(
            shares_of([(run, run) for run in runs_of(name, (0,))], cut=[cut])
        )[1:]
        for name, cut in (("alike", "late"), ("noise", "gone"), ("class", ""), ("hidden", ""))
    },
    **{
        f"shares of a gap of {gap} in {units} units": partial(of_little, gap, units)
        for gap, units in ((0.0095, 10), (0.0105, 10), (0.5, 2))
    },
    "scores of groups": of_groups,
    "differences along depth": lambda: [
        [each.difference, each.p, each.at]
        for each in curves(
            {"before": runs_of("hidden", (0, 1)), "after": runs_of("aligned", (0, 1))},
            {"before": runs_of("ten", (0,)), "after": runs_of("ten", (1,))},
        )
    ],
    "lines between taps": lambda: estimates.by_depth(
        np.array([0.0, 2, 6, 7, 9])[:, None],
        np.array([0.1, 0.5, 1, 1, 1.2]),
        np.array([0, 0.1, 0.2, 0.75, 1, 1.1, 1.2, 1.3]),
    )[:, 0],
    "what units add": lambda: [
        differences.score_influence(np.array([[1.0, 5, 2], [3, 5, 2]]), np.array([[2.0, 0, 1], [2, 0, 3]])),
        differences.score_influence(np.ones((2, 1)), np.zeros((2, 1))),
        differences.score_influence(np.ones((2, 1)), np.full((2, 1), 0.25)),
    ],
    "where curves differ most": lambda: [
        differences.CurveDifference("", "", "", np.arange(3), np.array([-3.0, 1.0, 9.0]), np.array(p)).at
        for p in ([0.01, 0.04, 0.05], [0.05, 0.06, 0.07])
    ],
    "flips": lambda: estimates.sign_flip_p(
        [np.ones((1, 1)), np.zeros((2, 6)), np.array([[1.0] * 6, [1, 1, 1, 1, -1, -1]]), np.ones((1, 2))],
        [["a"], list("abcdef"), list("abcdef"), list("ab")],
        [0, 0, 0, 0],
        SEED,
    ),
    "shared depths": lambda: estimates.common_depths([np.array([0.5, 1e-9]), np.array([0.0, 0.5 + 2e-6])]),
    "curves of other references": lambda: [
        [each.difference, each.p]
        for each in curves(
            {
                "before": runs_of("ten", (0,)),
                "after": [with_variables("ten", {"reference_loss": 2 * profile("ten").data["reference_loss"]})],
            }
        )
    ],
    "p of certain differences": lambda: (
        [apart(*map(constant, lost)).p for lost in ((0.5, 0.5), (0.5, 0.75), (0.75, 0.5))]
        + [apart(constant(0.5), constant(1.0, "a")).p]
    ),
    "certain over seeds": lambda: estimates.estimate_sum([([(constant(0.5),), (constant(0.5),)], 1.0)], SEED),
    "no more than its control": lambda: [
        shares_of([(run, run)], controls=[run]).is_lifted for run in runs_of("hidden", (0,))
    ],
    "outcomes": lambda: [
        differences.Difference("", "", "", "output", apart(*map(constant, lost)), p).outcome
        for lost, p in (((0.5, 0.75), 0.04), ((0.75, 0.5), 0.04), ((0.75, 0.5), 0.05))
    ],
    "certain differences": lambda: [
        flat_difference(0.75, 0.5),
        flat_difference(0.75, 0.75),
        flat_difference(1.0, 0.0, of="class"),
        flat_difference(0.0, 1.0, of="class"),
    ],
    "Holm": lambda: estimates.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.9])),
    "the same but for rounding": lambda: [estimates.near(np.ones(3), np.ones(3) + each) for each in (1e-8, 1e-12)],
    "losses by name": losses_by_name,
}
