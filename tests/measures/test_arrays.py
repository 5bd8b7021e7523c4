"""Labels as a user may give them."""

from typing import Any

import numpy as np
import pytest
import torch

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import class_labels, median
from diagnostics.measures.probes import attentive, ridge
from tests.support.refusals import refusal


@pytest.mark.parametrize("labels", [[2, 0, 1], np.array([2, 0, 1], np.uint8), torch.tensor([2, 0, 1])])
def test_classes_come_as_integers_of_64_bits(labels: Any) -> None:
    result = class_labels(labels, 3)
    assert result.dtype == np.int64
    assert result.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0], "floating-point numbers"),
        (torch.tensor([0.0, 1.0]).bfloat16(), "floating-point numbers"),
        (["a", "b"], "text"),
        ([0, -1], "negative labels are unknown"),
        (np.array([2**63 + 1, 0], np.uint64), "9223372036854775809: give integer classes of 64 bits"),
        ([[0], [1, 2]], "no array"),
        ([[0], [1]], "one label per row, 2 of them"),
    ],
)
def test_what_is_no_class_is_refused_in_a_sentence(labels: Any, message: str) -> None:
    with pytest.raises(DiagnosticsError, match=message) as caught:
        class_labels(labels, 2)
    assert "\n" not in str(caught.value)


def test_values_in_brain_floats_are_values() -> None:
    tokens = np.random.default_rng(0).normal(size=(12, 3, 4))
    result = attentive(tokens, torch.from_numpy(tokens[:, 0, 0]).bfloat16(), tokens[:2], epochs=1)
    assert np.isfinite(result).all()


def test_ridge_without_a_penalty_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    with refusal("bad-value", "penalties", "0"):
        ridge(np.c_[x, np.ones(50)], x[:, 0]).predict(np.c_[x, np.ones(50)], 0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 100, 101, 4097, 4098])
def test_the_median_is_numpys(count: int) -> None:
    # Many ties, so that the middle two are often equal and lie anywhere.
    values = np.random.default_rng(count).integers(0, 40, size=(20, count)) / 7
    np.testing.assert_array_equal(median(torch.from_numpy(values)).numpy(), np.median(values, axis=1))
    assert float(median(torch.from_numpy(values[0]))) == np.median(values[0])
