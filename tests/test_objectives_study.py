"""The study of objectives judges as its plan says, and its simulation of power is a simulation of that rule."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from tests.test_docs import module_in

FOLDER = Path(__file__).parents[1] / "docs" / "studies" / "objectives"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="tests run without the docs beside them")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    study = module_in(FOLDER, "study", monkeypatch)
    found = importlib.import_module("page")
    for module in (found, study):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return found


def written(
    folder: Path, cell: str, targets: list[str], gap: float, late: float = 0.0, shuffled: float | None = None
) -> None:
    rng = np.random.default_rng(0)

    def one(best: float) -> dict[str, Any]:
        depth = np.linspace(0, 1, 7)
        made = {}
        for target in targets:
            score = 0.5 + late * (depth > 2 / 3) + 1e-3 * rng.standard_normal(7)
            made[target] = {"depth": depth.tolist(), "score": score.tolist(), "best": best, "gap": gap + 1e-3 * rng.standard_normal(),
                            "guess": 0.2, "units": 800}  # fmt: skip
        return made

    made = {str(i): {"ordered": one(0.6)} | ({} if shuffled is None else {"shuffled": one(shuffled)}) for i in range(8)}
    (folder / f"{cell}.json").write_text(json.dumps({"trainings": made, "cpu_seconds": 1.0}))


def test_what_is_planted_is_shown_and_what_is_not_is_excluded(page: Any, tmp_path: Path) -> None:
    written(tmp_path, "lorenz-forecast", ["hidden_z", "hidden_y", "rho", "log_switch", "x_future"], gap=0.1, late=-0.1)
    written(tmp_path, "lorenz-jepa", ["hidden_z", "hidden_y", "rho", "log_switch", "x_future"], gap=0.0)
    written(tmp_path, "video-dinov2", ["direction", "speed", "order", "event", "masks"], gap=0.0, shuffled=0.3)
    written(tmp_path, "video-differences", ["direction", "speed", "order", "event"], gap=0.5, shuffled=0.3)
    found = {(one.claim, one.where, one.target): one.outcome.verdict for one in page.values()}
    assert not any(where == "video-differences" for _, where, _ in found)
    # Of the control the output counts, of an encoder the best layer before that.
    scores = {
        where: page.score_of(f"video-{where}", {"best": 0.6, "score": [0.1, 0.5]})
        for where in ("differences", "dinov2")
    }
    assert scores == {"differences": 0.5, "dinov2": 0.6}
    assert found["gap", "lorenz-forecast", "rho"] == "shown" and found["gap", "lorenz-jepa", "rho"] == "excluded"
    assert found["deeper", "lorenz-forecast", "rho"] == "excluded"
    assert found["more", "lorenz-forecast − lorenz-jepa", "mean"] == "shown"
    assert found["shuffled", "video-dinov2", "order"] == "shown"
    assert "lorenz-reconstruct" in page.render("full")
    # Spreads of .001 show every gap of .05, ten times as large ones of eight trainings do not.
    assert page.power_seen(page.values()) == pytest.approx(1.0)
    wide = [page.Value("gap", "", "", page.Outcome(0.01, 0.05, 0.05, 7)) for _ in range(50)]
    assert page.power_seen(wide) < 0.05


def test_a_target_that_no_layer_reads_is_counted_and_not_judged(page: Any, tmp_path: Path) -> None:
    written(tmp_path, "lorenz-jepa", ["hidden_z", "hidden_y", "rho", "log_switch", "x_future"], gap=0.0)
    kept = json.loads((tmp_path / "lorenz-jepa.json").read_text())
    for each in kept["trainings"].values():
        each["ordered"]["rho"]["best"] = 0.21
    (tmp_path / "lorenz-jepa.json").write_text(json.dumps(kept))
    assert "rho" not in {one.target for one in page.values()}
    assert "lorenz-jepa: rho" in page.render("full")


def test_power_grows_with_trainings_and_nothing_is_shown_without_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    power = module_in(FOLDER, "power", monkeypatch)
    known = np.array([[0.02, 0.01], [0.04, 0.02]])
    few, many = (power.power(count, 800, 100, known) for count in (3, 8))
    assert few < many
    assert power.power(8, 800, 1, known, gap=power.MARGIN) < 0.05
    # Trainings alike, units beyond number: whatever lies above the margin is shown.
    assert power.power(8, 10**9, 100, np.array([[1e-9, 1e-3]])) == 1.0


def test_clips_hold_what_their_targets_say(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_in(FOLDER, "data", monkeypatch)
    ordered, shuffled = (data.clips(n=30, shuffled=each) for each in (0, 1))
    assert ordered.fingerprint != shuffled.fingerprint
    again = 0
    for row in range(30):
        first, second = ordered[row], shuffled[row]
        assert sorted(frame.tobytes() for frame in first) == sorted(frame.tobytes() for frame in second)
        again += bool((first == second).all())
    assert again < 3
    assert set(ordered.targets) == set(data.PLAN["video"]["targets"])
    assert (ordered.targets["order"].values == shuffled.targets["order"].values).all()


def test_what_is_made_by_hand_reads_motion_and_only_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module_in(FOLDER, "data", monkeypatch)
    control, side = data.Differences(), data.SIDE
    x = 2 * np.pi * np.arange(side) / 24
    clip = np.stack([np.sin(x - 2 * np.pi * t / 24) + np.sin(x)[:, None] for t in range(data.FRAMES)])
    clip = (128 + 60 * clip)[..., None].repeat(3, -1).astype(np.uint8)
    forth, back, still = control.transform([clip, clip[::-1], clip[:1].repeat(data.FRAMES, 0)])
    # One pixel to the right, a quarter of a cell, between frames; nothing down.
    assert np.allclose(forth[:5], 0.25, atol=0.08) and np.allclose(back[:5], -0.25, atol=0.08)
    assert np.allclose(forth[5:10], 0, atol=0.03) and not still[:20].any()


def test_moments_stand_side_by_side_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    data = module_in(FOLDER, "data", monkeypatch)
    images = dx.build("encoder", "objectives:shapes-jepa")
    encoder = data.InTime(dx.frames_of(images, 2))
    clip = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    both = encoder.transform([clip, clip[::-1]], tap="blocks.1").reshape(2, -1, 2, 4)
    assert np.allclose(both[0], both[1][:, ::-1], atol=1e-5) and not np.allclose(both[0], both[1], atol=1e-3)
    assert np.allclose(both[0].mean(2).T, images.transform(list(clip), tap="blocks.1", pooling="mean"), atol=1e-5)


def test_every_cell_has_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    study = module_in(FOLDER, "study", monkeypatch)
    assert len(study.cells()) == 3 * 5 + 4
    shuffled = [line for line in study.commands("video-contrastive") if "shuffled=1" in line]
    assert len(shuffled) == 2 * 5 and sum("in_time?encoder=models/video/contrastive" in line for line in shuffled) == 5
    assert len(study.commands("video-differences")) == 2 * 5
    assert study.commands("lorenz-jepa")[0].startswith("diagnostics train objectives --data 'lorenz?")
