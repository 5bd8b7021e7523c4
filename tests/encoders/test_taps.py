"""Taps: what hooks read, in every layout and order of calls; what is refused; controls of the weights; identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder
from diagnostics.encoders.modules import pool
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder, tiny_image_encoder

FOUR = Grid((4,), ("t",))


def tap_at(module: str, features: int = 3, grid: Grid = FOUR, *, name: str = "here", **site: Any) -> Tap:
    return Tap(name, 0.5, "trunk", features, grid, Site(module, **site))


def encoder_of(module: nn.Module, *taps: Tap, **options: Any) -> TorchEncoder:
    example = np.zeros((4, 3), dtype=np.float32)
    return TorchEncoder("mine", "series", module, taps, taps[-1].name, torch.from_numpy, example, **options)


def tokens_in(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def hooks_left(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


class Calls(nn.Module):
    """Runs `inner` with a function that says how."""

    def __init__(self, inner: nn.Module, how: Any) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, x: Any) -> Any:
        return self.how(self.inner, x)


class Gives(nn.Module):
    """A module that returns what a function makes of its input."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


# What is read


@pytest.mark.parametrize("when", ["after", "before"])
def test_a_later_operation_in_place_does_not_reach_what_was_read(when: Any) -> None:
    def then_in_place(inner: nn.Module, x: Tensor) -> Tensor:
        x = x * 1.0
        y = inner(x)
        x.fill_(7.0)
        return torch.relu_(y)

    linear = nn.Linear(3, 3)
    batch = tokens_in(2, 4, 3)
    expected = (batch if when == "before" else batch @ linear.weight.T + linear.bias).detach()
    assert (expected < 0).any()
    encoder = encoder_of(Calls(linear, then_in_place), tap_at("inner", when=when))
    torch.testing.assert_close(encoder.capture(batch)["here"], expected)
    pooled = encoder.capture(batch, reduce=lambda tap, tokens: pool(tap, tokens, ("mean",)))["here"]
    torch.testing.assert_close(pooled[:, 0], expected.mean(1))


def test_an_in_place_relu_in_a_sequential_does_not_reach_the_tap_before_it() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    batch = tokens_in(2, 4, 3)
    expected = (batch @ module[0].weight.T + module[0].bias).detach()
    taps = tap_at("0", name="linear"), tap_at("1", name="relu")
    captured = encoder_of(module, *taps).capture(batch)
    torch.testing.assert_close(captured["linear"], expected)
    torch.testing.assert_close(captured["relu"], expected.clamp(min=0))


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_first_of_several_outputs_is_read(kind: Any) -> None:
    module = Calls(Gives(lambda x: kind([2 * x, x.sum()])), lambda inner, x: inner(x)[0])
    batch = tokens_in(2, 4, 3)
    assert torch.equal(encoder_of(module, tap_at("inner")).capture(batch)["here"], 2 * batch)


def test_input_given_by_keyword_is_read() -> None:
    module = Calls(Gives(lambda x, scale: x * scale), lambda inner, x: inner(x=x + 1, scale=3.0))
    batch = tokens_in(2, 4, 3)
    taps = tap_at("inner", when="before", name="before"), tap_at("inner", name="after")
    captured = encoder_of(module, *taps).capture(batch)
    assert torch.equal(captured["before"], batch + 1)
    assert torch.equal(captured["after"], (batch + 1) * 3)


def test_each_call_of_a_shared_block_is_its_own_tap() -> None:
    block = nn.Linear(3, 3)

    def five_times(inner: nn.Module, x: Tensor) -> Tensor:
        for _ in range(5):
            x = torch.tanh(inner(x))
        return x

    taps = [tap_at("inner", name="in", calls=5, when="before")]
    taps += [tap_at("inner", name=f"call.{i}", call=i, calls=5) for i in range(5)]
    taps += [tap_at("inner", name="in.3", call=3, calls=5, when="before")]
    batch = x = tokens_in(2, 4, 3)
    captured = encoder_of(Calls(block, five_times), *taps).capture(batch)
    assert torch.equal(captured["in"], batch)
    for i in range(5):
        if i == 3:
            torch.testing.assert_close(captured["in.3"], x)
        linear = (x @ block.weight.T + block.bias).detach()
        torch.testing.assert_close(captured[f"call.{i}"], linear)
        x = torch.tanh(linear)
    assert list(captured) == [tap.name for tap in taps]


