"""Attention observed in the passes of an extraction: the same numbers in fewer passes, or in passes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.activations.batches import pass_batch
from diagnostics.activations.observe import InPass
from diagnostics.measures.locality.heads import Attention
from diagnostics.runs.extraction import Extraction
from tests.activations.test_observe import Looking, looking
from tests.support.stores import planned
from tests.support.tiny import tiny_dataset


def run(out: Path, encoder: dx.TorchEncoder, n: int = 30, **options: Any) -> dx.Run:
    given = {"measures": "attention_distance", "controls": False, "report": False, "watch": dx.silent}
    return dx.run(encoder, tiny_dataset(n, "image"), out=out, **given | options)


def arrays(store: Any) -> dict[str, np.ndarray]:
    observed = store.observation_arrays("attention")
    taps = {tap.name: store.pooled(tap.name) for tap in store.taps}
    return taps | {f"attention at {tap}": values for tap, values in observed.items()}


def apart(out: Path, encoder: dx.TorchEncoder, monkeypatch: pytest.MonkeyPatch, **options: Any) -> dx.Run:
    """A run that observes in a pass of its own."""
    with monkeypatch.context() as patched:
        patched.setattr(Extraction, "_in_pass", lambda *_: None)
        return run(out, encoder, **options)


@pytest.mark.parametrize(
    ("n", "batch", "fewer"),
    [
        # One pass more shows that an observed pass gives the same.
        (30, 16, 3 - 1),  # batches of 13, 13 and 4 in a pass of their own
        (300, 16, 5 - 1),  # the first 64 samples lie in eight parts
        (30, 20, 0),  # batches that may take much memory
    ],
)
def test_it_is_observed_in_the_same_passes(
    n: int, batch: int, fewer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = looking(), looking()
    here = run(tmp_path / "here", encoders[0], n, batch_size=batch)
    there = apart(tmp_path / "apart", encoders[1], monkeypatch, n=n, batch_size=batch)
    assert encoders[1].module.passes - encoders[0].module.passes == fewer
    one, other = arrays(here.store), arrays(there.store)
    assert one.keys() == other.keys() and "attention at blocks.2" in one
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
    assert here.store.observation_arrays("attention").left_out == there.store.observation_arrays("attention").left_out


class Noticing(Looking):
    """Computes something else while its functions are watched, as kernels that are not used then do."""

    def forward(self, x: Tensor) -> Tensor:
        watched = torch.overrides._get_current_function_mode_stack()
        return super().forward(x) * (1 + 1e-6 * len(watched))


class Failing(Looking):
    """Watched, the second batch of an extraction (14 samples) gives queries that are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 14 and torch.overrides._get_current_function_mode_stack():
            nn.functional.scaled_dot_product_attention(*torch.full((3, len(x), 2, x.shape[1], 4), torch.nan))
        return super().forward(x)


@pytest.mark.parametrize("block", [Noticing, Failing])
def test_what_it_changes_or_fails_on_has_a_pass_of_its_own(
    block: type[Looking], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built() -> dx.TorchEncoder:
        encoder, weights = looking(), looking().module.blocks[2].state_dict()
        encoder.module.blocks[2] = block()
        encoder.module.blocks[2].load_state_dict(weights)
        return encoder

    options = {"dense": "streamed", "measures": "attention_distance,linear_probe"}
    here = run(tmp_path / "here", built(), **options)
    there = apart(tmp_path / "apart", built(), monkeypatch, **options)
    assert here.record.unrepeatable == ""
    one, other = arrays(here.store), arrays(there.store)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    # What was summed in a pass that failed is not summed once more in the next.
    scores = [each.profile("linear_probe/height").data["score"] for each in (here, there)]
    np.testing.assert_array_equal(*scores)


def test_rows_stay_by_position_and_what_is_told_otherwise_is_not_taken() -> None:
    encoder, data = looking(), tiny_dataset(30, "image")
    plan, observation = planned(encoder, 30), Attention()
    whole = pass_batch(encoder, data, plan, np.arange(30), False, observation).observed
    assert whole is not None
    in_pass = InPass(observation, 30, {*whole.left_out})
    for positions in (np.arange(16, 30), np.arange(16)):
        assert not in_pass.of(observation), "a batch is missing"
        in_pass.take(positions, pass_batch(encoder, data, plan, positions, False, observation).observed)
    parts = in_pass.of(observation)
    for tap, values in whole.items():
        np.testing.assert_allclose(np.concatenate([part[tap] for part in parts]), values, rtol=1e-5, atol=1e-6)
    assert not in_pass.of(Attention()), "another observation"
    other = InPass(observation, 30, {"blocks.0"})
    other.take(np.arange(30), whole)
    assert other.failed and not other.of(observation)
