"""Features of new samples: those that a run stores of them, with the module as it was, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics import Dataset, DiagnosticsError, TorchEncoder
from diagnostics.encoders.encoder import why_not_finite
from tests.support.masked import masked_encoder, ragged_dataset
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder, tiny_image_encoder

OPTIONS: dict[str, Any] = {"measures": ["rankme"], "controls": False, "report": False}


@pytest.mark.parametrize(
    ("encoder", "dataset"),
    [
        (tiny_encoder, lambda: tiny_dataset(30)),
        (tiny_encoder, lambda: tiny_dataset(30, length=48)),  # another size than the encoder was built for
        (tiny_image_encoder, lambda: tiny_dataset(30, "image")),
        (lambda: masked_encoder(32), lambda: ragged_dataset()[0]),
    ],
    ids=["series", "resized", "image", "masked"],
)
def test_features_are_those_that_a_run_stores(
    encoder: Callable[[], TorchEncoder], dataset: Callable[[], Dataset], tmp_path: Path
) -> None:
    run = dx.run(encoder(), dataset(), out=tmp_path / "run", token_budget=0, **OPTIONS)
    for tap in (run.store.taps[1].name, run.store.output_tap):
        wanted = run.features(tap).values
        for size in (1, 7, None):
            found = encoder().transform(dataset().samples, tap=tap, batch_size=size)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(
            encoder().transform(dataset(), tap=tap, pooling="mean"),
            found[:, : found.shape[1] // len(run.store.poolings)],
        )
    np.testing.assert_array_equal(encoder().transform(dataset().samples), found)
    # Of other weights they are others: the comparison above can fail.
    assert not np.allclose(encoder().fresh(0).transform(dataset().samples), found, atol=0.1)


def test_the_module_is_as_it_was() -> None:
    encoder, samples = tiny_encoder(), tiny_dataset(8).samples
    module = encoder.module
    module.train()
    module.blocks[1].eval()
    module.blocks[0].inner.weight.requires_grad_(False)
    module(torch.randn(2, 1, 32)).sum().backward()

    def state() -> Any:
        modes = [part.training for part in module.modules()]
        tensors = [(p.requires_grad, p.device, None if p.grad is None else p.grad.clone()) for p in module.parameters()]
        return modes, [(needs, device) for needs, device, _ in tensors], [grad for *_, grad in tensors]

    modes, wants, gradients = state()
    drawn = torch.get_rng_state()
    encoder.transform(samples, tap="blocks.0")
    assert state()[:2] == (modes, wants)
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(gradients, state()[2], strict=True))
    assert torch.equal(drawn, torch.get_rng_state())
    assert not any(part._forward_hooks for part in module.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU with CUDA")
def test_a_gpu_gives_the_same_and_the_module_stays_where_it_was() -> None:
    encoder, samples = tiny_image_encoder(), tiny_dataset(20, "image").samples
    np.testing.assert_allclose(
        encoder.transform(samples, device="cuda"), encoder.transform(samples, device="cpu"), rtol=1e-4, atol=1e-4
    )
    assert {p.device.type for p in encoder.module.parameters()} == {"cpu"}


def test_some_samples_of_a_dataset_are_taken_as_they_are_indexed() -> None:
    encoder, data = tiny_encoder(), tiny_dataset(40)
    whole, test = encoder.transform(data), data.split == "test"
    for index in (slice(5, 10), test, [3, -1]):
        np.testing.assert_array_equal(encoder.transform(data[index]), whole[index])


def test_no_samples_are_no_features_and_an_iterator_is_read() -> None:
    encoder, samples = tiny_encoder(), tiny_dataset(6).samples
    assert encoder.transform(samples[:0], tap="norm").shape == (0, 16)
    np.testing.assert_array_equal(encoder.transform(iter(samples)), encoder.transform(samples))


class NotFinite(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 50, torch.nan, x)


@pytest.mark.parametrize(
    ("encoder", "samples", "says"),
    [
        (tiny_encoder, np.zeros((3, 31)), r"Samples of shape \(31,\) do not fit tiny: a series of 31 steps cannot be cut"),
        (tiny_encoder, [np.zeros(32), np.zeros(36)], r"Sample 1 does not fit tiny: it has shape \(36,\)"),
        (tiny_encoder, np.zeros((2, 4, 4, 3)), r"tiny reads series samples \(\[time\] or \[time, variate\], as its example float32 of shape \(32,\)\), and sample 0 is float64 of shape \(4, 4, 3\)"),
        (tiny_encoder, ["text"], "sample 0 is a str"),
        (tiny_encoder, "text", "a single str: give a list"),
        (tiny_encoder, np.zeros(32), r"float64 of shape \(32,\), which is one sample: give \[sample, \.\.\.\]"),
        (tiny_image_encoder, np.zeros((8, 20, 3), np.uint8), r"uint8 of shape \(8, 20, 3\), which is one sample"),
        (tiny_encoder, lambda: tiny_dataset(8, "image"), "tiny reads series samples, but tiny-image holds image samples"),
        (tiny_image_encoder, np.zeros((3, 16, 16), np.uint8), r"uint8 of shape \(3, 16, 16\), which is one sample"),
        (tiny_image_encoder, np.zeros((2, 3, 16, 16)), r"Sample 0 does not fit tiny-image: it has shape \[3, 16, 16\], and channels come last, as in \[16, 16, 3\]: give np\.moveaxis\(images, -3, -1\), or images\.movedim"),
        (tiny_image_encoder, np.zeros((2, 16, 16, 3)), r"sample 0 is float64 of shape \(16, 16, 3\): give samples as"),
        (tiny_image_encoder, np.zeros((2, 8, 8, 3), np.uint8), "Sample 0 does not fit tiny-image: it has shape"),
        (lambda: tiny_encoder(forward=lambda m, x: m(NotFinite()(x))), np.repeat([0.0, 200.0], [20, 1])[:, None] * np.ones(32), "NaN or infinity at tap norm for sample 20"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused_in_a_sentence(
    encoder: Callable[[], TorchEncoder], samples: Any, says: str
) -> None:
    with pytest.raises(DiagnosticsError, match=says):
        encoder().transform(samples() if callable(samples) else samples)


def test_unknown_taps_poolings_and_devices_are_refused() -> None:
    encoder, samples = tiny_encoder(), tiny_dataset(6).samples
    with refusal("unknown-name", "blocks.7"):
        encoder.transform(samples, tap="blocks.7")
    with refusal("unknown-name", "prefix"):
        encoder.transform(samples, pooling="prefix")
    for nowhere in ("nowhere", torch.device("meta")):
        with refusal("bad-value", nowhere):
            encoder.transform(samples, device=nowhere)
    here = torch.device("cpu")
    np.testing.assert_array_equal(encoder.transform(samples, device=here), encoder.transform(samples, device="cpu"))
    with refusal("bad-value", "0"):
        encoder.transform(samples, batch_size=0)


def test_a_part_of_a_batch_without_a_row_a_sample_holds_no_gap_of_a_sample() -> None:
    finite, whole = torch.tensor([True, False]), torch.ones(2, 4)
    for other in (torch.tensor(torch.nan), torch.full((5, 4), torch.nan)):
        assert "at tap norm" in why_not_finite(tiny_encoder(), "norm", ["a", "b"], {"x": whole, "other": other}, finite)
    gap = {"x": torch.tensor([[1.0], [torch.nan]])}
    assert "at tap norm" not in why_not_finite(tiny_encoder(), "norm", ["a", "b"], gap, finite)
