"""Statistics by two kernels of triton: on a GPU, or on a CPU under its interpreter (`TRITON_INTERPRET=1`)."""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any

import torch
from torch import Tensor

from diagnostics.encoders.attention_statistics.statistics import Rows, Statistics
from diagnostics.encoders.attention_statistics.tokens import Tokens
from diagnostics.encoders.fused_attention import FusedCall

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
    from diagnostics.encoders.attention_statistics import kernels

    rows_kernel: Any = kernels.rows_kernel
    received_kernel: Any = kernels.received_kernel

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