def test_channels_first_maps_become_tokens_in_raster_order() -> None:
    maps = tokens_in(2, 5, 3, 4)
    tap = tap_at("inner", 5, Grid((3, 4), ("y", "x")), layout="channels_first")
    captured = encoder_of(Calls(nn.Identity(), lambda inner, x: inner(x)), tap).capture(maps)["here"]
    assert captured.shape == (2, 12, 5)
    for y in range(3):
        for x in range(4):
            assert torch.equal(captured[:, y * 4 + x], maps[:, :, y, x])


def test_channels_last_maps_of_three_axes_become_tokens_in_raster_order() -> None:
    maps = tokens_in(2, 2, 3, 4, 5)
    tap = tap_at("inner", 5, Grid((2, 3, 4), ("t", "y", "x")), layout="channels_last")
    captured = encoder_of(Calls(nn.Identity(), lambda inner, x: inner(x)), tap).capture(maps)["here"]
    for t in range(2):
        for y in range(3):
            for x in range(4):
                assert torch.equal(captured[:, (t * 3 + y) * 4 + x], maps[:, t, y, x])


def test_an_axis_of_one_variate_is_no_axis_of_the_grid() -> None:
    maps = tokens_in(2, 1, 4, 3)
    captured = encoder_of(nn.Identity(), tap_at("", 3, FOUR, layout="channels_last")).capture(maps)["here"]
    assert torch.equal(captured, maps[:, 0])


def test_a_vector_of_features_becomes_one_token() -> None:
    batch = tokens_in(2, 5)
    tap = tap_at("", 5, Grid((1,), ("t",)), layout="features", when="before")
    captured = encoder_of(nn.Identity(), tap).capture(batch)["here"]
    assert torch.equal(captured, batch.reshape(2, 1, 5))


def test_left_padding_is_dropped() -> None:
    batch = tokens_in(2, 7, 3)
    captured = encoder_of(nn.Identity(), tap_at("", padding=3)).capture(batch)["here"]
    assert torch.equal(captured, batch[:, 3:])


def test_prefix_tokens_come_first_and_one_patch_moves_one_token() -> None:
    encoder = tiny_image_encoder(prefix=3)
    image = np.full((16, 16, 3), 100, dtype=np.uint8)
    changed = image.copy()
    changed[4:8, 12:16] = 200  # the patch in row 1, column 3 of the 4 x 4 grid
    before, after = encoder.capture(torch.stack([encoder.preprocess(image), encoder.preprocess(changed)]))["embed"]
    assert before.shape == (3 + 16, 8)
    assert torch.equal(before[:3], encoder.module.prefix[0])
    moved = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert moved == [3 + 1 * 4 + 3]


def test_all_taps_take_one_forward_pass() -> None:
    encoder = tiny_encoder()
    captured = encoder.capture(tokens_in(4, 1, 32))
    assert list(captured) == ["embed", "blocks.0", "blocks.1", "blocks.2", "norm"]
    assert encoder.module.passes == 1


def test_taps_equal_the_model_run_by_hand() -> None:
    encoder = tiny_image_encoder()
    batch = tokens_in(3, 3, 16, 16)
    captured = encoder.capture(batch)
    trunk: Any = encoder.module
    with torch.no_grad():
        x = torch.stack([trunk.stem(batch)[:, :, y, x] for y in range(4) for x in range(4)], dim=1)
        x = torch.cat([trunk.prefix.repeat(3, 1, 1), x], dim=1)
        torch.testing.assert_close(captured["embed"], x)
        for i, block in enumerate(trunk.blocks):
            x = x + block.outer(torch.clamp(block.inner(x + x.mean(1, keepdim=True)), min=0))
            torch.testing.assert_close(captured[f"blocks.{i}"], x)
        torch.testing.assert_close(captured["norm"], nn.functional.layer_norm(x, (8,)))


