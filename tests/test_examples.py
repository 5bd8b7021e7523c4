"""The docstring of every public name has an example, and it prints what it says.

Public are the names that modules export and those that the reference shows. A method is called in an example of its own or
in that of its class. Examples run in a folder of their own, which is empty but for the finished runs that they name, as
`"runs/forecast"`.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import io
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

import diagnostics as dx
from tests.support.functions import exported

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
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "forecast": ("objectives:lorenz-forecast", {"measures": "linear_probe,cka", "controls": False}),
    "jepa": ("objectives:lorenz-jepa", {"measures": "linear_probe,cka", "controls": False}),
    "with-controls": ("objectives:lorenz-forecast", {"measures": "linear_probe", "taps": "blocks.1"}),
}
"""Finished runs of `lorenz?n=200` that examples open: encoder and options. Both encoders come trained with their plugin."""
NOT_CALLED = {
    # An encoder may have its own; a run asks for them.
    *(f"diagnostics.Encoder.{name}" for name in ("covers", "on", "shortened", "to", "valid")),
    # They need a trainer: docs/how-to/while-training.md shows them.
    "diagnostics.LayerProfiles.for_lightning",
    "diagnostics.LayerProfiles.for_transformers",
    # `Run.profile` makes one.
    "diagnostics.runs.results.profile.Profile.of",
    # pytest calls them.
    "diagnostics.checks.encoder_tests.EncoderTests.subject",
    "diagnostics.checks.encoder_tests.EncoderTests.teardown_class",
}
"""Methods without an example."""
WIDTH = 82
"""Characters that a block of code of the reference shows without being scrolled, on a window of 1300 pixels."""
FOR_PLUGINS = ("diagnostics.Measure", "diagnostics.activations.", "diagnostics.encoders.", "diagnostics.measures.")
"""Where the example of a class is enough: plugins and measures are made of these, and call few of their methods."""


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
    own = [each for each in reversed(cls.__mro__) if each is cls or each.__name__ == "RunData"]
    for name, value in {name: value for each in own for name, value in vars(each).items()}.items():
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
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run in `RUNS`, made when an example asks for it first."""
    folder = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        encoder, options = RUNS[name]
        return dx.run(encoder, "lorenz?n=200", out=folder / name, **options).path

    return functools.cache(make)


class Checker(doctest.OutputChecker):
    """Takes the spaces within an interval, at which no line is to break, for what they look like."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got.replace("\xa0", " "), optionflags)


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_prints_what_it_says(
    path: str, finished_run: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test, printed = EXAMPLES[path], io.StringIO()
    code = [f">>> {line}" for one in test.examples for line in one.source.splitlines()]
    assert max(map(len, [*code, *(line for one in test.examples for line in one.want.splitlines())])) <= WIDTH
    (tmp_path / "runs").mkdir()
    for name in set(re.findall(r'"runs/([\w-]+)"', test.docstring or "")):
        (tmp_path / "runs" / name).symlink_to(finished_run(name))
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with torch.random.fork_rng(devices=[]):
        outcome = runner.run(test, out=printed.write)
    assert outcome.attempted
    assert not outcome.failed, printed.getvalue()


def called_in(path: str) -> str:
    """The code of the examples of a class and its methods."""
    return "".join(one.source for name, test in EXAMPLES.items() if name.startswith(path) for one in test.examples)


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_has_an_example(path: str) -> None:
    assert path in EXAMPLES
    if inspect.isclass(PUBLIC[path]) and not path.startswith(FOR_PLUGINS):
        methods = {
            name for name, value in attributes(PUBLIC[path]) if not isinstance(value, property | cached_property)
        }
        lacking = {name for name in methods if f".{name}(" not in called_in(path) and f"{path}.{name}" not in EXAMPLES}
        assert {f"{path}.{name}" for name in lacking} <= NOT_CALLED
