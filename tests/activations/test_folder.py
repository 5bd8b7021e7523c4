"""What lies below a run and is not the run's: never followed, never removed, never waited for; and `--fresh` swapped in at its end."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics import DiagnosticsError, Run
from diagnostics.activations.folder import Folder, StrangeFileError, lock, pages
from diagnostics.activations.run_files import files_of_run, remove_tokens
from diagnostics.activations.store import Store
from diagnostics.errors import StorageError
from diagnostics.report.writing import write_whole
from diagnostics.runs.pages.card import write_card
from diagnostics.runs.pages.explorer import explore
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_image_encoder

MEASURES = "linear_probe,rankme,attention_entropy"
STRANGE = "is a link, lies behind one, or is no file or folder of a run"


def measured(out: Path, measures: str = MEASURES, **options: Any) -> Run:
    settings: dict[str, Any] = {"report": False, "token_budget": "1GB", "controls": False, **options}
    return dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=out, measures=measures, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = measured(tmp_path_factory.mktemp("whole") / "run", controls=True)
    run.report()
    return run.path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "here" / "run"))


@pytest.fixture
def other(whole: Path, tmp_path: Path) -> Path:
    """Another run, and a file of somebody's, which nothing may change."""
    shutil.copytree(whole, tmp_path / "other")
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    return tmp_path / "other"


def content(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder, and where links lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# Links


def test_fresh_does_not_empty_the_run_that_its_controls_lead_to(run: Path, other: Path) -> None:
    """872 files of another run were gone, with exit status 0."""
    replaced_by_a_link(run, other, "controls")
    before = content(other)
    with pytest.raises(StrangeFileError, match=STRANGE):
        measured(run, "rankme", fresh=True)
    assert content(other) == before


PLACES = [
    "zarr.json", "samples", "samples/id/c/0", "taps", "taps/norm", "taps/norm/tokens", "taps/norm/tokens/c.0.0.0",
    "taps/norm/pooled/c.0.0.0", "observed", "observed/attention", "results.json", "results", "results/*", "results/*/index.json", "results/*/numbers",
    "results/*/page.json", "controls",
    "controls/raw_input", "controls/raw_input/zarr.json", "controls/raw_input/taps", "report.html", "card.md", "card.svg",
]  # fmt: skip
READING: list[Callable[[Path], Any]] = [
    remove_tokens,
    lambda run: dx.open_run(run).report(),
    lambda run: write_card(dx.open_run(run), run / "card.md"),
    lambda run: explore([run], {}, run / "explore.html"),
]
RUNNING: list[dict[str, Any]] = [{}, {"fresh": True}, {"fresh": True, "token_budget": 0}]


def found(run: Path, place: str) -> Path:
    """The file or folder at a place, in which a star stands for the name of the results."""
    return next(run.glob(place), run / place)


def replaced_by_a_link(run: Path, other: Path, place: str) -> Path:
    link = found(run, place)
    place = str(link.relative_to(run))
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(other / place if (other / place).exists() else other / "thesis.tex")
    return link


@pytest.mark.parametrize("place", PLACES)
def test_no_command_writes_or_removes_behind_a_link(run: Path, other: Path, place: str) -> None:
    """Each either leaves the link alone, or is refused in a sentence."""
    link, before = replaced_by_a_link(run, other, place), content(other)
    for command in READING:
        with contextlib.suppress(DiagnosticsError):
            command(run)
        assert content(other) == before and link.is_symlink()


@pytest.mark.parametrize("place", ["taps/norm/tokens", "observed", "results", "controls", "controls/raw_input"])
def test_no_run_writes_or_removes_behind_a_link(run: Path, other: Path, place: str) -> None:
    link, before = replaced_by_a_link(run, other, place), content(other)
    for options in RUNNING:
        with contextlib.suppress(DiagnosticsError):
            measured(run, "rankme", controls=place.startswith("controls/"), **options)
        assert content(other) == before and link.is_symlink()


@pytest.mark.parametrize("name", [".run.partial", ".run.fresh", ".run.previous", ".run.lock"])
def test_nothing_behind_a_link_beside_a_run_is_written_or_removed(run: Path, other: Path, name: str) -> None:
    (run.parent / name).symlink_to(other if name != ".run.lock" else other / "thesis.tex")
    before = content(other)
    for options in RUNNING:
        with contextlib.suppress(DiagnosticsError):
            measured(run, "rankme", **options)
        assert content(other) == before


def test_temporary_names_cannot_be_guessed_and_those_of_before_are_not_written_through(run: Path, other: Path) -> None:
    before = content(other)
    for name in (
        ".report.html.partial",
        ".zarr.json.partial",
        ".results.partial",
        ".card.md.partial",
        ".card.svg.partial",
    ):
        (run / name).symlink_to(other / "thesis.tex")
    opened = measured(run, "rankme")
    opened.report()
    write_card(opened, run / "card.md")
    assert content(other) == before


def test_a_file_that_has_a_second_name_is_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_bytes(b"precious")
    os.link(tmp_path / "mine", tmp_path / "run" / "journal")
    with pytest.raises(StrangeFileError):
        Folder(tmp_path / "run").append("journal", 0, [b"x"])
    assert (tmp_path / "mine").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["../mine", "a/../../mine", "..", "a/.."])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "mine").write_text("precious")
    folder = Folder(tmp_path / "run")
    calls: list[Callable[[], object]] = [
        lambda: folder.get(name, 100),
        lambda: folder.put(name, b""),
        lambda: folder.put_new(name, b""),
        lambda: folder.delete([name]),
        lambda: folder.append(name, 0, [b""]),
    ]
    for call in calls:
        with pytest.raises((StrangeFileError, OSError)):
            call()
    assert (tmp_path / "mine").read_text() == "precious"


