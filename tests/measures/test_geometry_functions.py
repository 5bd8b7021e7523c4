"""What holds for every plain function of geometry and every measure of it."""

import numpy as np
import pytest
import torch

from diagnostics import measures
from diagnostics.measures import geometry

from functions import exported
from memory import MemoryActivations

PLAIN = {
    **dict.fromkeys(
        ("rankme", "effective_rank", "nesum", "participation_ratio", "stable_rank", "two_nn", "mle_dimension"), (40, 5)
    ),
    **dict.fromkeys(("uniformity", "mean_cosine", "massive_activations", "distinct_samples"), (40, 5)),
    "alpha_req": (300, 120),
    **dict.fromkeys(("matrix_entropy", "curvature"), (4, 6, 5)),
    "lidar": (5, 3, 4),
}
PAIRED = ("alignment", "infonce", "dime")
STANDARD = {"rankme", "participation_ratio", "two_nn", "mean_cosine", "massive_activations"}


def call(name, make):
    function = getattr(geometry, name)
    rng = np.random.default_rng(0)
    if name in PAIRED:
        return function(make(rng.normal(size=(9, 4))), make(rng.normal(size=(9, 4))))
    return function(make(rng.normal(size=PLAIN[name])))


def numbers(found):
    if isinstance(found, geometry.Activity):
        return [*found.ratio, found.largest, found.feature, found.peak]
    return np.ravel(found)


def test_every_function_is_listed_here():
    assert set(exported(geometry)) == {*PLAIN, *PAIRED, "Activity"}


@pytest.mark.parametrize("name", [*PLAIN, *PAIRED])
def test_arrays_of_every_kind_give_the_same_and_are_left_alone(name):
    expected = numbers(call(name, lambda x: x))
    assert numbers(call(name, torch.from_numpy)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert numbers(call(name, lambda x: torch.from_numpy(x).requires_grad_())) == pytest.approx(expected, rel=1e-9)
    assert numbers(call(name, lambda x: x[::-1][::-1])) == pytest.approx(expected, rel=1e-9)
    assert numbers(call(name, lambda x: x.astype(np.float32))) == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def sealed(x):
        x.flags.writeable = False
        return x

    assert numbers(call(name, sealed)) == pytest.approx(expected, rel=1e-12)
    given = []

    def kept(x):
        given.append((torch.from_numpy(x), x.copy()))
        return given[-1][0]

    call(name, kept)
    assert all(np.array_equal(tensor.numpy(), before) for tensor, before in given)


@pytest.mark.parametrize("name", [*PLAIN, *PAIRED])
def test_everything_is_made_on_the_device_of_the_input(name):
    """Whatever forgets its device lies on the default one, here one without data."""
    expected = numbers(call(name, lambda x: x))
    with torch.device("meta"):
        found = numbers(call(name, torch.from_numpy))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def of_geometry():
    return {name: made for name, made in measures.bundled().items() if made.family == "geometry"}


def test_every_function_has_its_measure_and_the_standard_ones_are_few():
    found = of_geometry()
    assert set(found) >= {*PLAIN, *PAIRED} - {"distinct_samples"}
    assert {name for name, made in found.items() if made.standard and "geometry" in made.__module__} == STANDARD


@pytest.mark.parametrize("name", sorted({*PLAIN, *PAIRED} - {"distinct_samples"}))
def test_measures_are_seeded_state_what_they_are_and_follow_the_device(name):
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(240, 3, 110)) + rng.normal(size=(120, 1, 110)).repeat(2, axis=0)
    activations = MemoryActivations({"a": tokens, "b": tokens * 2}, groups=[f"g{i // 2}" for i in range(240)])
    measure = of_geometry()[name]()
    found = measure.compute(activations, None, 3)
    assert found.identical(of_geometry()[name]().compute(activations, None, 3))
    assert np.isfinite(found.score).all() and (found.low < found.score).all() and (found.score < found.high).all()
    for key in ("functional", "pooling", "centring", "interval", "n", "seed"):
        assert found.attrs[key] != ""
    for variable in set(found.data_vars) - {"score", "low", "high"}:
        assert found.attrs[str(variable)]
    with torch.device("meta"):
        assert found.identical(measure.compute(activations, None, 3))
