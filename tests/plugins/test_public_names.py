"""Bundled plugins import what any plugin may: `diagnostics.__all__`, and what a table in docs/how-to/plugins.md lists."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import diagnostics

ROOT = Path(__file__).parent.parent.parent
PLUGINS = ROOT / "plugins"
SECTION = "## What a plugin may import"


def public_names() -> dict[str, set[str]]:
    """Module -> names that plugins may import from it. The rows of the table are `| `module` | `name`, ... | ... |`."""
    section = (ROOT / "docs" / "how-to" / "plugins.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(diagnostics[\w.]+)` \| ([^|]+) \|", section, re.M)
    return {"diagnostics": set(diagnostics.__all__)} | {
        module: set(re.findall(r"`(\w+)`", names)) for module, names in rows
    }


def imports(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of every import from `diagnostics`, also within functions; the name is empty in `import module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            pairs = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            pairs = [(alias.name, "") for alias in node.names]
        else:
            continue
        yield from ((module, name) for module, name in pairs if module.partition(".")[0] == "diagnostics")


def refused(source: str) -> list[str]:
    """The imports in a source that no plugin may rely on."""
    public = public_names()
    return [
        f"{module}.{name}".rstrip(".")
        for module, name in imports(source)
        if (module, name) != ("diagnostics", "") and name not in public.get(module, ())
    ]


@pytest.mark.parametrize("plugin", sorted(path.name for path in PLUGINS.glob("diagnostics_*")))
def test_a_bundled_plugin_imports_public_names_only(plugin: str) -> None:
    private = {
        str(path.relative_to(PLUGINS)): names
        for path in sorted((PLUGINS / plugin).rglob("*.py"))
        if (names := refused(path.read_text(encoding="utf-8")))
    }
    assert not private, f"neither in diagnostics.__all__ nor in the table of docs/how-to/plugins.md: {private}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from diagnostics import Tap, hookimpl\nimport diagnostics as dx", []),
        ("from diagnostics.errors import unknown", []),
        ("from diagnostics import _HOME", ["diagnostics._HOME"]),
        ("def f():\n    from diagnostics.registry import plugins", ["diagnostics.registry.plugins"]),
        ("import diagnostics.registry", ["diagnostics.registry"]),
    ],
)
def test_what_is_not_public_is_seen(source: str, names: list[str]) -> None:
    assert refused(source) == names


def test_every_listed_name_exists() -> None:
    for module, names in public_names().items():
        assert names
        for name in names:
            assert not name.startswith("_") or name == "__version__"
            assert hasattr(importlib.import_module(module), name), (
                f"{module} has no {name}: correct docs/how-to/plugins.md"
            )
