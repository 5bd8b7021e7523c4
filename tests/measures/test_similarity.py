import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.similarity import kernels
from diagnostics.measures.similarity.kernels import (
    MOST_ROWS,
    SINGLE_ROWS,
    Cka,
    RbfCka,
    center_gram,
    cka,
    gram_of_blocks,
    hsic,
)
from diagnostics.runs.derived import between
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def direct_hsic(x, y):
    """HSIC_1 of Song et al. 2012 by loops over its formula, on kernels of features as they are."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    trace = total_k = total_m = cross = 0.0
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            trace += k[i, j] * m[j, i]
            total_k += k[i, j]
            total_m += m[i, j]
            for q in range(n):
                if q != j:
                    cross += k[i, j] * m[j, q]
    return (trace + total_k * total_m / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)) / (n * (n - 3))


def test_biased_of_shared_axes():
    basis = np.linalg.qr(np.column_stack([np.ones(20), np.random.default_rng(0).normal(size=(20, 12))]))[0][:, 1:]
    assert cka(basis[:, :6], basis[:, 4:10], unbiased=False) == pytest.approx(2 / 6, abs=1e-9)
    three, scale = basis[:, :3], np.sqrt([3.0, 2.0, 1.0])
    assert cka(three * scale, three * scale[::-1], unbiased=False) == pytest.approx(10 / 14, abs=1e-9)


def test_biased_grows_with_width_and_debiased_does_not():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 64, 4096))
    assert cka(x, y, unbiased=False) == pytest.approx(0.9846, abs=2e-3)
    assert abs(cka(x, y)) < 0.1
    null = [cka(*rng.normal(size=(2, 64, 32))) for _ in range(200)]
    assert np.std(null) == pytest.approx(np.sqrt(2) / 64, rel=0.25)
    assert abs(np.mean(null)) < 3 * np.sqrt(2) / 64 / np.sqrt(200)
    assert min(null) < 0, "never clamped"


def test_equals_the_direct_formula():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    assert hsic(x, y) == pytest.approx(direct_hsic(x, y), rel=1e-11)
    expected = direct_hsic(x, y) / np.sqrt(direct_hsic(x, x) * direct_hsic(y, y))
    assert cka(x, y) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000), st.floats(-1e4, 1e4))
def test_invariances(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 6)), rng.normal(size=(12, 4))
    y[:, :3] += x[:, :3]
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(12)
    assert cka(x @ rotation * scale + shift, y) == pytest.approx(cka(x, y), abs=1e-8)
    assert cka(x[order], y[order]) == pytest.approx(cka(x, y), abs=1e-12)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-14)
    assert cka(x * 1e-4, x * 1e-4) == pytest.approx(1, abs=1e-12)


def test_is_not_invariant_to_general_linear_maps():
    x = np.random.default_rng(0).normal(size=(40, 4))
    assert cka(x, x * [1, 1, 1, 30]) < 0.9


def test_scaled_and_shifted_layer_is_itself():
    x = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    for shift in (10, 100, 1e4):
        assert cka(x, x * np.float64(0.1) + shift) == pytest.approx(1, abs=1e-9)


def test_nothing_to_compare_is_nan():
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert np.isnan(cka(x, np.full((10, 4), 0.1)))
    assert np.isnan(cka(x, np.full((10, 4), 1e8 / 3)))
    assert np.isnan(cka(x, np.eye(10))), "equidistant samples: the U-centred kernel is zero"
    duplicated = np.repeat(x, 2, axis=0)
    assert cka(duplicated, duplicated) == pytest.approx(1, abs=1e-12)


def test_bad_input():
    x = np.random.default_rng(0).normal(size=(6, 3))
    for bad, words in ((x[:3], r"x has shape \(3, 3\).*at least 4"), (x[:, 0], r"shape \(6,\)")):
        with pytest.raises(DiagnosticsError, match=words):
            cka(bad, x)
    with refusal("bad-shape", "(6, 3) and (5, 3)"):
        cka(x, x[:5])
    x[2, 1] = np.nan
    with refusal("not-finite"):
        cka(x, x)
    with refusal("bad-shape", "at least 4"):
        center_gram(np.eye(3))


def direct_rbf(x, y, sigma, unbiased):
    """CKA of exp(-d^2 / 2 sigma^2) by loops over distances, centred by a matrix."""
    n = len(x)
    sides = []
    for side in (x, y):
        k = np.array([[np.exp(-np.sum((a - b) ** 2) / (2 * sigma**2)) for b in side] for a in side])
        if unbiased:
            k = k - np.diag(np.diag(k))
            k = k - k.sum(0) / (n - 2) - k.sum(1)[:, None] / (n - 2) + k.sum() / ((n - 1) * (n - 2))
            k = k - np.diag(np.diag(k))
        else:
            h = np.eye(n) - 1 / n
            k = h @ k @ h
        sides.append(k)
    k, m = sides
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


@pytest.mark.parametrize("unbiased", [True, False])
def test_rbf_equals_the_direct_formula_at_any_offset(unbiased):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 5))
    expected = direct_rbf(x, y, 1.7, unbiased)
    assert cka(x, y, kernel="rbf", sigma=1.7, unbiased=unbiased) == pytest.approx(expected, abs=1e-12)
    assert cka(x + 1e4, y - 1e4, kernel="rbf", sigma=1.7, unbiased=unbiased) == pytest.approx(expected, abs=1e-9)


def test_rbf_width_is_the_median_distance_of_each_side():
    rng = np.random.default_rng(0)
    for n in (11, 12):  # 55 and 66 pairs: an odd and an even number
        x, y = rng.normal(size=(2, n, 5)) * np.array([1, 100])[:, None, None]
        widths = [np.median([np.linalg.norm(side[i] - side[j]) for i in range(n) for j in range(i)]) for side in (x, y)]
        expected = direct_rbf(x / widths[0], y / widths[1], 1.0, True)
        assert cka(x, y, kernel="rbf") == pytest.approx(expected, abs=1e-12)
        assert cka(x * 7, y, kernel="rbf") == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("sigma", [1e3, 1e6, 1e9])
def test_wide_rbf_is_linear(sigma):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 5))
    y = x[:, :3] + rng.normal(size=(30, 3))
    assert cka(x, y, kernel="rbf", sigma=sigma) == pytest.approx(cka(x, y), abs=20 / sigma**2 + 1e-13)
    assert abs(cka(x, y, kernel="rbf", sigma=1.0) - cka(x, y)) > 0.01


def test_rbf_where_every_sample_resembles_itself_alone_is_nan():
    x = np.random.default_rng(0).normal(size=(20, 768)) * 10
    assert np.isnan(cka(x, x, kernel="rbf", sigma=1.0))
    mostly_equal = np.zeros((20, 3))
    mostly_equal[0] = 1
    assert np.isnan(cka(mostly_equal, mostly_equal, kernel="rbf")), "the median distance is 0"
    for sigma in (0.0, -1.0, float("nan")):
        with refusal("bad-value", "sigma"):
            cka(x, x, kernel="rbf", sigma=sigma)
    with refusal("unknown-name", "kernel"):
        cka(x, x, kernel="cosine")


def test_blocks_of_rows_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 23, 6))
    for settings_ in ({}, {"unbiased": False}, {"kernel": "rbf"}, {"kernel": "rbf", "unbiased": False}):
        whole = cka(x, y, **settings_)
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "BLOCK_ROWS", 5)
            assert cka(x, y, **settings_) == pytest.approx(whole, abs=1e-13)


def test_torch_gives_what_numpy_gives_and_nothing_is_changed():
    x, y = np.random.default_rng(0).normal(size=(2, 12, 5))
    first, second = torch.tensor(x, requires_grad=True), torch.tensor(y)
    with torch.device("meta"):
        for function in (cka, hsic, lambda a, b: cka(a, b, kernel="rbf"), lambda a, b: cka(a, b, unbiased=False)):
            assert function(first, second) == function(x, y)
        assert gram_of_blocks([second, second]).device.type == "cpu"
    np.testing.assert_array_equal(second.numpy(), y)
    gram = x @ x.T
    before = gram.copy()
    center_gram(gram)
    np.testing.assert_array_equal(gram, before)


@pytest.mark.parametrize("case", ["plain", "shifted", "tiny", "massive", "far out"])
def test_wide_blocks_in_single_precision_keep_their_digits(case, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (SINGLE_ROWS, 2 * kernels.WIDE)
    x, y = rng.normal(size=shape), rng.normal(size=shape)
    y += x
    if case == "massive":
        x[:, 7] *= 1e4
    if case == "far out":
        x[3] *= 1e3
    x, y = {"shifted": (x + 1e4, y - 1e4), "tiny": (x * 1e-30, y * 1e30)}.get(case, (x, y))
    data = MemoryActivations({"a": x[:, None], "b": y[:, None]}, block=2 * kernels.WIDE)
    used = single_products(monkeypatch)
    result = NoNull().compute(data, None, 0).matrix.values[0, 1]
    assert len(used) == 2
    assert set(used) == {case != "tiny"}
    assert result == pytest.approx(cka(x, y), abs=1e-7 if case != "far out" else 1e-6)


def single_products(monkeypatch):
    """Fill up with whether a product in single precision was good enough, each time that one is tried."""
    used = []
    add = kernels._SingleProduct.add_upper
    monkeypatch.setattr(kernels._SingleProduct, "add_upper", lambda *a: used.append(add(*a)) or used[-1])
    return used


@pytest.mark.parametrize("shift", [0, 10, 100, 1e4])
@pytest.mark.parametrize("width", [kernels.SINGLE_FEATURES, kernels.SINGLE_WIDE + 64])
def test_stored_precision_keeps_its_digits_under_a_common_offset(shift, width, monkeypatch):
    """Against float64 from the same float32 values, which is all that is left of the activations."""
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(SINGLE_ROWS, 20))
    x, y = (shared @ rng.normal(size=(20, width)) / 4 + rng.normal(size=(SINGLE_ROWS, width)) for _ in range(2))
    x, y = (x + shift * rng.uniform(0.5, 1, width)).astype(np.float32), (y - shift).astype(np.float32)
    kept = x.copy()
    used = single_products(monkeypatch)
    tensors = [torch.from_numpy(values).requires_grad_() for values in (x, y)]
    a, b = (kernels.unit_pairs(kernels.upper_gram([values])) for values in tensors)
    assert used
    assert all(used)
    np.testing.assert_array_equal(x, kept)
    assert float(a @ b) == pytest.approx(cka(x, y), rel=1e-7)


def test_constants_of_the_stored_precision_leave_nothing():
    """Whatever their value: a mean that is off in its last digit would leave a kernel of noise."""
    rng = np.random.default_rng(0)
    constant = np.broadcast_to(rng.normal(size=2 * kernels.WIDE).astype(np.float32) * 1e4, (300, 2 * kernels.WIDE))
    np.testing.assert_array_equal(gram_of_blocks([constant.copy()]), 0)


class NoNull(Cka):
    permutations = 0


def test_blocks_add_up_to_the_whole():
    x = np.random.default_rng(0).normal(size=(8, 50)) + 1e4
    whole = gram_of_blocks([x])
    np.testing.assert_allclose(gram_of_blocks([x[:, :13], x[:, 13:14], x[:, 14:]]), whole, rtol=0, atol=1e-9)


N = 64


def taps(shift=0.0, n=N):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(n, 5, 6))
    b = a @ rng.normal(size=(6, 8)) + rng.normal(size=(n, 5, 8))
    return {"a": a + shift, "b": b + shift, "c": rng.normal(size=(n, 5, 4)) + shift}


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_measure_equals_the_plain_function(shift):
    arrays = taps(shift)
    result = Cka().compute(MemoryActivations(arrays, prefix=1), None, 0)
    assert result.matrix.dims == ("tap", "tap_other")
    assert result.attrs["n"] == N
    for one in arrays:
        for other in arrays:
            expected = cka(arrays[one].reshape(N, -1), arrays[other].reshape(N, -1))
            assert result.matrix.sel(tap=one, tap_other=other).item() == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(result.matrix.values, result.matrix.values.T, rtol=0, atol=0)
    np.testing.assert_allclose(np.diagonal(result.matrix.values), 1, atol=1e-12)


def test_measure_keeps_its_digits_where_kernels_are_kept_in_single_precision():
    many = taps(n=kernels.SINGLE_KERNELS + 1)
    result = Cka().compute(MemoryActivations(many, token_samples=2), None, 0)
    expected = cka(many["a"].mean(axis=1), many["b"].mean(axis=1))
    assert result.matrix.sel(tap="a", tap_other="b").item() == pytest.approx(expected, abs=1e-9)
    assert result.matrix.sel(tap="a", tap_other="a").item() == pytest.approx(1, abs=1e-9)


def test_measure_shift_changes_nothing():
    plain, shifted = (Cka().compute(MemoryActivations(taps(s)), None, 0).matrix.values for s in (0.0, 1e4))
    np.testing.assert_allclose(shifted, plain, rtol=0, atol=1e-9)


def test_measure_without_tokens_reads_all_pooled_rows():
    arrays = taps()
    result = Cka().compute(MemoryActivations(arrays, token_samples=2), None, 0)
    assert result.attrs["pooling"] == "mean (only 2 samples have tokens)"
    assert result.attrs["n"] == N
    expected = cka(arrays["a"].mean(axis=1), arrays["b"].mean(axis=1))
    assert result.matrix.sel(tap="a", tap_other="b").item() == pytest.approx(expected, abs=1e-12)
    with refusal("too-few", "4"):
        Cka().compute(MemoryActivations({"a": np.ones((3, 1, 2))}), None, 0)


def test_measure_reads_tokens_from_64_samples_with_tokens_on():
    arrays = taps(n=200)
    for kept, pooled in ((0, True), (63, True), (64, False)):
        result = Cka().compute(MemoryActivations(arrays, token_samples=kept), None, 0)
        assert result.attrs["n"] == (200 if pooled else 64)
        assert result.attrs["pooling"].startswith("mean (" if pooled else "none: all features of all tokens")
        x, y = (arrays[tap].mean(axis=1) if pooled else arrays[tap][:64].reshape(64, -1) for tap in "ab")
        assert result.matrix.sel(tap="a", tap_other="b").item() == pytest.approx(cka(x, y), abs=1e-12)


def test_measure_pools_two_runs_alike():
    arrays = taps(n=100)
    both, one = (MemoryActivations(arrays, token_samples=10, poolings=p) for p in (("mean", "last"), ("mean",)))
    result = Cka().between(both, one, 0)
    np.testing.assert_allclose(np.diagonal(result.matrix.values), 1, atol=1e-12)
    assert result.attrs["pooling"] == "mean (only 10 samples have tokens)"


def test_unrelated_taps_are_not_compared_on_few_samples():
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(4, 3, 50)) for name in "abc"}
    done = measure_all([Cka()], MemoryActivations(arrays), {})
    assert done.results == {}
    assert done.skipped["cka"] == "cka compares taps on at least 20 samples, and there are 4: use a dataset with more."
    enough = {name: rng.normal(size=(20, 3, 50)) for name in "abc"}
    assert measure_all([Cka()], MemoryActivations(enough), {}).results["cka"].attrs["n"] == 20
    with refusal("too-few", "20 samples", "there are 4"):
        between(MemoryActivations(arrays), MemoryActivations(arrays))


def test_measure_names_the_tap_with_nan_and_leaves_constant_taps_empty():
    arrays = taps()
    arrays["b"] = np.full_like(arrays["b"], 0.3)
    result = Cka().compute(MemoryActivations(arrays), None, 0).matrix
    assert np.isnan(result.sel(tap="b").values).all()
    assert np.isfinite(result.sel(tap="a", tap_other="c").item())
    arrays["c"][4, 1, 1] = np.inf
    with refusal("not-finite", "tap c"), np.errstate(invalid="ignore"):
        Cka().compute(MemoryActivations(arrays), None, 0)


def test_rbf_measure_equals_the_plain_function():
    arrays = taps(100.0)
    result = RbfCka().compute(MemoryActivations(arrays), None, 0)
    expected = cka(arrays["a"].reshape(N, -1), arrays["b"].reshape(N, -1), kernel="rbf")
    assert result.matrix.sel(tap="a", tap_other="b").item() == pytest.approx(expected, abs=1e-9)
    assert "median" in result.attrs["sigma"]


def test_measure_says_why_a_tap_has_no_value():
    arrays = taps()
    arrays["b"] = np.full_like(arrays["b"], 0.3)
    arrays["c"] = np.eye(N)[:, None]
    for measure in (Cka(), RbfCka()):
        result = measure.compute(MemoryActivations(arrays), None, 0)
        assert result.attrs["reason"].startswith("b: all samples are equal")
        assert "; c: " in result.attrs["reason"]
        assert np.isfinite(result.matrix.values).sum() == 1
        assert np.isnan(result.p.values).all()


def test_measure_caps_the_rows():
    arrays = {"a": np.random.default_rng(0).normal(size=(MOST_ROWS + 30, 1, 2))}
    assert NoNull().compute(MemoryActivations(arrays), None, 0).attrs["n"] == MOST_ROWS
