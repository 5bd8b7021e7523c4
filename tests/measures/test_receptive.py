"""Receptive fields: closed forms of stacked convolutions, gradients of real modules, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.encoders.encoder import Captured
from diagnostics.encoders.torch_encoder import centre
from diagnostics.measures.locality import receptive_field
from diagnostics.measures.locality.receptive import Gradients, ReceptiveFieldOfTaps
from tests.support.memory import MemoryActivations
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder, tiny_image_encoder

SIDE = 21


class Stack(nn.Module):
    """`count` convolutions of ones without activation."""

    def __init__(self, count: int, width: int = 1, channels: int = 1, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Conv2d(channels if i == 0 else width, width, kernel, stride, (kernel - 1) // 2, bias=False)
                for i in range(count)
            ]
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def stack_encoder(count: int, channels: int = 1) -> TorchEncoder:
    grid = Grid((SIDE, SIDE), ("y", "x"))
    taps = [
        Tap(f"conv.{i}", (i + 1) / count, "trunk", 1, grid, Site(f"blocks.{i}", layout="channels_first"))
        for i in range(count)
    ]
    module = Stack(count, channels=channels)
    example = np.zeros((SIDE, SIDE, channels), np.float32)
    return TorchEncoder(
        "stack", "image", module, taps, taps[-1].name, lambda x: torch.from_numpy(x).permute(2, 0, 1), example
    )


def test_stacked_convolutions_of_ones() -> None:
    """Luo et al. 2016: support 2k + 1, and the k-fold convolution of (1, 1, 1), of variance 2/3 each."""
    model = stack_encoder(6)
    batch = torch.randn(2, 1, SIDE, SIDE)
    for k, gradient in enumerate(model.input_gradient(batch).values(), start=1):
        assert gradient.shape == (2, SIDE, SIDE)
        line = np.array([1.0])
        for _ in range(k):
            line = np.convolve(line, np.ones(3))
        middle = slice(SIDE // 2 - k, SIDE // 2 + k + 1)
        np.testing.assert_allclose(gradient[0, middle, middle].numpy(), np.outer(line, line), rtol=1e-5)
        result = receptive_field(gradient, (10, 10))
        np.testing.assert_array_equal(result.support, 2 * k + 1)
        np.testing.assert_allclose(result.sd, np.sqrt(2 * k / 3), rtol=1e-6)
    # A single one has the 9 places at 1: 1, 4 at distance 1, 4 at the square root of 2.
    one = receptive_field(model.input_gradient(batch)["conv.0"], (10, 10))
    np.testing.assert_allclose(one.radius50, 1)
    np.testing.assert_allclose(one.radius95, np.sqrt(2))


def test_identity_has_no_extent() -> None:
    alone = np.zeros((7, 9))
    alone[3, 4] = -2.0
    result = receptive_field(alone, (3, 4))
    assert (result.radius50, result.radius95) == (0, 0)
    np.testing.assert_array_equal(result.sd, [0, 0])
    np.testing.assert_array_equal(result.support, [1, 1])


def test_it_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for shape, middle, cell in (
        ((11,), (3.5,), (0.1,)),
        ((5, 8), (2.0, 3.5), (1.0, 2.0)),
        ((3, 4, 5), (1.0, 1.5, 2.0), (1.0, 1.0, 3.0)),
    ):
        size = rng.exponential(size=shape)
        result = receptive_field(size * rng.choice([-1, 1], shape), middle, cell=cell)
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
        apart = np.sqrt((((places - middle) * cell) ** 2).sum(-1))
        for radius, share in ((result.radius50, 0.5), (result.radius95, 0.95)):
            assert size[apart <= radius + 1e-12].sum() >= share * size.sum()
            assert size[apart < radius - 1e-12].sum() < share * size.sum()
        for axis in range(len(shape)):
            at = places[..., axis] * cell[axis]
            mean = np.average(at, weights=size)
            assert result.sd[axis] == pytest.approx(np.sqrt(np.average((at - mean) ** 2, weights=size)), rel=1e-9)


def test_uniform_line_and_samples_and_scale() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.exponential(size=(3, 6, 6))
    together = receptive_field(sizes, (2.5, 2.5))
    for i, size in enumerate(sizes):
        alone = receptive_field(1e-8 * size, (2.5, 2.5))
        assert (alone.radius50, alone.radius95) == (together.radius50[i], together.radius95[i])
        np.testing.assert_allclose(alone.sd, together.sd[i])
    # On a line of 2m + 1 the radius of half the mass is m / 2: 101 of 201 places within 50.
    assert receptive_field(np.ones(201), (100,)).radius50 == 50
    np.testing.assert_allclose(receptive_field(np.ones(201), (100,)).sd, np.sqrt((201**2 - 1) / 12))
    with torch.device("meta"):
        assert receptive_field(torch.ones(201, device="cpu"), (100,)).radius50 == 50


def test_no_value_is_nan_and_bad_input_is_said() -> None:
    sizes = np.ones((2, 5))
    sizes[0] = 0
    result = receptive_field(sizes, (2,))
    assert np.isnan([result.radius50[0], result.radius95[0], result.sd[0, 0]]).all()
    assert result.support[0, 0] == 0 and result.radius50[1] == 1
    with refusal("bad-shape", "(2, 5)", "1, 2, 3"):
        receptive_field(sizes, (1, 2, 3))
    with refusal("not-finite"):
        receptive_field(np.array([1.0, np.nan]), (0,))
    with refusal("bad-value", "0"):
        receptive_field(sizes, (2,), cell=0)


def test_channels_do_not_cancel() -> None:
    model = stack_encoder(1, channels=2)
    with torch.no_grad():
        model.module.blocks[0].weight[:, 1] = -1
    gradient = model.input_gradient(torch.randn(1, 2, SIDE, SIDE))["conv.0"]
    np.testing.assert_allclose(gradient[0, 10, 9:12], 2)


def test_a_layer_norm_is_no_zero() -> None:
    """The sum of a normalised token's features is constant; the random signs see it all the same."""
    model = tiny_encoder()
    batch = torch.stack(
        [model.preprocess(np.random.default_rng(i).standard_normal(32).astype(np.float32)) for i in range(3)]
    )
    result = model.input_gradient(batch)
    assert list(result) == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"]
    for gradient in result.values():
        assert gradient.shape == (3, 32)
        assert not gradient.requires_grad
    # The embedding of token 4 (the fifth of eight) reads its four steps alone.
    np.testing.assert_array_equal(np.flatnonzero(result["embed"][0]), [16, 17, 18, 19])
    assert (result["norm"] > 0).any(1).all()
    assert not any(parameter.grad is not None for parameter in model.module.parameters())


