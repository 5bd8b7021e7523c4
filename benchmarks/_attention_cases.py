"""What every part of `attention.py` shares: shapes, inputs, clocks, and the table that is printed last."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from diagnostics.encoders.attention import Tokens
from diagnostics.encoders.attention.capture import FusedCall
from diagnostics.encoders.taps import Grid, Tap


@dataclass(frozen=True)
class Shape:
    """One attention: a grid of tokens behind `prefix` others."""

    name: str
    grid: tuple[int, int]
    prefix: int
    heads: int
    width: int

    @property
    def tokens(self) -> int:
        return self.prefix + math.prod(self.grid)

    @property
    def samples(self) -> int:
        """As many as have 16,384 tokens together, which fill a GPU."""
        return max(1, 2**14 // self.tokens)


SHAPES = (
    Shape("B/16 at 224", (14, 14), 1, 12, 64),
    Shape("L/14 at 336", (24, 24), 1, 16, 64),
    Shape("G/14 at 448", (32, 32), 0, 16, 96),
    Shape("a clip", (64, 64), 0, 16, 64),
    Shape("a large image", (128, 128), 0, 16, 64),
)
ON_CPU = (SHAPES[0], Shape("1,025 tokens", (32, 32), 1, 16, 64), SHAPES[3])
SMALL = (Shape("64 tokens", (8, 8), 1, 4, 32), Shape("60 wide tokens", (6, 10), 0, 2, 96))
"""Where each element is computed in Python: under triton's interpreter."""


LONG = 10.0
"""Seconds."""


@dataclass
class Table:
    """Lines of a verdict, part, what, figure and goal."""

    ceiling: float = math.nan
    """FLOP/s of the product of part (a)."""

    lines: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    failed: int = 0

    def note(self, part: str, what: str, figure: str) -> None:
        """A figure without a goal."""
        self._add("", part, what, figure, "")

    def hold(self, part: str, what: str, value: float, limit: float, *, at_least: bool = False) -> None:
        """A figure against its goal; NaN misses it."""
        holds = value >= limit if at_least else value <= limit
        self._add(
            "ok" if holds else "MISS", part, what, f"{value:.3g}", f"{'at least' if at_least else 'at most'} {limit:g}"
        )

    def fail(self, part: str, error: Exception) -> None:
        """A part that could not be done."""
        self.failed += 1
        self._add("MISS", part, f"fails: {type(error).__name__}: {str(error).strip().splitlines()[0][:100]}", "", "")

    def _add(self, *line: str) -> None:
        self.lines.append(line)  # type: ignore[arg-type]  # five of them
        print("  ".join(filter(None, line)), flush=True)

    @property
    def missed(self) -> int:
        return sum(line[0] == "MISS" for line in self.lines)

    def __str__(self) -> str:
        widths = [max(len(line[i]) for line in self.lines) for i in range(5)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in self.lines
        )


def is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def projected(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0, samples: int = 1) -> tuple[Tensor, ...]:
    """q, k and v [sample, head, token, width] as a model makes them: views of one projection."""
    draw = torch.Generator(device).manual_seed(seed)
    drawn = torch.randn(samples, shape.tokens, 3, shape.heads, shape.width, generator=draw, device=device, dtype=dtype)
    return drawn.permute(2, 0, 3, 1, 4).unbind()


def call_of(q: Tensor, k: Tensor, v: Tensor, shape: Shape) -> tuple[FusedCall, Tensor, Tokens]:
    """The call that a model makes with these, what torch gives for it, and its tokens."""
    tap = Tap("a", 1, "trunk", 8, Grid(shape.grid, ("y", "x"), shape.prefix))
    return FusedCall.of((q, k, v), {}), scaled_dot_product_attention(q, k, v), Tokens.of(tap, None, q.device)


def poison(like: Tensor) -> None:
    """Fill memory that is given back at once with NaN, so that a number which nobody wrote shows."""
    for shape in (like.shape, like.shape[:-1], (2**10,), (2**16,), (2**22,)):
        for dtype in (like.dtype, torch.float32):
            held = [torch.full(shape, math.nan, dtype=dtype, device=like.device) for _ in range(4)]
            del held


def in_turn(runs: dict[str, Callable[[int], Any]], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each after a first call, all of them in every round.

    Each is given the number of the round, so that it can rotate its inputs. What has taken `LONG` in three rounds or
    more is left out of the others.
    """
    for run in runs.values():
        run(0)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name, run in runs.items():
            if i < 3 or sum(times[name]) < LONG:
                times[name].append(_seconds(lambda run=run, i=i: run(i), device))
    return {name: statistics.median(all_of) for name, all_of in times.items()}


def _seconds(run: Callable[[], Any], device: str) -> float:
    """CPU time of one call, or on a GPU the time between two of its events."""
    if not is_gpu(device):
        start = time.process_time()
        run()
        return time.process_time() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    run()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def extra_memory(run: Callable[[], Any], device: str) -> int:
    """Bytes beyond what was there: the allocator's peak on a GPU, and on a CPU what torch's profiler sees at once."""
    if is_gpu(device):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = most = 0
    events: Sequence[Any] = seen.profiler.kineto_results.events()  # type: ignore[union-attr]  # set once it has run
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def milliseconds(took: dict[str, float]) -> str:
    """Times in one line."""
    return ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in took.items()) + " ms"
