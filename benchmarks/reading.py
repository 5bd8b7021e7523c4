"""A wide encoder's pooled values on disk: files a tap, and the CPU time of reading them all once; and a ViT-S's tokens.

The layout is that of PE-G (50 taps of 1,536 features on 32 x 32 patches), 2,000 samples, no tokens kept; the values are
random. The store is written by `extract`. Rivals read the same bytes from one file in the same process: at once into one
array, which is the limit, and through a buffer of 4 MiB. Values are handed out as measures get them, in float64.

Tokens (12 taps of 197 x 384, 64 samples) are read by sample and by feature, once each, and tap by tap by as many measures as the standard
suite has that read them (`READERS`), beside a memory-mapped file a tap, which checks nothing. The memory map lies in the page cache,
but for one figure by the clock; a run's tokens are written and read past it, so that they come from the disk, once a tap.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
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
TOKENS = (4, 2, 5, 8) if SMALLEST else (64, 12, 197, 384)
"""Samples, taps, tokens and features of what tokens are read of."""
READERS = ("sample", "sample", "sample", "feature")


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


def write(path: Path, encoder: Encoder, samples: int, budget: int | None) -> None:
    split = np.resize(np.array(["train", "val", "test"], dtype=object), samples)
    dataset = Dataset(
        "none",
        "image",
        np.zeros((samples, 4, 4), np.uint8),
        [str(i) for i in range(samples)],
        split,
        {"y": Target("value", np.zeros(samples))},
    )
    extract(encoder, dataset, path, plan(encoder, encoder.taps, samples, budget, "float32"))


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


class Seen(Encoder):
    """Tokens that are the same for each sample, quickly made."""

    name, modality, output_tap = "seen", "image", f"blocks.{TOKENS[1] - 1}"
    taps = tuple(
        Tap(f"blocks.{i}", (i + 1) / TOKENS[1], "trunk", TOKENS[3], Grid((TOKENS[2],), ("t",)))
        for i in range(TOKENS[1])
    )
    identity, example, preprocess = Stub.identity, Stub.example, Stub.preprocess

    def capture(self, batch: Any, taps: Sequence[str] | None = None, reduce: Reduce = keep) -> dict[str, Any]:
        tokens = torch.randn(1, *TOKENS[2:], generator=torch.Generator().manual_seed(0)).expand(len(batch), -1, -1)
        return {tap.name: reduce(tap, tokens) for tap in self.taps}


def read_tokens(place: Store | Path, tap: str, by: str) -> None:
    """All tokens of a tap once, as measures get them."""
    if isinstance(place, Store):
        for _ in place.token_blocks(tap) if by == "sample" else place.feature_blocks(tap):
            pass
        return
    tokens = np.load(place / f"{tap}.npy", mmap_mode="r")
    step = 8 if by == "sample" else 16
    for first in range(0, tokens.shape[by == "feature"], step):
        np.array(tokens[first : first + step] if by == "sample" else tokens[:, first : first + step])


def forget(folder: Path) -> None:
    """Take the files of the memory maps out of the page cache."""
    for path in folder.glob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def of_tokens(folder: Path) -> list[bool]:
    write(folder / "tokens", Seen(), TOKENS[0], None)
    for tap in (store := Store(folder / "tokens")).taps:
        np.save(folder / f"{tap.name}.npy", np.concatenate([block for _, block in store.token_blocks(tap.name)]))
    taps, found = [tap.name for tap in store.taps], dict[str, list[float]]()
    for _ in range(ROUNDS):
        for name, readers in (
            ("by sample", READERS[:1]),
            ("by feature", READERS[-1:]),
            ("by all measures", READERS),
            ("by all measures, both from the disk", READERS),
        ):
            spent = list[tuple[float, float]]()
            if "disk" in name:
                forget(folder)
            for place in (folder, Store(folder / "tokens")):
                wall, start = time.perf_counter(), cpu()
                for tap in taps:
                    for by in readers:
                        read_tokens(place, tap, by)
                spent.append((time.perf_counter() - wall, cpu() - start))
            (wall, used), (our_wall, our_cpu) = spent
            if "disk" not in name:
                found.setdefault(f"tokens read {name}, of a memory map's speed, CPU", []).append(used / our_cpu)
            if len(readers) > 1:
                found.setdefault(f"tokens read {name}, of a memory map's speed, wall", []).append(wall / our_wall)
    goals = {"by feature": 0.6}
    return [
        verdict(
            what,
            statistics.median(ratios),
            next((goal for by, goal in goals.items() if by in what), 0.5),
            at_least=True,
        )
        for what, ratios in found.items()
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run, one = Path(folder) / "run", Path(folder) / "one"
        start = cpu()
        write(run, Stub(), SAMPLES, 0)
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
        tokens = of_tokens(Path(folder))
    ours, plain, buffered = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{size / 1e6:.0f} MB; medians of {ROUNDS}: store {ours:.3f}, one file {plain:.3f}, ", end="")
    print(f"one file through a buffer {buffered:.3f} CPU-s")
    finish(
        *tokens,
        verdict("files a tap", files, 12),
        verdict("reading all pooled values once, to the same bytes from one file, CPU", ours / plain, 3),
    )


if __name__ == "__main__":
    main()
