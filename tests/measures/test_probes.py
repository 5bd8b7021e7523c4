import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes import (
    PENALTIES,
    Moments,
    RidgePath,
    attentive,
    knn,
    knn_votes,
    least_squares,
    leave_one_out,
    logistic,
    ridge,
)
from diagnostics.measures.probes.least_squares import RidgeFits, choose
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.probes.nearest import NEIGHBOURS, KnnProbe
from diagnostics.measures.probes.softmax import LOGISTIC_PENALTIES
from tests.support.memory import MemoryActivations, label_target, thirds
from tests.support.refusals import refusal


def score(result):
    return 1 - result.loss.sum("unit") / result.reference_loss.sum("unit")


def value(values, kind="value", **options):
    return StoredTarget("speed", kind, values, **options)


def gathered(x, y, sizes=(13, 1, 1000)):
    moments, start = Moments(x[5], y[5]), 0
    for size in sizes:
        moments.update(x[start : start + size], y[start : start + size])
        start += size
    return moments


# Ridge


@pytest.mark.parametrize("shape", [(60, 12), (20, 50), (30, 30)])
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_ridge_equals_scikit_learn(shape, shift):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape) * rng.uniform(0.1, 10, shape[1]) + shift, rng.normal(size=(shape[0], 3)) + shift
    new = rng.normal(size=(7, shape[1])) + shift
    scaler = StandardScaler().fit(x)
    paths = [RidgePath.from_data(x, y), RidgePath.from_moments(gathered(x, y))]
    for penalty in PENALTIES[::3]:
        oracle = Ridge(alpha=shape[0] * penalty, solver="svd").fit(scaler.transform(x), y)
        tolerance = {"rtol": 1e-5, "atol": 1e-6}
        for path in paths:
            np.testing.assert_allclose(path.weights(penalty), oracle.coef_.T / scaler.scale_[:, None], **tolerance)
            np.testing.assert_allclose(
                path.predict(new, (penalty,))[0], oracle.predict(scaler.transform(new)), **tolerance
            )
            by_hand = new @ path.weights(penalty) + path.intercept(penalty)
            np.testing.assert_allclose(by_hand, path.predict(new, (penalty,))[0], rtol=1e-6, atol=1e-6)
        fits = RidgeFits.from_moments(gathered(x, y), (penalty, 2 * penalty))
        np.testing.assert_allclose(fits.weights[0], oracle.coef_.T / scaler.scale_[:, None], **tolerance)
        np.testing.assert_allclose(fits.predict(new)[0], oracle.predict(scaler.transform(new)), **tolerance)


@pytest.mark.parametrize("shape", [(40, 9), (15, 40)])
def test_ridge_hat_matrix(shape):
    """Predictions for the rows fitted are H y, with H from a direct inverse."""
    rng = np.random.default_rng(1)
    n, d = shape
    x, y, penalty = rng.normal(size=shape), rng.normal(size=(n, 1)), PENALTIES[8]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    hat = z @ np.linalg.inv(z.T @ z + n * penalty * np.eye(d)) @ z.T + 1 / n
    for path in (RidgePath.from_data(x, y), RidgePath.from_moments(gathered(x, y))):
        np.testing.assert_allclose(path.predict(x, (penalty,))[0], hat @ y, atol=1e-10)


def test_moments_add_up_and_give_the_error_elsewhere():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 6)) + 1e4, rng.normal(size=(90, 2)) - 50
    one, two, whole = (Moments(x[0], y[0]) for _ in range(3))
    one.update(x[:60], y[:60])
    two.update(x[60:], y[60:])
    whole.update(x, y)
    added = one + two
    np.testing.assert_allclose(RidgePath.from_moments(added).weights(0.1), RidgePath.from_moments(whole).weights(0.1))
    path = RidgePath.from_moments(one)
    for penalty in PENALTIES:
        direct = ((path.predict(x[60:], (penalty,))[0] - y[60:]) ** 2).sum(axis=0)
        np.testing.assert_allclose(two.squared_error(path, penalty), direct, rtol=1e-9)
        np.testing.assert_allclose(two.squared_errors(path, PENALTIES)[PENALTIES.index(penalty)], direct, rtol=1e-9)
    np.testing.assert_allclose(two.spread(path.mean_y), ((y[60:] - y[:60].mean(axis=0)) ** 2).sum(axis=0), rtol=1e-9)
    with refusal("conflict", "origin"):
        _ = one + Moments(x[1], y[1])


def test_sums_that_rounding_made_indefinite_are_solved_as_their_path():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(200, 3)), 4, axis=1)  # each feature four times
    y = x[:, :1] + rng.normal(size=(200, 1))
    moments = gathered(x, y)
    exact = RidgePath.from_moments(moments)
    off = rng.normal(size=(12, 12)) * 2e-3
    moments.xx += off + off.T
    assert np.linalg.eigvalsh(moments.xx).min() < -200 * 1e-5
    weights = RidgeFits.from_moments(moments, [1e-5]).weights[0]
    np.testing.assert_allclose(weights, RidgePath.from_moments(moments).weights(1e-5), atol=1e-9)
    np.testing.assert_allclose(x @ weights, x @ exact.weights(1e-5), atol=0.01)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 1000), st.floats(-1e4, 1e4))
