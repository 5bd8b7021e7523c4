"""Videos through an image encoder: which frames are seen, where their tokens stand, and what their average is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from diagnostics import Dataset, DiagnosticsError, Grid, Site, Tap, Target, TorchEncoder, run, split_groups
from diagnostics.datasets.target import crop_maps, on_grid
from diagnostics.encoders.frames import frames_of, sample_frames
from diagnostics.encoders.modules import pool
from diagnostics.measures.locality.masks import _frames as middle_frames
from tests.support.refusals import refusal

SIDE, PATCH, WIDTH = 12, 4, 6
PATCHES = Grid((3, 3), ("y", "x"), prefix=1)


class Patches(nn.Module):
    """A class token and patches through a block that mixes them, and the class token's projection; a map beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.block = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.cut(image).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.token.expand(len(image), -1, -1), tokens], dim=1))
        return self.head(tokens[:, 0])


def preprocess(image: np.ndarray) -> Tensor:
    if image.shape[1:] != (SIDE, 3):
        raise DiagnosticsError(f"Images are {SIDE} wide and of three channels here, not {list(image.shape)}.")
    # Cropped to its first rows, so that what it covers is not everything.
    return torch.from_numpy(image[:SIDE].astype(np.float32) / 255).permute(2, 0, 1)


def image_encoder(**options: Any) -> TorchEncoder:
    torch.manual_seed(0)
    taps = [
        Tap("map", 0.0, "embedding", WIDTH, Grid((3, 3), ("y", "x")), Site("cut", layout="channels_first")),
        Tap("block", 1.0, "trunk", WIDTH, PATCHES, Site("block")),
        Tap("head", 1.5, "head", 5, Grid((1,), ("t",)), Site("head", layout="features")),
    ]
    example = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    options = {"covers": lambda extents: ((0.0, float(SIDE)), (0.0, float(extents[1]))), **options}
    return TorchEncoder("patches", "image", Patches(), taps, "block", preprocess, example, **options)


def clips(frames: int, n: int = 2, rows: int = SIDE) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, 256, (n, frames, rows, SIDE, 3), dtype=np.uint8))


def test_makers_names_hold_for_each_frame_at_every_length() -> None:
    image = image_encoder(sized_for=lambda image: image_encoder()).replace(maker_names={"block": "forward_features"})
    video = frames_of(image, 3)
    assert video.maker_names == video.sized_for(clips(9)[0]).maker_names == {"block": "forward_features"}


def seen(encoder: TorchEncoder, samples: list[np.ndarray]) -> dict[str, Tensor]:
    return encoder.capture(default_collate([encoder.preprocess(sample) for sample in samples]))


