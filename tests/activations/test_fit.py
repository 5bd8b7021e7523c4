"""An encoder and a dataset that do not fit are refused alike by all commands that read samples of a dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from diagnostics import TorchEncoder
from diagnostics.activations.prepare import fit
from diagnostics.datasets.dataset import Dataset
from tests.support.commands import refused
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

FILE = """
from diagnostics import Dataset
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

def encoder(): return tiny_encoder(rate=16000.0)
def images(): return tiny_image_encoder()

def data(rate: float | None = None, length: int = 32, first: int = 0):
    whole = tiny_dataset(20, "image" if first else "series", length=length)
    splits = list(whole.split)
    if first:
        return Dataset("sound", "image", whole.samples.transpose(0, 3, 1, 2), whole.ids, splits, {"level": whole.targets["level"]})
    return Dataset("sound", "series", whole.samples, whole.ids, splits, whole.targets, rate=rate)
"""
MISFITS = {
    "modality": ("images", "data", "tiny-image reads image samples, but sound holds series samples: give image"),
    "rate": ("encoder", "data?rate=8000", "tiny takes 16000 samples a second, sound holds 8000: resample the data"),
    "channels": (
        "images",
        "data?first=1",
        "Samples of sound do not fit tiny-image: it has shape [3, 16, 16], and channels come last",
    ),
    "size": ("encoder", "data?length=30", "Samples of sound do not fit tiny: a series of 30 steps cannot be cut"),
}


@pytest.mark.parametrize("command", ["run", "inspect", "check"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, misfit: str
) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    encoder, data, sentence = MISFITS[misfit]
    assert refused(command, f"mine.py:{encoder}", "--data", f"mine.py:{data}").startswith(sentence)
    assert not (tmp_path / "runs").exists()


def test_an_encoder_whose_example_has_channels_first_takes_such_images() -> None:
    encoder, whole = tiny_image_encoder(), tiny_dataset(20, "image")
    own = TorchEncoder(
        "first",
        "image",
        encoder.module,
        encoder.taps,
        "norm",
        lambda image: torch.from_numpy(image).float(),
        np.zeros((3, 16, 16), np.uint8),
    )
    turned = whole.samples.transpose(0, 3, 1, 2)
    data = Dataset("turned", "image", turned, whole.ids, list(whole.split), {"level": whole.targets["level"]})
    assert fit(own, data).taps == own.taps
    assert own.transform(data).shape == own.transform(turned).shape == (20, 8 * len(own.poolings))


@pytest.mark.parametrize("rate", [16000.0, None])
def test_the_encoder_comes_back_sized_where_the_rate_is_its_own_or_unknown(rate: float | None) -> None:
    whole = tiny_dataset(20, length=64)
    data = Dataset("sound", "series", whole.samples, whole.ids, list(whole.split), whole.targets, rate=rate)
    sized = fit(tiny_encoder(rate=16000.0), data)
    assert [tap.grid.shape for tap in sized.taps] == [(16,)] * 5