def test_ridge_does_not_depend_on_scale_and_shift_of_features(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 1))
    scales = scale * rng.uniform(0.5, 2, 5)
    one = RidgePath.from_data(x[:20], y[:20]).predict(x[20:])
    other = RidgePath.from_data(x[:20] * scales + shift, y[:20]).predict(x[20:] * scales + shift)
    # A feature of size .001 at offset 1e4 keeps nine digits.
    np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize("n", [40, 6])
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8 / 3])
def test_constant_features_drop_out(n, constant):
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(n, 8)), rng.normal(size=(n, 1)), rng.normal(size=(5, 8))
    with_constant = np.insert(x, 3, constant, axis=1)
    new_constant = np.insert(new, 3, constant + 1.0, axis=1)
    path = RidgePath.from_data(with_constant, y)
    assert path.weights(PENALTIES[0])[3] == 0
    np.testing.assert_allclose(path.predict(new_constant), RidgePath.from_data(x, y).predict(new), atol=1e-9)
    only = RidgePath.from_data(np.full((n, 2), constant), y)
    np.testing.assert_allclose(only.predict(new[:, :2]), np.broadcast_to(y.mean(), (len(PENALTIES), 5, 1)))


@pytest.mark.parametrize("n", [40, 6])
def test_rounding_error_around_a_constant_is_no_feature(n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 8)), rng.normal(size=(n, 1))
    x[:, 2] = 1e3 / 3 * (1 + rng.integers(-2, 3, n) * np.finfo(float).eps)
    x[:, 5] *= 1e-6
    weights = RidgePath.from_data(x, y).weights(PENALTIES[0])
    assert weights[2] == 0
    assert abs(weights[5]) > 0, "small is not constant"


def test_duplicated_features_and_rows():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 1))
    twice = RidgePath.from_data(np.hstack([x, x]), y)
    np.testing.assert_allclose(twice.weights(0.01)[:4], twice.weights(0.01)[4:], atol=1e-10)
    repeated = RidgePath.from_data(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0))
    # The penalty is relative to n, so the same rows twice are the same problem.
    np.testing.assert_allclose(repeated.predict(x), RidgePath.from_data(x, y).predict(x), atol=1e-10)


def test_ridge_bad_rows():
    with refusal("not-finite"):
        RidgePath.from_data(np.array([[1.0], [np.nan], [2.0]]), np.zeros((3, 1)))
    with refusal("bad-shape", "rows"):
        RidgePath.from_data(np.zeros((0, 3)), np.zeros((0, 1)))
    assert choose([1.0, 0.5, 0.5, 2.0], (1, 2, 3, 4)) == 3


@pytest.mark.parametrize("shape", [(25, 4), (15, 40)])
def test_leave_one_out_equals_fits_without_the_row(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=shape) + 50, rng.normal(size=(shape[0], 2))
    result = leave_one_out(x, y, PENALTIES[2::5])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    for penalty, predictions in zip(PENALTIES[2::5], result, strict=True):
        for i in (0, 7, shape[0] - 1):
            others = np.arange(shape[0]) != i
            oracle = Ridge(alpha=shape[0] * penalty, solver="svd").fit(z[others], y[others])
            np.testing.assert_allclose(predictions[i], oracle.predict(z[i : i + 1])[0], atol=1e-9)


def test_ridge_as_a_plain_function():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 4)), rng.normal(size=(4, 2))
    path = ridge(torch.from_numpy(x).float(), torch.from_numpy(x @ w + 3).float())
    assert isinstance(path.predict(x), np.ndarray)
    np.testing.assert_allclose(path.weights(1e-12), w, atol=1e-5)
    np.testing.assert_allclose(path.predict(x, (1e-12,))[0], x @ w + 3, atol=1e-5)
    assert ridge(x, x[:, 0]).predict(torch.from_numpy(x)).shape == (len(PENALTIES), 50, 1)
    with refusal("bad-shape", "rows"):
        ridge(x, w)
    with refusal("bad-shape"):
        ridge(x[0], x[0])
    with refusal("not-finite"):
        ridge(x, np.full(50, np.inf))


@pytest.mark.parametrize("shape", [(60, 12), (20, 50)])
def test_another_target_of_the_same_rows_takes_no_decomposition(shape, monkeypatch):
    rng = np.random.default_rng(26)
    x, ys = rng.normal(size=shape), rng.normal(size=(2, shape[0]))
    decomposed = []
    monkeypatch.setattr(least_squares, "eigh", lambda matrix: decomposed.append(1) or torch.linalg.eigh(matrix))

    def check(x, y):
        z = StandardScaler().fit_transform(x)
        result = ridge(x, y).predict(x, 1e-2)[0, :, 0]
        np.testing.assert_allclose(result, Ridge(alpha=1e-2 * len(x)).fit(z, y).predict(z), atol=1e-8)

    for y in ys:
        check(x, y)
    assert len(decomposed) == 1
    # Rows that differ in one number are others.
    x[3, 5] += 1
    check(x, ys[0])
    assert len(decomposed) == 2


