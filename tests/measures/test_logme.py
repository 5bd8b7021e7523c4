"""LogME: the evidence against another way to it, and that the planted tap has the most."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diagnostics.activations.contract import StoredTarget
from diagnostics.measures.base import Arrays
from diagnostics.measures.probes.logme import LogMe, log_evidence
from diagnostics.vocabulary import Kind

N = 90
SPLIT = np.resize(["train", "train", "val", "test"], N).tolist()


@pytest.mark.parametrize("features", [4, 60])
def test_no_other_variances_give_more_evidence(features: int) -> None:
    rng = np.random.default_rng(features)
    x = rng.standard_normal((30, features))
    y = x[:, :2].sum(axis=1) + rng.standard_normal(30)
    found = log_evidence(torch.from_numpy(x), torch.from_numpy(y)[:, None])
    # The density of y over a grid of both variances.
    values, axes = np.linalg.eigh(x @ x.T)
    along = (axes.T @ y) ** 2
    variances = np.exp(np.linspace(-8, 3, 220))
    spread = variances[:, None, None] * values.clip(0) + variances[None, :, None]
    densities = -0.5 * (np.log(2 * np.pi * spread) + along / spread).sum(axis=2) / 30
    assert densities.max() - 1e-9 <= found < densities.max() + 0.005


@pytest.mark.parametrize("kind", ["value", "label"])
def test_the_tap_that_holds_the_target_has_most_and_test_is_not_read(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(N)
    taps = {f"t{i}": rng.standard_normal((N, 6)) for i in range(3)}
    taps["t1"][:, 0] += 2 * truth
    target = StoredTarget("y", kind, truth if kind == "value" else (truth > 0).astype(int))
    found = LogMe().compute(Arrays(taps, SPLIT), target, 0)
    assert found["score"].values.argmax() == 1
    other = np.array(SPLIT) == "test"
    for x in taps.values():
        x[other] = 100 * rng.standard_normal((other.sum(), 6))
    np.testing.assert_array_equal(LogMe().compute(Arrays(taps, SPLIT), target, 0)["score"], found["score"])
