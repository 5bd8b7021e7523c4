"""The route of a GPU (all taps and penalties together), on the CPU: the same code, chosen by device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.probes import protocol, samples
from diagnostics.measures.probes.cross_attention import AttentiveProbe
from diagnostics.measures.probes.least_squares import PENALTIES, RidgeStack, refit
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.nearest import KnnProbe
from diagnostics.measures.probes.softmax import LogisticRows, _best, choose_logistic
from tests.support.memory import MemoryActivations, label_target

GRID = (1.0, 1e-2, 1e-4)


def taps(n, widths, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    mixed = [
        (rng.normal(size=(n, d)) + 0.7 * rng.normal(size=(classes, d))[labels]) @ rng.normal(size=(d, d)) + 5
        for d in widths
    ]
    return mixed, labels


def gradient(x, labels, weights, bias, mean, penalty):
    """Of mean cross-entropy + penalty / 2 |W|^2 in standardised features, by hand; weights [class, feature]."""
    sd = x.std(axis=0)
    z = np.divide(x - x.mean(axis=0), sd, out=np.zeros_like(x), where=sd > 0)
    residual = np.exp(log_softmax((x - mean) @ weights.T + bias, axis=1)) - np.eye(len(weights))[labels]
    return np.concatenate([z.T @ residual / len(x) + penalty * (weights * sd).T, residual.mean(axis=0)[None]])


@pytest.mark.parametrize(("n", "d", "k"), [(120, 8, 3), (30, 70, 4), (60, 5, 2)])
def test_all_taps_and_penalties_together_equal_scikit_learn(n, d, k):
    arrays, labels = taps(n, (d, d), k)
    rows = LogisticRows(torch.from_numpy(np.stack(arrays)), labels, exact=True)
    fits = rows.fit([GRID, GRID[::-1]], tolerance=1e-7)
    for tap, x in enumerate(arrays):
        scaler = StandardScaler().fit(x)
        for i, penalty in enumerate((GRID, GRID[::-1])[tap]):
            weights, bias = fits.weights[tap, i].numpy(), fits.bias[tap, i].numpy()
            assert np.abs(gradient(x, labels, weights, bias, fits.mean[tap].numpy(), penalty)).max() < 1e-6
            c = (2 if k == 2 else 1) / (n * penalty)
            oracle = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(scaler.transform(x), labels)
            expected = oracle.coef_ if k > 2 else oracle.coef_ * [[-0.5], [0.5]]
            np.testing.assert_allclose(weights * scaler.scale_, expected, atol=2e-3 * np.abs(expected).max())


def test_taps_filled_up_with_zeros_are_fitted_as_without():
    (narrow, wide), labels = taps(90, (6, 10))
    filled = torch.from_numpy(np.stack([np.pad(narrow, ((0, 0), (0, 4))), wide]))
    both = LogisticRows(filled, labels, exact=True).fit(np.tile(GRID, (2, 1)), tolerance=1e-8)
    alone = LogisticRows(torch.from_numpy(narrow)[None], labels, exact=True).fit([GRID], tolerance=1e-8)
    np.testing.assert_allclose(both.weights[0, ..., :6], alone.weights[0], atol=1e-4)
    assert (both.weights[0, ..., 6:] == 0).all()


def test_a_start_elsewhere_leads_to_the_same_fit():
    (x,), labels = taps(100, (7,))
    first, second = (torch.from_numpy(part)[None] for part in (x[:70], x))
    start = LogisticRows(first, labels[:70]).fit([[0.1]], decrease=1e-3)
    for like in (None, start):
        again = LogisticRows(second, labels, exact=True, like=like).fit([[0.01]], tolerance=1e-9, start=start)
        cold = LogisticRows(second, labels, exact=True).fit([[0.01]], tolerance=1e-9)
        np.testing.assert_allclose(again.weights, cold.weights, atol=1e-6)


@pytest.mark.parametrize("d", [7, 150])
def test_a_start_says_the_same_of_every_row(d):
    """What was fitted on other rows, with another mean and scale, is the same model in the new coordinates."""
    (x,), labels = taps(100, (d,))
    first, second = torch.from_numpy(x[:70])[None], torch.from_numpy(x)[None]
    start = LogisticRows(first, labels[:70], exact=True).fit([[0.1]], tolerance=1e-9)
    again = LogisticRows(second, labels).fit([[0.1]], tolerance=1e9, start=start)
    size = (start.scores(second) / again.scores(second)).median()
    assert size == pytest.approx(1, abs=0.3), "only its size may be fitted at once"
    np.testing.assert_allclose(start.scores(second)[..., :70], size * again.scores(second)[..., :70], atol=1e-3)


@pytest.mark.parametrize("name", ["ridge", "logistic", "knn", "knn_votes", "leave_one_out", "attentive"])
def test_plain_functions_make_nothing_on_another_device(name):
    from diagnostics.measures import probes

    (x,), labels = taps(30, (4,))
    tokens = x.reshape(30, 2, 2)
    arguments = {
        "ridge": (x, x[:, :2]),
        "leave_one_out": (x, x[:, :2], (0.1,)),
        "logistic": (x, labels, (0.1,)),
        "attentive": (tokens, labels, tokens),
    }.get(name, (x, labels, x))
    expected = getattr(probes, name)(*arguments)
    with torch.device("meta"):
        result = getattr(probes, name)(*arguments)
    if isinstance(result, np.ndarray):
        np.testing.assert_array_equal(result, expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.0, 1e4, -1e4]))
def test_logistic_does_not_depend_on_scale_and_shift_of_features(seed, scale, shift):
    (x,), labels = taps(60, (5,), seed=seed)
    one, other = (
        LogisticRows(torch.from_numpy(a)[None], labels, exact=True)
        .fit([[0.01]], tolerance=1e-8)
        .scores(torch.from_numpy(a)[None])
        for a in (x, x * scale + shift * max(1, scale))
    )
    np.testing.assert_allclose(other.softmax(2), one.softmax(2), atol=1e-5)


def test_a_promise_of_little_decrease_is_kept():
    """Where the solver stops for a promise below `decrease`, the objective is that close to its minimum."""
    (x,), labels = taps(300, (40,), 5)
    stack = torch.from_numpy(x)[None]

    def objective(fits, penalty):
        w = fits.weights[0, 0].numpy() * x.std(axis=0)
        loss = fits.judge(stack, labels)[1].mean().item()
        return loss + penalty / 2 * (w**2).sum()

    for penalty in GRID:
        exact = objective(LogisticRows(stack, labels, exact=True).fit([[penalty]], tolerance=1e-8), penalty)
        for decrease in (1e-2, 1e-4, 1e-6):
            loose = objective(LogisticRows(stack, labels).fit([[penalty]], decrease=decrease), penalty)
            assert -1e-6 < loose - exact < 3 * decrease + 1e-6


def test_choice_together_and_one_by_one_agree():
    arrays, labels = taps(400, (8, 8, 8))
    stack = torch.from_numpy(np.stack(arrays))
    fit, val = slice(0, 300), slice(300, 400)
    together, fits = choose_logistic(stack[:, fit], labels[fit], stack[:, val], labels[val])
    for i in range(3):
        alone, single = choose_logistic(stack[i : i + 1, fit], labels[fit], stack[i : i + 1, val], labels[val])
        difference = (
            fits.judge(stack[:, val], labels[val])[1][i] - single.judge(stack[i : i + 1, val], labels[val])[1][0]
        )
        assert abs(difference.mean().item()) < 0.02
        assert alone[0] == pytest.approx(together[i]) or abs(difference.mean().item()) < 0.01


def test_accuracy_chooses_where_it_can_and_loss_where_it_cannot():
    def case(*right):
        return torch.tensor([[[1.0] * r + [0.0] * (100 - r) for r in right]])

    loss = torch.tensor([[[3.0] * 100, [2.0] * 100, [1.0] * 100]])
    assert _best(case(90, 60, 50), loss).item() == 0
    assert _best(case(90, 90, 89), loss).item() == 1
    assert _best(case(90, 90, 90), loss).item() == 2


@pytest.mark.parametrize("shape", [(60, 12), (20, 50)])
def test_ridge_of_several_taps_equals_scikit_learn(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, *shape)) * 3 + 100, rng.normal(size=(shape[0], 2))
    new = rng.normal(size=(3, 7, shape[1])) * 3 + 100
    stack = RidgeStack.from_data(torch.from_numpy(x), torch.from_numpy(y))
    result = stack.predict(torch.from_numpy(new))
    by_tap = torch.tensor([PENALTIES[2], PENALTIES[9], PENALTIES[15]])
    (maps,) = refit(torch.from_numpy(x), torch.from_numpy(y), by_tap.double()[:, None])
    one = maps.values(torch.from_numpy(new))
    np.testing.assert_allclose(stack.predict(torch.from_numpy(new), by_tap.double()[:, None])[:, 0], one, atol=1e-7)
    for tap in range(3):
        scaler = StandardScaler().fit(x[tap])
        for i in range(0, len(PENALTIES), 4):
            oracle = Ridge(alpha=shape[0] * PENALTIES[i], solver="svd").fit(scaler.transform(x[tap]), y)
            np.testing.assert_allclose(result[tap, i], oracle.predict(scaler.transform(new[tap])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("together", [2, 5])
def test_measures_say_the_same_for_taps_in_stacks(monkeypatch, together):
    arrays, labels = taps(250, (6, 9, 9, 4, 7), 3)
    rng = np.random.default_rng(1)
    y = arrays[1] @ rng.normal(size=9) + rng.normal(size=250) * 5
    given_ = MemoryActivations({str(i): x[:, None] for i, x in enumerate(arrays)})
    targets = [
        (LinearProbe(), StoredTarget("speed", "value", y)),
        (LinearProbe(), StoredTarget("angle", "state", y, period=30.0)),
        (LinearProbe(), StoredTarget("next", "future", np.stack([y, -y], axis=1))),
        (LinearProbe(), label_target(labels)),
        (KnnProbe(), label_target(labels)),
    ]
    alone = [measure.compute(given_, target, 0) for measure, target in targets]

    def stacks(activations, measure):
        for start in range(0, 5, together):
            result = [activations.pooled(tap.name) for tap in activations.taps[start : start + together]]
            width = max(x.shape[1] for x in result)
            filled = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in result]
            yield slice(start, start + len(result)), torch.from_numpy(np.stack(filled))

    monkeypatch.setattr(samples, "tap_stacks", stacks)
    for (measure, target), one in zip(targets, alone, strict=True):
        other = measure.compute(given_, target, 0)
        assert set(one.data_vars) == set(other.data_vars)
        if target.kind == "label" and measure.name == "linear_probe":
            # Penalties are ranked from unfinished fits, which start elsewhere here.
            np.testing.assert_allclose(other.val_score, one.val_score, atol=0.05)
            continue
        for name in one.data_vars:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-8)


def test_stacks_go_through_all_taps_in_order():
    arrays, _ = taps(20, (6, 9, 4))
    given_ = MemoryActivations({str(i): x[:, None] for i, x in enumerate(arrays)})
    result = list(protocol.tap_stacks(given_, "linear_probe"))
    assert [taps for taps, _ in result] == [slice(0, 1), slice(1, 2), slice(2, 3)]
    for (_, stack), x in zip(result, arrays, strict=True):
        np.testing.assert_array_equal(stack[0], x)


@pytest.mark.parametrize("measure", [LinearProbe(), KnnProbe(), AttentiveProbe()])
def test_nothing_is_made_on_another_device(measure):
    arrays, labels = taps(40, (6, 6))
    given_ = MemoryActivations({str(i): x[:, None] for i, x in enumerate(arrays)})
    kinds = [label_target(labels)] + ([StoredTarget("v", "value", labels * 1.0)] if measure.name != "knn_probe" else [])
    for target in kinds:
        with torch.device("meta"):
            result = measure.compute(given_, target, 0)
        assert np.isfinite(result.loss).all()