# The linear probe on values


def regression(n=200, d=10, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1, d))
    return x, x[:, 0] @ rng.normal(size=d) * 3 + 7 + noise * rng.normal(size=n)


def test_linear_map_is_read_out_and_noise_is_not():
    x, y = regression()
    noise = np.random.default_rng(9).normal(size=x.shape)
    result = LinearProbe().compute(MemoryActivations({"holds": x, "noise": noise}), value(y), 0)
    assert score(result).values[0] == pytest.approx(1, abs=1e-6)
    assert abs(score(result).values[1]) < 0.15
    assert result.penalty.values[0] == PENALTIES[0]
    assert result.penalty.values[1] > 0.1
    assert (result.attrs["n_train"], result.attrs["n_val"], result.attrs["n_test"]) == (120, 40, 40)
    assert result.loss.dims == ("tap", "unit")
    assert result.sizes["unit"] == 40


@pytest.mark.parametrize("kind", ["value", "state", "future"])
@pytest.mark.parametrize("d", [10, 150])
def test_protocol_step_by_step(kind, d):
    x, y = regression(d=d, noise=3)
    groups = np.array([f"g{i // 10}" for i in range(200)], dtype=object)
    split = np.array([("train", "val", "train", "test", "train")[i // 10 % 5] for i in range(200)], dtype=object)
    y[[3, 15, 33]] = np.nan
    given = MemoryActivations({"a": x}, split=split, groups=groups)
    result = LinearProbe().compute(given, value(y, kind), 0)
    known = np.isfinite(y)
    train, val, test = (known & (split == name) for name in ("train", "val", "test"))
    fit = train | val

    def oracle(rows, penalty):
        scaler = StandardScaler().fit(x[rows, 0])
        model = Ridge(alpha=rows.sum() * penalty, solver="svd").fit(scaler.transform(x[rows, 0]), y[rows])
        return lambda to: model.predict(scaler.transform(x[to, 0]))

    errors = [((oracle(train, penalty)(val) - y[val]) ** 2).sum() for penalty in PENALTIES]
    best = PENALTIES[int(np.argmin(errors))]
    assert result.penalty.item() == best
    assert result.val_score.item() == pytest.approx(1 - min(errors) / ((y[val] - y[train].mean()) ** 2).sum(), abs=1e-7)
    loss = (oracle(fit, best)(test) - y[test]) ** 2
    away = (y[test] - y[fit].mean()) ** 2
    for unit in result.unit.values:
        members = groups[test] == unit
        assert result.loss.sel(unit=unit).item() == pytest.approx(loss[members].sum(), rel=1e-6)
        assert result.reference_loss.sel(unit=unit).item() == pytest.approx(away[members].sum(), rel=1e-9)
    assert result.attrs["n_train"] == train.sum()
    assert result.attrs["units_test"] == result.sizes["unit"] == 4


def test_shift_of_all_features_changes_nothing():
    x, y = regression(noise=1)
    one, other = (LinearProbe().compute(MemoryActivations({"a": x + s}), value(y), 0) for s in (0.0, 1e4))
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-6)


@pytest.mark.parametrize("measure", [LinearProbe(), KnnProbe()])
def test_hyperparameters_do_not_see_test(measure):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 150)
    x = rng.normal(size=(150, 1, 6)) + np.eye(3, 6)[labels][:, None] * 1.5
    changed = x.copy()
    test = thirds(150) == "test"
    changed[test] = rng.normal(size=changed[test].shape) * 100
    targets = [label_target(labels)] + ([value(labels * 1.0)] if measure.name == "linear_probe" else [])
    for target in targets:
        one, other = (measure.compute(MemoryActivations({"a": a}), target, 0) for a in (x, changed))
        for name in set(one.data_vars) - {"loss", "reference_loss"}:
            np.testing.assert_array_equal(one[name], other[name])
        assert not np.array_equal(one.loss, other.loss)
        if target.kind == "label":
            relabelled = target.values.copy()
            relabelled[test] = (relabelled[test] + 1) % 3
            third = measure.compute(MemoryActivations({"a": x}), label_target(relabelled), 0)
            assert third.val_score.item() == one.val_score.item()


def test_errors_name_the_target():
    x, y = regression(40)
    given = MemoryActivations({"a": x})
    for split in ("train", "val", "test"):
        gone = np.where(given.split == split, np.nan, y)
        with refusal("too-few", split):
            LinearProbe().compute(given, value(gone), 0)
    with refusal("no-target"):
        LinearProbe().compute(given, None, 0)
    x[3] = np.nan
    with refusal("not-finite"):
        LinearProbe().compute(given, value(y), 0)


def test_constant_tap_scores_zero():
    x, y = regression()
    result = LinearProbe().compute(MemoryActivations({"a": np.full_like(x, 0.1)}), value(y), 0)
    assert score(result).item() == pytest.approx(0, abs=1e-12)


def test_a_target_that_goes_round_is_read_as_cosine_and_sine():
    rng = np.random.default_rng(0)
    hour = rng.uniform(0, 24, 250)
    # One feature runs along the circle: its ends would meet nowhere in a plain regression.
    x = np.stack([np.cos(hour * np.pi / 12), np.sin(hour * np.pi / 12)], axis=1) @ rng.normal(size=(2, 6)) + 100
    x += 0.1 * rng.normal(size=x.shape)
    given = MemoryActivations({"holds": x[:, None], "noise": rng.normal(size=(250, 1, 6))})
    result = LinearProbe().compute(given, value(hour, "state", period=24.0), 0)
    assert score(result).values[0] > 0.95
    assert abs(score(result).values[1]) < 0.15
    assert result.angular_error.values[0] < 1
    assert result.angular_error.values[1] == pytest.approx(6, abs=1.5), "a quarter of the period by chance"
    again = LinearProbe().compute(given, value(hour + 24 * rng.integers(-3, 3, 250), "state", period=24.0), 0)
    np.testing.assert_allclose(again.loss, result.loss, atol=1e-9)
    assert "angular_error" not in LinearProbe().compute(given, value(hour), 0)
    assert score(LinearProbe().compute(given, value(hour), 0)).values[0] < 0.8
    # By hand: squared errors of both columns, around their mean where fitted.
    y = np.stack([np.cos(hour * np.pi / 12), np.sin(hour * np.pi / 12)], axis=1)
    fit, test = given.split != "test", given.split == "test"
    away = ((y[test] - y[fit].mean(axis=0)) ** 2).sum(axis=1)
    np.testing.assert_allclose(result.reference_loss.values[0].sum(), away.sum())
    guess = RidgePath.from_data(x[fit], y[fit]).predict(x[test], (result.penalty.values[0],))[0]
    assert result.loss.values[0].sum() == pytest.approx(((guess - y[test]) ** 2).sum(), rel=1e-6)
    off = np.abs(np.angle(np.exp(1j * (np.arctan2(guess[:, 1], guess[:, 0]) - hour[test] * np.pi / 12))))
    assert result.angular_error.values[0] == pytest.approx(off.mean() * 12 / np.pi, rel=1e-6)


def test_horizons_are_parts_with_an_r2_each():
    x, y = regression(noise=1)
    steps = np.stack([y * 100, np.random.default_rng(5).normal(size=200), y], axis=1)
    steps[4, 1] = np.nan
    result = LinearProbe().compute(MemoryActivations({"a": x}), value(steps, "future"), 0)
    assert result.loss.dims == result.reference_loss.dims == ("tap", "unit", "part")
    assert result.sizes["part"] == 3
    assert result.attrs["n_train"] == 119
    r2 = score(result).values[0]
    assert r2[0] == pytest.approx(r2[2])
    assert r2[0] > 0.9
    assert abs(r2[1]) < 0.2
    assert result.val_score.item() == pytest.approx(r2.mean(), abs=0.15), "columns count alike, whatever their units"
    one = LinearProbe().compute(MemoryActivations({"a": x}), value(steps[:, :1], "future"), 0)
    assert one.loss.dims == ("tap", "unit")


@pytest.mark.parametrize("kind", ["value", "label"])
def test_fewer_rows_than_features_and_constant_features(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 1, 150))
    labels = (x[:, 0, 0] > 0).astype(int)
    x[:, 0, 3:9] += 6 * labels[:, None]
    x[:, 0, 40:80] = 1e6 / 3
    target = label_target(labels) if kind == "label" else value(labels * 1.0)
    result = LinearProbe().compute(MemoryActivations({"a": x}), target, 0)
    assert score(result).item() > 0.5
    without = LinearProbe().compute(MemoryActivations({"a": np.delete(x, np.arange(40, 80), axis=2)}), target, 0)
    np.testing.assert_allclose(result.loss, without.loss, atol=1e-6)


