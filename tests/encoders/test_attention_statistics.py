"""Attention statistics without the matrix: equal to those of the matrix in float64, whatever the call."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import DiagnosticsError, Grid, Site, Tap, TorchEncoder
from diagnostics.encoders.attention import Statistics, Tokens, attention_statistics, of_matrix, statistics
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.measures.locality.heads import Attention, AttentionLogit, Gathering, ReduceAttention
from tests.support.refusals import refusal

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
GRIDS = ((37,), (6, 7), (3, 4, 5))
CASES = range(20)


def case(seed: int, loud: float = 1.0, masks: bool = True) -> tuple[FusedCall, Tensor, Tokens]:
    """A random call, what torch's kernel gives for it, and its tokens."""
    choose, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    width, grid = WIDTHS[seed % len(WIDTHS)], GRIDS[seed % len(GRIDS)]
    prefix, heads, of_keys = choose.randint(0, 4), 4, choose.choice([1, 2, 4])
    own = prefix + math.prod(grid)
    padding, trailing = (choose.choice([0, 3]), choose.choice([0, 2]))
    order = tuple(torch.randperm(own, generator=draw).tolist()) if seed % 2 else ()
    tap = Tap(
        "a",
        1,
        "trunk",
        8,
        Grid(grid, tuple("tyx"[: len(grid)]), prefix),
        Site("m", padding=padding, trailing=trailing, order=order),
    )
    tokens = own + padding + trailing
    q, k, v = (torch.randn(2, n, tokens, width, generator=draw) for n in (heads, of_keys, of_keys))
    kind = ("none", "causal", "bool", "bias")[seed % (4 if masks else 2)]
    mask = None
    if kind == "bool":
        mask = torch.rand(2, 1, tokens, tokens, generator=draw) > 0.3
        mask[0, 0, 5] = False  # a query that sees nothing
    if kind == "bias":
        mask = torch.randn(heads, tokens, tokens, generator=draw) * 3
    args = (loud * q, k, v, mask, 0.0, kind == "causal")
    out = F.scaled_dot_product_attention(*args, enable_gqa=of_keys != heads)
    return FusedCall.of(args, {}), out, Tokens.of(tap, tap.site, q.device)


def assert_same(found: Statistics, expected: Statistics, within: float) -> None:
    for field in dataclasses.fields(Statistics):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        # What torch's own kernel rounds grows with the logits.
        atol = max(within, 1e-5)
        np.testing.assert_allclose(a, b, rtol=within, atol=atol, err_msg=field.name)


@pytest.mark.parametrize("seed", CASES)
def test_blocks_give_what_the_matrix_gives(seed: int) -> None:
    call, out, tokens = case(seed)
    assert_same(
        attention_statistics(call, out, tokens, "blocks"), attention_statistics(call, out, tokens, "plain"), 1e-5
    )


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_at_logits_of_several_hundred(seed: int) -> None:
    call, out, tokens = case(seed, loud=150.0)
    plain = attention_statistics(call, out, tokens, "plain")
    assert float(plain.logit.max()) > 200
    assert_same(attention_statistics(call, out, tokens, "blocks"), plain, 1e-3)


@pytest.mark.parametrize("by", ["plain", "blocks"])
@pytest.mark.parametrize("loud", ["prefix", "padding"])
@pytest.mark.parametrize("above", [700.0, 735.0, 1000.0])
def test_keys_whose_logits_lie_far_above_the_grid_cost_no_row(by: Any, loud: str, above: float) -> None:
    tap = Tap("a", 1, "trunk", 8, Grid((6,), ("t",), 1), Site("m", trailing=2))
    draw = torch.Generator().manual_seed(0)
    bias = torch.randn(1, 1, 9, 9, generator=draw, dtype=torch.float64)
    bias[..., {"prefix": slice(1), "padding": slice(7, None)}[loud]] += above
    q = k = torch.zeros(1, 1, 9, 8, dtype=torch.float64)
    v = torch.randn(1, 1, 9, 8, generator=draw, dtype=torch.float64)
    out = F.scaled_dot_product_attention(q, k, v, bias)
    found = attention_statistics(FusedCall.of((q, k, v, bias), {}), out, Tokens.of(tap, tap.site, q.device), by)
    grid = bias[0, 0, 1:7, 1:7].softmax(-1)
    places = torch.arange(6.0, dtype=torch.float64)
    assert float(found.entropy) == pytest.approx(float(-(grid * grid.log()).sum(-1).mean()), rel=1e-9)
    assert float(found.peak) == pytest.approx(float(grid.amax(-1).mean()), rel=1e-9)
    apart = (places[:, None] - places).abs()
    assert float(found.distance) == pytest.approx(float((grid * apart).sum(-1).mean()), rel=1e-9)
    own = bias[0, 0, 1:7, :7].softmax(-1)
    assert float(found.prefix) == pytest.approx(float(own[:, 0].mean()), rel=1e-9)
    assert np.allclose(found.received[0, 0], own[:, 1:].mean(0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1.0, 1e-300, 1e-309, 1e-314])
