"""The probe of small networks: what it reads and a linear map does not, its seeds, and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays, normal
from diagnostics.measures.probes import mlp
from diagnostics.measures.probes.mlp import SEEDS, MlpProbe, fit_networks
from diagnostics.measures.result import units_fitted

N = 200
SPLIT = np.resize(["train", "train", "train", "val", "test"], N).tolist()


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return normal(N, 2, seed=0)


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "EPOCHS", 60)


def score(result: object) -> float:
    return 1 - float(result["loss"].sum() / result["reference_loss"].sum())  # ty: ignore


def test_quadrants_are_read_and_noise_is_not(features: np.ndarray) -> None:
    known = StoredTarget("same sign", "label", (features[:, 0] * features[:, 1] > 0).astype(int), classes=("no", "yes"))
    taps = Arrays({"both": features, "noise": normal(N, 2, seed=1)}, SPLIT)
    result = MlpProbe().compute(taps, known, 0)
    accuracy = 1 - (result["loss"].sum("unit") / result["reference_loss"].sum("unit")).values
    assert accuracy[0] > 0.85 > 0.7 > accuracy[1]
    assert result.attrs["chosen_on"] == "val"
    # Not fitted again with val: intervals are as wide as those of a readout of train.
    assert units_fitted(result) == SPLIT.count("train")
    assert 0 <= float(result["spread"][0]) < 0.1
    assert float(result["single"][0]) == pytest.approx(accuracy[0], abs=0.1)


def test_what_is_handed_over_is_what_was_scored(features: np.ndarray) -> None:
    target, taps = StoredTarget("product", "value", features.prod(axis=1)), Arrays({"both": features}, SPLIT)
    result, rows = MlpProbe().compute(taps, target, 3), np.flatnonzero(np.array(SPLIT) == "test")
    readout = MlpProbe().fit(taps, target, taps.taps[0], {"seed": 3})
    lost = (readout.predict(features[rows])[:, 0] - target.values[rows]) ** 2
    np.testing.assert_allclose(np.sort(lost), np.sort(result["loss"].values[0]), rtol=1e-6)
    other = MlpProbe().compute(taps, target, 4)
    assert score(other) != score(result)
    assert score(other) == pytest.approx(score(result), abs=0.2)


def test_weights_are_those_of_the_least_loss_on_val(features: np.ndarray) -> None:
    x, y = torch.from_numpy(features), torch.from_numpy(normal(N, 1, seed=2))
    train, val = slice(0, 40), slice(40, 80)
    networks = fit_networks(x[train], y[train], x[val], y[val], 0, 0)
    said = networks(x[val])
    assert said.shape == (SEEDS, 40, 1)
    # Of noise the first epochs are the best: more of them only learn it by heart.
    around = float(((y[val] - y[train].mean()) ** 2).mean())
    assert float(((said - y[val]) ** 2).mean()) < 1.5 * around
    fitted = networks(x[train])
    assert float(((fitted - y[train]) ** 2).mean()) > 0.3 * float(y[train].var())
    # Each seed has its own network.
    assert float(said.std(dim=0).min()) > 0


def test_a_constant_feature_and_a_constant_column_do_no_harm(features: np.ndarray) -> None:
    x = torch.from_numpy(np.column_stack([features, np.full(N, 7.0)]))
    y = torch.stack([x[:, 0], torch.ones(N, dtype=x.dtype)], dim=1)
    said = fit_networks(x[:100], y[:100], x[100:150], y[100:150], 0, 0)(x)
    assert bool(said.isfinite().all())
    np.testing.assert_allclose(said[..., 1].numpy(), 1, atol=0.5)
