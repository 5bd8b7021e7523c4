"""Questions: planted taps, what they are read from, shuffled ones, and answers that train never has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diagnostics import Dataset, Question, Target
from diagnostics.activations.contract import StoredTarget, shuffle
from diagnostics.datasets.dataset import split_groups, unprobeable_targets
from diagnostics.datasets.questions import ANSWER, KIND, TEXT, pad_questions
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.apply import measure_all
from diagnostics.measures.probes.questions import QuestionProbe, average
from diagnostics.runs.setup import MOST_WORDS, behind, with_questions
from tests.support.boxes import Tokens
from tests.support.refusals import refusal

N, SIDE, NAME = 240, 4, "question_probe/questions"
PLACES = {"top": 1, "bottom": 14}
COLOURS = ("red", "green", "blue")


def scene(seed: int = 0) -> tuple[np.ndarray, list[list[Question]], list[str]]:
    """Each sample's colours of two places, and questions that ask for them, held-back wordings among them."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 3, (N, 2))
    asked = [
        [
            Question(
                name, COLOURS[of], (f"which colour is {name}?", f"{name} has which colour?"), (f"{name} is which?",)
            )
            for name, of in zip(PLACES, row, strict=True)
        ]
        for row in colours
    ]
    return colours, asked, list(split_groups(list(map(str, range(N))), seed))


def tokens_of(colours: np.ndarray) -> dict[str, np.ndarray]:
    """Taps whose tokens hold the colour at its place, the colours of the whole image without their place, and nothing."""
    rng = np.random.default_rng(1)
    x = {name: 0.3 * rng.standard_normal((N, SIDE**2, 12)) for name in ("placed", "whole", "nothing")}
    for name in ("placed", "whole"):
        x[name][..., 6:] += np.random.default_rng(2).standard_normal((SIDE**2, 6))  # where a token is
    hot = np.eye(3)[colours]
    for at, of in zip(PLACES.values(), hot.transpose(1, 0, 2), strict=True):
        x["placed"][:, at, :3] += 4 * of
    x["whole"][..., :3] += hot.sum(axis=1)[:, None]
    return x


def target_of(asked: list[list[Question]], split: list[str]) -> StoredTarget:
    values, classes, texts = pad_questions(asked, split)
    embedded = np.array([["top" in text, "bottom" in text] for text in texts], float)
    values = behind(values, embedded, np.arange(len(texts)))
    return StoredTarget("questions", "questions", values, classes=classes)


@pytest.fixture(scope="module")
def found() -> Any:
    colours, asked, split = scene()
    tokens, target = Tokens(tokens_of(colours), split, SIDE), target_of(asked, split)
    shuffled = shuffle(tokens, {"questions": target})
    return {
        "true": measure_all([QuestionProbe()], tokens, {"questions": target}).results[NAME],
        "shuffled": measure_all([QuestionProbe()], tokens, shuffled).results[NAME],
    }


def test_the_tap_that_holds_answers_where_questions_look_is_found(found: Any) -> None:
    data = found["true"]
    score = dict(zip(data["tap"].values.tolist(), data["score"].values, strict=True))
    assert score["placed"] > 0.9
    # One of two colours is the one that is asked for.
    assert 0.5 < score["whole"] < 0.8
    assert score["nothing"] < 0.5
    assert data.attrs["chosen_tap"] == "placed"
    chance = float(data["line_chance"].values[0])
    assert 0.2 < chance < 0.48
    assert float(data["other_sample"].sel(tap="placed")) == pytest.approx(1 / 3, abs=0.16)
    both = float(data["of_top"].sel(tap="placed") + data["of_bottom"].sel(tap="placed")) / 2
    assert both == pytest.approx(score["placed"])
    assert (data.attrs["n_test"], data.attrs["units_test"]) == (96, 48)
    assert data.sizes["unit"] == 48


def test_shuffled_questions_are_at_what_the_question_alone_reaches(found: Any) -> None:
    data = found["shuffled"].sel(tap="placed")
    assert float(data["low"]) <= float(data["line_chance"]) + 0.05
    assert float(data["score"]) < 0.5


