import numpy as np
import pytest

from diagnostics.measures.similarity.kernels import cka
from diagnostics.runs.derived import between
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def runs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1, 4))
    return MemoryActivations({"a": x}), MemoryActivations({"b": x + rng.normal(size=x.shape), "c": x * 2})


def test_compares_by_name():
    first, second = runs()
    result = between(first, second)
    expected = [cka(first.arrays["a"][:, 0], second.arrays[name][:, 0]) for name in "bc"]
    np.testing.assert_allclose(result.matrix.values, [expected], atol=1e-12)
    assert (result.attrs["measure"], result.attrs["family"]) == ("cka", "similarity")
    assert between(first, second, "mutual_knn").matrix.sel(tap="a", tap_other="c").item() == 1
    assert between(first, second, seed=1).attrs["seed"] == 1


def test_refuses_what_does_not_compare_pairs():
    first, second = runs()
    with refusal("bad-value", "rankme", "cka", "mutual_knn"):
        between(first, second, "rankme")
    with refusal("bad-value", "all"):
        between(first, second, "all")
    with refusal("unknown-name", "cka"):
        between(first, second, "ckaa")


def test_says_where_the_two_runs_are_pooled_otherwise():
    x = np.random.default_rng(0).normal(size=(30, 3, 4))
    first, second = MemoryActivations({"a": x}), MemoryActivations({"a": x}, poolings=("last",))
    assert between(first, first, "mutual_knn").attrs["pooling"] == "mean"
    result = between(first, second, "mutual_knn")
    assert result.attrs["pooling"] == "mean in the first run, last in the second"


@pytest.mark.parametrize("measure", ["cka", "minibatch_cka", "torch_cka"])
def test_refuses_runs_that_have_no_pooling_in_common_where_pooled_ones_are_compared(measure):
    x = np.random.default_rng(0).normal(size=(30, 3, 4))
    first, second = MemoryActivations({"a": x}), MemoryActivations({"a": x}, poolings=("last",))
    with refusal("not-comparable", "--pooling"):
        between(first, second, measure)
