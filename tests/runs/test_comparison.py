"""Comparisons against encoders whose taps hold their targets to a known degree, and against simulations."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import diagnostics as dx
from diagnostics import Comparison, DiagnosticsError, Run
from diagnostics.measures.statistics import scores
from diagnostics.report.page import Number, Table
from diagnostics.runs.comparison.differences import curve_differences, differences_of, score_influence, shares_of
from diagnostics.runs.comparison.estimates import (
    ProbeLosses,
    Term,
    by_depth,
    common_depths,
    estimate,
    estimate_sum,
    holm,
    probe_losses,
    sign_flip_p,
)
from diagnostics.runs.comparison.findings import tap_similarity
from diagnostics.runs.comparison.page import alignment_name, comparison_page, describe_lifts, describe_similarity
from tests.support.graded import GRID, graded_data, graded_encoder, known_r2, linear_alone
from tests.support.refusals import refusal

LINEAR = "linear_probe/a"
NO_PROFILE: Any = None
Maker = Callable[..., Run]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Maker]:
    folder = tmp_path_factory.mktemp("runs")
    known: dict[str, Run] = {}

    def make(
        name: str,
        a: Sequence[float] = (0.5, 2, 0.5),
        b: Sequence[float] = (1, 1, 1),
        noise: Sequence[int] | int = 2,
        *,
        data: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Run:
        if name not in known:
            encoder = graded_encoder(name, a, b, noise, **options)
            settings = {"measures": "linear_probe", "controls": False, "report": False, **(run or {})}
            known[name] = dx.run(encoder, graded_data(**(data or {})), out=folder / name, **settings)
        return known[name]

    with linear_alone():
        yield make


@pytest.fixture(scope="module")
def base(make_run: Maker) -> Run:
    return make_run("base")


MANY = {"n": 1200, "sign": True}


def aligned(make_run: Maker, base: Run, name: str, a: Sequence[float], b: Sequence[float] = (1, 1, 1)) -> Run:
    lineage = {"group": name, "base": base.store.attrs["identity"]["weights"], "for": "a"}
    return make_run(name, a, b, lineage=lineage, data=MANY)


@pytest.fixture(scope="module")
def started(make_run: Maker) -> Run:
    return make_run("started", data=MANY, run={"controls": True})


@pytest.fixture(scope="module")
def bought(make_run: Maker, started: Run) -> Comparison:
    alignments = [
        aligned(make_run, started, "identity", (0.5, 2, 0.5)),
        aligned(make_run, started, "copy", (0.5, 2, 2), (1, 1, 0.5)),
        aligned(make_run, started, "half", (0.5, 2, 1)),
    ]
    return dx.compare([started, *alignments], similarity=None)


def shares(result: Comparison, group: str, target: str) -> Any:
    return next(one for one in result.shares if (one.group, one.profile) == (group, f"linear_probe/{target}"))


def difference(result: Comparison, first: str, second: str, quantity: str, profile: str = LINEAR) -> Any:
    wanted = (profile, first, second, quantity)
    return next(one for one in result.differences if (one.profile, one.first, one.second, one.quantity) == wanted)


# What alignments buy and cost


def test_an_alignment_that_is_the_identity_recovers_nothing_and_keeps_all(bought: Comparison) -> None:
    for target in ("a", "b", "sign"):
        one = shares(bought, "identity", target)
        assert (one.kept_best.value, one.kept_output.value) == (1.0, 1.0)
    one = shares(bought, "identity", "a")
    assert one.recovered.value == 0.0
    assert one.base == "started"
    assert one.purpose


def test_an_alignment_that_copies_the_best_tap_to_the_output_recovers_all(bought: Comparison) -> None:
    one = shares(bought, "copy", "a")
    assert one.recovered.value == pytest.approx(1.0, abs=2e-3)
    assert one.recovered.low <= 1.0 <= one.recovered.high
    assert one.kept_best.value == pytest.approx(1.0, abs=2e-3)


def test_half_an_alignment_recovers_the_known_share(bought: Comparison) -> None:
    one = shares(bought, "half", "a")
    known = (known_r2(1) - known_r2(0.5)) / (known_r2(2) - known_r2(0.5))
    assert one.recovered.low < known < one.recovered.high
    assert one.recovered.value == pytest.approx(known, abs=0.06)
    assert not one.recovered.low < 1.0 < one.recovered.high


def test_what_an_alignment_costs_another_target_is_its_kept_share(bought: Comparison) -> None:
    one = shares(bought, "copy", "b")
    known = known_r2(0.5) / known_r2(1)
    assert one.kept_output.low < known < one.kept_output.high
    # The base reads `b` alike at every tap, so that its output is chosen; the copy at an earlier one, beside other features.
    assert one.kept_best.value == pytest.approx(1.0, abs=0.02)
    assert one.recovered is None
    assert "not shown to hide" in one.reasons["recovered"]


def test_shares_of_accuracy_are_above_chance(bought: Comparison, started: Run) -> None:
    one = shares(bought, "identity", "sign")
    chance = started.profile("linear_probe/sign").control("shuffled_labels")
    assert one.floor == chance.value
    assert 0.3 < chance.value < 0.7


def test_without_controls_chance_is_not_known_and_no_share_is_made_up(make_run: Maker) -> None:
    plain = make_run("plain base", data=MANY)
    other = aligned(make_run, plain, "of plain", (0.5, 2, 2))
    result = dx.compare([plain, other], similarity=None)
    one = shares(result, "of plain", "sign")
    assert one.kept_best is None
    assert "run the base with its controls" in one.reasons["kept_best"]
    assert shares(result, "of plain", "a").kept_best is not None


def test_a_base_can_be_named_where_no_alignment_tells_it(make_run: Maker, base: Run) -> None:
    other = make_run("untold", (0.5, 2, 2))
    assert not dx.compare([base, other], similarity=None).shares
    assert shares(dx.compare([base, other], base="base", similarity=None), "untold", "a").recovered.value > 0.98
    with refusal("unknown-name", "bse"):
        dx.compare([base, other], base="bse")


# Differences


def test_two_encoders_that_differ_at_one_tap_only(make_run: Maker) -> None:
    one = make_run("one tap", (0.5, 2, 1, 0.5), (1, 1, 1, 1))
    other = make_run("other tap", (0.5, 2, 2.2, 0.5), (1, 1, 1, 1))
    result = dx.compare([one, other], similarity=None)
    curve = next(c for c in result.curve_differences if c.profile == LINEAR)
    assert curve.depths[curve.at] == pytest.approx(2 / 3)
    assert list(curve.p < 0.05) == [False, False, True, False]
    assert curve.difference[2] == pytest.approx(known_r2(2.2) - known_r2(1), abs=0.06)
    assert difference(result, "other tap", "one tap", "output").estimate.value == pytest.approx(0.0, abs=1e-3)
    assert not difference(result, "other tap", "one tap", "output").survives
    best = difference(result, "other tap", "one tap", "chosen tap")
    assert best.survives
    assert best.estimate.interval.low < known_r2(2.2) - known_r2(2) < best.estimate.interval.high
    assert all(not one.survives for one in result.differences if one.profile == "linear_probe/b")


def test_encoders_that_are_alike_but_for_their_noise_are_not_told_apart(make_run: Maker) -> None:
    result = dx.compare(
        [make_run("noise 2"), make_run("noise 4", noise=4), make_run("noise 6", noise=6)], similarity=None
    )
    assert not [one for one in result.differences if one.survives]
    assert all(one.at is None for one in result.curve_differences)


def drawn_readout(
    rng: np.random.Generator, units: int, level: np.ndarray, reference: np.ndarray | None = None
) -> ProbeLosses:
    """A readout of taps whose R2 is `level`, with units of its own luck."""
    own = rng.chisquare(1, size=(units, 1)) if reference is None else reference
    loss = (np.sqrt(1 - level)[:, None] * rng.standard_normal((len(level), units))) ** 2
    return ProbeLosses(
        loss=loss[..., None],
        reference=np.broadcast_to(own, (len(level), *own.shape)),
        depths=np.linspace(0, 1, len(level)),
        taps=tuple(f"t{i}" for i in range(len(level))),
        units=tuple(f"u{i}" for i in range(units)),
        chosen=int(level.argmax()),
        best=int(level[:-1].argmax()) if len(level) > 1 else None,
        output=len(level) - 1,
        fit_units=10**9,
        profile=NO_PROFILE,
    )


def test_family_wise_error_is_held_over_all_comparisons() -> None:
    rng = np.random.default_rng(0)
    wrong = np.zeros(2)
    trials = 100
    for trial in range(trials):
        reference = rng.chisquare(1, size=(80, 1))
        groups = {name: [drawn_readout(rng, 80, np.full(4, 0.5), reference)] for name in ("x", "y", "z")}
        wrong[0] += any(one.survives for one in differences_of({"p/t": groups}, trial, {}))
        wrong[1] += any(one.at is not None for one in curve_differences({"p/t": groups}, trial, {}))
    # Holm's bound and max-T's level are 0.05; 100 trials see up to 0.05 + 3 standard errors.
    assert (wrong / trials < 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)).all()
    assert wrong[1] > 0


def test_a_p_value_is_below_its_level_just_where_the_interval_leaves_out_0() -> None:
    rng = np.random.default_rng(4)
    for trial in range(40):
        one, other = (drawn_readout(rng, 25, np.array([level])) for level in (0.5, 0.3))
        for result in differences_of({"p/t": {"x": [one], "y": [other]}}, trial, {}):
            ends = result.estimate.interval
            assert (result.estimate.p < 0.05) == (not ends.low <= 0 <= ends.high)


def test_all_right_against_all_wrong_on_few_units_is_no_certainty() -> None:
    """Two units: the sign test says 1/2; resampling shows no width and would say 0."""
    units = ("u0", "u1")
    ones = np.ones((1, 2, 1))
    right, wrong = (
        ProbeLosses(loss, ones, np.ones(1), ("t",), units, 0, None, 0, 4, NO_PROFILE) for loss in (0 * ones, ones)
    )
    chosen, output, gap = differences_of({"p/t": {"wrong": [wrong], "right": [right]}}, 0, {})
    assert (chosen.estimate.value, chosen.estimate.p) == (1.0, 0.5)
    assert np.isnan(chosen.estimate.interval.low)
    assert not output.survives
    assert gap.estimate.p == 1.0


def test_flips_agree_with_all_flips() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 10)) + np.array([[0.0], [0.5], [1.2]])
    scaled = x / np.sqrt((x**2).sum(axis=1))[:, None]
    signs = np.array(list(itertools.product([-1, 1], repeat=10)))
    most = np.abs(signs @ scaled.T).max(axis=1)
    exact = [(most >= abs(row.sum()) - 1e-12).mean() for row in scaled]
    (result,) = sign_flip_p([x], [[f"u{i}" for i in range(10)]], [0], seed=0)
    np.testing.assert_allclose(result, exact, atol=3.5 * np.sqrt(0.25 / 1999))


def test_flips_correct_over_profiles_too() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((1, 30)) + 0.45
    units = [f"u{i}" for i in range(30)]
    (alone,) = sign_flip_p([x], [units], [0], seed=0)
    among = sign_flip_p([x, *(rng.standard_normal((6, 30)) for _ in range(3))], [units] * 4, [0] * 4, seed=0)
    (widened,) = sign_flip_p([x], [units], [30], seed=0)
    assert widened[0] > alone[0]
    assert among[0][0] > alone[0]


def test_flips_of_no_difference_and_of_no_value() -> None:
    x = np.array([[0.0] * 5, [np.nan] * 5])
    (result,) = sign_flip_p([x], [list("abcde")], [0], seed=0)
    assert result[0] == 1.0
    assert np.isnan(result[1])


def test_holm() -> None:
    # Worked by hand: sorted .01 .02 .03 .04 by 4, 3, 2, 1 give .04 .06 .06 .06.
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, np.nan, 0.04, 0.02])), [0.06, 0.04, np.nan, 0.06, 0.06])


# Intervals over seeds


def seed_simulation(trials: int, seeds: int, spread: float) -> tuple[float, float]:
    """How often the interval over both and that over samples alone hold the true difference of two groups, 0."""
    rng = np.random.default_rng(1)
    held = np.zeros(2)
    units = 60
    names = tuple(f"u{i}" for i in range(units))
    for trial in range(trials):
        sides = [
            [
                Term(
                    0.5 + spread * rng.standard_normal() + 0.3 * rng.standard_normal((units, 1)),
                    np.ones((units, 1)),
                    names,
                    10**9,
                )
                for _ in range(seeds)
            ]
            for _ in range(2)
        ]
        members = [[term.score for term in side] for side in sides]
        weights = np.repeat([1.0, -1.0], seeds) / seeds
        result = estimate(lambda x, weights=weights: x @ weights, [*sides[0], *sides[1]], members, trial)
        for i, one in enumerate((result.over_both, result.over_samples)):
            held[i] += one.low <= 0 <= one.high
    return tuple(held / trials)


def test_intervals_over_seeds_hold_the_truth_where_those_over_samples_do_not() -> None:
    both, samples = seed_simulation(300, 3, 0.1)
    assert both > 0.93
    assert samples < 0.7


def test_seeds_add_the_variance_of_a_sample_of_them() -> None:
    """By hand, of three seeds whose samples say nothing more: t(2) s / sqrt(3), with the s of n - 1."""
    spread = [0.1, 0.2, 0.6]
    terms = [
        Term(np.full((40, 1), 1 - each), np.ones((40, 1)), tuple(f"u{i}" for i in range(40)), 0) for each in spread
    ]
    result = estimate(lambda x: x.mean(axis=-1), terms, [spread], 0)
    assert result.over_both is not None and result.over_samples.low == pytest.approx(0.3)
    reach = stats.t.ppf(0.975, 2) * np.std(spread, ddof=1) / 3**0.5
    assert result.over_both.low == pytest.approx(0.3 - reach, rel=1e-6)
    assert result.over_both.high == pytest.approx(0.3 + reach, rel=1e-6)


@pytest.mark.parametrize(("share", "least"), [(True, 0.0), (False, -np.inf)])
def test_ends_of_sums_stop_where_scores_do(share: bool, least: float) -> None:
    """Two runs with 1 and 3 right answers of 4: a mean of shares lies in [0, 1], their difference in [-1, 1]; R2 has no lower bound."""
    terms = [Term(np.arange(4)[:, None] >= right, np.ones((4, 1)), tuple("abcd"), 3, share=share) for right in (1, 3)]
    mean = estimate_sum([([(term,) for term in terms], 1.0)], 0)
    apart = estimate_sum([([(terms[1],)], 1.0), ([(terms[0],)], -1.0)], 0)
    alone = estimate_sum([([(terms[0],)], 1.0)], 0)
    for made in (mean.over_samples, mean.interval, alone.interval):
        assert least <= made.low <= made.value <= made.high <= 1
    assert mean.interval.high == 1 and (apart.interval.high == 1) == share
    assert (mean.interval.low == 0) == (alone.interval.low == 0) == share


def test_one_seed_leaves_its_variance_unknown() -> None:
    one, other = (drawn_readout(np.random.default_rng(i), 20, np.array([0.5])) for i in range(2))
    result = estimate(lambda x: x[..., 0] - x[..., 1], [one.at_chosen, other.at_chosen], [[0.1], [0.2]], 0)
    assert result.over_both is None


def test_a_tap_minus_itself_is_0_for_any_number_of_seeds() -> None:
    """What rounding leaves of three terms minus the same three is no difference, and has no p value of its own."""
    rng = np.random.default_rng(0)
    weights = np.array([1.0, -1.0] * 3) / 3
    for _ in range(20):
        terms = [drawn_readout(rng, 40, rng.random(1)).at_chosen for _ in range(3)]
        doubled = [term for term in terms for _ in range(2)]
        result = estimate(lambda x: x @ weights, doubled, [[0.0, 0.0, 0.0]], 0)
        assert result.over_both is not None
        assert (result.value, result.over_both.low, result.over_both.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_shares_say_how_many_trainings_they_rest_on(make_run: Maker) -> None:
    """Of three seeds of a base two were aligned; of another base's three, one."""
    bases = [
        make_run(f"of three {seed}", (0.5, 2, 0.5), noise=2 + 2 * seed, lineage={"group": "base", "seed": seed})
        for seed in range(3)
    ]
    ups = [
        make_run(
            f"lifted {seed}",
            (0.5, 2, 1.5 + 0.1 * seed),
            noise=2 + 2 * seed,
            lineage={"group": "up", "seed": seed, "base": bases[seed].store.attrs["identity"]["weights"]},
        )
        for seed in range(2)
    ]
    result = dx.compare([*bases, *ups], similarity=None)
    one = shares(result, "up", "a")
    assert (one.seeds, one.of_seeds, alignment_name(one)) == (2, 3, "up (from base; 2 of 3 seeds)")
    assert {(each["seeds"], each["seeds_of_base"]) for each in result.to_json()["shares"]} == {(2, 3)}
    alone = shares(dx.compare([*bases, ups[0]], similarity=None), "up", "a")
    assert alignment_name(alone) == "up (from base; 1 of 3 seeds, over samples alone)"


