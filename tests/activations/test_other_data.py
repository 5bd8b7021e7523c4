"""A run on data that has changed is refused with what changed, in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diagnostics as dx
from diagnostics.errors import StorageError
from tests.support.tiny import tiny_dataset, tiny_encoder

WHOLE = tiny_dataset(30)
DATA = dx.Dataset(WHOLE.name, "series", WHOLE.samples, WHOLE.ids, list(WHOLE.split), WHOLE.targets)
SPLIT = [str(part) for part in DATA.split]


def target(**changed: np.ndarray) -> dict[str, dx.Target]:
    return {
        name: dataclasses.replace(each, values=changed.get(name, each.values)) for name, each in DATA.targets.items()
    }


def rebuilt(**changed: Any) -> dx.Dataset:
    parts = {"name": DATA.name, "samples": DATA.samples, "ids": DATA.ids, "split": SPLIT, "targets": DATA.targets}
    return dx.Dataset(modality="series", **{**parts, **changed})


def swapped(values: list[str], first: str, second: str) -> list[str]:
    i, j = values.index(first), values.index(second)
    return [values[j] if at == i else values[i] if at == j else value for at, value in enumerate(values)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"ids": [*DATA.ids[:-1], "another"]}, "2 of 31 samples are in one only, for example another"),
        ({"split": swapped(SPLIT, "train", "test")}, r"the splits differ in 2 samples \(\w+ is \w+ there, \w+ now\)"),
        (
            {"groups": ["one", *DATA.ids[1:]]},
            rf"the groups differ in 1 samples \({DATA.ids[0]} is {DATA.ids[0]} there, one now\)",
        ),
        (
            {"targets": target(level=DATA.targets["level"].values + (np.arange(30) == 3))},
            rf"the values of the target level differ in 1 samples, for example {DATA.ids[3]}",
        ),
        ({"targets": {"level": DATA.targets["level"]}}, r"only one of them has the target \w+"),
        (
            {"samples": DATA.samples + 1},
            "under the same ids, what the samples themselves or their dense targets hold has changed",
        ),
        ({"name": "other"}, "tiny-series there, other now"),
    ],
)
def test_what_changed_is_said(changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path / "run", "measures": "rankme", "controls": False, "report": False}
    dx.run(tiny_encoder(), DATA, **options)
    dx.run(tiny_encoder(), rebuilt(), **options)  # the same data are not refused
    with pytest.raises(StorageError, match=rf"holds other activations, its dataset differs, {why}: choose another"):
        dx.run(tiny_encoder(), rebuilt(**changed), **options)
