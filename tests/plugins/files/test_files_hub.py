"""Hugging Face datasets saved to disk: what their features become."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostics_files.media import _bytes
from PIL import Image
from scipy.io import wavfile

from diagnostics import Dataset
from diagnostics.specs import build
from tests.support.refusals import refusal

hub: Any = pytest.importorskip("datasets")
N = 6


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (4, 5, 3), dtype=np.uint8)


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(i)).save(buffer, "png")
    return buffer.getvalue()


def wav(i: int, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, np.linspace(-0.5, 0.5, 100 + i).astype(np.float32))
    return buffer.getvalue()


def saved(path: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    rows = hub.Dataset.from_dict(columns)
    for name, feature in features.items():
        rows = rows.cast_column(name, feature)
    rows.save_to_disk(str(path))
    return path


def load(path: Path, options: str = "") -> Dataset:
    return build("dataset", f"datasets:{path}{options}")


def test_images_with_class_labels_and_values(tmp_path: Path) -> None:
    columns = {
        "image": [{"bytes": png(i), "path": None} for i in range(N)],
        "label": [0, 1] * 3,
        "height": [i / 2 for i in range(N)],
        "group": ["a", "a", "b", "b", "c", "c"],
    }
    saved(tmp_path / "x", columns, image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    dataset = load(tmp_path / "x")
    assert (dataset.modality, dataset.ids) == ("image", [f"row-{i:06d}" for i in range(N)])
    for i in range(N):
        np.testing.assert_array_equal(dataset[i], pixels(i))
    label, height = dataset.targets["label"], dataset.targets["height"]
    assert (label.kind, label.classes, label.values.tolist()) == ("label", ("cat", "dog"), [0, 1] * 3)
    assert (height.kind, height.values.tolist()) == ("value", columns["height"])
    assert dataset.groups.tolist() == columns["group"]
    first = dataset.fingerprint
    (tmp_path / "x").rename(tmp_path / "y")
    assert load(tmp_path / "y").fingerprint == first
    columns["image"][2] = {"bytes": png(77), "path": None}
    saved(tmp_path / "z", columns, image=hub.Image(), label=hub.ClassLabel(names=["cat", "dog"]))
    assert load(tmp_path / "z").fingerprint != first


def test_damaged_rows_stop_by_name_or_are_left_out(tmp_path: Path) -> None:
    images = [{"bytes": png(i) if i != 3 else b"nothing", "path": None} for i in range(N)]
    saved(tmp_path / "x", {"image": images, "kind": ["a", "b"] * 3}, image=hub.Image())
    with refusal("unreadable", "row-000003"):
        load(tmp_path / "x")[3]
    skipped = load(tmp_path / "x", "?on_error=skip")
    assert skipped.ids == [f"row-{i:06d}" for i in (0, 1, 2, 4, 5)] and "1 of 6 left out" in skipped.about
    assert skipped.targets["kind"].values.tolist() == [0, 1, 0, 0, 1]
    np.testing.assert_array_equal(skipped[3], pixels(4))


def test_splits_of_a_dataset_dict(tmp_path: Path) -> None:
    parts = {
        name: hub.Dataset.from_dict({"text": [f"{name} {i}" for i in range(n)], "mood": [i % 2 for i in range(n)]})
        for name, n in (("train", 10), ("validation", 4))
    }
    hub.DatasetDict(parts).save_to_disk(str(tmp_path / "x"))
    dataset = load(tmp_path / "x")
    assert dataset.modality == "text" and dataset.counts() == {"train": 8, "val": 2, "test": 4}
    assert str(dataset[11]) == "validation 1" and dataset.ids[11] == "validation-000001"
    assert dataset.targets["mood"].values.tolist() == [i % 2 for i in range(10)] + [0, 1, 0, 1]
    hub.DatasetDict({"other": parts["train"]}).save_to_disk(str(tmp_path / "y"))
    with refusal("bad-splits", "other"):
        load(tmp_path / "y")


def test_audio_is_decoded_here_and_padded(tmp_path: Path) -> None:
    columns = {"audio": [{"bytes": wav(i), "path": "x.wav"} for i in range(N)], "who": ["a", "b"] * 3}
    saved(tmp_path / "x", columns, audio=hub.Audio())
    dataset = load(tmp_path / "x")
    assert (dataset.modality, dataset.rate, dataset.ragged) == ("audio", 8000.0, True)
    assert np.isnan(dataset[1]).sum() == 4 and dataset[1].shape == (105,)
    np.testing.assert_allclose(dataset[1][4:], np.linspace(-0.5, 0.5, 101), atol=1e-6)
    assert load(tmp_path / "x", "?rate=16000")[5].shape == (210,)
    columns["audio"][1] = {"bytes": wav(1, 4000), "path": "x.wav"}
    saved(tmp_path / "y", columns, audio=hub.Audio())
    with refusal("bad-data", "4000", "8000"):
        load(tmp_path / "y")
    assert load(tmp_path / "y", "?rate=8000")[1].shape == (202,)


def test_lists_of_numbers_are_series(tmp_path: Path) -> None:
    values = [np.arange(3 + i % 2, dtype=float).tolist() for i in range(N)]
    dataset = load(saved(tmp_path / "x", {"steps": values, "y": [0.5 * i for i in range(N)]}))
    assert dataset.modality == "series" and dataset.ragged
    np.testing.assert_array_equal(dataset[0], [np.nan, 0, 1, 2])
    assert dataset.targets["y"].values.tolist() == [0.5 * i for i in range(N)]
    values[2] = None
    with refusal("bad-data", "3"):
        load(saved(tmp_path / "z", {"steps": values}))
    pairs = [[[i, 1.0], [2.0, 3.0]] for i in range(N)]
    np.testing.assert_array_equal(load(saved(tmp_path / "y", {"steps": pairs}))[4], [[4, 1], [2, 3]])


def test_bad_saved_datasets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    with refusal("unreadable"):
        load(tmp_path / "x")
    saved(tmp_path / "y", {"question": ["a b", "c", "d"], "answer": ["x", "y", "z"]})
    with refusal("unclear", "2"):
        load(tmp_path / "y")
    assert str(load(tmp_path / "y", "?input=question")[0]) == "a b"
    saved(tmp_path / "e", {"text": ["a", "", "b", "c"]})
    with refusal("unreadable", "row-000001"):
        load(tmp_path / "e")[1]
    assert len(load(tmp_path / "e", "?on_error=skip")) == 3
    with refusal("unknown-name", "other"):
        load(tmp_path / "y", "?input=other")
    with refusal("bad-data", "out.png"):
        _bytes({"bytes": None, "path": str(tmp_path / "out.png")}, "row-000000")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refusal("missing-package", "datasets"):
        load(tmp_path / "y")
