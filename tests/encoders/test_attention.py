"""Attention caught from running models: equal to a direct line, refused where it would be a guess."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder, stack_taps
from diagnostics.encoders.attention import capture as attention
from diagnostics.measures.locality.heads import Attention, attention_distance, global_token_mass
from tests.support.refusals import refusal
from tests.support.tiny import tiny_encoder

WIDTH, HEADS, TOKENS = 12, 6, 8


class SelfAttention(nn.Module):
    """`kind` says how; `seen` holds the queries and keys [sample, head, token, width] of the last call, cloned."""

    def __init__(self, kind: str, width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.kind, self.heads, self.seen = kind, heads, ()
        self.qkv = nn.Linear(width, 3 * width)
        self.outer = nn.Linear(width, width)
        self.mix = nn.Linear(heads, heads)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "gqa":
            k, v = k[:, :2], v[:, :2]
        if self.kind == "pooled":
            k, v = k[:, :, ::2], v[:, :, ::2]
        self.seen = q.detach().clone(), k.detach().clone()
        out = getattr(self, f"_{self.kind}")(q, k, v)
        return self.outer(out.transpose(1, 2).reshape(n, tokens, width))

    def _plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    _pooled = _plain

    def _gqa(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    def _causal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query=q, key=k, value=v, is_causal=True, scale=0.7)

    def _banned(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, banned(q.shape[-2]))

    def _biased(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, bias(q))

    def _overwritten(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v)
        for tensor in (q, k, v):
            tensor.zero_()
        return out.clone() + 0 * out.zero_()

    def _eager(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(dim=-1)
        out = nn.functional.dropout(weights, 0.5, self.training) @ v
        weights.zero_()
        return out

    def _eager_copied(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
        weights = F.softmax(scores, -1, dtype=torch.float64).to(q.dtype)
        return torch.einsum("bhqk,bhkd->bhqd", weights, v)

    def _eager_folded(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, 3)
        return torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)).view_as(q)

    def _folded(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = torch.bmm(torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1), v)
        return out.unflatten(0, (-1, self.heads))

    def _rescaled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.mT).softmax(-1)
        return (weights * 0.9) @ v

    def _halved_in_place(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).softmax(-1).mul_(0.5) @ v

    def _talking(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = self.mix((q @ k.mT).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return weights @ v

    def _twice(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v) + F.scaled_dot_product_attention(k, q, v)

    def _transposed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("bhqk,bhqd->bhkd", (q @ k.mT).softmax(-1), v)

    def _dropped(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)

    def _eager_dropped(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout((q @ k.mT).softmax(-1), 0.1) @ v

    def _windows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(2, (2, -1)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return out.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)

    def _batch_behind(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(0, 1)

    def _features(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q.mT @ k).softmax(-1).matmul(v.mT).mT

    def _features_fused(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT

    def _features_einsum(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.einsum("bhde,bhte->bhtd", (q.mT @ k).softmax(-1), v)

    def _linear(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.mT @ v)


def banned(tokens: int) -> Tensor:
    """No token sees the second one, and the last sees nothing."""
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    allowed[:, 1] = False
    allowed[-1] = False
    return allowed


def bias(q: Tensor) -> Tensor:
    heads, tokens = q.shape[1:3]
    values = torch.arange(heads * tokens * tokens, dtype=torch.float32).reshape(heads, tokens, tokens).sin()
    return values.to(q) * 3


def oracle(module: SelfAttention) -> np.ndarray:
    """softmax of the scores, in float64, written out."""
    q, k = (np.asarray(x.double()) for x in module.seen)
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = np.einsum("nhqd,nhkd->nhqk", q, k) * (0.7 if module.kind == "causal" else q.shape[-1] ** -0.5)
    if module.kind == "causal":
        scores[..., np.triu_indices(q.shape[2], 1)[0], np.triu_indices(q.shape[2], 1)[1]] = -np.inf
    if module.kind == "biased":
        scores = scores + np.asarray(bias(module.seen[0]).double())
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    if module.kind == "banned":
        weights = weights * np.asarray(banned(q.shape[2]))
    mass = weights.sum(-1, keepdims=True)
    return np.divide(weights, mass, out=np.zeros_like(weights), where=mass > 0)


class Trunk(nn.Module):
    """Residual blocks of one self-attention each, or other modules."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


