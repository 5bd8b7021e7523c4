"""Folders of images: what is found, what becomes of it, and what is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import diagnostics_files.decode
import numpy as np
import pytest
from PIL import Image

from diagnostics import Dataset, DiagnosticsError, complete_splits
from diagnostics.datasets.dataset import unprobeable_targets
from diagnostics.specs import build
from tests.support.refusals import refusal

RED, GREEN = (255, 0, 0), (0, 255, 0)


def draw(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """An image of one colour, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)
    return path


def classes(root: Path, each: int = 5, prefix: str = "") -> Path:
    """Two class folders, red and green, with images whose blue channel is their number."""
    for name, colour in (("red", RED), ("green", GREEN)):
        for i in range(each):
            draw(root / prefix / name / f"{i}.png", (*colour[:2], i))
    return root


def images(root: Path, options: str = "") -> Dataset:
    return build("dataset", f"images:{root}{options}")


def test_class_folders_give_pixels_labels_ids_and_splits(tmp_path: Path) -> None:
    dataset = images(classes(tmp_path / "colours"))
    assert (dataset.name, dataset.modality, len(dataset)) == ("colours", "image", 10)
    assert dataset.ids == [f"{c}/{i}.png" for c in ("green", "red") for i in range(5)]
    label = dataset.targets["label"]
    assert label.classes == ("green", "red") and label.values.tolist() == [0] * 5 + [1] * 5
    for i, name in enumerate(dataset.ids):
        colour = RED if name.startswith("red") else GREEN
        expected = np.broadcast_to(np.uint8((*colour[:2], int(Path(name).stem))), (4, 6, 3))
        np.testing.assert_array_equal(dataset[i], expected)
    assert dataset.counts() == {"train": 6, "val": 2, "test": 2}
    assert images(tmp_path / "colours", "?seed=1").split.tolist() != dataset.split.tolist()


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    original = Image.open
    monkeypatch.setattr(
        diagnostics_files.decode.Image,
        "open",
        lambda source, **more: (opened.append(source), original(source, **more))[1],
    )
    dataset = images(classes(tmp_path))
    assert dataset.fingerprint and not opened
    dataset[3]
    assert len(opened) == 1
    images(tmp_path, "?on_error=skip")
    assert len(opened) == 11


@pytest.mark.parametrize(
    ("folders", "test_is"), [(("train", "val", "test"), None), (("training", "validation"), 1), (("train", "test"), 1)]
)
def test_split_folders_are_used_and_val_is_carved_where_it_is_missing(
    tmp_path: Path, folders: tuple[str, ...], test_is: int | None
) -> None:
    for folder in folders:
        classes(tmp_path, prefix=folder)
    dataset = images(tmp_path)
    assert dataset.targets["label"].classes == ("green", "red")
    of_folder = [name.split("/")[0] for name in dataset.ids]
    if test_is is None:
        assert dataset.split.tolist() == of_folder
    else:
        assert [s == "test" for s in dataset.split] == [f == folders[test_is] for f in of_folder]
        assert dataset.counts() == {"train": 8, "val": 2, "test": 10}
        assert images(tmp_path).split.tolist() == dataset.split.tolist()


def test_a_test_folder_without_train_is_refused(tmp_path: Path) -> None:
    for folder in ("val", "test"):
        classes(tmp_path, prefix=folder)
    with refusal("bad-splits"):
        images(tmp_path)