@pytest.mark.parametrize("subset", [["norm"], ["embed"], ["blocks.2", "blocks.0"]])
def test_a_subset_of_taps_gives_the_same_values(subset: Sequence[str]) -> None:
    encoder = tiny_encoder()
    batch = tokens_in(4, 1, 32)
    everything, some = encoder.capture(batch), encoder.capture(batch, subset)
    assert set(some) == set(subset)
    assert all(torch.equal(some[name], everything[name]) for name in subset)


def test_a_batch_of_one_equals_its_row_in_a_batch() -> None:
    encoder = tiny_image_encoder()
    batch = tokens_in(6, 3, 16, 16)
    together = encoder.capture(batch)
    for i in range(6):
        alone = encoder.capture(batch[i : i + 1])
        for name, tokens in together.items():
            torch.testing.assert_close(alone[name], tokens[i : i + 1], rtol=1e-5, atol=1e-5)


def test_no_autograd_graph_is_kept() -> None:
    module = Calls(nn.Linear(3, 3), lambda inner, x: inner(x))
    encoder = encoder_of(module, tap_at("inner"))
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # even where a user turned it on again
    captured = encoder.capture(tokens_in(2, 4, 3).requires_grad_(True))["here"]
    assert captured.grad_fn is None
    assert not captured.requires_grad


def test_what_a_model_keeps_of_a_pass_can_be_trained_on_afterwards() -> None:
    """A table made in the first pass and kept must not be an inference tensor: gradients would fail ever after."""

    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.table = nn.Linear(3, 3), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.table is None:
                self.table = torch.arange(3.0)
            return self.inner(x) * self.table

    module = Caching()
    encoder_of(module, tap_at("inner")).capture(tokens_in(2, 4, 3))
    module(tokens_in(2, 4, 3).requires_grad_(True)).sum().backward()


def test_the_model_runs_in_eval_mode() -> None:
    encoder = encoder_of(Calls(nn.Dropout(0.5).train(), lambda inner, x: inner(x)), tap_at("inner"))
    batch = tokens_in(2, 4, 3)
    assert torch.equal(encoder.capture(batch)["here"], batch)


def test_a_pass_ends_at_the_deepest_tap_that_is_read_once_a_whole_one_was_as_declared() -> None:
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    encoder = encoder_of(module, *(tap_at(str(place), name=str(place)) for place in range(4)))
    batch = tokens_in(2, 4, 3)
    expected = [encoder.capture(batch)[name] for name in "01"]
    runs: list[int] = []
    for place, layer in enumerate(module):
        layer.register_forward_pre_hook(lambda *_, place=place: runs.append(place))

    def ran(encoder: TorchEncoder, **options: bool) -> list[int]:
        runs.clear()
        read = encoder.capture(batch, ["1", "0"], **options)
        assert all(torch.equal(read[name].detach(), value) for name, value in zip("01", expected, strict=True))
        return list(runs)

    assert [ran(encoder), ran(encoder)] == [[0, 1, 2, 3], [0, 1]]
    assert ran(encoder, gradient=True) == [0, 1, 2, 3]
    assert ran(encoder.replace(name="other")) == [0, 1, 2, 3]


def test_batches_of_several_tensors_reach_the_forward_function() -> None:
    module = Calls(Gives(lambda x, mask: x * mask), lambda inner, batch: inner(batch["x"], mask=batch["mask"]))
    batch = {"x": tokens_in(2, 4, 3), "mask": torch.tensor([1.0, 0.0, 1.0])}
    captured = encoder_of(module, tap_at("inner")).capture(batch)["here"]
    assert torch.equal(captured, batch["x"] * batch["mask"])


# What is refused


@pytest.mark.parametrize(("ran", "expected"), [(0, 1), (1, 2), (3, 2), (2, 1)])
def test_a_module_that_runs_another_number_of_times_raises(ran: int, expected: int) -> None:
    def several(inner: nn.Module, x: Tensor) -> Tensor:
        for _ in range(ran):
            x = inner(x)
        return x

    encoder = encoder_of(Calls(nn.Linear(3, 3), several), tap_at("inner", calls=expected))
    message = (
        rf"Tap here of mine expects module 'inner' to run {expected} time\(s\) in a pass, but it ran {ran} time\(s\)"
    )
    with pytest.raises(DiagnosticsError, match=message):
        encoder.capture(tokens_in(2, 4, 3))


