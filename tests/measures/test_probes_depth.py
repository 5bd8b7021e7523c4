from dataclasses import asdict, astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.activations.contract import StoredTarget
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.probes import depth_metrics
from diagnostics.measures.probes.linear import LinearProbe
from tests.support.memory import MemoryActivations, thirds

NAN = np.nan


def scene(n=6, places=40, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 10, size=(n, places))


def directly(prediction, truth, align=None):
    """Sample by sample and place by place, in plain numpy."""
    rows = []
    for p, t in zip(prediction, truth, strict=True):
        p, t = p[~np.isnan(t)], t[~np.isnan(t)]
        if len(t) == 0:
            continue
        if align:
            columns = [p, np.ones(len(p))][: 1 + (align == "scale_shift")]
            design = np.stack(columns, axis=1)
            p = design @ np.linalg.lstsq(design, t, rcond=None)[0]
        inside = [[p_ > 0 and max(p_ / t_, t_ / p_) < 1.25**k for p_, t_ in zip(p, t, strict=True)] for k in (1, 2, 3)]
        rows.append([np.sqrt(((p - t) ** 2).mean()), (abs(p - t) / t).mean(), *(np.mean(x) for x in inside)])
    return np.mean(rows, axis=0)


def test_depth_a_fifth_too_large():
    truth = scene()
    result = depth_metrics(1.2 * truth, truth)
    assert (result.delta1, result.delta2, result.delta3) == (1, 1, 1)
    assert result.rmse == pytest.approx(0.2 * np.sqrt((truth**2).mean(axis=1)).mean())
    for align in ("scale", "scale_shift"):
        assert astuple(depth_metrics(1.2 * truth, truth, align=align)) == pytest.approx((0, 0, 1, 1, 1), abs=1e-12)
    assert depth_metrics(3 * truth + 1, truth, align="scale_shift").rmse == pytest.approx(0, abs=1e-12)
    assert depth_metrics(3 * truth + 1, truth, align="scale").rmse > 0.01


@pytest.mark.parametrize(
    ("factor", "inside"), [(1.3, (0, 1, 1)), (1 / 1.3, (0, 1, 1)), (1.6, (0, 0, 1)), (2, (0, 0, 0)), (1, (1, 1, 1))]
)
def test_thresholds_are_powers_of_a_quarter_more(factor, inside):
    result = depth_metrics(factor * scene(), scene())
    assert (result.delta1, result.delta2, result.delta3) == inside


def test_the_threshold_itself_is_outside():
    assert depth_metrics([[1.25, 1.0]], [[1.0, 1.25]]).delta1 == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, "scale", "scale_shift"]), st.floats(0, 0.9))
def test_depth_equals_a_direct_line(seed, align, unknown):
    rng = np.random.default_rng(seed)
    truth = scene(seed=seed)
    prediction = truth + rng.normal(0, 2, size=truth.shape)
    truth[rng.random(truth.shape) < unknown] = NAN
    truth[0] = NAN
    kept = truth.copy(), prediction.copy()
    result = astuple(depth_metrics(prediction, truth, align=align))
    np.testing.assert_allclose(result, directly(prediction, truth, align), rtol=1e-9)
    np.testing.assert_equal((truth, prediction), kept)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-5, 5))
def test_what_units_change(seed, factor, offset):
    truth = scene(seed=seed)
    prediction = truth + np.random.default_rng(seed + 1).normal(0, 1, size=truth.shape)
    for align in (None, "scale", "scale_shift"):
        result = depth_metrics(prediction, truth, align=align)
        # In other units of both, only the RMSE changes, by the factor.
        other = depth_metrics(factor * prediction, factor * truth, align=align)
        assert other.rmse == pytest.approx(factor * result.rmse, rel=1e-9)
        assert astuple(other)[1:] == pytest.approx(astuple(result)[1:], rel=1e-9)
    by_sample = np.random.default_rng(seed).uniform(0.5, 2, size=(len(truth), 1))
    for align, prediction_ in (("scale", by_sample * prediction), ("scale_shift", by_sample * prediction + offset)):
        result = depth_metrics(prediction, truth, align=align)
        np.testing.assert_allclose(astuple(depth_metrics(prediction_, truth, align=align)), astuple(result), rtol=1e-7)


def test_each_sample_weighs_the_same():
    truth = np.ones((2, 100))
    truth[0, 1:] = NAN
    assert depth_metrics(np.array([[2.0] * 100, [1.0] * 100]), truth).rmse == pytest.approx(0.5)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, 7.7, 1e4 / 3])
def test_a_constant_prediction_aligns_to_the_mean(constant):
    """Its own mean is off by rounding, which must not be taken for variation."""
    truth = scene(n=200, places=37)
    result = depth_metrics(np.full(truth.shape, constant), truth, align="scale_shift")
    assert result.rmse == pytest.approx(truth.std(axis=1).mean(), rel=1e-12)