# Dense targets


def dense(n=40, noise=0.0):
    rng = np.random.default_rng(0)
    fine, coarse = rng.normal(size=(n, 12, 5)) + 3, rng.normal(size=(n, 4, 6))
    w, v = rng.normal(size=5), rng.normal(size=6)
    on_grid = {(3, 4): fine @ w + noise * rng.normal(size=(n, 12)) + 2, (2, 2): coarse @ v}
    on_grid[(3, 4)][::3, 5] = np.nan
    on_grid[(1, 1)] = rng.normal(size=(n, 1))
    # The output tap, `one`, has no grid, so `fine`, the last that has one with the target on it, is what all are scored on.
    arrays = {"coarse": coarse, "fine": fine, "other": rng.normal(size=(n, 12, 5)), "one": rng.normal(size=(n, 1, 5))}
    grids = {"coarse": (2, 2), "fine": (3, 4), "other": (4, 3), "one": (1, 1)}
    return arrays, grids, StoredTarget("depth", "token_value", np.empty(n), on_grid=on_grid)


def test_dense_target():
    arrays, grids, target = dense()
    result = LinearProbe().compute(MemoryActivations(arrays, grids), target, 0)
    assert score(result).sel(tap="fine").item() == pytest.approx(1, abs=1e-6)
    assert score(result).sel(tap="coarse").item() < 0.1
    assert np.isnan(result.loss.values[2:]).all()
    assert np.isnan(result.val_score.values[2:]).all()
    assert np.isnan(result.penalty.values[2:]).all()
    assert "other, one" in result.attrs["reason"]
    assert result.tokens_test.values.tolist()[2:] == [0, 0]
    assert result.tokens_train.values[1] == np.isfinite(target.on_grid[(3, 4)][thirds(40) == "train"]).sum()


