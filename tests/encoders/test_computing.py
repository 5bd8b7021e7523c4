"""What a pass computes in, and that what is made of its values is not shortened with it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Grid, Site, Tap, TorchEncoder
from diagnostics.encoders import modules
from diagnostics.encoders.modules import check_compute, computing, whole
from diagnostics.measures.locality import attention_entropy
from tests.support.refusals import refusal


class Block(nn.Module):
    """Attention of one head, fused or spelled out."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.qkv = fused, nn.Linear(4, 12)

    def forward(self, x: Any) -> Any:
        q, k, v = (3 * self.qkv(x))[:, None].chunk(3, -1)
        if self.fused:
            return x + nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]
        return x + ((q @ k.mT / 2).softmax(-1) @ v)[:, 0]


def encoder(fused: bool) -> TorchEncoder:
    torch.manual_seed(0)
    taps = [Tap(f"blocks.{i}", (i + 1) / 2, "trunk", 4, Grid((8,), ("t",)), Site(f"blocks.{i}")) for i in (0, 1)]
    trunk = nn.Module()
    trunk.blocks = nn.ModuleList([Block(fused), Block(fused)])
    return TorchEncoder(
        "mine",
        "series",
        trunk,
        taps,
        preprocess=lambda x: torch.as_tensor(x).float().reshape(8, 4),
        example=torch.linspace(-1, 1, 32).numpy(),
        forward=lambda trunk, x: trunk.blocks[1](trunk.blocks[0](x)),
    )


@pytest.mark.parametrize("fused", [True, False])
def test_a_pass_in_bf16_is_reduced_in_full(fused: bool) -> None:
    """Products in a reduction are those of float32 to the bit, and its attention is what bf16 queries and keys give."""
    one = encoder(fused)
    batch = one.preprocess(one.example())[None]
    tables: list[tuple[torch.Tensor, torch.Tensor]] = []

    def reduce(_: Any, tokens: torch.Tensor) -> torch.Tensor:
        tables.append((tokens.clone(), tokens.float() @ tokens.float().mT))
        return tables[-1][1]

    exact = one.capture(batch, reduce=reduce)
    with computing("bf16", "cpu"):
        coarse = one.capture(batch, reduce=reduce)
        entropies = one.attention(batch, reduce=lambda _, a: torch.from_numpy(attention_entropy(a)))
    for tokens, product in tables:
        assert product.dtype == torch.float32
        assert torch.equal(product, tokens.float() @ tokens.float().mT)
    for name, values in exact.items():
        assert not torch.equal(values, coarse[name])
        torch.testing.assert_close(values, coarse[name], rtol=0.05, atol=0.05 * float(values.abs().max()))
    plain = one.attention(batch, reduce=lambda _, a: torch.from_numpy(attention_entropy(a)))
    for name, values in plain.items():
        assert 0 < float((values - entropies[name]).abs().max()) < 0.05


def test_float32_keeps_a_gpu_from_tf32_and_leaves_the_settings_as_they_were() -> None:
    def now() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = now()
    for wanted, expected in ((False, ("highest", False)), (True, ("high", True))):
        with suppress(KeyError), modules._tf32(wanted, "cuda"):
            assert now() == expected
            raise KeyError
        assert now() == before
        # What is made of a pass's values is not shortened, whatever the pass computes in.
        with modules._tf32(wanted, "cuda"), whole(torch.device("cuda")):
            assert now() == ("highest", False)
        assert now() == before
    with computing("float32", "cpu"):
        assert now() == before


def test_what_a_device_cannot_is_refused() -> None:
    with refusal("bad-value", "tf32", "cpu"):
        check_compute("tf32", "cpu")
    check_compute("tf32", "cuda:1")
    with whole(torch.device("meta")), whole(torch.device("cpu")):
        pass
