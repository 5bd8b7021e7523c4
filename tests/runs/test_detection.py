"""Detection in a run: equal from stored and from streamed tokens, its controls, its cost, and the suite that it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import Dataset, Run, Target
from diagnostics.activations.folder import Folder
from diagnostics.measures.result import LOSSES
from diagnostics.plugin import pad_boxes
from diagnostics.progress import Cost
from diagnostics.registry import plugin_entries
from diagnostics.runs.options import Request
from diagnostics.runs.processes import workers
from diagnostics.runs.setup import PERCEPTION, Setup, select_measures
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

pytest.importorskip("pycocotools", reason="pycocotools (extra images) is not installed")

N, SIDE = 60, 32
NAME = "detection_probe/boxes"


def coloured(n: int = N) -> Dataset:
    """Rectangles of two classes, red and blue, on grey noise."""
    rng = np.random.default_rng(0)
    samples, boxes = rng.integers(90, 110, (n, SIDE, SIDE, 3)).astype(np.uint8), list[np.ndarray]()
    for sample in samples:
        rows = np.zeros((rng.integers(1, 3), 5))
        for row in rows:
            (y, x), (height, width) = rng.integers(0, SIDE - 12, 2), rng.integers(8, 13, 2)
            row[:] = x, y, x + width, y + height, rng.integers(0, 2)
            sample[y : y + height, x : x + width] = [[250, 20, 20], [20, 20, 250]][int(row[4])]
        boxes.append(rows)
    ids = [f"image-{i:03}" for i in range(n)]
    target = Target("boxes", pad_boxes(boxes, [(SIDE, SIDE)] * n), classes=("red", "blue"))
    return Dataset("coloured", "image", samples, ids, list(dx.split_groups(ids, 0)), {"boxes": target})


def measure(out: Path, **options: Any) -> Run:
    asked = {
        "measures": ["detection_probe"],
        "controls": False,
        "report": False,
        "watch": dx.silent,
        "taps": ["blocks.0"],
    }
    return dx.run(tiny_image_encoder(side=SIDE), coloured(), out=out, **asked | options)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Any]]:
    told = list[Any]()
    run = measure(tmp_path_factory.mktemp("boxes") / "run", dense="streamed", controls=True, watch=told.append)
    return run, told


def test_boxes_are_read_alike_from_stored_and_streamed_tokens(streamed: tuple[Run, list[Any]], tmp_path: Path) -> None:
    run, told = streamed
    ours, theirs = (each.profile(NAME).data for each in (run, measure(tmp_path, dense="stored")))
    for name in ("penalty", "side_penalty", "nms_iou", "line_chance"):
        np.testing.assert_allclose(ours[name], theirs[name])
    # Sums are in float32 here, so that single boxes may fall out differently.
    for name in ("score", "low", "high", "val_score", "ap_50", "recall"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.01)
    assert ours.attrs["tokens"] == "streamed"
    assert run.store.token_files == {}
    assert ours.attrs[LOSSES] == "resampled"
    assert ours.attrs["family"] == "spatial"
    (cost,) = (each for each in told if isinstance(each, Cost))
    assert cost.bytes > Folder(Path(run.store.path) / "observed").size()


def test_what_is_red_is_found_and_controls_stand_beside(streamed: tuple[Run, list[Any]]) -> None:
    profile = streamed[0].profile(NAME)
    data = profile.data
    assert float(data["ap_50"].max()) > 0.15 > 3 * float(data["line_chance"][0])
    assert {"fresh_weights", "raw_input", "shuffled_labels"} <= set(profile.controls)
    shuffled = profile.controls["shuffled_labels"]
    assert float(shuffled["score"].max()) < 0.3 * float(data["score"].max())
    assert np.isfinite(data.attrs["over_raw_input_low"])


def test_two_processes_find_the_same_boxes_out_of_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # They start at once, and not after what takes long.
    monkeypatch.setattr(workers, "WORTH", 0.0)
    asked: dict[str, Any] = {"choose_on": "fit", "taps": ["embed", "blocks.0"]}
    one, two, streamed = (
        measure(tmp_path / f"{dense}-{jobs}", dense=dense, jobs=jobs, **asked).profile(NAME).data
        for dense, jobs in (("stored", 1), ("stored", 2), ("streamed", 1))
    )
    for name in ("drawn", "oof_drawn", "val_score", "nms_iou", "penalty"):
        np.testing.assert_array_equal(one[name].values, two[name].values)
    for name in ("nms_iou", "penalty", "side_penalty"):
        np.testing.assert_allclose(one[name], streamed[name])
    np.testing.assert_allclose(one["score"], streamed["score"], atol=0.02)


def test_boxes_can_be_asked_for_later(tmp_path: Path) -> None:
    measure(tmp_path / "run", measures=["rankme"])
    told = list[Any]()
    later = measure(tmp_path / "run", dense="streamed", watch=told.append)
    (cost,) = (each for each in told if isinstance(each, Cost))
    assert Folder(tmp_path / "run" / "observed").size() > cost.bytes / 2 > 0
    assert later.profile(NAME).data.attrs["tokens"] == "streamed"


def test_a_readout_of_boxes_is_refused(streamed: tuple[Run, list[Any]]) -> None:
    with refusal("not-savable", "boxes"):
        streamed[0].probe("boxes", "detection_probe")


def test_the_suite_has_the_tasks_of_perception_encoder() -> None:
    measures, unusable = select_measures(["perception"])
    assert [each.name for each in measures] == [name for name in plugin_entries("measure") if name in PERCEPTION]
    assert not unusable
    with_another, _ = select_measures(["perception", "cka"])
    assert {each.name for each in with_another} == {*PERCEPTION, "cka"}


def test_targets_that_the_standard_suite_does_not_read_are_named_with_what_does(tmp_path: Path) -> None:
    asked = {"encoder": tiny_image_encoder(side=SIDE), "dataset": coloured(), "out": tmp_path / "run"}
    (why,) = Setup(Request(**asked)).unread
    assert "boxes (detection_probe)" in why
    assert not Setup(Request(**asked, measures="perception")).unread
