"""What holds for every plain function: numpy and torch, any device, nothing changed, errors in one sentence."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch

from diagnostics.errors import DiagnosticsError
from diagnostics.measures import dynamics, geometry, locality, probes, similarity
from tests.support.functions import FUNCTIONS, as_is, as_torch, exported, numbers
from tests.support.refusals import refusal

# No arrays in, or not numbers of data.
WITHOUT_ARRAYS = {"neighbour_chance", "null_morans_i", "uniform_distance", "gram_of_blocks"}
PACKAGES = (similarity, geometry, locality, dynamics, probes)


def _public() -> dict[str, Any]:
    return {
        name: getattr(package, name)
        for package in PACKAGES
        for name in exported(package)
        if inspect.isfunction(getattr(package, name)) and name not in WITHOUT_ARRAYS
    }


def test_every_public_function_is_in_the_table() -> None:
    assert set(_public()) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_gives_what_numpy_gives_and_plain_numbers_come_back(name: str) -> None:
    here, there = FUNCTIONS[name](as_is), FUNCTIONS[name](as_torch)
    assert type(here) is type(there)
    assert numbers(here)
    for a, b in zip(numbers(here), numbers(there), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_made_on_another_device_than_the_input(name: str) -> None:
    here = FUNCTIONS[name](as_torch)
    # What forgets to say on which device it makes a tensor would find it without data here.
    with torch.device("meta"):
        there = FUNCTIONS[name](lambda x: torch.from_numpy(x.copy()))
    for a, b in zip(numbers(here), numbers(there), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inputs_stay_as_they_were_even_where_a_gradient_is_wanted(name: str) -> None:
    given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def kept(x: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(x.copy())
        given.append((tensor, tensor.clone()))
        return tensor.requires_grad_() if tensor.is_floating_point() else tensor

    result = FUNCTIONS[name](kept)
    assert not any(isinstance(x, torch.Tensor) and x.requires_grad for x in (result,))
    for tensor, before in given:
        assert torch.equal(tensor, before)


# Its class lies with the probe of masks.
LONG = {"dense_classification"}


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - LONG))
def test_a_result_says_itself_in_a_line_without_its_arrays(name: str) -> None:
    result = FUNCTIONS[name](as_is)
    for one in result if isinstance(result, list) else [result]:
        if dataclasses.is_dataclass(one):
            message = repr(one)
            assert message.startswith(f"{type(one).__name__}(") and "\n" not in message and len(message) < 500
            assert all(f"{field.name}=" in message for field in dataclasses.fields(one))


def test_a_large_array_is_its_type_and_shape_and_a_small_one_its_numbers() -> None:
    message = repr(locality.outlier_tokens(np.ones((3, 64, 6)), (8, 8)))
    assert message.startswith("OutlierTokens(share=0.0, mask=<bool [3, 64]>, threshold=")
    few = locality.global_token_mass(np.full((2, 4, 4), 0.25), 1)
    assert repr(few) == "GlobalMass(prefix=[0.25, 0.25], top_key=[0.25, 0.25])"


@pytest.mark.parametrize(("rows", "least"), [(0, "one sample"), (1, "2 samples")])
def test_how_many_samples_are_wanted_is_said_in_words_that_fit(rows: int, least: str) -> None:
    with refusal("bad-shape", least):
        (geometry.effective_rank if rows == 0 else similarity.cca)(*[np.ones((rows, 3))] * (1 + rows))


@pytest.mark.parametrize(
    "odd", ["text", [[1.0], [1.0, 2.0]], [[1j, 2.0], [0.0, 1.0]], torch.ones(3, 2, dtype=torch.complex64)]
)
def test_what_is_no_array_of_real_numbers_is_refused_in_a_sentence(odd: Any) -> None:
    with refusal("bad-type"):
        geometry.rankme(odd)


# Integers alone come in, or NaN has a meaning (unknown truth, no box found).
WITHOUT_FLOATS = {"j_and_f", "jaccard", "boundary_f", "box_of", "confusion", "iou", "mean_iou"}
KNOWS_NAN = {"compare_rdms", "depth_metrics", "corloc", "box_iou", "knn_weights", "seasonal_naive"}


# Most read their arrays with one function, of which cka stands for all; the others look by themselves.
LOOK_THEMSELVES = (
    "cka",
    "attentive",
    "dense_classification",
    "leave_one_out",
    "linear_predictability",
    "mase",
    "ridge",
    "straightness",
)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, np.nan) for name in sorted(set(FUNCTIONS) - WITHOUT_FLOATS - KNOWS_NAN)),
        *((name, np.inf) for name in LOOK_THEMSELVES),
    ],
)
def test_what_is_not_finite_is_refused_in_one_sentence(name: str, bad: float) -> None:
    def spoilt(x: np.ndarray) -> np.ndarray:
        if x.dtype.kind != "f":
            return x
        out = x.copy()
        out.flat[1] = bad
        return out

    with pytest.raises(DiagnosticsError) as caught:
        FUNCTIONS[name](spoilt)
    assert "\n" not in str(caught.value)