def test_what_training_does_by_itself_is_taken_off(make_run: Maker) -> None:
    """The tap's part is the output minus the control's, paired; without a control it is not called lifted."""
    base = make_run("base of control", (0.5, 2, 0.5), lineage={"group": "base"})
    weights = base.store.attrs["identity"]["weights"]
    about: dict[str, Any] = {"group": "up", "base": weights, "seed": 0, "training": "one"}
    up = make_run("with control", (0.5, 2, 1.5), (1, 1, 1), lineage=about)
    of_it = about | {"group": "control of up", "control_of": "one", "training": "its own"}
    control = make_run("control", (0.5, 2, 1), (1, 1, 1.0), lineage=of_it)
    result = dx.compare([base, up, control], similarity=None)
    one, other = shares(result, "up", "a"), shares(result, "up", "b")
    by_hand = up.profile(LINEAR).output.value - control.profile(LINEAR).output.value
    assert one.over_control.value == pytest.approx(by_hand) and one.over_control.low > 0 and one.is_lifted
    assert one.recovered_over_control.value == pytest.approx(by_hand / base.profile(LINEAR).hidden_gap.value)
    assert one.recovered.value == pytest.approx(
        one.recovered_over_control.value + shares(result, "control of up", "a").recovered.value
    )
    # The same features of `b` at both outputs: nothing that the tap did.
    assert other.over_control.value == pytest.approx(0, abs=0.02) and not other.is_lifted
    assert shares(result, "control of up", "a").reasons["over_control"] == "it is a control itself"
    assert (
        "up: lifted by the tap, beyond its control, each by its own interval: a (R2); not shown to be lifted by the tap: b (R2)"
        in str(describe_lifts(result, [LINEAR, "linear_probe/b"]))
    )
    seed = make_run("control of another training", (0.5, 2, 1), lineage=of_it | {"control_of": "another"})
    alone = dx.compare([base, up, seed], similarity=None)
    assert shares(alone, "up", "a").reasons["over_control"] == "the run of its control is not among the runs"
    assert "lifted" not in " ".join(describe_lifts(alone, [LINEAR]))


