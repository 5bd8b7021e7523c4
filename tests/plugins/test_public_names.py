"""What plugins may import is what the docs list; that bundled plugins import nothing else is a contract in `pyproject.toml`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import diagnostics
from diagnostics import plugin

ROOT = Path(__file__).parent.parent.parent


def test_the_docs_list_every_name() -> None:
    page = (ROOT / "docs" / "how-to" / "plugins.md").read_text(encoding="utf-8")
    section = page.split("## What a plugin may import")[1].split("\n## ")[0]
    listed = {name for names in re.findall(r"^\| (`[^|]+) \|", section, re.M) for name in re.findall(r"`(\w+)`", names)}
    assert listed == set(dir(plugin)) - set(dir(diagnostics))


@pytest.mark.smoke
@pytest.mark.parametrize("module", [diagnostics, plugin], ids=lambda module: module.__name__)
def test_every_name_exists_and_no_other(module: object) -> None:
    assert all(hasattr(module, name) for name in dir(module))
    assert not hasattr(module, "numpy") and not hasattr(module, "_homes_of")


@pytest.mark.smoke
def test_a_name_that_is_light_loads_nothing_heavy() -> None:
    code = "import sys; from diagnostics.plugin import Entry, hookimpl; print({'torch', 'numpy', 'xarray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
