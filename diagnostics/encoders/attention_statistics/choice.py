"""Which implementation reads a call: chosen by what it can do, and told once."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import torch
from torch import Tensor

from diagnostics.encoders.attention_statistics.blocks import blocks
from diagnostics.encoders.attention_statistics.by_triton import by_triton, refused
from diagnostics.encoders.attention_statistics.plain import plain
from diagnostics.encoders.attention_statistics.statistics import Statistics
from diagnostics.encoders.attention_statistics.tokens import Tokens
from diagnostics.encoders.fused_attention import FusedCall
from diagnostics.errors import DiagnosticsError, describe

Implementation = Literal["auto", "plain", "blocks", "triton"]
IMPLEMENTATIONS = {"plain": plain, "blocks": blocks, "triton": by_triton}


@torch.no_grad()
def attention_statistics(call: FusedCall, out: Tensor, tokens: Tokens, by: Implementation = "auto") -> Statistics:
    """Of a call of a fused kernel that gave `out` [B, H, Q, D]; without gradients.

    `auto` takes `triton` where it can read the call on a GPU, else `blocks`. Raises DiagnosticsError for one asked for by
    name that cannot read the call, and for a name of none.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders import attention_statistics as attention
        >>> from diagnostics.encoders.fused_attention import FusedCall
        >>> q = k = v = torch.zeros(1, 2, 9, 8)  # 2 heads, uniform over 9 tokens
        >>> call, out = FusedCall.of((q, k, v), {}), v
        >>> tokens = attention.Tokens.nowhere(9, 9, q.device)
        >>> statistics = attention.attention_statistics(call, out, tokens)
        >>> statistics.entropy.exp()  # in tokens
        tensor([[9.0000, 9.0000]], dtype=torch.float64)
    """
    if by == "auto":
        return _automatic(call, out, tokens)
    if by not in IMPLEMENTATIONS:
        raise DiagnosticsError(
            f"No attention statistics are called {by!r}: choose among auto, {', '.join(IMPLEMENTATIONS)}."
        )
    if by == "triton" and (reason := refused(call, tokens)):
        raise DiagnosticsError(f"Attention statistics by triton cannot be had here: {reason}; choose auto or blocks.")
    return IMPLEMENTATIONS[by](call, out, tokens)


def _automatic(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    reason = refused(call, tokens) if call.q.is_cuda else "on a CPU"
    if not reason:
        try:
            statistics = by_triton(call, out, tokens)
        except Exception as error:  # a compiler, a driver and a card that may not know each other
            reason = f"triton failed: {describe(error)}"
        else:
            _log_choice("triton", "")
            return statistics
    _log_choice("blocks", reason)
    return blocks(call, out, tokens)


@functools.cache
def _log_choice(chosen: str, reason: str) -> None:
    logging.getLogger("diagnostics").info("attention statistics by %s%s", chosen, f" ({reason})" if reason else "")