# Pipes, devices, and files without end


@pytest.mark.parametrize(
    "place", [p for p in PLACES if (p.endswith((".json", "/0", "/numbers")) or "/c." in p)] + ["report.html"]
)
def test_a_pipe_is_not_waited_for(run: Path, place: str) -> None:
    """`show` hung for ever."""
    file = found(run, place)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DiagnosticsError):
        read(run)


def read(run: Path) -> None:
    opened = dx.open_run(run)
    opened.to_json()
    opened.features("norm", tokens=True)
    opened.store.targets()
    opened.store.observation_arrays("attention")
    opened.report()
    measured(run, "rankme", controls=True)


def test_a_file_is_read_to_its_stated_size_alone(run: Path) -> None:
    for place in (
        "samples/id/c/0",
        "results/*/numbers",
        "results/*/index.json",
        "results.json",
        "observed/attention/zarr.json",
    ):
        path = found(run, place)
        kept = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(10**12)  # a hole: it takes no room on disk
        with refusal("damaged", kind=StorageError):
            read(run)
        path.write_bytes(kept)
    assert dx.open_run(run).to_json()


# What is not the run's


def test_what_a_run_does_not_list_stays_where_it_is(run: Path) -> None:
    mine = {
        "NOTES.md": "read me",
        "results/remarks.txt": "odd",
        "controls/mine/zarr.json": "{}",
        "taps/norm/picture.png": "x",
        "deep/er/file": "y",
        ".hidden.partial": "z",
    }
    for name, text in mine.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (run / "link").symlink_to(run.parent)
    write_card(dx.open_run(run), run / "card.md")
    mine |= {name: (run / name).read_text() for name in ("card.md", "card.svg", ".eval_results/card.yaml")}
    steps: list[dict[str, Any]] = [
        {},
        {"fresh": True},
        {"fresh": True, "token_budget": 0, "controls": True},
        {"fresh": True, "taps": ["blocks.0"]},
    ]
    for options in steps:
        measured(run, "rankme", **options)
        assert {name: (run / name).read_text() for name in mine} == mine
        assert (run / "link").is_symlink()
        known = files_of_run(Folder(run)) | mine.keys() | {"link"}
        assert {name for name in Folder(run).list() if name not in known} == set()
    assert [path.name for path in run.parent.iterdir()] == ["run"], "nothing stays beside it, the lock neither"


