"""Attention of timm's families through `Encoder.attention`, against weights computed by hand from queries and keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch

timm = pytest.importorskip("timm")

# Below the skips, since these imports need timm.
from diagnostics_timm.encoder import encoder_of  # noqa: E402  (below the skip of a missing package)
from timm.layers import apply_rot_embed_cat  # noqa: E402  (below the skip of a missing package)

from tests.support.refusals import refusal  # noqa: E402  (below the skip of a missing package)


def made(name: str, size: int) -> Any:
    torch.manual_seed(0)
    return encoder_of(timm.create_model(name, img_size=size), name, size)


def images(size: int) -> Any:
    return torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(2))


def fuse(encoder: Any, on: bool) -> None:
    for part in encoder.module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = on


def by_hand(encoder: Any, batch: Any, block: int) -> Any:
    """Softmax of scaled products of queries and keys [B, H, T, T], from what the block's attention took."""
    attention = encoder.module.blocks[block].attn
    taken: dict[str, Any] = {}

    def hook(_: Any, args: Any, kwargs: Any) -> None:
        taken["x"], taken["rope"] = args[0].clone(), kwargs.get("rope")

    handle = attention.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        encoder.module(batch)
        handle.remove()
        x, heads = taken["x"], attention.num_heads
        if getattr(attention, "qkv", None) is not None:
            weight, bias = attention.qkv.weight, attention.qkv.bias
            if bias is None and getattr(attention, "q_bias", None) is not None:
                bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            made = x @ weight.T + (0 if bias is None else bias)
            q, k, _ = made.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q, k = (proj(x).unflatten(-1, (heads, -1)).transpose(1, 2) for proj in (attention.q_proj, attention.k_proj))
        norms = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
        q, k = (one if norm is None else norm(one) for one, norm in zip((q, k), norms, strict=True))
        rope = taken["rope"]
        if rope is not None:
            prefix, half = attention.num_prefix_tokens, getattr(attention, "rotate_half", False)
            q, k = (
                torch.cat([one[:, :, :prefix], apply_rot_embed_cat(one[:, :, prefix:], rope, half=half)], dim=2)
                for one in (q, k)
            )
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_vit", 64),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 56),
        ("vit_pe_core_tiny_patch16_384", 64),
        ("vit_tiny_patch16_dinov3_qkvb", 64),
        ("eva02_tiny_patch14_224", 56),
    ],
)
def test_attention_fused_and_plain_is_what_queries_and_keys_give(name: str, size: int) -> None:
    encoder, batch = made(name, size), images(size)
    expected = {f"blocks.{i}": by_hand(encoder, batch, i) for i in (0, len(encoder.module.blocks) - 1)}
    captured = []
    for on in (True, False):
        fuse(encoder, on)
        seen = encoder.attention(batch)
        captured.append(seen)
        for tap, weights in expected.items():
            tokens = encoder.tap(tap).tokens
            assert seen[tap].shape == (2, weights.shape[1], tokens, tokens)
            torch.testing.assert_close(seen[tap], weights, rtol=1e-4, atol=1e-6)
        assert set(seen) == {tap.name for tap in encoder.taps if tap.name.startswith("blocks.")}
    for tap in captured[0]:
        torch.testing.assert_close(captured[0][tap], captured[1][tap], rtol=1e-4, atol=1e-6)
    # Not so uniform that any weights would do.
    assert max(float(weights.std(dim=-1).mean()) * weights.shape[-1] for weights in expected.values()) > 1e-3


@pytest.mark.parametrize("on", [True, False])
def test_windows_say_why_they_have_none(on: bool) -> None:
    encoder = made("swin_tiny_patch4_window7_224", 224)
    fuse(encoder, on)
    batch = images(224)
    # Of the last stage the map is one window, so its attention is over all of its tokens.
    seen = encoder.attention(batch)
    assert set(seen) == {"layers.3.blocks.0", "layers.3.blocks.1"}
    assert "49 queries to 49 keys, not among the tap's 3136 tokens" in seen.left_out["layers.0.blocks.0"]
    with refusal("no-attention", "3136 tokens"):
        encoder.attention(batch, ["layers.0.blocks.0"])


def test_networks_without_attention_say_so() -> None:
    torch.manual_seed(0)
    encoder = encoder_of(timm.create_model("resnet10t"), "resnet10t", 64)
    with refusal("no-attention", "no attention inside"):
        encoder.attention(images(64))