def test_reading_the_tap_itself_stands_beside_what_training_did(make_run: Maker) -> None:
    base = make_run("base of cut", (0.5, 2, 0.5), (1, 1, 0.5), lineage={"group": "base"})
    about = {"base": base.store.attrs["identity"]["weights"], "seed": 0, "training": "one"}
    up = make_run("lifted", (0.5, 2, 1.5), (1, 1, 1), lineage=about | {"group": "up", "to": "stage.0"})
    of_it = about | {"group": "control", "control_of": "one", "to": "stage.2"}
    control = make_run("control of lifted", (0.5, 2, 1), (1, 1, 1), lineage=of_it)
    result = dx.compare([base, up, control], similarity=None)
    # Of `a` stage.0 holds no more than the output, of `b` all that it hides.
    a, b = (shares(result, "up", target) for target in ("a", "b"))
    assert (a.cut_is, b.cut_is) == ("recovered", "recovered") and a.cut.value == pytest.approx(0, abs=2e-3)
    # Its best tap is this one or stage.1, which holds `b` alike.
    assert b.cut.value == pytest.approx(1, abs=0.02)
    assert shares(result, "control", "a").cut is None and "cut" not in shares(result, "control", "a").reasons
    row = next(one for one in result.to_json()["shares"] if one["profile"] == LINEAR and one["alignment"] == "up")
    assert row["cut_is"] == "recovered" and row["cut"]["value"] == a.cut.value
    # Where nothing is hidden it is what is kept: of `a` at stage.0 a known share of the output.
    base = make_run("base of kept", (0.5, 2, 2), lineage={"group": "base"})
    about |= {"base": base.store.attrs["identity"]["weights"], "group": "up"}
    for to, known in (("stage.0", known_r2(0.5) / known_r2(2)), ("stage.9", None)):
        up = make_run(f"to {to}", (0.5, 2, 1.5), lineage=about | {"to": to})
        one = shares(result := dx.compare([base, up], similarity=None), "up", "a")
        if known is None:
            assert one.cut is None and one.reasons["cut"] == "the run of the base has no tap stage.9"
        else:
            assert one.cut_is == "kept" and one.cut.low < known < one.cut.high
            assert one.cut.value == pytest.approx(known, abs=0.1)
            section = next(each for each in comparison_page(result).sections if each.anchor == "alignments")
            (table,) = (block for block in section.blocks if isinstance(block, Table))
            cells = dict(zip([column.name for column in table.columns], table.rows[0].cells, strict=True))
            assert isinstance(cells["cut"], Number) and cells["cut"].text().endswith("kept")


