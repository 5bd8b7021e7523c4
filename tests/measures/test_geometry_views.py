"""Functions of several views of the same samples, and the measures that take a group's samples as views."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.geometry import alignment, dime, infonce, lidar
from diagnostics.measures.geometry import views as views_module
from diagnostics.measures.geometry.views import Alignment, Dime, InfoNce, Lidar, lidar_of_classes
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal


def taps(groups, **arrays):
    return MemoryActivations({name: array[:, None] for name, array in arrays.items()}, groups=groups)


def paired(rng, pairs=60, features=8, noise=0.7, views=2):
    """[pair * view, feature] about a common point, and its groups."""
    shared = rng.normal(size=(pairs, 1, features)) * np.linspace(1, 0.2, features)
    x = (shared + noise * rng.normal(size=(pairs, views, features))).reshape(pairs * views, features)
    return x, np.repeat([f"g{i}" for i in range(pairs)], views)


def test_lidar_of_views_that_do_not_differ():
    for classes in (3, 8):
        simplex = np.eye(classes)[:, None].repeat(3, axis=1)
        assert lidar(simplex) == pytest.approx(classes - 1, abs=1e-3)


@pytest.mark.parametrize("shape", [(30, 4, 6), (5, 3, 12)])
def test_lidar_is_its_formula(shape):
    views = np.random.default_rng(0).normal(size=shape) + 3
    between = np.cov(views.mean(axis=1).T, bias=True)
    within = sum(np.cov(sample.T, bias=True) for sample in views) / len(views) + 1e-2 * np.eye(shape[2])
    values, vectors = np.linalg.eigh(within)
    root = vectors * values**-0.5 @ vectors.T
    spectrum = np.maximum(np.linalg.eigvalsh(root @ between @ root), 0)
    p = spectrum / spectrum.sum() + 1e-7
    assert lidar(views, delta=1e-2) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-8)


def test_lidar_keeps_its_digits_where_features_are_large_and_fewer_samples_than_features():
    views = np.random.default_rng(0).normal(size=(4, 2, 10))
    for scale in (1e4, 1e6, 1e8):
        assert lidar(views * scale) == pytest.approx(lidar(views, delta=1e-4 / scale**2), rel=1e-6)
    # Beside them delta is nothing, and only what lies outside the differences within classes counts.
    outside = np.linalg.svd(views[:, 0] - views[:, 1])[2][4:]
    means = (views.mean(axis=1) - views.mean(axis=(0, 1))) @ outside.T
    spectrum = np.linalg.svd(means, compute_uv=False) ** 2
    p = spectrum[:3] / spectrum.sum()
    assert lidar(views * 1e6) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def test_lidar_of_classes_of_other_sizes():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(6, 4, 3))
    mixed = rng.permutation(24)
    classes = np.arange(6).repeat(4)
    result = lidar_of_classes(torch.from_numpy(views.reshape(24, 3)[mixed]), torch.from_numpy(classes[mixed]))
    assert result == pytest.approx(lidar(views), rel=1e-9)
    # A class twice as large weighs no more.
    doubled = np.concatenate([views.reshape(24, 3), views[0]])
    result = lidar_of_classes(torch.from_numpy(doubled), torch.from_numpy(np.append(classes, [0] * 4)))
    assert result == pytest.approx(lidar(views), rel=1e-9)


def test_lidar_without_value_and_bad_input():
    views = np.random.default_rng(0).normal(size=(1, 4, 3))
    assert np.isnan(lidar(np.repeat(views, 5, axis=0) + 0.1))
    for shape in ((1, 4, 3), (4, 1, 3), (4, 3), (4, 3, 0)):
        with refusal("bad-shape", "views"):
            lidar(np.ones(shape))
    with refusal("bad-value", "delta", "0"):
        lidar(np.ones((3, 2, 2)), delta=0)
    with refusal("bad-value", "delta"):
        lidar(np.random.default_rng(0).normal(size=(4, 2, 30)) * 1e12)
    with refusal("not-finite"):
        lidar(np.full((3, 2, 2), np.nan))


def test_alignment_in_closed_form():
    x = np.random.default_rng(0).normal(size=(20, 4))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-15)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(x, -x, power=1) == pytest.approx(2)
    assert alignment(np.concatenate([x, x[:1] * 0]), np.concatenate([x, x[:1]])) == pytest.approx(0, abs=1e-15)
    assert np.isnan(alignment(np.zeros((3, 2)), np.ones((3, 2))))


def test_infonce_at_a_low_temperature():
    """exp overflows where the difference of logarithms does not."""
    assert infonce(np.eye(4), np.roll(np.eye(4), 1, axis=0), temperature=1e-4) == pytest.approx(1e4, rel=1e-6)


@pytest.mark.parametrize("block", [20, 2**22])
def test_infonce_is_its_formula(monkeypatch, block):
    monkeypatch.setattr(views_module, "BLOCK_ELEMENTS", block)
    x, y = np.random.default_rng(0).normal(size=(2, 7, 3))
    z = np.concatenate([x, y])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(14):
        others = [math.exp(z[i] @ z[j] / 0.2) for j in range(14) if j != i]
        terms.append(-math.log(math.exp(z[i] @ z[(i + 7) % 14] / 0.2) / sum(others)))
    assert infonce(x, y, temperature=0.2) == pytest.approx(np.mean(terms), rel=1e-12)


def entropy_of(kernel, order=1.0):
    p = np.linalg.eigvalsh(kernel / np.trace(kernel))
    p = p[p > 1e-13]
    return -(p * np.log(p)).sum() if order == 1 else np.log((p**order).sum()) / (1 - order)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_dime_is_its_formula(order):
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3))
    y = np.hstack([y, x])
    kernels = []
    for view in (x, y):
        gaps = np.linalg.norm(view[:, None] - view[None], axis=2)
        bandwidth = np.median(gaps[np.triu_indices(5, 1)])
        kernels.append(np.exp(-(gaps**2) / (2 * bandwidth**2)))
    a, b = kernels
    broken = [entropy_of(a * b[np.ix_(p, p)], order) for p in itertools.permutations(range(5))]
    assert dime(x, y, order=order) == pytest.approx(np.mean(broken) - entropy_of(a * b, order), rel=1e-9)


def test_dime_of_drawn_permutations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    shared, apart = dime(x, x), dime(x, rng.normal(size=(60, 2)))
    assert shared > 0.3 and abs(apart) < 0.05
    assert dime(x, x, seed=1) != shared == dime(x, x)
    assert dime(x, x, permutations=200) == pytest.approx(shared, abs=0.02)


def test_dime_without_value_and_bad_input():
    x = np.random.default_rng(0).normal(size=(6, 2))
    assert np.isnan(dime(x, np.ones((6, 2)))) and dime(x, np.ones((6, 2)), bandwidth=1) == pytest.approx(0, abs=1e-12)
    for wrong in ({"bandwidth": 0}, {"bandwidth": -1}, {"permutations": 0}, {"order": 0}):
        with refusal("bad-value", next(iter(wrong))):
            dime(x, x, **wrong)
    with refusal("too-large", "(5000, 1)", "4096"):
        dime(np.zeros((5000, 1)), np.zeros((5000, 1)))
    for functional in (dime, alignment, infonce):
        with refusal("bad-shape", "(6, 2) and (5, 2)"):
            functional(x, x[:5])
    for functional in (alignment, infonce):
        with refusal("bad-shape", "same features"):
            functional(x, x[:, :1])
    with refusal("bad-value", "power"):
        alignment(x, x, power=0)
    with refusal("bad-value", "temperature"):
        infonce(x, x, temperature=0)
    with refusal("bad-shape", "at least 2"):
        infonce(x[:1], x[:1])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_invariances_and_non_invariances(seed, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 5, 4))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    order = rng.permutation(5)
    for functional in (alignment, infonce, dime):
        value = functional(x, y)
        assert functional(scale * x @ turn, scale * y @ turn) == pytest.approx(value, rel=1e-8, abs=1e-10)
        assert functional(x[order], y[order]) == pytest.approx(value, rel=1e-8, abs=1e-10)
        assert functional(y, x) == pytest.approx(value, rel=1e-8, abs=1e-10)
    assert dime(x + 1e4, y - 1e4) == pytest.approx(dime(x, y), rel=1e-6, abs=1e-8)
    assert alignment(x + 1e4, y + 1e4) == pytest.approx(0, abs=1e-5) and alignment(x, y) > 1e-3
    assert infonce(x + 1e4, y + 1e4) == pytest.approx(math.log(9), abs=1e-4)
    views = rng.normal(size=(5, 3, 4))
    assert lidar((views @ turn + 1e4)[::-1]) == pytest.approx(lidar(views), rel=1e-6)
    assert lidar(views * scale, delta=1e-4 * scale**2) == pytest.approx(lidar(views), rel=1e-8)


@pytest.mark.parametrize("measure", [Lidar(), Alignment(), InfoNce(), Dime()])
def test_samples_without_a_second_view_are_refused(measure):
    x = np.random.default_rng(0).normal(size=(20, 4))
    with refusal("too-few", measure.name):
        measure.compute(taps(None, a=x), None, 0)
    with refusal("too-few", "1", "19"):
        measure.compute(taps(["g0", "g0", *(f"g{i}" for i in range(1, 19))], a=x), None, 0)
    assert not measure.standard


def test_pair_measures_read_the_first_two_samples_of_each_group():
    rng = np.random.default_rng(0)
    groups = ["a", "b", "lone", "b", "a", "a", "c", "c"]
    x = rng.normal(size=(8, 4))
    first, second = x[[0, 1, 6]], x[[4, 3, 7]]
    for measure, plain in ((Alignment(), alignment), (InfoNce(), infonce), (Dime(), dime)):
        result = measure.compute(taps(groups, a=x), None, 0)
        assert result.score.item() == pytest.approx(plain(first, second), rel=1e-9)
        assert result.attrs["n"] == 6 and "3 groups" in result.attrs["rows"]


def test_lidar_measure_reads_all_samples_of_groups_with_two():
    rng = np.random.default_rng(0)
    views = rng.normal(size=(7, 3, 4))
    x = np.concatenate([views.reshape(21, 4), rng.normal(size=(2, 4))])
    groups = [f"g{i // 3}" for i in range(21)] + ["one", "two"]
    mixed = rng.permutation(23)
    result = Lidar().compute(taps([groups[i] for i in mixed], a=x[mixed]), None, 0)
    assert result.score.item() == pytest.approx(lidar(views), rel=1e-9)
    assert result.line_ceiling.item() == 4 and result.attrs["n"] == 21


def test_measures_point_at_the_planted_tap():
    """Groups are told apart at one tap and not at the other."""
    rng = np.random.default_rng(0)
    together, groups = paired(rng, pairs=40, noise=0.1)
    apart = rng.normal(size=together.shape)
    activations = taps(groups, apart=apart, together=together)
    near = Alignment().compute(activations, None, 0)
    assert near.high[1].item() < near.low[0].item() and near.high[1].item() < near.line_unpaired[1].item() / 3
    assert near.low[0].item() < near.line_unpaired[0].item() < near.high[0].item()
    result = InfoNce().compute(activations, None, 0)
    assert result.high[1].item() < result.low[0].item()
    assert result.low[0].item() < result.line_unpaired[0].item() < result.high[0].item()
    first, second = apart[::2], apart[1::2]
    broken = [infonce(first, np.roll(second, shift, axis=0)) for shift in range(1, 40)]
    assert result.line_unpaired[0].item() == pytest.approx(np.mean(broken), rel=1e-9)
    assert result.line_alike.values == pytest.approx([math.log(79)] * 2)
    shared = Dime().compute(activations, None, 0)
    assert shared.low[1].item() > max(0, shared.high[0].item())
    assert shared.low[0].item() < 0 < shared.high[0].item()
    flat = together.copy()
    flat[:, 1:] = rng.normal(size=flat[:, 1:].shape)
    rank = Lidar().compute(taps(groups, full=together, one=flat, apart=apart), None, 0)
    assert rank.high[1].item() < rank.low[0].item()
    assert rank.low[2].item() < rank.line_shuffled[2].item() < rank.high[2].item()


def test_measures_say_what_has_no_value():
    x, groups = paired(np.random.default_rng(0), pairs=10)
    x[0] = 0
    result = Alignment().compute(taps(groups, a=x, b=0 * x), None, 0)
    assert result.attrs["reason"].startswith("a: 1 of 10 pairs have a sample of length zero; b: 0 of 10 pairs")
    for measure in (InfoNce(), Dime(), Lidar()):
        result = measure.compute(taps(groups, a=0 * x, b=x), None, 0)
        assert np.isnan(result.score[0].item()) and result.attrs["reason"].startswith("a: ")
        assert np.isfinite(result.score[1].item()) and np.isfinite(result.low[1].item())
    # Nine pairs are left, and all alike they would be one of 17.
    assert InfoNce().compute(taps(groups, a=x), None, 0).line_alike.item() == pytest.approx(math.log(17))


@pytest.mark.parametrize("measure", [Lidar(), Alignment(), InfoNce(), Dime()])
def test_interval_covers(measure):
    values, lows, highs = [], [], []
    for seed in range(60):
        x, groups = paired(np.random.default_rng(seed), pairs=30)
        result = measure.compute(taps(groups, a=x), None, seed)
        values.append(result.score.item())
        lows.append(result.low.item())
        highs.append(result.high.item())
    truth = np.mean(values)
    assert 0.88 <= ((np.array(lows) <= truth) & (truth <= np.array(highs))).mean() <= 1
    assert np.mean(np.subtract(highs, lows)) < 8 * np.std(values)
