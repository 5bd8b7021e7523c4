"""Samples are prepared and passed twice before the first byte: a random encoder is said to be one, and no sample changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.report.terminal import print_page
from diagnostics.runs.pages.run import run_page
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

OPTIONS: dict[str, Any] = {"measures": "rankme", "controls": False, "report": False}


def shifted(sample: np.ndarray) -> torch.Tensor:
    """Series with noise, as a random crop that was left in a transform is."""
    return torch.from_numpy(sample + np.random.standard_normal(sample.shape).astype(np.float32))[None].float()


def noisy(module: Any, batch: torch.Tensor) -> None:
    module(batch + 1e-3 * torch.randn_like(batch))


class Noisy(dx.Dataset):
    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index) + np.random.standard_normal(32).astype(np.float32)


def noisy_data() -> Noisy:
    data = tiny_dataset(30)
    return Noisy("noisy", "series", data.samples, data.ids, data.split, data.targets)


@pytest.mark.parametrize(
    ("encoder", "data", "said"),
    [
        (
            lambda: tiny_encoder().replace(preprocess=shifted, sized_for=None),
            tiny_dataset,
            "preprocessing of tiny gives another input",
        ),
        (
            lambda: tiny_encoder(forward=noisy),
            tiny_dataset,
            "tiny gives other activations for the same input, first at embed",
        ),
        (tiny_encoder, noisy_data, "noisy gives another sample when it is read again"),
    ],
)
def test_what_is_random_is_said_and_recorded(
    encoder: Any, data: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = data(30) if data is tiny_dataset else data()
    run = dx.run(encoder(), samples, out=tmp_path / "run", **OPTIONS)
    assert said in run.record.unrepeatable and run.store.attrs["repeatable"] is False
    assert json.loads(json.dumps(run.to_json()))["repeatable"] is False
    print_page(run_page(run), Path("report.html"))
    assert said in " ".join(capsys.readouterr().out.split())


def test_what_repeats_is_recorded_once_and_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, data = tiny_encoder(), tiny_dataset(30)
    run = dx.run(encoder, data, out=tmp_path / "run", **OPTIONS)
    assert run.store.attrs["repeatable"] is True and run.record.unrepeatable == "" and run.to_json()["repeatable"]
    monkeypatch.setattr("diagnostics.runs.extraction.find_difference", None)
    dx.run(encoder, data, out=tmp_path / "run", **OPTIONS)  # once a run: not asked again


def test_rounding_of_bfloat16_is_no_difference(tmp_path: Path) -> None:
    run = dx.run(tiny_encoder(), tiny_dataset(30), out=tmp_path / "run", compute="bf16", **OPTIONS)
    assert run.store.attrs["repeatable"] is True


def test_a_sample_that_its_preparation_changes_is_refused(tmp_path: Path) -> None:
    def scaled(sample: np.ndarray) -> torch.Tensor:
        sample -= sample.mean()
        return torch.from_numpy(sample)[None].float()

    data = tiny_dataset(30)
    before = np.array(data.samples)
    encoder = tiny_encoder()
    with refusal("sample-changed"):
        dx.run(encoder.replace(preprocess=scaled, sized_for=None), data, out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
    np.testing.assert_array_equal(np.array(data.samples), before)
