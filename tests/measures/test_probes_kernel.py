"""The kernel probe on planted targets, against scikit-learn, and in its choice of a bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import pdist
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import Ridge

from diagnostics.activations.contract import Activations, StoredTarget, shuffle
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.apply import measure_all
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes import linear
from diagnostics.measures.probes.linear import BANDWIDTHS, LEAST_TRAIN, KernelFeatures, KernelProbe, LinearProbe
from tests.support.refusals import refusal

N = 500
RNG = np.random.default_rng(7)
X = RNG.standard_normal((N, 5)) * [1, 3, 1, 10, 1] + 4
Z = (X - 4) / [1, 3, 1, 10, 1]
NOISE = RNG.standard_normal((N, 5))
SPLIT = np.resize(["train", "train", "train", "val", "test"], N)


def taps(**arrays: np.ndarray) -> Arrays:
    return Arrays(arrays, SPLIT.tolist())


def target(values: np.ndarray, kind: Any = "value", **more: Any) -> StoredTarget:
    return StoredTarget("planted", kind, values, **more)


def scores(result: xr.Dataset) -> np.ndarray:
    by_part = 1 - result["loss"].sum("unit") / result["reference_loss"].sum("unit")
    return (by_part.mean("part") if "part" in by_part.dims else by_part).values


PRODUCT, LINEAR = target(Z[:, 0] * Z[:, 1]), target(Z @ [1.0, 2, 0, 0, 1])


def test_reads_a_product_of_which_a_linear_map_reads_nothing() -> None:
    here = taps(noise=NOISE, held=X)
    assert scores(LinearProbe().compute(here, PRODUCT, 0)) == pytest.approx([0, 0], abs=0.1)
    assert scores(KernelProbe().compute(here, PRODUCT, 0)) == pytest.approx([0, 1], abs=0.05)


def test_reads_a_sign_of_a_product_and_columns_and_angles() -> None:
    here = taps(noise=NOISE, held=X)
    sign = target((Z[:, 0] * Z[:, 1] > 0).astype(np.int64), "label")
    assert scores(LinearProbe().compute(here, sign, 0))[1] < 0.65
    noise, held = scores(KernelProbe().compute(here, sign, 0))
    assert noise < 0.65 and held > 0.9
    ahead = target(np.stack([Z[:, 0] * Z[:, 1], Z[:, 2] ** 2], axis=1), "future")
    assert scores(KernelProbe().compute(here, ahead, 0))[1] > 0.9
    hour = KernelProbe().compute(here, target((2 * Z[:, 0] * Z[:, 2]) % 24, period=24.0), 0)
    assert scores(hour)[1] > 0.9 and hour["angular_error"].values[1] < 1 < hour["angular_error"].values[0]


def test_reads_about_as_much_of_a_linear_target_as_the_linear_probe() -> None:
    noisy = target(LINEAR.values + NOISE[:, 0])
    here = taps(held=X)
    assert scores(KernelProbe().compute(here, noisy, 0)) == pytest.approx(
        scores(LinearProbe().compute(here, noisy, 0)), abs=0.02
    )


def test_reads_nothing_of_shuffled_targets() -> None:
    for planted in (PRODUCT, LINEAR):
        here = taps(held=X)
        (dealt,) = shuffle(here, {"planted": planted}).values()
        assert scores(KernelProbe().compute(here, dealt, 0))[0] < 0.02


def test_equals_ridge_on_scikit_learns_nystroem_features() -> None:
    """With all train rows as landmarks; losses on val are those of the fit on train."""
    result = KernelProbe().compute(taps(held=X), PRODUCT, 0)
    train, val = SPLIT == "train", SPLIT == "val"
    z = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    width = float(result["bandwidth"][0]) * np.median(pdist(z[train]))
    features = Nystroem(gamma=1 / (2 * width**2), n_components=int(train.sum()), random_state=0).fit(z[train])
    # The probe's features vary alike, by this much each, once they are turned.
    own = KernelFeatures(X[train], 0)(torch.from_numpy(X[train])[:, None])[float(result["bandwidth"][0])]
    variance = float(own[:, 0].double().var(dim=0, correction=0).mean())
    alpha = train.sum() * float(result["penalty"][0]) * variance
    fit = Ridge(alpha, solver="svd").fit(features.transform(z[train]), PRODUCT.values[train])
    squares = (fit.predict(features.transform(z[val])) - PRODUCT.values[val]) ** 2
    np.testing.assert_allclose(result["val_loss"][0], squares, rtol=1e-2, atol=1e-4)
    assert squares.mean() < 0.2 * PRODUCT.values[val].var()


def test_no_test_target_enters_the_choice() -> None:
    values = PRODUCT.values.copy()
    test = np.flatnonzero(SPLIT == "test")
    values[test] = values[test[::-1]]
    ours, theirs = (KernelProbe().compute(taps(held=X), one, 0) for one in (PRODUCT, target(values)))
    for name in ("bandwidth", "penalty", "val_score"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert scores(ours) > scores(theirs) + 0.5


def test_losses_out_of_fold_choose_the_bandwidth_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    read = LinearProbe.read_out

    def with_oof(self: LinearProbe, activations: Activations, given: StoredTarget, seed: int) -> xr.Dataset:
        result = read(self, activations, given, seed)
        loss = np.ones((len(activations.taps), 3))
        loss[[tap.name for tap in activations.taps].index("0.25")] = 0.5
        axes = ("tap", "fit_unit")
        return result.assign(oof_loss=(axes, loss), oof_reference=(axes, np.ones_like(loss)))

    assert KernelProbe().compute(taps(held=X), LINEAR, 0)["bandwidth"] == BANDWIDTHS[-1]
    monkeypatch.setattr(LinearProbe, "read_out", with_oof)
    result = KernelProbe().compute(taps(held=X), LINEAR, 0)
    assert result["bandwidth"] == 0.25 and result["oof_loss"].values.tolist() == [[0.5] * 3]


def test_taps_do_not_depend_on_each_other_and_keep_their_places() -> None:
    both = KernelProbe().compute(taps(noise=NOISE, held=X), PRODUCT, 0)
    alone = KernelProbe().compute(taps(held=X), PRODUCT, 0)
    np.testing.assert_array_equal(both["loss"][1], alone["loss"][0])
    assert both["tap"].values.tolist() == ["noise", "held"] and both["depth"].values.tolist() == [0, 1]
    assert both.attrs["n_train"] == 300 and "Gaussian kernel" in both.attrs["functional"]
    assert both.attrs["pooling"] == "mean" and both.attrs["n_features"] == X.shape[1], "of the tap, not of the kernel"


def test_a_part_of_the_taps_is_measured_like_all_and_completed() -> None:
    store = taps(noise=NOISE, held=X, last=np.c_[X[:, :1], NOISE])
    some = store.with_other(taps=store.taps[1:])
    result = measure_all([KernelProbe()], some, {"planted": PRODUCT}).results["kernel_probe/planted"]
    assert result.attrs["best_tap"] == "held" and result.attrs["hidden_gap_low"] > 0.5
    assert result["depth"].values.tolist() == [0.5, 1]
    assert not list(some.token_blocks("held")) and not list(some.feature_blocks("held"))


def test_targets_share_the_kernels_of_a_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counted(KernelFeatures):
        def __init__(self, rows: np.ndarray, seed: int) -> None:
            made.append(len(rows))
            super().__init__(rows, seed)

    monkeypatch.setattr(linear, "KernelFeatures", Counted)
    here = taps(first=NOISE + 1, held=X - 1)
    for each in (PRODUCT, LINEAR):
        KernelProbe().compute(here, each, 0)
    assert made == [300, 300]


@pytest.mark.parametrize("kind", ["value", "label"])
def test_says_where_train_samples_are_too_few(kind: Any) -> None:
    values = (Z[:, 0] > 0).astype(np.int64 if kind == "label" else float)
    known = np.flatnonzero(SPLIT == "train")[: LEAST_TRAIN - 1]
    values[np.setdiff1d(np.flatnonzero(SPLIT == "train"), known)] = -1 if kind == "label" else np.nan
    with pytest.raises(
        DiagnosticsError,
        match=r"^kernel_probe needs 100 training samples, and there are 99: use a dataset with more\.$",
    ):
        KernelProbe().compute(taps(held=X), target(values, kind), 0)


def test_a_tap_without_variance_reads_nothing_and_one_of_nan_is_named() -> None:
    flat = np.ones_like(X)
    assert scores(KernelProbe().compute(taps(flat=flat), PRODUCT, 0)) == pytest.approx([0], abs=1e-9)
    with refusal("not-finite", "Tap flat", "kernel_probe"):
        KernelProbe().compute(taps(flat=flat * np.nan), PRODUCT, 0)
