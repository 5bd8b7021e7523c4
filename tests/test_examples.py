"""The docstring of every public name has an example, and it prints what it says.

Public are the names that modules export and those that the reference shows. A method is called in an example of its own or
in that of its class. Examples run in a folder that is empty, but for two finished runs where they name one: `runs/forecast` and
`runs/jepa`.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

import diagnostics as dx

from functions import exported

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
MODULES = (
    "diagnostics",
    "diagnostics.measures.dynamics",
    "diagnostics.measures.geometry",
    "diagnostics.measures.locality",
    "diagnostics.measures.probes",
    "diagnostics.measures.similarity",
    "diagnostics.sklearn",
)
WITHOUT = {
    "diagnostics",
    "diagnostics.activations.contract",
    "diagnostics.checks.conformance",
    "diagnostics.encoders.attention_statistics",
    "diagnostics.encoders.discovery",
    "diagnostics.encoders.fused_attention",
    "diagnostics.encoders.head_watch",
    "diagnostics.encoders.hooks",
    "diagnostics.encoders.kernels",
    "diagnostics.encoders.placement",
    "diagnostics.measures.locality.heads",
    "diagnostics.measures.similarity.base",
    "diagnostics.progress",
    "diagnostics.runs.fitted_probe",
    "diagnostics.runs.handed_out",
    "diagnostics.runs.profile",
    "diagnostics.runs.recommendation",
    "diagnostics.runs.suites",
    "diagnostics.sklearn",
    "diagnostics.testing",
}
"""Modules of which a name may be without an example as yet."""
NOT_CALLED: set[str] = set()
"""Methods that a subclass implements and the package calls."""


def public_objects() -> dict[str, Any]:
    """Classes and functions by their path, each once. What is neither (`hookimpl`, `PENALTIES`) has no docstring of its own."""
    paths = [f"{module}.{name}" for module in MODULES for name in exported(importlib.import_module(module))]
    for page in sorted(REFERENCE.rglob("*.md")):
        paths += re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M)
    found: dict[int, tuple[str, Any]] = {}
    for path in paths:
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value) or inspect.isroutine(value):
            found.setdefault(id(value), (path, value))
    return dict(found.values())


def attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class itself documents."""
    for name, value in vars(cls).items():
        of_class = inspect.isroutine(value) or isinstance(
            value, property | cached_property | classmethod | staticmethod
        )
        if of_class and value.__doc__ and not name.startswith("_"):
            yield name, value


PUBLIC = public_objects()
DOCUMENTED = PUBLIC | {
    f"{path}.{name}": value for path, cls in PUBLIC.items() if inspect.isclass(cls) for name, value in attributes(cls)
}


def example(path: str) -> doctest.DocTest | None:
    """The example of a docstring; None where it has none."""
    (test,) = doctest.DocTestFinder(recurse=False, exclude_empty=False).find(DOCUMENTED[path], path, False, globs={})
    return test if test.examples else None


EXAMPLES = {path: test for path in DOCUMENTED if (test := example(path))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, of two trained encoders that come with it, as the example of `Run` makes the first one."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("forecast", "jepa"):
        dx.run(f"objectives:lorenz-{name}", "lorenz?n=200", out=folder / name, measures="linear_probe", controls=False)
    return folder


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_prints_what_it_says(
    path: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test, printed = EXAMPLES[path], io.StringIO()
    if '"runs/' in (test.docstring or ""):
        (tmp_path / "runs").mkdir()
        for run in request.getfixturevalue("runs").iterdir():
            (tmp_path / "runs" / run.name).symlink_to(run)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with torch.random.fork_rng(devices=[]):
        outcome = runner.run(test, out=printed.write)
    assert outcome.attempted
    assert not outcome.failed, printed.getvalue()


def called_in(path: str) -> str:
    """The code of an example, in which methods are looked for; "" where there is none."""
    return "".join(one.source for one in EXAMPLES[path].examples) if path in EXAMPLES else ""


@pytest.mark.parametrize("path", [path for path in PUBLIC if path.rpartition(".")[0] not in WITHOUT])
def test_a_public_name_has_an_example(path: str) -> None:
    assert path in EXAMPLES
    if inspect.isclass(PUBLIC[path]):
        methods = {
            name for name, value in attributes(PUBLIC[path]) if not isinstance(value, property | cached_property)
        }
        shown = {name for name in methods if f"{path}.{name}" in EXAMPLES or f".{name}(" in called_in(path)}
        assert methods == shown | {name for name in methods if f"{path}.{name}" in NOT_CALLED}