@pytest.mark.parametrize("output", ["fine", "coarse"])
def test_taps_of_other_grids_are_scored_on_the_outputs_grid(output):
    """Coarse cells average noise away: scored each on its own grid, a coarse tap would seem to hold more."""
    rng = np.random.default_rng(1)
    fine = rng.normal(size=(60, 4, 4, 3)).repeat(2, axis=1).repeat(2, axis=2)
    coarse = fine.reshape(60, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    truth = fine @ np.array([1.0, 2.0, 3.0])
    seen = truth + 4 * rng.normal(size=truth.shape)
    on_grid = {(8, 8): seen.reshape(60, 64), (4, 4): seen.reshape(60, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(60, 16)}
    order = ["coarse", "fine"] if output == "fine" else ["fine", "coarse"]
    arrays = {"fine": fine.reshape(60, 64, 3), "coarse": coarse.reshape(60, 16, 3)}
    target = StoredTarget("depth", "token_value", np.empty(60), on_grid=on_grid)
    given = MemoryActivations({k: arrays[k] for k in order}, {"fine": (8, 8), "coarse": (4, 4)})
    result = score(LinearProbe().compute(given, target, 0))
    assert result.sel(tap="fine").item() == pytest.approx(result.sel(tap="coarse").item(), abs=1e-9)


def test_dense_equals_ridge_on_all_tokens_at_once():
    arrays, grids, target = dense(noise=4)
    kept = 33
    groups = np.array([f"g{i % 10}" for i in range(40)], dtype=object)
    given = MemoryActivations(arrays, grids, groups=groups, token_samples=kept)
    result = LinearProbe().compute(given, target, 0).sel(tap="fine")
    split = np.repeat(given.split[:kept], 12)
    x, y = arrays["fine"][:kept].astype(np.float32).astype(float).reshape(-1, 5), target.on_grid[(3, 4)][:kept].ravel()
    train, val, test = ((split == name) & np.isfinite(y) for name in ("train", "val", "test"))
    tried = RidgePath.from_data(x[train], y[train, None]).predict(x[val])
    errors = ((tried[:, :, 0] - y[val]) ** 2).sum(axis=1)
    assert result.penalty.item() == choose(errors)
    assert result.val_score.item() == pytest.approx(
        1 - errors.min() / ((y[val] - y[train].mean()) ** 2).sum(), abs=1e-9
    )
    fit = train | val
    scaler = StandardScaler().fit(x[fit])
    oracle = Ridge(alpha=fit.sum() * result.penalty.item()).fit(scaler.transform(x[fit]), y[fit])
    loss = (oracle.predict(scaler.transform(x[test])) - y[test]) ** 2
    for unit in result.unit.values:
        members = np.repeat(groups[:kept], 12)[test] == unit
        assert result.loss.sel(unit=unit).item() == pytest.approx(loss[members].sum(), rel=1e-7)
        away = ((y[test][members] - y[fit].mean()) ** 2).sum()
        assert result.reference_loss.sel(unit=unit).item() == pytest.approx(away, rel=1e-9)
    assert result.loss.sum().item() == pytest.approx(loss.sum(), rel=1e-7)


def test_dense_without_tokens_says_what_to_do():
    arrays, grids, target = dense()
    with refusal("too-few", "val", "--token-budget"):
        LinearProbe().compute(MemoryActivations(arrays, grids, token_samples=1), target, 0)
    with refusal("no-grid"):
        LinearProbe().compute(MemoryActivations({"other": arrays["other"]}, {"other": (4, 3)}), target, 0)
    arrays["fine"][2, 3] = np.nan
    with refusal("not-finite", "fine"):
        LinearProbe().compute(MemoryActivations(arrays, grids), target, 0)


# Logistic regression


def classes(n=120, d=8, k=3, seed=0, apart=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return rng.normal(size=(n, d)) * rng.uniform(0.5, 5, d) + 4 + apart * rng.normal(size=(k, d))[labels], labels


@pytest.mark.parametrize(("n", "d", "k"), [(120, 8, 3), (30, 70, 4), (60, 5, 2), (20, 50, 2)])
def test_logistic_equals_scikit_learn_and_its_gradient_vanishes(n, d, k):
    x, labels = classes(n, d, k)
    scaler = StandardScaler().fit(x)
    z, onehot = scaler.transform(x), np.eye(k)[labels]
    penalties = (1.0, 1e-2, 1e-4)
    for penalty, model in zip(penalties, logistic(x, labels, penalties, 1e-8), strict=True):
        weights = model.weights * scaler.scale_[:, None]
        bias = model.bias + (scaler.mean_ - model.mean) @ model.weights
        residual = np.exp(log_softmax(z @ weights + bias, axis=1)) - onehot
        assert np.abs(z.T @ residual / n + penalty * weights).max() < 1e-6
        assert np.abs(residual.mean(axis=0)).max() < 1e-6
        c = (2 if k == 2 else 1) / (n * penalty)
        oracle = LogisticRegression(C=c, tol=1e-9, max_iter=100_000).fit(z, labels)
        np.testing.assert_allclose(np.exp(model.log_probability(x)), oracle.predict_proba(z), atol=2e-4)
        expected = oracle.coef_.T if k > 2 else oracle.coef_.T * [-0.5, 0.5]
        np.testing.assert_allclose(weights, expected, atol=1e-3 * np.abs(expected).max())
        assert (model.predict(x) == oracle.predict(z)).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.linspace(0, 18.5, 40), "give integer classes"),
        (np.where(np.arange(40) < 3, np.nan, np.arange(40) % 2), "give integer classes"),
        ((np.arange(40) % 2).astype(np.float32), "give integer classes"),
        (torch.arange(40) / 2, "give integer classes"),
        (["cat", "dog"] * 20, "are text: give integer classes"),
        (np.array(["cat", None] * 20, dtype=object), "give integer classes"),
        (np.arange(40) % 2 - 1, "negative labels are unknown"),
        (np.arange(39) % 2, "one label per row, 40"),
        (np.zeros((40, 1), int), "one label per row, 40"),
    ],
)
def test_labels_that_are_no_integer_classes_are_refused_not_truncated(labels: object, message: str) -> None:
    x, tokens = np.random.default_rng(0).normal(size=(40, 3)), np.random.default_rng(1).normal(size=(40, 4, 3))
    calls = [lambda: logistic(x, labels), lambda: knn(x, labels, x), lambda: knn_votes(x, labels, x)]
    for call in calls:
        with pytest.raises(DiagnosticsError, match=message):
            call()
    if np.asarray(labels).dtype.kind != "f":
        with pytest.raises(DiagnosticsError, match=message.replace("are text", "classes are text")):
            attentive(tokens, labels, tokens)


