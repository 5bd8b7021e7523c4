"""Statistics of attention without its matrix, checked and timed in one call, on a GPU or the CPU.

Needs torch, and triton where there is a GPU; opens no store. First equality with float64 on fresh random inputs, outputs
poisoned with NaN before; then time and extra memory beside the kernel's own forward pass and the matrix. Ratios are of one
process, both sides in turn: CPU time on a CPU, events on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from diagnostics.encoders.attention_statistics import IMPLEMENTATIONS, Statistics, Tokens, attention_statistics
from diagnostics.encoders.attention_statistics.matrix import of_matrix
from diagnostics.encoders.fused_attention import FusedCall
from diagnostics.encoders.taps import Grid, Tap

SHAPES = {
    "B/16 at 224": ((14, 14), 1, 12, 64),
    "L/14 at 336": ((24, 24), 1, 16, 64),
    "G/14 at 448": ((32, 32), 0, 16, 96),
    "1,025 tokens": ((32, 32), 1, 16, 64),
    "a clip": ((64, 64), 0, 16, 64),
    "a large image": ((128, 128), 0, 16, 64),
}
"""Grid, prefix tokens, heads and width of a head; one sample."""
ON_CPU = ("B/16 at 224", "1,025 tokens", "a clip")
HELD: list[bool] = []


def verdict(what: str, value: float, limit: float, *, at_least: bool = False) -> None:
    """Prints one figure against its goal, and remembers whether it holds."""
    holds = value >= limit if at_least else value <= limit
    HELD.append(holds)
    print(
        f"{'ok  ' if holds else 'MISS'} {what}: {value:.4g} ({'at least' if at_least else 'at most'} {limit:g})",
        flush=True,
    )


def inputs(name: str, device: str, dtype: torch.dtype, seed: int = 0) -> tuple[FusedCall, Tensor, Tokens]:
    """A call as a model makes it: q, k and v are views of one projection."""
    grid, prefix, heads, width = SHAPES[name]
    draw = torch.Generator(device).manual_seed(seed)
    count = prefix + math.prod(grid)
    q, k, v = torch.randn(1, count, 3, heads, width, generator=draw, device=device, dtype=dtype).permute(2, 0, 3, 1, 4)
    tap = Tap("a", 1, "trunk", 8, Grid(grid, ("y", "x"), prefix))
    return FusedCall.of((q, k, v), {}), scaled_dot_product_attention(q, k, v), Tokens.of(tap, None, q.device)


def by_matrix(call: FusedCall, out: Tensor, tokens: Tokens) -> Statistics:
    """What was done before: the matrix in the type to compute in, checked, then reduced in float64."""
    every = slice(None)
    weights = call.weights(every)
    call.error(weights, out, every)
    return of_matrix(weights[..., tokens.grid, :], tokens.prefix, tokens.places.double())


def poison(device: str) -> None:
    """Fills memory that is given back at once with NaN, so that a number which nobody wrote shows."""
    for size in (2**16, 2**20, 2**24):
        torch.full((size,), math.nan, device=device)


def apart(found: Statistics, right: Statistics) -> float:
    """The largest relative difference of any statistic."""
    worst = 0.0
    for field in fields(Statistics):
        a, b = getattr(found, field.name), getattr(right, field.name)
        if isinstance(a, Tensor):
            share = (a - b).abs() / b.abs().clamp_min(1e-3)
            worst = max(worst, float(torch.where(a.isnan() & b.isnan(), 0, share).nan_to_num(math.inf).max()))
    return worst


def seconds(run: Callable[[], Any], device: str) -> float:
    """One call's: CPU time, or between two events of a GPU."""
    if device == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def in_turn(runs: dict[str, Callable[[int], Any]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them in every round; a round's number is given, so that inputs can be rotated."""
    for run in runs.values():
        run(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(lambda run=run, i=i: run(i), device))
    return {name: statistics.median(all_of) for name, all_of in times.items()}


def extra_memory(run: Callable[[], Any], device: str) -> float:
    """MiB beyond what was there: the allocator's peak on a GPU, and on a CPU what torch's profiler sees at once."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 2**20


def ceilings(device: str) -> None:
    """(a) Of the card: a bf16 product and a copy."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    source, target = (torch.empty(2**30, device=device, dtype=torch.bfloat16) for _ in range(2))
    took = in_turn({"product": lambda _: a @ b, "copy": lambda _: target.copy_(source)}, device, 20)
    print(
        f"ceilings: {2 * 8192**3 / took['product'] / 1e12:.0f} TFLOP/s in bf16, {2 * 2**31 / took['copy'] / 1e9:.0f} GB/s"
    )


def equal(device: str, names: list[str], methods: list[str]) -> None:
    """(b) Every implementation against float64."""
    for name in names:
        # Logits of unit size, and of several hundred.
        for loud, limit in ((1.0, 1e-5), (150.0, 1e-3)):
            call, out, tokens = inputs(name, device, torch.float32, seed=int(time.time()))
            call.q.mul_(loud)
            out = scaled_dot_product_attention(call.q, call.k, call.v)
            right = attention_statistics(call, out, tokens, "plain")
            for method in methods:
                poison(device)
                found = attention_statistics(call, out, tokens, method)  # type: ignore[arg-type] # names of the table
                verdict(f"{method} apart from float64, {name}, logits times {loud:g}", apart(found, right), limit)


def timed(device: str, names: list[str], methods: list[str], rounds: int) -> None:
    """(c) Time and memory at each shape."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for name in names:
        q = inputs(name, device, dtype)[0].q
        each = 4 * q.numel() * q.element_size()
        # Beyond the cache of a GPU; a CPU's own inputs are read many times over.
        copies = 1 if device == "cpu" else max(2, min(64, 2**28 // each))
        calls = [inputs(name, device, dtype, seed) for seed in range(copies)]
        tokens = calls[0][0].shape[-1]
        runs: dict[str, Callable[[int], Any]] = {
            "forward": lambda i, calls=calls: scaled_dot_product_attention(
                *(getattr(calls[i % len(calls)][0], x) for x in "qkv")
            )
        }
        if tokens <= 1100:
            runs["matrix"] = lambda i, calls=calls: by_matrix(*calls[i % len(calls)])
        if device != "cpu" and tokens <= 1100:
            runs["plain"] = lambda i, calls=calls: IMPLEMENTATIONS["plain"](*calls[i % len(calls)])
        for method in methods:
            runs[method] = lambda i, method=method, calls=calls: IMPLEMENTATIONS[method](*calls[i % len(calls)])
        took = in_turn(runs, device, rounds if tokens <= 1100 else max(1, rounds // 10))
        memory = {m: extra_memory(lambda m=m, calls=calls: IMPLEMENTATIONS[m](*calls[0]), device) for m in methods}
        print(
            f"{name}, {tokens} tokens: " + ", ".join(f"{what} {1e3 * value:.4g} ms" for what, value in took.items()) + "; "
            + ", ".join(f"{method} {value:.1f} MiB extra" for method, value in memory.items()), flush=True,
        )  # fmt: skip
        if device == "cpu":
            if "matrix" in took:
                verdict(
                    f"blocks to the matrix, CPU time, {tokens} tokens",
                    took["blocks"] / took["matrix"],
                    1.1 if tokens < 1000 else 0.6,
                )
            if tokens == 4096:
                verdict("extra memory of blocks at 4,096 tokens and 16 heads, MiB", memory["blocks"], 64)
        elif "triton" in methods:
            if tokens >= 1024:
                verdict(f"triton to flash's forward, {tokens} tokens", took["triton"] / took["forward"], 4)
                verdict(
                    f"extra memory of triton to q, k, v and out, {tokens} tokens", memory["triton"] * 2**20 / each, 1
                )
            if tokens == 1024:
                verdict("plain to triton, 1,024 tokens", took["plain"] / took["triton"], 20, at_least=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=0, help="of timing; by default 50 on a GPU, 10 on a CPU")
    given = parser.parse_args()
    device: str = given.device
    torch.set_num_threads(1)
    methods = ["blocks"]
    if device != "cpu" and importlib.util.find_spec("triton"):
        methods.append("triton")
        ceilings(device)
    names = list(ON_CPU if device == "cpu" else SHAPES)
    with torch.no_grad():
        equal(device, [name for name in names if math.prod(SHAPES[name][0]) <= 1100], methods)
        timed(device, names, methods, given.rounds or (10 if device == "cpu" else 50))
    seen = f"torch {torch.__version__}"
    if importlib.util.find_spec("triton"):
        from importlib.metadata import version

        seen += f", triton {version('triton')}"
    if device != "cpu":
        seen += f", CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
    print(f"{seen}; {sum(HELD)} of {len(HELD)} goals held")
    sys.exit(0 if all(HELD) else 1)


main()
