"""Measured in memory, the numbers are a run's, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.datasets.dataset import subset
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal
from tests.support.tiny import SIDE, tiny_dataset, tiny_encoder, tiny_image_encoder

MEASURES = ["linear_probe", "knn_probe", "rankme", "self_similarity", "massive_activations", "segmentation_probe"]


def test_the_numbers_are_those_of_a_run_on_the_same_samples(tmp_path: Path) -> None:
    """Of labels, values and dense targets, pooled values and tokens; 70 samples, so that batches and shards are cut."""
    encoder, data = tiny_image_encoder(), tiny_dataset(90, "image")
    data.targets["side"] = dx.Target("token_label", (data.targets["height"].values > 0).astype(int))
    few = subset(data, 70, seed=3)
    run = dx.run(
        encoder, few, out=tmp_path / "run", measures=MEASURES, controls=False, report=False, seed=3, device="cpu"
    )
    found = dx.measure(encoder, data, measures=MEASURES, samples=70, seed=3)
    assert list(found["measure"].values) == [profile.name for profile in run.profiles()]
    assert len(run.profiles()) == 8
    for profile in run.profiles():
        column = found.sel(measure=profile.name)
        assert list(column["tap"].values) == profile.taps
        for key in ("score", "low", "high", "depth"):
            np.testing.assert_allclose(column[key], profile.data[key], rtol=1e-6, atol=1e-9, err_msg=profile.name)
        assert column["chosen_tap"].item() == (profile.chosen_tap or "")
        assert column["functional"].item() == profile.data.attrs["functional"]
        assert column["pooling"].item() == profile.data.attrs["pooling"]
    assert found.attrs["samples"] == 70 and found.attrs["output_tap"] == "norm"
    other = dx.measure(encoder, data, measures=MEASURES, samples=70, seed=4)
    assert not np.allclose(found["score"], other["score"], equal_nan=True)


def test_nothing_is_written_and_the_module_stays_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = tiny_encoder().module.train()
    module.stem.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in module.named_parameters()}
    state = torch.get_rng_state()
    found = dx.measure(module, tiny_dataset(40))
    assert found.attrs["encoder"] == "Trunk" and set(found.dims) == {"tap", "measure"}
    assert all(part.training for part in module.modules())
    assert wanted == {name: p.requires_grad for name, p in module.named_parameters()}
    assert torch.equal(state, torch.get_rng_state())
    assert os.listdir(tmp_path) == []


def test_a_module_that_compiled_itself_runs_uncompiled_and_stays_compiled() -> None:
    encoder, data = tiny_encoder(), tiny_dataset(40)
    found = dx.measure(encoder, data)
    encoder.module._compiled_call_impl = encoder.module.blocks[0]._compiled_call_impl = compiled = pytest.fail
    assert dx.measure(encoder, data).equals(found)
    assert encoder.module._compiled_call_impl is encoder.module.blocks[0]._compiled_call_impl is compiled


def test_the_autocast_of_a_training_changes_no_number() -> None:
    encoder, data = tiny_encoder(), tiny_dataset(40)
    found = dx.measure(encoder, data)
    with torch.autocast("cpu", torch.bfloat16):
        assert dx.measure(encoder, data).equals(found)


def test_taps_and_names_are_chosen_as_for_a_run() -> None:
    found = dx.measure(tiny_encoder(), tiny_dataset(40), taps="blocks.1", measures="rankme")
    assert list(found["tap"].values) == ["blocks.1", "norm"]
    assert list(found["measure"].values) == ["rankme"]
    assert found["n"].item() == 40


def test_what_is_missing_is_said() -> None:
    data = tiny_dataset(40)
    data.targets["flat"] = dx.Target("value", np.ones(40))
    found = dx.measure(tiny_encoder(), data)
    assert "linear_probe/flat: Target flat has the one value 1" in found.attrs["left_out"]
    everything = dx.measure(tiny_encoder(), data, measures="standard")
    assert "cka: compares pairs of taps, which a run stores" in everything.attrs["left_out"]
    assert "attention_distance: needs attention, which a run records" in everything.attrs["left_out"]
    assert {"linear_probe/level", "rankme", "self_similarity"} <= set(everything["measure"].values)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"measures": "cka"},
            r"cka compares pairs of taps, which a run stores: diagnostics.run\(..., measures=\['cka'\]\)",
        ),
        ({"measures": ["attention_distance"]}, "needs attention, which a run records"),
        ({"measures": ["linear_prob"]}, "did you mean linear_probe"),
        ({"measures": ["segmentation_probe"]}, "Nothing can be measured .* the dataset has none that fits"),
        ({"taps": "block.1"}, "did you mean blocks.1"),
        ({"samples": 2}, "give at least 3"),
        ({"seed": -1}, "Seed -1 is below 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(more: dict[str, object], sentence: str) -> None:
    with pytest.raises(DiagnosticsError, match=sentence):
        dx.measure(tiny_encoder(), tiny_dataset(40), **more)


def test_a_sample_that_does_not_fit_is_named() -> None:
    data = tiny_dataset(24, "image")
    data.samples = [*data.samples[:-1], np.zeros((SIDE + 1, SIDE, 3), np.uint8)]
    with refusal("bad-sample", "s23"):
        dx.measure(tiny_image_encoder(), data, measures="rankme")