def test_a_gap_too_small_for_a_share_is_not_called_unknown() -> None:
    one, other = (small_gap(gap) for gap in (0.995, 0.999))
    result = shares_of("linear_probe/a", "up", "base", 1, False, [(one, other)], ["none"], [""], 0)
    assert result.gap.low > 0
    assert result.recovered is None
    assert result.reasons["recovered"] == "what the base's output hides of it is below 0.01, too little for a share"


def small_gap(share: float) -> ProbeLosses:
    """Losses of .1 at the best tap, and a little more at the output in every unit."""
    rng = np.random.default_rng(0)
    best = 0.1 + 0.001 * rng.random((40, 1))
    loss = np.stack([best, best / share])
    profile: Any = SimpleNamespace(data=SimpleNamespace(attrs={"chance": 0.0}), over=lambda _: None)
    units = tuple(f"u{i}" for i in range(40))
    return ProbeLosses(loss, np.ones_like(loss), np.array([0.5, 1.0]), ("a", "b"), units, 0, 0, 1, 100, profile)


def test_an_alignment_is_held_against_its_own_base_run_by_run(make_run: Maker) -> None:
    """Bases of very different gaps, each aligned by the same gain: paired by seed the difference is known well."""
    sides = []
    for seed, gain in enumerate((0.3, 0.6, 1.2)):
        lineage = {"group": "from", "seed": seed}
        base = make_run(f"from{seed}", (0.5, 3, gain), noise=2 + 2 * seed, lineage=lineage)
        weights = base.store.attrs["identity"]["weights"]
        up = make_run(
            f"to{seed}",
            (0.5, 3, gain * 1.3),
            noise=2 + 2 * seed,
            lineage={"group": "to", "seed": seed, "base": weights},
        )
        sides += [base, up]
    paired = difference(dx.compare(sides, similarity=None), "to", "from", "output").estimate
    assert paired.interval.low > 0
    groups = {
        "f": [probe_losses(side.profile(LINEAR)) for side in sides[::2]],
        "t": [probe_losses(side.profile(LINEAR)) for side in sides[1::2]],
    }
    _, loose, _ = differences_of({LINEAR: groups}, 0, {})
    assert paired.value == pytest.approx(loose.estimate.value)
    width = [one.interval.high - one.interval.low for one in (paired, loose.estimate)]
    assert width[0] < 0.5 * width[1]
    fewer = dx.compare([*sides[:2], sides[2]], similarity=None)
    only = difference(fewer, "to", "from", "output").estimate.value
    outputs = [side.profile(LINEAR).output.value for side in sides[:2]]
    assert only == pytest.approx(outputs[1] - outputs[0])


