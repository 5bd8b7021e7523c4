"""Commands where the environment is odd: no home, no place for temporary files, other locales, streams that are closed or full."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import diagnostics as dx
from diagnostics.encoders.saved.files import unpack_files
from diagnostics.errors import StorageError
from tests.support.commands import diagnose
from tests.support.tiny import tiny_dataset, tiny_encoder

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "no home": {"HOME": ""},
    "home nowhere": {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    "home a file": {"HOME": "/etc/passwd", "XDG_CACHE_HOME": "/dev/null"},
    "ascii": ASCII,
    "strict ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "latin 1": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "no such locale": {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx_YY"},
    "no width": {"COLUMNS": "0", "LINES": "0"},
    "one column": {"COLUMNS": "1", "TERM": "dumb"},
    "width in words": {"COLUMNS": "wide", "TERM": "no-such-terminal"},
}
STREAMS = {"stdout closed": ">&-", "stderr closed": "2>&-", "stdin closed": "<&-", "stdout full": ">/dev/full"}
RUN = (
    "-m",
    "diagnostics",
    "run",
    "objectives:lorenz-forecast",
    "--data",
    "lorenz?n=60",
    "--measures",
    "rankme",
    "--no-controls",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("somewhere ä") / "run"
    return dx.run(tiny_encoder(), tiny_dataset(40), out=out, measures=["linear_probe"], controls=False).path


def typed(*command: str | Path, env: dict[str, str] | None = None, shell: str = "") -> subprocess.CompletedProcess[str]:
    """A command of a new process, with what its streams are for a shell."""
    words = ["sh", "-c", f'exec "$@" {shell}', "sh"] if shell else []
    given = {**os.environ, **(env or {})}
    return subprocess.run(
        [*words, sys.executable, "-m", "diagnostics", *map(str, command)],
        env={key: value for key, value in given.items() if value},
        capture_output=True,
        text=True,
        errors="replace",
    )


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_finished_runs_are_shown_in_any_environment(name: str, run: Path) -> None:
    shown = typed("show", run, env=ENVIRONMENTS[name])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "level" in "".join(shown.stdout.split())


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_take_nothing_end_a_command_without_a_traceback(name: str, run: Path) -> None:
    shown = typed("show", run, shell=STREAMS[name])
    assert "Traceback" not in shown.stderr
    assert "Exception ignored" not in shown.stderr
    assert shown.returncode in (0, 1, 2)


@pytest.mark.parametrize("name", ["no home", "home nowhere", "home a file"])
def test_an_encoder_is_measured_without_a_home(name: str, tmp_path: Path, warm_python: Path) -> None:
    env = {key: value for key, value in {**os.environ, **ENVIRONMENTS[name]}.items() if value}
    done = subprocess.run(
        [warm_python, *RUN, "--out", tmp_path / "run"], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_without_room_for_temporary_files_a_saved_encoder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/nowhere")
    with pytest.raises(StorageError) as refused:
        unpack_files('{"vocab.txt": "a"}', "mine")
    assert "/dev/null/nowhere" in str(refused.value)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_of_a_run_are_as_open_as_the_user_lets_new_files_be(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        dx.run(tiny_encoder(), tiny_dataset(40), out=tmp_path / "run", measures=["linear_probe"], controls=False)
        diagnose("new-plugin", "mine-of-a-mask", "--out", tmp_path / "run")
        (tmp_path / "plain").touch()
        (tmp_path / "folder").mkdir()
    finally:
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "plain", tmp_path / "folder")}
    for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == modes[path.is_dir()], path.relative_to(tmp_path)
