"""Batches in parts and blocks computed twice: less memory, and the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm")

from diagnostics_training.models.encoder import Backbone, Patches
from diagnostics_training.trainer.objective import Objective
from diagnostics_training.trainer.record import lines
from diagnostics_training.trainer.settings import Settings
from diagnostics_training.trainer.trainer import fit, recomputed, split

from diagnostics import Site, Tap, TorchEncoder
from diagnostics.encoders.saved.cut import cut_encoder
from tests.support.live_memory import LiveMemory
from tests.support.objectives import architecture, feed, objective
from tests.support.refusals import refusal

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("forecast", {}),
    ("reconstruct", {}),
    ("contrastive", {}),
    ("contrastive", {"positives": "temporal"}),
    ("jepa", {}),
    ("jepa", {"regulariser": "variance"}),
    ("jepa", {"regulariser": "sigreg"}),
    ("supervised", {"outputs": 4}),
]


def trained(out: Path, name: str, options: Mapping[str, Any], **settings: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of a short training."""
    built = objective(name, **options)
    fit(built, feed(built, name), Settings(steps=6, log_every=1, **settings), out, name=name, tell=lambda line: None)
    return [line["loss"] for line in lines(out)], {key: value.clone() for key, value in built.state_dict().items()}


# Batches in parts


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_an_objective_says_whether_it_compares_samples(name: str, options: dict[str, Any]) -> None:
    """It does where its loss is not the mean over parts of the batch."""
    built = objective(name, **options)
    batch = feed(built, name)(0)

    def loss(part: Mapping[str, Tensor]) -> Tensor:
        torch.manual_seed(0)
        return built(part)["loss"].detach()

    parts = sum(share * loss(part) for share, part in split(batch, 2))
    assert built.compares_samples == (not torch.allclose(torch.as_tensor(parts), loss(batch), atol=1e-5))


@pytest.mark.parametrize("parts", [4, 3])
@pytest.mark.parametrize("optimiser", ["adamw", "lamb"])
def test_a_batch_in_parts_trains_as_the_whole(tmp_path: Path, optimiser: Any, parts: int) -> None:
    """A batch of 8, also in parts of unequal size.

    In float64: biases of keys have gradients of 0, and Adam makes steps of the noise that rounding leaves there.
    """
    losses, weights = [], []
    for count in (1, parts):
        built = objective("reconstruct").double()
        drawn = feed(built, "reconstruct")

        def double(*at: int, drawn: Any = drawn) -> dict[str, Tensor]:
            return {key: t.double() if t.is_floating_point() else t for key, t in drawn(*at).items()}

        settings = Settings(steps=6, optimiser=optimiser, log_every=1, accumulate=count)
        fit(built, double, settings, tmp_path / str(count), tell=lambda line: None)
        losses.append([line["loss"] for line in lines(tmp_path / str(count))])
        weights.append(built.state_dict())
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[0][0] != pytest.approx(losses[0][-1], abs=1e-3)
    for key, value in weights[0].items():
        assert torch.allclose(weights[1][key], value, rtol=0, atol=1e-7), key


def test_what_compares_samples_is_not_computed_in_parts(tmp_path: Path) -> None:
    with refusal("conflict", "contrastive"):
        trained(tmp_path / "out", "contrastive", {}, accumulate=2)
    assert not (tmp_path / "out").exists()
    with refusal("bad-value", "8", "9"):
        trained(tmp_path / "out", "forecast", {}, accumulate=9)


# Blocks computed twice


