"""Zero-shot classification and retrieval: planted answers, chance, and towers' own embeddings."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

pytest.importorskip("open_clip")

from diagnostics_pretraining.plugin import zeroshot
from diagnostics_pretraining.text_encoder import context_of, vocabulary_of
from diagnostics_pretraining.towers import Towers, build_towers, encoders_of, load_pair
from diagnostics_pretraining.zeroshot import AT, chance_of_recall, classification, labels_of, prompts_of, retrieval

from diagnostics import Dataset, LazySamples, Question, Target
from diagnostics.cli.app import guard
from tests.support.pairs import save_pair

COLOURS = {"red": (220, 30, 30), "orange": (240, 140, 20), "blue": (30, 40, 220), "dark_green": (20, 90, 20)}


def called(*options: object) -> Any:
    app = Typer()
    app.command()(guard(zeroshot, "pretraining"))
    return CliRunner().invoke(app, [str(option) for option in options])


def refused(*options: object) -> str:
    result = called(*options)
    assert result.exit_code == 2, result.stdout
    (line,) = result.stderr.splitlines()
    return line.removeprefix("diagnostics: ")


def coloured(n: int = 60, frames: int = 0, texts: bool = True) -> Dataset:
    """Images of one noisy colour each, or clips of them."""
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    label = np.arange(n) % len(names)
    shape = (n, *([frames] if frames else []), 16, 16, 3)
    flat = np.array([COLOURS[names[i]] for i in label]).reshape(n, *[1] * (len(shape) - 2), 3)
    pixels = np.clip(flat + rng.normal(0, 8, shape), 0, 255).astype(np.uint8)
    split = [("train", "val", "test")[i // len(names) % 3] for i in range(n)]
    questions = [(Question("tone", "warm" if i < 2 else "cold", ("which tone?",)),) for i in label]
    return Dataset(
        "coloured",
        "video" if frames else "image",
        pixels,
        [f"c{i}" for i in range(n)],
        split,
        {"colour": Target("label", label, classes=tuple(names)), "x": Target("value", rng.random(n))},
        texts=[f"a {names[i].replace('_', ' ')} image" for i in label] if texts else (),
        questions=questions,
    )


@pytest.fixture(scope="module")
def towers() -> Towers:
    words = [*coloured().texts, "warm cold photo of"]
    return build_towers(
        "micro", rope=True, pool="attention", vocabulary=vocabulary_of(words, context_of("micro")), seed=0
    )


@pytest.fixture(scope="module")
def folder(towers: Towers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(encoders_of(towers, "m"), tmp_path_factory.mktemp("towers") / "m")


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`--data mine` is what is put in here."""
    import diagnostics_pretraining.zeroshot as job

    given: dict[str, Dataset] = {"mine": coloured()}
    monkeypatch.setattr(job, "build", lambda kind, spec: given[spec])
    return given


def test_what_is_planted_is_found() -> None:
    """Of 12 images 9 are nearest to their own class; lengths of embeddings do not matter."""
    classes = np.eye(3) * np.array([[1.0], [5.0], [0.2]])
    labels = np.arange(12) % 3
    images = np.eye(3)[np.where(np.arange(12) < 3, (labels + 1) % 3, labels)] + 0.1
    score = classification(images * 7, classes, labels, np.arange(12).astype(str), seed=0)
    assert score.value == 0.75 and score.chance == pytest.approx(1 / 3)
    assert score.low < 0.75 < score.high
    # Where all classes are alike, nothing is known.
    assert classification(images, np.ones((3, 3)), labels, np.arange(12).astype(str), 0).value == pytest.approx(1 / 3)


def test_an_interval_is_over_groups() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 20), 10)
    right = np.repeat(rng.random(20) < 0.7, 10)
    images = np.eye(2)[np.where(right, labels, 1 - labels)]
    alone, together = (
        classification(images, np.eye(2), labels, groups.astype(str), 0)
        for groups in (np.arange(200), np.repeat(np.arange(20), 10))
    )
    assert alone.value == together.value == right.mean()
    assert together.high - together.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(("gallery", "partners"), [(7, 1), (7, 3), (12, 2), (6, 6)])