def test_every_tap_of_a_module_is_held_to_its_number_of_calls() -> None:
    module = Calls(nn.Linear(3, 3), lambda inner, x: inner(inner(x)))
    taps = tap_at("inner", name="right", calls=2), tap_at("inner", name="wrong", calls=3)
    with refusal("bad-tap", "wrong", "mine", "inner", "3"):
        encoder_of(module, *taps).capture(tokens_in(2, 4, 3))


@pytest.mark.parametrize("call", [-1, 2, 5])
def test_a_call_that_cannot_come_is_refused(call: int) -> None:
    module = Calls(nn.Linear(3, 3), lambda inner, x: inner(inner(x)))
    with refusal("bad-value", "call"):
        encoder_of(module, tap_at("inner", call=call, calls=2)).capture(tokens_in(2, 4, 3))


@pytest.mark.parametrize(
    ("shape", "features", "grid", "layout"),
    [
        ((2, 4, 3), 5, FOUR, "tokens"),
        ((2, 4, 3), 3, Grid((5,), ("t",)), "tokens"),
        ((2, 4, 3), 3, Grid((4,), ("t",), 1), "tokens"),
        ((2, 3, 2, 6), 3, Grid((6, 2), ("y", "x")), "channels_first"),
        ((2, 2, 6, 3), 3, Grid((3, 4), ("y", "x")), "channels_last"),
        ((2, 3, 2, 6), 6, Grid((2, 3), ("y", "x")), "channels_first"),
    ],
)
def test_another_width_token_count_or_grid_raises(shape: Any, features: int, grid: Grid, layout: Any) -> None:
    encoder = encoder_of(nn.Identity(), tap_at("", features, grid, layout=layout))
    with pytest.raises(DiagnosticsError) as caught:
        encoder.capture(tokens_in(*shape))
    read = "after the whole module" + ("" if layout == "tokens" else f" as {layout}")
    message = f"Tap here read a tensor of shape {shape} {read}, but declares "
    assert str(caught.value) == message + f"{grid.prefix + grid.tokens} tokens, {grid}, of {features} features."


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 3), "tokens"), ((2, 4, 3, 1), "tokens"), ((2, 3), "channels_first"), ((2, 4, 3), "features")],
)
def test_a_tensor_of_another_layout_raises(shape: Any, layout: Any) -> None:
    encoder = encoder_of(nn.Identity(), tap_at("", layout=layout))
    with refusal("bad-tap", f"'{layout}'"):
        encoder.capture(tokens_in(*shape))


@pytest.mark.parametrize("output", [{"x": 1}, "text", None, ()])
def test_an_output_without_tensor_raises(output: Any) -> None:
    encoder = encoder_of(Gives(lambda x: output), tap_at(""))
    with refusal("bad-tap", type(output).__name__):
        encoder.capture(tokens_in(2, 4, 3))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool])
def test_values_that_are_no_real_numbers_raise(dtype: torch.dtype) -> None:
    encoder = encoder_of(Gives(lambda x: x.to(dtype)), tap_at(""))
    with refusal("bad-tap", str(dtype)[6:]):
        encoder.capture(tokens_in(2, 4, 3))


def test_an_unknown_tap_raises_with_the_nearest() -> None:
    encoder = tiny_encoder()
    with refusal("unknown-name", "blok.1"):
        encoder.capture(tokens_in(1, 1, 32), ["norm", "blok.1"])
    assert encoder.module.passes == 0


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden", "-x", "a b", "a\n", "a\\b", "ä", "a:b"])
def test_tap_names_that_are_no_safe_folder_names_are_refused(name: str) -> None:
    with refusal("bad-value", "cannot be stored"):
        Tap(name, 0.0, "trunk", 3, FOUR)


@pytest.mark.parametrize("name", ["embed", "blocks.11", "head-projector_2", "_x", "0"])
def test_usual_tap_names_are_taken(name: str) -> None:
    assert Tap(name, 0.0, "trunk", 3, FOUR).name == name