@pytest.mark.slow
def test_seeds_are_grouped_and_named(make_run: Maker) -> None:
    runs = []
    for group, gain in (("x", 2.0), ("y", 1.0)):
        for seed in range(3):
            lineage = {"group": group, "seed": seed}
            gains = (0.5, gain + 0.02 * seed, 0.5)
            runs.append(make_run(f"{group}{seed}", gains, noise=2 + 2 * seed, lineage=lineage))
    result = dx.compare(runs[::-1])
    assert {group: [side.seed for side in sides] for group, sides in result.groups.items()} == {
        "y": [0, 1, 2],
        "x": [0, 1, 2],
    }
    assert result.members[0].name == "y seed 2"
    best = difference(result, "x", "y", "chosen tap")
    assert best.estimate.over_both is not None
    assert best.survives
    standing = next(one for one in result.group_scores if (one.group, one.profile) == ("x", LINEAR))
    alone = [run.profile(LINEAR).score.value for run in runs[:3]]
    assert standing.chosen.value == pytest.approx(np.mean(alone), abs=1e-12)
    assert standing.chosen_tap_text == "stage.1 (0.50) 3/3"
    # One pair between the groups and one within each.
    assert [(one.first, one.second) for one in result.tap_similarities] == [
        ("y seed 0", "x seed 0"),
        ("y seed 0", "y seed 1"),
        ("x seed 0", "x seed 1"),
    ]


