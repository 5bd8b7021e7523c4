"""Samples are prepared and passed twice before the first byte: a random encoder is said to be one, and no sample changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.activations.bucket import open_place
from diagnostics.activations.store import Store
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


def centred(module: Any, batch: torch.Tensor) -> None:
    """Statistics of the batch, which its order does not change."""
    module(batch - batch.mean(0))


def carried(module: Any, batch: torch.Tensor) -> None:
    """As a recurrent module does whose input has time before samples."""
    module(batch + torch.cat([batch[:1], batch[:-1]]))


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
        *(
            (
                lambda mixing=mixing: tiny_encoder(forward=mixing),
                tiny_dataset,
                "tiny gives a sample other activations when other samples are in its batch, first at embed",
            )
            for mixing in (centred, carried)
        ),
        (
            lambda: tiny_encoder(forward=lambda module, batch: noisy(module, batch - batch.mean(0))),
            tiny_dataset,
            "tiny gives other activations for the same input, first at embed",
        ),
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


def test_fresh_replaces_what_was_warned_of_though_no_identity_shows_it_mended(tmp_path: Path) -> None:
    data, options = tiny_dataset(30), {**OPTIONS, "measures": "linear_probe", "controls": True}
    noise = dx.run(tiny_encoder(forward=noisy), data, out=tmp_path / "run", **options)
    assert noise.record.unrepeatable
    mended = dx.run(tiny_encoder(), data, out=tmp_path / "run", fresh=True, **options)
    assert mended.record.unrepeatable == "" and mended.store.attrs["repeatable"] is True
    dx.run(tiny_encoder(), data, out=tmp_path / "alone", **options)
    for place in ("", "controls/fresh_weights", "controls/permuted_weights"):
        one, other = (Store(open_place(tmp_path / run / place)).pooled("blocks.1") for run in ("run", "alone"))
        np.testing.assert_array_equal(one, other)


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


def padded(valid: Any = None) -> dx.TorchEncoder:
    """An encoder whose preparation fills series with zeros."""
    encoder = tiny_encoder(valid=valid, sized_for=None)
    return encoder.replace(preprocess=lambda sample: torch.as_tensor(sample).nan_to_num()[None])


def observed(batch: torch.Tensor, tap: dx.Tap) -> torch.Tensor:
    return batch[:, 0].unflatten(1, (-1, 4)).ne(0).any(-1)


def of_lengths(*lengths: int) -> dx.Dataset:
    rng = np.random.default_rng(0)
    series = [rng.standard_normal(lengths[i % len(lengths)]).astype(np.float32) for i in range(30)]
    return dx.dataset(series, rng.standard_normal(30))


@pytest.mark.parametrize(
    ("valid", "lengths", "told"), [(None, (8, 32), True), (observed, (8, 32), False), (None, (32,), False)]
)
def test_padding_that_counts_in_means_is_told(
    valid: Any, lengths: tuple[int, ...], told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zeros behind the preparation are tokens like others: nothing but `valid` keeps them out of a mean."""
    run = dx.run(padded(valid), of_lengths(*lengths), out=tmp_path / "run", **OPTIONS)
    assert bool(run.record.beware) == told == bool(run.to_json()["beware"])
    assert not told or {"8", "32", "embed:", "valid="} <= set(run.record.beware.split())
    print_page(run_page(run), Path("report.html"))
    assert ("padding counts" in " ".join(capsys.readouterr().out.split())) == told


@pytest.mark.parametrize(("words", "told"), [((3, 40), "32 of 64 texts"), ((3, 12), "")])
def test_texts_that_an_encoder_cuts_are_told(words: tuple[int, int], told: str, tmp_path: Path) -> None:
    def lengths(text: np.ndarray) -> torch.Tensor:
        first = [float(len(word)) for word in str(text).split()][:32]
        return torch.tensor(first + [0.0] * (32 - len(first)))[None]

    rng = np.random.default_rng(0)
    texts = [" ".join("a" * n for n in rng.integers(1, 9, words[i % 2])) for i in range(64)]
    encoder = tiny_encoder(sized_for=None, valid=observed)
    encoder = encoder.replace(modality="text", preprocess=lengths, example=np.asarray("a b"))
    run = dx.run(encoder, dx.dataset(texts, rng.standard_normal(64)), out=tmp_path / "run", **OPTIONS)
    assert (told in run.record.beware) and bool(run.record.beware) == bool(told)


def test_what_stands_where_no_data_are_may_be_of_other_samples(tmp_path: Path) -> None:
    """Chronos-2 attends from padding to all rows of a batch."""

    def strange(module: Any, batch: torch.Tensor) -> None:
        module(torch.where(batch == 0, batch.sum(), batch))

    embed = padded().taps[:1]
    encoder = padded(observed).replace(forward=strange, taps=embed, output_tap="embed")
    run = dx.run(encoder, of_lengths(*[8] * 9, 32), out=tmp_path / "run", **OPTIONS)
    assert run.store.attrs["repeatable"] is True


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda x: 2 * x, True),
        (lambda x: (x + torch.ones(8), None), True),
        (lambda x: x.bfloat16(), False),
        (lambda x: {"last": x, "all": (2 * x, x)}, False),
        (lambda x: x.mean(1), False),
        (lambda x: x[..., :4], False),
    ],
)
def test_an_output_that_no_tap_reads_is_told(returned: Any, told: bool, tmp_path: Path) -> None:
    encoder = tiny_encoder(sized_for=None)
    encoder.module.register_forward_hook(lambda module, args, output: returned(output))
    run = dx.run(encoder, tiny_dataset(30), out=tmp_path / "run", **OPTIONS)
    assert ("last tap, norm," in run.record.beware) == told == bool(run.record.beware)
    last = dx.Tap("returned", 1.0, "trunk", 8, encoder.taps[0].grid, dx.Site(""))
    if told:
        there = encoder.replace(taps=[*encoder.taps, last], output_tap="returned")
        assert not dx.run(there, tiny_dataset(30), out=tmp_path / "there", **OPTIONS).record.beware