@pytest.mark.parametrize(
    ("depth", "part"), [(-0.1, "trunk"), (1.01, "trunk"), (2.0, "embedding"), (float("nan"), "head"), (np.inf, "head")]
)
def test_depths_out_of_range_are_refused(depth: float, part: Any) -> None:
    with refusal("bad-value", "has depth"):
        Tap("x", depth, part, 3, FOUR)


def test_a_head_may_lie_beyond_the_trunk() -> None:
    assert Tap("head", 1.5, "head", 3, FOUR).depth == 1.5


@pytest.mark.parametrize(("shape", "axes", "prefix"), [((2, 2), ("y",), 0), ((0,), ("t",), 0), ((2,), ("t",), -1)])
def test_impossible_grids_are_refused(shape: Any, axes: Any, prefix: int) -> None:
    with refusal("bad-value", "grid"):
        Grid(shape, axes, prefix)


def test_an_encoder_with_wrong_taps_is_refused() -> None:
    linear = Calls(nn.Linear(3, 3), lambda inner, x: inner(x))
    with refusal("unknown-name", "iner"):
        encoder_of(linear, tap_at("iner"))
    with refusal("duplicate", "here, here"):
        encoder_of(linear, tap_at("inner"), tap_at("inner"))
    with refusal("missing-option"):
        encoder_of(linear, Tap("here", 0.5, "trunk", 3, FOUR))
    with refusal("unknown-name", "output"):
        TorchEncoder("mine", "series", linear, [tap_at("inner")], "output", torch.from_numpy, np.zeros(3))


# Hooks


def test_hooks_are_gone_after_a_pass() -> None:
    encoder = tiny_encoder()
    encoder.capture(tokens_in(1, 1, 32))
    assert hooks_left(encoder.module) == 0


def test_hooks_are_gone_after_an_exception_in_forward_and_the_next_pass_is_right() -> None:
    encoder = tiny_encoder()
    with pytest.raises(RuntimeError):
        encoder.capture(tokens_in(1, 2, 32))  # two channels where the stem takes one
    assert hooks_left(encoder.module) == 0
    batch = tokens_in(1, 1, 32)
    assert torch.equal(encoder.capture(batch)["norm"], tiny_encoder().capture(batch)["norm"])


def test_hooks_are_gone_after_an_exception_in_the_reduction_and_after_a_refusal() -> None:
    def fails(tap: Tap, tokens: Tensor) -> None:
        raise KeyboardInterrupt

    encoder = tiny_encoder()
    with pytest.raises(KeyboardInterrupt):
        encoder.capture(tokens_in(1, 1, 32), reduce=fails)
    assert hooks_left(encoder.module) == 0
    wrong = encoder_of(Calls(nn.Linear(3, 3), lambda inner, x: x), tap_at("inner"))
    with pytest.raises(DiagnosticsError):
        wrong.capture(tokens_in(2, 4, 3))
    assert hooks_left(wrong.module) == 0


def test_hooks_of_the_user_stay() -> None:
    encoder = tiny_encoder()
    seen: list[int] = []
    encoder.module.norm.register_forward_hook(lambda *_: seen.append(1))
    encoder.capture(tokens_in(1, 1, 32))
    encoder.capture(tokens_in(1, 1, 32))
    assert len(seen) == 2


# Pooling


def test_pooling_known_answers() -> None:
    tap = tap_at("", 2, Grid((3,), ("t",), 2))
    tokens = torch.tensor([[[100.0, -100.0], [50.0, 50.0], [1.0, 2.0], [3.0, 4.0], [8.0, 0.0]]])
    captured = pool(tap, tokens, ("mean", "last", "prefix"))
    assert captured.tolist() == [[[4.0, 2.0], [8.0, 0.0], [100.0, -100.0]]]
    assert pool(tap, tokens, ("prefix", "mean")).tolist() == [[[100.0, -100.0], [4.0, 2.0]]]


