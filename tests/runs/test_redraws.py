"""Redraws of the split: planted answers come back in every draw, and nothing but the split is drawn again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import diagnostics as dx
from diagnostics.activations.contract import StoredTarget
from diagnostics.cli.main import app
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays
from diagnostics.runs.results.redraws import (
    GAP,
    NO_REDRAWS,
    SCORE,
    TAP,
    Redraws,
    add_redraws,
    redraw_splits,
    redraws_of,
)
from tests.runs.test_token_probes import images
from tests.support.declared import Ranks
from tests.support.graded import graded_data, graded_encoder, known_r2
from tests.support.planted import planted_image_encoder, planted_images, planted_series, planted_series_encoder
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

GAINS = [0.2, 3.0, 0.5, 0.5]


def drawn(n: int = 200, split: Any = None) -> dx.Dataset:
    """Graded data of which the software drew the splits, or with another split."""
    data = graded_data(n)
    data.exchangeable = True
    data.split = data.split if split is None else split
    return data


def measured(out: Path, encoder: Any, data: dx.Dataset, **options: Any) -> dx.Run:
    options = {"measures": "linear_probe", "controls": False, "report": False, "token_budget": 0} | options
    return dx.run(encoder, data, out=out, **options)


def found(run: dx.Run, name: str = "linear_probe/a") -> Redraws:
    profile = run.profile(name)
    redraws = redraws_of(profile.data, profile.controls.get("raw_input"))
    assert redraws is not None
    return redraws


def test_every_redraw_finds_the_planted_tap_and_raw_input(tmp_path: Path) -> None:
    run = measured(tmp_path / "run", graded_encoder("e", GAINS, GAINS), drawn(), redraws=4, controls=True, report=True)
    redraws = found(run)
    assert redraws.count == redraws.asked == 4
    assert redraws.choices == Counter({"stage.1": 4})
    assert redraws.score.mean == pytest.approx(known_r2(3.0), abs=0.05)
    assert redraws.gap.mean == pytest.approx(known_r2(3.0) - known_r2(0.5), abs=0.1)
    assert redraws.score.low < redraws.score.mean < redraws.score.high
    assert redraws.raw_input > 0.99  # the target is one of the sample's numbers
    controls = run.profile("linear_probe/a").controls
    assert {name for name, data in controls.items() if SCORE in data} == {"raw_input"}
    # Nothing that reads results takes the draws for something of its own.
    before = measured(tmp_path / "plain", graded_encoder("e", GAINS, GAINS), drawn(), controls=True)
    assert before.to_dataframe().equals(run.to_dataframe())
    assert redraws_of(before.profile("linear_probe/a").data) is None
    assert run.profile("linear_probe/a").beside.keys() == before.profile("linear_probe/a").beside.keys()


def test_all_controls_are_redrawn_where_asked(tmp_path: Path) -> None:
    run = measured(tmp_path, graded_encoder("e", GAINS, GAINS), drawn(), redraws=2, redraw_controls=True, controls=True)
    controls = run.profile("linear_probe/a").controls
    assert (
        {name for name, data in controls.items() if SCORE in data}
        == set(controls)
        >= {
            "raw_input_kernel",
            "summary_statistics",
            "shuffled_labels",
        }
    )
    assert (controls["shuffled_labels"][SCORE] < 0.3).all()


def test_without_a_signal_gaps_spread_around_0(tmp_path: Path) -> None:
    alike = graded_encoder("e", [1.0] * 4, [1.0] * 4, [2, 4, 6, 8])
    gap = found(measured(tmp_path, alike, drawn(600), redraws=12)).gap
    assert gap.low < 0 < gap.high
    # All draws share one pool: of 600 samples the difference of two taps' R2 has a standard error of about .05, and this is two.
    assert abs(gap.mean) < 0.1


def test_a_draw_is_what_a_run_with_that_split_measures(tmp_path: Path) -> None:
    encoder, data = graded_encoder("e", GAINS, GAINS[::-1]), drawn()
    run = measured(tmp_path / "redrawn", encoder, data, redraws=2, seed=3)
    second = redraw_splits(run.store.groups, run.store.split, 2, seed=3)[1]
    split = dict(zip(run.store.ids, second, strict=True))
    other = measured(tmp_path / "drawn", encoder, drawn(split=np.array([split[i] for i in data.ids], object)), seed=3)
    for name in ("linear_probe/a", "linear_probe/b"):
        ours, theirs = run.profile(name), other.profile(name)
        np.testing.assert_array_equal(ours.data[SCORE][1], theirs.data["score"])
        assert ours.data[GAP][1] == theirs.data.attrs["hidden_gap"]
        assert ours.data[TAP][1] == theirs.data.attrs.get("chosen_tap", theirs.best_tap)


def test_splits_differ_and_keep_groups_whole() -> None:
    groups = np.repeat([f"g{i}" for i in range(40)], [1, 2, 3, 4] * 10).astype(object)
    split = np.repeat(["train"] * 20 + ["val"] * 4 + ["test"] * 16, [1, 2, 3, 4] * 10).astype(object)
    splits = redraw_splits(groups, split, 5, seed=0)
    for other in (split, *splits):
        of = {group: set(other[groups == group]) for group in groups}
        assert Counter(name for (name,) in of.values()) == {"train": 20, "val": 4, "test": 16}
    assert len({tuple(each) for each in (split, *splits, *redraw_splits(groups, split, 5, seed=1))}) == 11
    for ours, again in zip(splits, redraw_splits(groups, split, 2, seed=0), strict=False):
        np.testing.assert_array_equal(ours, again)


def test_a_folder_is_measured_again_without_another_pass(tmp_path: Path) -> None:
    encoder, data = graded_encoder("e", GAINS, GAINS), drawn()
    plain = measured(tmp_path, encoder, data)
    score = plain.profile("linear_probe/a").data["score"]
    steps: list[str] = []

    def stop(event: Any) -> None:
        if isinstance(event, dx.Progress):
            steps.append(event.step)
            if "redraw 2" in event.step:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="give the same command again"):
        measured(tmp_path, encoder, data, redraws=3, watch=stop)
    assert steps[-1].startswith("measuring e, redraw 2 of 3")
    assert not any(step.startswith("extracting") for step in steps)
    np.testing.assert_array_equal(dx.open_run(tmp_path).profile("linear_probe/a").data["score"], score)
    first = measured(tmp_path, encoder, data, redraws=3)
    assert found(first).count == 3
    np.testing.assert_array_equal(first.profile("linear_probe/a").data["score"], score)
    values = first.profile("linear_probe/a").data.load()
    xr.testing.assert_identical(measured(tmp_path, encoder, data, redraws=3).profile("linear_probe/a").data, values)


def test_a_draw_without_a_value_is_counted(tmp_path: Path) -> None:
    data = drawn(60)
    rare = np.arange(60) % 2
    rare[[0, 6]] = 2  # in train and in val
    data.targets["rare"] = dx.Target("label", rare, classes=("even", "odd", "rare"))
    run = measured(tmp_path, graded_encoder("e", GAINS, GAINS), data, redraws=12)
    values, redraws = run.profile("linear_probe/rare").data, found(run, "linear_probe/rare")
    assert 0 < redraws.count < redraws.asked == 12
    assert f"{redraws.count} of 12 redraws" in redraws.line
    assert np.isfinite(values[SCORE].values).all(axis=1).sum() == redraws.count
    assert "no train sample of class rare" in values.attrs[NO_REDRAWS]


def test_probes_that_read_tokens_are_redrawn(tmp_path: Path) -> None:
    data = planted_series()
    data.exchangeable = True
    run = measured(
        tmp_path, planted_series_encoder(), data, measures="event_probe,linear_probe", redraws=1, token_budget=None
    )
    assert found(run, "event_probe/event").count == found(run, "linear_probe/ahead").count == 1


@pytest.mark.parametrize("budget", ["1GB", "30KB"])
def test_a_draw_of_dense_targets_is_what_a_run_with_that_split_measures(tmp_path: Path, budget: str) -> None:
    encoder, data = tiny_image_encoder(), images()
    data.exchangeable = True
    options: dict[str, Any] = {
        "measures": "linear_probe,segmentation_probe",
        "token_budget": budget,
        "dense": "stored",
        "watch": dx.silent,
    }
    run = measured(tmp_path / "redrawn", encoder, data, redraws=2, **options)
    assert (run.store.token_samples == len(data)) == (budget == "1GB")
    second = redraw_splits(run.store.groups, run.store.split, 2, seed=0)[1]
    split = dict(zip(run.store.ids, second, strict=True))
    data.split = np.array([split[i] for i in data.ids], object)
    other = measured(tmp_path / "drawn", encoder, data, **options)
    for name in ("linear_probe/height", "linear_probe/level", "segmentation_probe/scene"):
        ours, theirs = run.profile(name), other.profile(name)
        np.testing.assert_array_equal(ours.data[SCORE][1], theirs.data["score"])
        assert ours.data[GAP][1] == theirs.data.attrs["hidden_gap"]
        assert ours.data[TAP][1] == theirs.data.attrs["chosen_tap"]


def test_every_redraw_finds_the_tap_whose_tokens_lost_nothing(tmp_path: Path) -> None:
    data, encoder = planted_images(), planted_image_encoder().replace(output_tap="scrambled")
    data.exchangeable = True
    options: dict[str, Any] = {"taps": "striped,rotated", "token_budget": "1GB", "dense": "stored", "watch": dx.silent}
    run = measured(tmp_path, encoder, data, measures="segmentation_probe", redraws=2, **options)
    redraws = found(run, "segmentation_probe/thing")
    assert redraws.choices == Counter(rotated=2)
    assert "none:" not in str(run.recommend("thing"))
    assert redraws.score.low == 1
    # Of shuffled tokens none is told from the others: the IoU of the background is its share, and that of the object 0.
    assert redraws.gap.low > 0.5


def test_scores_that_are_no_sums_are_redrawn_too() -> None:
    """In each draw they are what the measure gives of that split."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(160)
    taps = {name: (truth + noise * rng.standard_normal(160))[:, None] for name, noise in (("best", 0.3), ("last", 1))}
    made, read = Arrays(taps, np.repeat(["val", "test"], 80).tolist()), {"y": StoredTarget("y", "value", truth)}
    measured = measure_all([Ranks()], made, read)
    add_redraws(measured, [Ranks()], made, read, 2, what="planted")
    redraws = redraws_of(measured.results["ranks/y"])
    assert redraws is not None and redraws.count == 2 and redraws.choices == Counter(best=2)
    other = made.with_other(split=redraw_splits(made.groups, made.split, 2, 0)[1])
    alone = measure_all([Ranks()], other, read).results["ranks/y"]
    np.testing.assert_array_equal(measured.results["ranks/y"][SCORE][1], alone["score"])


