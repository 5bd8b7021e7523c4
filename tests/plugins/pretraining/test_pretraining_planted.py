"""The whole on a task with a known answer: towers that are trained by one command learn 16 flat colours by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import flat_colours

pytest.importorskip("open_clip")

import diagnostics_pretraining.train as training
from diagnostics_pretraining.recipe import PretrainJob, ZeroshotJob
from diagnostics_pretraining.towers import Pair
from diagnostics_pretraining.train import train
from diagnostics_pretraining.zeroshot import zeroshot

DATA = f"{flat_colours.__file__}:build"
RECIPE = """
stages = [{ size = 16, samples = 6_400 }]
batch = 32
lr = 2e-3
rope = true
pool = "attention"
"""


def learned(tmp_path: Path, recipe: str = RECIPE, **more: Any) -> Any:
    """The result of zero-shot classification on the test split after 200 steps."""
    (tmp_path / "own.toml").write_text(recipe)
    row = train(PretrainJob(data=DATA, out=tmp_path / "m", size="micro", config=tmp_path / "own.toml", **more))
    assert row["steps"] == 200
    return zeroshot(ZeroshotJob(folder=str(tmp_path / "m"), data=DATA, target="colour", gallery=32, device="cpu"))


def test_the_task_has_an_answer_and_chance_is_far_from_it() -> None:
    image, text = flat_colours.knowing()
    dataset = flat_colours.build()
    names = [text.preprocess(np.asarray(name)).mean((0, 1)) for name in flat_colours.COLOURS]
    colours = [image.preprocess(sample).mean((0, 1)) for sample in dataset[:64]]
    nearest = [min(range(16), key=lambda i: float((colour - names[i]).norm())) for colour in colours]
    assert nearest == dataset.targets["colour"].values[:64].tolist()


@pytest.mark.slow
def test_colours_are_learned_from_their_names(tmp_path: Path) -> None:
    result = learned(tmp_path)
    assert result.classification.accuracy.value >= 0.95
    assert result.classification.accuracy.chance == 1 / 16 and result.classification.templates == ("{}",)
    assert result.retrieval.image_to_text[1].low > result.retrieval.image_to_text[1].chance


@pytest.mark.slow
def test_colours_are_learned_from_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are never held against their own images: only the teacher says which go together."""
    monkeypatch.setattr(training, "load_pair", lambda folder: Pair(*flat_colours.knowing(), scale=1.0))
    result = learned(tmp_path, f'objective = "distil"{RECIPE}', teacher="knowing")
    assert result.classification.accuracy.value >= 0.95
