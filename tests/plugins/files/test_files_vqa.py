"""Folders of VQA v2 and TextVQA: questions as they were written, splits by image, and what is refused or counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diagnostics import Dataset
from diagnostics.runs.setup import with_questions
from diagnostics.specs import build
from tests.support.refusals import refusal

N = 6
Edit = Callable[[dict[str, Any], dict[str, Any]], object]


def write(root: Path, edit: Edit = lambda said, told: None, sets: tuple[str, ...] = ("val2014",)) -> None:
    """Two questions about each of six images of each set, after an edit."""
    for of in sets:
        (root / of).mkdir(parents=True, exist_ok=True)
        questions, annotations = list[Any](), list[Any]()
        for i in range(N):
            name = f"COCO_{of}_{7 * i:012d}.png"
            Image.fromarray(np.full((24, 30 + i, 3), 40 * i, np.uint8)).save(root / of / name)
            for j, (text, answer, kind) in enumerate(
                (("is it grey?", "yes", "yes/no"), ("how wide?", str(30 + i), "number"))
            ):
                number = 10 * i + j
                questions.append({"image_id": 7 * i, "question": text, "question_id": number})
                annotations.append({"question_id": number, "multiple_choice_answer": answer, "answer_type": kind})
        said, told = {"questions": questions}, {"annotations": annotations}
        edit(said, told)
        (root / f"v2_OpenEnded_mscoco_{of}_questions.json").write_text(json.dumps(said))
        (root / f"v2_mscoco_{of}_annotations.json").write_text(json.dumps(told))


def vqa(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"vqa:{root}{options}")


def test_questions_are_those_that_were_written(tmp_path: Path) -> None:
    write(tmp_path)
    data = vqa(tmp_path)
    assert data.ids == [f"val2014/COCO_val2014_{7 * i:012d}" for i in range(N)]
    assert set(data.split) == {"train", "val", "test"}
    for i in range(N):
        assert data[i].shape == (24, 30 + i, 3)
        assert [(q.name, q.answer, q.wordings) for q in data.questions[i]] == [
            ("yes/no", "yes", ("is it grey?",)),
            ("number", str(30 + i), ("how wide?",)),
        ]
    target = with_questions(data).targets["questions"]
    assert target.values.shape[:2] == (N, 2)
    assert {"yes/no", "number", "yes"} < set(target.classes)
    assert len(vqa(tmp_path, "?n=4")) == 4


def test_sets_are_splits_and_an_image_is_in_one(tmp_path: Path) -> None:
    write(tmp_path, sets=("train2014", "val2014"))
    data = vqa(tmp_path)
    assert {name.partition("/")[0] for name in np.array(data.ids)[data.split == "test"]} == {"val2014"}
    assert len(vqa(tmp_path, "?sets=val2014")) == N


def test_answers_of_several_people_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "train_images" / f"{name}.jpg")
    rows = [{"image_id": name, "question": "what does it say?", "answers": ["Stop", "stop", "go"]} for name in "abc"]
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [*rows, {**rows[0], "answers": []}]}))
    data = vqa(tmp_path)
    assert [(q.name, q.answer) for q in data.questions[0]] == [("reading", "stop")]
    assert "1 questions" in data.about


@pytest.mark.parametrize(
    ("edit", "code", "named"),
    [
        (lambda said, told: said["questions"][0].update(image_id=5), "bad-data", "000000000005"),
        (lambda said, told: said["questions"][0].pop("image_id"), "bad-data", "image_id"),
        (lambda said, told: told.pop("annotations"), "bad-data", "annotations"),
        (lambda said, told: told["annotations"].clear(), "bad-data", "vqa:"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, edit: Edit, code: Any, named: str) -> None:
    write(tmp_path, edit)
    with refusal(code, named):
        vqa(tmp_path)


def test_a_missing_image_can_be_left_out_and_a_missing_set_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "val2014" / f"COCO_val2014_{0:012d}.png").unlink()
    with refusal("bad-data", "000000000000"):
        vqa(tmp_path)
    assert len(vqa(tmp_path, "?on_error=skip")) == N - 1
    with refusal("missing-file", "test2015"):
        vqa(tmp_path, "?sets=test2015")
