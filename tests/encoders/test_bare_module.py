"""A bare module is the encoder that its maker would declare, and what cannot be known of it is refused with what to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diagnostics.encoders.bare_module import wrap
from diagnostics.errors import DiagnosticsError
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, SIDE, Trunk, tiny_dataset, tiny_encoder, tiny_image_encoder

WIDTH = 8


def activations(encoder: Any, samples: Any) -> dict[str, Tensor]:
    return encoder.capture(torch.stack([encoder.preprocess(sample) for sample in samples]))


def test_images_are_read_as_declared_by_hand() -> None:
    declared, data = tiny_image_encoder(), tiny_dataset(5, "image")
    # (pixel - 128) / 64, of pixels from 0 to 255
    bare = wrap(declared.module, "image", data[0], mean=128 / 255, std=(64 / 255,) * 3)
    assert [tap.name for tap in bare.taps] == [tap.name for tap in declared.taps]
    assert [str(tap.grid) for tap in bare.taps] == [str(tap.grid) for tap in declared.taps]
    assert bare.output_tap == "norm"
    wanted = activations(declared, data)
    for name, found in activations(bare, data).items():
        torch.testing.assert_close(found, wanted[name], rtol=1e-4, atol=1e-5)
    other = wrap(declared.module, "image", data[0], mean=0.4, std=64 / 255)
    assert not torch.allclose(activations(other, data)["norm"], wanted["norm"], atol=0.01)
    assert bare.identity["preprocessing"] != other.identity["preprocessing"]


def test_how_bytes_become_numbers_is_never_guessed() -> None:
    module, image = tiny_image_encoder().module, tiny_dataset(5, "image")[0]
    for known in ({}, {"mean": 0.5}, {"std": 0.5}):
        with refusal("unclear", "Trunk"):
            wrap(module, "image", image, **known)
    prepared = (image / 255).astype(np.float32)
    encoder = wrap(module, "image", prepared)
    torch.testing.assert_close(encoder.preprocess(prepared), torch.from_numpy(prepared).permute(2, 0, 1))


def test_whole_numbers_beyond_bytes_are_no_fractions() -> None:
    """Nor do they pass for bytes later; in their own units, or without any, they go in as they are."""
    module, image = tiny_image_encoder().module, tiny_dataset(5, "image")[0]
    wide = image.astype(np.uint16) * 257
    for fed in ({"mean": 0.5, "std": 0.25}, {"std": (0.2, 0.3, 1.0)}, {"mean": 0}):
        with refusal("unclear", "uint16"):
            wrap(module, "image", wide, **fed)
    pixels = torch.from_numpy(wide.astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(wrap(module, "image", wide).preprocess(wide), pixels)
    of_bytes, own = (wrap(module, "image", x, mean=m, std=s) for x, m, s in ((image, 0.5, 1), (wide, 32767.5, 65535)))
    torch.testing.assert_close(own.preprocess(wide), of_bytes.preprocess(image))
    torch.testing.assert_close(of_bytes.preprocess(image.astype(np.int64)), of_bytes.preprocess(image))
    with refusal("bad-sample", wide.max()):
        of_bytes.preprocess(wide)


def test_an_image_whose_channels_come_first_is_refused_with_the_way_to_turn_it() -> None:
    module, image = tiny_image_encoder().module, np.moveaxis(tiny_dataset(5, "image")[0], -1, 0)
    with refusal("bad-sample", "[3, 16, 16]"):
        wrap(module, "image", image, mean=0, std=1)
    wrap(module, "image", np.moveaxis(image, -3, -1), mean=0, std=1)


def test_images_are_resized_and_grey_ones_repeated_where_that_is_needed() -> None:
    module = tiny_image_encoder().module
    wide = np.full((10, 50, 3), 51, np.uint8)
    encoder = wrap(module, "image", wide, size=SIDE, mean=0, std=1)
    torch.testing.assert_close(encoder.preprocess(wide), torch.full((3, SIDE, SIDE), 0.2))
    large = np.random.default_rng(0).integers(0, 256, (70, 50), dtype=np.uint8)
    middle = Image.fromarray(large.astype(np.float32)[10:60])
    oracle = middle.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    small = encoder.preprocess(np.stack([large] * 3, axis=2)) * 255
    torch.testing.assert_close(small[1], torch.from_numpy(np.array(oracle)), rtol=0, atol=0.01)
    assert encoder.sized_for(large) is encoder

    image = large[:SIDE, :SIDE]
    grey = wrap(module, "image", image, mean=(0, 0.1, 0.2), std=1)
    found = grey.preprocess(image)
    torch.testing.assert_close(found[0] - found[2], torch.full((SIDE, SIDE), 0.2))
    with torch.random.fork_rng(devices=[]):
        one = Trunk(nn.Conv2d(1, WIDTH, 4, 4), WIDTH, 2)
    encoder = wrap(one, "image", image, mean=0, std=1)
    with refusal("bad-sample", "[16, 16, 3]", "1 channel"):
        encoder.preprocess(np.zeros((SIDE, SIDE, 3), np.uint8))


class Patches(nn.Module):
    """A trunk that takes series in another layout: `change` gives [sample, 1, time]."""

    def __init__(self, change: Any, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.change = Trunk(nn.Conv1d(channels, WIDTH, 4, 4), WIDTH, 3), change

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.change(x))


def from_rows(x: Tensor) -> Tensor:
    assert x.ndim == 2
    return x[:, None]


def from_columns(x: Tensor) -> Tensor:
    assert x.ndim == 3 and x.shape[2] == 1
    return x.transpose(1, 2)


def from_variates(x: Tensor) -> Tensor:
    assert x.shape[1:] == (LENGTH, 3)
    return x.transpose(1, 2)


def from_variates_first(x: Tensor) -> Tensor:
    assert x.shape[1:] == (3, LENGTH)
    return x


@pytest.mark.parametrize(
    ("change", "variates"),
    [(nn.Identity(), 0), (from_rows, 0), (from_columns, 0), (from_variates, 3), (from_variates_first, 3)],
)
def test_series_go_in_as_the_module_takes_them(change: Any, variates: int) -> None:
    module = Patches(change, variates or 1)
    samples = (
        np.random.default_rng(0).standard_normal((2, LENGTH, *([variates] if variates else []))).astype(np.float32)
    )
    encoder = wrap(module, "series", samples[0])
    raw = torch.from_numpy(samples)
    with torch.no_grad():
        wanted = module.trunk(raw.transpose(1, 2) if variates else raw[:, None])
    torch.testing.assert_close(activations(encoder, samples)["trunk.norm"], wanted)
    scaled = wrap(module, "series", samples[0], mean=[1.0] * variates or 1.0, std=2.0)
    torch.testing.assert_close(scaled.preprocess(samples[0]), (encoder.preprocess(samples[0]) - 1) / 2)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_module_in_which_samples_change_one_another_is_refused(batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=batch_first)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    sample = np.zeros((LENGTH, WIDTH), np.float32)
    if batch_first:
        assert len(wrap(module, "series", sample).taps) == 3
        return
    with refusal("irreproducible", "time before samples"):
        wrap(module, "series", sample)


class _TimeFirst(nn.Module):
    """Recurrent layers on [time, sample, variate], that read forwards or backwards."""

    def __init__(self, backwards: bool) -> None:
        super().__init__()
        self.backwards = backwards
        self.layers = nn.ModuleList(nn.GRU(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flip(0) if self.backwards else x
        for layer in self.layers:
            x = layer(x)[0]
        return x


@pytest.mark.parametrize("backwards", [False, True])
def test_a_recurrent_module_with_time_first_is_refused_in_either_direction(backwards: bool) -> None:
    torch.manual_seed(0)
    with refusal("irreproducible"):
        wrap(_TimeFirst(backwards), "series", np.zeros((LENGTH, WIDTH), np.float32))


def test_weights_of_less_precision_get_input_of_theirs() -> None:
    encoder = tiny_encoder()
    bare = wrap(encoder.module.to(torch.bfloat16), "series", encoder.example())
    assert {tokens.dtype for tokens in activations(bare, [encoder.example()]).values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("module", "modality", "sample", "more", "sentence"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
            "image",
            np.zeros((16, 16, 3)),
            {},
            "no stack of blocks .* declare its taps .* as taps= of a diagnostics.TorchEncoder",
        ),
        (tiny_image_encoder().module, "text", np.array("a"), {}, r"TorchEncoder\(name, 'text', module, preprocess="),
        (
            tiny_image_encoder().module,
            "image",
            np.zeros((3, 5, 1)),
            {},
            r"\[2, 1, 3, 5\] .* or \[2, 3, 3, 5\] .*: give the size=",
        ),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"std": 0}, "0 cannot be a std"),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"mean": [[1]]}, "cannot be a mean"),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"mean": (1, 2)}, "2 numbers for 3 channel"),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"mean": "x"}, "x cannot be a mean"),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"size": 0}, "size=0"),
        (tiny_image_encoder().module, "image", np.zeros((16, 16, 3)), {"size": "x"}, "size='x'"),
        (tiny_encoder().module, "series", np.zeros(LENGTH), {"std": (1, 2)}, "2 numbers for 1 channel"),
    ],
)
def test_what_cannot_be_known_is_refused(
    module: nn.Module, modality: Any, sample: np.ndarray, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DiagnosticsError, match=sentence):
        wrap(module, modality, sample, **more)


@pytest.mark.parametrize(("shape", "first"), [((WIDTH,), nn.Identity()), ((4, 4, 3), nn.Flatten())])
def test_a_network_of_vectors_has_its_activations_as_taps(shape: tuple[int, ...], first: nn.Module) -> None:
    wide = int(np.prod(shape))
    layers = [layer for n in (wide, WIDTH, WIDTH) for layer in (nn.Linear(n, WIDTH), nn.ReLU())]
    module = nn.Sequential(first, *layers, nn.Linear(WIDTH, 2))
    samples = np.random.default_rng(0).standard_normal((5, *shape)).astype(np.float32)
    bare = wrap(module, "series" if len(shape) == 1 else "image", samples[0])
    assert [(tap.name, tap.tokens) for tap in bare.taps] == [("embed", 1), ("2", 1), ("4", 1), ("6", 1), ("7", 1)]
    by_hand = module[:5](torch.stack([bare.preprocess(sample) for sample in samples]))
    torch.testing.assert_close(activations(bare, samples)["4"][:, 0], by_hand)
