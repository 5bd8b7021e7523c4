"""A new plugin project passes its own tests, and its name is refused where it cannot be one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diagnostics.checks.conformance import check_encoder
from diagnostics.cli.commands import write_plugin
from tests.support.commands import diagnose, refused


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, _ = write_plugin("My.own-plugin", tmp_path_factory.mktemp("plugins"))
    return folder


@pytest.mark.smoke
def test_its_files_are_there_and_nothing_else(project: Path) -> None:
    assert sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()) == [
        ".gitignore",
        "README.md",
        "my_own_plugin/__init__.py",
        "my_own_plugin/data.py",
        "my_own_plugin/encoder.py",
        "my_own_plugin/measure.py",
        "my_own_plugin/plugin.py",
        "pyproject.toml",
        "tests/test_encoder.py",
        "tests/test_plugin.py",
    ]
    assert [path.name for path in project.parent.iterdir()] == ["My.own-plugin"]


def test_no_placeholder_is_left(project: Path) -> None:
    for path in project.rglob("*"):
        assert path.is_dir() or "$" not in path.read_text(encoding="utf-8"), path


@pytest.mark.smoke
def test_its_entry_point_is_its_module(project: Path) -> None:
    result = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    assert result["project"]["name"] == "My.own-plugin"
    assert result["project"]["entry-points"]["diagnostics"] == {"My.own-plugin": "my_own_plugin.plugin"}


def test_it_passes_its_own_tests(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error::pytest.PytestWarning", "-rs"],
        cwd=project,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 passed, 2 skipped" in done.stdout
    assert "it declares no mask of valid tokens" in done.stdout


def test_its_checks_fail_when_its_encoder_is_broken(tmp_path: Path) -> None:
    folder, _ = write_plugin("broken-one", tmp_path)
    encoder = folder / "broken_one" / "encoder.py"
    text = encoder.read_text(encoding="utf-8")
    turned = text.replace("+ self.position\n", "+ self.position\n        tokens = tokens.flip(1)\n")
    assert turned != text
    encoder.write_text(turned, encoding="utf-8")
    result = check_encoder(f"{encoder}:build")
    assert [(o.check, "t runs backwards" in o.message) for o in result.outcomes if o.verdict == "failed"] == [
        ("grid", True)
    ]


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    shown = diagnose("new-plugin", "my-new-one", "--out", tmp_path)
    assert shown.status == 0
    # `pytest` alone may be missing, or be that of another environment.
    assert f"Next: pip install -e {tmp_path}/my-new-one pytest && python -m pytest {tmp_path}/my-new-one\n" in shown.out
    result = json.loads(diagnose("new-plugin", "my-other-one", "--out", tmp_path, "--json").out)
    assert result["folder"] == str(tmp_path / "my-other-one")
    assert "my_other_one/plugin.py" in result["files"]


@pytest.mark.parametrize("name", ["", "-x", "../up", "a/b", "a b", "1st", "a-", "class", "plug:in", "ä", "a\n", "a$b"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    assert "cannot be the name of a plugin" in refused("new-plugin", "--out", tmp_path, "--", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "numpy", "Diagnostics", "diagnostics-data", "tests"])
def test_a_name_whose_module_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    module = name.lower().replace("-", "_")
    assert f"A module {module} is there already" in refused("new-plugin", name, "--out", tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-new-one").mkdir()
    (tmp_path / "my-new-one" / "kept").write_text("kept", encoding="utf-8")
    assert "is there already" in refused("new-plugin", "my-new-one", "--out", tmp_path)
    assert [path.name for path in (tmp_path / "my-new-one").iterdir()] == ["kept"]
    assert "There is no folder" in refused("new-plugin", "my-new-one", "--out", tmp_path / "nowhere")


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert "cannot be written (No space left on device)" in refused("new-plugin", "my-new-one", "--out", tmp_path)
    assert list(tmp_path.iterdir()) == []
