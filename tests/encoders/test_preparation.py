"""Preprocessing belongs to the encoder: one resize rule, for images, dense targets and new samples alike."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import diagnostics as dx
from diagnostics import DiagnosticsError
from diagnostics.encoders.pictures import central_part
from tests.support.refusals import refusal

Image = pytest.importorskip("PIL.Image")
FED: dict[str, Any] = {"mean": 0.5, "std": 0.25}


def block(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(block(3, 4), block(4, 8), block(8, 8))


@pytest.fixture
def scenes() -> dx.Dataset:
    return dx.build("dataset", "shapes?n=30&size=64")


def photos(scenes: dx.Dataset, height: int, width: int) -> list[np.ndarray]:
    """Scenes at another size, with grey bars beside a square where they are not square."""
    side = min(height, width)
    plain = [
        np.asarray(Image.fromarray(scene).resize((side, side), Image.Resampling.BICUBIC))
        for scene in scenes.samples[:12]
    ]
    top, left = (height - side) // 2, (width - side) // 2
    padding = ((top, height - side - top), (left, width - side - left), (0, 0))
    return [np.pad(photo, padding, constant_values=90) for photo in plain]


def spread(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far features are apart, in units of their spread over samples."""
    return float(np.abs(found - wanted).mean() / wanted.std(0).mean())


def test_a_network_of_convolutions_takes_no_photos_of_another_size(model: nn.Module, scenes: dx.Dataset) -> None:
    """It did, and its features were others: it runs at any size."""
    encoder, large = dx.encoder_of(model, scenes, **FED), photos(scenes, 256, 256)
    wanted = encoder.transform(scenes[:12])
    with refusal("bad-sample", "size="):
        encoder.transform(large)
    assert spread(encoder.sized_for(large[0]).transform(large), wanted) > 0.2  # as was given without a word
    resizing = dx.encoder_of(model, scenes, size=64, **FED)
    np.testing.assert_array_equal(resizing.transform(scenes[:12]), wanted)
    for height, width in ((256, 256), (256, 400), (300, 128)):
        assert spread(resizing.transform(photos(scenes, height, width)), wanted) < 0.1, (height, width)


def test_dense_targets_are_cut_as_the_image_is(model: nn.Module) -> None:
    wide = np.zeros((1, 64, 96, 3), np.uint8)
    wide[:, :, 80:] = 255
    encoder = dx.encoder_of(model, dx.build("dataset", "shapes?n=30&size=64"), size=32, **FED)
    assert encoder.covers((64, 96)) == central_part((64, 96)) == ((0, 64), (16, 80))
    blank = encoder.preprocess(np.zeros((64, 96, 3), np.uint8))
    assert torch.equal(encoder.preprocess(wide[0]), blank)  # what is cut away is not seen
    wide[:, :, 76:] = 255
    assert not torch.equal(encoder.preprocess(wide[0]), blank)
    assert central_part((5, 7, 4)) == ((0, 5), (1, 5), (0, 4))
    assert central_part((100, 90), (2, 3)) == ((20, 80), (0, 90))


def test_paths_and_pillow_images_are_what_their_arrays_are(
    model: nn.Module, scenes: dx.Dataset, tmp_path: Path
) -> None:
    encoder = dx.encoder_of(model, scenes, **FED)
    images = [Image.fromarray(scene) for scene in scenes.samples[:4]]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    wanted = encoder.transform(scenes[:4])
    for samples in (images, paths, [str(path) for path in paths], np.array([str(path) for path in paths])):
        np.testing.assert_array_equal(encoder.transform(samples), wanted)
    for one in (images[0], paths[0], str(paths[0])):
        with refusal("bad-type"):
            encoder.transform(one)
    with refusal("unreadable", "0"):
        encoder.transform([tmp_path / "none.png"])
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    with refusal("bad-sample"):
        encoder.transform([tmp_path / "deep.png"])


def test_a_bare_module_is_fed_by_whoever_takes_it(model: nn.Module, scenes: dx.Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"measures": "rankme"}
    run = dx.run(model, scenes, out=tmp_path / "run", controls=False, report=False, size=32, **FED, **options)
    assert "size=32" in run.store.identity["configuration"]
    table = dx.measure(model, scenes, size=32, **FED, **options)
    watch = dx.LayerProfiles(model, scenes, every=1, size=32, **FED, **options)
    measured = watch.step(1)
    assert measured is not None
    np.testing.assert_array_equal(measured["score"].values, table["score"].values)
    step = dx.sklearn.TapFeatures(model, tap="1", size=32, **FED).fit(scenes.samples)
    wanted = dx.encoder_of(model, scenes, size=32, **FED).transform(scenes, tap="1")
    np.testing.assert_array_equal(step.transform(scenes.samples), wanted)
    np.testing.assert_array_equal(run.features("1").values, wanted)
    encoder = dx.encoder_of(model, scenes, **FED)
    for call in (
        lambda: dx.run(encoder, scenes, out=tmp_path / "other", size=32),
        lambda: dx.measure(encoder, scenes, size=32),
        lambda: dx.sklearn.TapFeatures(encoder, size=32).fit(scenes.samples),
    ):
        with refusal("no-effect", "size", "Sequential"):
            call()


