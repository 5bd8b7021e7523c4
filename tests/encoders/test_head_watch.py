"""Entropy and largest logit of every head in a pass, against closed forms and the formula written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend

from diagnostics import DiagnosticsError
from diagnostics.encoders.attention.head_watch import HeadsSeen, watch_heads

ALLOWED = torch.ones(6, 6, dtype=torch.bool).tril(1)
ALLOWED[2] = False


def seen_of(*args: Any, **kwargs: Any) -> HeadsSeen:
    (seen,) = watch_heads(lambda: attend(*args, **kwargs))
    return seen


def test_heads_with_a_known_answer() -> None:
    """Uniform; one key, by a logit of 100 x 100 / sqrt(4); two keys, p = 0.8 and 0.2."""
    k = torch.zeros(2, 3, 5, 4)
    k[:, 1, 3, 0], k[:, 2, 2:, 0] = 100, -1000
    k[:, 2, 1, 0] = math.log(4)
    q = torch.zeros_like(k)
    q[:, 1, :, 0], q[:, 2, :, 0] = 100, 2
    seen = seen_of(q, k, k)
    assert seen.keys == 5
    two = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert seen.entropy.tolist() == pytest.approx([math.log(5), 0, two], abs=1e-6)
    assert seen.logit.tolist() == pytest.approx([0, 5000, math.log(4)], rel=1e-6)


def written_out(q: Tensor, k: Tensor, allowed: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    scores = (
        torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], 1)) * scale
    )
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    p = scores.softmax(-1)
    entropy = -(p * p.log()).nan_to_num().sum(-1)
    seeing = (scores > -torch.inf).any(-1)
    return (entropy * seeing).sum((0, 2)) / seeing.sum((0, 2)), scores.amax((0, 2, 3))


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("most", [1, 2**27])
@pytest.mark.parametrize(
    ("options", "allowed", "scale"),
    [
        ({}, None, 8**-0.5),
        ({"is_causal": True, "scale": 0.7}, torch.ones(6, 6, dtype=torch.bool).tril(), 0.7),
        ({"attn_mask": ALLOWED}, ALLOWED, 8**-0.5),
    ],
)
def test_it_is_the_formula_written_out(
    monkeypatch: pytest.MonkeyPatch, options: Any, allowed: Tensor | None, scale: float, most: int, heads: int
) -> None:
    """Also in parts, with fewer key heads, and where a query may see nothing."""
    monkeypatch.setattr("diagnostics.encoders.attention.statistics.BLOCK", {"cpu": most, "cuda": most})
    draw = torch.Generator().manual_seed(0)
    q, k = 3 * torch.randn(3, 4, 6, 8, generator=draw), torch.randn(3, heads, 6, 8, generator=draw)
    seen = seen_of(q, k, k, enable_gqa=heads < 4, **options)
    entropy, logit = written_out(q, k, allowed, scale)
    torch.testing.assert_close(seen.entropy, entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.logit, logit, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
@pytest.mark.parametrize(("queries", "keys"), [(3, 7), (7, 3)])
def test_queries_may_be_other_tokens_than_the_keys(queries: int, keys: int, options: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 4, queries, 8, generator=draw), torch.randn(2, 4, keys, 8, generator=draw)
    allowed = torch.ones(queries, keys, dtype=torch.bool).tril() if options else None
    seen = seen_of(q, k, k, **options)
    entropy, logit = written_out(q, k, allowed, 8**-0.5)
    torch.testing.assert_close((seen.entropy, seen.logit), (entropy, logit), rtol=1e-5, atol=1e-6)
    assert seen.keys == keys


def test_what_is_not_finite_is_named() -> None:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 5, 4, generator=draw)
    spoiled = q.clone()
    spoiled[1, 2, 3, 0] = math.nan
    message = "Attention of block 0 has {} that are NaN or infinite, first in sample 1 of the batch, head 2, token 3:"
    for what, (a, b) in {"queries": (spoiled, q), "keys": (q, spoiled)}.items():
        with pytest.raises(DiagnosticsError, match=message.format(what)):
            seen_of(a, b, q)
    for large, values in ((1e30, q), (1.0, spoiled)):
        with pytest.raises(
            DiagnosticsError, match="block 0, or its values, is NaN or infinite though queries and keys are"
        ):
            seen_of(large * q, large * q, values)


def test_every_attention_in_order_whatever_surrounds_it() -> None:
    """Under autocast nothing of it is computed in half precision, and torch's own layers hide none."""
    q, steep = torch.zeros(1, 1, 4, 8), 2.11 * torch.eye(4, 8)[None, None]
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()

    def forward() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            attend(q, q, q), layer(q[0]), attend(steep, steep, steep)

    seen = watch_heads(forward)
    assert [len(one.entropy) for one in seen] == [1, 2, 1]
    assert float(seen[0].entropy) == pytest.approx(math.log(4), abs=1e-6)
    entropy, logit = written_out(steep, steep, None, 8**-0.5)
    torch.testing.assert_close((seen[2].entropy, seen[2].logit), (entropy, logit), rtol=1e-6, atol=0)
    assert watch_heads(lambda: None) == []
