import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.probes import attentive as attentive_function
from diagnostics.measures.probes.cross_attention import SETTINGS, AttentiveProbe, attend, train
from diagnostics.measures.probes.linear import LinearProbe
from tests.support.memory import MemoryActivations, label_target
from tests.support.refusals import refusal


def score(result):
    return 1 - result.loss.sum("unit") / result.reference_loss.sum("unit")


def parameters(features=5, heads=4, outputs=3, taps=1, count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = (taps, count, heads, features), (taps, count, heads * features, outputs), (taps, count, outputs)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def needle(n=400, tokens=16, features=12, classes=4, seed=0):
    """A class that is held by one token of a sample, somewhere; its average over the tokens is weak."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    x = rng.normal(size=(n, tokens, features))
    x[np.arange(n), rng.integers(0, tokens, n)] += 6 * np.eye(features)[0] + 4 * np.eye(features)[1 + labels]
    return x, labels


# The model


def test_model_equals_its_formula():
    tokens = torch.randn(1, 6, 7, 5, dtype=torch.float64)
    queries, weights, bias = parameters()
    result = attend(tokens, queries, weights, bias)[0].numpy()
    x, q, w, b = tokens[0].numpy(), queries[0].numpy(), weights[0].numpy(), bias[0].numpy()
    for s in range(2):
        for i in range(6):
            out = b[s].copy()
            for h in range(4):
                a = np.exp(x[i] @ q[s, h] / np.sqrt(5))
                out += (a / a.sum()) @ x[i] @ w[s].reshape(4, 5, 3)[h]
            np.testing.assert_allclose(result[s, i], out, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_tokens_does_not_matter_and_their_content_does(seed):
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.normal(size=(1, 4, 9, 5)))
    given_, other = tokens.clone(), tokens.clone()
    given_ = given_[:, :, torch.from_numpy(rng.permutation(9))]
    other[:, :, 0] += 1
    p = parameters(seed=seed)
    np.testing.assert_allclose(attend(given_, *p), attend(tokens, *p), atol=1e-12)
    assert not np.allclose(attend(other, *p), attend(tokens, *p), atol=1e-3)


def test_a_common_shift_and_scale_of_tokens_changes_nothing_but_rounding():
    x, labels = needle(120)
    y = torch.from_numpy(labels)
    one, other = (
        list(train(torch.from_numpy(t).float()[None], y, [list(SETTINGS)], 2, 0))[-1].weights for t in (x, x * 4 + 16)
    )
    np.testing.assert_allclose(other, one, atol=1e-3)


# The plain function


def test_plain_function_finds_classes_and_values():
    x, labels = needle(500)
    before = x.copy()
    result = attentive_function(x[:400], labels[:400] * 10 + 3, x[400:], setting=(3e-2, 1e-2))
    assert (result == labels[400:] * 10 + 3).mean() > 0.8
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(
        attentive_function(
            torch.from_numpy(x[:400]), torch.from_numpy(labels[:400] * 10 + 3), x[400:], setting=(3e-2, 1e-2)
        ),
        result,
    )
    value = x[:, :, 2].mean(axis=1) * 50 + 7
    guess = attentive_function(x[:400], value[:400], x[400:])
    assert guess.shape == (100,)
    assert 1 - ((guess - value[400:]) ** 2).sum() / ((value[400:] - value[:400].mean()) ** 2).sum() > 0.7
    both = attentive_function(x[:400], np.stack([value, -value], axis=1)[:400], x[400:], epochs=2)
    assert both.shape == (100, 2)


def test_plain_function_bad_input():
    x, labels = needle(40)
    with refusal("bad-shape"):
        attentive_function(x, labels[:-1], x)
    with refusal("bad-shape"):
        attentive_function(x, labels, x[:, :, :-1])
    with refusal("not-finite"):
        attentive_function(np.where(x > 2, np.nan, x), labels, x)
    with refusal("bad-shape"):
        attentive_function(x[0, 0], labels, x)


# The measure


def test_a_class_in_one_token_is_found_where_mean_pooling_dilutes_it():
    x, labels = needle(500)
    noise = np.random.default_rng(9).normal(size=x.shape)
    given_ = MemoryActivations({"noise": noise, "needle": x})
    result = AttentiveProbe().compute(given_, label_target(labels), 0)
    pooled = LinearProbe().compute(given_, label_target(labels), 0)
    assert score(result).sel(tap="needle").item() > score(pooled).sel(tap="needle").item() + 0.1
    assert score(result).sel(tap="needle").item() > 0.85
    assert score(result).sel(tap="noise").item() == pytest.approx(0.25, abs=0.12)
    assert int(result.val_score.values.argmax()) == 1
    assert (result.epochs >= 1).all()
    shuffled = AttentiveProbe().compute(given_, label_target(np.random.default_rng(1).permutation(labels)), 0)
    assert score(shuffled).values == pytest.approx(0.25, abs=0.13)


def test_values_angles_and_horizons():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6, 8))
    speed = x[:, :, 1].mean(axis=1) * 3
    x[:, :, :2] += rng.normal(size=(300, 1, 2)) * 3
    angle = np.degrees(np.arctan2(*x[:, :, :2].mean(axis=1).T)) % 360
    targets = {
        "speed": StoredTarget("speed", "value", speed),
        "angle": StoredTarget("angle", "state", angle, period=360.0),
        "future": StoredTarget("next", "future", np.stack([x[:, :, 0].mean(axis=1), rng.normal(size=300)], axis=1)),
    }
    result = {name: AttentiveProbe().compute(MemoryActivations({"a": x}), t, 0) for name, t in targets.items()}
    assert score(result["angle"]).item() > 0.6
    assert result["angle"].angular_error.item() < 35
    assert result["angle"].loss.dims == result["speed"].loss.dims == ("tap", "unit")
    assert result["future"].loss.dims == ("tap", "unit", "part")
    assert score(result["future"]).values[0, 0] > 0.8
    assert score(result["future"]).values[0, 1] < 0.1


def test_equal_seeds_equal_results_and_test_samples_choose_nothing():
    x, labels = needle(100, 4, 8)
    changed = x.copy()
    given_ = MemoryActivations({"a": x})
    test = given_.split == "test"
    changed[test] = np.random.default_rng(0).normal(size=changed[test].shape) * 100
    one, same, other = (
        AttentiveProbe().compute(MemoryActivations({"a": a}), label_target(labels), 0) for a in (x, x, changed)
    )
    assert one.identical(same)
    for name in set(one.data_vars) - {"loss"}:
        np.testing.assert_array_equal(one[name], other[name])
    assert not np.array_equal(one.loss, other.loss)


def test_taps_trained_side_by_side_are_as_if_alone(monkeypatch):
    x, labels = needle(90, 4, 8)
    taps = {"a": x, "b": x[:, ::-1] * 2, "narrow": x[:, :, :5], "c": x + 1}
    alone = AttentiveProbe().compute(MemoryActivations(taps), label_target(labels), 0)
    module = sys.modules[AttentiveProbe.__module__]

    monkeypatch.setattr(module, "_alike", lambda taps, device: iter([[0, 1, 3], [2]]))
    together = AttentiveProbe().compute(MemoryActivations(taps), label_target(labels), 0)
    np.testing.assert_allclose(together.val_score, alone.val_score, atol=0.06)
    np.testing.assert_allclose(score(together), score(alone), atol=0.12)
    y = torch.from_numpy(labels)
    stack = torch.stack([torch.from_numpy(np.ascontiguousarray(taps[k])).float() for k in ("a", "b", "c")])
    fitted = list(train(stack.clone(), y, [list(SETTINGS)] * 3, 2, 0))[-1]
    for i in range(3):
        single = list(train(stack[i : i + 1].clone(), y, [list(SETTINGS)], 2, 0))[-1]
        np.testing.assert_allclose(fitted.weights[i], single.weights[0], atol=1e-4)


def test_same_shapes_go_together_on_a_gpu():
    from diagnostics.measures.probes.cross_attention import _alike

    taps = MemoryActivations({"a": np.ones((5, 4, 8)), "b": np.ones((5, 4, 6)), "c": np.ones((5, 4, 8))}).taps
    assert list(_alike(taps, "cuda")) == [[0, 2], [1]]
    assert list(_alike(taps, "cpu")) == [[0], [2], [1]]


def test_only_samples_with_tokens_are_read_and_limits_hold(monkeypatch):
    module = sys.modules[AttentiveProbe.__module__]

    x, labels = needle(100, 4, 8)
    result = AttentiveProbe().compute(MemoryActivations({"a": x}, token_samples=60), label_target(labels), 0)
    assert result.attrs["n_train"] + result.attrs["n_val"] + result.attrs["n_test"] == 60
    monkeypatch.setattr(module, "MOST_VALUES", 4 * 8 * 50)
    result = AttentiveProbe().compute(MemoryActivations({"a": x}), label_target(labels), 0)
    assert result.attrs["n_train"] == 30


def test_bad_taps_are_named_and_constant_ones_are_chance():
    x, labels = needle(60, 4, 8)
    constant = AttentiveProbe().compute(MemoryActivations({"a": np.full_like(x, 0.3)}), label_target(labels), 0)
    assert 0 <= score(constant).item() < 0.7
    x[3, 2] = np.nan
    with refusal("not-finite", "tap a"):
        AttentiveProbe().compute(MemoryActivations({"a": x}), label_target(labels), 0)
    with refusal("no-target"):
        AttentiveProbe().compute(MemoryActivations({"a": x}), None, 0)
