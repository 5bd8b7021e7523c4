"""A measure declares what its numbers are, and no statistic is read off a name that is shown."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

import diagnostics as dx
from diagnostics.activations.contract import StoredTarget
from diagnostics.measures import load_bundled
from diagnostics.measures.apply import against_control, measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.statistics import interval, resample_counts
from diagnostics.runs.results.profile import Profile
from diagnostics.runs.results.run_data import with_declaration
from tests.support.declared import Ranks

ROOT = Path(__file__).parents[2]
TEST, FIT = 16, 64
SPLIT = np.repeat(["train", "val", "test"], [48, 16, TEST])


class Guess(dx.Measure):
    """A stranger's probe, that reads a class off the sign of a tap's only feature."""

    name, answers, source, kinds = "guess", "Which class is it?", "a stranger", ("label",)
    losses, score_name = "counts", "accuracy"

    def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
        taps = [tap.name for tap in activations.taps]
        wrong = np.stack([(activations.pooled(tap)[:, 0] > 0) != target.values for tap in taps]).astype(float)
        test, val = (wrong[:, activations.split == split] for split in ("test", "val"))
        losses = {"loss": test, "val_loss": val}
        losses |= {"reference_loss": np.ones_like(test), "val_reference": np.ones_like(val)}
        variables = {name: (("tap", "val_unit" if "val" in name else "unit"), x) for name, x in losses.items()}
        coords = {
            "tap": taps,
            **{f"{p}unit": activations.ids[activations.split == s] for p, s in (("", "test"), ("val_", "val"))},
        }
        attrs = {"functional": "share of right answers", "pooling": "mean", "centring": "none", "seed": seed}
        units = {"units_train": int((activations.split == "train").sum()), "units_val": val.shape[1]}
        return xr.Dataset(variables | {"val_score": ("tap", 1 - val.mean(axis=1))}, coords, attrs | units)


class TopFive(Guess):
    score_name = "top-5 accuracy"


def classes(right: int = TEST) -> tuple[Arrays, StoredTarget]:
    """Two taps of 80 samples: the first tells the class of all but some of test, the second of half of them."""
    labels = np.arange(80) % 2
    sure = np.where(labels == 1, 1.0, -1.0)
    sure[80 - TEST + right :] *= -1
    return Arrays({"first": sure[:, None], "output": np.ones((80, 1))}, SPLIT.tolist()), StoredTarget(
        "kind", "label", labels
    )


def stored(*targets: StoredTarget) -> Any:
    """A store of these targets."""
    return SimpleNamespace(targets=lambda: {target.name: target for target in targets})


def results(measure: dx.Measure, activations: Any, target: StoredTarget, seed: int = 0) -> xr.Dataset:
    measured = measure_all([measure], activations.with_other(seed=seed), {target.name: target})
    assert not measured.skipped
    return measured.results[f"{measure.name}/{target.name}"]


@pytest.mark.parametrize("right", [16, 9, 0])
def test_a_score_of_any_name_whose_losses_are_counts_has_the_interval_of_accuracy(right: int) -> None:
    own, accuracy = (results(kind(), *classes(right)) for kind in (TopFive, Guess))
    assert own.attrs["score_name"] == "top-5 accuracy"
    same = {key: value for key, value in own.attrs.items() if key != "score_name"}
    assert same == {key: value for key, value in accuracy.attrs.items() if key != "score_name"}
    xr.testing.assert_equal(own, accuracy)
    if right == 16:
        ends = [round(float(own[end].sel(tap="first")), 3) for end in ("score", "low", "high")]
        assert ends == [1.0, 0.770, 1.0], "Clopper and Pearson for 16 of 16, widened for 64 units fitted"


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({}, "losses and score_name"),
        ({"losses": "counts"}, "score_name"),
        ({"losses": "errors", "score_name": "rate"}, "losses"),
        ({"losses": "resampled", "score_name": "RMSE", "higher_is_better": False}, "higher_is_better"),
    ],
)
def test_a_probe_that_does_not_say_what_its_numbers_are_is_refused_with_what_to_write(
    more: dict[str, Any], missing: str
) -> None:
    with pytest.raises(
        dx.DiagnosticsError, match=f'^Probe mine does not declare {missing}: write losses = "counts" '
    ) as info:
        type("Mine", (dx.Measure,), {"name": "mine", "kinds": ("label",), **more})
    assert 'score_name = "..."' in str(info.value) and "chance" in str(info.value)
    type("Open", (dx.Measure,), {"name": "open"})  # no probe


def test_losses_of_a_measure_without_target_are_declared_too() -> None:
    class Places(Guess):
        name, kinds, family = "places", (), "geometry"
        losses: ClassVar[Any] = None

        def compute(self, activations: Any, target: Any, seed: int) -> xr.Dataset:
            return super().compute(activations, classes()[1], seed)

    measured = measure_all([Places()], classes()[0], {})
    assert measured.skipped["places"].startswith(
        "Measure places gives losses and does not declare losses: write losses = "
    )


def test_a_score_that_is_no_sum_gets_interval_gap_and_tap_from_its_draws() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(160)
    split = np.repeat(["val", "test"], 80).tolist()
    taps = {
        name: (truth + noise * rng.standard_normal(160))[:, None]
        for name, noise in (("weak", 2), ("best", 0.3), ("output", 1))
    }
    data = results(Ranks(), Arrays(taps, split), StoredTarget("y", "value", truth), seed=7)
    tests = [spearmanr(x[80:, 0], truth[80:]).statistic for x in taps.values()]
    assert data["score"].values == pytest.approx(tests)
    # By hand, from the same draws of units.
    order = np.argsort(np.argsort([f"{name}" for name in Arrays(taps, split).ids[80:]]))
    counts = resample_counts(80, 0).astype(int)[:, order]
    drawn = np.array(
        [
            [spearmanr(np.repeat(x[80:, 0], n), np.repeat(truth[80:], n)).statistic for x in taps.values()]
            for n in counts[:300]
        ]
    )
    stored_draws = data["drawn"].values[:, 1:].T
    assert np.allclose(stored_draws[:300], drawn)
    drawn = stored_draws
    ends = [interval(tests[i] - tests[2], drawn[:, i] - drawn[:, 2], 80) for i in range(2)]
    profile = Profile.of("ranks", "y", data, {})
    assert (profile.chosen_tap, profile.best_tap) == ("best", "best")
    gap = profile.hidden_gap
    assert gap is not None and (gap.low, gap.high) == pytest.approx(tuple(map(float, ends[1])))
    widest = [interval(tests[i] - tests[2], drawn[:, i] - drawn[:, 2], 80, student=True) for i in range(2)]
    assert profile.gap_bound == pytest.approx(max(float(high) for _, high in widest))
    assert (data["low"].values[0], data["high"].values[0]) == pytest.approx(
        tuple(map(float, interval(tests[0], drawn[:, 0], 80)))
    )
    assert profile.verdict == "shown" and profile.is_probe and profile.tap_set == ["best"] and profile.skew == ""
    # A control is paired by the same draws.
    lost = results(Ranks(), Arrays({"only": taps["weak"]}, split), StoredTarget("y", "value", truth))
    margin = Profile.of("ranks", "y", against_control(data, lost, "raw_input"), {"raw_input": lost}).over("raw_input")
    by_hand = interval(tests[1] - tests[0], drawn[:, 1] - drawn[:, 0], 80)
    assert margin is not None and (margin.low, margin.high) == pytest.approx(tuple(map(float, by_hand)))
    # Ahead of the output by less than one standard error, it is not chosen.
    near = taps | {"best": taps["output"] + 0.1 * rng.standard_normal((160, 1))}
    data = results(Ranks(), Arrays(near, split), StoredTarget("y", "value", truth))
    assert data.attrs["chosen_tap"] == "output" and set(data.attrs["tap_set"]) == {"best", "output"}


def test_the_chance_that_a_measure_declares_is_the_floor_of_its_verdicts() -> None:
    half = type("Half", (Guess,), {"name": "half", "chance": 0.5})
    chance = Profile.of("half", "kind", results(half(), *classes()), {})
    open_ = Profile.of("guess", "kind", results(Guess(), *classes()), {})
    assert (chance.floor, open_.floor) == (0.5, 0.0)
    assert chance.is_readable and chance.remarks == []
    assert open_.remarks == ["chance not tested without the shuffled labels"]


def test_a_result_of_an_older_version_gets_what_its_measure_declares() -> None:
    values = np.arange(80.0)
    taps = Arrays({"a": values[:, None], "b": -(values[:, None] ** 2)}, SPLIT.tolist())
    kinds = np.arange(80) % 3
    for target in (StoredTarget("y", "value", values), StoredTarget("z", "label", kinds)):
        data = results(load_bundled()["linear_probe"](), taps, target)
        older = data.copy()
        older.attrs = {key: value for key, value in data.attrs.items() if key not in ("losses", "chance", "metric")}
        assert older.attrs != data.attrs
        assert with_declaration(older, stored(target)).attrs == data.attrs
    gone = older.assign_attrs(measure="gone")
    assert with_declaration(gone, stored()).attrs["losses"] == "squares", "of a measure that is not installed the least"


def decided_by_name(source: str, names: set[str]) -> list[int]:
    """Lines in which the name of a score is compared, matched, or stands in a table or a list to look it up in."""
    lines: list[int] = []
    for node in ast.walk(ast.parse(source)):
        asked: list[ast.AST | None] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if isinstance(key, ast.Constant)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            asked = list(getattr(node.value, "elts", []))
        for part in (part for each in asked if each is not None for part in ast.walk(each)):
            text = {
                getattr(part, key, None) for key in ("value", "id", "attr") if isinstance(getattr(part, key, None), str)
            }
            if text & names or (isinstance(node, ast.Compare) and text & {"score_name", "SCORE_NAME"}):
                lines.append(node.lineno)
    return sorted(set(lines))


def test_no_name_of_a_score_is_compared_anywhere() -> None:
    targets = [StoredTarget("x", kind, np.zeros(1)) for kind in ("value", "label")]
    names = {
        m.declaration(target)["score_name"]
        for m in (make() for make in load_bundled().values())
        if m.score_name
        for target in targets
    }
    assert {"R2", "accuracy", "mIoU", "skill", "balanced accuracy", "J&F"} <= names
    planted = (
        'a = name in SHARES\nSHARES = ("accuracy", "x")\nb = attrs["score_name"] in ("R2", "skill")\nc = attrs[SCORE_NAME] == x\n'
        'M = {"R2": "r_squared"}\nmatch name:\n    case "mIoU":\n        pass\nscore_name = "R2"\n'
    )
    assert decided_by_name(planted, names) == [2, 3, 4, 5, 7]
    found = {
        str(path.relative_to(ROOT)): lines
        for folder in ("diagnostics", "plugins")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := decided_by_name(path.read_text("utf-8"), names))
    }
    # What the words of a report mean; and results of a command of its own, by the key of its JSON.
    found.pop("diagnostics/report/html.py")
    assert found == {}
