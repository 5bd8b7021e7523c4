import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.similarity.kernels import Cka, cka, hsic
from diagnostics.measures.similarity.minibatch import BATCH, MinibatchAlignment, MinibatchCka, minibatch_cka
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def related(n, seed=0, p=6, q=5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    return x, x @ rng.normal(size=(p, q)) + rng.normal(size=(n, q))


def direct(x, y, batch):
    """Three sums of HSIC_1 over batches, each weighing by its samples, divided once."""
    both = own = other = 0.0
    for start in range(0, len(x), batch):
        a, b = x[start : start + batch], y[start : start + batch]
        if len(a) >= 4:
            both += len(a) * hsic(a, b)
            own += len(a) * hsic(a, a)
            other += len(a) * hsic(b, b)
    return both / np.sqrt(own * other)


@pytest.mark.parametrize(("n", "batch"), [(40, 8), (41, 8), (43, 8), (44, 8), (40, 40), (40, 100)])
def test_equals_the_direct_formula(n, batch):
    x, y = related(n)
    assert minibatch_cka(x, y, batch_size=batch) == pytest.approx(direct(x, y, batch), abs=1e-12)


def test_one_batch_is_the_whole_and_more_are_not():
    x, y = related(64)
    assert minibatch_cka(x, y, batch_size=64) == pytest.approx(cka(x, y), abs=1e-12)
    assert abs(minibatch_cka(x, y, batch_size=8) - cka(x, y)) > 1e-4


def test_sums_are_divided_once_not_batch_by_batch():
    x, y = related(40)
    averaged = np.mean([cka(x[i : i + 8], y[i : i + 8]) for i in range(0, 40, 8)])
    assert abs(minibatch_cka(x, y, batch_size=8) - averaged) > 1e-4


def test_estimates_the_same_population_value():
    result = [minibatch_cka(*related(512, seed), batch_size=16) for seed in range(10)]
    whole = [cka(*related(512, seed)) for seed in range(10)]
    assert np.mean(result) == pytest.approx(np.mean(whole), abs=0.02)


def test_a_last_batch_of_two_is_left_out_and_said():
    x, y = related(34)
    total = MinibatchCka()
    for start in range(0, 34, 8):
        total.update(x[start : start + 8], y[start : start + 8])
    assert (total.samples, total.left_out) == (32, 2)
    assert total.value() == minibatch_cka(x, y, batch_size=8) == minibatch_cka(x[:32], y[:32], batch_size=8)
    arrays = {"a": np.random.default_rng(0).normal(size=(BATCH + 2, 1, 3))}
    assert (
        MinibatchAlignment()
        .compute(MemoryActivations(arrays), None, 0)
        .attrs["left_out"]
        .startswith("the last batch of 2")
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 5))
def test_parts_merge_into_the_whole(seed, cut):
    x, y = related(40, seed)
    parts = [MinibatchCka(), MinibatchCka()]
    for i in range(5):
        parts[i >= cut].update(x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8])
    parts[0].merge(parts[1])
    assert parts[0].value() == pytest.approx(minibatch_cka(x, y, batch_size=8), abs=1e-12)
    assert parts[0].samples == 40


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000), st.floats(-1e4, 1e4))
def test_invariances(seed, scale, shift):
    x, y = related(24, seed)
    turned = x @ np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0] * scale + shift
    assert minibatch_cka(turned, y, batch_size=8) == pytest.approx(minibatch_cka(x, y, batch_size=8), abs=1e-8)
    assert minibatch_cka(x, x * 0.1 + 1e4, batch_size=8) == pytest.approx(1, abs=1e-9)


def test_nothing_to_compare_is_nan_and_bad_input_is_said():
    x, y = related(20)
    assert np.isnan(minibatch_cka(x, np.full((20, 2), 0.1)))
    assert np.isnan(MinibatchCka().value())
    with refusal("bad-value", "3"):
        minibatch_cka(x, y, batch_size=3)
    with refusal("bad-shape", "4"):
        minibatch_cka(x[:3], y[:3])
    with refusal("bad-shape", "x and y"):
        minibatch_cka(x, y[:5])
    with refusal("not-finite"):
        minibatch_cka(x, y * np.inf)


def test_torch_gives_what_numpy_gives():
    x, y = related(20)
    with torch.device("meta"):
        result = minibatch_cka(torch.tensor(x, device="cpu"), torch.tensor(y, device="cpu"), batch_size=8)
    assert result == minibatch_cka(x, y, batch_size=8)


def taps(n):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(n, 3, 6)) + 1e3
    return {"a": a, "like_a": a + rng.normal(size=a.shape), "else": rng.normal(size=(n, 3, 4)), "flat": a * 0 + 0.3}


def test_measure_equals_the_plain_function_and_says_that_it_is_an_estimate():
    n = 2 * BATCH + 5
    arrays = taps(n)
    result = MinibatchAlignment().compute(MemoryActivations(arrays), None, 0)
    flat = {name: array.reshape(n, -1) for name, array in arrays.items()}
    for one, other in (("a", "like_a"), ("a", "else"), ("else", "like_a")):
        expected = minibatch_cka(flat[one], flat[other])
        assert result.matrix.sel(tap=one, tap_other=other).item() == pytest.approx(expected, abs=1e-9)
    assert "estimate" in result.attrs["functional"] and str(BATCH) in result.attrs["functional"]
    assert (result.attrs["batch_size"], result.attrs["n"]) == (BATCH, n)
    assert result.attrs["reason"].startswith("flat: ")
    whole = Cka().compute(MemoryActivations(arrays), None, 0)
    assert abs(result.matrix - whole.matrix).max() > 1e-3


def test_measure_holds_the_planted_pair_against_permutations_within_batches():
    arrays = taps(2 * BATCH)
    result = MinibatchAlignment().compute(MemoryActivations(arrays), None, 0)
    assert result.p.sel(tap="a", tap_other="like_a").item() == 0.01
    assert result.p.sel(tap="a", tap_other="else").item() > 0.05
    assert "within each batch" in result.attrs["null"]
    groups = np.repeat(np.arange(BATCH), 2).astype(str)
    grouped = MinibatchAlignment().compute(MemoryActivations(arrays, groups=groups), None, 0)
    assert np.isnan(grouped.p.values).all()
    assert "groups" in grouped.attrs["no_null"]


def test_permuting_what_is_prepared_is_preparing_what_is_permuted():
    x, y = (torch.from_numpy(side) for side in related(BATCH + 10))
    rng = np.random.default_rng(0)
    order = torch.from_numpy(np.concatenate([rng.permutation(BATCH), BATCH + rng.permutation(10)]))
    measure = MinibatchAlignment()
    expected = measure.compare(measure.prepare(x), measure.prepare(y[order]))
    result = measure.compare(measure.prepare(x), measure.permute(measure.prepare(y), order))
    assert result == pytest.approx(expected, abs=1e-12)


def test_measure_names_the_tap_with_infinity():
    arrays = taps(20)
    arrays["else"][3, 0, 0] = np.inf
    with refusal("not-finite", "else"), np.errstate(invalid="ignore"):
        MinibatchAlignment().compute(MemoryActivations(arrays), None, 0)
