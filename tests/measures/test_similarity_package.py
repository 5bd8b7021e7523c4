import sys

import numpy as np
import pytest
import torch
from torch import nn

from diagnostics.measures.similarity import minibatch as package
from diagnostics.measures.similarity.minibatch import BATCH, TorchCka, minibatch_cka, torch_cka
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal

pytest.importorskip("torch_cka")


def centred(n=96, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12))
    y = x @ rng.normal(size=(12, 9)) + rng.normal(size=(n, 9))
    return x, y


def single(*arrays):
    return [torch.from_numpy(array).float() for array in arrays]


@pytest.mark.parametrize("batch", [16, 32, 96])
def test_oracle_on_centred_features(batch):
    x, y = centred()
    result = torch_cka(single(x, y), single(x, y), batch)
    assert result[0, 1] == pytest.approx(minibatch_cka(x, y, batch_size=batch), abs=1e-5)
    assert np.diagonal(result) == pytest.approx(1, abs=1e-5)


def test_is_what_the_package_gives_for_a_model_itself():
    """Two layers of a model on images, through the package as its users call it, and from the stored features."""
    from torch_cka import CKA

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)).eval()
    data = torch.randn(48, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data), batch_size=16)
    theirs = CKA(model, model, "a", "b", ["0", "2"], ["0", "2"])
    with torch.no_grad():
        theirs.compare(loader, loader)
    with torch.no_grad():
        first = model[0](data)
        features = [first, model(data)]
    # One model hooked twice counts each layer's features once for either side.
    np.testing.assert_allclose(torch_cka(features, features, 16), theirs.hsic_matrix, atol=1e-6)


def test_known_failure_is_theirs_and_the_estimate_in_float64_stands_beside_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2 * BATCH, 1, 64)).astype(np.float32)
    # What float32 keeps of the shifted features is what both estimates are given.
    shifted = (x * np.float32(0.1) + np.float32(100)).astype(np.float32)
    result = TorchCka().compute(MemoryActivations({"a": x, "shifted": shifted}), None, 0)
    assert not abs(result.matrix.sel(tap="a", tap_other="shifted").item() - 1) < 0.01
    assert result.in_float64.sel(tap="a", tap_other="shifted").item() == pytest.approx(1, abs=1e-6)
    assert "uncentred" in result.attrs["known_to_fail"] and "plus 100" in result.attrs["known_to_fail"]


@pytest.mark.parametrize("rest", [1, 2, 3, 4])
def test_a_last_batch_that_the_package_cannot_do_is_left_out(rest):
    x, y = centred(32 + rest)
    result = torch_cka(single(x), single(y), 16)[0, 0]
    used = 36 if rest == 4 else 32
    expected = torch_cka(single(x[:used]), single(y[:used]), 16)[0, 0]
    assert np.isfinite(result)
    assert result == expected


def test_measure_within_and_between_runs():
    x, y = centred(2 * BATCH)
    data = MemoryActivations({"a": x[:, None], "b": y[:, None], "flat": np.full((2 * BATCH, 1, 3), 0.3)}, block=5)
    result = TorchCka().compute(data, None, 0)
    assert result.matrix.sel(tap="a", tap_other="b").item() == pytest.approx(minibatch_cka(x, y), abs=1e-4)
    assert result.in_float64.sel(tap="a", tap_other="b").item() == pytest.approx(minibatch_cka(x, y), abs=1e-6)
    assert result.attrs["reason"] == "flat: all samples are equal"
    assert np.isnan(result.matrix.sel(tap="flat").values).all()
    assert "p" not in result
    other = TorchCka().between(data, MemoryActivations({"b": y[:, None]}), 0)
    np.testing.assert_allclose(other.matrix.values[:2, 0], result.matrix.values[:2, 1], atol=1e-6)


def test_says_what_is_missing_and_what_is_too_much(monkeypatch):
    x, _ = centred(64)
    data = MemoryActivations({"a": x[:, None]})
    monkeypatch.setattr(package, "MOST_BYTES", 100)
    with refusal("too-large"):
        TorchCka().compute(data, None, 0)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch_cka", None)
    with refusal("missing-package"):
        TorchCka().compute(data, None, 0)


def test_nothing_is_printed(capsys):
    x, y = centred(32)
    torch_cka(single(x), single(y), 16)
    assert capsys.readouterr() == ("", "")
