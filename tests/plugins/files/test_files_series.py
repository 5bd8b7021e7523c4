"""Files of series in every layout, texts, and .ts archives: exact values, padding on the left, what is refused."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import diagnostics_files.folder
import numpy as np
import pytest
import zarr

from diagnostics import Dataset, DiagnosticsError
from diagnostics.specs import build
from tests.support.refusals import refusal

N, STEPS = 6, 5
VALUES = np.random.default_rng(0).standard_normal((N, STEPS)).astype(np.float32)
COLUMNS: dict[str, Any] = {
    "kind": ["a", "b"] * 3,
    "level": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5],
    "split": ["train", "train", "val", "val", "test", "test"],
}


def series(path: Path, options: str = "") -> Dataset:
    return build("dataset", f"series:{path}{options}")


def store(path: Path, values: np.ndarray, columns: dict[str, Any]) -> Path:
    """The same series in the layout that the suffix and, for tables, the stem ask for."""
    rows = range(len(values))
    if path.suffix == ".npz":
        np.savez(path, series=values, **{k: np.array(v) for k, v in columns.items()})
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("series", data=values, chunks=(2, *values.shape[1:]))
        for name, entries in columns.items():
            array = np.array(entries)
            if array.dtype.kind == "U":
                group.create_array(name, shape=array.shape, dtype=str)[:] = array.astype(object)
            else:
                group.create_array(name, data=array)
    else:
        if path.stem == "wide":
            table = {**{str(t): values[:, t].tolist() for t in range(values.shape[1])}, **columns}
        elif path.stem == "lists":
            table = {"series": values.tolist(), **columns}
        else:  # long, its rows shuffled
            order = np.random.default_rng(1).permutation(values.shape[0] * values.shape[1])
            cells = [(i, t) for i in rows for t in range(values.shape[1])]
            cells = [cells[k] for k in order]
            first = {i: f"s{i}" for i in rows}
            table = {"id": [first[i] for i, _ in cells], "time": [t for _, t in cells]}
            table |= {"value": [float(values[i, t]) for i, t in cells]}
            table |= {name: [entries[i] for i, _ in cells] for name, entries in columns.items()}
        names = list(table)
        entries = list(zip(*table.values(), strict=True))
        if path.suffix == ".parquet":
            pyarrow = pytest.importorskip("pyarrow")
            __import__("pyarrow.parquet")
            pyarrow.parquet.write_table(pyarrow.table(table), path)
        elif path.suffix == ".jsonl":
            path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in entries))
        else:
            text = [
                ["" if cell != cell else repr(cell) if isinstance(cell, float) else str(cell) for cell in row]
                for row in entries
            ]
            path.write_text("\n".join(",".join(row) for row in [names, *text]))
    return path


LAYOUTS = ["a.npz", "a.zarr", "wide.csv", "wide.parquet", "lists.parquet", "lists.jsonl", "long.csv", "long.parquet"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_series_and_targets(tmp_path: Path, layout: str) -> None:
    dataset = series(store(tmp_path / layout, VALUES, COLUMNS))
    order = np.argsort([int(name.removeprefix("series-").removeprefix("s")) for name in dataset.ids])
    assert (dataset.modality, dataset.ragged, len(dataset)) == ("series", False, N)
    for row, i in enumerate(order):
        np.testing.assert_array_equal(dataset[i], VALUES[row])
        assert dataset[i].dtype == np.float32
    assert dataset.split[order].tolist() == COLUMNS["split"]
    kind, level = dataset.targets["kind"], dataset.targets["level"]
    assert set(dataset.targets) == {"kind", "level"} and kind.classes == ("a", "b")
    assert kind.values[order].tolist() == [0, 1] * 3 and level.values[order].tolist() == COLUMNS["level"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unequal_lengths_end_together_and_gaps_stay(tmp_path: Path, layout: str) -> None:
    values = VALUES.copy()
    values[1, 3:] = np.nan  # shorter by two steps
    values[2, :1] = np.nan  # begins later
    values[3, 2] = np.nan  # a gap
    if layout == "long.csv":
        layout = "long.parquet"
    dataset = series(store(tmp_path / layout, values, {} if "long" in layout else COLUMNS))
    at = {int(name.removeprefix("series-").removeprefix("s")): i for i, name in enumerate(dataset.ids)}
    nan = np.nan
    assert dataset.ragged
    np.testing.assert_array_equal(dataset[at[0]], VALUES[0])
    np.testing.assert_array_equal(dataset[at[1]], [nan, nan, *VALUES[1, :3]])
    np.testing.assert_array_equal(dataset[at[2]], [nan, *VALUES[2, 1:]])
    np.testing.assert_array_equal(dataset[at[3]], [*VALUES[3, :2], nan, *VALUES[3, 3:]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unknown_steps_at_the_ends_are_said(tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    if layout == "long.csv":
        layout = "long.parquet"
    columns = {} if "long" in layout else COLUMNS
    values = VALUES.copy()
    values[3, 2] = np.nan  # a gap is none
    assert "unknown" not in series(store(tmp_path / layout, values, columns)).about
    assert "unknown" not in capsys.readouterr().err
    values[2, :1] = np.nan
    (tmp_path / "one").mkdir()
    dataset = series(store(tmp_path / "one" / layout, values, columns))
    key = next(name for name in dataset.ids if name.endswith("2"))
    message = (
        f"1 of 6 series ({key}) begins or ends with unknown steps, which are left out, and as lengths then differ, only "
        "pooled activations of all series are stored and no tokens"
    )
    assert message in dataset.about and f"{layout}: {message}.\n" in capsys.readouterr().err and dataset.ragged
    values[:, 0] = np.nan  # of all alike
    (tmp_path / "all").mkdir()
    dataset = series(store(tmp_path / "all" / layout, values, columns))
    message = f"6 of 6 series ({dataset.ids[0]} first) begin or end with unknown steps, which are left out"
    assert message in dataset.about and "tokens" not in dataset.about and not dataset.ragged


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_the_names_that_scikit_learn_uses(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    arrays = {"X": VALUES, "y": np.array([0, 1] * 3), "groups": np.arange(6) // 2, "split": np.array(COLUMNS["split"])}
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        group = zarr.open_group(path, mode="w")
        for name in ("X", "y", "groups"):
            group.create_array(name, data=arrays[name])
        group.create_array("split", shape=(6,), dtype=str)[:] = arrays["split"].astype(object)
    dataset = series(path)
    np.testing.assert_array_equal(np.stack([dataset[i] for i in range(N)]), VALUES)
    assert list(dataset.targets) == ["y"]
    assert dataset.targets["y"].kind == "label"
    assert list(dataset.groups) == ["0", "0", "1", "1", "2", "2"]
    assert list(dataset.split) == COLUMNS["split"]


def test_y_of_numbers_is_a_value_and_series_comes_before_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=VALUES, y=np.array(COLUMNS["level"]))
    assert series(tmp_path / "a.npz").targets["y"].kind == "value"
    np.savez(tmp_path / "b.npz", series=VALUES, X=np.arange(6) * 0.5, groups=np.array(["a", "b"] * 3))
    assert set(series(tmp_path / "b.npz").targets) == {"X", "groups"}


@pytest.mark.parametrize("layout", ["a.npz", "a.zarr", "lists.jsonl"])
def test_variates(tmp_path: Path, layout: str) -> None:
    values = np.random.default_rng(0).standard_normal((N, STEPS, 2)).astype(np.float32)
    dataset = series(store(tmp_path / layout, values, COLUMNS))
    np.testing.assert_array_equal([dataset[i] for i in range(N)], values)


def test_what_changes_within_a_series_is_a_variate(tmp_path: Path) -> None:
    rows = ["id,time,x,y,kind,group"]
    for i in range(4):
        rows += [f"s{i},{t},{i + t / 8},{'' if t == 1 else i * t},{'ab'[i % 2]},g{i}" for t in (2, 0, 1)]
    (tmp_path / "a.csv").write_text("\n".join(rows))
    dataset = series(tmp_path / "a.csv")
    np.testing.assert_array_equal(dataset[3], [[3, 0], [3.125, np.nan], [3.25, 6]])
    assert set(dataset.targets) == {"kind"} and dataset.groups.tolist() == ["g0", "g1", "g2", "g3"]


@pytest.mark.parametrize("layout", ["a.npz", "a.zarr", "wide.csv"])
def test_fingerprint_sees_one_value_and_one_target(tmp_path: Path, layout: str) -> None:
    first = series(store(tmp_path / layout, VALUES, COLUMNS)).fingerprint
    other = VALUES.copy()
    other[2, 2] += 1
    (tmp_path / "x").mkdir()
    assert series(store(tmp_path / "x" / layout, VALUES, COLUMNS)).fingerprint == first
    (tmp_path / "y").mkdir()
    assert series(store(tmp_path / "y" / layout, other, COLUMNS)).fingerprint != first
    (tmp_path / "z").mkdir()
    assert series(store(tmp_path / "z" / layout, VALUES, COLUMNS | {"level": list(range(6))})).fingerprint != first


@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_infinity_names_the_series(tmp_path: Path, layout: str) -> None:
    values = VALUES.copy()
    values[4, 1] = np.inf
    with refusal("not-finite", "series-000004"):
        series(store(tmp_path / layout, values, COLUMNS))
    values[4] = np.nan
    with refusal("bad-data", "series-000004"):
        series(store(tmp_path / layout, values, COLUMNS))


def test_pickles_and_foreign_names_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", series=np.array([[1.0], [2.0, 3.0]], dtype=object))
    with refusal("unreadable", "holds a pickle") as raised:
        series(tmp_path / "a.npz")
    assert "skip" not in str(raised.value)  # there is no such option
    for name in ("../x", "."):
        np.savez(tmp_path / "b.npz", **{"series": VALUES, name: VALUES[:, 0]})
        with refusal("strange-file"):
            series(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:50])
    with refusal("unreadable", "c.npz"):
        series(tmp_path / "c.npz")


def archive(path: Path, shape: tuple[int, ...], **more: bytes) -> Path:
    """An .npz whose array says to have a shape and holds a megabyte of zeros, which is packed into a kilobyte."""
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as npz:
        npz.writestr("series.npy", start.getvalue() + bytes(2**20))
        for name, data in more.items():
            npz.writestr(name, data)
    return path


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"a\.npz unpacked would take 12\.0 GiB of memory, more than the 4 GiB that are allowed: split it"
    with pytest.raises(DiagnosticsError, match=message):
        series(archive(tmp_path / "a.npz", (3, 2**30)))
    whole = archive(tmp_path / "b.npz", (8, 2**15))
    monkeypatch.setattr(diagnostics_files.folder, "MOST_BYTES", 2**20)
    assert len(series(whole)) == 8
    monkeypatch.setattr(diagnostics_files.folder, "MOST_BYTES", 2**20 - 1)
    with pytest.raises(DiagnosticsError, match="unpacked would take"):
        series(whole)
    monkeypatch.undo()
    for shape, more in (((-1, 2**15), {}), ((8, 2**15), {"notes": b"text"})):
        with pytest.raises(DiagnosticsError, match=r"c\.npz cannot be decoded .*: repair it or write it again\.$"):
            series(archive(tmp_path / "c.npz", shape, **more))


def test_a_zarr_array_whose_rows_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("series", shape=(3, 2**30), chunks=(1, 2**10), dtype="f4", fill_value=0)
    with refusal("too-large", "a.zarr", "12.0 GiB"):
        series(tmp_path / "a.zarr")


@pytest.mark.parametrize("dtype", ["|O", "<f4"])
@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_a_zarr_array_that_would_unpickle_is_refused_and_nothing_runs(tmp_path: Path, dtype: str, place: str) -> None:
    class Planted:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "a.zarr"
    zarr.open_group(path, mode="w", zarr_format=2).create_array("series", data=VALUES)
    facts = {"zarr_format": 2, "shape": [N], "chunks": [N], "dtype": dtype, "order": "C", "fill_value": 0}
    codec = {"id": "pickle", "protocol": 5}
    facts |= {
        "filters": [codec] if place == "filters" else None,
        "compressor": codec if place == "compressor" else None,
    }
    (path / "planted").mkdir()
    (path / "planted/.zarray").write_text(json.dumps(facts))
    (path / "planted/0").write_bytes(pickle.dumps(Planted()))
    with refusal("unreadable", "a.zarr"):
        series(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads((path / "planted/0").read_bytes())  # noqa: S301  (what reading it would have done)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": VALUES}, "has no array series or X but x"),
        ({"X": VALUES[0]}, r"Array X .* is float32 of shape \[5\]"),
        ({"series": VALUES[0]}, r"Array series .* is float32 of shape \[5\]"),
        ({"series": VALUES.astype(str)}, r"Array series .* is <U"),
        ({"series": VALUES, "z": VALUES}, r"Array z .* is float32 of shape \[6, 5\]: give one number or text"),
        ({"series": VALUES, "id": np.array(["a"] * 6)}, "gives the id a to several samples"),
        ({"series": VALUES[:2]}, r"2 group\(s\) cannot fill train, val and test"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DiagnosticsError, match=message):
        series(tmp_path / "a.npz")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            group.create_array(name, data=array)
    if all(array.dtype.kind == "f" for array in arrays.values()):
        with pytest.raises(DiagnosticsError, match=message):
            series(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "shows no series: give steps as columns 0, 1, 2"),
        ("0,1\n1,x\n", "Column 1 .* holds text, 'x' in row 1"),
        ("time,x\n0,1\n", "has a column time and no column id"),
        ("id,time,x\na,0,1\na,0,2\n", "Series a .* has two rows of one time"),
        ("id,time,x\na,0,1\na,1,y\n", "Column x .* changes within a series and is no number"),
        ("id,time,x\na,0,1\nb,0,1\n", "No column .* changes within a series"),
        ("id,time,x\na,0,1\n,1,2\n", "has rows without id or time"),
    ],
)
def test_bad_tables_of_series_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DiagnosticsError, match=message):
        series(tmp_path / "a.csv")


def test_what_is_missing_among_numbers_is_unknown_and_in_text_a_name(tmp_path: Path) -> None:
    rows = [
        f"{i},{i * i % 7},{word},{'NA' if i % 2 else 'EU'}"
        for i, word in enumerate(["NA", "n/a", "?", *[".5", "1"] * 9])
    ]
    (tmp_path / "a.csv").write_text("\n".join(["0,1,level,region", *rows]))
    targets = series(tmp_path / "a.csv").targets
    assert targets["level"].kind == "value" and np.isnan(targets["level"].values).sum() == 3
    assert targets["region"].classes == ("EU", "NA")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"x")
    with refusal("unsupported", "a.pkl"):
        series(tmp_path / "a.pkl")
    with refusal("missing-file"):
        series(tmp_path / "b.csv")
    (tmp_path / "a.jsonl").write_text('{"series": [1, 2]}\nnot json')
    with refusal("unreadable", "2"):
        series(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"series": [1, [2]]}')
    with refusal("bad-data", "1"):
        series(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with refusal("unreadable"):
        series(tmp_path / "a.parquet")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.ts").write_text("@data")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "aeon.datasets", None)
    with refusal("missing-package", "Reading a.parquet", "pyarrow"):
        series(tmp_path / "a.parquet")
    with refusal("missing-package", "Reading a.ts", "aeon"):
        build("dataset", f"ts:{tmp_path / 'a.ts'}")


def test_zarr_is_read_a_series_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = series(store(tmp_path / "a.zarr", VALUES, COLUMNS))
    asked: list[Any] = []
    original = zarr.Array.__getitem__
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda self, key: (asked.append(key), original(self, key))[1])
    dataset[4]
    assert asked == [4]


HEADER = "@problemName Made\n@timeStamps false\n@univariate {one}\n@equalLength {equal}\n{kind}\n@data\n"


def write_ts(
    path: Path, rows: list[str], kind: str = "@classLabel true a b", equal: str = "true", one: str = "true"
) -> None:
    path.write_text(HEADER.format(kind=kind, equal=equal, one=one) + "\n".join(rows) + "\n")


def test_ts_pairs_keep_the_official_test_and_carve_val(tmp_path: Path) -> None:
    pytest.importorskip("aeon")
    write_ts(tmp_path / "Made_TRAIN.ts", [f"{i}.0,1.0,2.0:{'ab'[i % 2]}" for i in range(10)])
    write_ts(tmp_path / "Made_TEST.ts", [f"9{i}.0,1.0,2.0:{'ab'[i % 2]}" for i in range(4)])
    for name in ("Made_TRAIN.ts", "Made_TEST.ts"):
        dataset = build("dataset", f"ts:{tmp_path / name}")
        assert dataset.name == "Made" and dataset.counts() == {"train": 8, "val": 2, "test": 4}
        np.testing.assert_array_equal([dataset[i] for i in (3, 11)], [[3, 1, 2], [91, 1, 2]])
        assert dataset.split[11] == "test" and dataset.targets["label"].values.tolist() == [0, 1] * 7
    (tmp_path / "Made_TEST.ts").unlink()
    with refusal("missing-file", "Made_TEST.ts"):
        build("dataset", f"ts:{tmp_path / 'Made_TRAIN.ts'}")


def test_ts_of_unequal_length_with_variates_gaps_and_numbers(tmp_path: Path) -> None:
    pytest.importorskip("aeon")
    rows = ["1.0,2.0,3.0:4.0,5.0,6.0:0.5", "1.0,?:7.0,8.0:1.5", "1.0,2.0:3.0,4.0:2.5"]
    write_ts(tmp_path / "Some.ts", rows, "@targetLabel true", "false", "false")
    dataset = build("dataset", f"ts:{tmp_path / 'Some.ts'}")
    assert dataset.ragged and dataset.targets["value"].values.tolist() == [0.5, 1.5, 2.5]
    np.testing.assert_array_equal(dataset[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(dataset[1], [[np.nan] * 2, [1, 7], [np.nan, 8]])
    (tmp_path / "Bad.ts").write_text("1,2,3\n")
    with refusal("bad-data", "Bad.ts"):
        build("dataset", f"ts:{tmp_path / 'Bad.ts'}")


def test_texts_of_lines_and_tables(tmp_path: Path) -> None:
    lines = ["one", "two", "one", "three", "four", "five ü"]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dataset = build("dataset", f"texts:{tmp_path / 'a.txt'}")
    assert (dataset.modality, dataset.ragged, [str(dataset[i]) for i in range(6)]) == ("text", True, lines)
    assert dataset.split[0] == dataset.split[2] and dataset.targets == {}  # equal texts stay together
    first = dataset.fingerprint
    (tmp_path / "a.txt").write_text("\n".join([*lines[:5], "five"]), encoding="utf-8")
    assert build("dataset", f"texts:{tmp_path / 'a.txt'}").fingerprint != first
    rows = [{"id": f"r{i}", "body": line, "mood": "ab"[i % 2], "stars": i / 2} for i, line in enumerate(lines)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = build("dataset", f"texts:{tmp_path / 'a.jsonl'}?text=body")
    assert dataset.ids == [f"r{i}" for i in range(6)] and dataset.targets["mood"].values.tolist() == [0, 1] * 3
    assert dataset.targets["stars"].values.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]


def test_steps_group_and_id_are_named(tmp_path: Path) -> None:
    table = tmp_path / "machines.csv"
    steps = [f"v{t}" for t in (0, 1, 10, 2, 3)]
    rows = [
        ["rec,machine,fault,v_max," + ",".join(steps)],
        *([f"r{i},m{i // 2},{'ab'[i // 2 % 2]},7.5," + ",".join(map(str, VALUES[i]))] for i in range(N)),
    ]
    table.write_text("\n".join(row for (row,) in rows))
    dataset = series(table, "?steps=v[0-9]*&group=machine&id=rec")
    assert dataset.ids == [f"r{i}" for i in range(N)] and len(set(dataset.groups)) == N // 2
    assert list(dataset.targets) == ["fault"]
    np.testing.assert_allclose(dataset[1], VALUES[1][[0, 1, 3, 4, 2]], rtol=1e-6)  # v10 last
    with refusal("unclear", "w*", "?steps=v*"):
        series(table, "?steps=w*")
    with refusal("unknown-name", "machin", "rec,"):
        series(table, "?steps=v[0-9]*&group=machin")
    with refusal("no-effect", "?steps="):
        series(store(tmp_path / "a.npz", VALUES, COLUMNS), "?id=kind")


def text_folder(folder: Path, texts: dict[str, str | bytes]) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_texts_of_class_folders(tmp_path: Path) -> None:
    texts = {f"{kind}/{i}.txt": f"\ufeff{kind} thing {i // 2}\n" for kind in ("good", "bad") for i in range(8)}
    folder = text_folder(tmp_path / "reviews", {**texts, "bad/.hidden.txt": "x", "bad/notes.md": "x"})
    dataset = build("dataset", f"texts:{folder}")
    assert (dataset.modality, dataset.name, dataset.ids) == ("text", "reviews", sorted(texts))
    assert dataset[0].item() == "bad thing 0" and dataset.targets["label"].classes == ("bad", "good")
    assert dataset.split[0] == dataset.split[1] and dataset.groups[0] == dataset.groups[1], "equal texts stay together"
    (folder / "bad/0.txt").write_text("another")
    assert build("dataset", f"texts:{folder}").fingerprint != dataset.fingerprint
    parts = text_folder(
        tmp_path / "parts",
        {f"{part}/{name}": f"{text} {part}" for part in ("train", "test") for name, text in texts.items()},
    )
    assert build("dataset", f"texts:{parts}").exchangeable == "fit"
    (tmp_path / "levels.csv").write_text("file,level\n" + "".join(f"{name},{i}.5\n" for i, name in enumerate(texts)))
    assert "level" in build("dataset", f"texts:{folder}?table={tmp_path}/levels.csv").targets


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"\xff\xfe\x00", r"bad/x\.txt cannot be decoded \(UnicodeDecodeError"),
        (b" \n", r"bad/x\.txt cannot be decoded \(it is empty\)"),
        (
            b"x" * (10 * 2**20 + 1),
            r"bad/x\.txt has 10,485,761 bytes, more than the 10,485,760 of a text: split it, or leave",
        ),
        (None, r"bad/x\.txt is a link to what is not there: remove it"),
    ],
)
def test_bad_text_files_are_refused_or_left_out(tmp_path: Path, text: bytes | None, sentence: str) -> None:
    folder = text_folder(tmp_path, {f"{kind}/{i}.txt": f"{kind} {i}" for kind in ("good", "bad") for i in range(6)})
    if text is None:
        (folder / "bad/x.txt").symlink_to(folder / "nothing")
    else:
        (folder / "bad/x.txt").write_bytes(text)
    with pytest.raises(DiagnosticsError, match=sentence):
        build("dataset", f"texts:{folder}")
    assert len(build("dataset", f"texts:{folder}?on_error=skip")) == 12


def test_bad_texts_are_refused(tmp_path: Path) -> None:
    for content, message in (
        (b"", "is empty: give one text per line"),
        (b"a\n\nb", "Text 2 .* is empty"),
        (b"\xff\xfe", "is not UTF-8"),
    ):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DiagnosticsError, match=message):
            build("dataset", f"texts:{tmp_path / 'a.txt'}")
    (tmp_path / "a.csv").write_text("text,n\na,1\n,2\nb,1\n")
    with pytest.raises(DiagnosticsError, match=r"Text 2 .* is missing"):
        build("dataset", f"texts:{tmp_path / 'a.csv'}")
    (tmp_path / "a.csv").write_text("body\nx\n")
    with pytest.raises(DiagnosticsError, match=r"has no column 'text' but body: name yours with \?text="):
        build("dataset", f"texts:{tmp_path / 'a.csv'}")
