"""What the standard suite costs of a wide encoder, beside a thin SVD of each tap's pooled values.

Taps of 1,536 features, 2,000 samples with a class and a value, tokens of 32 x 32 for 8 of them (what PE-G keeps); all in memory, so
that nothing is read. `--taps N` of them, 6 where nothing is said; `python benchmarks/wide.py --taps 50` is PE-G's depth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.apply import measure_all
from diagnostics.progress import Cost, Progress
from diagnostics.runs.setup import select_measures

from _common import ARGUMENTS, SMALLEST, cpu, finish, verdict

SAMPLES, WIDTH, SIDE, TOKEN_SAMPLES = (60, 16, 8, 4) if SMALLEST else (2000, 1536, 32, 8)
TAPS = int(ARGUMENTS[ARGUMENTS.index("--taps") + 1]) if "--taps" in ARGUMENTS else 2 if SMALLEST else 6
CLASSES, LIMIT = 10, 3.0


class Wide(Activations):
    """Directions of falling variance that all taps share, turned and with noise and a mean of its own at each."""

    poolings = ("mean",)
    token_samples = TOKEN_SAMPLES

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        common = rng.standard_normal((SAMPLES, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.4
        grid = Grid((SIDE, SIDE), ("y", "x"))
        self.taps = [Tap(f"b.{i}", (i + 1) / TAPS, "trunk", WIDTH, grid) for i in range(TAPS)]
        self.output_tap = self.taps[-1].name
        self.values, self.tokens = dict[str, np.ndarray](), dict[str, np.ndarray]()
        for tap in self.taps:
            turned = common @ np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
            noise = 0.5 * rng.standard_normal(turned.shape) + rng.standard_normal(WIDTH)
            self.values[tap.name] = (turned + noise).astype(np.float32)
            self.tokens[tap.name] = rng.standard_normal((TOKEN_SAMPLES, SIDE**2, WIDTH), dtype=np.float32)
        self.ids = self.groups = np.array([f"s{i}" for i in range(SAMPLES)], dtype=object)
        self.split = np.resize(np.array(["train", "train", "train", "val", "test"], dtype=object), SAMPLES)
        noisy = common[:, :CLASSES] + 0.3 * rng.standard_normal((SAMPLES, CLASSES))
        names = tuple(f"class {i}" for i in range(CLASSES))
        self.targets = {
            "kind": StoredTarget("kind", "label", noisy.argmax(axis=1), classes=names),
            "size": StoredTarget("size", "value", noisy[:, 0]),
        }

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return self.values[tap].astype(np.float64)

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        yield slice(0, TOKEN_SAMPLES), self.tokens[tap]

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        yield self.tokens[tap].reshape(TOKEN_SAMPLES, -1)


def main() -> None:
    data, spent = Wide(), defaultdict[str, float](float)
    now, since = "", cpu()

    def watch(event: Cost | Progress) -> None:
        nonlocal now, since
        spent[now] += cpu() - since
        now, since = event.now if isinstance(event, Progress) else "", cpu()

    start = cpu()
    for tap in data.taps:
        torch.linalg.svd(torch.from_numpy(data.pooled(tap.name)), full_matrices=False)
    decompositions = (cpu() - start) / TAPS
    measures, _ = select_measures(None)
    start = cpu()
    measured = measure_all(measures, data, data.targets, watch=watch)
    whole = (cpu() - start) / TAPS
    for key, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if key in measured.results:
            print(f"{key:24} {seconds / TAPS:6.2f} CPU-s a tap")
    print(f"all {whole:.2f} CPU-s a tap, a thin SVD {decompositions:.2f}")
    finish(verdict(f"standard suite to a thin SVD, {TAPS} taps, CPU", whole / decompositions, LIMIT))


if __name__ == "__main__":
    main()
