"""Clips and images in one batch: shares, frames, and that the order of frames changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnostics_pretraining.objective import FRAMES, Feed, clip_places, flattened, pooled
from diagnostics_pretraining.recipe import Stage
from diagnostics_pretraining.text_encoder import vocabulary_of
from diagnostics_pretraining.towers import build_towers
from diagnostics_training.models.inputs import PictureChanges

from diagnostics import Dataset, build
from tests.support.refusals import refusal

COUNT, LENGTH, FRAMES_SEEN = 16, 10, 4


class Numbers:
    """A vocabulary of one token a text, its number."""

    def encode(self, texts):  # type: ignore[no-untyped-def]  (a stand-in)
        return torch.tensor([[int(text)] for text in texts]), 0


def clips(count: int = COUNT) -> Dataset:
    """Flat frames: 10 times the clip's number in red, the frame's number in green."""
    pixels = np.zeros((count, LENGTH, 8, 8, 3), np.uint8)
    pixels[..., 0] = 10 * np.arange(count)[:, None, None, None]
    pixels[..., 1] = np.arange(LENGTH)[None, :, None, None]
    split = ["val", "test", *["train"] * (count - 2)]
    return Dataset(
        "flat", "video", pixels, [f"c{i}" for i in range(count)], split, {}, texts=[str(i) for i in range(count)]
    )


def feed(share: float, changes: PictureChanges | None = None, data: Dataset | None = None) -> Feed:
    data = data or clips()
    return Feed(data, np.arange(COUNT), Numbers(), [Stage(4, 32)], 8, 0, changes, share, FRAMES_SEEN)


def raw(pixels: torch.Tensor) -> torch.Tensor:
    """Red and green of flat pictures [..., 3, y, x], as they were stored."""
    assert (pixels == pixels[..., :1, :1]).all()
    return pixels[..., :2, 0, 0].int()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 2), (0.4, 3), (1.0, 8)])
def test_a_batch_has_its_share_of_clips_and_first_frames_as_images(share: float, count: int) -> None:
    fed = feed(share)
    batch, numbers = fed(1), torch.tensor([int(i[1:]) for i in fed.ids(1)])
    images = 8 - count
    assert len(batch["pixels"]) == images and (FRAMES in batch) == (count > 0)
    assert batch["tokens"].flatten().tolist() == numbers.tolist()
    assert raw(batch["pixels"]).tolist() == [[10 * int(n), 0] for n in numbers[:images]]
    if count:
        assert batch[FRAMES].shape == (count, FRAMES_SEEN, 3, 4, 4)
        # The first of each of four equal parts of ten frames.
        assert raw(batch[FRAMES]).tolist() == [[[10 * int(n), t] for t in (0, 2, 5, 7)] for n in numbers[images:]]


def test_clips_are_spread_over_processes() -> None:
    fed = feed(0.5)
    parts = [fed(0, rank, 4) for rank in range(4)]
    assert [len(part[FRAMES]) for part in parts] == [1, 1, 1, 1]
    assert sorted(i for rank in range(4) for i in fed.ids(0, rank, 4)) == sorted(fed.ids(0))
    for batch, count in ((8, 3), (100, 33), (7, 7)):
        places = clip_places(batch, count / batch)
        assert places.sum() == count
        assert np.abs(np.cumsum(places) - count / batch * np.arange(1, batch + 1)).max() < 1


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    pixels = np.repeat(np.random.default_rng(0).integers(0, 256, (COUNT, 1, 16, 16, 3), dtype=np.uint8), LENGTH, 1)
    still = clips()
    still.samples = pixels
    batch = feed(0.5, PictureChanges(), still)(0)
    assert torch.equal(batch[FRAMES][:, 0], batch[FRAMES][:, 3])
    whole = feed(0.5, None, still)(0)
    assert not any(torch.equal(a, b) for a, b in zip(batch[FRAMES][:, 0], whole[FRAMES][:, 0], strict=True))


def test_the_order_of_frames_changes_nothing() -> None:
    texts = ["a clip", "an image"]
    towers = build_towers("micro", rope=True, pool="attention", vocabulary=vocabulary_of(texts, 8), seed=0).double()
    torch.manual_seed(0)
    batch = {"pixels": torch.rand(2, 3, 16, 16).double(), FRAMES: torch.rand(3, 4, 3, 16, 16).double()}
    backwards = batch | {FRAMES: batch[FRAMES].flip(1)}
    one, other = (pooled(towers.embed_images(flattened(b)), b) for b in (batch, backwards))
    assert one.shape[0] == 5 and torch.allclose(one, other, rtol=0, atol=1e-12)
    each = torch.stack([towers.embed_images(clip).mean(0) for clip in batch[FRAMES]])
    assert torch.allclose(one, torch.cat([towers.embed_images(batch["pixels"]), each]), rtol=0, atol=1e-12)
    assert not torch.allclose(one[2], one[3], atol=1e-3)


def test_what_cannot_be_a_share_of_clips() -> None:
    with refusal("bad-value", "1.5"):
        feed(1.5)
    images = build("dataset", "shapes?n=20&size=32")
    with refusal("other-modality", "shapes"):
        feed(0.5, data=images)
    series = build("dataset", "arma?n=20")
    with refusal("other-modality", "arma", "series"):
        feed(0.0, data=series)
    with refusal("bad-value", "0"):
        Feed(clips(), np.arange(COUNT), Numbers(), [Stage(4, 32)], 8, 0, None, 0.5, 0)