def encoder(*blocks: nn.Module, prefix: int = 0, taps: list[Tap] | None = None, forward: Any = None) -> TorchEncoder:
    grid = Grid((TOKENS - prefix,), ("t",), prefix)
    return TorchEncoder(
        "model",
        "series",
        Trunk(list(blocks)),
        taps or stack_taps("blocks", len(blocks), WIDTH, grid, norm="norm"),
        "blocks.0",
        lambda sample: torch.from_numpy(sample),
        np.zeros((TOKENS, WIDTH), np.float32),
        forward=forward,
    )


def self_attention(kind: str, seed: int = 0) -> SelfAttention:
    torch.manual_seed(seed)
    module = SelfAttention(kind)
    with torch.no_grad():
        module.qkv.weight *= 3
    return module


def batch(n: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


KINDS = [
    "plain",
    "gqa",
    "causal",
    "banned",
    "biased",
    "overwritten",
    "eager",
    "eager_copied",
    "eager_folded",
]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_models_own(kind: str) -> None:
    blocks = [self_attention(kind, 0), self_attention(kind, 1)]
    captured = encoder(*blocks).attention(batch())
    assert list(captured) == ["blocks.0", "blocks.1"]
    for name, block in zip(captured, blocks, strict=True):
        assert captured[name].dtype == torch.float32
        np.testing.assert_allclose(captured[name].numpy(), oracle(block), atol=2e-6)
    # The two blocks differ, so none is another's.
    assert not torch.allclose(captured["blocks.0"], captured["blocks.1"], atol=1e-2)
    assert captured.left_out == {
        "embed": "read before a module, so it has no attention of its own",
        "norm": "no attention inside",
    }


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_multi_head_attention(need_weights: bool, batch_first: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first, dropout=0.1)

        def forward(self, x: Tensor) -> Tensor:
            x = x if batch_first else x.transpose(0, 1)
            out = self.attn(x, x, x, need_weights=need_weights)[0]
            return out if batch_first else out.transpose(0, 1)

    torch.manual_seed(0)
    block = Block().eval()
    captured = encoder(block).attention(batch())["blocks.0"]
    with torch.no_grad():
        x = batch() if batch_first else batch().transpose(0, 1)
        expected = block.attn(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(captured, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_torchs_own_encoder_layer_leaves_its_fast_path(causal: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(TOKENS) if causal else None

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, src_mask=mask, is_causal=causal)

    captured = encoder(Block()).attention(batch())["blocks.0"]
    with torch.no_grad():
        expected = layer.self_attn(batch(), batch(), batch(), average_attn_weights=False, attn_mask=mask)[1]
    torch.testing.assert_close(captured, expected, atol=1e-6, rtol=0)


def test_a_kernel_that_computes_something_else_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = F.scaled_dot_product_attention

    def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if torch.overrides.has_torch_function((q,)):
            return torch.overrides.handle_torch_function(scaled_dot_product_attention, (q,), q, k, v)
        out = real(q, k, v)
        out[2, 1, 3] *= 1.01  # one query of one head of one sample, by a hundredth
        return out

    model = encoder(self_attention("plain"))
    model.attention(batch())
    monkeypatch.setattr(F, "scaled_dot_product_attention", scaled_dot_product_attention)
    with refusal("irreproducible", "tap blocks.0", "relative error 0.0"):
        model.attention(batch())
    assert not model.module.blocks[0]._forward_hooks


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pooled", "attention of 8 queries to 4 keys, not among the tap's 8 tokens"),
        ("windows", "attention of 4 queries to 4 keys, not among the tap's 8 tokens"),
        ("twice", "2 attentions inside"),
        ("rescaled", "weighs no values, or is changed before it does"),
        ("talking", "weighs no values, or is changed before it does"),
        ("transposed", "weighs no values, or is changed before it does"),
        ("halved_in_place", "no longer a softmax"),
        ("folded", r"attention of shape \(24, 1, 8, 8\) for 4 samples"),
        ("batch_behind", r"attention of shape \(6, 4, 8, 8\) for 4 samples"),
        ("linear", "no attention inside"),
    ],
)
def test_never_a_guess(kind: str, why: str) -> None:
    with pytest.raises(DiagnosticsError, match=f"model gives no attention: .*{why}"):
        encoder(self_attention(kind)).attention(batch())
    # Its neighbour is not harmed.
    captured = encoder(self_attention(kind), self_attention("plain")).attention(batch())
    assert list(captured) == ["blocks.1"]
    assert captured.left_out["blocks.0"]


@pytest.mark.parametrize("kind", ["plain", "eager", "eager_copied", "features", "features_fused", "features_einsum"])
def test_attention_among_as_many_features_as_tokens_is_not_taken_for_theirs(kind: str) -> None:
    """XCiT at 8 x 8 tokens: its heads are 64 wide, and its attention is among these."""
    width = 2 * TOKENS
    tap = Tap("block", 1.0, "trunk", width, Grid((TOKENS,), ("t",)), Site("0"))
    model = TorchEncoder(
        "model",
        "series",
        nn.Sequential(SelfAttention(kind, width, heads=2)),
        [tap],
        "block",
        lambda sample: torch.from_numpy(sample),
        np.zeros((TOKENS, width), np.float32),
    )
    x = torch.randn(4, TOKENS, width, generator=torch.Generator().manual_seed(1))
    if not kind.startswith("features"):
        np.testing.assert_allclose(model.attention(x)["block"], oracle(model.module[0]), atol=1e-5)
        return
    with refusal("no-attention", "8 tokens"):
        model.attention(x)


def test_as_many_heads_as_samples_are_not_taken_for_them() -> None:
    with refusal("no-attention", "6 samples"):
        encoder(self_attention("batch_behind")).attention(batch(HEADS))
    assert list(encoder(self_attention("plain")).attention(batch(HEADS))) == ["blocks.0"]


@pytest.mark.parametrize("kind", ["dropped", "eager_dropped"])
def test_active_dropout_is_refused(kind: str) -> None:
    with refusal("no-attention", "tap blocks.0", "dropout of 0.1"):
        encoder(self_attention(kind)).attention(batch())


def test_a_model_without_attention_says_so() -> None:
    model = tiny_encoder()
    with refusal("no-attention", "embed", "blocks.0 and others"):
        model.attention(model.preprocess(model.example())[None])


def test_each_call_of_a_shared_block_is_its_own_tap() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = self_attention("plain")

        def forward(self, x: Tensor) -> Tensor:
            self.called = []
            for _ in range(3):
                x = x + self.block(x)
                self.called.append(oracle(self.block))
            return x

    grid = Grid((TOKENS,), ("t",))
    taps = [Tap(f"call.{i}", i / 2, "trunk", WIDTH, grid, Site("block", i, 3)) for i in range(3)]
    module = Shared()
    model = TorchEncoder(
        "shared", "series", module, taps, "call.2", torch.from_numpy, np.zeros((TOKENS, WIDTH), np.float32)
    )
    captured = model.attention(batch())
    for i in range(3):
        np.testing.assert_allclose(captured[f"call.{i}"].numpy(), module.called[i], atol=2e-6)
    assert list(model.attention(batch(), ["call.1"])) == ["call.1"]
    wrong = model.with_taps([Tap("call.2", 1, "trunk", WIDTH, grid, Site("block", 0, 2))])
    with refusal("bad-tap", "'block'", "run 2"):
        wrong.attention(batch())


def test_padding_is_cut_and_attention_to_it_refused() -> None:
    class Masked(SelfAttention):
        def _plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mask = torch.ones(TOKENS, dtype=torch.bool)
            mask[:2] = not self.masked
            return F.scaled_dot_product_attention(q, k, v, mask.expand(TOKENS, TOKENS))

    torch.manual_seed(0)
    block = Masked("plain")
    taps = [Tap("blocks.0", 1, "trunk", WIDTH, Grid((TOKENS - 2,), ("t",)), Site("blocks.0", padding=2))]
    block.masked = True
    captured = encoder(block, taps=taps).attention(batch())["blocks.0"]
    assert captured.shape == (4, HEADS, TOKENS - 2, TOKENS - 2)
    torch.testing.assert_close(captured.sum(-1), torch.ones(4, HEADS, TOKENS - 2))
    block.masked = False
    with refusal("no-attention", "attend to padding"):
        encoder(block, taps=taps).attention(batch())


def test_a_large_batch_comes_in_parts_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder(self_attention("plain"), self_attention("eager"))
    whole = model.attention(batch(5))
    monkeypatch.setattr(attention, "MOST_BYTES", 4 * HEADS * TOKENS**2 * 2)
    sizes: list[int] = []

    def reduce(tap: Tap, weights: Tensor) -> Tensor:
        sizes.append(len(weights))
        return weights.clone()

    parts = model.attention(batch(5), reduce=reduce)
    assert sizes == [2, 2, 1] * 2
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_nothing_stays_behind() -> None:
    model = encoder(self_attention("plain"))
    captured = model.attention(batch())
    assert not captured["blocks.0"].requires_grad
    with pytest.raises(RuntimeError):
        model.attention(torch.zeros(2, TOKENS, WIDTH + 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
    assert not torch.overrides.has_torch_function((torch.zeros(1),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["plain", "eager"])
def test_other_precisions(kind: str, dtype: torch.dtype) -> None:
    block = self_attention(kind)
    model = encoder(block)
    model.module.to(dtype)
    captured = model.attention(batch().to(dtype))["blocks.0"]
    assert captured.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(captured.numpy(), oracle(block), atol=1e-12 if dtype == torch.float64 else 2e-2)


def test_a_head_that_attends_to_its_right_neighbour() -> None:
    """Planted in the second head by a bias; the class token takes two fifths of all grid attention."""

    class Planted(SelfAttention):
        def _plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            wanted = torch.full((HEADS, TOKENS, TOKENS), 0.0)
            wanted[1, :, 0] = 0.4
            for i in range(1, TOKENS):
                wanted[1, i, 1 + i % (TOKENS - 1)] = 0.6  # the last one wraps
            wanted[[0, *range(2, HEADS)]] = 1 / TOKENS
            return F.scaled_dot_product_attention(0 * q, k, v, wanted.log())

    planted = encoder(self_attention("plain"), Planted("plain"), prefix=1)
    captured = planted.attention(batch())["blocks.1"]
    grid = (TOKENS - 1,)
    right = (6 * 1 + 6) / 7
    distance = attention_distance(captured[..., 1:, 1:], grid)
    np.testing.assert_allclose(distance[:, 1], right, rtol=1e-6)
    np.testing.assert_allclose(distance[:, 0], (7**2 - 1) / (3 * 7), rtol=1e-6)
    mass = global_token_mass(captured, 1)
    np.testing.assert_allclose(mass.prefix[0, :3], [1 / 8, 0.4, 1 / 8], rtol=1e-6)
    np.testing.assert_allclose(mass.top_key[0, :3], [1 / 8, 0.6 / 7, 1 / 8], rtol=1e-6)
    observed = Attention().observe(planted, batch(), [tap.name for tap in planted.taps])["blocks.1"]
    assert observed.shape == (4, HEADS, 5)
    np.testing.assert_allclose(observed[:, 1, 0], right, rtol=1e-6)
    np.testing.assert_allclose(observed[:, 1, 1:], np.tile([0, 0, 0.4, 0.6 / 7], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(observed[:, 0, 1:], np.tile([np.log(7), 1, 1 / 8, 1 / 8], (4, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "size", "prefix"),
    [
        ("vit_tiny_patch16_224", 64, 1),
        ("eva02_tiny_patch14_224", 56, 1),
        ("test_vit4", 64, 1),
        ("test_vit_relpos", 32, 0),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 56, 5),
    ],
)
def test_timms_fused_attention_equals_its_own_without_fusing(name: str, size: int, prefix: int) -> None:
    """With q/k norms, rotary embeddings, relative positions, class token and registers."""
    pytest.importorskip("timm", reason="needs timm")
    from diagnostics_timm.plugin import build

    model = build(name, pretrained=False, img_size=size)
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    fused = model.attention(images)
    off = [module for module in model.module.modules() if getattr(module, "fused_attn", None)]
    assert off, "nothing was fused: the test shows nothing"
    for module in off:
        module.fused_attn = False
    eager = model.attention(images)
    blocks = [tap for tap in model.taps if tap.name.startswith("blocks.")]
    assert {tap.name for tap in blocks} <= set(fused)
    for tap in blocks:
        assert tap.grid.prefix == prefix
        assert fused[tap.name].shape[-2:] == (tap.tokens, tap.tokens)
        torch.testing.assert_close(fused[tap.name], eager[tap.name], atol=1e-5, rtol=0)


def test_fracast_is_convolutional_and_says_so() -> None:
    pytest.importorskip("fracast", reason="needs the extra demo")
    from diagnostics_timeseries.representations import fracast as build

    model = build()
    subject = {key: value[None] for key, value in model.preprocess(model.example()).items()}
    with refusal("no-attention", "fracast", "no attention inside"):
        model.attention(subject)