def test_labels_overrule_and_runs_that_nothing_tells_apart_are_named_by_folder(make_run: Maker) -> None:
    one, other = make_run("twin"), make_run("twin again")
    one.store.attrs["encoder"]["name"] = other.store.attrs["encoder"]["name"] = "twin"
    result = dx.compare([one, other], similarity=None)
    assert [side.name for side in result.members] == ["twin (twin)", "twin (twin again)"]
    result = dx.compare([f"first={one.path}", other.path], similarity=None)
    assert [side.group for side in result.members] == ["first", "twin again"]
    with refusal("unclear", "labelled x"):
        dx.compare([f"x={one.path}", f"x={other.path}"])
    with refusal("duplicate"):
        dx.compare([one, one])
    with refusal("too-few"):
        dx.compare([one])


# One axis of depth


def test_curves_stand_on_one_axis_of_depth(make_run: Maker, base: Run) -> None:
    five = make_run("five", (0.5, 1, 2, 1, 0.5), (1,) * 5)
    head = make_run("head", (0.5, 2, 1.5, 0.5), (1,) * 4, heads=1)
    result = dx.compare([base, five, head], similarity=None)
    data = result.to_xarray()
    assert data["score"].dims == ("run", "target", "depth")
    assert list(data["depth"].values) == [0, 0.25, 0.5, 0.75, 1, 1.5]
    curve = data["score"].sel(target=LINEAR)
    own = base.profile(LINEAR).data["score"].values
    between = [own[0], (own[0] + own[1]) / 2, own[1], (own[1] + own[2]) / 2, own[2], np.nan]
    np.testing.assert_allclose(curve.sel(run="base").values, between, atol=1e-12)
    np.testing.assert_array_equal(curve.sel(run="five").values[:5], five.profile(LINEAR).data["score"].values)
    assert list(data["tap"].sel(run="base").values) == ["stage.0", "", "stage.1", "", "stage.2", ""]
    assert list(data["tap"].sel(run="head").values) == ["stage.0", "", "stage.1", "", "stage.2", "stage.3"]
    drop = data.sel(run="head", target=LINEAR)
    assert drop["head_drop_low"] < known_r2(1.5) - known_r2(0.5) < drop["head_drop_high"]
    assert str(drop["head_tap"].values) == "stage.3"
    assert np.isnan(data["head_drop"].sel(run="base", target=LINEAR))
    standing = next(one for one in result.group_scores if (one.group, one.profile) == ("head", LINEAR))
    assert standing.head_drop.value == pytest.approx(float(drop["head_drop"]))