def gradients(built: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    built.zero_grad()
    built(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in built.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_gradients_of_blocks_computed_twice_are_the_same(name: str, options: dict[str, Any]) -> None:
    built = objective(name, **options)
    for block in built.blocks():
        # Drawn again, it must be the same.
        block.mlp.drop1 = nn.Dropout(0.5)  # type: ignore[union-attr]  (a block of timm has an mlp)
    batch = feed(built, name)(0)
    built.train()
    expected = gradients(built, batch)
    calls: list[int] = []
    for block in built.blocks():
        block.norm1.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]  (and a norm1)
    gradients(built, batch)
    once = len(calls)
    with recomputed(built.blocks()):
        result = gradients(built, batch)
    # Twice, but for a teacher's, which have no gradient.
    assert len(calls) - once > 1.5 * once
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(result[key], value, rtol=0, atol=1e-6), key
    assert not any("forward" in vars(part) for part in built.modules())


@pytest.mark.parametrize("settings", [{"optimiser": "lamb"}, {"precision": "bf16"}, {"accumulate": 2}])
def test_training_with_blocks_computed_twice_is_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, weights = trained(tmp_path / "plain", "jepa", {}, **settings)
    again, result = trained(tmp_path / "again", "jepa", {}, recompute=True, **settings)
    assert again == plain
    assert all(torch.equal(result[key], value) for key, value in weights.items())


def test_what_has_no_blocks_is_refused(tmp_path: Path) -> None:
    class Flat(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

    with refusal("unsupported", "training"):
        fit(Flat(), lambda *_: {}, Settings(steps=3, recompute=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_module_with_a_forward_of_its_own_gets_it_back() -> None:
    block = nn.Linear(2, 2)
    own = block.forward = lambda x: 3 * x

    def stopped() -> None:
        with recomputed([block, block]):
            assert torch.equal(block(torch.ones(1)), torch.tensor([3.0]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert block.forward is own


def encoder(inside: bool) -> TorchEncoder:
    """With taps on blocks, and on parts of them."""
    sizes = architecture("jepa", depth=3)
    torch.manual_seed(0)
    made = sizes.encoder(sizes.initial(0), "made")
    inner = [
        Tap(
            f"blocks.{i}.{part}",
            (i + 0.5) / 3,
            "trunk",
            16,
            made.taps[0].grid,
            Site(f"backbone.blocks.{i}.{part}", when=when),
        )
        for i in range(3)
        for part, when in (("attn", "before"), ("mlp", "after"))
    ]
    taps = [t for i in range(3) for t in (*inner[2 * i : 2 * i + 2], made.tap(f"blocks.{i}"))]
    return made.with_taps([made.tap("embed"), *taps, made.tap("norm")]) if inside else made


@pytest.mark.parametrize(
    ("inside", "end"),
    [(False, "norm"), (True, "norm"), (False, "blocks.1"), (True, "blocks.1"), (True, "blocks.1.mlp")],
)
def test_taps_are_captured_once_and_with_their_gradients(inside: bool, end: str) -> None:
    """Also where the pass ends at a tap, in the middle of a block."""
    student = encoder(inside)
    student = student if end == "norm" else cut_encoder(student, end)
    batch = torch.randn(4, 1, 64, generator=torch.Generator().manual_seed(1))
    names = [tap.name for tap in student.taps]

    def passed() -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
        fired: list[str] = []

        def reduce(tap: Tap, tokens: Tensor) -> Tensor:
            fired.append(tap.name)
            return tokens

        student.module.zero_grad()
        captured = student.capture(batch, names, reduce, gradient=True)
        sum(tokens.sin().sum() for tokens in captured.values()).backward()  # type: ignore[union-attr]  (of tensors a tensor)
        grads = {name: p.grad.clone() for name, p in student.module.named_parameters() if p.grad is not None}
        return fired, {name: tokens.detach() for name, tokens in captured.items()}, grads

    expected = passed()
    with recomputed([p for name, p in student.module.named_modules() if name.split(".")[-1].isdigit()]):
        fired, captured, grads = passed()
    assert fired == expected[0] == names
    assert all(torch.equal(captured[name], tokens) for name, tokens in expected[1].items())
    assert grads.keys() == expected[2].keys()
    for name, grad in expected[2].items():
        assert torch.allclose(grad, grads[name], rtol=0, atol=1e-6), name


def test_a_step_of_twelve_blocks_takes_less_than_half_the_memory() -> None:
    backbone = Backbone(Patches(1, (8,), ("t",)), 32, 12, 2)
    x = torch.randn(32, 1, 256)
    most: list[int] = []
    for blocks in ([], backbone.blocks):
        with recomputed(blocks), LiveMemory() as memory:
            backbone(x).square().mean().backward()
        most.append(memory.most)
    assert most[1] < 0.5 * most[0]
