"""Measures that give what cannot be stored or read: each costs its own result, with a reason, and never another's."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import diagnostics as dx
from diagnostics.activations.contract import Activations
from diagnostics.activations.run_files import ENCODER, merge_results, read_index, read_results
from diagnostics.activations.store import Store
from diagnostics.measures.apply import Measured, measure_all
from diagnostics.measures.base import Measure
from tests.support.tiny import tiny_dataset, tiny_encoder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Of a run of one measure."""
    path = tmp_path_factory.mktemp("run") / "run"
    options: dict[str, Any] = {"measures": "rankme", "taps": ["blocks.1"], "controls": False, "report": False}
    return dx.run(tiny_encoder(), tiny_dataset(30), out=path, **options).store


class Odd(Measure):
    """Gives a good result, changed."""

    name, answers, source, family = "odd", "nothing", "nowhere", "geometry"

    def __init__(self, change: Callable[[xr.Dataset, Activations], xr.Dataset]) -> None:
        self.change = change

    def compute(self, activations: Activations, target: Any, seed: int) -> xr.Dataset:
        taps = [tap.name for tap in activations.taps]
        value = ("tap", np.arange(len(taps), dtype=np.float64))
        attrs = {"functional": "none", "pooling": "mean", "centring": "none", "seed": seed}
        return self.change(xr.Dataset({"score": value, "low": value, "high": value}, {"tap": taps}, attrs), activations)


class After(Measure):
    """Reads what a measure before it may have changed."""

    name, answers, source, family = "after", "which samples", "nowhere", "geometry"

    def compute(self, activations: Activations, target: Any, seed: int) -> xr.Dataset:
        value = ("tap", [float("".join(filter(str.isdigit, activations.ids[0])))] * len(activations.taps))
        return xr.Dataset(
            {"score": value, "low": value, "high": value}, {"tap": [tap.name for tap in activations.taps]}
        )


def measured(store: Store, change: Callable[[xr.Dataset, Activations], xr.Dataset]) -> Measured:
    return measure_all([Odd(change), After()], store, {}, what="tiny")


def variable(name: Any, value: Any, *more: str) -> Callable[[xr.Dataset, Activations], xr.Dataset]:
    return lambda data, _: data.assign({name: (("tap", *more), np.array([value] * data.sizes["tap"]))})


def attribute(value: Any, key: Any = "x") -> Callable[[xr.Dataset, Activations], xr.Dataset]:
    return lambda data, _: data.assign_attrs({key: value})


circle: list[Any] = []
circle.append(circle)
MISFITS: dict[str, tuple[Callable[[xr.Dataset, Activations], xr.Dataset], str]] = {
    "a date": (attribute(datetime.date(2026, 1, 1)), "an attribute 'x' of type date, which cannot be written"),
    "a set": (attribute({1}), "of type set"),
    "bytes": (attribute(b"x"), "of type bytes"),
    "a circle": (attribute(circle), "of type list"),
    "arrays in a mapping": (attribute({"a": np.ones(2)}), "of type dict"),
    "keys that are numbers": (attribute({1: 2}), "of type dict"),
    "half a character": (attribute("a\udcff"), "of type str"),
    "no name of an attribute": (lambda data, _: data.assign_attrs({3: 4}), "an attribute 3"),
    "a slash": (variable("a/b", 1.0), "names a variable or axis 'a/b': use letters"),
    "the folder above": (variable("..", 1.0), "names a variable or axis '..'"),
    "no name": (variable("", 1.0), "names a variable or axis ''"),
    "a number for a name": (variable(5, 1.0), "names a variable or axis 5"),
    "a long name": (variable("x" * 300, 1.0), "200 at most"),
    "an axis with a slash": (variable("w", [1.0], "a/b"), "names a variable or axis 'a/b'"),
    "complex": (variable("score", 1j), "gives score of type complex128: return numbers"),
    "long doubles": (variable("w", np.longdouble(1)), "gives w of type"),
    "objects": (variable("w", {}), "gives w of type object: return numbers or texts"),
    "texts for a score": (variable("score", "a"), "gives score of type <U1: return numbers"),
    "a depth of texts": (
        lambda data, _: data.assign_coords(depth=("tap", ["a"] * data.sizes["tap"])),
        "gives depth of type",
    ),
    "a line of texts": (variable("line_x", "a"), "gives line_x of type <U1"),
    "a line over heads": (variable("line_x", [1.0, 2.0], "head"), "gives line_x [tap, head]: return it as [tap]"),
    "a score over heads": (variable("score", [1.0, 2.0], "head"), "gives score [tap, head]: return it as [tap]"),
}