@pytest.mark.parametrize(
    ("frames", "count", "floor", "endpoints"),
    [
        (16, 8, [0, 2, 4, 6, 8, 10, 12, 14], [0, 2, 4, 6, 8, 10, 12, 15]),
        (100, 8, [0, 12, 25, 37, 50, 62, 75, 87], [0, 14, 28, 42, 56, 70, 84, 99]),
        (8, 8, list(range(8)), list(range(8))),
        (3, 5, [0, 0, 1, 1, 2], [0, 0, 1, 1, 2]),
        (1, 3, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_samplers(frames: int, count: int, floor: list[int], endpoints: list[int]) -> None:
    assert sample_frames(frames, count, "floor") == floor == [int(i * frames / count) for i in range(count)]
    assert sample_frames(frames, count, "endpoints") == endpoints


@pytest.mark.parametrize("sampler", ["floor", "endpoints"])
def test_tokens_are_the_image_encoders_frame_by_frame(sampler: str) -> None:
    image, samples = image_encoder(), clips(11)
    video = frames_of(image, 4, sampler)
    captured, chosen = seen(video, samples), sample_frames(11, 4, sampler)
    assert video.modality == "video" and video.output_tap == "block"
    assert [tap.grid for tap in video.taps] == [
        Grid((4, 3, 3), ("t", "y", "x")),
        Grid((4, 3, 3), ("t", "y", "x"), 1),
        Grid((4, 1, 1), ("t", "y", "x")),
    ]
    for b, sample in enumerate(samples):
        each = seen(image, [sample[i] for i in chosen])
        for name, prefix in (("map", 0), ("block", 1), ("head", 0)):
            expected = each[name][:, prefix:].flatten(0, 1)
            torch.testing.assert_close(captured[name][b, prefix:], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(captured["block"][b, 0], each["block"][:, 0].mean(0), atol=1e-6, rtol=0)


def test_one_frame_is_the_image() -> None:
    image, samples = image_encoder(), clips(1)
    video = frames_of(image.with_taps(image.taps[1:]), 1)
    captured, expected = seen(video, samples), seen(image, [sample[0] for sample in samples])
    for name in ("block", "head"):
        assert torch.equal(captured[name], expected[name])
    assert video.tap("block").grid == Grid((1, 3, 3), ("t", "y", "x"), 1)


def test_the_average_of_frames_knows_no_order() -> None:
    video = frames_of(image_encoder(), 4)
    samples, order = clips(4), [2, 0, 3, 1]
    captured, moved = seen(video, samples), seen(video, [sample[order] for sample in samples])
    for name in ("map", "head"):
        by_frame = captured[name].unflatten(1, (4, -1))
        torch.testing.assert_close(moved[name].unflatten(1, (4, -1)), by_frame[:, order], atol=1e-6, rtol=0)
        assert not torch.allclose(moved[name], captured[name], atol=1e-3)
    for tap in video.taps:
        pooled = [pool(tap, each[tap.name], video.poolings) for each in (captured, moved)]
        torch.testing.assert_close(*pooled, atol=1e-6, rtol=0)
    assert video.poolings == ("mean", "prefix")
    assert torch.equal(pool(video.tap("head"), captured["head"], ["mean"])[:, 0], captured["head"].mean(1))


@pytest.mark.parametrize("sampler", ["floor", "endpoints"])
@pytest.mark.parametrize(("frames", "count"), [(16, 4), (33, 5), (7, 7), (4, 8), (100, 8)])
def test_the_cell_of_a_frame_lies_around_it(frames: int, count: int, sampler: str) -> None:
    video = frames_of(image_encoder(), count, sampler)
    time, rows, columns = video.covers((frames, 20, SIDE))
    assert (rows, columns) == ((0.0, 12.0), (0.0, 12.0))
    shown = np.array(sample_frames(frames, count, sampler))
    step = (time[1] - time[0]) / count
    # Every frame's value is its own number: averaged over a cell, it is that of the frame which the cell shows.
    cells = on_grid(np.arange(frames, dtype=float)[None], (time,), (count,))[0]
    assert np.abs(cells - shown)[1:-1].max() < 1
    # At the ends half a cell may lie outside the clip, which moves the average of what is left of it by a quarter.
    assert np.abs(cells - shown)[[0, -1]].max() < 1 + step / 4
    if frames == count:
        assert time == (0.0, float(frames)) and np.array_equal(cells, shown)


@pytest.mark.parametrize(
    ("frames", "count", "sampler"),
    [
        (16, 8, "floor"),
        (16, 4, "floor"),
        (24, 4, "floor"),
        (64, 8, "floor"),
        (15, 5, "floor"),
        (8, 8, "floor"),
        (15, 8, "endpoints"),
        (29, 8, "endpoints"),
        (22, 8, "endpoints"),
        (8, 8, "endpoints"),
    ],
)
def test_masks_of_a_cell_are_those_of_the_frame_that_is_seen(frames: int, count: int, sampler: str) -> None:
    video = frames_of(image_encoder(), count, sampler)
    masks = np.broadcast_to(np.arange(frames)[:, None, None], (1, frames, SIDE, SIDE))
    covered = crop_maps(masks, video.covers((frames, SIDE, SIDE)))[0, :, 0, 0]
    # Label propagation reads the middle frame of each cell.
    assert covered[middle_frames(len(covered), count)].tolist() == sample_frames(frames, count, sampler)


def test_a_clip_of_one_frame() -> None:
    for sampler in ("floor", "endpoints"):
        assert frames_of(image_encoder(), 4, sampler).covers((1, 12, 12))[0] == (0.0, 1.0)


def test_identity_controls_and_what_does_not_vary() -> None:
    image = image_encoder()
    video = frames_of(image, 4)
    assert video.identity["weights"] == image.identity["weights"]
    identities = [frames_of(image, 4), frames_of(image, 5), frames_of(image, 4, "endpoints")]
    assert len({each.identity["configuration"] for each in identities}) == 3
    fresh = video.fresh(1)
    assert fresh.identity["weights"] == image.fresh(1).identity["weights"] != video.identity["weights"]
    assert not torch.allclose(seen(fresh, clips(4))["head"], seen(video, clips(4))["head"])
    alone, together = seen(video, clips(4)[:1]), seen(video, clips(4))
    for name in alone:
        torch.testing.assert_close(alone[name][0], together[name][0], atol=1e-6, rtol=0)
    assert video.preprocess(video.example()).shape == (4, 3, SIDE, SIDE)


def test_what_stands_for_data_is_said_frame_by_frame() -> None:
    def valid(batch: Tensor, tap: Tap) -> Tensor | None:
        assert batch.ndim == 4
        return batch.mean((1, 2, 3))[:, None].expand(-1, 9) > 0.5 if tap.grid.tokens == 9 else None

    video = frames_of(image_encoder(valid=valid), 2)
    dark, light = np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 255, np.uint8)
    batch = torch.stack([video.preprocess(np.stack([dark, light])), video.preprocess(np.stack([light, light]))])
    reported = video.valid(batch, video.tap("block"))
    assert reported is not None and reported.tolist() == [[False] * 9 + [True] * 9, [True] * 18]
    assert video.valid(batch, video.tap("head")) is None
    assert frames_of(image_encoder(), 2).valid(batch, video.tap("block")) is None


def test_sizes_follow_the_image_encoders() -> None:
    other = image_encoder().replace(name="other")
    video = frames_of(image_encoder(sized_for=lambda image: other if len(image) > SIDE else None), 2)
    assert video.sized_for(clips(3)[0]) is video
    sized = video.sized_for(clips(3, rows=20)[0])
    assert sized.name == "other over 2 frames (floor)" and sized.modality == "video"


@pytest.mark.parametrize(
    ("count", "sampler", "says"),
    [
        (0, "floor", "at least 1 frame"),
        (-3, "floor", "at least 1 frame"),
        (1, "endpoints", "at least 2 frame"),
        (4, "flor", "did you mean floor"),
    ],
)
def test_frames_that_cannot_be_taken_are_refused(count: int, sampler: str, says: str) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        frames_of(image_encoder(), count, sampler)


def test_encoders_and_samples_that_do_not_fit_are_refused() -> None:
    video = frames_of(image_encoder(), 4)
    with refusal("other-modality", "single images"):
        frames_of(video, 4)
    for shape in ((SIDE, SIDE, 3), (0, SIDE, SIDE, 3), (2, 2, SIDE, SIDE, 3)):
        with refusal("bad-sample", "videos of shape"):
            video.preprocess(np.zeros(shape, np.uint8))
    with refusal("other", "three channels"):
        video.preprocess(np.zeros((3, SIDE, SIDE, 4), np.uint8))
    image = image_encoder()
    series = image.with_taps([*image.taps, Tap("odd", 1.0, "trunk", WIDTH, Grid((9,), ("t",), 1), Site("block"))])
    with refusal("no-grid", "Tap odd"):
        frames_of(series, 2)


def test_a_run_over_videos_reads_dense_targets_where_the_frames_are(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    bright = np.kron(
        rng.random((40, 8, 3, 3)), np.ones((1, 2, 4, 4))
    )  # [n, 16, 12, 12], constant in cells of two frames
    samples = (255 * np.repeat(bright[..., None], 3, axis=-1)).astype(np.uint8)
    ids = [f"clip-{i}" for i in range(40)]
    target = Target("token_value", bright, units="brightness")
    data = Dataset("clips", "video", samples, ids, split=list(split_groups(ids, 0)), targets={"bright": target})
    captured = run(
        frames_of(image_encoder(), 8),
        data,
        measures=["linear_probe"],
        controls=False,
        report=False,
        out=tmp_path / "run",
    )
    profile = captured.profile("linear_probe/bright")
    scores = dict(zip(profile.taps, profile.data["score"].values, strict=True))
    # A patch's brightness is in its token, of the very frames that its cell covers.
    assert scores["map"] > 0.99