def test_chance_is_that_of_a_random_order(gallery: int, partners: int) -> None:
    chances = chance_of_recall(np.array([partners]), gallery)[:, 0]
    for k, chance in zip(AT, chances, strict=True):
        drawn = [min(one) < partners for one in combinations(range(gallery), min(k, gallery))]
        assert chance == pytest.approx(np.mean(drawn), abs=1e-12)


def test_partners_are_found_both_ways_and_galleries_are_of_the_size_asked_for() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, 64))
    names, groups = np.arange(50), np.arange(50).astype(str)
    recalls = retrieval(images, 3 * images, names, groups, 20, seed=0)
    assert all(score.value == 1 for way in recalls.values() for score in way.values())
    assert [recalls["image_to_text"][k].chance for k in AT] == pytest.approx([k / 20 for k in AT])
    # The texts of the next image: never the first, and where all are one text, always.
    wrong = retrieval(images, np.roll(images, 1, axis=0), names, groups, 50, seed=0)
    assert wrong["text_to_image"][1].value == 0 and wrong["image_to_text"][1].value == 0
    alike = retrieval(images, np.roll(images, 1, axis=0), np.zeros(50, int), groups, 50, seed=0)
    assert alike["image_to_text"][1].value == alike["image_to_text"][1].chance == 1
    # One way alone: all images ask for one text, which one image finds.
    texts = np.tile(images[:1], (50, 1)) + 1e-3 * images
    one = retrieval(images[:1] + 1e-6 * images, texts, names, groups, 50, seed=0)
    assert one["image_to_text"][1].value < 1
    noise = retrieval(images, rng.normal(size=(50, 64)), names, groups, 25, seed=0)
    assert noise["image_to_text"][10].low < 0.4 < noise["image_to_text"][10].high


def test_towers_are_compared_by_their_own_embeddings(folder: Path, towers: Towers, built: Any) -> None:
    dataset, pair = built["mine"], load_pair(folder)
    rows = np.flatnonzero(dataset.split == "test")
    result = called(folder, "--data", "mine", "--for", "colour", "--gallery", 10, "--json")
    assert result.exit_code == 0, result.stderr
    out = json.loads(result.stdout)
    prompts = [["red", "a red", "a photo of a red"], ["orange", "an orange", "a photo of an orange"]]
    prompts += [["blue", "a blue", "a photo of a blue"], ["dark green", "a dark green", "a photo of a dark green"]]
    with torch.no_grad():
        pixels = torch.stack([pair.image.preprocess(dataset[row]) for row in rows])
        images = torch.nn.functional.normalize(towers.embed_images(pixels), dim=-1)
        tokens = [towers.vocabulary.encode(texts)[0] for texts in prompts]
        each = torch.stack([torch.nn.functional.normalize(towers.embed_texts(one), dim=-1).mean(0) for one in tokens])
        guess = (images @ torch.nn.functional.normalize(each, dim=-1).T).argmax(1).numpy()
    known = out["classification"]
    assert known["accuracy"]["value"] == pytest.approx((guess == dataset.targets["colour"].values[rows]).mean())
    assert known["accuracy"]["chance"] == 0.25 and known["n"] == known["groups"] == len(rows) == 20
    assert known["commonest"] == 0.25 and known["strange"] == []
    assert known["templates"] == ["{}", "a {}", "a photo of a {}"]
    assert known["classes"] == ["red", "orange", "blue", "dark green"]
    assert (out["retrieval"]["gallery"], out["retrieval"]["galleries"], out["retrieval"]["n"]) == (10, 2, 20)
    assert out["retrieval"]["alike"] == 20 and out["split"] == "test"
    few = json.loads(called(folder, "--data", "mine", "--gallery", 8, "--json").stdout)["retrieval"]
    assert (few["n"], few["groups"], few["galleries"]) == (16, 16, 2)
    shown = called(folder, "--data", "mine", "--for", "tone", "--template", "{}", "--split", "val").stdout
    assert "tone of mine by zero-shot: " in shown and " of 20 val samples (20 groups, 2 classes)" in shown
    assert ", chance 0.500" in shown and "prompts: mean of '{}'" in shown


