"""The study of alignments chooses, measures and judges as it was written down, and its page is what its results say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from tests.test_docs import module_in

FOLDER = Path(__file__).parents[1] / "docs" / "studies" / "alignment"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="tests run without the docs beside them")
TINY = {
    "about": "tiny",
    "encoder": "objective:jepa?modality=series&length=64&width=16&depth=2&heads=2&patch=8",
    "data": "data.py:series?draw={draw}&n=120&length=64",
    "training": "lorenz?n=60&length=64&seed={seed}",
    "measures": "linear_probe",
    "taps": ["embed", "blocks.0"],
    "output": "norm",
    "options": "--batch 8",
    "rate": 1e-3,
    "steps": 4,
    "tap": "--to {tap}",
    "keep": "--to {tap} --keep 1",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Any:
    """A plan and a cell of a tiny encoder, and one whose alignment fails."""
    with pytest.MonkeyPatch.context() as patch:
        study, work = module_in(FOLDER, "study", patch), tmp_path_factory.mktemp("alignment")
        given: list[str] = []
        original = study.give

        def give(command: str, folder: Path) -> float:
            given.append(command)
            with pytest.MonkeyPatch.context() as warm:
                warm.setattr(sys, "executable", str(warm_python))
                return original(command, folder)

        patch.setattr(study, "give", give)
        patch.setattr(study, "RESULTS", work / "results")
        patch.setattr(study, "PLAN", work / "plan.json")
        odd = {**TINY, "tap": "--to no-such-tap"}
        patch.setattr(
            study, "STUDY",
            study.STUDY | {"encoders": {"tiny": TINY}, "val_samples": 8},
        )  # fmt: skip
        study.plan("tiny", work)
        for kind in ("base", "tap", "keep", "tap"):
            study.run_part("tiny-1", kind, work)
        plan = study.read_json(work / "plan.json")
        patch.setattr(study, "STUDY", study.STUDY | {"encoders": {"tiny": TINY, "odd": odd}})
        study.write_json(work / "plan.json", {**plan, "odd": plan["tiny"]})
        study.run_part("odd-1", "tap", work)
        yield study, work, given


def test_a_plan_reads_no_test_sample(measured: Any) -> None:
    study, work, given = measured
    plan = study.read_json(work / "plan.json")["tiny"]
    assert plan["tap"] in TINY["taps"]
    assert max(plan["gaps"].values()) == max(plan["gaps"][target] for target in plan["chosen"])
    assert [command.count("seed=9301") for command in given] == [1] * 3  # a part that is there is not computed again


def test_contrasts_are_differences_of_scores_that_runs_show(measured: Any) -> None:
    study, work, _ = measured
    cell = study.read_json(work / "results" / "tiny-1.json")
    base = dx.open_run(work / "runs" / "tiny-base-1")
    for target, kept in cell["targets"].items():
        scores = base.profile(f"linear_probe/{target}").data["score"]
        assert kept["scores"]["cut"] == pytest.approx(float(scores.sel(tap=study.tap_of("tiny"))), abs=1e-3)
        assert kept["scores"]["base"] == pytest.approx(float(scores.sel(tap="norm")), abs=1e-3)
        assert kept["units"] == 60
        for pair, (value, error) in kept["contrasts"].items():
            first, second = pair.split(" - ")
            assert value == pytest.approx(kept["scores"][first] - kept["scores"][second], abs=2e-3)
            assert error > 0
        assert {"tap - cut", "keep - joined", "tap - control", "base - cut", "keep - tap"} <= kept["contrasts"].keys()
    assert 0 < cell["passes"] < 1
    assert {*cell["minutes"]} == {"tap", "keep"}
    assert cell["agreement"]["control"] > 0.9 and -1 <= cell["agreement"]["end"] <= 1


def test_a_failure_is_a_row(measured: Any) -> None:
    study, work, _ = measured
    kept = study.read_json(work / "results" / "odd-1.json")
    assert "no-such-tap" in kept["failed"]["tap"] and not kept["parts"]


def test_errors_over_seeds_are_not_those_of_one_target_alone(measured: Any) -> None:
    from common import pooled_error

    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        values = rng.normal(0, np.sqrt(2), (3, 6))  # as much between seeds as within
        error = pooled_error(values, np.ones((3, 6)))
        covered.append(np.abs(values.mean(0)) <= 2.447 * error)  # Student's t, 6 degrees of freedom
    assert 0.95 <= np.mean(covered) <= 0.995
    # Alike in all seeds: the error over units is left.
    assert pooled_error(np.zeros((3, 6)), np.ones((3, 6))) == pytest.approx(np.full(6, 3**-0.5))


def test_a_planted_gain_is_shown_and_a_planted_loss_excluded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = module_in(FOLDER, "study", monkeypatch)
    page = importlib.import_module("page")
    for module in (study, page):
        monkeypatch.setattr(module, "STUDY", study.STUDY | {"encoders": {"tiny": TINY}})
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        monkeypatch.setattr(module, "PLAN", tmp_path / "plan.json")
    gaps = {"good": 0.3, "bad": 0.2, "other": 0.0}
    study.write_json(tmp_path / "plan.json", {"tiny": {"tap": "embed", "chosen": ["good", "bad"], "gaps": gaps}})
    gain = {"good": 0.2, "bad": -0.2, "other": 0.05}
    for seed in (1, 2, 3):
        targets = {
            target: {"scores": {}, "contrasts": {"tap - cut": [value + 0.001 * seed, 0.005]}, "units": 500}
            for target, value in gain.items()
        }  # fmt: skip
        study.write_json(tmp_path / f"tiny-{seed}.json", {"targets": targets, "minutes": {}})
    found = {(one.claim, one.pair, one.target): one.outcome.verdict for one in page.values()}
    assert found["beats-cut", ("tap", "cut"), "good"] == "shown"
    assert found["beats-cut", ("tap", "cut"), "bad"] == "excluded"
    assert found["keeps", ("tap", "cut"), "other"] == "shown"
    assert found["beats-cut", ("keep", "cut"), "good"] == "no result"
    for seed in (2, 3):
        (tmp_path / f"tiny-{seed}.json").unlink()
    # One seed alone has no verdict.
    assert {one.outcome.verdict for one in page.values()} == {"no result"}