def test_truth_values_are_classes() -> None:
    x, labels = classes()
    event = labels == 1
    assert logistic(x, event, 0.1)[0].predict(x).tolist() == logistic(x, event.astype(int), 0.1)[0].predict(x).tolist()
    assert knn(x, torch.from_numpy(event), x, k=1).tolist() == event.astype(int).tolist()


def test_one_penalty_is_as_good_as_several_and_what_does_not_fit_is_said() -> None:
    x, labels = classes()
    y = x[:, :1] * 2
    path = ridge(x, y)
    np.testing.assert_array_equal(path.predict(x, 1e-3), path.predict(x, (1e-3,)))
    np.testing.assert_array_equal(leave_one_out(x, y[:, 0], 0.1), leave_one_out(x, y, [0.1]))
    assert leave_one_out(x, y[:, 0], 0.1).shape == (1, len(x), 1)
    np.testing.assert_array_equal(logistic(x, labels, 0.1)[0].weights, logistic(x, labels, [0.1])[0].weights)
    model = logistic(x, labels, 0.1)[0]
    for call in (lambda: path.predict(x[:, 1:]), lambda: path.predict(x[0]), lambda: model.predict(x[:, 1:])):
        with refusal("bad-shape", x.shape[1]):
            call()
    assert (model.predict(torch.from_numpy(x)) == model.predict(x)).all()
    for penalties in (-1.0, (), (0.1, np.nan)):
        for call in (lambda p: path.predict(x, p), lambda p: logistic(x, labels, p), lambda p: leave_one_out(x, y, p)):
            with refusal("bad-value", "penalties"):
                call(penalties)
    with refusal("bad-shape", "rows"):
        leave_one_out(x, y[1:])


def test_logistic_of_labels_that_skip_numbers():
    x, labels = classes()
    model, usual = (logistic(x, some, (0.1,))[0] for some in (labels * 10 + 3, labels))
    assert model.classes.tolist() == [3, 13, 23]
    np.testing.assert_array_equal(model.log_probability(x), usual.log_probability(x))
    with refusal("too-few", "two classes"):
        logistic(x, np.zeros(120, dtype=int))
    with refusal("bad-shape", "one label"):
        logistic(x, labels[:-1])
    with refusal("not-finite"):
        logistic(np.where(x > 5, np.nan, x), labels)
    same = logistic(torch.from_numpy(x), torch.from_numpy(labels * 10 + 3), (0.1,))[0]
    np.testing.assert_array_equal(same.weights, model.weights)


