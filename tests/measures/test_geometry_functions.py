"""What holds for every plain function of geometry and every measure of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from diagnostics.measures import geometry, load_bundled
from diagnostics.measures.base import Measure
from tests.support.functions import FUNCTIONS, As, exported, numbers
from tests.support.memory import MemoryActivations

NAMES = sorted(FUNCTIONS.keys() & set(exported(geometry)))
MEASURES = {name: measure for name, measure in load_bundled().items() if ".geometry." in measure.__module__}


def values(name: str, change: As) -> np.ndarray:
    return np.concatenate([np.ravel(part) for part in numbers(FUNCTIONS[name](change))])


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_every_kind_give_the_same(name: str) -> None:
    def read_only(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x.flags.writeable = False
        return x

    expected = values(name, lambda x: x.copy())
    assert values(name, lambda x: torch.from_numpy(x.copy()).requires_grad_()) == pytest.approx(expected, rel=1e-9)
    assert values(name, lambda x: x[::-1].copy()[::-1]) == pytest.approx(expected, rel=1e-9)
    assert values(name, lambda x: x.astype(np.float32)) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert values(name, read_only) == pytest.approx(expected, rel=1e-12)


def test_every_measure_of_geometry_has_its_function() -> None:
    assert {*NAMES} - {"distinct_samples"} == MEASURES.keys()


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_seeded_state_what_they_are_and_follow_the_device(name: str) -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(240, 3, 110)) + rng.normal(size=(120, 1, 110)).repeat(2, axis=0)
    activations = MemoryActivations({"a": tokens, "b": tokens * 2}, groups=[f"g{i // 2}" for i in range(240)])
    measure: Measure = MEASURES[name]()
    result: Any = measure.compute(activations, None, 3)
    assert result.identical(MEASURES[name]().compute(activations, None, 3))
    assert np.isfinite(result.score).all() and (result.low < result.score).all() and (result.score < result.high).all()
    for key in ("functional", "pooling", "centring", "interval", "n", "seed"):
        assert result.attrs[key] != ""
    for variable in set(result.data_vars) - {"score", "low", "high"}:
        assert result.attrs[str(variable)]
    # What forgets its device is made on the default one, here one without data.
    with torch.device("meta"):
        assert result.identical(measure.compute(activations, None, 3))
