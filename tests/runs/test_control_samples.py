"""Controls on fewer samples, each compared with the encoder fitted on the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.activations.store import Store
from diagnostics.measures.apply import Measured
from diagnostics.runs import setup as setups
from diagnostics.runs.options import Request
from diagnostics.runs.processes.workers import Workers
from diagnostics.runs.setup import Setup
from diagnostics.runs.streaming.stream import passes_over
from tests.runs.test_token_probes import images
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

FEW = 27
OPTIONS: dict[str, Any] = {"measures": "knn_probe,segmentation_probe", "dense": "stored", "report": False, "seed": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dx.Run:
    out = tmp_path_factory.mktemp("few") / "run"
    return dx.run(tiny_image_encoder(), images(), out=out, control_samples=FEW, **OPTIONS)


def test_a_control_passes_some_samples_that_lie_as_those_of_the_encoder(run: dx.Run) -> None:
    fewer = Store(run.store.path / "controls" / "fresh_weights")
    assert len(fewer.ids) == FEW < len(run.store.ids)
    places = [list(run.store.ids).index(sample) for sample in fewer.ids]
    assert places == sorted(places)
    assert fewer.token_samples == sum(place < run.store.token_samples for place in places)
    assert len(Store(run.store.path / "controls" / "raw_input").ids) == len(run.store.ids)
    for name, target in run.store.targets().items():
        np.testing.assert_array_equal(fewer.targets()[name].values, target.values[places] if target.values.size else [])


def test_a_margin_is_over_the_encoder_on_the_samples_of_the_control(run: dx.Run) -> None:
    profile = run.profile("knn_probe/kind")
    control, own = profile.controls["fresh_weights"], profile.data
    assert control.attrs["fewer_samples"] == FEW
    assert "fewer_samples" not in profile.controls["raw_input"].attrs
    assert len(control["unit"]) < len(own["unit"])
    # The encoder measured anew in a run of its own on those samples alone.
    data = Setup(
        Request(encoder=tiny_image_encoder(), dataset=images(), control_samples=FEW, **OPTIONS)
    ).control_dataset
    alone = dx.run(tiny_image_encoder(), data, out=run.store.path.parent / "alone", controls=False, **OPTIONS)
    expected = alone.profile("knn_probe/kind")
    mean = float(
        np.mean(control.sel(tap=control.attrs["chosen_tap"])["loss"])
        - expected.data.sel(tap=expected.chosen_tap)["loss"].mean()
    )
    reference = float(control.sel(tap=control.attrs["chosen_tap"])["reference_loss"].mean())
    assert profile.over("fresh_weights").value == pytest.approx(mean / reference, abs=1e-9)


@pytest.mark.parametrize("options", [{"control_samples": 20}, {"redraw_controls": True, "redraws": 1}])
def test_what_cannot_be_compared_on_fewer_samples_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    codes = {"control_samples": "bad-value", "redraw_controls": "conflict"}
    data = images()
    data.exchangeable = True
    with refusal(codes[next(iter(options))]):
        dx.run(tiny_image_encoder(), data, out=tmp_path / "run", **OPTIONS | {"control_samples": 50} | options)
    assert not (tmp_path / "run").exists()


def test_rows_whose_tokens_are_stored_are_not_passed_again() -> None:
    split = np.array(["val", "test", "train", "train", "val", "test", "train", "train"])
    assert passes_over(split, "val", gathered=True, stored=0) == 4 / 8
    assert passes_over(split, "val", gathered=True, stored=2) == 2 / 8
    assert passes_over(split, "fit", gathered=False, stored=4) == (4 + 3) / 8
    assert passes_over(split, "fit", gathered=False, stored=8) == 0


def test_a_control_is_not_held_against_an_encoder_that_could_not_be_fitted_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = Workers.measure_all

    def failing(*given: Any, **options: Any) -> Measured:
        measured = real(*given, **options)
        if "on fewer samples" in options["what"]:
            del measured.results["knn_probe/kind"]
            measured.skipped["knn_probe/kind"] = "it broke."
        return measured

    monkeypatch.setattr(Workers, "measure_all", failing)
    options = OPTIONS | {"measures": "knn_probe"}
    run = dx.run(tiny_image_encoder(), images(), out=tmp_path / "run", control_samples=FEW, **options)
    assert {"raw_input", "shuffled_labels"} <= {*run.profile("knn_probe/kind").controls}
    assert not {"fresh_weights", "permuted_weights"} & {*run.profile("knn_probe/kind").controls}
    said = [why for of, why in run.skipped.items() if "weights" in of]
    assert len(said) == 2
    assert all("it broke." in why for why in said)


def test_streamed_targets_are_read_from_the_same_samples(tmp_path: Path) -> None:
    options = OPTIONS | {"measures": "segmentation_probe", "dense": "streamed", "choose_on": "val"}
    run = dx.run(tiny_image_encoder(), images(), out=tmp_path / "run", control_samples=FEW, **options)
    profile = run.profile("segmentation_probe/scene")
    control = profile.controls["fresh_weights"]
    assert control.attrs["fewer_samples"] == FEW
    few = Setup(Request(encoder=tiny_image_encoder(), dataset=images(), control_samples=FEW, **OPTIONS)).control_dataset
    alone = dx.run(tiny_image_encoder(), few, out=tmp_path / "alone", controls=False, **options)
    own = alone.profile("segmentation_probe/scene")
    assert own.data.attrs["tokens"] == control.attrs["tokens"] == "streamed"
    scores = (
        each["score"].sel(tap=tap) for each, tap in ((own.data, own.chosen_tap), (control, control.attrs["chosen_tap"]))
    )
    assert profile.over("fresh_weights").value == pytest.approx(float(next(scores) - next(scores)), abs=1e-6)


def test_dear_controls_pass_fewer_samples_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def passed(**options: Any) -> int:
        request = Request(encoder=tiny_image_encoder(), dataset=images(), out=tmp_path / "run", **OPTIONS | options)
        return len(Setup(request).control_positions)

    monkeypatch.setattr(setups, "LEAST_OF_CONTROLS", FEW)
    assert passed() == len(images())
    monkeypatch.setattr(setups, "DEAR", 1)
    assert passed() == FEW
    assert passed(control_samples=60) == 60
    run = dx.run(tiny_image_encoder(), images(), out=tmp_path / "run", **OPTIONS | {"measures": "knn_probe"})
    monkeypatch.setattr(setups, "DEAR", 10**14)
    assert passed() == FEW  # as the run has it
    assert passed(fresh=True) == 60
    assert run.profile("knn_probe/kind").controls["fresh_weights"].attrs["fewer_samples"] == FEW
