"""Similarity of all pairs of 24 taps at n = 2048 beside their Gram matrices alone, and what its null adds."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch

from diagnostics.activations import Activations
from diagnostics.measures.arrays import centre
from diagnostics.measures.similarity.kernels import Cka
from diagnostics.taps import Grid, Tap

from _common import cpu, finish, verdict

TAPS, ROWS, ROUNDS = 24, 2048, 5
NULL_ROWS, NULL_TAPS = 1000, 12


class Pooled(Activations):
    """Pooled noise in memory: nothing of what is timed is reading."""

    poolings: ClassVar[tuple[str, ...]] = ("mean",)  # type: ignore[misc]
    token_samples = 0

    def __init__(self, taps: int, rows: int, features: int) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {f"tap{i}": rng.normal(size=(rows, features)) for i in range(taps)}
        self.taps = [Tap(name, 0.0, "trunk", features, Grid((1,), ("t",))) for name in self.arrays]
        self.output_tap = self.taps[-1].name
        self.ids = self.groups = np.array([f"s{i}" for i in range(rows)], dtype=object)
        self.split = np.full(rows, "train", dtype=object)

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return self.arrays[tap]

    def token_blocks(self, tap: str):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def feature_blocks(self, tap: str):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def observed(self, name: str):  # type: ignore[no-untyped-def]
        raise NotImplementedError


class WithoutNull(Cka):
    """Cka without its permutations."""

    permutations = 0


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = cpu()
    work()
    return cpu() - start


def grams(data: Pooled) -> None:
    """The Gram matrices alone, as cheaply as one may write them: centred, by BLAS's symmetric product, one triangle."""
    from scipy.linalg.blas import dsyrk

    for x in data.arrays.values():
        dsyrk(1.0, centre(torch.from_numpy(x)).numpy().T, trans=1, lower=1)


def ratio(data: Pooled) -> float:
    """CPU time of all pairs without a null to that of the Gram matrices, the median over rounds that take turns."""
    found = []
    for _ in range(ROUNDS):
        alone = seconds(lambda: grams(data))
        found.append((seconds(lambda: WithoutNull().compute(data, None, 0)), alone))
    ours, alone = (statistics.median(times) for times in zip(*found, strict=True))
    print(f"{TAPS} taps of {data.taps[0].features} features: pairs {ours:.2f} s, Gram matrices alone {alone:.2f} s")
    return ours / alone


def main() -> None:
    wide = Pooled(TAPS, ROWS, 768)
    ratio(wide)  # warms up
    ratios = {features: ratio(Pooled(TAPS, ROWS, features)) for features in (384, 768)}
    null = seconds(lambda: Cka().compute(wide, None, 0)) - seconds(lambda: WithoutNull().compute(wide, None, 0))
    print(f"its null, {Cka.permutations} permutations of {TAPS} taps at n = {ROWS}: {null:.1f} s more")
    small = Pooled(NULL_TAPS, NULL_ROWS, 384)
    finish(
        verdict("all pairs of 24 taps to their Gram matrices alone, 768 features, CPU", ratios[768], 2),
        verdict("the same, 384 features", ratios[384], 2),
        verdict(
            "CKA of 12 taps with its null, n = 1000, CPU seconds", seconds(lambda: Cka().compute(small, None, 0)), 6
        ),
    )


main()