@pytest.mark.parametrize("how", MISFITS)
def test_what_cannot_be_stored_or_read_is_left_out_with_a_reason(store: Store, how: str) -> None:
    change, part = MISFITS[how]
    result = measured(store, change)
    assert set(result.results) == {"after"} and result.failed == {"odd"}
    assert result.skipped["odd"].startswith("Measure odd ") and part in result.skipped["odd"]
    assert "\n" not in result.skipped["odd"] and result.skipped["odd"].endswith(".")


def test_a_measure_that_ends_the_process_is_left_out(store: Store) -> None:
    result = measured(store, lambda *_: sys.exit(3))
    assert result.failed == {"odd"} and "SystemExit" in result.skipped["odd"] and set(result.results) == {"after"}


def test_a_measure_that_fails_to_say_what_it_reads_is_left_out(store: Store) -> None:
    class Unsure(After):
        name, kinds, losses, score_name = "unsure", ("value",), "squares", "R2"

        def reads(self, target: Any) -> bool:
            raise RuntimeError("no idea")

    result = measure_all([Unsure(), After()], store, store.targets(), what="tiny")
    assert result.skipped == {"unsure": "Measure unsure failed to say what it reads: RuntimeError: no idea."}
    assert result.failed == {"unsure"} and set(result.results) == {"after"}


def test_a_measure_cannot_change_what_the_next_one_reads(store: Store) -> None:
    before = measured(store, lambda data, _: data).results["after"]

    def shuffling(data: xr.Dataset, activations: Activations) -> xr.Dataset:
        activations.ids[:] = activations.ids[::-1].copy()
        return data

    result = measured(store, shuffling)
    assert result.results["after"].identical(before) and "read-only" in result.skipped["odd"]
    for column in (store.split, store.groups, *(target.values for target in store.targets().values())):
        assert not column.flags.writeable


def test_numbers_are_read_as_they_were_given_whatever_a_measure_says_of_their_storage(
    store: Store, tmp_path: Path
) -> None:
    """xarray would take a fill value for a gap and scale the rest."""

    def marked(data: xr.Dataset, _: Activations) -> xr.Dataset:
        data["score"].attrs |= {"_FillValue": 1.0, "scale_factor": 3.0}
        data["low"].encoding |= {"dtype": "int8", "scale_factor": 10.0}
        return data.assign_attrs(x=np.arange(3), chosen_tap="nowhere", hidden_gap=3.0)

    result = measured(store, marked).results["odd"]
    assert "chosen_tap" not in result.attrs and "hidden_gap" not in result.attrs and result.attrs["x"] == [0, 1, 2]
    options: dict[str, Any] = {"measures": ["odd"], "pairwise": (), "controls": (), "order": ["odd"], "fresh": False}
    own = Store(Path(shutil.copytree(store.path, tmp_path / "run")))
    merge_results(own, {ENCODER: {"odd": result}}, [], {"seed": 0}, **options)
    index = read_index(own)
    assert index is not None
    read = read_results(own, index)[ENCODER]["odd"]
    for name in ("score", "low", "high"):
        assert list(read[name].values) == list(range(len(store.taps)))