def test_a_matrix_whose_rows_are_tiny_loses_none(size: float) -> None:
    rows = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected, found = (of_matrix(each, 0, torch.arange(6.0)[:, None].double()) for each in (rows, size * rows))
    for field in ("entropy", "distance", "peak", "prefix", "received"):
        # As much as the smallest numbers of the type hold.
        np.testing.assert_allclose(
            getattr(found, field), getattr(expected, field), rtol=max(1e-9, 1e-322 / size), err_msg=field
        )


def test_rows_of_the_smallest_numbers_keep_their_entropy() -> None:
    """Multiples of 5e-324 are exact, and so are their shares; products of them and their logarithms are not."""
    rows = torch.randint(1, 9, (1, 1, 6, 6), generator=torch.Generator().manual_seed(0)).double()
    expected, found = (of_matrix(each, 0, torch.arange(6.0)[:, None].double()) for each in (rows, 5e-324 * rows))
    for field in ("entropy", "distance", "peak"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), rtol=1e-12, err_msg=field)


@pytest.mark.parametrize("by", ["plain", "blocks"])
def test_a_model_that_keeps_gradients_changes_nothing(by: Any) -> None:
    call, out, tokens = case(0)
    wanting = dataclasses.replace(call, q=call.q.requires_grad_(), k=call.k.requires_grad_(), v=call.v.requires_grad_())
    found = attention_statistics(wanting, out, tokens, by)
    assert not found.entropy.requires_grad and found.error < 1e-5


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    call, out, tokens = case(6)
    whole = attention_statistics(call, out, tokens, "blocks")
    for size in (1, 7 * call.shape[-1], 3 * math.prod(call.shape[-2:])):
        monkeypatch.setattr("diagnostics.encoders.attention.statistics.BLOCK", {"cpu": size, "cuda": size})
        assert_same(attention_statistics(call, out, tokens, "blocks"), whole, 2e-6)


def test_a_class_token_that_takes_nearly_all_leaves_the_grid_exact() -> None:
    """Uniform over the grid, beside a prefix key with e^200 times its weight, which float32 cannot hold in one sum."""
    q = torch.zeros(1, 1, 10, 16)
    q[..., 0] = 1
    k = torch.zeros(1, 1, 10, 16)
    k[:, :, 0, 0] = 800
    v = torch.randn(1, 1, 10, 16, generator=torch.Generator().manual_seed(0))
    tap = Tap("a", 1, "trunk", 8, Grid((9,), ("t",), 1))
    found = attention_statistics(
        FusedCall.of((q, k, v), {}), F.scaled_dot_product_attention(q, k, v), Tokens.of(tap, None, q.device), "blocks"
    )
    assert float(found.entropy) == pytest.approx(math.log(9), rel=1e-6)
    assert float(found.distance) == pytest.approx(80 / 27, rel=1e-6)
    assert (float(found.prefix), float(found.peak)) == (1, pytest.approx(1 / 9))