def test_losses_between_taps_give_the_score_between_them() -> None:
    one = drawn_readout(np.random.default_rng(0), 30, np.array([0.2, 0.8, 0.5]))
    loss = by_depth(one.loss, one.depths, np.array([0.125]))
    ends = scores(one.loss, one.reference)
    assert scores(loss, one.reference[:1])[0] == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])
    assert by_depth(ends, one.depths, np.array([0.125]))[0] == pytest.approx(0.75 * ends[0] + 0.25 * ends[1])


def test_of_two_taps_at_one_depth_the_later_counts() -> None:
    values, depths = np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 1.0])
    assert by_depth(values, depths, np.array([1.0]))[0] == 0.3
    assert list(common_depths([depths, np.array([0.5, 1 + 1e-9])])) == [0.0, 0.5, 1.0]


def test_influences_of_units_sum_to_the_difference_of_scores() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((20, 3)) + 0.1
    reference[:, 2] = 0  # a part that is not there
    a, b = rng.random((2, 20, 3))
    difference = np.subtract(*scores(np.stack([a, b]), np.stack([reference] * 2)))
    assert score_influence(b - a, reference).sum() == pytest.approx(difference)


# Where taps correspond


def test_taps_are_found_where_they_stand_in_the_other_run(make_run: Maker) -> None:
    """The second run holds the first's taps 0 and 2 at its depths 0 and 1/3, then taps that the first does not have."""
    silent = (0.0, 0.0, 0.0)
    one = make_run("here", silent, silent, (2, 4, 6))
    other = make_run("there", (0.0,) * 4, (0.0,) * 4, (2, 6, 9, 11))
    (result,) = dx.compare([one, other]).tap_similarities
    assert result.aligned[0] == 0.0
    assert np.isnan(result.aligned[1])
    assert result.aligned[2] == pytest.approx(1 / 3)
    assert result.at_outputs < 0.1


def test_without_what_chance_reaches_no_tap_has_a_position() -> None:
    data = xr.Dataset(
        {"matrix": (("tap", "tap_other"), np.eye(2))},
        coords={
            "tap": ["a", "b"],
            "tap_other": ["c", "d"],
            "depth": ("tap", [0.0, 1.0]),
            "depth_other": ("tap_other", [0.0, 1.0]),
        },
        attrs={"measure": "cka", "at_outputs": 1.0},
    )
    known = data.assign(p=(("tap", "tap_other"), np.array([[0.05, 1.0], [1.0, 0.01]])))
    unknown = data.assign(p=(("tap", "tap_other"), np.full((2, 2), np.nan))).assign_attrs(no_null="three samples")
    for result, expected, sentence in (
        (known, [0.0, 1.0], "most similar depths: 0.00 (a) with 0.00, 1.00 (b) with 1.00"),
        (data, [np.nan] * 2, "the chance level is not known, so no depths are matched"),
        (unknown, [np.nan] * 2, "the chance level is not known (three samples), so no depths are matched"),
    ):
        sides: list[Any] = [
            SimpleNamespace(
                name=name,
                run=SimpleNamespace(
                    store=SimpleNamespace(output_tap=tap), similarity_with=lambda *_, result=result: result
                ),
            )
            for name, tap in (("x", "b"), ("y", "d"))
        ]
        one = tap_similarity(*sides, "other", 0)
        np.testing.assert_array_equal(one.aligned, expected)
        assert describe_similarity(one).endswith(sentence)


# Refusals


def test_runs_on_different_data_are_refused_with_the_difference(make_run: Maker, base: Run) -> None:
    with refusal("not-comparable", "100 of 600", "s500"):
        dx.compare([base, make_run("fewer", data={"n": 500})])
    with refusal("not-comparable", "target a", "s0"):
        dx.compare([base, make_run("another seed", data={"seed": 1})])


def changed(make_run: Maker, name: str, change: Callable[[dx.Dataset], Any], folder: Path) -> Run:
    data = graded_data()
    again = change(data)
    encoder = graded_encoder(name, (0.5, 2, 0.5), (1, 1, 1))
    return dx.run(encoder, again, out=folder / name, measures="linear_probe", controls=False, report=False)


