"""What is needed to find, install and cite the package: one version everywhere, and a clash of names is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diagnostics as dx

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="tests run without the checkout")


def command(folder: Path) -> subprocess.CompletedProcess[str]:
    """`diagnostics --version` where this folder is imported from first."""
    paths = os.pathsep.join(map(str, (folder, ROOT / "plugins", ROOT)))
    code = "import sys, encoder_diagnostics; sys.argv[1:] = ['--version']; encoder_diagnostics.main()"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )


@pytest.mark.parametrize("broken", [False, True])
def test_another_package_of_the_name_is_named(tmp_path: Path, broken: bool) -> None:
    (tmp_path / "diagnostics").mkdir()
    (tmp_path / "diagnostics" / "__init__.py").write_text("import no_such\n" if broken else "__version__ = '0.2.4'\n")
    info = tmp_path / "diagnostics-0.2.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diagnostics\nVersion: 0.2.4\n")
    (info / "top_level.txt").write_text("diagnostics\n")
    done = command(tmp_path)
    assert done.returncode == 2
    assert "pip uninstall diagnostics," in done.stderr
    assert not done.stdout


def test_the_command_runs_where_the_package_is_alone(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert (done.returncode, dx.__version__ in done.stdout) == (0, True)


def test_the_version_and_licence_are_those_of_the_citation_and_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M))
    assert cited["version"] == dx.__version__
    assert cited["license"] == project["license"]
    assert cited["abstract"] == project["description"]
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert released[0] == dx.__version__


def test_a_fragment_of_the_changelog_says_its_kind() -> None:
    names = {path.name for path in (ROOT / "changelog.d").iterdir()} - {"README.md"}
    assert [name for name in names if not re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed)\.md", name)] == []


def test_the_changelog_is_one_screen() -> None:
    assert len((ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()) <= 40