@pytest.mark.parametrize("seed", [0, 4])
def test_another_kernels_log_sum_gives_the_same_entropy_and_prefix_share(seed: int) -> None:
    """entropy = lse - scale q (P K): one call with the keys in place of the values, which shares no code with either."""
    call, out, tokens = case(seed, masks=False)
    found = attention_statistics(call, out, tokens, "blocks")
    each = call.q.shape[1] // call.k.shape[1]
    k = call.k.repeat_interleave(each, 1)
    own, grid = (tokens.reorder(k)[..., which, :] for which in (slice(tokens.own), tokens.grid))
    q = tokens.reorder(call.q)[..., tokens.grid, :]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    (_, all_lse), (mean_key, lse) = flash(q, own, own), flash(q, grid, grid)
    entropy = lse - call.scale * (q * mean_key).sum(-1)
    np.testing.assert_allclose(found.entropy, entropy.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(found.prefix, (1 - (lse - all_lse).exp()).mean(-1), atol=1e-5)


def test_a_wrong_output_shows_in_the_error() -> None:
    call, out, tokens = case(0)
    for value in (1.01 * out[1, 2, 3, 0] + 0.1, math.nan):
        wrong = out.clone()
        wrong[1, 2, 3, 0] = value
        assert attention_statistics(call, wrong, tokens, "blocks").error > 1e-3


def encoder(module: nn.Module, tokens: int = 12, width: int = 16) -> TorchEncoder:
    tap = Tap("block", 1, "trunk", width, Grid((tokens,), ("t",)), Site("0"))
    return TorchEncoder(
        "model",
        "series",
        nn.Sequential(module),
        [tap],
        "block",
        torch.from_numpy,
        np.zeros((tokens, width), np.float32),
    )


class Block(nn.Module):
    def __init__(self, spelled_out: bool = False, spoil: Any = None) -> None:
        super().__init__()
        self.spelled_out, self.spoil = spelled_out, spoil

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (torch.sin, torch.cos, torch.tanh))
        if self.spoil:
            (q if self.spoil == "queries" else k)[1, 1, 4, 2] = math.nan
        spelled_out = (q @ k.mT * 8**-0.5).softmax(-1) @ v if self.spelled_out else None
        out = F.scaled_dot_product_attention(q, k, v) if spelled_out is None else spelled_out
        return out.transpose(1, 2).flatten(2)


def batch() -> Tensor:
    return torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(0))


def test_a_softmax_spelled_out_gives_the_same_but_no_logit() -> None:
    for observation in (Attention(), Gathering()):
        fused, eager = (observation.observe(encoder(Block(how)), batch(), ["block"])["block"] for how in (False, True))
        logit = [name == "logit" for name in observation.columns]
        assert eager[..., logit].isnan().all() and fused.isfinite().all()
        keep = [not here for here in logit]
        np.testing.assert_allclose(fused[..., keep], eager[..., keep], rtol=1e-5)
    recorded = Gathering().observe(encoder(Block(True)), batch(), ["block"])["block"].numpy()
    assert "spelled out" in AttentionLogit().why_unknown(3, recorded, 3)


@pytest.mark.parametrize("which", ["queries", "keys"])
def test_nan_is_named_by_sample_head_and_tap(which: str) -> None:
    model = encoder(Block(spoil=which))
    message = (
        rf"of model at tap block has {which} that are NaN or infinite, first in sample 1 of the batch, head 1, token 4:"
    )
    with pytest.raises(DiagnosticsError, match=message):
        Attention().observe(model, batch(), ["block"])
    with pytest.raises(DiagnosticsError, match=message):
        model.attention(batch())


@pytest.mark.parametrize(("by", "large"), [("plain", 1e200), ("blocks", 1e200), ("blocks", 1e30)])
def test_logits_too_large_for_their_type_show_in_the_error(by: Any, large: float) -> None:
    call, out, tokens = case(4)
    q, k = (x.double() * large for x in (call.q, call.k))
    call = dataclasses.replace(call, q=q, k=k) if large > 1e38 else dataclasses.replace(call, q=q.float(), k=k.float())
    assert attention_statistics(call, out, tokens, by).error == math.inf


def test_a_pass_with_such_logits_is_an_error_and_no_mean() -> None:
    class Loud(Block):
        def forward(self, x: Tensor) -> Tensor:
            q = 1e30 * x.unflatten(-1, (2, 8)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)

    for reduced in (
        lambda model: Attention().observe(model, batch(), ["block"]),
        lambda model: model.attention(batch()),
    ):
        with refusal("not-finite", "model", "block"):
            reduced(encoder(Loud()))


def test_autocast_around_a_pass_shortens_nothing() -> None:
    model = encoder(Block())
    whole = model.attention(batch(), reduce=ReduceAttention(("entropy", "logit")))["block"]
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.attention(batch(), reduce=ReduceAttention(("entropy", "logit")))["block"]
    np.testing.assert_allclose(cast, whole, rtol=1e-6)


