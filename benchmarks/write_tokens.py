"""Writing tokens into the store, against a plain memory-mapped file on the same disk, both flushed to it."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from diagnostics import Dataset, Grid, Tap, Target
from diagnostics.activations.batches import ShardBuffers
from diagnostics.activations.extract import create
from diagnostics.activations.folder import Folder
from diagnostics.activations.plan import Plan

from _common import SMALLEST, finish, verdict

SAMPLES, WIDTH, SHARD, ROUNDS = (32, 16, 16, 1) if SMALLEST else (1024, 768, 64, 3)
TOKENS = 256


def flush(folder: Path) -> None:
    """Everything below a folder onto the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)


def mapped(folder: Path, block: np.ndarray) -> float:
    start = time.perf_counter()
    array = np.lib.format.open_memmap(folder / "a.npy", "w+", np.float32, (SAMPLES, TOKENS, WIDTH))
    for i in range(0, SAMPLES, SHARD):
        array[i : i + SHARD] = block
    array.flush()
    flush(folder)
    return time.perf_counter() - start


def stored(folder: Path, block: np.ndarray) -> float:
    tap = Tap("blocks.0", 1.0, "trunk", WIDTH, Grid((16, 16), ("y", "x")))
    wanted = Plan(SAMPLES, SAMPLES, SHARD, SAMPLES, "float32", ("mean",), (tap,), "blocks.0")
    split = np.resize(np.array(["train", "val", "test"], dtype=object), SAMPLES)
    dataset = Dataset(
        "none",
        "series",
        np.zeros((SAMPLES, 1)),
        [str(i) for i in range(SAMPLES)],
        split,
        {"y": Target("value", np.zeros(SAMPLES))},
    )
    pooled = block.mean(axis=1, keepdims=True)
    start = time.perf_counter()
    filled, tokens = ShardBuffers(wanted, SHARD), torch.from_numpy(block)
    store = create(Folder(folder / "run"), wanted, {}, {"blocks.0": (0.0, 1.0)}, dataset, {}, {})
    for step in wanted.steps(SHARD):
        filled.rows = 0
        filled.put_tokens(tap, tokens)
        filled.put_pooled(tap, torch.from_numpy(pooled))
        filled.rows = len(block)
        store.write(step, filled.tokens, filled.pooled)
    flush(folder)
    return time.perf_counter() - start


def main() -> None:
    block = np.random.default_rng(0).standard_normal((SHARD, TOKENS, WIDTH), dtype=np.float32)
    size = SAMPLES * TOKENS * WIDTH * 4 / 1e6
    ratios: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(dir=".") as one, tempfile.TemporaryDirectory(dir=".") as other:
            plain, ours = mapped(Path(one), block), stored(Path(other), block)
        print(f"memory map {size / plain:.0f} MB/s, store {size / ours:.0f} MB/s")
        ratios.append(plain / ours)
    finish(verdict("speed of writing tokens to a memory-mapped file's", statistics.median(ratios), 0.6, at_least=True))


if __name__ == "__main__":
    main()
