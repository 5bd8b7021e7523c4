"""The shape of the house: no circle of files, few entries at the top, no long module.

Which room may import which is a contract of import-linter in `pyproject.toml`; it sees rooms, these tests see files.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "diagnostics").is_dir(), reason="tests run without the sources beside them")
PACKAGES = [ROOT / "diagnostics", *sorted((ROOT / "plugins").glob("diagnostics_*"))]
LONGEST = 600


def modules(package: Path) -> dict[str, Path]:
    """Dotted name -> file, of a package and all that lies in it."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
    }


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules among `known` that a file imports, inside functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names |= submodules or {node.module}
    return names & known


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other by imports."""
    below = {name: set(direct) for name, direct in graph.items()}
    for middle in below:
        for name in below:
            if middle in below[name]:
                below[name] |= below[middle]
    groups = {
        frozenset(other for other in below[name] if name in below[other]) for name in below if name in below[name]
    }
    return sorted(map(set, groups), key=min)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_no_files_import_each_other(package: Path) -> None:
    files = modules(package)
    graph = {name: imports(path, set(files)) - {name} for name, path in files.items()}
    assert circles(graph) == []


def test_a_circle_is_found_by_imports_for_types_too(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "a.py").write_text("def later():\n    from pack import b\n")
    (package / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.a import later\n")
    (package / "c.py").write_text("import pack.d\n")
    (package / "d.py").write_text("from pack.c import x\n")
    files = modules(package)
    graph = {name: imports(path, set(files)) for name, path in files.items()}
    assert graph["pack.a"] == {"pack.b"}
    assert circles(graph) == [{"pack.a", "pack.b"}, {"pack.c", "pack.d"}]


def test_the_linter_looks_at_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["importlinter"]
    plugins = next(
        contract for contract in settings["contracts"] if "containers" not in contract and "layers" in contract
    )
    on_levels = {name for layer in plugins["layers"] for name in layer.split(" | ")}
    assert set(settings["root_packages"]) == on_levels == {package.name for package in PACKAGES}


def test_the_ground_floor_has_at_most_twelve_files_and_eight_rooms() -> None:
    entries = [path for path in (ROOT / "diagnostics").iterdir() if path.name != "__pycache__"]
    assert len([path for path in entries if path.suffix == ".py"]) <= 12
    assert len([path for path in entries if path.is_dir()]) <= 8


@pytest.mark.parametrize(("room", "most"), [("runs", 15), ("encoders", 20)])
def test_a_room_has_few_files_beside_its_folders(room: str, most: int) -> None:
    assert len(list((ROOT / "diagnostics" / room).glob("*.py"))) <= most


def test_no_module_is_longer_than_600_lines() -> None:
    lengths = {
        str(path): len(path.read_text(encoding="utf-8").splitlines()) for p in PACKAGES for path in p.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
