"""How sharp the attention of each head is in a pass, whatever the model: for watching it while it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diagnostics.encoders.computing import whole
from diagnostics.encoders.fused_attention import FusedCall
from diagnostics.encoders.sdpa_calls import SdpaCall, SdpaCalls

MOST_BYTES = 128 * 2**20
"""Attention of more bytes is computed in several parts, each of whole samples."""


@dataclass(frozen=True, eq=False)
class HeadsSeen:
    """One attention of a pass: of each head the `entropy` in nats, mean over samples and queries, and the largest `logit`, float
    [head]; `keys` is what a query may look at at most. A query that may see nothing is left out."""

    entropy: Tensor
    logit: Tensor
    keys: int


def watch_heads(forward: Callable[[], Any]) -> list[HeadsSeen]:
    """The attentions of one pass in the order of its calls of `scaled_dot_product_attention` [sample, head, token, width].

    Without gradients; the pass itself runs as `forward` has it. A model that spells its softmax out has none.
    """
    seen: list[HeadsSeen] = []

    def look(call: SdpaCall) -> None:
        fused = FusedCall.of(call.args, call.kwargs)
        if fused.q.ndim == 4:
            with torch.no_grad(), whole(fused.q.device):
                seen.append(_heads_of(fused))

    with SdpaCalls(look):
        forward()
    return seen


def _heads_of(call: FusedCall) -> HeadsSeen:
    samples, heads, queries, keys = call.shape
    step = max(1, MOST_BYTES // (8 * heads * queries * keys))
    entropy = torch.zeros(heads, dtype=torch.float64, device=call.q.device)
    counted, logit = torch.zeros_like(entropy), torch.full_like(entropy, -torch.inf)
    for start in range(0, samples, step):
        rows = slice(start, start + step)
        weights = call.weights(rows)
        seeing = weights.sum(-1) > 0
        counted += seeing.sum((0, 2))
        entropy += torch.where(seeing, torch.special.entr(weights).sum(-1), 0).sum((0, 2), dtype=torch.float64)
        # The largest weight of a row is that of its largest logit, and a key that the mask hides has none.
        q, k = call.q[rows].to(call.working), call.k.expand(samples, *call.k.shape[1:])[rows].to(call.working)
        k = k.repeat_interleave(heads // k.shape[1], 1)
        strongest = k.gather(2, weights.argmax(-1)[..., None].expand(*weights.shape[:3], k.shape[-1]))
        largest = torch.where(seeing, (q * strongest).sum(-1) * call.scale, -torch.inf)
        logit = torch.maximum(logit, largest.amax((0, 2)).double())
    return HeadsSeen(entropy / counted, logit, keys)
