"""The trained encoders that come with the training plugin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

pytest.importorskip("timm")

from diagnostics_training.train import WEIGHTS

import diagnostics as dx
from diagnostics import build, load_encoder
from diagnostics.cli.main import app
from tests.support.refusals import refusal

FILES = sorted(WEIGHTS.glob("*.safetensors"))


@pytest.mark.smoke
def test_there_are_some_and_they_are_small() -> None:
    names = {file.stem for file in FILES}
    objectives = ("forecast", "reconstruct", "contrastive", "jepa")
    assert {f"lorenz-{one}{seed}" for one in objectives for seed in ("", "-seed1", "-seed2")} <= names
    assert {f"{data}-{one}" for one in objectives for data in ("pendulum", "damped_oscillator", "shapes")} <= names
    assert sum(file.stat().st_size for file in FILES) < 10e6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_says_how_it_was_made_and_holds_no_path(file: Path) -> None:
    encoder = load_encoder(file)
    assert encoder.name == file.stem
    assert str(encoder.lineage["how"]).startswith("diagnostics train objectives --data ")
    assert encoder.lineage["group"] in file.stem
    assert b"/tmp/" not in file.read_bytes()[:100_000]
    with safe_open(file, "np") as opened:
        assert "digest" in json.loads(opened.metadata()["diagnostics"])  # of the description itself


@pytest.mark.smoke
def test_a_name_brings_one_and_a_seed_another() -> None:
    first, second = (
        build("encoder", "objectives:lorenz-jepa"),
        build("encoder", "objectives:lorenz-jepa?training_seed=1"),
    )
    assert (first.lineage["seed"], second.lineage["seed"]) == (0, 1)
    assert first.identity["weights"] != second.identity["weights"]
    with refusal("missing-file", "lorenz-japa"):
        build("encoder", "objectives:lorenz-japa")


def test_inspect_says_what_made_one() -> None:
    message = " ".join(CliRunner().invoke(app, ["inspect", "objectives:pendulum-jepa"]).stdout.split())
    assert "Made by: diagnostics train objectives --data pendulum" in message
    assert "the 12,000 samples of its train split." in message


@pytest.mark.slow
def test_one_is_read_out_of_the_box_and_knows_more_than_its_initial_weights(tmp_path: Path) -> None:
    """x 10 steps ahead is what forecasting is about; the control is the very architecture with weights drawn afresh."""
    options = {"measures": "linear_probe", "controls": False, "report": False, "token_budget": 0}
    run = dx.run("objectives:lorenz-forecast", "lorenz?n=300", out=tmp_path / "trained", **options)
    fresh = build("encoder", "objectives:lorenz-forecast").fresh(0)
    control = dx.run(fresh, "lorenz?n=300", out=tmp_path / "fresh", **options)
    scores = [one.profile("linear_probe/x_future").best.value for one in (run, control)]
    assert scores[0] > 0.9
    assert scores[1] < scores[0] - 0.1
    assert np.isfinite(run.profile("linear_probe/hidden_z").data["score"]).all()
