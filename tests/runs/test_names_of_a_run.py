"""A run gives its encoder, and the same names ask it for a target everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import diagnostics as dx
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

FILE = """
import os
from tests.support.tiny import tiny_encoder

def encoder():
    return tiny_encoder(seed=int(os.environ.get("TINY_SEED", 0)))
"""


@pytest.fixture
def run(tmp_path: Path) -> dx.Run:
    (tmp_path / "model.py").write_text(FILE)
    name = f"{tmp_path}/model.py:encoder"
    return dx.run(
        name,
        tiny_dataset(40),
        out=tmp_path / "run",
        measures="linear_probe,knn_probe,rankme",
        controls=False,
        report=False,
    )


def test_the_encoder_of_a_run_is_an_encoder(run: dx.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = dx.open_run(run.path)
    assert again.encoder.identity == run.encoder.identity and again.encoder_name == run.encoder_name == "tiny"
    x = run.encoder.transform(tiny_dataset(40), tap="norm")
    assert (x == again.encoder.transform(tiny_dataset(40), tap="norm")).all()
    monkeypatch.setenv("TINY_SEED", "1")
    with refusal("other-weights", "model.py:encoder"):
        _ = dx.open_run(run.path).encoder
    made = tiny_encoder()
    own = dx.run(made, tiny_dataset(40), out=tmp_path / "own", measures="rankme", controls=False, report=False)
    assert own.encoder.identity == made.identity
    with refusal("not-savable", "tiny"):
        _ = dx.open_run(own.path).encoder


def test_target_and_measure_are_named_alike(run: dx.Run) -> None:
    options = {"target": "kind", "measure": "knn_probe"}
    assert (
        run.recommend(**options).measure
        == run.profile(**options).measure
        == run.probe(**options).measure
        == "knn_probe"
    )
    assert len(run.plot(**options).data) < len(run.plot("kind").data)
    first = run.recommend("kind").measure
    assert run.profile("kind").name == f"{first}/kind" and run.probe("kind").measure == first
    assert run.profile("linear_probe/kind").name == run.profile("kind", "linear_probe").name
    assert run.profile("rankme").target is None
    with refusal("unknown-name", "cka/kind"):
        run.profile("kind", "cka")