def test_a_run_is_used_with_samples_prepared_as_its_own(model: nn.Module, scenes: dx.Dataset, tmp_path: Path) -> None:
    run = dx.run(model, scenes, out=tmp_path / "run", measures="linear_probe", controls=False, report=False, **FED)
    used: dict[str, Any] = {"run": run.path, "target": "label"}
    features = dx.sklearn.TapFeatures(model, **used, **FED).fit(scenes.samples).transform(scenes.samples)
    np.testing.assert_array_equal(features, run.features(target="label").values)
    for other, samples in (({"mean": 0.4, "std": 0.25}, scenes.samples), (FED, photos(scenes, 128, 128))):
        with refusal("other-run"):
            dx.sklearn.TapFeatures(model, **used, **other).fit(samples)


def test_a_run_is_used_with_samples_of_its_own_length(tmp_path: Path) -> None:
    """The makers' `sized_for` follows any length, and the features at each are others."""
    name, data = "objectives:lorenz-forecast", dx.dataset("lorenz?n=40&length=256")
    run = dx.run(name, data, out=tmp_path / "run", measures="linear_probe", controls=False, report=False)
    step = dx.sklearn.TapFeatures(name, run=run.path, target="hidden_z").fit(data.samples)
    short = data.samples[:, :128]
    wanted = run.features(target="hidden_z").values
    told = r"prepared to shape \[1, 128\].* was made for \[1, 256\].* give samples of that size, or .*sized_for"
    for encoder in (run.encoder, dx.open_run(run.path).encoder):
        found = encoder.transform(data.samples, tap=run.tap_for("hidden_z"), pooling=run.store.poolings)
        np.testing.assert_array_equal(found, wanted)
        with pytest.raises(DiagnosticsError, match=told):
            encoder.transform(short)
        assert encoder.sized_for(short[0]).transform(short).shape == (40, 96)
    for fitted in (step, pickle.loads(pickle.dumps(step))):  # noqa: S301  (just made)
        np.testing.assert_array_equal(fitted.transform(data.samples), wanted)
        with pytest.raises(DiagnosticsError, match=told):
            fitted.transform(short)
    with pytest.raises(DiagnosticsError, match=r"prepared otherwise .*tokens 16 t.* samples of the size, as that run"):
        dx.sklearn.TapFeatures(name, run=run.path, target="hidden_z").fit(data.samples[:, :64])
    alone = dx.sklearn.TapFeatures(name).fit(data.samples)
    with pytest.raises(DiagnosticsError, match=told):
        alone.transform(short)


@pytest.mark.parametrize("form", ["png", "tif", "webp", "jpg"])
def test_photos_are_read_upright(tmp_path: Path, form: str) -> None:
    """By folders, `transform` of paths and of Pillow images and `dx.dataset` alike; masks fit what viewers show."""
    seen = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    for noted in range(1, 9):
        # What a camera stores, so that the turn that it notes gives what was seen.
        undo = [None, 0, 3, 1, 5, 2, 6, 4][noted - 1]
        lying = Image.fromarray(seen) if undo is None else Image.fromarray(seen).transpose(undo)
        notes = Image.Exif()
        notes[0x0112] = noted
        (tmp_path / "data/images").mkdir(parents=True, exist_ok=True)
        lying.save(
            tmp_path / f"data/images/{noted}.{form}", exif=notes, **({"lossless": True} if form == "webp" else {})
        )
        (tmp_path / "data/masks").mkdir(exist_ok=True)
        Image.fromarray(seen[..., 0] // 128).save(tmp_path / f"data/masks/{noted}.png")
    near = 60 if form == "jpg" else 0
    paths = sorted((tmp_path / "data/images").iterdir())
    dense, plain = (
        dx.build("dataset", f"{name}{tmp_path}/data{end}")
        for name, end in (("segmentation:", ""), ("images:", "/images"))
    )
    opened = dx.dataset([Image.open(path) for path in paths], np.arange(8.0))
    encoder = dx.encoder_of(nn.Sequential(block(3, 4), block(4, 8)), plain, **FED)
    for data in (dense, plain, opened):
        for i in range(8):
            assert np.abs(data[i].astype(int) - seen).mean() <= near, (i, form)
    assert dense.fingerprint and {np.shape(each) for each in dense.targets["segmentation"].values} == {(16, 24)}
    wanted = encoder.transform(plain)
    for samples in (paths, [Image.open(path) for path in paths]):
        np.testing.assert_array_equal(encoder.transform(samples), wanted)


def test_a_function_of_texts_takes_strings() -> None:
    seen: list[Any] = []

    def letters(text: str) -> torch.Tensor:
        seen.append(text)
        return torch.tensor([float(ord(letter)) for letter in f"{text:8.8}"])[:, None]

    module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 4))
    taps = [dx.Tap("0", 0.0, "embedding", 4, dx.Grid((8,), ("t",)), dx.Site("0"))]
    encoder = dx.TorchEncoder("letters", "text", module, taps, preprocess=letters, example=np.asarray("a text"))
    texts = [f"text {i}" for i in range(10)]
    data = dx.Dataset("texts", "text", np.array(texts), texts, ["train"] * 6 + ["val"] * 2 + ["test"] * 2, {})
    encoder.transform(texts)
    dx.measure(encoder, data, measures="rankme")
    assert seen and all(type(text) is str for text in seen)


def test_a_new_photo_starts_no_program(model: nn.Module, scenes: dx.Dataset, tmp_path: Path) -> None:
    """Pillow gives EPS to Ghostscript, which runs what the file says."""
    Image.fromarray(scenes[0]).save(tmp_path / "photo.eps")
    (tmp_path / "photo.eps").rename(tmp_path / "photo.png")
    encoder = dx.encoder_of(model, scenes, **FED)
    with refusal("unreadable", "UnidentifiedImageError"):
        encoder.transform([tmp_path / "photo.png"], tap="0")