def test_another_run_that_lies_among_the_controls_stays(run: Path, other: Path) -> None:
    shutil.move(other, run / "controls" / "kept")
    before = content(run / "controls" / "kept")
    measured(run, "rankme", fresh=True)
    assert content(run / "controls" / "kept") == before
    tokens = files_of_run(Folder(run))
    assert not any(name.startswith("controls/kept") for name in tokens)
    remove_tokens(run)
    assert content(run / "controls" / "kept") == before


# The swap at the end


def findings(run: Path) -> Any:
    return dx.open_run(run).to_json()["profiles"]


def test_fresh_keeps_the_finished_run_until_the_new_one_is_finished(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its results, when all activations are there; the same command then goes on from there."""
    before = findings(run)
    encoder, options = tiny_image_encoder(), {"measures": "rankme", "fresh": True, "token_budget": 0, "report": False}

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("diagnostics.runs.job.merge_results", killed)
        with pytest.raises(KeyboardInterrupt):
            dx.run(encoder, tiny_dataset(40, "image"), out=run, controls=False, **options)
    assert findings(run) == before
    encoder.module.passes = 0
    after = dx.run(encoder, tiny_dataset(40, "image"), out=run, controls=False, **options)
    assert encoder.module.passes <= 3, "the example's alone"
    assert [profile.measure for profile in after.profiles()] == ["rankme"] and after.store.token_samples == 0
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_what_an_interrupted_fresh_made_is_removed_by_a_run_that_is_none(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("diagnostics.runs.job.merge_results", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            measured(run, "rankme", fresh=True, token_budget=0)
    assert (run.parent / ".run.fresh").is_dir()
    measured(run, "rankme")
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def swapped(run: Path, monkeypatch: pytest.MonkeyPatch, kill: int) -> bool:
    """`run --fresh`, dead from the k-th rename or removal of its swap on; whether it came to an end before."""
    count, swap = [-1], Folder.swap

    def begins(self: Folder, made: str, place: str, known: Any) -> None:
        if place == "run":
            count[0] = 0
        swap(self, made, place, known)

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            if count[0] >= 0:
                count[0] += 1
                if count[0] > kill:
                    raise KeyboardInterrupt  # again and again: nothing is tidied up
            real(*args, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "swap", begins)
        for name in ("rename", "unlink", "rmdir"):
            patched.setattr(os, name, dying(getattr(os, name)))
        try:
            measured(run, "rankme", fresh=True, token_budget=0)
        except KeyboardInterrupt:
            return False
    return True


@pytest.mark.parametrize("kill", [0, 1, 2, 40, 10**6])
def test_killed_in_its_swap_one_of_the_two_is_there_whole(
    run: Path, monkeypatch: pytest.MonkeyPatch, kill: int, tmp_path: Path
) -> None:
    (run / "NOTES.md").write_text("read me")
    alone = findings(measured(tmp_path / "alone", "rankme", token_budget=0).path)
    before = findings(run)
    assert swapped(run, monkeypatch, kill) is (kill == 10**6)
    assert findings(run) == (before if kill < 2 else alone)
    if kill < 2:
        measured(run, "rankme", fresh=True, token_budget=0)
    else:
        measured(run, "rankme", token_budget=0)
    assert findings(run) == alone
    assert (run / "NOTES.md").read_text() == "read me"
    assert {*Folder(run).list()} - {"NOTES.md"} <= files_of_run(Folder(run))
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_temporary_files_of_a_dead_process_are_removed_and_others_are_not(run: Path) -> None:
    dead = [
        run / f".zarr.json.{'0a' * 8}.partial",
        run / f".results.{'1b' * 8}.partial",
        run.parent / f".run.{'2c' * 8}.partial",
    ]
    for path in dead[1:]:
        (path / "inner").mkdir(parents=True)
    dead[0].touch()
    kept = [run.parent / f".other.{'2c' * 8}.partial", run / ".mine.partial"]
    for path in kept:
        path.touch()
    measured(run, "rankme")
    assert not any(path.exists() for path in dead) and all(path.exists() for path in kept)


def test_clean_takes_away_what_a_killed_command_left_in_the_run_and_its_controls(run: Path) -> None:
    control = next(path for path in sorted((run / "controls").iterdir()) if path.is_dir())
    dead = [
        run / f".report.html.{'0a' * 8}.partial",
        run / f".zarr.json.{'1b' * 8}.partial",
        control / f".zarr.json.{'2c' * 8}.partial",
    ]
    kept = run / ".mine.partial"
    for path in (*dead, kept):
        path.touch()
    remove_tokens(run)
    assert not any(path.exists() for path in dead) and kept.exists()


def test_a_lock_leaves_nothing_and_never_holds_what_was_removed(tmp_path: Path) -> None:
    import filelock

    with lock(tmp_path / "run"):
        assert (tmp_path / ".run.lock").exists()
        with refusal("in-use", kind=StorageError), lock(tmp_path / "run"):
            pass
    assert list(tmp_path.iterdir()) == []
    acquire, stolen = filelock.FileLock.acquire, []

    def slow(self: Any, *args: Any, **options: Any) -> Any:
        got = acquire(self, *args, **options)
        if not stolen:  # as if its holder had removed the file since it was opened
            stolen.append((tmp_path / ".run.lock").unlink())
        return got

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filelock.FileLock, "acquire", slow)
        with lock(tmp_path / "run"), refusal("in-use", kind=StorageError), lock(tmp_path / "run"):
            pass


# As of a bucket


def test_a_folder_offers_what_a_bucket_does(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.put("a/b/one", b"1234")
    folder.put("a/b/one", b"12345")
    folder.put_new("a/two", b"")
    with pytest.raises(FileExistsError):
        folder.put_new("a/two", b"")
    assert (folder.get("a/b/one", 5), sorted(folder.list("a"))) == (b"12345", ["a/b/one", "a/two"])
    with pytest.raises(OSError, match="too large"):
        folder.get("a/b/one", 4)
    found = folder.head("a/b/one")
    assert (
        found is not None and found.st_size == 5 and folder.head("a/none") is None and folder.head("no/where") is None
    )
    assert bytes(folder.get_range("a/b/one", 1, 3, 5, pages(100))) == b"23"
    data = pages(10_000)
    data[:] = np.arange(len(data)) % 251
    folder.put("a/direct", data, 9_999)
    np.testing.assert_array_equal(folder.get_range("a/direct", 5_000, 9_999, 9_999, pages(10_000)), data[5_000:9_999])
    with pytest.raises(ValueError, match="length"):
        folder.get_range("a/direct", 0, 10, 10_000, pages(10_000))
    folder.delete(["a/b/one", "a/none"])
    folder.delete_prefix("a")
    assert list(tmp_path.iterdir()) == []


def test_a_store_lists_each_of_its_files(run: Path) -> None:
    names = Store(run).names
    on_disk = {name for name in Folder(run).list() if not name.startswith(("results", "controls/", "report"))}
    assert on_disk <= names
    assert set(Folder(run).list()) <= files_of_run(Folder(run))


def test_a_page_beside_runs_takes_away_what_a_dead_process_left_of_it(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".{name}.{'0' * 15}{i}.partial" for i, name in enumerate(("a.md", "a.md", "b.md")))
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, 0))
    write_whole(tmp_path / "a.md", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.md", young.name, other.name}
