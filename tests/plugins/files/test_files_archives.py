"""Indexes of archives: written once, known again, killed on the way, and what they say of pairs that are not clean."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from diagnostics_files import archives
from diagnostics_files.archives import Index, archives_at, index_of, index_path
from diagnostics_files.plugin import index
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from diagnostics import DiagnosticsError, build
from diagnostics.cli.app import guard
from tests.support.refusals import refusal


def png(number: int, size: tuple[int, int] = (4, 4)) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((*size, 3), number, np.uint8)).save(data, "PNG")
    return data.getvalue()


def tar(path: Path, files: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pairs(numbers: range) -> list[tuple[str, bytes]]:
    return [part for i in numbers for part in ((f"{i:03d}.png", png(i)), (f"{i:03d}.txt", f"number {i}".encode()))]


UNCLEAN = [
    ("lonely.png", png(1)),
    ("blank.png", png(1)),
    ("blank.txt", b" \n"),
    ("empty.png", b""),
    ("empty.txt", b"no bytes"),
    ("silent.png", png(1)),
    ("silent.txt", b""),
    ("two.png", png(1)),
    ("two.txt", b"one caption"),
    ("two.txt", b"another caption"),
    ("latin.png", png(1)),
    ("latin.txt", "naïve".encode("latin-1")),
]
BROKEN = {"lonely", "blank", "empty", "silent", "two", "latin"}


def unclean(folder: Path) -> Path:
    """Two archives: twelve pairs, six that lack something, and an image that cannot be decoded."""
    folder.mkdir()
    tar(folder / "0.tar", [*pairs(range(6)), *UNCLEAN])
    tar(folder / "1.tar", [*pairs(range(6, 12)), ("torn.png", png(9)[:50]), ("torn.txt", b"torn")])
    return folder


def command(*words: object):
    app = Typer()
    app.command()(guard(index, "files"))
    return CliRunner().invoke(app, [str(word) for word in words])


def test_an_index_is_written_once_and_holds_what_a_scan_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "a.tar", [("d/b.png", png(0)), ("d/b.json", b'{"text": "x"}'), *pairs(range(3))])
    first = index_of(archive, "text")
    assert first.list_keys() == [first.key(i) for i in range(4)] == ["d/b", "000", "001", "002"]
    assert [first.member(1, part).read() for part in (0, 1)] == [png(0), b"number 0"]
    monkeypatch.setattr(archives, "_scan", lambda *_: pytest.fail("it was indexed again"))
    again = index_of(archive, "text")
    assert again.about == first.about and not again.places.flags.writeable
    assert all(np.array_equal(again.arrays[name], first.arrays[name]) for name in archives.ARRAYS)


def test_an_index_of_what_is_no_longer_there_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, other = tar(tmp_path / "a.tar", pairs(range(3))), tar(tmp_path / "b.tar", pairs(range(5)))
    index_of(other, "caption")
    own = index_path(other).read_bytes()
    index_of(archive, "caption")
    index_path(other).write_bytes(index_path(archive).read_bytes())
    for lines in (1, 0):
        assert len(index_of(other, "caption")) == 5 and capsys.readouterr().err.count("b.tar.index") == lines
    # Nothing is lost: all that an index says comes from its archive.
    assert index_path(other).read_bytes() == own
    tar(archive, [*pairs(range(2)), ("x.png", png(1)), ("x.json", b'{"text": "x"}')])
    assert len(index_of(archive, "caption")) == 2 and len(index_of(archive, "text")) == 3


def test_an_index_with_another_byte_is_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", pairs(range(3)))
    whole = index_path(index_of(archive, "caption").archive).read_bytes()
    for damage in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole.replace(b'"cut', b'"cu_')):
        index_path(archive).write_bytes(damage)
        with refusal("damaged", "a.tar.index"):
            index_of(archive, "caption")


def test_an_index_from_a_stranger_names_only_kinds_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(tmp_path / "a.tar", pairs(range(2)))
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_map_index", lambda archive, path: None)
        patch.setattr(archives, "PICTURES", ("another",) * 200 + archives.PICTURES)
        index_of(archive, "caption")
    with refusal("damaged", "a.tar.index"):
        index_of(archive, "caption")


def test_an_index_that_cannot_be_written_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(archives, "save_file", refuse)
    assert len(index_of(tar(tmp_path / "a.tar", pairs(range(3))), "caption")) == 3
    assert os.listdir(tmp_path) == ["a.tar"]


def test_indexing_that_was_killed_goes_on_after_the_last_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unclean(tmp_path / "data")
    index_of(folder / "0.tar", "caption")
    before = (folder / "0.tar.index").stat()
    scan, seen = archives._scan, list[str]()

    def note(archive: Path, caption: str, decode: bool) -> Index:
        seen.append(archive.name)
        return scan(archive, caption, decode)

    monkeypatch.setattr(archives, "_scan", note)
    assert command(folder).exit_code == 0
    assert seen == ["1.tar"] and (folder / "0.tar.index").stat() == before


@pytest.mark.parametrize("decoded", [False, True])
def test_pairs_that_are_not_clean_are_counted_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decoded: bool
) -> None:
    folder = unclean(tmp_path / "data")
    with refusal("bad-data", "lonely"):
        build("dataset", f"captions:{folder}?features=0")
    done = command(folder, "--json", *(["--decode"] if decoded else []))
    found = json.loads(done.stdout)
    assert (done.exit_code, found["archives"], found["samples"]) == (0, 2, 13)
    assert len(found["broken"]) == len(BROKEN) + decoded
    assert found["broken"].keys() >= {f"0.tar: Sample {key} of {folder}/0.tar" for key in BROKEN}
    skipped = build("dataset", f"captions:{folder}?features=0&on_error=skip")
    assert skipped.left_out.keys() == {*(f"0/{key}" for key in BROKEN), "1/torn"}
    capsys.readouterr()
    trained_on = build("dataset", f"captions:{folder}?features=0&on_error=replace")
    told = capsys.readouterr().err
    for counted in ("1 of 19 left out as damaged", "5 of 19 left out"):
        assert counted in trained_on.about and counted in told


def test_a_training_reads_the_same_samples_and_splits_with_nothing_held(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        tar(folder / f"{number}.tar", pairs(range(number * 20, number * 20 + 20)))
    plain, lean = (build("dataset", f"captions:{folder}?features=0&on_error={how}") for how in ("stop", "replace"))
    assert list(lean.ids) == plain.ids == list(lean.groups)
    assert lean.split.tolist() == plain.split.tolist() and list(lean.texts) == list(plain.texts)
    assert lean.shards.tolist() == plain.shards.tolist()
    assert all(np.array_equal(lean[i], plain[i]) for i in range(60))
    assert vars(plain).keys() <= vars(lean).keys()
    outline = lean.outline
    assert command(folder, "--decode").exit_code == 0
    assert build("dataset", f"captions:{folder}?features=0&on_error=replace").outline == outline
    assert build("dataset", f"captions:{folder}?features=0&on_error=replace&seed=1").outline != outline


def test_patterns_name_archives(tmp_path: Path) -> None:
    for name in ("a08b0", "a08b1", "a09b0", "a09b1", "a10b0", "a10b1"):
        tar(tmp_path / f"{name}.tar", pairs(range(2)))
    found = archives_at(f"{tmp_path}/a{{08..10}}b{{0..1}}.tar")
    assert [path.stem for path in found] == ["a08b0", "a08b1", "a09b0", "a09b1", "a10b0", "a10b1"]
    assert build("dataset", f"captions:{tmp_path}/a{{09..10}}b0.tar?features=0").ids == [
        f"{name}/00{i}" for name in ("a09b0", "a10b0") for i in range(2)
    ]
    for pattern, said in (("a{08..11}b0", "1 of 4"), ("a{10..08}b0", "range"), ("c", "1 of 1")):
        with refusal("missing-file", said):
            archives_at(f"{tmp_path}/{pattern}.tar")
    (tmp_path / "1").mkdir()
    for folder in (tmp_path, tmp_path / "1"):
        tar(folder / "c.tar", pairs(range(2)))
    (tmp_path / "0").symlink_to(tmp_path)
    with refusal("duplicate", "c.tar"):
        archives_at(f"{tmp_path}/{{0..1}}/c.tar")


@pytest.mark.parametrize("content", [b"", bytes(20 * tarfile.BLOCKSIZE), b"no tar" * 2000])
def test_an_archive_of_nothing_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    for how in ("stop", "skip", "replace"):
        with pytest.raises(DiagnosticsError):
            build("dataset", f"captions:{tmp_path / 'a.tar'}?on_error={how}")
    assert not capsys.readouterr().err
    refused = command(tmp_path / "a.tar")
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1


def test_archives_that_are_cut_or_climb(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", pairs(range(4))).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:5000])
    shown = command(tmp_path / "a.tar", "--json")
    assert shown.exit_code == 0 and json.loads(shown.stdout)["cut"].keys() == {"a.tar"}
    tar(tmp_path / "b.tar", [("../a.png", png(0)), ("../a.txt", b"x")])
    refused = command(tmp_path / "b.tar")
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1 and not (tmp_path / "b.tar.index").exists()
