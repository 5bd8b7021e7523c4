"""Weights drawn anew or permuted: wherever they lie, or the control is left out with its reason; and what of it is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.encoders.redraw import compare_weights, copy_of, layer_scales, permute, redraw
from diagnostics.report.terminal import print_page
from diagnostics.runs.controls.kinds import control_encoders
from diagnostics.runs.pages.run import run_page
from tests.support.refusals import refusal
from tests.support.tiny import LENGTH, tiny_dataset, tiny_encoder

WIDTH, PATCH = 8, 4
CONTROLS = ["fresh_weights", "permuted_weights"]
DATA = tiny_dataset()


class Linear(nn.Module):
    """A linear map whose weight stands in the module as `keep` puts it."""

    def __init__(self, keep: Any) -> None:
        super().__init__()
        keep(self, torch.randn(WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(nn.functional.linear(x, self.kernel.to(x) * getattr(self, "scale", 1.0)))


class Trunk(nn.Module):
    """Blocks of such maps behind a stem without parameters: all that it is lies in its blocks."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.register_buffer("pos_table", torch.sin(torch.arange(8.0))[:, None] + torch.cos(torch.arange(8.0)))
        self.register_buffer("mask", torch.tril(torch.ones(8, 8)))
        self.stem = nn.Identity()
        self.blocks = nn.ModuleList([block() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).unflatten(1, (-1, PATCH)).repeat(1, 1, 2) + self.pos_table
        for block in self.blocks:
            x = block(x)
        return x


def encoder_of(module: nn.Module, **options: Any) -> dx.TorchEncoder:
    taps = dx.stack_taps("blocks", 3, WIDTH, dx.Grid((LENGTH // PATCH,), ("t",)))
    example = np.sin(np.arange(LENGTH, dtype=np.float32))
    return dx.TorchEncoder("mine", "series", module, taps, "blocks.2", torch.as_tensor, example, **options)


def as_buffer(module: Any, weight: Tensor) -> None:
    module.register_buffer("kernel", weight)


def as_int8(module: Any, weight: Tensor) -> None:
    module.kernel = nn.Parameter((weight * 40).round().to(torch.int8), requires_grad=False)
    module.scale = 1 / 40


def as_int8_buffer(module: Any, weight: Tensor) -> None:
    module.register_buffer("kernel", (weight * 40).round().to(torch.int8))
    module.scale = 1 / 40


def as_unsaved_buffer(module: Any, weight: Tensor) -> None:
    module.register_buffer("kernel", weight, persistent=False)


def as_attribute(module: Any, weight: Tensor) -> None:
    module.kernel = weight


def made(module: nn.Module, control: str) -> Any:
    return control_encoders(encoder_of(module), DATA, 0)[control]()


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("keep", [as_buffer, as_int8, as_int8_buffer])
def test_weights_are_drawn_wherever_they_lie(keep: Any, control: str) -> None:
    module = Trunk(lambda: Linear(keep))
    other = made(module, control).module
    for block, drawn in zip(module.blocks, other.blocks, strict=True):
        assert drawn.kernel.dtype == block.kernel.dtype
        assert float((drawn.kernel == block.kernel).float().mean()) < 0.3
        if control == "permuted_weights":
            assert torch.equal(drawn.kernel.flatten().sort().values, block.kernel.flatten().sort().values)
        else:
            spread = float(block.kernel.float().std())
            assert float(drawn.kernel.float().std()) == pytest.approx(spread, rel=0.4)
    # What is no weight stays.
    assert torch.equal(other.pos_table, module.pos_table) and torch.equal(other.mask, module.mask)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("keep", [as_unsaved_buffer, as_attribute])
def test_a_control_that_is_the_encoder_is_none(keep: Any, control: str) -> None:
    with refusal("no-control", "mine", "4"):
        made(Trunk(lambda: Linear(keep)), control)


def test_a_run_leaves_such_controls_out(tmp_path: Path) -> None:
    encoder = encoder_of(Trunk(lambda: Linear(as_attribute)))
    run = dx.run(encoder, tiny_dataset(40), out=tmp_path, measures="linear_probe", report=False)
    assert set(CONTROLS) <= run.skipped.keys() and not set(CONTROLS) & run.controls.keys()
    assert "fresh weights" not in run.profile("linear_probe/level").reading


def as_listed_tensors(module: Any, weight: Tensor) -> None:
    module.kernels = [weight]


def as_listed_module(module: Any, weight: Tensor) -> None:
    inner = nn.Linear(WIDTH, WIDTH, bias=False)
    inner.weight.data = weight
    module.inner = [inner]


def as_module_in_a_mapping(module: Any, weight: Tensor) -> None:
    as_listed_module(module, weight)
    module.inner = {"a": {"b": module.inner[0]}}


def as_object(module: Any, weight: Tensor) -> None:
    module.settings = SimpleNamespace(weight=weight)


def as_closure(module: Any, weight: Tensor) -> None:
    module.read = lambda: weight


def as_listed_parameter(module: Any, weight: Tensor) -> None:
    module.kernels = [nn.Parameter(weight)]


HIDDEN = [
    as_unsaved_buffer,
    as_attribute,
    as_listed_tensors,
    as_listed_module,
    as_module_in_a_mapping,
    as_object,
    as_closure,
    as_listed_parameter,
]


class Beside(nn.Module):
    """A linear map of a known weight, and one of a weight that `keep` puts where no control draws it."""

    def __init__(self, keep: Any) -> None:
        super().__init__()
        self.known = nn.Linear(WIDTH, WIDTH, bias=False)
        keep(self, torch.randn(WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        match vars(self) | vars(self)["_buffers"]:
            case {"kernel": weight}:
                pass
            case {"kernels": [weight]}:
                pass
            case {"inner": [module]} | {"inner": {"a": {"b": module}}}:
                weight = module.weight
            case {"settings": settings}:
                weight = settings.weight
            case {"read": read}:
                weight = read()
        # Made in the pass: no weight.
        made = torch.tensor([0.5, 1.0, 2.0, 3.0] * 2) + torch.arange(8.0)
        return x + torch.tanh(nn.functional.linear(self.known(x), weight)) + 0.1 * made


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("where", ["every block", "one block"])
@pytest.mark.parametrize("keep", HIDDEN)
def test_weights_that_no_control_draws_are_counted_and_said(keep: Any, where: str, control: str) -> None:
    module = Trunk(lambda: Beside(keep))
    if where == "one block":
        for i in (0, 2):
            module.blocks[i] = Linear(lambda module, weight: setattr(module, "kernel", nn.Parameter(weight)))
    other = made(module, control)
    # Of a table of 64 numbers, 64 of each map, drawn or not.
    drawn, hidden = (192, 192) if where == "every block" else (192, 64)
    assert other.redrawn == pytest.approx(drawn / (drawn + hidden + 64))
    assert "not pos_table, " in other.note
    named = {
        as_closure: "a tensor of 8 x 8 outside the module",
        as_unsaved_buffer: "kernel",
        as_attribute: "kernel",
        as_listed_tensors: "kernels",
        as_listed_parameter: "kernels",
        as_object: "a tensor of 8 x 8 outside the module",
    }
    assert named.get(keep, "inner") in other.note


def test_what_is_computed_or_never_read_is_no_hidden_weight() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(WIDTH, WIDTH)
            self.register_buffer("inv_freq", torch.rand(WIDTH), persistent=False)
            self.cos_cached, self.teacher = torch.rand(WIDTH), [nn.Linear(WIDTH, WIDTH)]

        def forward(self, x: Tensor) -> Tensor:
            return x + self.map(x * self.cos_cached * self.inv_freq)

    other = made(Trunk(Rotary), "fresh_weights")
    assert other.redrawn == pytest.approx(216 / 280) and other.note.endswith("redrawn, not pos_table")


def test_a_fresh_module_draws_what_its_constructor_draws() -> None:
    def fresh() -> nn.Module:
        return redraw(Trunk(lambda: Beside(lambda module, weight: as_attribute(module, 2 * weight))))

    other = encoder_of(Trunk(lambda: Beside(as_attribute)), fresh=fresh).fresh(0)
    assert other.redrawn == pytest.approx(384 / 448) and other.note.endswith("redrawn, not pos_table")


@pytest.mark.parametrize("layer", [nn.Linear(WIDTH, WIDTH), nn.LSTM(WIDTH, WIDTH)])
def test_packed_weights_have_an_identity_and_no_control(layer: nn.Module) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x: Tensor) -> Tensor:
            given = self.inner(x)
            return x + (given[0] if isinstance(given, tuple) else given)

    def quantised(seed: int) -> dx.TorchEncoder:
        torch.manual_seed(seed)
        layer.reset_parameters()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return encoder_of(torch.ao.quantization.quantize_dynamic(Trunk(Block), {type(layer)}, dtype=torch.qint8))

    one, again, other = quantised(0), quantised(0), quantised(1)
    assert one.identity == again.identity
    assert one.identity["weights"] != other.identity["weights"]
    for control in CONTROLS:
        with refusal("no-control"):
            control_encoders(one, DATA, 0)[control]()


@pytest.mark.parametrize("normed", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("draw", [redraw, lambda module: permute(module, 0)], ids=["redraw", "permute"])
def test_spectral_norms_hold_for_the_new_weights(normed: Any, draw: Any) -> None:
    torch.manual_seed(0)
    module = normed(nn.Linear(64, 48))
    for _ in range(200):  # steps of training, after which its vectors are those of its weight
        module(torch.zeros(1, 64))
    x = torch.randn(5, 64)
    before = module.eval()(x)
    module = draw(copy_of(module))  # also where it keeps the graph of its last pass
    after = module(x)
    assert not module.training
    # By definition the largest singular value of the normed weight is 1.
    assert float(torch.linalg.matrix_norm(module.weight.detach(), 2)) == pytest.approx(1.0, abs=0.02)
    assert float(after.detach().std()) < 3 * float(before.detach().std())


def test_frozen_norms_forget_their_statistics_and_permuting_keeps_them() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.rand(16) + 1)

    module = Frozen()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    permute(module, 0)
    assert torch.equal(module.running_mean, state["running_mean"])
    assert torch.equal(module.running_var, state["running_var"])
    assert not torch.equal(module.weight, state["weight"])
    redraw(module)
    assert torch.equal(module.running_mean, torch.zeros(16)) and torch.equal(module.running_var, torch.ones(16))


def test_the_share_of_numbers_drawn_is_counted() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(9, 10)  # 100 numbers
            self.register_buffer("pe", torch.rand(5, 20))  # 100 of a table
            self.register_buffer("inv_freq", torch.rand(7), persistent=False)
            self.register_buffer("causal", torch.full((4, 4), float("-inf")).triu(1))
            self.zeros = nn.Parameter(torch.zeros(50))  # drawn anew as the same
            self.norm = nn.BatchNorm1d(25)  # 50 numbers and statistics

    module = Mixed()
    other = redraw(Mixed().requires_grad_(False))
    other.pe.copy_(module.pe)
    captured = compare_weights(module, other, {}, {})
    assert (captured.numbers, captured.whole, captured.alike) == (200, 300, ("pe",))
    assert compare_weights(module, module, {}, {}).share == pytest.approx(100 / 300)


def test_the_first_draw_of_parameters_is_what_it_was() -> None:
    """By another road: numbers of earlier runs stay."""
    encoder = tiny_encoder()
    weights = encoder.permuted(7).module.state_dict()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in encoder.module.named_parameters():
        order = torch.randperm(parameter.numel(), generator=generator)
        assert torch.equal(weights[name].flatten(), parameter.detach().flatten()[order])


class LayerScale(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.start, self.gamma = start, nn.Parameter(torch.full((WIDTH,), 0.5))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.gamma, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


@pytest.mark.parametrize("start", [1e-5, 1.0])
def test_where_layer_scale_begins_is_said_beside_the_control(start: float, tmp_path: Path, capsys: Any) -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), LayerScale(start), nn.GroupNorm(1, 8))

    run = dx.run(encoder_of(Trunk(block)), tiny_dataset(40), out=tmp_path, measures="linear_probe")
    remarks = run.redrawn
    note = remarks["fresh_weights"]["note"]
    assert f"its LayerScale starts at {start:.3g} (0.5 on average in the encoder)" in note
    assert "LayerScale" not in remarks["permuted_weights"]["note"]
    # Of 64 numbers of a table, 3 x (72 + 8 + 16) of parameters.
    assert remarks["permuted_weights"]["redrawn"] == pytest.approx(288 / 352)
    assert "81.8% of the encoder's numbers are permuted, not pos_table" in remarks["permuted_weights"]["note"]
    page = (tmp_path / "report.html").read_text()
    assert f"its LayerScale starts at {start:.3g}" in page and "are permuted, not pos_table" in page
    assert run.to_json()["controls"] == remarks
    print_page(run_page(run), Path("report.html"))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"fresh weights: {note}" in printed and f"permuted weights: {remarks['permuted_weights']['note']}" in printed


def test_factors_of_layer_scale_are_known_by_module_or_name() -> None:
    class Beit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma_1, self.lambda_2 = nn.Parameter(torch.full((2,), 0.1)), nn.Parameter(torch.full((2,), 0.2))
            self.norm = GammaNorm()

    class GammaNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(3))

    assert layer_scales(Beit()).tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert layer_scales(LayerScale(1.0)).tolist() == [0.5] * WIDTH
    assert not len(layer_scales(nn.LayerNorm(4)))
