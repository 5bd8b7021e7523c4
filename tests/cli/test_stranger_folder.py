"""`python -m diagnostics` in a folder that a stranger filled: nothing of it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "plugins"
PLANTED = "open('taken', 'a').write(__name__ + '\\n')\nraise ImportError(__name__ + ' is planted')\n"


def run_module(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_nothing_in_the_current_folder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("import sys; print(*sys.modules)")
    # What Python itself imports before it runs any module cannot be kept from it by that module.
    pythons = {name.partition(".")[0] for name in run_module(tmp_path, "bare").stdout.split()}
    ours = {"diagnostics", *(path.name for path in PLUGINS.iterdir())}
    planted = {*sys.stdlib_module_names, *packages_distributions(), "stranger"} - ours - pythons
    assert {"json", "typing", "torch", "numpy"} <= planted
    for name in planted:
        (tmp_path / f"{name}.py").write_text(PLANTED)
    info = tmp_path / "stranger-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[diagnostics]\nstranger = stranger\n")
    listed = run_module(tmp_path, "diagnostics", "list", "encoders")
    assert not (tmp_path / "taken").exists(), (tmp_path / "taken").read_text()
    assert listed.returncode == 0 and "fracast" in listed.stdout, listed.stderr[-2000:]
    assert "stranger" not in listed.stdout + listed.stderr