def test_images_keep_their_size_which_is_the_encoders_to_change(tmp_path: Path) -> None:
    for i, shape in enumerate(((4, 8, 3), (6, 5, 3), (4, 4, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{i}.png")
    assert [sample.shape for sample in images(tmp_path)[:]] == [(4, 8, 3), (6, 5, 3), (4, 4, 3)]
    for scheme in ("images", "videos", "captions", "datasets"):
        with refusal("unknown-name", "dataset", "size"):
            build("dataset", f"{scheme}:{tmp_path}?size=4")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_common_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    for i in range(3):
        draw(tmp_path / f"{i}.{suffix}", (255, 255, 255), mode=mode)
    np.testing.assert_array_equal(images(tmp_path)[0], np.full((4, 6, 3), 255, np.uint8))


def test_sixteen_bits_are_refused_by_name(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / f"{i}.png")
    with refusal("bad-data", "0.png", "I;16"):
        images(tmp_path)[0]


def test_a_file_of_another_format_is_refused_whatever_its_name(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF")
    with refusal("unreadable", "0.png", "UnidentifiedImageError"):
        images(tmp_path)[0]


def declared(path: Path, width: int, height: int) -> None:
    """A PNG of 1 bit a pixel that says how large it is and ends there."""
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", b"")):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(png)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (60_000, 60_000)])
def test_an_image_that_says_to_be_huge_is_refused_before_it_is_decoded(tmp_path: Path, width: int, height: int) -> None:
    flat(tmp_path)
    declared(tmp_path / "2.png", width, height)
    with refusal("bad-data", "2.png", "100 million pixels"):
        images(tmp_path)[2]
    assert "1 of 6 left out: 2.png has more than 100 million pixels" in images(tmp_path, "?on_error=skip").about


def test_as_many_pixels_as_allowed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat(tmp_path)
    monkeypatch.setattr(diagnostics_files.decode, "MOST_PIXELS", 24)
    assert images(tmp_path)[0].shape == (4, 6, 3)
    monkeypatch.setattr(diagnostics_files.decode, "MOST_PIXELS", 23)
    with refusal("bad-data", "pixels"):
        images(tmp_path)[0]


def test_fingerprints_see_pixels_options_and_splits_and_not_where_the_folder_lies(tmp_path: Path) -> None:
    classes(tmp_path / "a")
    first = images(tmp_path / "a").fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert images(tmp_path / "b").fingerprint == first
    assert images(tmp_path / "b", "?seed=1").fingerprint != first
    pixels = np.array(Image.open(tmp_path / "b/red/0.png"))
    pixels[0, 0, 0] -= 1
    Image.fromarray(pixels).save(tmp_path / "b/red/0.png")
    assert images(tmp_path / "b").fingerprint != first


def test_a_damaged_file_stops_by_name_or_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes(tmp_path)
    whole = (tmp_path / "red/1.png").read_bytes()
    (tmp_path / "red/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "red/2.png").write_text("no image")
    dataset = images(tmp_path)
    assert len(dataset) == 10
    with refusal("unreadable", "red/1.png", "?on_error=skip"):
        dataset[dataset.ids.index("red/1.png")]
    skipped = images(tmp_path, "?on_error=skip")
    assert set(dataset.ids) - set(skipped.ids) == {"red/1.png", "red/2.png"} == set(skipped.left_out)
    assert "2 of 10 left out as damaged: red/1.png, red/2.png" in skipped.about
    assert "2 of 10 left out" in capsys.readouterr().err
    assert all(skipped[i].shape == (4, 6, 3) for i in range(8))
    np.testing.assert_array_equal(skipped.targets["label"].values, [0] * 5 + [1] * 3)
    with refusal("bad-value", "ignore"):
        images(tmp_path, "?on_error=ignore")
    for path in tmp_path.glob("*/*.png"):
        path.write_text("no image")
    with refusal("bad-data", "10"):
        images(tmp_path, "?on_error=skip")


def test_a_table_may_name_what_is_left_out(tmp_path: Path) -> None:
    flat(tmp_path)
    (tmp_path / "2.png").write_text("no image")
    table(tmp_path, "file,a\n" + "\n".join(f"{i}.png,{i}.5" for i in range(6)))
    dataset = images(tmp_path, "?table=table.csv&on_error=skip")
    assert dataset.targets["a"].values.tolist() == [0.5, 1.5, 3.5, 4.5, 5.5]


def test_skipping_a_whole_split_is_refused(tmp_path: Path) -> None:
    for folder in ("train", "val", "test"):
        classes(tmp_path, prefix=folder)
    for path in (tmp_path / "train").glob("*/*.png"):
        path.write_text("no image")
    with refusal("bad-splits"):
        images(tmp_path, "?on_error=skip")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with refusal("missing-file", "nowhere", "does not exist"):
        images(tmp_path / "nowhere")
    with refusal("missing-file", "images"):
        images(tmp_path)
    draw(tmp_path / "a.png")
    with refusal("missing-file", "is a file"):
        images(tmp_path / "a.png")
    draw(tmp_path / "red/a.png")
    with refusal("bad-data", "a.png"):
        images(tmp_path)


def test_one_class_is_no_target_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(4):
        draw(tmp_path / "red" / f"{i}.png")
    dataset = images(tmp_path)
    assert (
        dataset.targets == {} and "one class only, red" in dataset.about and "one class only" in capsys.readouterr().err
    )


def test_hidden_files_are_passed_over_and_loops_end(tmp_path: Path) -> None:
    classes(tmp_path)
    draw(tmp_path / ".thumbs/x.png")
    draw(tmp_path / "red/._0.png")
    (tmp_path / "red/loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(images(tmp_path)) == 10


def table(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def flat(root: Path) -> Path:
    for i in range(6):
        draw(root / f"{i}.png")
    return root


def test_a_table_gives_targets_splits_and_groups(tmp_path: Path) -> None:
    flat(tmp_path)
    rows = [
        f"{i}.png,{'ab'[i % 2]},{i / 2},{i},{i // 3 if i else ''},{('train', 'val', 'test')[i // 2]},g{i // 2}"
        for i in range(6)
    ]
    table(tmp_path, "file,kind,height (m),age,level,split,group\n" + "\n".join(reversed(rows)))
    dataset = images(tmp_path, "?table=table.csv&values=age")
    assert {n: t.kind for n, t in dataset.targets.items()} == {
        "kind": "label",
        "height_m": "value",
        "age": "value",
        "level": "label",
    }
    assert dataset.targets["kind"].values.tolist() == [0, 1] * 3
    assert dataset.targets["height_m"].values.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    assert dataset.targets["level"].values.tolist() == [-1, 0, 0, 1, 1, 1]
    assert dataset.split.tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert dataset.groups.tolist() == ["g0", "g0", "g1", "g1", "g2", "g2"]
    partial = table(tmp_path, "name\theight\n./0.png\t1.5\n5.png\t2.5\n", "some.tsv")
    dataset = images(tmp_path, f"?table={partial}&file=name")
    np.testing.assert_array_equal(dataset.targets["height"].values, [1.5, *[np.nan] * 4, 2.5])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("name,a\n0.png,1.5\n", "", "has no column 'file' but name, a: name yours with"),
        ("file,a\n0.png,1.5\n9.png,2.5\n", "", r"names 1 file\(s\) that are not in the folder, 9.png first"),
        ("file,a\n../0.png,1.5\n", "", r"\.\./0\.png first"),
        ("file,a\n0.png,1.5\n0.png,2.5\n", "", "names 0.png twice"),
        ("file,a\n0.png,1.5,3\n", "", "Line 2 .* has 3 cells and the header 2"),
        ("file,a\n0.png,1.5\n1.png,inf\n", "", "Column a .* is infinite in row 2"),
        ("file,a,a\n0.png,1,2\n", "", "the same name"),
        ("file,a\n", "", "holds no rows"),
        ("file,split\n0.png,holdout\n", "", "has a split named holdout: name splits train, val and test"),
        ("file,split\n0.png,train\n", "", "have a split and others have none"),
        ("file,a\n0.png,1.5\n", "&values=b", "has no column 'b' but a: correct"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, options: str, message: str) -> None:
    flat(tmp_path)
    with pytest.raises(DiagnosticsError, match=message):
        images(tmp_path, f"?table={table(tmp_path, text)}{options}")


def test_a_missing_table_and_a_clash_with_class_folders_are_refused(tmp_path: Path) -> None:
    classes(tmp_path)
    with pytest.raises(DiagnosticsError) as raised:
        images(tmp_path, "?table=none.csv")
    assert f"neither in the working directory {Path.cwd()} nor in the folder {tmp_path}:" in str(raised.value)
    with refusal("missing-file", f"{tmp_path}/none.csv"):
        images(tmp_path, f"?table={tmp_path / 'none.csv'}")
    table(tmp_path, "file,label\nred/0.png,x\nred/1.png,y\ngreen/0.png,x\ngreen/1.png,y\n")
    with refusal("duplicate", "label"):
        images(tmp_path, "?table=table.csv")


def test_a_class_of_one_sample_is_in_train(tmp_path: Path) -> None:
    """Of folders and of tables, whatever the seed; six of ten draws have it there anyway."""
    draw(classes(tmp_path / "colours") / "blue" / "0.png")
    table(
        tmp_path, "text,colour\nonce,blue\n" + "".join(f"text {i},{'red' if i % 2 else 'green'}\n" for i in range(10))
    )
    for seed in range(10):
        for data in (
            images(tmp_path / "colours", f"?seed={seed}"),
            build("dataset", f"texts:{tmp_path}/table.csv?seed={seed}"),
        ):
            (of,) = data.targets.values()
            assert data.split[of.values == of.classes.index("blue")].tolist() == ["train"]
            assert unprobeable_targets(data) == {}


def test_splits_are_completed_over_groups() -> None:
    groups = [f"g{i // 3}" for i in range(30)]
    given = ["train"] * 15 + ["val"] * 15
    completed, how, pool = complete_splits(given, groups, 0, "x")
    assert completed[15:] == ["test"] * 15 and how == "test is the given val, val a fifth of train" and pool == "fit"
    of = {group: {s for g, s in zip(groups, completed, strict=True) if g == group} for group in groups}
    assert all(len(splits) == 1 for splits in of.values()) and completed[:15].count("val") == 3
    assert complete_splits(given, groups, 0, "x")[0] == completed
    assert any(complete_splits(given, groups, seed, "x")[0] != completed for seed in range(1, 5))
    drawn, how, pool = complete_splits(["train"] * 30, groups, 0, "x")
    assert set(drawn) == {"train", "val", "test"} and how == "splits drawn over groups" and pool is True
    with refusal("bad-splits"):
        complete_splits(["train", "train", "test"], ["a", "a", "b"], 0, "x")
    with refusal("bad-value", "-1"):
        complete_splits(given, groups, -1, "x")
