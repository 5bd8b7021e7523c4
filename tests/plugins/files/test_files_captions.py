"""Captions from tables and WebDataset archives, their embeddings, and archives that are refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import diagnostics_files.folder
import numpy as np
import pytest
from diagnostics_files.archives import members
from diagnostics_files.captions import hashed
from PIL import Image

from diagnostics import DiagnosticsError, LazySamples
from diagnostics.specs import build
from tests.support.refusals import refusal


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(i)).save(buffer, "png")
    return buffer.getvalue()


def captions(path: Path, options: str = ""):
    return build("dataset", f"captions:{path}{options}")


CAPTIONS = ["a red ball", "a green ball", "a red ball", "two dogs run", "the sea"]


def folder(root: Path) -> Path:
    (root / "img").mkdir(parents=True)
    for i in range(5):
        (root / "img" / f"{i}.png").write_bytes(png(i))
    rows = [(f"img/{i}.png", text) for i, text in enumerate(CAPTIONS)] + [("img/0.png", "a toy")]
    (root / "c.csv").write_text("image,caption\n" + "\n".join(",".join(row) for row in rows))
    (root / "c.jsonl").write_text("\n".join(json.dumps({"image": a, "caption": b}) for a, b in rows))
    return root


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl"])
def test_a_table_gives_a_sample_for_each_caption(tmp_path: Path, name: str) -> None:
    dataset = captions(folder(tmp_path) / name)
    assert dataset.ids == [*(f"img/{i}.png#0" for i in range(5)), "img/0.png#1"]
    assert list(dataset.texts) == [*CAPTIONS, "a toy"] and dataset.groups[0] == dataset.groups[5]
    for i in range(6):
        np.testing.assert_array_equal(dataset[i], pixels(i % 5))
    target = dataset.targets["caption"]
    assert (target.kind, target.values.shape) == ("caption", (6, 512))
    np.testing.assert_array_equal(target.values[0], target.values[2])
    assert captions(tmp_path / name, "?features=64").targets["caption"].values.shape == (6, 64)


def test_embeddings_of_ones_own(tmp_path: Path) -> None:
    folder(tmp_path)
    mine = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    np.save(tmp_path / "e.npy", mine)
    dataset = captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}")
    np.testing.assert_array_equal(dataset.targets["caption"].values, mine)
    assert dataset.fingerprint != captions(tmp_path / "c.csv").fingerprint
    (tmp_path / "img/3.png").write_bytes(b"no image")
    skipped = captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}&on_error=skip")
    np.testing.assert_array_equal(skipped.targets["caption"].values, mine[[0, 1, 2, 4, 5]])
    for wrong in (mine[:5], mine[0], mine * np.inf):
        np.save(tmp_path / "e.npy", wrong)
        with refusal("bad-shape", "finite numbers"):
            captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}")
    np.save(tmp_path / "e.npy", np.array([{}]), allow_pickle=True)
    with refusal("unreadable", "holds a pickle") as raised:
        captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}")
    assert "skip" not in str(raised.value)  # no image is at fault


def test_embeddings_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    np.save(tmp_path / "e.npy", np.ones((6, 3), np.uint8))  # 72 bytes as float32
    monkeypatch.setattr(diagnostics_files.folder, "MOST_BYTES", 72)
    assert captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}").targets["caption"].values.shape == (6, 3)
    monkeypatch.setattr(diagnostics_files.folder, "MOST_BYTES", 71)
    with refusal("bad-data", "e.npy", "GiB"):
        captions(tmp_path / "c.csv", f"?embeddings={tmp_path / 'e.npy'}")


def test_hashed_words_bring_alike_texts_near() -> None:
    a, same, near, far, none = hashed(["A red ball", "a RED ball!", "a red box", "two dogs run", "..."], 4096)
    np.testing.assert_array_equal(a, same)
    assert a @ a == pytest.approx(1) and 0.3 < a @ near < 1 and abs(a @ far) < 1e-6 and not none.any()
    assert hashed(["dog bites man"], 4096)[0] @ hashed(["man bites dog"], 4096)[0] < 0.999  # order counts
    # The same numbers on every machine and in every process.
    assert np.flatnonzero(hashed(["sea"], 64)[0]).tolist() == [56] and hashed(["sea"], 64)[0, 56] == 1


def tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, numbers: range, kind: str = "txt") -> Path:
    files: list[tuple[str, bytes]] = []
    for i in numbers:
        text = CAPTIONS[i % 5].encode() if kind == "txt" else json.dumps({"caption": CAPTIONS[i % 5]}).encode()
        files += [(f"d/{i:04d}.png", png(i)), (f"d/{i:04d}.{kind}", text)]
    return tar(path, files)


@pytest.mark.parametrize("kind", ["txt", "json"])
def test_webdataset_archives(tmp_path: Path, kind: str) -> None:
    dataset = captions(shard(tmp_path / "a.tar", range(5), kind))
    assert dataset.ids == [f"d/{i:04d}" for i in range(5)] and list(dataset.texts) == CAPTIONS
    for i in range(5):
        np.testing.assert_array_equal(dataset[i], pixels(i))
    first = dataset.fingerprint
    (tmp_path / "a.tar").rename(tmp_path / "b.tar")
    assert captions(tmp_path / "b.tar").fingerprint == first
    shard(tmp_path / "c.tar", range(5, 8), kind)
    both = captions(tmp_path)
    assert both.ids == [*(f"b/d/{i:04d}" for i in range(5)), *(f"c/d/{i:04d}" for i in range(5, 8))]
    np.testing.assert_array_equal(both[6], pixels(6))
    data = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data.replace(png(2), png(2)[:40] + bytes(len(png(2)) - 40)))
    with refusal("unreadable", "d/0002.png of b.tar"):
        captions(tmp_path / "b.tar")[2]
    skipped = captions(tmp_path / "b.tar", "?on_error=skip")
    assert skipped.left_out.keys() == {"d/0002"}
    assert isinstance(skipped.texts, LazySamples) and list(skipped.texts) == [*CAPTIONS[:2], *CAPTIONS[3:]]
    np.testing.assert_array_equal(skipped[2], pixels(3))


def test_samples_of_archives_keep_their_split(tmp_path: Path) -> None:
    def splits(path: Path, options: str = "") -> dict[str, str]:
        data = captions(path, f"?features=0{options}")
        return dict(zip(data.ids, data.split, strict=True))

    (tmp_path / "s").mkdir()
    for name, first in (("a", 0), ("b", 100)):
        shard(tmp_path / f"s/{name}.tar", range(first, first + 100))
    two = splits(tmp_path / "s")
    # Another archive beside them, one that is cut, and an image that cannot be decoded.
    shard(tmp_path / "s/c.tar", range(200, 300))
    three = splits(tmp_path / "s")
    assert {name: three[name] for name in two} == two
    whole = (tmp_path / "s/a.tar").read_bytes().replace(png(7), png(7)[:40] + bytes(len(png(7)) - 40))
    (tmp_path / "s/a.tar").write_bytes(whole[: len(whole) // 2])
    fewer = splits(tmp_path / "s", "&on_error=skip")
    assert 200 < len(fewer) < 299 and fewer == {name: three[name] for name in fewer}
    # Shares within four standard deviations of theirs, and another draw by another seed.
    for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert abs(list(three.values()).count(split) / 300 - share) < 4 * (share * (1 - share) / 300) ** 0.5
    shard(tmp_path / "s/a.tar", range(100))
    other = splits(tmp_path / "s", "&seed=1")
    assert 0.2 < sum(other[name] != three[name] for name in three) / 300 < 0.9
    # So few that one would be empty.
    assert sorted(splits(shard(tmp_path / "few.tar", range(3))).values()) == ["test", "train", "val"]


def test_an_archive_written_by_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i in range(4):
            writer.write({"__key__": f"s{i}", "png": png(i), "txt": CAPTIONS[i], "json": {"more": i}})
    dataset = captions(tmp_path / "w.tar")
    assert list(dataset.texts) == CAPTIONS[:4]
    np.testing.assert_array_equal(dataset[3], pixels(3))


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "d/../../a.png", "C:/a.png", "..\\a.png", ".", "./"])
def test_archives_that_climb_out_are_refused(tmp_path: Path, name: str) -> None:
    with refusal("strange-file"):
        captions(tar(tmp_path / "a.tar", [(name, png(0)), ("a.txt", b"x")]))
    (tmp_path / "c.csv").write_text(f"image,caption\n{name},x\n")
    with refusal("strange-file"):
        captions(tmp_path / "c.csv")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/hostname"
        archive.addfile(info)
    with refusal("strange-file", "a.png"):
        captions(tmp_path / "a.tar")


def test_other_bad_archives_are_refused(tmp_path: Path) -> None:
    with refusal("bad-data"):
        captions(tar(tmp_path / "a.tar", [("a.png", png(0))]))
    with refusal("bad-data", "image"):
        captions(tar(tmp_path / "a.tar", [("a.txt", b"x")]))
    with refusal("unreadable"):
        captions(tar(tmp_path / "a.tar", [("a.txt", b"\xff\xfe"), ("a.png", png(0))]))
    with refusal("bad-data", "a.png"):
        captions(tar(tmp_path / "a.tar", [("a.png", png(0)), ("a.png", png(1))]))
    with tarfile.open(tmp_path / "z.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    with refusal("unreadable", "uncompressed tar"):
        captions(tmp_path / "z.tar")
    (tmp_path / "cut.tar").write_bytes(shard(tmp_path / "a.tar", range(3)).read_bytes()[:1000])
    with refusal("unreadable", "cut.tar"):
        captions(tmp_path / "cut.tar")
    (tmp_path / "empty").mkdir()
    with refusal("missing-file"):
        captions(tmp_path / "empty")
    with refusal("missing-file", "a.tar"):
        captions(tmp_path / "empty/{00000..00002}a.tar")


def test_an_archive_that_ends_early_follows_on_error(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    shard(tmp_path / "s/a.tar", range(5))
    whole = shard(tmp_path / "s/b.tar", range(5, 10)).read_bytes()
    ends = [member.offset + member.size for member in members(tmp_path / "s/b.tar")]
    # Within a picture, a header and a caption; and behind a caption's last block, where no header is left to be missed.
    for cut, kept in ((ends[4] - 3, 7), (ends[4] + 600, 7), (ends[5] - 1, 7), (-(-ends[5] // 512) * 512, 8)):
        (tmp_path / "s/b.tar").write_bytes(whole[:cut])
        with refusal("unreadable", "on_error=skip"):
            captions(tmp_path / "s")
        data = captions(tmp_path / "s", "?on_error=skip")
        assert len(data) == kept and "b.tar" in data.left_out and "b.tar is cut" in data.about
        np.testing.assert_array_equal(data[kept - 1], pixels(kept - 1))
    damaged = bytearray(whole)
    header = ends[3] // 512 * 512 + 512
    damaged[header : header + 512] = b"x" * 512
    (tmp_path / "s/b.tar").write_bytes(damaged)
    with refusal("unreadable", "b.tar", "d/0006.txt"):
        captions(tmp_path / "s")
    (tmp_path / "s/b.tar").write_bytes(whole[:100])
    assert len(captions(tmp_path / "s", "?on_error=skip")) == 5
    with refusal("unreadable", "b.tar"):
        captions(tmp_path / "s/b.tar", "?on_error=skip")


def test_captions_of_archives_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    plain = captions(shard(tmp_path / "a.tar", range(5)))
    data = captions(tmp_path / "a.tar", "?features=0")
    assert isinstance(data.texts, LazySamples) and list(data.texts) == CAPTIONS
    assert [question.answer for (question,) in data.questions] == CAPTIONS
    assert data.targets == {} and plain.targets.keys() == {"caption"} and data.fingerprint != plain.fingerprint
    (tmp_path / "a.tar").write_bytes(
        (tmp_path / "a.tar").read_bytes().replace(CAPTIONS[1].encode(), b"z" * len(CAPTIONS[1]))
    )
    assert data.texts[1] == "z" * len(CAPTIONS[1])
    assert captions(shard(tmp_path / "b.tar", range(5)), "?features=0").shards.tolist() == [0] * 5
    with refusal("bad-value", "1"):
        captions(tmp_path / "a.tar", "?features=1")


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    folder(tmp_path)
    for text, message in (
        ("image,caption\nimg/0.png,\n", "has no caption for img/0.png"),
        ("image,caption\nimg/9.png,x\n", r"names 1 image\(s\) that are not below .*, img/9.png first"),
        ("image,text\nimg/0.png,x\n", r"has no column 'caption' but image, text: name yours with \?caption="),
        ("file,caption\nimg/0.png,x\n", r"has no column 'image' but file, caption: name yours with \?image="),
    ):
        (tmp_path / "c.csv").write_text(text)
        with pytest.raises(DiagnosticsError, match=message):
            captions(tmp_path / "c.csv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.csv").write_text("image,caption\n" + "\n".join(f"{i}.png,x" for i in range(3)))
    assert len(captions(tmp_path / "elsewhere/c.csv", f"?images={tmp_path / 'img'}")) == 3