def test_clips_are_seen_by_their_frames(folder: Path, built: Any) -> None:
    built["clips"] = coloured(frames=3)
    one, two = (
        json.loads(called(folder, "--data", "clips", "--for", "colour", "--frames", frames, "--json").stdout)
        for frames in (1, 3)
    )
    assert one["classification"]["n"] == two["classification"]["n"] == 20


def test_each_sample_is_read_once(folder: Path, built: Any) -> None:
    dataset, read = coloured(), list[int]()

    def sample(i: int) -> np.ndarray:
        read.append(i)
        return pixels[i]

    pixels = dataset.samples
    dataset.samples = LazySamples(len(pixels), sample)
    built["lazy"] = dataset
    out = json.loads(called(folder, "--data", "lazy", "--for", "colour", "--json").stdout)
    assert out["classification"]["n"] == out["retrieval"]["n"] == 20
    # The first one also says which size the samples have.
    test = np.flatnonzero(dataset.split == "test").tolist()
    assert sorted(read) == [test[0], *test]


def test_what_texts_lack_is_said(folder: Path, built: Any) -> None:
    dataset = coloured()
    strange = Target("label", dataset.targets["colour"].values, classes=("red", "orange", "mauve", "teal"))
    long = " ".join(["red"] * 40)
    samples = np.asarray(dataset.samples).copy()
    test = np.flatnonzero(dataset.split == "test")
    samples[test[1]] = samples[test[0]]
    built["odd"] = Dataset(
        "odd",
        "image",
        samples,
        dataset.ids,
        dataset.split.tolist(),
        {"colour": strange},
        texts=[long if i == test[2] else text for i, text in enumerate(dataset.texts)],
    )
    shown = called(folder, "--data", "odd", "--for", "colour").stdout
    assert "BEWARE: its vocabulary lacks words of 2 classes: mauve, teal" in shown
    assert "BEWARE: 1 texts are longer than its context and are cut" in shown
    assert "1 samples are repeated" in shown and "one gallery of 19 pairs" in shown
    built["without"] = coloured(texts=False)
    assert "retrieval" not in called(folder, "--data", "without", "--for", "colour").stdout


def test_classes_are_of_labels_and_of_questions() -> None:
    dataset = coloured()
    labels, classes = labels_of(dataset, "tone")
    assert classes == ("cold", "warm") and labels[:4].tolist() == [1, 1, 0, 0]
    assert prompts_of("orange star", ("a {}", "{} on a wall")) == ["an orange star", "orange star on a wall"]
    assert prompts_of("owl", ("data {}", "a photo of a {}")) == ["data owl", "a photo of an owl"]


def test_what_cannot_be_is_refused(folder: Path, built: Any, tmp_path: Path) -> None:
    from tests.support.tiny import tiny_dataset

    built |= {"without": coloured(texts=False), "series": tiny_dataset()}
    call = (folder, "--data")
    assert refused(*call, "without").startswith(
        "coloured has no texts, so that nothing can be retrieved: name a target"
    )
    assert refused(*call, "series", "--for", "x").startswith("m reads images (and frames of videos), and ")
    assert refused(*call, "mine", "--for", "colur").startswith(
        "Unknown label or question 'colur': did you mean colour?"
    )
    assert refused(*call, "mine", "--for", "x").startswith("Unknown label or question 'x'")
    assert refused(*call, "mine", "--template", "a photo").startswith("Template 'a photo' has no place for the class")
    assert refused(*call, "mine", "--split", "train").startswith("Unknown split 'train'")
    assert refused(*call, "mine", "--gallery", 30).startswith("coloured has 20 different test samples, too few")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "encoder.safetensors").write_bytes((folder / "encoder.safetensors").read_bytes())
    assert "has no text encoder that was trained with it" in refused(tmp_path / "bare", "--data", "mine")