def test_an_answer_that_train_never_has_is_wrong_and_counted() -> None:
    colours, asked, split = scene()
    first = split.index("test")
    asked[first] = [Question("top", "mauve", ("top is which?",))]
    target = target_of(asked, split)
    tokens = Tokens({"placed": tokens_of(colours)["placed"]}, split, SIDE)
    data = measure_all([QuestionProbe()], tokens, {"questions": target}).results[NAME]
    assert data.attrs["answers_only_in_test"] == 1
    assert data.attrs["answers"] == 3
    assert data["loss"].sel(unit=tokens.groups[first]).values.tolist() == [1]


def test_questions_that_the_text_encoder_cannot_tell_apart_are_refused() -> None:
    colours, asked, split = scene()
    target = target_of(asked, split)
    bare = StoredTarget("questions", "questions", target.values[..., : TEXT + 1], classes=target.classes)
    with refusal("no-effect", "bag of words", "--text-encoder"):
        QuestionProbe().compute(Tokens(tokens_of(colours), split, SIDE), bare, 0)


def test_wordings_are_held_back_for_test_and_take_turns_elsewhere() -> None:
    ask = Question("a", "x", ("one?", "two?"), ("three?",))
    values, classes, texts = pad_questions(
        [[ask], [ask], [ask], [Question("caption", "y")]], ["train", "train", "test", "val"]
    )
    assert [texts[int(number)] for number in values[:3, 0, 2]] == ["one?", "two?", "three?"]
    assert classes == ("a", "x")
    assert values.shape == (4, 1, 3)
    assert np.isnan(values[3]).all()
    assert [classes[int(values[0, 0, column])] for column in (KIND, ANSWER)] == ["a", "x"]


def test_the_wordings_of_test_change_nothing_that_is_fitted() -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    split = ["train", "train", "val", "val", "test", "test"]

    def embedded(word: str) -> np.ndarray:
        # More words of test's than are counted.
        held_back = " ".join(f"{word}{i}" for i in range(MOST_WORDS)), f"{word}0 {word}1 which is a"
        asked = [
            [Question(name, answer, (f"which is {name}?",), held_back) for name in "ab"]
            for answer in ("x", "y", "x", "y", "x", "y")
        ]
        values = with_questions(Dataset("asked", "image", images, list("uvwxyz"), split, {}, questions=asked))
        return np.asarray(values.targets["questions"].values[..., TEXT + 1 :])

    one, two = embedded("lorem"), embedded("the")
    np.testing.assert_allclose(one, two, atol=1e-12)
    # The one direction in which train's texts differ, and test's that has no word of theirs at its origin.
    assert one.shape == (6, 2, 1)
    assert one[0, 0] == pytest.approx(-one[0, 1])


def test_cells_are_means_of_the_tokens_that_they_cover() -> None:
    import torch

    tap = Tap("x", 1.0, "trunk", 2, Grid((8, 4), ("y", "x")))
    x = torch.arange(64.0).reshape(1, 32, 2)
    cells = average(tap, x)
    assert cells.shape == (1, 16, 2)
    assert cells[0, 0].tolist() == x[0, [0, 4]].mean(dim=0).tolist()
    known = torch.ones(1, 32, dtype=torch.bool)
    known[0, [0, 1, 5]] = False
    masked = average(tap, x, known)
    assert masked[0, 0].tolist() == x[0, 4].tolist()
    assert masked[0, 1].tolist() == [0, 0]


def test_what_cannot_be_asked_is_said() -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    split = ["train", "train", "val", "val", "test", "test"]

    def made(questions: list[list[Question]], **more: Any) -> Dataset:
        return Dataset("asked", "image", images, list("abcdef"), split, more.get("targets", {}), questions=questions)

    ask = [[Question("a", answer, ("which?",))] for answer in "xyxyxy"]
    assert unprobeable_targets(with_questions(made(ask))) == {}
    assert "questions" in unprobeable_targets(with_questions(made([*ask[:4], [], []])))
    assert "questions" in unprobeable_targets(with_questions(made([ask[0]] * 6)))
    # Captions ask nothing, and a target of that name stays.
    assert with_questions(made([[Question("caption", "x")]] * 6)).targets == {}
    label = Target("label", np.arange(6) % 2)
    assert with_questions(made(ask, targets={"questions": label})).targets["questions"] is label
    with refusal("bad-target", "questions"):
        made(ask, targets={"q": Target("questions", np.full((6, 1, 3), 7.0), classes=("a", "x"))})
