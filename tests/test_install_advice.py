"""What people are told to install.

Never this package by its free name, which anybody may register, nor what has known holes.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
KINDS = {".cfg", ".ipynb", ".j2", ".js", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
NAME = "encoder[-_]" + "diagnostics"  # in two parts, so that this line is none of those looked for
ADVICE = re.compile(rf"install[^\n]*['\" ]{NAME}(?![-.\w/])|{NAME}\[")


def test_extras_come_from_the_checkout_everywhere() -> None:
    told = "pip install " + "'encoder-" + "diagnostics[images]'"
    assert ADVICE.search(told) and not ADVICE.search("pip install -e '.[images]'")
    hidden = {".git", "__pycache__", "site", "node_modules"}
    found: list[str] = []
    seen = 0
    for path in ROOT.rglob("*"):
        inner = path.relative_to(ROOT).parts
        if hidden & {*inner} or any(part.startswith(".") and part != ".ci" for part in inner):
            continue
        # An extra of its own is named there by the whole name: that is how extras refer to one another.
        if path.suffix in KINDS and path.is_file() and inner != ("pyproject.toml",):
            seen += 1
            found += [
                f"{path.relative_to(ROOT)}: {each[0]}" for each in ADVICE.finditer(path.read_text(errors="replace"))
            ]
    assert seen > 500 and not found, found


@pytest.mark.parametrize(
    ("name", "holes"),
    [
        ("torch", ["2.5.1", "2.9.1"]),  # CVE-2025-32434, CVE-2026-24747: `weights_only` could be got around
        ("filelock", ["3.20.0"]),  # CVE-2025-68146: a link in place of the lock was followed
    ],
)
def test_versions_with_known_holes_are_not_allowed(name: str, holes: list[str]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (allowed,) = (each.specifier for each in map(Requirement, declared) if each.name == name)
    assert not [version for version in holes if version in allowed]
