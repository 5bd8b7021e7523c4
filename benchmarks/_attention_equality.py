"""(b) Every kernel of torch, and every implementation of the statistics, against float64 on fresh random inputs.

Head by head, so that the matrix of 16,384 tokens fits a GPU. Memory is filled with NaN before each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import fields

import torch
from _attention_cases import Shape, Table, call_of, is_gpu, poison, projected
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from diagnostics import DiagnosticsError
from diagnostics.encoders.attention import Statistics, Tokens, attention_statistics
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.attention.kernel_choice import explain_attention

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
MATRIX = {"cpu": 2**11, "cuda": 2**12}
"""Tokens of the longest sequence for which the kernel that keeps the matrix is tried."""
WITHIN = {torch.float32: (1e-5, 1e-4), torch.bfloat16: (3e-2, 6e-2)}
"""Type -> how far a row of the output, and of a gradient, may be from float64, as a share of the mean row's length: 8 bits of
mantissa leave .004 of each number that goes in or out."""


def refusal(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> str:
    """Why torch's kernel does not take this; "" where it does."""
    if kernel == "math" and q.shape[-2] > MATRIX[q.device.type]:
        return f"its matrix of {q.shape[-2]:,} tokens is too large"
    try:
        explain_attention(kernel, lambda: scaled_dot_product_attention(q, k, v), "this shape", "bf16")  # type: ignore[arg-type]  # of the table
    except DiagnosticsError as error:
        return str(error)
    return ""


def kernels_equal(device: str, shapes: Sequence[Shape], table: Table) -> None:
    """Output and gradients of every kernel of torch."""
    told: set[str] = set()
    for dtype, limits in WITHIN.items():
        worst: dict[str, list[float]] = {}
        for shape in shapes:
            seed = time.time_ns() % 2**31
            q, k, v, grad = (
                x.detach()
                for x in (*projected(shape, device, dtype, seed), projected(shape, device, dtype, seed + 1)[0])
            )
            leaves = [x.requires_grad_() for x in (q, k, v)]
            taken = _taken(leaves, shape, told)
            got: dict[str, tuple[Tensor, ...]] = {}
            for kernel in taken:
                poison(q)
                with sdpa_kernel(KERNELS[kernel]):
                    out = scaled_dot_product_attention(q, k, v)
                    poison(q)
                    got[kernel] = (out.detach(), *torch.autograd.grad(out, leaves, grad))
            apart = {kernel: _rows_apart(got[kernel], _exact(q, k, v, grad)) for kernel in taken}
            for kernel, values in apart.items():
                before = worst.setdefault(kernel, [0.0, 0.0])
                worst[kernel] = [max(pair) for pair in zip(before, (values[0], max(values[1:])), strict=True)]
        for kernel, values in worst.items():
            for what, value, limit in zip(("forward", "backward"), values, limits, strict=True):
                table.hold("b", f"{kernel} to float64, {what}, {_short(dtype)}", value, limit)


def _taken(leaves: Sequence[Tensor], shape: Shape, told: set[str]) -> list[str]:
    """The kernels that take this; why others do not is printed once."""
    reasons = {kernel: refusal(kernel, leaves[0], leaves[1], leaves[2]) for kernel in KERNELS}
    for reason in reasons.values():
        if reason and reason not in told:
            print(f"b  {shape.name}, {_short(leaves[0].dtype)}: {reason}", flush=True)
            told.add(reason)
    return [kernel for kernel, reason in reasons.items() if not reason]


def _exact(q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[tuple[Tensor, ...]]:
    """Of each head the output and the gradients of q, k and v [sample, token, width] in float64, by the matrix."""
    heads: list[tuple[Tensor, ...]] = []
    for head in range(q.shape[1]):
        leaves = [x[:, head].detach().double().requires_grad_() for x in (q, k, v)]
        out = (leaves[0] @ leaves[1].mT * q.shape[-1] ** -0.5).softmax(-1) @ leaves[2]
        heads.append((out.detach(), *torch.autograd.grad(out, leaves, grad[:, head].double())))
    return heads


def _rows_apart(got: Sequence[Tensor], heads: Sequence[Sequence[Tensor]]) -> list[float]:
    """Of the output and of each gradient, the worst row's distance as a share of the mean row's length."""
    worst = [0.0] * len(got)
    for head, exact in enumerate(heads):
        for i, (ours, right) in enumerate(zip(got, exact, strict=True)):
            off = torch.linalg.vector_norm(ours[:, head].double() - right, dim=-1)
            share = off / torch.linalg.vector_norm(right, dim=-1).mean()
            worst[i] = max(worst[i], float(share.nan_to_num(math.inf).max()))
    return worst


def statistics_equal(device: str, shapes: Sequence[Shape], methods: Sequence[str], table: Table) -> None:
    """Each implementation of the statistics against the matrix in float64, at logits of unit size and of several hundred."""
    types = (torch.float32, torch.bfloat16) if is_gpu(device) else (torch.float32,)
    for dtype in types:
        for loud, limit in ((1.0, 1e-5), (150.0, 1e-3)):
            worst = dict.fromkeys(methods, 0.0)
            for shape in shapes:
                q, k, v = projected(shape, device, dtype, time.time_ns() % 2**31)
                call, out, tokens = call_of(loud * q, k, v, shape)
                right = _plain_by_head(call, out, tokens)
                for method in methods:
                    poison(q)
                    ours = attention_statistics(call, out, tokens, method)  # type: ignore[arg-type]  # of the table
                    worst[method] = max(worst[method], statistics_apart(ours, right))
            for method, value in worst.items():
                table.hold("b", f"{method} to float64, logits times {loud:g}, {_short(dtype)}", value, limit)


def _plain_by_head(call: FusedCall, out: Tensor, tokens: Tokens) -> list[Statistics]:
    """`plain` of each head."""
    return [
        attention_statistics(
            FusedCall.of((call.q[:, h : h + 1], call.k[:, h : h + 1], call.v[:, h : h + 1]), {}),
            out[:, h : h + 1],
            tokens,
            "plain",
        )
        for h in range(call.q.shape[1])
    ]


def statistics_apart(ours: Statistics, right: Sequence[Statistics]) -> float:
    """The largest relative difference of any statistic of any head."""
    worst = 0.0
    for field in fields(Statistics):
        a = getattr(ours, field.name)
        if isinstance(a, Tensor):
            b = torch.cat([getattr(head, field.name) for head in right], dim=1)
            share = (a - b).abs() / b.abs().clamp_min(1e-3)
            worst = max(worst, float(torch.where(a.isnan() & b.isnan(), 0, share).nan_to_num(math.inf).max()))
    return worst


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
