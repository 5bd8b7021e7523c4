"""CPU time, limits and the model that several benchmarks share."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from diagnostics import Dataset, Encoder, Target
from diagnostics.activations.batches import keep_freed_memory

torch.set_num_threads(1)
threadpool_limits(1)
# What extraction asks of the allocator; here for the rivals too, whatever runs first.
keep_freed_memory()

MODEL = "timm:vit_tiny_patch16_224"
ROUNDS = 5
"""Of which the fastest counts."""


def cpu() -> float:
    """CPU seconds of this process so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def vit_tiny() -> Encoder:
    """The benchmark's model, with random weights: what it computes costs the same."""
    from diagnostics.specs import build

    return build("encoder", f"{MODEL}?pretrained=false")


class Noise:
    """Images made on demand, so that the data set itself takes no memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def images(count: int) -> Dataset:
    """Noise images with a label."""
    split = np.resize(np.array(["train", "train", "train", "val", "test"], dtype=object), count)
    labels = Target("label", np.arange(count) % 2, classes=("even", "odd"))
    ids = [f"noise-{i}" for i in range(count)]
    return Dataset("noise", "image", Noise(count), ids, split, {"label": labels}, fingerprint=f"noise {count}")  # type: ignore[arg-type]


def product_rate(device: str, wait: Callable[[], object]) -> float:
    """Operations a second of one product of large matrices in bf16."""
    side = 8192 if device == "cuda" else 1024
    x = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / timed(lambda: x @ x, time.perf_counter, wait)


def timed(work: Callable[[], object], clock: Callable[[], float], wait: Callable[[], object]) -> float:
    """The least seconds of several rounds, after two that warm up."""
    seconds: list[float] = []
    for i in range(ROUNDS + 2):
        start = clock()
        work()
        wait()
        if i > 1:
            seconds.append(clock() - start)
    return min(seconds)


def verdict(what: str, value: float, limit: float, *, at_least: bool = False) -> bool:
    """Prints one figure against its limit; True when it holds."""
    holds = value >= limit if at_least else value <= limit
    print(
        f"{'ok  ' if holds else 'MISS'} {what}: {value:.4g} ({'at least' if at_least else 'at most'} {limit:g})",
        flush=True,
    )
    return holds


def finish(*held: bool) -> None:
    """Exit status 0 when all limits held."""
    sys.exit(0 if all(held) else 1)
