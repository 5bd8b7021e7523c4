"""Features as Parquet files: those of `transform` and of a run, resumed by files, refused where they would be mixed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import diagnostics as dx
from diagnostics import DiagnosticsError
from diagnostics.activations import features
from diagnostics.activations.features import write_features
from diagnostics.activations.folder import Folder
from diagnostics.activations.parts import Launch
from diagnostics.errors import StorageError
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

pytest.importorskip("pyarrow")


def values(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["features"].tolist())


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten samples of the tiny encoder's two poolings of 8 features."""
    monkeypatch.setattr(features, "FILE_BYTES", 10 * 2 * 8 * 4)


def test_they_are_those_of_transform_in_the_order_of_the_dataset(tmp_path: Path, small_files: None) -> None:
    encoder, data = tiny_encoder(), tiny_dataset(24)
    about = write_features(encoder, data, tmp_path / "out", "blocks.1", batch_size=7)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    assert names == [f"features-{a:09}-{b:09}.parquet" for a, b in ((0, 10), (10, 20), (20, 24))]
    table = pd.read_parquet(tmp_path / "out")
    np.testing.assert_allclose(values(table), encoder.transform(data, tap="blocks.1"), rtol=1e-5, atol=1e-6)
    assert table["id"].tolist() == list(data.ids)
    assert table["split"].tolist() == list(data.split)
    assert table["group"].tolist() == list(data.groups)
    kind = data.targets["kind"]
    assert table["target_kind"].tolist() == [kind.classes[i] for i in kind.values]
    np.testing.assert_array_equal(table["target_level"], data.targets["level"].values)
    assert about["features"] == values(table).shape[1] == 16


def test_unknown_classes_are_missing_and_maps_left_out(tmp_path: Path) -> None:
    data = tiny_dataset(10, "image")
    data.targets["kind"].values[3] = -1
    write_features(tiny_image_encoder(), data, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out")
    assert table["target_kind"].isna().tolist() == [i == 3 for i in range(10)]
    assert "target_height" not in table


def test_the_same_command_goes_on_after_the_last_whole_file(
    tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, written = Folder.put, list[str]()

    def cut_off(self: Any, name: str, *given: Any, **options: Any) -> None:
        if name == "features-000000010-000000020.parquet":
            raise KeyboardInterrupt
        put(self, name, *given, **options)

    monkeypatch.setattr(Folder, "put", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_features(tiny_encoder(), tiny_dataset(24), tmp_path / "out")
    monkeypatch.setattr(Folder, "put", lambda self, name, *given: (written.append(name), put(self, name, *given)))
    write_features(tiny_encoder(), tiny_dataset(24), tmp_path / "out")
    assert written == [f"features-{a:09}-{b:09}.parquet" for a, b in ((10, 20), (20, 24))]
    assert len(pd.read_parquet(tmp_path / "out")) == 24


def test_launches_write_the_files_of_one_folder(tmp_path: Path, small_files: None) -> None:
    write_features(tiny_encoder(), tiny_dataset(24), tmp_path / "alone", batch_size=5)
    out = tmp_path / "out"
    for launch, files in (("2/2", 1), ("1/2", 3), ("1/1", 3)):
        write_features(tiny_encoder(), tiny_dataset(24), out, batch_size=5, launch=Launch.of(launch))
        assert len(list(out.glob("*.parquet"))) == files
    for path in (tmp_path / "alone").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    with refusal("other-run", kind=StorageError):
        write_features(tiny_encoder(), tiny_dataset(24), out, "blocks.0", launch=Launch())
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}


def test_the_plain_command_leaves_what_a_launch_is_writing(tmp_path: Path, small_files: None) -> None:
    out = tmp_path / "out"
    write_features(tiny_encoder(), tiny_dataset(24), out, launch=Launch.of("1/3"))
    now, dead = (out / f".features-{row:09}-{row + 10:09}.parquet.{'0' * 16}.partial" for row in (0, 10))
    for path in (now, dead):
        path.write_bytes(b"")
    os.utime(dead, (0, 0))
    write_features(tiny_encoder(), tiny_dataset(24), out)
    assert now.exists() and not dead.exists()


@pytest.mark.parametrize(
    ("change", "differs"), [({"tap": "blocks.0"}, "tap"), ({"pooling": ["mean"]}, "pooling"), ({"seed": 1}, "weights")]
)
def test_other_features_are_not_mixed_in(tmp_path: Path, change: dict[str, Any], differs: str) -> None:
    write_features(tiny_encoder(), tiny_dataset(8), tmp_path / "out", "blocks.1")
    encoder = tiny_encoder(change.pop("seed", 0))
    with pytest.raises(StorageError) as raised:
        write_features(encoder, tiny_dataset(8), tmp_path / "out", **{"tap": "blocks.1", **change})
    assert differs in str(raised.value)


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError):
        write_features(tiny_encoder(), tiny_dataset(8), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_exports_what_it_holds(tmp_path: Path) -> None:
    run = dx.run(
        tiny_encoder(), tiny_dataset(40), out=tmp_path / "run", measures="linear_probe", controls=False, report=False
    )
    table = pd.read_parquet(run.export(tmp_path / "level.parquet", target="level", pooling="mean"))
    wanted = run.features(target="level", pooling="mean")
    np.testing.assert_array_equal(values(table), wanted.values)
    assert table["id"].tolist() == wanted["sample"].values.tolist()
    data = tiny_dataset(40)
    np.testing.assert_array_equal(table["target_level"], data.targets["level"].values)
    assert table["target_kind"].tolist() == [data.targets["kind"].classes[i] for i in data.targets["kind"].values]
    with pytest.raises(DiagnosticsError):
        run.export(tmp_path / "level.csv")


def test_other_data_of_the_same_name_and_size_are_refused(tmp_path: Path) -> None:
    data = tiny_dataset(8)
    other = dx.Dataset(
        data.name, "series", data.samples, [f"t{i}" for i in range(8)], list(data.split), dict(data.targets)
    )
    write_features(tiny_encoder(), data, tmp_path / "out")
    with pytest.raises(StorageError) as raised:
        write_features(tiny_encoder(), other, tmp_path / "out")
    assert "ids" in str(raised.value)


@pytest.mark.parametrize("given", [{"pooling": ["medain"]}, {"tap": "nowhere"}, {"batch_size": 0}, {"workers": -1}])
def test_a_mistake_writes_nothing(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(DiagnosticsError):
        write_features(tiny_encoder(), tiny_dataset(8), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[3]", "{", "[" * 100_000])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    write_features(tiny_encoder(), tiny_dataset(8), tmp_path / "out")
    (tmp_path / "out" / features.ABOUT).write_text(text)
    with pytest.raises(StorageError):
        write_features(tiny_encoder(), tiny_dataset(8), tmp_path / "out")
