"""Commands on finished runs: what they print and write, and what they refuse in one sentence."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import webbrowser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import diagnostics as dx
from diagnostics.activations.folder import lock
from tests.support.commands import diagnose, refused
from tests.support.tiny import tiny_dataset, tiny_image_encoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"measures": ["linear_probe", "rankme"], "controls": False, "report": False}
    out = tmp_path_factory.mktemp("whole") / "run"
    return dx.run(tiny_image_encoder(), tiny_dataset(40, "image"), out=out, **options).path


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "runs" / "mine")
    return tmp_path / "runs" / "mine"


def test_show_prints_the_brief_page_and_with_full_the_titles_and_provenance(whole: Path) -> None:
    status, brief, err = diagnose("show", whole)
    assert (status, err) == (0, "")
    assert brief.startswith("tiny-image on tiny-image, n = 24 train, 8 val, 8 test\n")
    assert f"  report: diagnostics open {whole}\n" in brief
    full = diagnose("show", whole, "--full").out
    assert "What the taps hold, and what the output hides" in full
    assert "What the taps hold, and what the output hides" not in brief
    assert "Numbers at each tap" in full
    assert "device cpu" in full
    assert "device cpu" not in brief


def test_show_writes_csv_json_and_tables(whole: Path, tmp_path: Path) -> None:
    wanted = dx.open_run(whole).to_dataframe()
    shown = pd.read_csv(io.StringIO(diagnose("show", whole, "--csv").out), keep_default_na=False)
    assert list(shown.columns) == list(wanted.columns)
    assert list(shown["tap"]) == list(wanted["tap"])
    assert json.loads(diagnose("show", whole, "--json").out) == dx.open_run(whole).to_json()
    assert refused("show", whole, "--csv", "--json")
    for name, form in (("csv", ["--csv"]), ("json", ["--json"]), ("table", [])):
        assert diagnose("show", whole, *form, "-o", tmp_path / name) == (0, "", "")
        written = (tmp_path / name).read_bytes().decode()
        assert written == diagnose("show", whole, *form).out
        sentence = refused("show", whole, *form, "-o", tmp_path / "absent" / name)
        assert sentence.startswith(f"There is no folder {tmp_path / 'absent'} for {name}:")
    assert not (tmp_path / "absent").exists()
    assert not list(tmp_path.glob(".*"))


def test_runs_has_a_row_for_each_run_and_names_what_is_none(run: Path) -> None:
    folder = run.parent
    shutil.copytree(run, folder / "deep" / "er")
    shutil.copytree(run, folder / "damaged")
    (folder / "damaged" / "samples" / "id" / "zarr.json").unlink()
    shutil.copytree(run, folder / "halved")
    (folder / "halved" / "results.json").unlink()
    (folder / "broken").mkdir()
    (folder / "broken" / "zarr.json").write_bytes(b'{"diagnostics_format": \xff')
    (folder / "thesis").mkdir()
    (folder / ".mine.partial").mkdir()
    (folder / "comparison.html").write_text("")
    result = json.loads(diagnose("runs", folder, "--json").out)
    rows = {Path(row["run"]).relative_to(folder).as_posix(): row for row in result["runs"]}
    assert sorted(rows) == ["broken", "damaged", "deep/er", "halved", "mine", "thesis"]
    assert {name for name, row in rows.items() if row["finished"]} == {"mine", "deep/er"}
    mine = rows["mine"]
    assert (mine["encoder"], mine["dataset"], mine["n"], mine["measures"]) == ("tiny-image", "tiny-image", 40, 2)
    assert mine["when"] == dx.open_run(run).calls[-1].created
    assert mine["bytes"] == sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert 0 < mine["token_bytes"] < mine["bytes"]
    assert "samples/id/zarr.json cannot be read" in rows["damaged"]["state"]
    assert "holds activations but no results yet" in rows["halved"]["state"]
    assert rows["thesis"]["state"] == "not a run"
    status, table, err = diagnose("runs", folder)
    assert (status, err) == (0, "")
    assert all(str(folder / name) in table.replace("\n  ", " ") for name in rows)


def test_runs_of_one_run_of_nothing_and_of_no_folder(run: Path, tmp_path: Path) -> None:
    assert [row["run"] for row in json.loads(diagnose("runs", run, "--json").out)["runs"]] == [str(run)]
    (tmp_path / "empty").mkdir()
    assert diagnose("runs", tmp_path / "empty").out == f"No runs below {tmp_path / 'empty'}.\n"
    assert "There is no folder" in refused("runs", tmp_path / "absent")


def test_open_writes_a_report_where_results_are_newer_and_shows_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    report = run / "report.html"
    assert diagnose("open", run) == (0, f"{report}\n", "")
    assert opened == []  # no display
    monkeypatch.setenv("DISPLAY", ":0")
    report.write_text("as it was")
    assert diagnose("open", run).out == f"{report}\n"
    assert (opened, report.read_text()) == ([report.as_uri()], "as it was")
    os.utime(report, (0, 0))
    assert diagnose("open", run).status == 0
    assert "tiny-image" in report.read_text(encoding="utf-8")


def test_on_a_disk_that_is_read_only_clean_advises_no_option_that_it_lacks(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for module, name in (("filelock.FileLock", "acquire"), ("os", "rename"), ("os", "unlink")):
        with monkeypatch.context() as disk:
            disk.setattr(f"{module}.{name}", read_only)
            sentence = refused("clean", run, "--tokens")
        assert sentence == f"{run} cannot be written (Read-only file system): make it writable."


def test_clean_says_what_it_freed_and_refuses_what_it_may_not_touch(run: Path) -> None:
    assert "give `diagnostics clean" in refused("clean", run)
    with lock(run.resolve()):
        assert "Another process is writing" in refused("clean", run, "--tokens")
    size = json.loads(diagnose("runs", run, "--json").out)["runs"][0]["token_bytes"]
    assert json.loads(diagnose("clean", run, "--tokens", "--json").out) == {"run": str(run), "freed_bytes": size}
    assert diagnose("clean", run, "--tokens").out == f"{run}: it holds no tokens, so nothing was removed.\n"
    assert json.loads(diagnose("runs", run, "--json").out)["runs"][0]["state"] == "finished, without tokens"
    assert diagnose("show", run).status == 0
    assert "is not a run" in refused("clean", run.parent, "--tokens")
