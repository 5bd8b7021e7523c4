"""Rules that choose a tap: regrets known by hand, what no rule sees, advice, and what cannot be judged."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import diagnostics as dx
from diagnostics.measures import result as attribute
from diagnostics.measures.regret_rules import DIRECTIONS, OTHERS, RULES, Evidence
from diagnostics.registry import Entry
from diagnostics.runs.choice import PUBLISHED, Cell, Choice, choose, judge
from tests.support.commands import diagnose, refused
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

TAPS = ["embed", "a", "b", "c", "norm"]
DEPTH = [0.0, 1 / 3, 2 / 3, 1.0, 1.0]
RUNS = {"e": 1}
ENTRIES = {name: Entry(rule, labels=labels) for name, (rule, labels) in RULES.items()}


def cell(
    target: str,
    test: Sequence[float],
    fit: Sequence[float] | None = None,
    encoder: str = "e",
    dataset: str = "d",
    **measured: Sequence[float],
) -> Cell:
    """A target whose accuracies on 20 test units and out of fold are these, with measures by tap."""

    def wrong(scores: Sequence[float]) -> Any:
        return ("tap", "u"), np.stack([np.arange(20) >= round(20 * score) for score in scores]).astype(float)

    fit = test if fit is None else fit
    ones = np.ones((len(TAPS), 20))
    loss, oof = wrong(test)[1], wrong(fit)[1]
    used = int(np.argmax(fit))
    attrs = {
        attribute.TARGET: target, attribute.LOSSES: "counts", attribute.OUTPUT_TAP: "norm", attribute.SEED: 0,
        attribute.CHOSEN_TAP: TAPS[used], attribute.UNITS_TRAIN: 60, attribute.UNITS_VAL: 20,
    }  # fmt: skip
    data = {
        "loss": (("tap", "unit"), loss), "reference_loss": (("tap", "unit"), ones), "val_score": ("tap", list(fit)),
        "oof_loss": (("tap", "fit_unit"), oof), "oof_reference": (("tap", "fit_unit"), ones),
    }  # fmt: skip
    beside = {
        name: xr.Dataset({"score": ("tap", list(x))}, {"tap": TAPS}, {attribute.TARGET: ""})
        for name, x in measured.items()
    }
    return Cell(encoder, dataset, xr.Dataset(data, {"tap": TAPS, "depth": ("tap", DEPTH)}, attrs), beside)


FIRST = cell("first", [0.5, 0.6, 0.9, 0.7, 0.6], rankme=[1, 2, 3, 9, 4], infonce=[5, 1, 2, 3, 4])
SECOND = cell("second", [0.4, 0.8, 0.6, 0.6, 0.5])
THIRD = cell("third", [0.5, 0.95, 0.8, 0.6, 0.5])


def regrets(choice: Choice) -> dict[str, float]:
    return {each.rule: round(each.regret.value, 6) for each in choice.rules}


def test_regrets_are_those_known_by_hand() -> None:
    found = regrets(judge([FIRST, SECOND, THIRD], ENTRIES, RUNS))
    # The recommended taps score .9, .8 and .95.
    assert found["output"] == pytest.approx((0.3 + 0.3 + 0.45) / 3, abs=1e-6)
    assert found["random"] == pytest.approx((0.24 + 0.22 + 0.28) / 3, abs=1e-6)
    # The last that is less deep than norm is b; c is what norm is given.
    assert found["second last"] == pytest.approx((0 + 0.2 + 0.15) / 3, abs=1e-6)
    assert found["before the norm"] == pytest.approx((0.2 + 0.2 + 0.35) / 3, abs=1e-6)
    # Halfway between a and b: the first of equals; b is nearest 2/3 and 3/4.
    assert found["depth 1/2"] == pytest.approx((0.3 + 0 + 0) / 3)
    assert found["depth 2/3"] == found["depth 3/4"] == found["second last"]
    # Each other alone: the first learns a twice; the second b or a; the third b or a.
    assert found["best of 1 other"] == pytest.approx((0.3 + 0.1 + 0.075) / 3, abs=1e-6)
    # Relative losses: of the first and third b is best together, of the first and second b too.
    assert found[OTHERS] == pytest.approx((0.3 + 0.2 + 0.15) / 3, abs=1e-6)
    # Only the first has them: RankMe is largest at c, InfoNCE smallest at a.
    assert (found["rankme"], found["infonce"]) == (pytest.approx(0.2), pytest.approx(0.3))
    assert found["best on val"] == 0


def test_a_share_is_that_of_the_outputs_regret_and_depth_the_cost() -> None:
    choice = judge([FIRST, SECOND, THIRD], ENTRIES, RUNS)
    assert choice.regret("output").share == pytest.approx(1)
    assert choice.regret("random").share == pytest.approx((0.24 + 0.22 + 0.28) / 1.05)
    assert choice.regret("second last").depth == pytest.approx(2 / 3)
    # Runs of an earlier version have no FLOPs, which is said.
    assert math.isnan(choice.regret("output").flops) and "FLOPs" in choice.left_out
    assert choice.regret("second last").labels == "none"


def test_no_rule_sees_test() -> None:
    seen: list[Evidence] = []

    def watch(evidence: Evidence) -> str:
        seen.append(evidence)
        return evidence.output

    shuffled = cell("first", [0.7, 0.9, 0.5, 0.6, 0.6], [0.5, 0.6, 0.9, 0.7, 0.6])
    for one in (replace(FIRST, beside={}), shuffled):
        judge([one, SECOND], {"watch": Entry(watch)}, RUNS)
    assert seen[0] == seen[2] and seen[1] == seen[3]


def test_the_same_target_of_another_draw_of_the_data_is_no_other() -> None:
    again = cell("first", [0.9, 0.1, 0.1, 0.1, 0.1], dataset="d?seed=1")
    choice = judge([replace(FIRST, dataset="d?seed=0"), again], ENTRIES, RUNS)
    assert {"best of 1 other", OTHERS} <= choice.left_out.keys()


def test_a_rule_without_information_loses_what_a_random_tap_does() -> None:
    rng = np.random.default_rng(0)
    cells = []
    for i in range(30):
        test = rng.permutation([0.3, 0.5, 0.7, 0.8, 0.9])
        cells.append(cell(f"t{i}", test, dataset=f"d{i}", two_nn=rng.random(5)))
    choice = judge(cells, ENTRIES, RUNS)
    blind, random = choice.regret("two_nn"), choice.regret("random")
    assert blind.over_tasks.low < random.regret.value < blind.over_tasks.high
    assert random.regret.value == pytest.approx(0.9 - 0.64)


def test_a_rule_that_fails_is_named_and_the_others_go_on() -> None:
    def broken(evidence: Evidence) -> str:
        raise RuntimeError("not today")

    rules = {
        "broken": Entry(broken),
        "strange": Entry(lambda evidence: "no such tap"),
        "too much": Entry(lambda evidence: {"a": 0.7, "b": 0.7}),
        "output": ENTRIES["output"],
    }
    choice = judge([FIRST], rules, RUNS)
    assert [each.rule for each in choice.rules] == ["output"]
    assert choice.left_out.keys() - {"FLOPs"} == {"broken", "strange", "too much"}
    assert "not today" in choice.left_out["broken"]


def test_encoders_widen_the_interval_over_tasks() -> None:
    cells = [
        cell(f"t{i}", np.roll([0.9, 0.6 - shift, 0.5, 0.5, 0.7 - shift], 0), encoder=name, dataset=f"d{i}")
        for name, shift in (("e", 0.0), ("f", 0.3), ("g", 0.3))
        for i in range(4)
    ]
    both = judge(cells, ENTRIES, {"e": 1, "f": 1, "g": 1}).regret("output").over_tasks
    one = judge(cells[:4], ENTRIES, RUNS).regret("output").over_tasks
    assert both.value == pytest.approx(0.4) and both.high - both.low > one.high - one.low


def test_the_advice_is_the_tap_for_all_targets_and_says_where_it_rests_on_few() -> None:
    (advice,) = judge([FIRST, SECOND, THIRD], ENTRIES, RUNS).advice
    # Relative losses add up to 1.80 at a and 1.85 at b.
    assert (advice.tap, advice.targets) == ("a", 3)
    assert advice.regret is not None and advice.regret.rule == OTHERS
    assert "few targets (3)" in str(advice)
    (alone,) = judge([FIRST], ENTRIES, RUNS).advice
    assert alone.regret is None and alone.tap == "b"
    many = [cell(f"t{i}", [0.5, 0.6, 0.9, 0.7, 0.6]) for i in range(5)]
    assert "few" not in str(judge(many, ENTRIES, RUNS).advice[0])


def test_the_advice_is_no_surer_than_the_units_of_its_targets() -> None:
    # Each loses .1 by the tap of the other, which says nothing of the samples that both were measured on.
    (advice,) = judge(
        [cell("one", [0.5, 0.9, 0.8, 0.5, 0.5]), cell("two", [0.5, 0.8, 0.9, 0.5, 0.5], dataset="d2")], ENTRIES, RUNS
    ).advice
    lost, expected = advice.regret, advice.expected
    assert lost is not None and expected is not None
    assert lost.over_tasks.high - lost.over_tasks.low == pytest.approx(0)
    assert (expected.value, expected.low, expected.high) == pytest.approx((0.1, lost.regret.low, lost.regret.high))
    assert expected.low < 0.05 and expected.high > 0.15


def test_targets_of_one_dataset_are_one_draw() -> None:
    def over_tasks(*datasets: str) -> Any:
        scores = ([0.9, 0.1, 0.1, 0.1, 0.1], [0.5, 0.9, 0.5, 0.5, 0.5], [0.7, 0.1, 0.9, 0.1, 0.8])
        cells = [cell(f"t{i}", scores[i], dataset=name) for i, name in enumerate(datasets)]
        return judge(cells, ENTRIES, RUNS).regret("output").over_tasks

    assert math.isnan(over_tasks("d", "d", "d?n=2").low), "one dataset says nothing of others"
    apart, two = over_tasks("d1", "d2", "d3"), over_tasks("d1", "d2?seed=1", "d2?seed=2")
    assert apart.value == two.value and two.high - two.low > apart.high - apart.low


def test_a_run_with_few_labels_is_not_told_to_measure_them(runs: list[Path]) -> None:
    left_out = choose(runs[0]).left_out
    assert "--measures" not in left_out["256 labels"]
    assert "--measures" in choose(runs[1]).left_out["16 labels"]


def test_every_direction_is_that_of_a_bundled_measure() -> None:
    from diagnostics.measures import load_bundled

    assert load_bundled().keys() >= DIRECTIONS.keys()


def test_the_default_is_what_the_study_says() -> None:
    summary = Path(__file__).parents[2] / "docs" / "studies" / "public-layers" / "summary.json"
    if not summary.is_file():
        pytest.skip("tests run without the docs beside them")
    named = {"random": "random", "output": "the last layer", "second last": "second last"}
    named["best of 3 others"] = "best of 3 other tasks"
    rows = {row["rule"]: row["regret"]["value"] for row in json.loads(summary.read_text("utf-8"))["all"]}
    assert {rule: round(rows[name], 3) for rule, name in named.items()} == PUBLISHED
    assert all(str(value) in str(choose([])) for value in PUBLISHED.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, options = tmp_path_factory.mktemp("choice"), {"controls": False, "report": False, "token_budget": 0}
    made = []
    for name, seed, measures, more in (
        ("one", 0, "linear_probe,rankme,logme,tap_set,label_efficiency", {}),
        ("other", 3, "linear_probe", {}),
        ("alone", 0, "linear_probe", {"taps": ["norm"]}),
        ("bare", 0, "rankme", {}),
    ):
        out = folder / name
        dx.run(tiny_encoder(seed), tiny_dataset(60), out=out, measures=measures, **options, **more)
        made.append(out)
    return made


def test_runs_are_judged_and_printed(runs: list[Path]) -> None:
    out = json.loads(diagnose("choose", runs[0], runs[1], "--json").out)
    assert [advice["runs"] for advice in out["advice"]] == [1, 1]
    by_rule = {row["rule"]: row for row in out["rules"]}
    assert by_rule["rankme"]["cells"] < by_rule["random"]["cells"] and "lidar" in out["left_out"]
    assert (by_rule["logme"]["labels"], by_rule["logme"]["cells"]) == ("all", by_rule["rankme"]["cells"])
    # What a pass costs: that of the output is the deepest.
    assert 0 < by_rule["depth 1/2"]["flops"] < by_rule["output"]["flops"] and "FLOPs" not in out["left_out"]
    assert by_rule["16 labels"]["labels"] == "16" and "256 labels" in out["left_out"]
    # All taps side by side lose what the set gains.
    gain = dx.open_run(runs[0]).profile("tap_set/level").data["set_gain"].sel(set="all")
    other = dx.open_run(runs[0]).profile("tap_set/kind").data["set_gain"].sel(set="all")
    assert by_rule["all side by side"]["regret"]["value"] == pytest.approx(-float(gain + other) / 2)
    shown = diagnose("choose", runs[0]).out
    assert {"random", "output", "noise floor of test", "rankme"} <= {line.split("  ")[0] for line in shown.splitlines()}
    assert "second last" in diagnose("choose").out


def test_what_cannot_be_judged_is_refused_in_a_sentence(runs: list[Path], tmp_path: Path) -> None:
    with refusal("too-few", runs[2]):
        choose(runs[2])
    with refusal("no-target", runs[3]):
        choose(runs[3])
    with refusal("duplicate"):
        choose([runs[0], runs[0]])
    data, options = tiny_dataset(60, name="elsewhere"), {"controls": False, "report": False, "token_budget": 0}
    other = dx.run(tiny_encoder(3), data, out=tmp_path / "other", measures="linear_probe", **options)
    with refusal("not-comparable"):
        choose([runs[0], other])
    assert refused("choose", runs[3])