def test_predictions_that_are_not_positive_are_no_hits():
    result = depth_metrics([[-1.0, 0.0, 1.0]], [[1.0, 1.0, 1.0]])
    assert (result.delta1, result.delta3) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_nothing_known_has_no_value():
    assert np.isnan(astuple(depth_metrics(np.ones((2, 3)), np.full((2, 3), NAN)))).all()
    # What is predicted where nothing is known does not matter.
    assert depth_metrics([[NAN, 2.0]], [[NAN, 2.0]]).rmse == 0


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), r"\(2, 3\) and \(3, 2\)"),
        (np.ones(3), np.ones(3), r"\[sample"),
        (np.ones((1, 3)), [[1.0, 0.0, 2.0]], "not above 0.*NaN"),
        (np.ones((1, 3)), [[1.0, np.inf, 2.0]], "infinite"),
        ([[1.0, NAN, 1.0]], np.ones((1, 3)), "NaN or infinity"),
    ],
)
def test_bad_depth_is_said(prediction, truth, message):
    with pytest.raises(DiagnosticsError, match=message):
        depth_metrics(prediction, truth)


def test_depth_is_computed_where_the_truth_lies():
    truth = torch.from_numpy(scene())
    with torch.device("meta"):
        result = depth_metrics(1.2 * truth.numpy(), truth, align="scale_shift")
    assert result.delta1 == 1


# The probe


def planted(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(50, 12, 4)) + 3
    depth = 20 + tokens @ np.array([1.0, -1.0, 0.5, 0.0])
    on_grid = {(3, 4): depth + 0.3 * rng.normal(size=depth.shape)}
    on_grid[(3, 4)][::4, 7] = NAN
    arrays = {"noise": rng.normal(size=tokens.shape), "seen": tokens, "scrambled": tokens[:, rng.permutation(12)]}
    grids = dict.fromkeys(arrays, (3, 4))
    return arrays, grids, StoredTarget("depth", "token_value", np.empty(50), on_grid=on_grid)


def test_a_positive_target_gets_the_numbers_of_depth():
    arrays, grids, target = planted()
    result = LinearProbe().compute(MemoryActivations(arrays, grids), target, 0)
    seen = result.sel(tap="seen")
    assert seen.rmse < 0.4 < 1.2 < result.rmse.sel(tap="noise")
    assert result.rmse.sel(tap="scrambled") > 1.2
    assert seen.aligned_rmse < seen.rmse
    assert seen.delta1 == 1
    # By hand: the root of a sample's loss by its number of tokens, where a unit is a sample.
    test = thirds(50) == "test"
    count = np.isfinite(target.on_grid[(3, 4)][test]).sum(axis=1)
    ids = [f"s{i}" for i in np.flatnonzero(test)]
    assert seen.rmse.item() == pytest.approx(np.sqrt(seen.loss.sel(unit=ids).values / count).mean(), rel=1e-9)


def test_the_probes_numbers_are_those_of_ridge_on_the_test_tokens():
    arrays, grids, target = planted()
    given_ = MemoryActivations(arrays, grids)
    result = LinearProbe().compute(given_, target, 0).sel(tap="seen")
    x, y = arrays["seen"].astype(np.float32).astype(float), target.on_grid[(3, 4)]
    fit, test = thirds(50) != "test", thirds(50) == "test"
    known = np.isfinite(y[fit])
    mean, sd = x[fit][known].mean(axis=0), x[fit][known].std(axis=0)
    z, centred = (x[fit][known] - mean) / sd, y[fit][known] - y[fit][known].mean()
    w = np.linalg.solve(z.T @ z + known.sum() * result.penalty.item() * np.eye(4), z.T @ centred)
    prediction = (x[test] - mean) / sd @ w + y[fit][known].mean()
    for prefix, align in (("", None), ("aligned_", "scale_shift")):
        for name, value in zip(
            asdict(depth_metrics([[1.0]], [[1.0]])), directly(prediction, y[test], align), strict=True
        ):
            assert result[prefix + name].item() == pytest.approx(value, rel=1e-6)


def test_a_target_that_reaches_0_has_none_of_them():
    arrays, grids, target = planted()
    target.on_grid[(3, 4)][0, 0] = 0.0
    result = LinearProbe().compute(MemoryActivations(arrays, grids), target, 0)
    assert "abs_rel" not in result
    assert np.isfinite(result.loss).all()


def test_taps_without_a_grid_have_no_depth():
    arrays, grids, target = planted()
    arrays["one"], grids["one"] = np.ones((50, 1, 2)), (1, 1)
    result = LinearProbe().compute(MemoryActivations(arrays, grids), target, 0)
    assert np.isnan(result.rmse.sel(tap="one"))
    assert "one" in result.attrs["reason"]
