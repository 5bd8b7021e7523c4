"""Grounding: planted taps, controls of phrases, and P at .5 against own arithmetic."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import xarray as xr

from diagnostics import DiagnosticsError
from diagnostics.activations.contract import StoredTarget, shuffle
from diagnostics.datasets.boxes import CLASS, pad_phrases
from diagnostics.datasets.dataset import split_groups
from diagnostics.measures.apply import measure_all
from diagnostics.measures.probes import grounding
from diagnostics.measures.probes.detection import assign
from diagnostics.measures.probes.grounding import WORDS, GroundingProbe, count_words, overlap, whiten
from tests.support.boxes import PHRASES, SIDE, Tokens, phrase_target
from tests.support.refusals import refusal

N = 150


def tokens_of(boxes: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Taps that hold colour, kind and sides in boxes, the sides alone, and neither, in 12 features that are mixed."""
    rng = np.random.default_rng(seed)
    codes, sides = assign(boxes, (SIDE, SIDE), np.inf)
    held = (codes > 0)[..., None]
    number = np.maximum(codes - 1, 0)
    hot = np.concatenate([np.eye(2)[number // 2], np.eye(2)[number % 2]], axis=2) * held
    shape = np.array([(sides + 2) * held, hot, np.zeros_like(hot)])
    mix = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    kinds = {
        "phrases": (shape[0], hot, held * hot),
        "sides": (shape[0], shape[2], shape[2]),
        "neither": shape[[2, 2, 2]],
    }
    noise = 0.05 * rng.standard_normal((*codes.shape, 12))
    return {name: np.concatenate([*parts], axis=2) @ mix + noise for name, parts in kinds.items()}


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(tokens_of(phrase_target(N, 0).values, 0), list(split_groups(list(map(str, range(N))), 0)))


def test_the_tap_that_holds_what_phrases_say_is_found(tokens: Tokens) -> None:
    target = phrase_target(N, 0)
    result = measure_all([GroundingProbe()], tokens, {"phrases": target}).results["grounding_probe/phrases"]
    score = dict(zip(result["tap"].values.tolist(), result["score"].values, strict=True))
    assert score["phrases"] > 0.85 > 0.65 > score["sides"] > score["neither"]
    assert result.attrs["chosen_tap"] == "phrases"
    assert result.attrs["text_encoder"] == WORDS
    first, second = result.sel(tap="phrases"), result.sel(tap="sides")
    assert float(first["pointing"]) > 0.95
    # Counts of words are the text encoder here.
    assert float(first["bag_of_words"]) == pytest.approx(score["phrases"])
    # Half of the boxes are found without a phrase, and another's leads to the wrong one or to either.
    assert float(first["other_phrase"]) < 0.55
    assert float(first["no_phrase"]) < 0.65
    assert float(second["no_phrase"]) == pytest.approx(score["sides"], abs=0.15)
    assert float(first["line_chance"]) < 0.2


def test_how_tokens_vote_is_chosen_on_val(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    target, found = phrase_target(N, 0), dict[tuple[float, ...], Any]()
    for votes in ((0.0,), (0.9,), (0.0, 0.9)):
        monkeypatch.setattr(grounding, "VOTES", votes)
        monkeypatch.setattr(grounding.Phrases, "variants", {"vote": votes})
        found[votes] = measure_all([GroundingProbe()], tokens, {"phrases": target}).results["grounding_probe/phrases"]
    one, other, both = found.values()
    assert both.attrs["chosen_on"] == "val"
    np.testing.assert_allclose(both["val_score"], np.maximum(one["val_score"], other["val_score"]))
    chosen = np.where(both["vote"] == 0.9, other["score"], one["score"])
    np.testing.assert_allclose(both["score"], chosen)
    assert (one["val_score"].values != other["val_score"].values).any()


def test_shuffled_phrases_are_at_chance(tokens: Tokens) -> None:
    shuffled = shuffle(tokens, {"phrases": phrase_target(N, 0)})
    result = measure_all([GroundingProbe()], tokens, shuffled).results["grounding_probe/phrases"].sel(tap="phrases")
    assert float(result["low"]) <= float(result["line_chance"]) + 0.05
    assert float(result["score"]) < 0.3


def test_overlap_is_that_of_boxes_one_by_one() -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((2, 200, 2)) * 0.4
    found, truth = np.concatenate([corners, corners + rng.uniform(0.3, 1, (2, 200, 2))], axis=2)
    by_hand = list[bool]()
    for a, b in zip(found, truth, strict=True):
        both = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
        by_hand.append(both / union >= 0.5)
    assert overlap(found, truth).tolist() == by_hand
    assert 20 < sum(by_hand) < 180


def test_embeddings_are_whitened_over_the_phrases_of_train() -> None:
    rng = np.random.default_rng(0)
    raw, weights = rng.standard_normal((20, 5)) @ rng.standard_normal((5, 8)), rng.integers(0, 4, 20)
    white = whiten(raw, weights)
    assert white.shape == (20, 5)
    rows = np.repeat(white, weights, axis=0)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(5), atol=1e-10)
    counts = count_words(["the red cup", "a green hat", "The cup, the CUP"], np.array([0, 2]))
    np.testing.assert_allclose(np.linalg.norm(counts, axis=1), [1, 0, 1])
    assert counts.shape == (3, 3)


def test_embeddings_that_come_with_the_target_are_read(tokens: Tokens) -> None:
    target = phrase_target(N, 0)
    colour = np.where(np.isnan(target.values[..., CLASS]), np.nan, target.values[..., CLASS] // 2)[..., None]
    values = np.concatenate([target.values, colour, np.zeros_like(colour)], axis=2)
    told = dataclasses.replace(target, values=values, about="boxes, embedded by colour alone")

    def read(target: StoredTarget) -> xr.Dataset:
        found = measure_all([GroundingProbe()], tokens, {"phrases": target}).results["grounding_probe/phrases"]
        return found.sel(tap="phrases")

    result = read(told)
    assert result.attrs["text_encoder"] == "colour alone"
    assert result.attrs["rank"] == 1
    # Counts of words know the kind, too.
    assert float(result["score"]) < float(result["bag_of_words"]) - 0.1
    wordless = dataclasses.replace(told, classes=tuple("☃" * (i + 1) for i in range(len(told.classes))))
    again = read(wordless)
    assert float(again["score"]) == pytest.approx(float(result["score"]))
    assert float(again["bag_of_words"]) < float(again["score"])


def test_phrases_that_say_nothing_or_one_thing_are_refused(tokens: Tokens) -> None:
    with refusal("bad-target", "--"):
        pad_phrases([[("--", (0, 0, 1, 1))]])
    target = phrase_target(N, 0)
    values = target.values.copy()
    values[:, 1:, CLASS] *= 0
    alike = dataclasses.replace(target, values=values)
    with pytest.raises(DiagnosticsError) as caught:
        GroundingProbe().compute(tokens, alike, 0)
    assert caught.value.code == "too-few"
    wordless = dataclasses.replace(target, classes=tuple("☃" * (i + 1) for i in range(len(target.classes))))
    with refusal("no-effect", "bag of words", "--text-encoder"):
        GroundingProbe().compute(tokens, wordless, 0)
    assert len(PHRASES) == 4
