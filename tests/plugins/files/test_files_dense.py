"""Images with masks or depth, and videos with objects: exact maps, one geometry for image and target, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError
from diagnostics.activations.prepare import dense_targets
from diagnostics.datasets.dataset import subset
from diagnostics.encoders.pictures import central_part
from diagnostics.specs import build
from tests.support.refusals import refusal

SHAPE = (6, 8)


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = image.convert("P")
        image.putdata(pixels.ravel().tolist())
        image.putpalette([v for i in range(256) for v in (255 - i, i, 7)])
    image.save(path)


def pixels(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def classes(seed: int, shape: tuple[int, int] = SHAPE, most: int = 4) -> np.ndarray:
    return np.random.default_rng(100 + seed).integers(0, most, shape, dtype=np.uint8)


def pairs(root: Path, masks: str = "masks", n: int = 6, palette: bool = False) -> Path:
    for i in range(n):
        save(root / "images" / f"{i}.png", pixels(i))
        save(root / masks / f"{i}.png", classes(i), palette)
    return root


def segmentation(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"segmentation:{root}{options}")


@pytest.mark.parametrize("palette", [False, True])
def test_masks_are_read_to_the_pixel(tmp_path: Path, palette: bool) -> None:
    dataset = segmentation(pairs(tmp_path, palette=palette))
    target = dataset.targets["segmentation"]
    assert (target.kind, dataset.modality) == ("token_label", "image")
    assert dataset.ids == [f"images/{i}.png" for i in range(6)]
    for i in range(6):
        np.testing.assert_array_equal(dataset[i], pixels(i))
        np.testing.assert_array_equal(target.values[i], classes(i))


def test_images_of_unequal_size_are_read_as_their_middles_are(tmp_path: Path) -> None:
    """Each image and map keeps its size; activations, classes and metres on the grid are those of the middles cut out by hand."""
    for i in range(10):
        shape = (16, 16 + 2 * i) if i % 2 else (16 + 2 * i, 16)
        image, mask, metres = pixels(i, shape), classes(i, shape), classes(i, shape, 9).astype(np.uint16) * 100
        top, left = (shape[0] - 16) // 2, (shape[1] - 16) // 2
        middle = slice(top, top + 16), slice(left, left + 16)
        for root, part in (("whole", (slice(None), slice(None))), ("middle", middle)):
            for kind, array in (("images", image), ("masks", mask), ("depth", metres)):
                save(tmp_path / root / kind / f"{i}.png", array[part])
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Sequential(torch.nn.Conv2d(n, 4, 2, stride=2), torch.nn.ReLU()) for n in (3, 4))
    )
    for scheme, reader in (("segmentation", "segmentation_probe"), ("depth", "linear_probe")):
        runs = [
            dx.run(
                model,
                f"{scheme}:{tmp_path / root}?log=depth" if scheme == "depth" else f"{scheme}:{tmp_path / root}",
                out=tmp_path / f"{root}-{scheme}",
                controls=False,
                report=False,
                mean=0.5,
                std=0.25,
                size=16,
                measures=reader,
            )
            for root in ("whole", "middle")
        ]
        whole, middle = (run.store for run in runs)
        name = "segmentation" if scheme == "segmentation" else "log_depth"
        assert len(whole.targets()[name].on_grid[4, 4]) == 10
        np.testing.assert_array_equal(whole.targets()[name].on_grid[4, 4], middle.targets()[name].on_grid[4, 4])
        np.testing.assert_array_equal(whole.pooled("1"), middle.pooled("1"))
        scores = [run.profile(f"{reader}/{name}").output.value for run in runs]
        assert scores[0] == scores[1]
    data = segmentation(tmp_path / "whole")
    assert len({np.shape(each) for each in data.targets["segmentation"].values}) == 10
    few = subset(data, 6, 0)
    assert (
        len(
            {
                few.fingerprint,
                subset(data, 7, 0).fingerprint,
                subset(segmentation(tmp_path / "middle"), 6, 0).fingerprint,
            }
        )
        == 3
    )
    for scheme in ("segmentation", "depth", "davis"):
        with refusal("unknown-name", "dataset", "size"):
            build("dataset", f"{scheme}:{tmp_path / 'whole'}?size=6")


def test_ade20k_layout(tmp_path: Path) -> None:
    for folder, numbers in (("training", range(8)), ("validation", range(8, 11))):
        for i in numbers:
            save(tmp_path / "images" / folder / f"{i:02d}.jpg", pixels(i))
            save(tmp_path / "annotations" / folder / f"{i:02d}.png", classes(i))
    dataset = segmentation(tmp_path)
    values = dataset.targets["segmentation"].values
    assert dataset.ids[0] == "images/training/00.jpg" and dataset.counts() == {"train": 6, "val": 2, "test": 3}
    assert all((s == "test") == ("validation" in name) for s, name in zip(dataset.split, dataset.ids, strict=True))
    np.testing.assert_array_equal(values[0], np.where(classes(0) == 0, -1, classes(0).astype(int)))
    other = segmentation(tmp_path, "?unknown=2")
    np.testing.assert_array_equal(np.asarray(other.targets["segmentation"].values[0]) == -1, classes(0) == 2)
    assert other.fingerprint != dataset.fingerprint


def test_split_folders_above_and_images_without_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        pairs(tmp_path / split, n=2)
    save(tmp_path / "test/images/more.png", pixels(0))
    dataset = segmentation(tmp_path)
    assert dataset.split.tolist() == [name.split("/")[0] for name in dataset.ids] and len(dataset) == 6
    message = "1 image without a map left out, test/images/more.png"
    assert message in dataset.about and f"{message}." in capsys.readouterr().err
    save(tmp_path / "train/images/other.png", pixels(0))
    assert "2 images without a map left out, test/images/more.png first" in segmentation(tmp_path).about


def test_255_is_unknown_except_in_masks_of_one_object(tmp_path: Path) -> None:
    pairs(tmp_path / "a")
    save(tmp_path / "a/masks/0.png", np.where(classes(0) == 3, 255, classes(0)).astype(np.uint8))
    values = segmentation(tmp_path / "a").targets["segmentation"].values
    assert [bool((np.asarray(each) == -1).any()) for each in values] == [True] + [False] * 5
    for i in range(6):
        save(tmp_path / "b/images" / f"{i}.png", pixels(i))
        save(tmp_path / "b/masks" / f"{i}.png", np.where(classes(i) > 1, 255, 0).astype(np.uint8))
    dataset = segmentation(tmp_path / "b")
    np.testing.assert_array_equal(dataset.targets["segmentation"].values[1], classes(1) > 1)
    assert "0 and 255 read as 0 and 1" in dataset.about
    for unknown, rest in ((255, 0), (0, 255)):  # what is asked for is not overruled
        message = rf"one class only \({rest}; {unknown} is unknown\): give masks with at least two, or another or no \?unknown="
        with pytest.raises(DiagnosticsError, match=message):
            segmentation(tmp_path / "b", f"?unknown={unknown}")
    values = segmentation(tmp_path / "b", "?unknown=7").targets["segmentation"].values
    np.testing.assert_array_equal(values[1], np.where(classes(1) > 1, 255, 0))


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    pairs(tmp_path)
    save(tmp_path / "masks/2.png", classes(2, (6, 7)))
    message = "masks/2.png is 6 x 7 pixels and its image images/2.png 6 x 8"
    remedy = r": give maps of their images' size, or leave such files out with \?on_error=skip\.$"
    with pytest.raises(DiagnosticsError, match=message + remedy):
        segmentation(tmp_path)
    skipped = segmentation(tmp_path, "?on_error=skip")
    assert f"1 of 6 left out: {message}" in skipped.about and "damaged" not in skipped.about
    assert skipped.left_out == {"images/2.png": f"{message}."}
    for name, shape in (("images", (5, 7)), ("masks", (5, 7))):
        save(tmp_path / name / "2.png", pixels(2, shape) if name == "images" else classes(2, shape))
    assert segmentation(tmp_path)[2].shape == (5, 7, 3)
    save(tmp_path / "masks/2.png", pixels(2, (5, 7)))
    message, remedy = "has colours (RGB) instead of class numbers", "convert masks to one channel of class numbers"
    with pytest.raises(DiagnosticsError) as raised:
        segmentation(tmp_path)
    assert str(raised.value) == f"masks/2.png {message}: {remedy} or to a palette."
    skipped = segmentation(tmp_path, "?on_error=skip")
    assert "images/2.png" not in skipped.ids and len(skipped) == 5
    assert f"1 of 6 left out: masks/2.png {message}" in skipped.about
    (tmp_path / "images/3.png").write_text("no image")
    (tmp_path / "masks/4.png").write_text("no image")
    about = segmentation(tmp_path, "?on_error=skip").about
    assert f"2 of 6 left out as damaged: images/3.png, masks/4.png; 1 of 6 left out: masks/2.png {message}" in about
    for i in range(6):
        save(tmp_path / "images" / f"{i}.png", pixels(i))
        save(tmp_path / "masks" / f"{i}.png", pixels(i))
    with pytest.raises(DiagnosticsError, match=rf"none can be used, as masks/0\.png has colours .*: {remedy}"):
        segmentation(tmp_path, "?on_error=skip")


def test_folders_without_pairs_or_classes_are_refused(tmp_path: Path) -> None:
    with refusal("missing-file", "images or rgb"):
        segmentation(tmp_path)
    save(tmp_path / "images/a.png", pixels(0))
    save(tmp_path / "masks/b.png", classes(0))
    with refusal("missing-file"):
        segmentation(tmp_path)
    for i in range(3):
        save(tmp_path / "images" / f"{i}.png", pixels(0))
        save(tmp_path / "masks" / f"{i}.png", np.full(SHAPE, 3, np.uint8))
    with refusal("bad-target", "3", "255"):
        segmentation(tmp_path)
    save(tmp_path / "masks/0.tif", classes(0))
    with refusal("duplicate", "maps", "0"):
        segmentation(tmp_path)


def test_fingerprint_sees_a_pixel_of_a_mask_and_of_an_image(tmp_path: Path) -> None:
    first = segmentation(pairs(tmp_path / "a")).fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert segmentation(tmp_path / "b").fingerprint == first
    changed = classes(0)
    changed[0, 0] ^= 1
    save(tmp_path / "b/masks/0.png", changed)
    second = segmentation(tmp_path / "b").fingerprint
    image = pixels(1)
    image[0, 0, 0] ^= 1
    save(tmp_path / "b/images/1.png", image)
    assert len({first, second, segmentation(tmp_path / "b").fingerprint}) == 3


def test_depth_of_png_and_npy_is_in_metres_and_zero_is_unknown(tmp_path: Path) -> None:
    millimetres = np.random.default_rng(0).integers(1, 9000, (4, *SHAPE)).astype(np.uint16)
    millimetres[:, 0, 0] = 0
    for i in range(4):
        for root in ("png", "npy"):
            save(tmp_path / root / "rgb" / f"{i}.png", pixels(i))
        save(tmp_path / "png/depth" / f"{i}.png", millimetres[i])
        (tmp_path / "npy/depth").mkdir(exist_ok=True)
        np.save(tmp_path / "npy/depth" / f"{i}.npy", millimetres[i] / 1000)
    expected = np.where(millimetres == 0, np.nan, millimetres * np.float32(0.001)).astype(np.float32)
    for root, options in (("png", ""), ("png", "?scale=0.001"), ("npy", "")):
        target = build("dataset", f"depth:{tmp_path / root}{options}").targets["depth"]
        assert (target.kind, target.units, np.asarray(target.values[0]).dtype) == ("token_value", "m", np.float32)
        np.testing.assert_allclose([np.asarray(each) for each in target.values], expected, rtol=1e-6)
    with refusal("bad-value", "0"):
        build("dataset", f"depth:{tmp_path / 'png'}?scale=0")


def test_bad_depth_is_refused(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "rgb" / f"{i}.png", pixels(i))
        save(tmp_path / "depth" / f"{i}.png", classes(i))
    with refusal("bad-data", "depth/0.png"):
        build("dataset", f"depth:{tmp_path}")
    for i in range(3):
        (tmp_path / "depth" / f"{i}.png").unlink()
        np.save(tmp_path / "depth" / f"{i}.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with refusal("unreadable", "depth/0.npy", "holds a pickle", "on_error=skip"):
        build("dataset", f"depth:{tmp_path}")
    for i in range(3):
        np.save(tmp_path / "depth" / f"{i}.npy", np.zeros(SHAPE))
    with refusal("bad-target"):
        build("dataset", f"depth:{tmp_path}")


def davis(root: Path, videos: tuple[tuple[str, int], ...] = (("bear", 7), ("car", 6), ("dog", 4), ("eel", 2))) -> Path:
    for v, (video, frames) in enumerate(videos):
        for t in range(frames):
            save(root / "JPEGImages/480p" / video / f"{t:05d}.png", pixels(10 * v + t))
            save(root / "Annotations/480p" / video / f"{t:05d}.png", classes(10 * v + t, most=3), palette=True)
    return root


def test_davis_clips_hold_frames_and_their_masks(tmp_path: Path) -> None:
    dataset = build("dataset", f"davis:{davis(tmp_path)}?frames=3")
    target = dataset.targets["objects"]
    assert (dataset.modality, target.kind) == ("video", "masks")
    assert dataset.ids == ["bear/00000", "bear/00003", "car/00000", "car/00003", "dog/00000"]
    assert dataset.groups.tolist() == ["bear", "bear", "car", "car", "dog"]
    for i, (v, start) in enumerate([(0, 0), (0, 3), (1, 0), (1, 3), (2, 0)]):
        np.testing.assert_array_equal(dataset[i], [pixels(10 * v + start + t) for t in range(3)])
        np.testing.assert_array_equal(target.values[i], [classes(10 * v + start + t, most=3) for t in range(3)])
    assert build("dataset", f"davis:{tmp_path}?frames=2").fingerprint != dataset.fingerprint


def test_videos_of_unequal_size_are_read_as_their_middles_are(tmp_path: Path) -> None:
    for v, width in enumerate((6, 8, 10, 7, 6)):
        left = (width - 6) // 2
        for t in range(2):
            frame, mask = pixels(10 * v + t, (6, width)), classes(10 * v + t, (6, width), most=3)
            for root, part in (("whole", slice(None)), ("middle", slice(left, left + 6))):
                save(tmp_path / root / "JPEGImages" / f"v{v}" / f"{t}.png", frame[:, part])
                save(tmp_path / root / "Annotations" / f"v{v}" / f"{t}.png", mask[:, part])
    data = {root: build("dataset", f"davis:{tmp_path / root}?frames=2") for root in ("whole", "middle")}
    encoder: Any = SimpleNamespace(covers=central_part)
    stored = [dense_targets(encoder, each, [])["objects"]["covered"] for each in data.values()]
    assert stored[0].shape == (5, 2, 6, 6) and stored[0].dtype == np.int16
    np.testing.assert_array_equal(*stored)
    # An encoder that squeezes whole frames has no common part of them: the nearest pixels of the narrowest.
    squeezing: Any = SimpleNamespace(covers=lambda extent: tuple((0.0, float(n)) for n in extent))
    squeezed = dense_targets(squeezing, data["whole"], [])["objects"]["covered"]
    assert squeezed.shape == (5, 2, 6, 6)
    wide = np.asarray(data["whole"].targets["objects"].values[2])
    np.testing.assert_array_equal(squeezed[2], wide[..., [0, 2, 4, 5, 7, 9]])
    save(tmp_path / "whole/JPEGImages/v1/1.png", pixels(1))
    save(tmp_path / "whole/Annotations/v1/1.png", classes(1))
    save(tmp_path / "whole/JPEGImages/v1/0.png", pixels(1, (6, 9)))
    save(tmp_path / "whole/Annotations/v1/0.png", classes(1, (6, 9)))
    with refusal("bad-data", "v1/1.png"):
        build("dataset", f"davis:{tmp_path / 'whole'}?frames=2")


def test_davis_videos_without_masks_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    davis(tmp_path)
    save(tmp_path / "JPEGImages/480p/fox/00000.png", pixels(0))
    dataset = build("dataset", f"davis:{tmp_path}?frames=2")
    assert "1 video without masks left out, fox" in dataset.about and "fox" not in set(dataset.groups)
    assert "1 video without masks left out, fox." in capsys.readouterr().err


def test_davis_sets_give_videos_and_splits(tmp_path: Path) -> None:
    davis(tmp_path)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/train.txt").write_text("bear\ncar\n")
    (tmp_path / "ImageSets/2017/val.txt").write_text("dog\n")
    dataset = build("dataset", f"davis:{tmp_path}?frames=2&sets=2017")
    of = dict(zip(dataset.groups, dataset.split, strict=True))
    assert of["dog"] == "test" and {of["bear"], of["car"]} == {"train", "val"} and "eel" not in of
    with refusal("missing-file", "2016"):
        build("dataset", f"davis:{tmp_path}?sets=2016")
    for name in ("../2016", "."):
        with refusal("strange-file"):
            build("dataset", f"davis:{tmp_path}?sets={name}")


def test_bad_davis_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticsError, match="lay out JPEGImages/480p"):
        build("dataset", f"davis:{tmp_path}")
    davis(tmp_path)
    with pytest.raises(DiagnosticsError, match=r"No video .* has 8 frames"):
        build("dataset", f"davis:{tmp_path}")
    save(tmp_path / "Annotations/480p/bear/00001.png", classes(1, (4, 4)))
    message = "Annotations/480p/bear/00001.png is 4 x 4 pixels and its frame"
    with pytest.raises(DiagnosticsError, match=rf"{message} .*on_error=skip"):
        build("dataset", f"davis:{tmp_path}?frames=2")
    skipped = build("dataset", f"davis:{tmp_path}?frames=2&on_error=skip")
    assert len(skipped) == 8 and f"1 of 9 left out: {message}" in skipped.about
    (tmp_path / "Annotations/480p/bear/00001.png").unlink()
    with pytest.raises(DiagnosticsError, match=r"bear/00001\.png .* has no mask"):
        build("dataset", f"davis:{tmp_path}?frames=2")