def test_without_prefix_tokens_prefix_is_the_mean() -> None:
    tokens = tokens_in(2, 4, 3)
    captured = pool(tap_at(""), tokens, ("mean", "prefix"))
    assert torch.equal(captured[:, 0], captured[:, 1])
    torch.testing.assert_close(captured[:, 0], tokens.mean(1))


def test_half_precision_is_averaged_in_float32() -> None:
    tokens = torch.full((1, 4, 3), 60000.0, dtype=torch.float16)
    captured = pool(tap_at(""), tokens, ("mean", "last"))
    assert captured.dtype == torch.float32
    assert torch.equal(captured, torch.full((1, 2, 3), 60000.0).to(torch.float16).float())


def test_poolings_follow_the_output_tap() -> None:
    assert tuple(tiny_encoder().poolings) == ("mean", "last")
    assert tuple(tiny_image_encoder().poolings) == ("mean", "prefix")
    assert tuple(tiny_image_encoder(prefix=0).poolings) == ("mean",)


# Controls of the weights


def weights_of(encoder: Any) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in encoder.module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_permuted_weights_keep_the_values_of_each_tensor() -> None:
    encoder = tiny_image_encoder()
    before = weights_of(encoder)
    after = weights_of(encoder.permuted(3))
    for key, tensor in before.items():
        assert after[key].shape == tensor.shape
        assert torch.equal(after[key].flatten().sort().values, tensor.flatten().sort().values)
    large = [key for key, tensor in before.items() if tensor.numel() >= 16 and tensor.std() > 0]
    assert len(large) >= 8
    assert not any(torch.equal(after[key], before[key]) for key in large)
    assert same(before, weights_of(encoder))