INTERPRETED = """
import test_attention_statistics as t
for loud, within, seeds in ((1.0, 1e-5, t.CASES), (150.0, 1e-3, range(4))):
    for seed in seeds:
        case = t.case(seed, loud, masks=False)
        t.assert_same(*(t.attention_statistics(*case, by) for by in ("triton", "plain")), within)
for dtype in (t.torch.float16, t.torch.bfloat16):
    call, out, tokens = t.case(0, masks=False)
    call = t.dataclasses.replace(call, q=call.q.to(dtype), k=call.k.to(dtype), v=call.v.to(dtype))
    found, expected = (t.attention_statistics(call, out, tokens, by) for by in ("triton", "plain"))
    t.np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-5)
    t.np.testing.assert_allclose(found.received, expected.received, rtol=1e-5, atol=1e-6)
    assert abs(found.error - expected.error) < 1e-3
call, out, tokens = t.case(4, masks=False)
off = out.clone()
off[-1, -1, -1] += 1
wrong, right = (t.attention_statistics(call, off, tokens, by).error for by in ("triton", "plain"))
assert wrong == t.pytest.approx(right, rel=1e-5) and right > 0.5
loud = t.dataclasses.replace(call, q=call.q * 1e30, k=call.k * 1e30)
assert t.attention_statistics(loud, out, tokens, "triton").error == t.math.inf
# The sequence first in a batch so large that its last rows lie beyond what 32 bits count; all but the rows is never touched.
far = t.torch.empty(20 * 2**27, dtype=t.torch.float16).as_strided((1, 1, 20, 16), (16, 16, 2**27, 1))
far.copy_(t.torch.randn(1, 1, 20, 16, generator=t.torch.Generator().manual_seed(0)))
tokens = t.Tokens.nowhere(20, 20, far.device)
near = [t.F.scaled_dot_product_attention(far, far, far), tokens, "triton"]
found, expected = (t.attention_statistics(t.FusedCall.of((x, x, x), {}), *near) for x in (far, far.clone()))
t.assert_same(found, expected, 0.0)
"""


@pytest.mark.slow
def test_triton_gives_what_the_matrix_gives() -> None:
    """Under its interpreter, which is chosen when triton is imported: so in a process of its own."""
    pytest.importorskip("triton", reason="needs triton (dependency group `kernels`)")
    here = Path(__file__).parent
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(here), *sys.path]),
    }
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_triton_by_name_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    call, out, tokens = case(0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refusal("no-kernel"):
        attention_statistics(call, out, tokens, "triton")
    assert attention_statistics(call, out, tokens).error < 1e-5
    with refusal("unknown-name", "'flash'"):
        attention_statistics(call, out, tokens, "flash")  # type: ignore[arg-type]  # an unknown name, as a user may give


def test_triton_says_why_it_does_not_read_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    call, out, tokens = case(0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(DiagnosticsError, match="runs on a GPU, and the encoder is on cpu"):
        attention_statistics(call, out, tokens, "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    wide = torch.zeros(2, 4, call.shape[-1], 272)
    four = Tap("a", 1, "trunk", 8, Grid((2, 2, 2, 2), ("v", "t", "y", "x")))
    for changed, tokens_of, why in (
        (
            dataclasses.replace(call, mask=torch.ones(call.shape[-2:], dtype=torch.bool)),
            tokens,
            "gives its kernel a mask",
        ),
        (dataclasses.replace(call, q=wide, k=wide, v=wide), tokens, "heads are 272 wide"),
        (dataclasses.replace(call, q=call.q[..., 1:, :]), tokens, "queries and keys are not the same tokens"),
        (call, Tokens.of(four, None, torch.device("cpu")), "the grid has 4 axes"),
    ):
        with pytest.raises(DiagnosticsError, match=why):
            attention_statistics(changed, out, tokens_of, "triton")


def test_what_auto_takes_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    statistics._log_choice.cache_clear()
    with caplog.at_level("INFO", "diagnostics"):
        for seed in (0, 1):
            attention_statistics(*case(seed))
    assert caplog.messages == ["attention statistics by blocks (on a CPU)"]


@pytest.mark.parametrize(("error", "tries"), [(RuntimeError("no compiler"), 1), (torch.OutOfMemoryError(), 2)])
def test_what_fails_on_a_card_is_not_tried_again_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, tries: int
) -> None:
    """A card is pretended: only whether a call lies there decides."""
    call, out, tokens = case(0)
    tried: list[int] = []

    def fail(call: Any, *_: Any) -> Statistics:
        tried.append(call.q.shape[-1])
        raise error

    monkeypatch.setattr(statistics, "_FAILED", {})
    monkeypatch.setattr(statistics, "refusal", lambda *_: "")
    monkeypatch.setattr(statistics, "by_triton", fail)
    monkeypatch.setattr(statistics, "blocks", lambda *_: "by blocks")
    statistics._log_choice.cache_clear()
    for width in (8, 8, 16):
        on_card = SimpleNamespace(is_cuda=True, dtype=call.q.dtype, shape=(1, 1, 9, width), device=call.q.device)
        assert statistics._automatic(SimpleNamespace(q=on_card), out, tokens) == "by blocks"
    # Each width is a kernel of its own.
    assert tried == [8] * tries + [16]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    statistics._log_choice.cache_clear()
