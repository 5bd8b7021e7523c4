"""(a) What the card can do at most, (c) time and memory of attention and of its statistics, (d) time of RoPE beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from _attention_cases import Shape, Table, call_of, extra_memory, in_turn, is_gpu, milliseconds, projected
from _attention_equality import KERNELS, refusal
from torch import Tensor
from torch.nn.attention import sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from diagnostics.encoders.attention import IMPLEMENTATIONS, Statistics, Tokens
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.attention.statistics import of_matrix

SHORT = 1100
"""Tokens of the longest sequence whose matrix is timed in float64."""
CACHE = 2**28
"""Bytes of all inputs together, which no GPU's cache holds."""


def ceilings(device: str, table: Table, side: int = 8192, copied: int = 2 * 10**9) -> None:
    """(a) A product of square matrices in bf16, whose FLOP/s the table keeps, and a copy of that many bytes."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.zeros(copied // 2, device=device, dtype=torch.bfloat16) for _ in range(2))
    took = in_turn({"product": lambda _: a @ b, "copy": lambda _: target.copy_(source)}, device, 20)
    table.ceiling = rate = 2 * side**3 / took["product"]
    table.note("a", f"bf16 product of {side:,}", f"{rate / 1e12:.3g} TFLOP/s")
    table.note("a", f"copy of {copied / 1e9:g} GB, read and written", f"{2 * copied / took['copy'] / 1e9:.3g} GB/s")
    return rate


def time_attention(device: str, shape: Shape, methods: Sequence[str], rounds: int, table: Table) -> None:
    """(c) Forward, forward with backward, and the statistics."""
    gpu = is_gpu(device)
    dtype, samples = (torch.bfloat16, shape.samples) if gpu else (torch.float32, 1)
    each = 4 * samples * shape.heads * shape.tokens * shape.width * dtype.itemsize
    # A CPU's own inputs are read many times over in one call.
    copies = max(2, min(64, CACHE // each)) if gpu else 1
    inputs = [projected(shape, device, dtype, seed, samples) for seed in range(copies)]
    grad = projected(shape, device, dtype, copies, samples)[0]
    taken = [kernel for kernel in KERNELS if not refusal(kernel, *inputs[0])]

    def forward(kernel: str, i: int) -> Tensor:
        with torch.no_grad(), sdpa_kernel(KERNELS[kernel]):
            return scaled_dot_product_attention(*inputs[i % copies])

    def both(kernel: str, i: int) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in inputs[i % copies]]
        with sdpa_kernel(KERNELS[kernel]):
            return torch.autograd.grad(scaled_dot_product_attention(*leaves), leaves, grad)

    at = f"{shape.tokens:,} tokens"
    passes: dict[str, Callable[[int], Any]] = {}
    for kernel in taken:
        passes[kernel] = lambda i, kernel=kernel: forward(kernel, i)
        passes[f"{kernel} with backward"] = lambda i, kernel=kernel: both(kernel, i)
    took = in_turn(passes, device, rounds)
    calls = [call_of(*x, shape) for x in inputs]
    reading: dict[str, Callable[[int], Any]] = {
        method: lambda i, method=method: IMPLEMENTATIONS[method](*calls[i % copies]) for method in methods
    }  # type: ignore[index]  # names of the table
    if shape.tokens <= SHORT:
        reading["plain" if gpu else "matrix"] = lambda i: (IMPLEMENTATIONS["plain"] if gpu else by_matrix)(
            *calls[i % copies]
        )
    with torch.no_grad():
        took_reading = in_turn(reading, device, rounds)
        memory = {method: extra_memory(lambda run=reading[method]: run(0), device) for method in methods}
    extra = ", ".join(f"{method} {size / 2**20:.3g} MiB extra" for method, size in memory.items())
    of = f"{at}, {samples} x {shape.heads} heads of {shape.width}"
    print(f"c  {of}: {milliseconds(took | took_reading)}; {extra}", flush=True)

    fused = min((kernel for kernel in taken if kernel != "math"), key=lambda kernel: took[kernel], default="")
    if fused and "math" in taken:
        ratio = took["math with backward"] / took[f"{fused} with backward"]
        goals = {577: 3.0, 1024: 4.0} if gpu else {}
        _against(table, f"math to {fused}, forward and backward, {at}", ratio, goals.get(shape.tokens), at_least=True)
    for method in methods if fused else ():
        goal = 4.0 if gpu and method == "triton" and shape.tokens >= 1024 else None
        _against(table, f"{method} to {fused}'s forward, {at}", took_reading[method] / took[fused], goal)
    if "matrix" in took_reading:
        table.hold(
            "c",
            f"blocks to the matrix, {at}",
            took_reading["blocks"] / took_reading["matrix"],
            1.1 if shape.tokens < 1000 else 0.6,
        )
    if shape.tokens == 4096 and not gpu:
        table.hold("c", f"extra memory of blocks, {at}, MiB", memory["blocks"] / 2**20, 64)
    if "triton" in methods:
        if shape.tokens == 1024:
            table.hold("c", f"plain to triton, {at}", took_reading["plain"] / took_reading["triton"], 20, at_least=True)
        table.hold("c", f"extra memory of triton to q, k, v and out, {at}", memory["triton"] / each, 1)


def _against(table: Table, what: str, ratio: float, goal: float | None, *, at_least: bool = False) -> None:
    if goal is None:
        table.note("c", what, f"{ratio:.3g}")
    else:
        table.hold("c", what, ratio, goal, at_least=at_least)


def by_matrix(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    """What was done before: the matrix in the type to compute in, checked, then reduced in float64."""
    every = slice(None)
    weights = call.weights(every)
    call.error(weights, out, every)
    return of_matrix(weights[..., tokens.grid, :], tokens.prefix, tokens.places.double())


def time_rope(device: str, shapes: Sequence[Shape], rounds: int, table: Table, compiles: bool = True) -> None:
    """(d) Queries and keys turned as timm's attention does it, as it is and compiled, beside the attention that follows."""
    from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat

    dtype = torch.bfloat16 if is_gpu(device) else torch.float32
    for shape in shapes:
        q, k, v = projected(shape, device, dtype, samples=shape.samples if is_gpu(device) else 1)
        rope = RotaryEmbeddingCat(
            shape.width, in_pixels=False, feat_shape=list(shape.grid), ref_feat_shape=list(shape.grid)
        )
        table_of_angles: Tensor = rope.to(device).get_embed()

        def turn(q: Tensor, k: Tensor, angles: Tensor = table_of_angles, prefix: int = shape.prefix) -> list[Tensor]:
            # As `timm.layers.AttentionRope.forward` has it.
            return [
                torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], angles)], dim=2).type_as(x)
                for x in (q, k)
            ]

        runs: dict[str, Callable[[int], Any]] = {
            "attention": lambda _, x=(q, k, v): scaled_dot_product_attention(*x),
            "eager": lambda _, turn=turn, q=q, k=k: turn(q, k),
        }
        if compiles and (compiled := compiled_or_none(turn, lambda turn, q=q, k=k: turn(q, k))):
            runs["compiled"] = lambda _, turn=compiled, q=q, k=k: turn(q, k)
        with torch.no_grad():
            took = in_turn(runs, device, rounds)
        for how in ("eager", "compiled"):
            if how in took:
                table.note(
                    "d",
                    f"RoPE of timm, {how}, to the attention, {shape.tokens:,} tokens",
                    f"{took[how] / took['attention']:.3g}",
                )


def compiled_or_none(
    function: Callable[..., Any], use: Callable[[Callable[..., Any]], Any]
) -> Callable[..., Any] | None:
    """The function compiled, which happens as it is used; None, with a line that says why, where it cannot be."""
    torch._dynamo.reset()
    try:
        compiled = torch.compile(function)
        use(compiled)
    except Exception as error:  # a compiler that is missing, or that does not know the card
        print(f"torch.compile fails: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
        return None
    return compiled


def interpreted() -> bool:
    """Whether triton's kernels would run under its interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"
