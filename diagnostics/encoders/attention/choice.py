"""Which implementation reads a call: chosen by what it can do, and told once. One of them is two kernels of triton, on a GPU or under its interpreter."""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
from typing import Any, Literal

import torch
from torch import Tensor

from diagnostics.encoders.attention.blocks import blocks
from diagnostics.encoders.attention.fused import FusedCall
from diagnostics.encoders.attention.matrix import plain
from diagnostics.encoders.attention.statistics import Rows, Statistics, Tokens
from diagnostics.errors import DiagnosticsError, describe

WIDEST = 256
AXES = 3
INSTALL = "python -m pip install triton"


def refused(call: FusedCall, tokens: Tokens) -> str:
    """Why these kernels do not read a call; "" where they do."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed (`{INSTALL}`)"
    if not (call.q.is_cuda or interpreted):
        return f"it runs on a GPU, and the encoder is on {call.q.device.type}"
    if call.q.shape[-2] != call.k.shape[-2]:
        return "queries and keys are not the same tokens"
    if call.mask is not None:
        return "the model gives its kernel a mask"
    if call.q.dtype == torch.float64:
        return "it computes in float32, and the model in float64"
    if call.q.shape[-1] > WIDEST or call.v.shape[-1] != call.q.shape[-1]:
        return f"heads are {call.q.shape[-1]} wide (values {call.v.shape[-1]}), and it reads widths of {WIDEST} at most, all alike"
    if tokens.places.shape[1] > AXES:
        return f"the grid has {tokens.places.shape[1]} axes, and it knows {AXES} at most"
    return ""


def by_triton(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    """Of a call that is not `refused`, whose kernel gave `out` [B, H, Q, D]."""
    from diagnostics.encoders.attention import triton_kernels

    rows_kernel: Any = triton_kernels.rows_kernel
    received_kernel: Any = triton_kernels.received_kernel

    samples, heads, queries, width = call.q.shape
    q, k, v = (x.expand(samples, *x.shape[1:]) for x in (call.q, call.k, call.v))
    device = q.device
    if device.type == "cpu" and q.dtype == torch.bfloat16:
        # Triton's interpreter holds these as integers, and multiplies them as such.
        q, k, v = q.float(), k.float(), v.float()
    order = torch.arange(queries, device=device) if tokens.order is None else tokens.order
    # By position in the call: so coordinates are permuted, and no token is.
    kind = torch.zeros(queries, dtype=torch.int32, device=device)
    kind[order[: tokens.prefix]], kind[order[tokens.grid]] = 1, 2
    places = torch.zeros(tokens.places.shape[1], queries, device=device)
    places[:, order[tokens.grid]] = tokens.places.T
    rows = Rows.empty(samples, heads, queries, dtype=torch.float32, device=device)
    lse, received = (torch.full((samples, heads, queries), math.nan, device=device) for _ in range(2))
    padded = max(16, 1 << (width - 1).bit_length())
    block = 64 if padded <= 128 else 32
    scale = call.scale * math.log2(math.e)
    common = {"causal": call.causal, "M": block, "N": block, "D": padded}
    grid = (-(-queries // block), samples * heads)
    sizes = (scale, heads, k.shape[1], queries, width)
    with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
        rows_kernel[grid](
            q, k, v, out, kind, places,
            rows.entropy, rows.distance, rows.prefix, rows.peak, rows.logit, rows.error, rows.padding, lse,
            *sizes, *q.stride(), *k.stride(), *v.stride(), *out.stride(), axes=len(places), **common,
        )  # fmt: skip
        received_kernel[grid](q, k, kind, lse, received, *sizes, *q.stride(), *k.stride(), **common)
    in_order = Rows(*(tokens.ordered(values, -1) for values in vars(rows).values()))
    return in_order.reduced(tokens, received[..., order[tokens.grid]])


Implementation = Literal["auto", "plain", "blocks", "triton"]
IMPLEMENTATIONS = {"plain": plain, "blocks": blocks, "triton": by_triton}


@torch.no_grad()
def attention_statistics(call: FusedCall, out: Tensor, tokens: Tokens, by: Implementation = "auto") -> Statistics:
    """Of a call of a fused kernel that gave `out` [B, H, Q, D]; without gradients.

    `auto` takes `triton` where it can read the call on a GPU, else `blocks`. Raises DiagnosticsError for one asked for by
    name that cannot read the call, and for a name of none.

    Examples:
        >>> import torch
        >>> from diagnostics.encoders import attention
        >>> from diagnostics.encoders.attention.fused import FusedCall
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
