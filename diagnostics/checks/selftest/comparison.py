"""What is found when planted encoders are compared: differences, shares, scores of groups, and curves along depth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diagnostics.checks.selftest.findings import changed, ends
from diagnostics.checks.selftest.losses import digest, parts
from diagnostics.checks.selftest.planted import SEED, SEEDS, profile
from diagnostics.runs.comparison import differences, estimates, group_scores, probe_losses, shares
from diagnostics.runs.profile import Profile

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


def of_one() -> list[Any]:
    """What an alignment of one seed holds above its control."""
    base, aligned, taught = (runs_of(name, (0,)) for name in GROUPS.values())
    made = shares.shares_of("linear", "after", "before", 1, True, [(aligned[0], base[0])], taught, [""], SEED)
    return [ends(made.over_control), made.lifted]


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
    bare = [probe_losses.probe_losses(changed("class"))] * 2
    lone = [
        replace(run, profile=replace(run.profile, data=run.profile.data.assign_attrs(over_shuffled_labels_low=-0.1)))
        for run in base[:1]
    ]
    weak = shares.shares_of("linear", "a", "b", 1, False, [(lone[0], lone[0])], ["none"], [""], SEED)
    unknown = shares.shares_of("linear", "a", "b", 1, False, [(bare[0], bare[1])], ["none"], [""], SEED)
    return [
        made.floor,
        ends(made.kept_output),
        ends(made.kept_best),
        made.reasons["over_control"],
        unknown.floor,
        sorted((name, why[:9]) for name, why in unknown.reasons.items()),
        sorted(weak.reasons),
    ]


def of_little(gap: float) -> list[str]:
    """Shares without a value of a base whose best tap is better by so much in all units."""
    data = profile("ten").data
    loss = np.stack(
        [
            data["loss"].values[3] - (gap if tap == "middle" else 0) * data["reference_loss"].values[3]
            for tap in data["tap"].values
        ]
    )
    run = probe_losses.probe_losses(changed("ten", {"loss": (("tap", "unit"), loss)}))
    return sorted(shares.shares_of("linear", "a", "b", 1, False, [(run, run)], ["none"], [""], SEED).reasons)


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
        "linear": {"before": runs_of("hidden", (0, 1)), "after": runs_of("aligned", (0, 1))},
        "ten": {"before": runs_of("ten", (0,)), "after": runs_of("ten", (1,))},
    }
    curves = differences.curve_differences(groups, SEED, {})
    ten = runs_of("ten", (0,))
    twice = probe_losses.probe_losses(changed("ten", {"reference_loss": 2 * profile("ten").data["reference_loss"]}))
    (apart,) = differences.curve_differences({"ten": {"before": ten, "after": [twice]}}, SEED, {})
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
        apart.difference.tolist(),
        apart.p.tolist(),
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
    nothing = [
        ends(each.estimate.interval)
        for each in differences.differences_of({"p": {"a": flat[:1], "b": flat[:1]}}, SEED, {})
    ][1]
    near = [probe_losses.near(np.ones(3), np.ones(3) + each) for each in (1e-8, 1e-12)]
    return [
        [each.p for each in made],
        told,
        sure,
        nothing,
        estimates.holm(np.array([0.01, np.nan, 0.04, 0.03, 0.9])).tolist(),
        near,
    ]


def losses_by_name() -> list[Any]:
    """Losses with parts whose units come in another order, a run's places, and what all taps are compared with."""
    made, order = parts(), np.random.default_rng(SEED).permutation(12)
    loss, whole = (np.concatenate([x, x[:2]])[:, order].T for x in (made.loss, made.reference))
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
            .assign_attrs(losses="counts")
            .assign(reference_loss=data["reference_loss"] * np.arange(1, 7)),
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
        list(run.loss.shape),
        digest(run.common_reference),
    ]
