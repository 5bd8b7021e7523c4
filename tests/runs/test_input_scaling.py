"""The control of how samples become numbers: a wrong mean and std are caught, the right ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import diagnostics as dx
from diagnostics.activations.contract import StoredTarget
from diagnostics.encoders.encoder import Encoder
from diagnostics.encoders.torch_encoder import TorchEncoder
from diagnostics.measures.probes.input_scaling import MEAN, STD, InputScaling, ScaledInputs, _Scaled, scalings
from diagnostics.runs.pages.run import run_page
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder

SIDE, N = 8, 80


class Clipped(nn.Module):
    """Blocks that see nothing of numbers beyond -1 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)])
        torch.manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(-1, 1)
        for block in self.blocks:
            x = block(x)
        return x


def pictures(seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
    """Images whose colour is the target, and classes of nothing."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(-1, 1, N)
    bytes_of = 128 + 40 * level[:, None, None, None] + 12 * rng.standard_normal((N, SIDE, SIDE, 3))
    return bytes_of.round().astype(np.uint8), {"level": level, "coin": rng.permutation(np.arange(N) % 2).astype(bool)}


def run(out: Path, mean: float, std: float, **options: Any) -> dx.Run:
    return dx.run(Clipped(), pictures(), mean=mean, std=std, out=out, measures="linear_probe", report=False, **options)


def lead(found: dx.Run) -> str:
    return str(run_page(found).lead[0])


def test_a_wrong_scaling_is_caught_and_the_first_line_says_what_to_write(tmp_path: Path) -> None:
    found = run(tmp_path / "run", mean=0, std=1 / 255)
    control = found.profile("input_scaling/level").data
    assert control.attrs["scaling"] in ("0 to 1", "-1 to 1", "ImageNet")
    # Of the first 64 samples those that are not test: the advice changes the next run.
    assert control.attrs["n"] == (found.store.split[:64] != "test").sum() < 64
    assert control.attrs["scaling_gain_low"] > 0.5
    assert control.attrs["write"] in lead(found)
    # Nothing is to be read of a coin, whatever the scaling.
    assert "scaling" not in found.profile("input_scaling/coin").data.attrs
    # It is a control of its own: no other control has it.
    assert all("input_scaling/level" not in found.results[f"controls/{name}"].children for name in found.controls)


def test_the_right_scaling_is_not_reported(tmp_path: Path) -> None:
    found = run(tmp_path / "run", mean=0.5, std=0.5)
    control = found.profile("input_scaling/level").data
    assert "scaling" not in control.attrs and float(control["score"][-1]) > 0.9
    # That of the encoder itself is none of the others.
    assert set(control["scaling"].values) == {"0 to 1", "ImageNet", "per sample"}
    assert float(control["scaling_gain"].sel(scaling="per sample")) < -0.5


def example_of(modality: str, sample: np.ndarray, preprocess: Any) -> Encoder:
    made = tiny_encoder()
    vars(made).update(modality=modality, _example=sample, _preprocess=preprocess)
    return made


def test_what_was_scaled_is_undone_whatever_the_layout() -> None:
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    pixels = torch.from_numpy(raw / np.float32(255)).permute(2, 0, 1)
    own = example_of("image", raw, lambda x: (torch.from_numpy(x / np.float32(255)).permute(2, 0, 1) - 0.3) / 0.1)
    found = scalings(own, own.preprocess(raw)[None])
    torch.testing.assert_close(found["0 to 1"][0], pixels, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["-1 to 1"][0], 2 * pixels - 1, rtol=0, atol=1e-5)
    by_hand = [(pixels[c] - MEAN[c]) / STD[c] for c in range(3)]
    torch.testing.assert_close(found["ImageNet"][0], torch.stack(by_hand), rtol=0, atol=1e-4)
    each = found["per sample"][0]
    assert (
        float(each.mean((1, 2)).abs().max()) < 1e-5 and float((each.std((1, 2), correction=0) - 1).abs().max()) < 1e-4
    )


@pytest.mark.parametrize("last", [True, False])
def test_a_window_is_scaled_by_variate_and_a_sound_as_a_whole(last: bool) -> None:
    window = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32) * [1, 5] + [0, 3]
    window = window.astype(np.float32)
    made = example_of("series", window, lambda x: torch.from_numpy((x - 1) / 2 if last else ((x - 1) / 2).T.copy()))
    found = scalings(made, made.preprocess(window)[None])
    raw, each = (found[name][0].numpy() if last else found[name][0].numpy().T for name in ("none", "per window"))
    np.testing.assert_allclose(raw, window, atol=1e-5)
    np.testing.assert_allclose(each, (window - window.mean(0)) / window.std(0), atol=1e-4)
    sound = example_of("audio", window[:, 0], torch.from_numpy)
    loud = scalings(sound, sound.preprocess(window[:, 0])[None])
    assert float(loud["peak"].abs().max()) == pytest.approx(1, abs=1e-6)
    assert float(loud["loudness"].square().mean().sqrt()) == pytest.approx(0.1, abs=1e-6)


def test_a_preparation_that_scales_each_sample_itself_is_refused() -> None:
    window = np.arange(16, dtype=np.float32)
    made = example_of("series", window, lambda x: torch.from_numpy((x - x.mean()) / (x.std() + 1)))
    with refusal("unsupported", made.name):
        scalings(made, made.preprocess(window)[None])
    with refusal("unsupported", "text"):
        ScaledInputs().observe(example_of("text", window, torch.from_numpy), torch.ones(1, 16), [])


def test_declared_encoders_are_compared_only_when_that_is_asked_for(tmp_path: Path) -> None:
    declared, data = tiny_encoder(), dx.build("dataset", "lorenz?n=60&length=64")
    assert isinstance(declared, TorchEncoder)
    options: dict[str, Any] = {"report": False, "controls": False, "out": tmp_path / "run", "taps": ["norm"]}
    assert "input_scaling/hidden_z" not in {
        p.name for p in dx.run(declared, data, measures="rankme", **options).profiles()
    }
    asked = dx.run(declared, data, measures="input_scaling", **options).profile("input_scaling/hidden_z").data
    assert set(asked["scaling"].values) <= {"none", "per window"}


def test_too_few_samples_and_a_constant_are_refused() -> None:
    taps = _Scaled({"tap": np.random.default_rng(0).standard_normal((64, 2))}, ["train"] * 64)
    for values in (np.r_[np.zeros(8), np.full(56, np.nan)], np.ones(64)):
        with refusal("too-few", "y"):
            InputScaling().compute(taps, StoredTarget("y", "value", values), 0)