def test_label_probe_protocol():
    x, labels = classes(200, 6, 3, apart=0.8)
    labels = labels.copy()
    labels[[4, 9]] = -1
    groups = np.array([f"g{i // 10}" for i in range(200)], dtype=object)
    split = np.array([("train", "val", "train", "test", "train")[i // 10 % 5] for i in range(200)], dtype=object)
    result = LinearProbe().compute(
        MemoryActivations({"a": x[:, None]}, split=split, groups=groups), label_target(labels), 0
    )
    known = labels >= 0
    train, val, test = (known & (split == name) for name in ("train", "val", "test"))

    def oracle(rows, penalty):
        scaler = StandardScaler().fit(x[rows])
        model = LogisticRegression(C=1 / (rows.sum() * penalty), tol=1e-8, max_iter=10**5)
        return model.fit(scaler.transform(x[rows]), labels[rows]), scaler

    def on_val(penalty):
        model, scaler = oracle(train, penalty)
        probability = model.predict_proba(scaler.transform(x[val]))
        right = (probability.argmax(axis=1) == labels[val]).sum()
        return right, np.log(probability[np.arange(val.sum()), labels[val]]).mean()

    best = max(LOGISTIC_PENALTIES, key=on_val)
    assert result.penalty.item() == best
    model, scaler = oracle(train | val, best)
    wrong = model.predict(scaler.transform(x[test])) != labels[test]
    assert result.loss.sum().item() == wrong.sum() > 0
    assert result.loss.values[0].tolist() == [wrong[groups[test] == unit].sum() for unit in result.unit.values]
    assert result.reference_loss.values[0].tolist() == [10, 10, 10, 10]
    first, scaler = oracle(train, best)
    # Penalties are ranked with fits that are not finished: a row or two of the 40 may fall otherwise.
    assert result.val_score.item() == pytest.approx(
        (first.predict(scaler.transform(x[val])) == labels[val]).mean(), abs=0.06
    )


@pytest.mark.parametrize("measure", [LinearProbe(), KnnProbe()])
def test_classes_apart_are_found_and_shuffled_labels_are_chance(measure):
    x, labels = classes(400, 10, 4, apart=6)
    given = MemoryActivations({"a": x[:, None], "constant": np.ones_like(x)[:, None]})
    assert score(measure.compute(given, label_target(labels), 0)).values[0] > 0.97
    shuffled = [
        score(measure.compute(given, label_target(np.random.default_rng(s).permutation(labels)), 0)).values
        for s in range(8)
    ]
    # 8 x 80 test samples: sd of the mean .017.
    assert np.mean(shuffled, axis=0) == pytest.approx([0.25, 0.25], abs=0.06)


@pytest.mark.parametrize("measure", [LinearProbe(), KnnProbe()])
def test_label_errors_name_target_and_class(measure):
    x, labels = classes(100)
    given = MemoryActivations({"a": x[:, None]})
    absent = np.where((given.split == "train") & (labels == 2), -1, labels)
    with refusal("too-few", "kind", "c2"):
        measure.compute(given, label_target(absent), 0)
    with refusal("too-few", "kind"):
        measure.compute(given, label_target(np.zeros(100, dtype=int)), 0)
    with refusal("too-few", "kind", "test"):
        measure.compute(given, label_target(np.where(given.split == "test", -1, labels)), 0)


# Nearest neighbours


def test_knn_equals_brute_force():
    rng = np.random.default_rng(0)
    bank, queries, labels = rng.normal(size=(150, 6)), rng.normal(size=(1100, 6)), rng.integers(0, 4, 150)
    bank[10] = 0
    votes = knn_votes(bank, labels, queries, (1, 7, 500))
    for q in (0, 511, 512, 1099):
        similar = [b @ queries[q] / np.linalg.norm(b) / np.linalg.norm(queries[q]) if b.any() else 0.0 for b in bank]
        order = sorted(range(150), key=lambda i: -similar[i])
        for i, k in enumerate((1, 7, 150)):
            weights = np.exp([similar[j] / 0.07 for j in order[:k]])
            expected = np.zeros(4)
            for j, weight in zip(order[:k], weights / weights.sum(), strict=True):
                expected[labels[j]] += weight
            np.testing.assert_allclose(votes[i, q], expected, atol=1e-12)


def test_knn_scale_does_not_matter():
    rng = np.random.default_rng(0)
    bank, queries, labels = rng.normal(size=(30, 4)), rng.normal(size=(5, 4)), np.arange(30) % 3
    stretched = knn_votes(bank * rng.uniform(0.1, 10, (30, 1)), labels, queries * 1e-3)
    np.testing.assert_allclose(stretched, knn_votes(bank, labels, queries), atol=1e-12)


def test_knn_ties_count_in_parts_whatever_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    # A few directions of many lengths, in features that rounding has turned.
    corners = np.eye(6)[:5] @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    bank = corners[rng.integers(0, 5, 80)] * rng.uniform(0.1, 10, (80, 1))
    bank[:9] = 0
    labels, queries = rng.integers(0, 3, 80), rng.normal(size=(40, 6))
    ks = (1, 4, 30, 79)
    votes = knn_votes(bank, labels, queries, ks)
    order = rng.permutation(80)
    np.testing.assert_allclose(knn_votes(bank[order], labels[order], queries, ks), votes, atol=1e-12)
    length = np.maximum(np.linalg.norm(bank, axis=1), 1e-300)
    similar = (bank / length[:, None] @ (queries / np.linalg.norm(queries, axis=1, keepdims=True)).T).T.round(9)
    drawn = np.zeros((300, *votes.shape))
    for some in drawn:
        nearest = np.lexsort((rng.random(similar.shape), -similar), axis=1)
        for i, k in enumerate(ks):
            weights = np.exp(np.take_along_axis(similar, nearest[:, :k], axis=1) / 0.07)
            weights /= weights.sum(axis=1, keepdims=True)
            for c in range(3):
                some[i, :, c] = (weights * (labels[nearest[:, :k]] == c)).sum(axis=1)
    slack = 5 * drawn.std(axis=0) / np.sqrt(300) + 1e-6
    assert (np.abs(votes - drawn.mean(axis=0)) <= slack).all()
    alike = knn_votes(np.ones((30, 2)), np.arange(30) // 10, np.ones((1, 2)), (2,))[0, 0]
    np.testing.assert_allclose(alike, 1 / 3)


def test_knn_as_a_plain_function():
    x, labels = classes(200, 5, 3, apart=6)
    result = knn(torch.from_numpy(x[:150]).float(), torch.from_numpy(labels[:150] * 10 + 4), x[150:].astype(np.float32))
    assert (result == labels[150:] * 10 + 4).mean() > 0.95
    assert (knn(x[:150], labels[:150], x[:150], k=1) == labels[:150]).all()
    for arguments, message in (
        ((x[:150], labels[:149], x), "one label per row, 150"),
        ((x[:150], labels[:150] - 1, x), "negative labels are unknown"),
        ((x[:150], labels[:150], x[:, :4]), "do not fit"),
    ):
        for function in (knn, knn_votes):
            with pytest.raises(DiagnosticsError, match=message):
                function(*arguments)
    with pytest.raises(DiagnosticsError, match="k is 50 and the bank has 5 rows"):
        knn(x[:5], labels[:5], x, k=50)
    with pytest.raises(DiagnosticsError, match="at least 1"):
        knn_votes(x, labels, x, (0,))
    with pytest.raises(DiagnosticsError, match=r"queries of shape .* NaN"):
        knn(x, labels, np.full((2, 5), np.nan))


def test_knn_holds_no_more_than_a_block_of_similarities(monkeypatch):
    module = sys.modules[KnnProbe.__module__]
    rng = np.random.default_rng(0)
    bank, labels, queries = rng.normal(size=(70, 4)), rng.integers(0, 3, 70), rng.normal(size=(33, 4))
    whole = knn_votes(bank, labels, queries)
    sizes = []
    similar = module._similar

    def seen(queries, known):
        result = similar(queries, known)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(module, "_similar", seen)
    monkeypatch.setattr(module, "_BLOCK", 300)
    np.testing.assert_allclose(knn_votes(bank, labels, queries), whole, atol=1e-12)
    assert max(sizes) <= 300
    assert len(sizes) == 9


def test_knn_probe_protocol():
    x, labels = classes(200, 5, 3, apart=0.8)
    given = MemoryActivations({"a": x[:, None]})
    result = KnnProbe().compute(given, label_target(labels), 0)
    train, val, test = (given.split == name for name in ("train", "val", "test"))
    accuracy = [
        (knn_votes(x[train], labels[train], x[val], (k,))[0].argmax(axis=1) == labels[val]).mean() for k in NEIGHBOURS
    ]
    k = NEIGHBOURS[int(np.argmax(accuracy))]
    assert result.k.item() == k
    assert result.val_score.item() == max(accuracy)
    fit = np.concatenate([np.flatnonzero(train), np.flatnonzero(val)])
    wrong = knn_votes(x[fit], labels[fit], x[test], (k,))[0].argmax(axis=1) != labels[test]
    assert result.loss.sum().item() == wrong.sum() > 0
    assert result.reference_loss.sum().item() == test.sum()


def test_bundled_names_and_texts():
    from diagnostics.measures import load_bundled, measures

    assert {name: type(make()) for name, make in measures().items()} == load_bundled()
    for name, measure in load_bundled().items():
        assert measure.name == name
        assert measure.answers.endswith("?")
        assert measure.source