def test_the_gradient_is_the_finite_difference() -> None:
    model = tiny_image_encoder()
    model.module.double()
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tap = model.tap("blocks.1")
    signs = torch.randint(0, 2, (8,), generator=torch.Generator().manual_seed(0)) * 2 - 1
    token = tap.grid.prefix + centre(tap.grid)
    assert token == 2 + 2 * 4 + 2

    def signal(x: Tensor) -> float:
        return float(model.capture(x, ["blocks.1"])["blocks.1"][0, token] @ signs.double())

    gradient = model.input_gradient(image, ["blocks.1"])["blocks.1"]
    for y, x in ((8, 8), (0, 3), (11, 9)):
        expected = 0.0
        for channel in range(3):
            step = torch.zeros_like(image)
            step[0, channel, y, x] = 1e-5
            expected += abs(signal(image + step) - signal(image - step)) / 2e-5
        assert float(gradient[0, y, x]) == pytest.approx(expected, rel=1e-4)


class Causal(nn.Module):
    """One causal convolution over time; takes a mapping, and steps of padding before the series."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5)
        # Each of five steps counts alike, so 95 % of the mass needs all; no signs of 1, 2, 4, 8 add up to nothing.
        with torch.no_grad():
            self.conv.weight.copy_((2.0 ** torch.arange(4))[:, None, None].expand(4, 1, 5))

    def forward(self, batch: Any) -> Tensor:
        x = nn.functional.pad(batch["values"].mul_(1), (4, 0))
        return self.out(self.conv(x).transpose(1, 2))

    def out(self, x: Tensor) -> Tensor:
        return x


def test_padding_is_cut_and_mappings_are_taken() -> None:
    module = Causal()
    taps = [Tap("conv", 1, "trunk", 4, Grid((12,), ("t",)), Site("", padding=8))]
    model = TorchEncoder("causal", "series", module, taps, "conv", lambda x: x, np.zeros(12))
    batch = {"values": torch.randn(2, 1, 20), "mask": torch.ones(2, 1, 20, dtype=torch.bool)}
    before = batch["values"].clone()
    gradient = model.input_gradient(batch)["conv"]
    assert gradient.shape == (2, 12)
    np.testing.assert_array_equal(np.flatnonzero(gradient[0]), [2, 3, 4, 5, 6])
    assert torch.equal(batch["values"], before), "the model changes its input in place, but not ours"
    observed = Gradients().observe(model, batch, ["conv"])["conv"]
    assert observed.shape == (2, 5)
    # radius95 as a share of 12 steps, and that of a token that sees all alike.
    np.testing.assert_allclose(observed[:, 1], 4 / 12, rtol=1e-6)
    np.testing.assert_allclose(observed[:, 3], 6 / 12, rtol=1e-6)


def test_what_cannot_be_told_is_refused() -> None:
    def model(preprocess_shape: tuple[int, ...], grid: Grid) -> TorchEncoder:
        class Flat(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.flatten(1)[:, : grid.tokens, None].clone()

        taps = [Tap("flat", 1, "trunk", 1, grid, Site(""))]
        return TorchEncoder("flat", "series", Flat(), taps, "flat", lambda x: x, np.zeros(preprocess_shape))

    line = Grid((8,), ("t",))
    assert model((1, 16), line).input_gradient(torch.randn(2, 1, 16))["flat"].shape == (2, 16)
    with refusal("unsupported", "axes"):
        model((16, 8), line).input_gradient(torch.randn(2, 16, 8))
    # 24 overlapping windows of 100 steps, or the 24 variates: nobody can tell.
    with refusal("unsupported", "axes"):
        model((100, 24), Grid((24,), ("t",))).input_gradient(torch.randn(2, 100, 24))
    with refusal("unsupported", "divide evenly"):
        model((1, 15), line).input_gradient(torch.randn(2, 1, 15))
    with refusal("unclear", "flat", "2"):
        model((1, 16), line).input_gradient([torch.randn(2, 1, 16), torch.randn(2, 1, 16)])
    with refusal("unclear", "flat", "0"):
        model((1, 16), line).input_gradient(torch.ones(2, 1, 16, dtype=torch.int64))


def test_a_detached_trunk_gives_none() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv1d(1, 2, 4, 4), nn.Conv1d(2, 2, 1)])

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks[1](self.blocks[0](x).detach())

    taps = [
        Tap(f"blocks.{i}", i, "trunk", 2, Grid((4,), ("t",)), Site(f"blocks.{i}", layout="channels_first"))
        for i in range(2)
    ]
    model = TorchEncoder("cut", "series", Detached(), taps, "blocks.1", lambda x: x, np.zeros(16))
    result = model.input_gradient(torch.randn(2, 1, 16))
    assert list(result) == ["blocks.0"]
    assert result.left_out == {"blocks.1": "no gradient comes through"}


def test_registers_are_never_the_centre() -> None:
    model = tiny_image_encoder(prefix=5)
    images = torch.randn(2, 3, 16, 16)
    gradient = model.input_gradient(images, ["embed"])["embed"]
    ys, xs = np.nonzero(gradient[0].numpy())
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (8, 11, 8, 11)


def test_the_measure_points_at_the_tap_that_opens() -> None:
    """Planted: two local taps, then one that sees all."""
    rng = np.random.default_rng(0)
    local = np.tile([0.1, 0.2, 0.4, 0.7, 0.05, 0.06], (8, 1)) + 0.002 * rng.standard_normal((8, 6))
    wide = np.tile([0.4, 0.7, 0.4, 0.7, 0.28, 0.29], (8, 1))
    wide[2] = np.nan
    tokens = np.zeros((10, 4, 2))
    observed = Captured({"b": local, "c": wide}, {"a": "no gradient comes through"})
    activations = MemoryActivations({"a": tokens, "b": tokens, "c": tokens}, observed={"gradients": observed})
    result = ReceptiveFieldOfTaps().compute(activations, None, 4)
    np.testing.assert_allclose(result["score"].values, [np.nan, 0.1, 0.4], atol=0.003)
    np.testing.assert_allclose(result["radius95"].values[1:], [0.2, 0.7], atol=0.003)
    np.testing.assert_allclose(result["sd"].values[1:], [0.055, 0.285], atol=0.003)
    np.testing.assert_allclose(result["line_global"].values[1:], 0.4, atol=0.003)
    assert (result["low"] <= result["score"]).values[1] and (result["score"] <= result["high"]).values[1]
    assert result.attrs["reason"] == "a: no gradient comes through; c: the gradient of 1 of 8 samples is zero"
    assert result.attrs["n"] == 8
    with refusal("not-measured", "No gradients"):
        ReceptiveFieldOfTaps().compute(MemoryActivations({"a": tokens}), None, 0)


def test_fracast_opens_by_its_dilations() -> None:
    pytest.importorskip("fracast", reason="needs the extra demo")
    from diagnostics_timeseries.representations import fracast as build

    model = build().sized_for(np.zeros(128) + np.arange(128))
    series = np.random.default_rng(0).standard_normal(128).cumsum()
    batch = {key: value[None] for key, value in model.preprocess(series).items()}
    gradient = model.input_gradient(batch, ["block.0", "block.1", "block.2"])
    reach = [64 - np.flatnonzero(size[0] > 1e-4 * size.max()).min() for size in gradient.values()]
    assert [int(r) for r in reach] == [2, 2 + 4, 2 + 4 + 8]
