"""The grid of every tap: planted orders within the trunk are found at the tap behind them, and what cannot be told is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.checks.conformance import check_encoder, prepare_encoder, run_check
from diagnostics.encoders.places import TapGrid, verify_taps
from tests.support.tiny import tiny_encoder, tiny_image_encoder

SIDE, PREFIX = 4, 2


class Then(nn.Module):
    """A block, and what is done to the order of its tokens."""

    def __init__(self, block: nn.Module, order: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.order = block, order

    def forward(self, x: Tensor) -> Tensor:
        return self.order(self.block(x))


def of_grid(change: Callable[[Tensor], Tensor], side: int = SIDE) -> Callable[[Tensor], Tensor]:
    """A change of [B, y, x, F], prefix tokens left where they are."""

    def order(x: Tensor) -> Tensor:
        prefix, tokens = x[:, :PREFIX], x[:, PREFIX:].unflatten(1, (side, side))
        return torch.cat([prefix, change(tokens).flatten(1, 2)], dim=1)

    return order


ORDERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "flipped": (of_grid(lambda t: t.flip(1)), "y runs backwards"),
    "flipped in both": (of_grid(lambda t: t.flip(1, 2)), "y and x run backwards"),
    "transposed": (of_grid(lambda t: t.transpose(1, 2)), "in the order x, y (last fastest), not y, x"),
    "rolled": (lambda x: torch.cat([x[:, :PREFIX], x[:, PREFIX:].roll(1, 1)], 1), "1 place later than declared"),
    "rolled back along an axis": (of_grid(lambda t: t.roll(-1, 1)), "wrong order"),
    "rolled by half": (of_grid(lambda t: t.roll((2, 2), (1, 2))), "wrong order"),
    "shuffled": (lambda x: x[:, [0, 1, *(2 + np.random.default_rng(3).permutation(16))]], "(shuffled)"),
    "class token last": (lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), "1 place earlier than declared"),
    "special tokens last": (lambda x: torch.cat([x[:, PREFIX:], x[:, :PREFIX]], 1), "2 places earlier than declared"),
}


def changed(order: Callable[[Tensor], Tensor], block: int, seed: int = 0) -> TorchEncoder:
    encoder = tiny_image_encoder(seed, prefix=PREFIX)
    blocks: Any = encoder.module.blocks
    blocks[block] = Then(blocks[block], order)
    return encoder


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("how", ORDERS)
def test_an_order_changed_within_the_trunk_fails_at_the_tap_behind_it(how: str, block: int) -> None:
    order, text = ORDERS[how]
    for seed in range(3):
        outcome = run_check("grid", prepare_encoder(changed(order, block, seed)))
        assert outcome.verdict == "failed"
        assert outcome.message.startswith(f"tap blocks.{block} has a wrong order: ") and text in outcome.message
        assert outcome.figures["taps_right"] == 1 + block and outcome.figures["taps_wrong"] == 4 - block


def test_nothing_else_fails_for_it() -> None:
    outcome = check_encoder(changed(ORDERS["transposed"][0], 0))
    assert [one.check for one in outcome.outcomes if one.verdict == "failed"] == ["grid"]


@pytest.mark.parametrize("seed", range(5))
def test_untouched_trunks_are_right_at_every_tap(seed: int) -> None:
    for encoder in (tiny_image_encoder(seed), tiny_image_encoder(seed, side=32, prefix=1), tiny_encoder(seed)):
        first, later = verify_taps(encoder)
        assert first.right and [tap.verdict for tap in later] == ["right"] * 4
    assert "so do those of 4 later taps" in run_check("grid", prepare_encoder(tiny_encoder(seed))).message


def test_one_set_of_passes_serves_all_taps() -> None:
    encoder = tiny_image_encoder()
    verify_taps(encoder)
    assert encoder.module.passes == 1  # 16 cells, and the sample itself


class Trunk(nn.Module):
    """A stem of patches of 4 steps and a trunk without residuals."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv1d(1, 16, 4, 4), blocks

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))


def trunk(block: nn.Module, tokens: int = 32, after: int = 32) -> TorchEncoder:
    module = Trunk(nn.Sequential(block))
    taps = [
        Tap(
            "embed",
            0.0,
            "embedding",
            16,
            Grid((tokens,), ("t",)),
            Site("blocks.0", when="before", layout="channels_first"),
        ),
        Tap("out", 1.0, "trunk", 16, Grid((after,), ("t",)), Site("blocks.0", layout="channels_first")),
    ]
    return TorchEncoder(
        "trunk",
        "series",
        module,
        taps,
        "out",
        lambda s: torch.as_tensor(s, dtype=torch.float32)[None],
        np.random.default_rng(0).standard_normal(4 * tokens).astype(np.float32),
    )


class Mixed(nn.Module):
    """Every token a random sum of all: none stands for a place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Late(nn.Module):
    """Each token is what lay `by` tokens before it: as in a causal convolution whose last weight is the largest."""

    def __init__(self, by: int = 3) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (self.by, 0))[..., : x.shape[-1]] + 0.01 * x


def judged(block: nn.Module, after: int = 32) -> TapGrid:
    encoder = trunk(block, after=after)
    return verify_taps(encoder)[1][0]


@pytest.mark.parametrize("seed", range(10))
def test_what_cannot_be_told_does_not_fail(seed: int) -> None:
    torch.manual_seed(seed)
    outcome = judged(Mixed())
    assert outcome.verdict == "not verified" and "no other order explains" in outcome.explanation
    text = run_check("grid", prepare_encoder(trunk(Mixed()))).message
    assert "not verified at tap out" in text


def test_a_causal_model_may_lag_and_a_rolled_one_may_not() -> None:
    outcome = judged(Late())
    assert outcome.verdict == "not verified" and "as they may in causal models" in outcome.explanation

    class Rolled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.roll(3, -1)

    assert judged(Rolled()).verdict == "wrong"


class Strided(nn.Module):
    """Half as many tokens; `flip` turns them round."""

    def __init__(self, kernel: int = 2, flip: bool = False) -> None:
        super().__init__()
        self.convolution, self.flip = nn.Conv1d(16, 16, kernel, 2, (kernel - 1) // 2), flip

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x)
        return x.flip(-1) if self.flip else x


@pytest.mark.parametrize("kernel", [2, 3, 5])
def test_a_coarser_grid_is_compared_place_by_place(kernel: int) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        assert judged(Strided(kernel), after=16).verdict == "right"
        outcome = judged(Strided(kernel, flip=True), after=16)
        assert outcome.verdict == "wrong" and "t runs backwards" in outcome.explanation


def test_a_hidden_order_is_found_in_a_real_model() -> None:
    pytest.importorskip("timm")
    import diagnostics as dx

    def made(order: Callable[[Tensor], Tensor] | None) -> Any:
        encoder = dx.build("encoder", "timm:vit_tiny_patch16_224?pretrained=false&img_size=64")
        if order is not None:
            block = encoder.module.blocks[0]
            whole = block.forward
            block.forward = lambda x, **more: order(whole(x, **more))
        return verify_taps(encoder, most=64)[1]

    assert {tap.verdict for tap in made(None)} == {"right"}
    for order in (lambda x: torch.cat([x[:, 1:], x[:, :1]], 1), lambda x: torch.cat([x[:, :1], x[:, 1:].flip(1)], 1)):
        assert [tap.verdict for tap in made(order)][:4] == ["wrong"] * 4
