"""Folders of RefCOCO as JSON: phrases as they were written, and what is refused or counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diagnostics import Dataset
from diagnostics.specs import build
from tests.support.refusals import refusal

SPLITS = ("train", "train", "val", "testA", "testB")
Parts = tuple[list[dict[str, Any]], dict[str, Any]]


def write(
    root: Path, edit: Callable[[list[dict[str, Any]], dict[str, Any]], None] = lambda refs, instances: None
) -> Parts:
    """Two phrases for a thing in each of five images, after an edit; returns what was written."""
    images, annotations, refs = list[Any](), list[Any](), list[Any]()
    (root / "images" / "train2014").mkdir(parents=True, exist_ok=True)
    for i, split in enumerate(SPLITS):
        name = f"COCO_train2014_{i:012}.png"
        Image.fromarray(np.full((24, 30 + i, 3), 40 * i, np.uint8)).save(root / "images" / "train2014" / name)
        images.append({"id": 7 * i, "file_name": name, "height": 24, "width": 30 + i})
        annotations.append({"id": 100 + i, "image_id": 7 * i, "bbox": [2, 3, 10 + i, 8], "category_id": 1})
        sentences = [{"sent": f"thing {i}", "sent_id": i}, {"sent": "the grey one ", "sent_id": 50 + i}]
        refs.append({"ref_id": i, "ann_id": 100 + i, "image_id": 7 * i, "split": split, "sentences": sentences})
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    edit(refs, instances)
    (root / "refs(unc).json").write_text(json.dumps(refs))
    (root / "instances.json").write_text(json.dumps(instances))
    return refs, instances


def refcoco(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"refcoco:{root}{options}")


def test_phrases_are_those_that_were_written(tmp_path: Path) -> None:
    refs, _ = write(tmp_path)
    data = refcoco(tmp_path)
    target = data.targets["phrases"]
    assert data.split.tolist() == ["train", "train", "val", "test", "test"]
    assert target.classes == ("the grey one", *(f"thing {i}" for i in range(5)))
    for i in range(len(refs)):
        assert data[i].shape == (24, 30 + i, 3)
        of = target.values[i, 1:3]
        assert of[:, :4].tolist() == [[2, 3, 12 + i, 11]] * 2
        assert [target.classes[int(c)] for c in of[:, 4]] == [f"thing {i}", "the grey one"]


def test_phrases_without_a_word_or_a_box_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(refs: list[dict[str, Any]], instances: dict[str, Any]) -> None:
        refs[0]["sentences"][0]["sent"] = "?!"
        instances["annotations"][1]["bbox"] = [2, 3, 0, 4]

    write(tmp_path, edit)
    data = refcoco(tmp_path)
    assert np.isfinite(data.targets["phrases"].values[..., 4]).sum() - len(data) == 7
    assert "3 phrases" in data.about
    assert "3 phrases" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "code", "named"),
    [
        (lambda refs, instances: refs[0].update(ann_id=7), "bad-data", "refs(unc).json"),
        (lambda refs, instances: refs[0].update(image_id=1), "bad-data", "refs(unc).json"),
        (lambda refs, instances: refs[0].pop("sentences"), "bad-data", "sentences"),
        (lambda refs, instances: instances["images"][0].update(file_name="../x.png"), "strange-file", "x.png"),
        (lambda refs, instances: instances["images"][0].update(file_name="gone.png"), "bad-data", "gone.png"),
        (lambda refs, instances: instances.pop("annotations"), "bad-data", "annotations"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Any, code: Any, named: str) -> None:
    write(tmp_path, edit)
    with refusal(code, named):
        refcoco(tmp_path)


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    with refusal("missing-file", "refs(google).json"):
        refcoco(tmp_path, "?by=google")
    (tmp_path / "refs(google).p").write_bytes(b"x")
    with refusal("untrusted-code", "pickle.load(open('refs(google).p', 'rb'))"):
        refcoco(tmp_path, "?by=google")
