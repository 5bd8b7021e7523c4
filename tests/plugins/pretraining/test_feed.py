"""Batches of pictures and tokens: a function of the step, counted to the last sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diagnostics_perception.encoder import Preprocess
from diagnostics_pretraining.objective import Feed, flattened
from diagnostics_pretraining.recipe import Stage
from diagnostics_training.models.inputs import PictureChanges

from diagnostics import Dataset
from tests.support.refusals import refusal

COUNT = 24


class Letters:
    """A vocabulary of letters, 8 a text."""

    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        tokens = torch.zeros(len(texts), 8, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text[:8])] = torch.tensor([ord(letter) for letter in text[:8]])
        return tokens, sum(len(text) > 8 for text in texts)


def dataset(count: int = COUNT, size: int = 20, **more: object) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    ids = [f"s{i}" for i in range(count)]
    split = ["val", "test", *["train"] * (count - 2)]
    return Dataset("noise", "image", pixels, ids, split, {}, texts=[f"t{i}" for i in range(count)], **more)  # type: ignore[arg-type]  (options by name)


def feed(
    stages: Sequence[Stage] = (Stage(8, 24),), batch: int = 8, changes: PictureChanges | None = None, **more: object
) -> Feed:
    data = dataset(**more)  # type: ignore[arg-type]  (options by name)
    return Feed(data, np.arange(len(data)), Letters(), stages, batch, 0, changes)


def test_a_batch_is_its_samples_as_the_encoder_reads_them_with_their_texts() -> None:
    fed = feed()
    batch, ids = fed(1), fed.ids(1)
    read = torch.stack([Preprocess("", 8)(fed.dataset[fed.dataset.ids.index(i)]) for i in ids])
    assert torch.equal(flattened(batch), read)
    assert torch.equal(batch["tokens"], Letters().encode([f"t{i[1:]}" for i in ids])[0])


def test_samples_are_counted_to_the_last_one_over_stages() -> None:
    fed = feed([Stage(8, 16), Stage(12, 8), Stage(16, 24)])
    assert fed.steps == 6
    assert [fed(step)["pixels"].shape[-1] for step in range(6)] == [8, 8, 12, 16, 16, 16]
    for epoch in (range(3), range(3, 6)):
        assert sorted(i for step in epoch for i in fed.ids(step)) == sorted(fed.dataset.ids)
    with refusal("bad-value", "12", "8"):
        feed([Stage(8, 16), Stage(12, 12)])


@pytest.mark.parametrize("changes", [None, PictureChanges()])
def test_processes_share_a_batch_and_how_many_changes_nothing(changes: PictureChanges | None) -> None:
    fed = feed(changes=changes)
    whole, parts = fed(2), [fed(2, rank, 4) for rank in range(4)]
    for key in whole:
        assert torch.equal(whole[key], torch.cat([part[key] for part in parts]))
    assert fed.ids(2) == [i for rank in range(4) for i in fed.ids(2, rank, 4)]


def test_changes_are_seen_as_drawn() -> None:
    grey = PictureChanges(area=(1, 1), aspect=(1, 1), mirror=0, brightness=0, contrast=0, saturation=0, grey=0)
    assert torch.allclose(flattened(feed(changes=grey)(0)), flattened(feed()(0)), atol=1e-6)
    mirrored = PictureChanges(area=(1, 1), aspect=(1, 1), mirror=1, brightness=0, contrast=0, saturation=0, grey=0)
    assert torch.allclose(flattened(feed(changes=mirrored)(0)), flattened(feed()(0)).flip(-1), atol=1e-6)
    two_epochs = feed([Stage(8, 48)], batch=24, changes=PictureChanges())
    first, second = (dict(zip(two_epochs.ids(e), two_epochs(e)["pixels"], strict=True)) for e in range(2))
    assert not any(torch.equal(first[i], second[i]) for i in first)
