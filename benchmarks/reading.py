"""A wide encoder's pooled values on disk: files a tap, and the CPU time of reading them all once.

The layout is that of PE-G (50 taps of 1,536 features on 32 x 32 patches), 2,000 samples, no tokens kept; the values are
random. The store is written by `extract`. Rivals read the same bytes from one file in the same process: at once into one
array, which is the limit, and through a buffer of 4 MiB. Values are handed out as measures get them, in float64.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diagnostics import Dataset, Encoder, Grid, Tap, Target
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan
from diagnostics.activations.store import Store
from diagnostics.encoders.encoder import Reduce, keep

from _common import SMALLEST, cpu, finish, verdict

SAMPLES, TAPS, WIDTH, ROUNDS = (20, 2, 32, 1) if SMALLEST else (2000, 50, 1536, 5)
SIDE = 32
MIB = 2**20


class Stub(Encoder):
    """Random values at each tap; one token stands for all 1,024, since only their mean is kept."""

    name, modality, output_tap = "stub", "image", f"blocks.{TAPS - 1}"
    taps = tuple(
        Tap(f"blocks.{i}", (i + 1) / TAPS, "trunk", WIDTH, Grid((SIDE, SIDE), ("y", "x"))) for i in range(TAPS)
    )

    @property
    def identity(self) -> Mapping[str, str]:
        return {"weights": "none", "configuration": "stub", "preprocessing": "none"}

    def example(self) -> np.ndarray:
        return np.zeros((4, 4), np.uint8)

    def preprocess(self, sample: np.ndarray) -> Any:
        return torch.zeros(1)

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        draws = torch.Generator().manual_seed(len(batch))
        return {tap.name: reduce(tap, torch.randn(len(batch), 1, WIDTH, generator=draws)) for tap in self.taps}


def write(path: Path) -> None:
    encoder = Stub()
    split = np.resize(np.array(["train", "val", "test"], dtype=object), SAMPLES)
    dataset = Dataset(
        "none",
        "image",
        np.zeros((SAMPLES, 4, 4), np.uint8),
        [str(i) for i in range(SAMPLES)],
        split,
        {"y": Target("value", np.zeros(SAMPLES))},
    )
    extract(encoder, dataset, path, plan(encoder, encoder.taps, SAMPLES, 0, "float32"))


def from_store(path: Path) -> float:
    """CPU seconds of reading every tap's pooled values through a store that was just opened."""
    store, start = Store(path), cpu()
    for tap in store.taps:
        store.pooled(tap.name)
    return cpu() - start


def from_one_file(path: Path) -> float:
    start = cpu()
    np.fromfile(path, np.float32)
    return cpu() - start


def through_a_buffer(path: Path) -> float:
    start, memory = cpu(), np.empty(4 * MIB, np.uint8)
    with path.open("rb", buffering=0) as file:
        while file.readinto(memory.data):
            pass
    return cpu() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run, one = Path(folder) / "run", Path(folder) / "one"
        start = cpu()
        write(run)
        print(f"extraction of the stub: {cpu() - start:.1f} CPU-s")
        files = max(
            sum(len(names) for _, _, names in os.walk(run / "taps" / tap))
            for tap in os.listdir(run / "taps")
            if (run / "taps" / tap).is_dir()
        )
        store = Store(run)
        with one.open("wb") as file:
            for tap in store.taps:
                file.write(store.pooled(tap.name).astype(np.float32).data)
        del store
        size = one.stat().st_size
        from_one_file(one)  # into the page cache: the rival's best case
        rounds = [(from_store(run), from_one_file(one), through_a_buffer(one)) for _ in range(ROUNDS)]
    ours, plain, buffered = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{size / 1e6:.0f} MB; medians of {ROUNDS}: store {ours:.3f}, one file {plain:.3f}, ", end="")
    print(f"one file through a buffer {buffered:.3f} CPU-s")
    finish(
        verdict("files a tap", files, 12),
        verdict("reading all pooled values once, to the same bytes from one file, CPU", ours / plain, 3),
    )


if __name__ == "__main__":
    main()
