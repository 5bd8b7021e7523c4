"""Grounding in a run: from stored and from streamed tokens, with a text encoder that is named, and its controls."""

from __future__ import annotations

import dataclasses
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import Dataset, Run, Target
from diagnostics.datasets.boxes import CLASS
from diagnostics.plugin import pad_phrases
from diagnostics.runs.setup import embed_phrases
from tests.support.refusals import refusal
from tests.support.tiny import tiny_image_encoder

N, SIDE = 60, 32
NAME = "grounding_probe/phrases"
COLOURS = {"red": (250, 20, 20), "blue": (20, 20, 250), "green": (20, 220, 20)}


def coloured(n: int = N) -> Dataset:
    """Two rectangles of different colours on grey noise, each named by its own."""
    rng = np.random.default_rng(0)
    samples, phrases = rng.integers(90, 110, (n, SIDE, SIDE, 3)).astype(np.uint8), list[Any]()
    for sample in samples:
        said = list[Any]()
        for left, name in zip((0, 16), rng.permutation(list(COLOURS)), strict=False):
            (y, x), (height, width) = rng.integers((0, left), (SIDE - 14, left + 3)), rng.integers(9, 14, 2)
            sample[y : y + height, x : x + width] = COLOURS[str(name)]
            said.append((f"the {name} one", (x, y, x + width, y + height)))
        phrases.append(said)
    values, texts = pad_phrases(phrases, [(SIDE, SIDE)] * n)
    ids = [f"image-{i:03}" for i in range(n)]
    target = Target("phrases", values, classes=texts)
    return Dataset("named", "image", samples, ids, list(dx.split_groups(ids, 0)), {"phrases": target})


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an encoder of texts that knows how often each letter stands in them."""
    file = tmp_path_factory.mktemp("texts") / "letters.py"
    file.write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        import diagnostics as dx

        class Letters(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.top = nn.Embedding.from_pretrained(torch.eye(128)), nn.Identity()
            def forward(self, x):
                return self.top(self.stem(x))

        def build():
            def preprocess(text):
                return torch.tensor([ord(letter) % 128 for letter in f"{str(text):<32}"[:32]])
            site = dx.Site("top")
            tap = dx.Tap("top", 1.0, "trunk", 128, dx.Grid((32,), ("t",)), site)
            return dx.TorchEncoder("letters", "text", Letters(), [tap], "top", preprocess, "the red one")
        """)
    )
    return f"{file}:build"


def measure(out: Path, **options: Any) -> Run:
    asked = {
        "measures": ["grounding_probe"],
        "controls": False,
        "report": False,
        "watch": dx.silent,
        "taps": ["blocks.0"],
    }
    return dx.run(tiny_image_encoder(side=SIDE), coloured(), out=out, **asked | options)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure(tmp_path_factory.mktemp("phrases") / "run", dense="streamed", controls=True)


def test_phrases_are_read_alike_from_stored_and_streamed_tokens(streamed: Run, tmp_path: Path) -> None:
    ours, theirs = (each.profile(NAME).data for each in (streamed, measure(tmp_path, dense="stored")))
    assert (ours.attrs["tokens"], theirs.attrs["tokens"]) == ("streamed", "stored")
    for name in ("penalty", "side_penalty", "vote", "line_chance"):
        np.testing.assert_allclose(ours[name], theirs[name])
    for name in ("score", "low", "high", "val_score", "pointing", "no_phrase", "other_phrase", "bag_of_words"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.02)


def test_a_phrase_leads_to_what_it_names(streamed: Run) -> None:
    profile = streamed.profile(NAME)
    data = profile.data.isel(tap=0)
    assert float(data["pointing"]) > 0.8
    assert float(data["score"]) > float(data["no_phrase"]) > float(data["other_phrase"])
    assert {"fresh_weights", "raw_input", "shuffled_labels"} <= set(profile.controls)
    assert float(profile.controls["shuffled_labels"]["score"].max()) < 0.6 * float(data["score"])
    assert data.attrs["family"] == "language"


def test_a_text_encoder_embeds_phrases_and_is_named(texts: str, tmp_path: Path) -> None:
    run = measure(tmp_path / "run", text_encoder=texts, trust_code=True)
    data = run.profile(NAME).data
    assert data.attrs["text_encoder"] == texts
    assert float(data["pointing"].max()) > 0.8
    # A run has the embeddings of one text encoder.
    with refusal("other-run", "dataset"):
        measure(tmp_path / "run")


def test_the_texts_of_test_change_nothing_that_is_fitted(texts: str) -> None:
    data, others = coloured(), coloured()
    phrases = others.targets["phrases"]
    boxes, test = phrases.values.copy(), others.split == "test"
    boxes[test, 1:, CLASS] += len(phrases.classes)
    names = (*phrases.classes, *(f"{of.upper()}, WHICH ZEBRAS SEEK" for of in phrases.classes))
    others.targets = {"phrases": dataclasses.replace(phrases, values=boxes, classes=names)}
    one, two = (embed_phrases(each, texts).targets["phrases"].values for each in (data, others))
    np.testing.assert_allclose(one[~test], two[~test], atol=1e-12)
    assert not np.array_equal(one[test], two[test], equal_nan=True)


def test_what_embeds_no_phrases_is_refused(texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusal("no-effect", "phrases"):
        embed_phrases(dx.build("dataset", "digits?n=20"), texts)
    with refusal("other-modality", "image"):
        embed_phrases(coloured(), "objectives:shapes-jepa")
    # As a tokenizer does with a language that it does not know.
    data = coloured()
    values, names = pad_phrases([[(name * 40, (0, 0, 9, 9))] for name in "aa" * 15 + "bb" * 15], [(SIDE, SIDE)] * N)
    monkeypatch.setattr(dx.TorchEncoder, "transform", lambda encoder, some: np.ones((len(some), 4)))
    data.targets = {"phrases": Target("phrases", values, classes=names)}
    with refusal("no-effect", "2 texts"):
        embed_phrases(data, texts)
