"""CPU time, limits, `--smallest`, and the model that several benchmarks share."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.data import default_collate

from diagnostics import Dataset, Encoder, Progress, Target
from diagnostics.activations.plan import row_order
from diagnostics.activations.prepare import keep_freed_memory
from diagnostics.measures.statistics import Interval, Losses
from diagnostics.measures.verdict import paired_differences

torch.set_num_threads(1)
threadpool_limits(1)
# What extraction asks of the allocator; here for the rivals too, whatever runs first.
keep_freed_memory()

SMALLEST = "--smallest" in sys.argv
"""Only show that the script ends without error: at sizes of seconds, nothing compiled, and no limit is meant."""
ARGUMENTS = [argument for argument in sys.argv[1:] if argument != "--smallest"]
MODEL = "timm:vit_tiny_patch16_224"
ROUNDS, WARMING = (1, 0) if SMALLEST else (5, 2)
"""Rounds of which the fastest counts, and those before them."""


def cpu() -> float:
    """CPU seconds of this process so far, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def vit_tiny() -> Encoder:
    """The benchmark's model, with random weights: what it computes costs the same."""
    from diagnostics.specs import build

    return build("encoder", f"{MODEL}?pretrained=false")


def paired_difference(
    loss: np.ndarray,
    reference: np.ndarray,
    other_loss: np.ndarray,
    other_reference: np.ndarray,
    fit_units: int,
    share: bool = False,
) -> Interval:
    """`paired_differences` of one tap, from losses [unit] or [unit, part] in the same order; `share`: they count wrong answers."""
    ours, theirs = (Losses(x[None], y[None], share) for x, y in ((loss, reference), (other_loss, other_reference)))
    return paired_differences(ours, theirs, fit_units, 0)[0]


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


class BesideExtraction:
    """For `extract(watch=)`: each batch that is finished is prepared and passed through the bare model once more.

    So both see the same state of the machine. `preparing` and `forward` are CPU seconds.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset) -> None:
        self.encoder, self.dataset, self.order = encoder, dataset, row_order(len(dataset))
        self.seen, self.preparing, self.forward = 0, 0.0, 0.0

    def __call__(self, event: object) -> None:
        assert isinstance(event, Progress)
        start = cpu()
        rows = self.order[self.seen : event.done]
        batch = default_collate([self.encoder.preprocess(self.dataset[int(row)]) for row in rows])
        prepared = cpu()
        with torch.inference_mode():
            self.encoder.module.forward_features(batch)  # type: ignore[attr-defined]  (a module of timm)
        self.seen = event.done
        self.preparing += prepared - start
        self.forward += cpu() - prepared


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns in a process of its own, which is new: for peaks of memory.

    At the smallest size it is this one's copy, which imports nothing again.
    """
    context = multiprocessing.get_context("fork" if SMALLEST else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, *arguments).result()


def product_rate(device: str, wait: Callable[[], object]) -> float:
    """Operations a second of one product of large matrices in bf16."""
    side = 8192 if device == "cuda" else 64 if SMALLEST else 1024
    x = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return 2 * side**3 / timed(lambda: x @ x, time.perf_counter, wait)


def timed(work: Callable[[], object], clock: Callable[[], float], wait: Callable[[], object]) -> float:
    """The least seconds of several rounds, after those that warm up."""
    seconds: list[float] = []
    for i in range(ROUNDS + WARMING):
        start = clock()
        work()
        wait()
        if i >= WARMING:
            seconds.append(clock() - start)
    return min(seconds)


def verdict(what: str, value: float, limit: float, *, at_least: bool = False) -> bool:
    """Print one figure against its limit; True when it holds."""
    holds = value >= limit if at_least else value <= limit
    word = "    " if SMALLEST else "ok  " if holds else "MISS"
    print(f"{word} {what}: {value:.4g} ({'at least' if at_least else 'at most'} {limit:g})", flush=True)
    return holds or SMALLEST


def finish(*held: bool) -> None:
    """Exit status 0 when all limits held."""
    sys.exit(0 if all(held) else 1)
