from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from diagnostics.measures import load_bundled, measures

ROOT = Path(__file__).parents[2]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("catalogue")


def test_catalogue_and_tables_are_what_the_classes_say(writer: Any) -> None:
    """Otherwise: python docs/catalogue.py."""
    for path, written in writer.WRITTEN.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        assert written(text) == text, path


def test_every_measure_of_the_families_is_bundled(writer: Any) -> None:
    assert writer.all_measures() == load_bundled()
    assert list(writer.all_measures()) == list(load_bundled())


def test_what_is_listed_is_what_measures_say_once_they_are_loaded() -> None:
    for name, measure in load_bundled().items():
        entry = measures()[name]
        assert (entry.about, entry.source) == (measure.answers, measure.source)
        assert (entry.needs, entry.kinds, entry.standard) == (measure.needs, measure.kinds, measure.standard)