@pytest.mark.parametrize("control", ["permuted", "fresh"])
def test_controls_of_the_weights_are_seeded_and_leave_the_global_generator_alone(control: str) -> None:
    encoder = tiny_encoder()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (weights_of(getattr(encoder, control)(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(one, again)
    assert not same(one, other)


def test_fresh_weights_differ_everywhere_and_leave_the_encoder_alone() -> None:
    encoder = tiny_image_encoder()
    with torch.no_grad():
        encoder.module.norm.weight.fill_(3.0)  # as if trained
    before = weights_of(encoder)
    fresh = weights_of(encoder.fresh(0))
    assert torch.equal(fresh["norm.weight"], torch.ones(8))
    for key in ("stem.weight", "stem.bias", "prefix", "blocks.0.inner.weight", "blocks.2.outer.bias"):
        assert not torch.isclose(fresh[key], before[key]).any(), key
    assert same(before, weights_of(encoder))


def test_fresh_weights_forget_running_statistics() -> None:
    module = nn.Sequential(nn.Conv1d(4, 3, 1), nn.BatchNorm1d(3))
    module[1].running_mean.fill_(9.0)
    encoder = encoder_of(module, tap_at("1", layout="channels_first"))
    assert encoder.fresh(0).module[1].running_mean.tolist() == [0.0, 0.0, 0.0]


def test_fresh_uses_the_makers_own_initialisation_where_there_is_one() -> None:
    def initial() -> nn.Module:
        module = tiny_encoder(seed=9).module
        with torch.no_grad():
            module.stem.bias.normal_()
        return module

    encoder = tiny_encoder(fresh=initial)
    one, again = weights_of(encoder.fresh(4)), weights_of(encoder.fresh(4))
    assert same(one, again)
    assert torch.equal(one["stem.weight"], weights_of(tiny_encoder(seed=9))["stem.weight"])
    assert not torch.equal(one["stem.bias"], weights_of(encoder.fresh(5))["stem.bias"])


@pytest.mark.parametrize("control", ["permuted", "fresh"])
def test_a_control_sized_for_a_sample_keeps_its_weights(control: str) -> None:
    other = getattr(tiny_encoder(), control)(0)
    sized = other.sized_for(np.zeros(64, dtype=np.float32))
    assert sized.tap("norm").grid.shape == (16,)
    assert same(weights_of(other), weights_of(sized))


def test_controls_read_the_same_taps_through_the_same_preprocessing() -> None:
    encoder = tiny_encoder()
    for other in (encoder.fresh(0), encoder.permuted(0)):
        assert other.taps == encoder.taps
        assert other.output_tap == encoder.output_tap
        assert torch.equal(other.preprocess(encoder.example()), encoder.preprocess(encoder.example()))
        batch = tokens_in(2, 1, 32)
        assert not torch.allclose(other.capture(batch)["embed"], encoder.capture(batch)["embed"])


def test_an_encoder_with_other_taps_is_the_same_model() -> None:
    encoder = tiny_encoder()
    inside = Tap("inside", 0.2, "trunk", 16, Grid((8,), ("t",)), Site("blocks.0.inner"))
    seen = encoder.with_taps([inside, encoder.tap("norm")])
    batch = tokens_in(2, 1, 32)
    captured = seen.capture(batch)
    embed = encoder.capture(batch)["embed"]
    with torch.no_grad():
        torch.testing.assert_close(
            captured["inside"], encoder.module.blocks[0].inner(embed + embed.mean(1, keepdim=True))
        )
    assert len(encoder.taps) == 5
    with refusal("unknown-name", "norm"):
        encoder.with_taps([inside])


# Identity


def test_identity_is_the_same_for_the_same_encoder_and_survives_use() -> None:
    encoder = tiny_encoder()
    before = dict(encoder.identity)
    assert set(before) == {"weights", "configuration", "preprocessing"}
    assert before == dict(tiny_encoder().identity)
    encoder.to("cpu").capture(tokens_in(2, 1, 32))
    encoder.fresh(0)
    encoder.permuted(0)
    assert dict(encoder.identity) == before


def test_identity_sees_one_weight() -> None:
    encoder = tiny_encoder()
    before = dict(encoder.identity)
    with torch.no_grad():
        weight = encoder.module.blocks[1].outer.weight
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(np.inf))
    after = encoder.identity
    assert [key for key in before if after[key] != before[key]] == ["weights"]


@pytest.mark.parametrize("persistent", [True, False])
def test_identity_sees_one_value_of_a_buffer(persistent: bool) -> None:
    encoder = tiny_encoder()
    encoder.module.register_buffer("frequencies", torch.arange(3.0), persistent=persistent)
    before = dict(encoder.identity)
    encoder.module.frequencies[1] += 1
    after = encoder.identity
    assert [key for key in before if after[key] != before[key]] == ["weights"]


def test_identity_sees_exchanged_tensors_of_one_shape() -> None:
    encoder = tiny_encoder()
    before = encoder.identity["weights"]
    first, second = encoder.module.blocks[0].inner, encoder.module.blocks[1].inner
    first.weight, second.weight = second.weight, first.weight
    assert encoder.identity["weights"] != before


@pytest.mark.parametrize("make", [tiny_encoder, tiny_image_encoder])
def test_identity_sees_one_constant_of_the_preprocessing(make: Any) -> None:
    before, after = make().identity, make(mean=0.5).identity
    assert [key for key in before if after[key] != before[key]] == ["preprocessing"]


def test_identity_sees_the_configuration_in_words() -> None:
    before, after = tiny_encoder().identity, tiny_encoder(configuration="another context").identity
    assert [key for key in before if after[key] != before[key]] == ["configuration"]


def test_identity_of_several_tensors_does_not_depend_on_their_order() -> None:
    def made(order: Sequence[str]) -> Any:
        def preprocess(sample: np.ndarray) -> dict[str, Tensor]:
            parts = {"x": torch.from_numpy(sample), "mask": torch.ones(4, dtype=torch.bool)}
            return {key: parts[key] for key in order}

        tap = tap_at("")
        return TorchEncoder("mine", "series", nn.Identity(), [tap], "here", preprocess, np.zeros((4, 3))).identity

    assert made(["x", "mask"]) == made(["mask", "x"])


def test_identity_holds_for_every_type_of_weight() -> None:
    module = nn.Linear(3, 3)
    module.register_buffer("count", torch.tensor(3))
    module.register_buffer("flags", torch.tensor([True, False]))
    module.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
    module.register_buffer("none", torch.empty(0))
    encoder = encoder_of(module, tap_at(""))
    before = encoder.identity["weights"]
    module.flags[0] = False
    assert encoder.identity["weights"] != before