@pytest.mark.parametrize(
    ("redraws", "exchangeable", "says"),
    [
        (2, False, "The split cannot be redrawn, since the splits of graded are given: leave out --redraws"),
        (1, "fit", "The split cannot be redrawn, since the test split of graded is given: leave out --redraws"),
        (-1, True, "The number of redraws is -1: give 0 or more."),
    ],
)
def test_given_splits_are_not_redrawn(tmp_path: Path, redraws: int, exchangeable: Any, says: str) -> None:
    data = drawn()
    data.exchangeable = exchangeable
    with pytest.raises(DiagnosticsError, match=says):
        measured(tmp_path / "run", graded_encoder("e", GAINS, GAINS), data, redraws=redraws)
    with refusal("no-effect", "--redraw-controls"):
        measured(tmp_path / "run", graded_encoder("e", GAINS, GAINS), drawn(), redraw_controls=True)
    assert not (tmp_path / "run").exists()


def test_a_command_redraws(tmp_path: Path) -> None:
    command = ["run", "objectives:lorenz-forecast", "--data", "lorenz?n=60", "--no-controls", "--quiet"]
    options = ["--measures", "linear_probe", "--redraws", "2", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 0, done.output
    assert found(dx.open_run(tmp_path / "run"), "linear_probe/hidden_z").count == 2


def test_the_line_says_spreads_and_not_intervals() -> None:
    score = [[0.5, 0.9, 0.6], [0.5, 0.8, 0.7], [0.6, 0.5, 0.7]]
    data = xr.Dataset(
        {
            SCORE: (("redraw", "tap"), score),
            GAP: ("redraw", [0.3, 0.1, -0.1]),
            TAP: ("redraw", np.array(["t1", "t1", "t2"], object)),
        },
        {"tap": ["t0", "t1", "t2"]},
    )
    redraws = redraws_of(data, data.isel(tap=[0]).assign({TAP: ("redraw", np.array(["t0"] * 3, object))}))
    assert redraws is not None
    assert redraws.line == ("3 redraws: 0.80 (0.70 to 0.90), gap +0.10 (-0.10 to 0.30), t1 in 2, raw input 0.53")
    assert redraws.to_json() == {
        "count": 3,
        "asked": 3,
        "choices": {"t1": 2, "t2": 1},
        "raw_input": pytest.approx(1.6 / 3),
        "score": {"mean": pytest.approx(0.8), "low": 0.7, "high": 0.9},
        "gap": {"mean": pytest.approx(0.1), "low": -0.1, "high": 0.3},
    }
