"""The attention of each head in one pass of a model, while it trains: how sharp it is, and its largest logit."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.attention.kernel_choice import SdpaCall, SdpaCalls
from diagnostics.encoders.attention.statistics import Tokens, attention_statistics
from diagnostics.encoders.modules import whole
from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True, eq=False)
class HeadsSeen:
    """One attention of a pass.

    Of each head the `entropy` in nats, mean over samples of the mean over queries, and the largest `logit` with its
    mask added, float64 [head]; `keys` is what a query may look at at most. A query that may see nothing is left out.

    Examples:
        >>> import torch
        >>> from torch.nn.functional import scaled_dot_product_attention
        >>> from diagnostics.encoders.attention.head_watch import watch_heads
        >>> q = k = v = torch.eye(4)[None, None]  # of one sample and head
        >>> seen = watch_heads(lambda: scaled_dot_product_attention(q, k, v, scale=10))
        >>> seen[0].keys, seen[0].logit.item(), round(seen[0].entropy.item(), 4)
        (4, 10.0, 0.0015)
    """

    entropy: Tensor
    logit: Tensor
    keys: int


def watch_heads(forward: Callable[[], Any]) -> list[HeadsSeen]:
    """The attentions of one pass, in the order of their calls.

    The calls are those of `scaled_dot_product_attention` [sample, head, token, width].

    Without gradients; the pass itself runs as `forward` has it. A model that spells its softmax out has none. Raises
    DiagnosticsError where queries, keys or what comes of them are not finite.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from diagnostics.encoders.attention.head_watch import watch_heads
        >>> layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        >>> seen = watch_heads(lambda: layer(torch.zeros(2, 10, 16)))
        >>> seen[0].entropy.exp().round(decimals=3)  # all alike: each head sees all ten
        tensor([10., 10., 10., 10.], dtype=torch.float64)
    """
    seen: list[HeadsSeen] = []

    def answer(call: SdpaCall) -> Any:
        out = call.run()
        fused = FusedCall.of(call.args, call.kwargs)
        if fused.q.ndim == 4:
            with torch.no_grad(), whole(fused.q.device):
                seen.append(_heads_of(fused, out if out.ndim == 4 else out[:, None], f"block {len(seen)}"))
        return out

    with SdpaCalls(answer):
        forward()
    return seen


def _heads_of(call: FusedCall, out: Tensor, name: str) -> HeadsSeen:
    call.check_finite(name)
    *_, queries, keys = call.shape
    statistics = attention_statistics(call, out, Tokens.nowhere(queries, keys, out.device))
    if statistics.error == math.inf:
        raise DiagnosticsError(
            f"Attention of {name}, or its values, is NaN or infinite though queries and keys are finite: train with a "
            f"smaller learning rate.",
            code="not-finite",
        )
    logit = torch.where(statistics.logit.isnan(), -math.inf, statistics.logit)
    return HeadsSeen(statistics.entropy.nanmean(0), logit.amax(0), keys)
