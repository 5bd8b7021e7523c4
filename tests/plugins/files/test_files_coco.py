"""Folders in COCO's format: boxes, splits and captions as they were written, and what is refused or counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagnostics import Dataset, open_run
from diagnostics.datasets.boxes import ASIDE
from diagnostics.specs import build
from tests.support.coco_folder import write
from tests.support.commands import diagnose
from tests.support.refusals import refusal


def coco(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"coco:{root}{options}")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("coco")
    return root, write(root, 12)


def test_boxes_are_those_that_were_written(written: tuple[Path, dict[str, Any]]) -> None:
    root, sets = written
    data = coco(root)
    assert data.ids == [f"{name}/{i:012}.png" for name in sets for i in range(12)]
    assert data.counts()["test"] == 12
    assert data.exchangeable == "fit"
    target, row = data.targets["boxes"], 0
    assert target.classes == tuple(each["name"] for each in sets["val2017"]["categories"])
    for said in sets.values():
        for i, image in enumerate(said["images"]):
            rows = target.values[row]
            np.testing.assert_array_equal(rows[0, 2:4], [image["width"], image["height"]])
            assert data[row].shape[:2] == (image["height"], image["width"])
            mine = [each for each in said["annotations"] if each["image_id"] == image["id"]]
            rows = rows[1 : 1 + len(mine)]
            np.testing.assert_array_equal(rows[:, 2:4] - rows[:, :2], [each["bbox"][2:] for each in mine])
            assert rows[:, 4].tolist() == [(each["category_id"] - 1) / 10 for each in mine]
            assert (rows[:, ASIDE] == (i % 8 == 7)).all()
            row += 1
    assert data.texts == ()


def test_one_set_is_split_by_image_and_captions_are_read_if_asked(written: tuple[Path, dict[str, Any]]) -> None:
    root, _ = written
    data = coco(root, "?sets=val2017&targets=boxes,caption")
    assert len(data) == 12
    assert set(data.counts()) == {"train", "val", "test"}
    assert set(data.targets) == {"boxes", "caption"}
    assert "object" in data.texts[0]
    assert data.fingerprint != coco(root, "?sets=val2017").fingerprint
    assert list(coco(root, "?sets=val2017&targets=caption").targets) == ["caption"]


def change(root: Path, edit: Callable[[dict[str, Any]], None], kind: str = "instances") -> Path:
    """A folder with an edit of its annotations."""
    write(root, 10, 32, ("val2017",))
    file = root / "annotations" / f"{kind}_val2017.json"
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))
    return root


def test_boxes_that_are_none_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [3, 3, 0, 4]
        data["annotations"][1]["bbox"] = [40, 3, 4, 4]

    whole = np.isfinite(coco(change(tmp_path / "whole", lambda data: None)).targets["boxes"].values[..., 4]).sum()
    data = coco(change(tmp_path / "some", edit))
    assert np.isfinite(data.targets["boxes"].values[..., 4]).sum() == whole - 2
    assert "2 boxes" in data.about
    assert "2 boxes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "code", "named"),
    [
        (lambda data: data["annotations"][0].update(category_id=5), "bad-data", "category 5"),
        (lambda data: data["annotations"][0].update(image_id=77), "bad-data", "image 77"),
        (lambda data: data.pop("categories"), "bad-data", "categories"),
        (lambda data: data["images"][0].update(file_name="gone.png"), "bad-data", "gone.png"),
        (lambda data: data["images"][0].update(file_name="../out.png"), "strange-file", "out.png"),
        (lambda data: data["images"][0].update(file_name="a" * 300), "bad-data", "instances_val2017.json"),
        (lambda data: data["images"][0].update(height=-32), "bad-data", "-32"),
        (lambda data: data["images"][0].update(width=10**400), "bad-data", "instances_val2017.json"),
        (lambda data: data["images"][1].update(id=0), "bad-data", "id 0"),
        (lambda data: data["images"][0].update(id=float("inf")), "bad-data", "instances_val2017.json"),
        (lambda data: data["categories"][1].update(id=1), "bad-data", "id 1"),
        (lambda data: data["annotations"][0].update(bbox=[10**400, 1, 2, 2]), "bad-data", "instances_val2017.json"),
        (lambda data: data.update(images=[], annotations=[]), "bad-data", "instances_val2017.json"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Any, code: Any, named: str) -> None:
    root = change(tmp_path, edit)
    with refusal(code, named):
        coco(root)


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data["annotations"][0].update(image_id=77),
        lambda data: data["annotations"][0].pop("caption"),
        lambda data: data.pop("images"),
    ],
)
def test_captions_of_another_form_are_refused(tmp_path: Path, edit: Any) -> None:
    root = change(tmp_path, edit, "captions")
    with refusal("bad-data", "captions_val2017.json"):
        coco(root, "?targets=caption")


def test_captions_are_found_by_the_file_whichever_way_its_name_is_written(tmp_path: Path) -> None:
    root = change(tmp_path, lambda data: data["images"][0].update(file_name="./000000000000.png"), "captions")
    assert "object" in coco(root, "?targets=caption").texts[0]


def test_an_image_of_another_size_is_refused_or_left_out(tmp_path: Path) -> None:
    root = change(tmp_path, lambda data: data["images"][0].update(height=31))
    data = coco(root)
    with refusal("bad-data", "31 x 32"):
        data[0]
    assert len(coco(root, "?on_error=skip")) == 9


def test_a_folder_without_annotations_or_with_other_sets_is_refused(written: tuple[Path, Any], tmp_path: Path) -> None:
    with refusal("missing-file", "instances_val2017.json"):
        coco(tmp_path)
    with refusal("missing-file", "instances_test.json"):
        coco(written[0], "?sets=test")
    with refusal("unknown-name", "keypoints"):
        coco(written[0], "?targets=keypoints")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{")
    with refusal("unreadable", "instances_val2017.json"):
        coco(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").write_text("[" * 200_000)
    with refusal("unreadable", "instances_val2017.json"):
        coco(tmp_path)


def test_the_suite_reads_a_folder_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools (extra images) is not installed")
    write(tmp_path / "coco", 40, sets=("train2017",))
    code = "from tests.support.tiny import tiny_image_encoder\n\ndef build():\n    return tiny_image_encoder(side=48)\n"
    (tmp_path / "tiny.py").write_text(code)
    asked = ("--measures", "perception", "--no-controls", "--trust-code", "-o", tmp_path / "run", "--json")
    done = diagnose("run", f"{tmp_path}/tiny.py:build", "--data", f"coco:{tmp_path}/coco", *asked)
    assert done.status == 0, done.err
    assert [profile.name for profile in open_run(tmp_path / "run").profiles()] == ["detection_probe/boxes"]