def rebuilt(data: dx.Dataset, **other: Any) -> dx.Dataset:
    parts = {"samples": data.samples, "split": list(data.split), "targets": data.targets} | other
    return dx.Dataset(data.name, data.modality, ids=data.ids, **parts)


def test_other_splits_targets_and_content_are_refused_by_name(make_run: Maker, base: Run, tmp_path: Path) -> None:
    def other_split(data: dx.Dataset) -> dx.Dataset:
        split = list(data.split)
        split[0], split[6] = split[6], split[0]
        return rebuilt(data, split=split)

    def without(data: dx.Dataset) -> dx.Dataset:
        return rebuilt(data, targets={"a": data.targets["a"]})

    def other_noise(data: dx.Dataset) -> dx.Dataset:
        samples = np.array(data.samples)
        samples[:, 5] += 1
        return rebuilt(data, samples=samples)

    for change, sentence in (
        (other_split, r"splits differ in 2 samples \(s0 is train in one, val in the other\)"),
        (without, "only one of them has the target b"),
        (other_noise, "other data under the same sample ids"),
    ):
        with pytest.raises(DiagnosticsError, match=sentence):
            dx.compare([base, changed(make_run, change.__name__, change, tmp_path)])


def test_other_protocols_are_refused_and_other_measures_left_out(make_run: Maker, base: Run) -> None:
    seeded = make_run("seeded", run={"seed": 5})
    with refusal("not-comparable", "(0 and 5)"):
        dx.compare([base, seeded])
    versions = base.index.calls[-1]["versions"]
    versions["encoder-diagnostics"] += "x"
    with refusal("not-comparable", "versions"):
        dx.compare([base, make_run("older")])
    versions["encoder-diagnostics"] = dx.__version__
    fewer = make_run("one tap, few taps", (0.5, 2, 0.5), run={"taps": "stage.0"})
    with refusal("not-comparable", "stage.1"):
        dx.compare([base, fewer])
    more = make_run("more", run={"measures": "linear_probe,effective_rank"})
    result = dx.compare([base, more], similarity=None)
    assert result.left_out == {"effective_rank": "not measured in base"}
    less = make_run("less", run={"measures": "effective_rank"})
    with refusal("not-comparable", "no measure"):
        dx.compare([base, less])
    both = dx.compare(
        [more, make_run("more again", noise=4, run={"measures": "linear_probe,effective_rank"})], similarity=None
    )
    assert np.isfinite(both.data["score"].sel(target="effective_rank").values).all()
    assert all(one.profile != "effective_rank" for one in both.differences)


def test_other_pooling_is_refused_with_the_option_that_mends_it(tmp_path: Path) -> None:
    def two_steps(name: str, **options: Any) -> Run:
        encoder = graded_encoder(name, (0.5, 2, 0.5), (1, 1, 1))
        taps = [dx.Tap(t.name, t.depth, t.part, 1, dx.Grid((2,), ("t",)), t.site) for t in encoder.taps]
        module = encoder.module
        for stage in module.stages:
            stage.register_forward_hook(lambda module, args, out: out.transpose(1, 2))
        encoder = dx.TorchEncoder(name, "series", module, taps, example=encoder.example())
        data = graded_data()
        return dx.run(
            encoder, data, out=tmp_path / name, measures="linear_probe", controls=False, report=False, **options
        )

    assert GRID.tokens == 1
    one, other = two_steps("both"), two_steps("only mean", pooling="mean")
    assert list(one.store.poolings) == ["mean", "last"]
    assert other.profile(LINEAR).data.attrs["pooling"] == "mean"
    with refusal("not-comparable", "--pooling mean"):
        dx.compare([one, other])
    dx.compare([two_steps("mean too", pooling=["mean"]), other], similarity=None)
    with refusal("unknown-name", "maen"):
        two_steps("typo", pooling="maen")


# What is said


def test_json_holds_all_findings_as_plain_numbers(bought: Comparison) -> None:
    result = json.loads(json.dumps(bought.to_json(), allow_nan=False))
    assert [run["name"] for run in result["runs"]] == ["started", "identity", "copy", "half"]
    assert len(result["differences"]) == 3 * 6 * 3
    one = next(x for x in result["shares"] if (x["alignment"], x["profile"]) == ("half", LINEAR))
    assert one["recovered"]["value"] == shares(bought, "half", "a").recovered.value
    assert one["made_for_it"]
    profile = next(x for x in result["profiles"] if x["profile"] == LINEAR)
    assert len(profile["runs"]["started"]["score"]) == len(result["depth"])
