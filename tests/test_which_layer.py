"""The study of rules, sets and labels measures, resumes and judges as its plan says, and its page is what its results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import diagnostics as dx
from tests.test_docs import module_in

FOLDER = Path(__file__).parents[1] / "docs" / "studies" / "which-layer"
CELL = {
    "encoder": "objectives:lorenz-jepa?training_seed=0",
    "data": "docs/studies/claims/data.py:pendulum?n=70&draw={draw}",
    "measures": "linear_probe,tap_set,label_efficiency,rankme",
    "options": "--taps embed,blocks.1,blocks.3,norm",
    "modality": "time series",
}


def target(**regret: float) -> dict[str, Any]:
    return {"regret": regret, "gain": {"greedy": 0.05, "random": 0.02}}


def cell(*draws: Any) -> dict[str, Any]:
    return {"draws": {str(i): {"targets": {str(j): one for j, one in enumerate(each)}} for i, each in enumerate(draws)}}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One draw of a small cell, and one that cannot be built."""
    with pytest.MonkeyPatch.context() as patch:
        study, work = module_in(FOLDER, "study", patch), tmp_path_factory.mktemp("which-layer")
        patch.setattr(study, "DRAWS", (101,))
        for name, one in (("small", CELL), ("absent", {**CELL, "encoder": "no-such-encoder"})):
            study.give(name, one, 101, work)
        found = {name: study.gather(name, one, work) for name, one in (("small", CELL), ("absent", CELL))}
        yield study, found, work


def test_regrets_gains_and_curves_of_a_run_are_kept(measured: Any) -> None:
    _, found, work = measured
    draw = found["small"]["draws"]["101"]
    run = dx.open_run(work / "runs" / "small-101")
    assert draw["targets"] and not draw["targets"].keys() & set(draw["unread"])
    for name, one in draw["targets"].items():
        score = run.profile(f"linear_probe/{name}").data
        loss = 1 - score["loss"].sum("unit") / score["reference_loss"].sum("unit")
        expected = float(loss.sel(tap=one["tap"]) - loss.sel(tap=one["output"]))
        assert one["regret"]["output"] == pytest.approx(expected, abs=1e-3)
        assert one["gain"]["all"] == pytest.approx(-one["regret"]["all side by side"], abs=1e-3)
        assert one["curve"]["labels"][-1] == 35 and one["curve"]["used"][-1] == pytest.approx(
            one["taps"][one["tap"]], abs=1e-3
        )
        assert one["units"] == 35
    assert draw["left_out"]["logme"] == "not-measured"


def test_a_finished_run_is_left_and_a_failure_is_a_row(measured: Any) -> None:
    study, found, work = measured
    assert "failed" in found["absent"]["draws"]["101"] and "targets" not in found["absent"]["draws"]["101"]
    done = work / "runs" / "small-101.json"
    before = done.stat().st_mtime_ns
    study.give("small", CELL, 101, work)
    assert done.stat().st_mtime_ns == before
    assert study.command("small", CELL, 101).endswith("-o runs/small-101")


def test_the_rows_of_ones_own_encoder_stand_beside_the_study(measured: Any) -> None:
    study, found, _ = measured
    page = __import__("page")
    assert page.rows_of(found["small"]).count("\n") > 2 * len(study.PLAN["claims"])


def test_a_claim_carries_over_where_every_encoder_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_in(FOLDER, "page", monkeypatch)
    monkeypatch.setattr(page, "DRAWS", range(4))
    saves = {"id": "x", "kind": "saves", "rule": "a", "than": "b", "margin": 0.0}
    names = list(page.judged(dict.fromkeys(page.cells())))[:2]
    # The rule loses .02 less in the first, between .01 and .03 over draws; in the second it does not differ.
    clear = cell(*[[target(a=0.0, b=0.02 + x)] for x in (-0.01, 0.0, 0.0, 0.01)])
    none = cell(*[[target(a=0.0, b=x)] for x in (-0.01, 0.0, 0.0, 0.01)])
    worse = cell(*[[target(a=0.02 + x, b=0.0)] for x in (-0.01, 0.0, 0.0, 0.01)])
    without = cell([target(b=0.1)])
    verdicts = []
    for each in ((clear, clear), (clear, none), (clear, worse), (clear, without)):
        monkeypatch.setitem(page.PLAN, "claims", [saves])
        verdicts.append(page.outcomes(dict(zip(names, each, strict=True)))["x"].verdict)
    assert verdicts == [page.CARRIES, page.OPEN, page.FAILS, page.CARRIES]
    monkeypatch.setattr(page, "DRAWS", range(5))
    assert page.verdict(saves, page.value_of(saves, clear)) == page.UNFINISHED
    value = page.value_of(saves, clear)
    # t of 3 degrees of freedom is 3.182, and the standard error .00816 / 2.
    assert (value.value, value.reach) == (pytest.approx(0.02), pytest.approx(3.182 * 0.00816 / 2, rel=1e-3))


def test_gains_are_over_the_set_named_and_a_sign_turns_value_and_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_in(FOLDER, "page", monkeypatch)
    monkeypatch.setattr(page, "DRAWS", range(2))
    one = cell([target(a=0.005, b=0.0)], [target(a=0.005, b=0.0)])
    gain = {"kind": "gain", "set": "greedy", "margin": 0.01}
    assert page.value_of(gain, one).value == pytest.approx(0.05)
    assert page.value_of({**gain, "than": "random"}, one).value == pytest.approx(0.03)
    near = {"kind": "saves", "rule": "b", "than": "a", "sign": -1, "margin": -0.01}
    assert page.value_of(near, one).value == pytest.approx(-0.005)
    assert page.verdict({**near, "margin": -0.01}, page.value_of(near, one)) == page.EXCLUDED
    assert page.verdict({**near, "margin": 0.01}, page.value_of(near, one)) == page.SHOWN


def test_the_figure_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, `python docs/studies/which-layer/study.py page` makes it anew."""
    page = module_in(FOLDER, "page", monkeypatch)
    assert (FOLDER / "regret.svg").read_text(encoding="utf-8") == page.figure(page.results())
    assert all(json.loads(file.read_text())["draws"] for file in (FOLDER / "results").glob("*.json"))
