"""CKA of all pairs of 24 taps at n = 2048, with its null as users get it, beside their Gram matrices alone.

What the pairs take without their null is printed beside it. Then 5 taps with the permutations that CKA has beside 99, and how often
the best pair of unrelated runs passes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch

from diagnostics.activations.contract import Activations
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.arrays import centre
from diagnostics.measures.similarity.kernels import Cka

from _common import SMALLEST, cpu, finish, verdict

TAPS, ROWS, ROUNDS = (3, 40, 1) if SMALLEST else (24, 2048, 3)
NULL_ROWS, NULL_TAPS = (40, 3) if SMALLEST else (1000, 12)
FEW_TAPS, DRAWS = (3, 5) if SMALLEST else (5, 1000)


class Pooled(Activations):
    """Pooled noise in memory: nothing of what is timed is reading."""

    poolings: ClassVar[tuple[str, ...]] = ("mean",)  # type: ignore[misc]
    token_samples = 0

    def __init__(self, taps: int, rows: int, features: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
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

    def observation_arrays(self, name: str):  # type: ignore[no-untyped-def]
        raise NotImplementedError


class WithoutNull(Cka):
    """Cka without its permutations."""

    permutations = 0


class ManyPermutations(Cka):
    """Cka with as many permutations as it once had."""

    permutations = 99


def passed(draw: int) -> bool:
    """Whether the best of 16 pairs of taps of two unrelated runs is told from chance."""
    one, other = (Pooled(4, 16, 5, 2 * draw + i) for i in range(2))
    return bool(Cka().between(one, other, draw)["p"].min() <= 0.05)


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
    """CPU time of the measure to that of the Gram matrices, the median over rounds that take turns."""
    found = []
    for _ in range(ROUNDS):
        alone = seconds(lambda: grams(data))
        pairs = seconds(lambda: WithoutNull().compute(data, None, 0))
        found.append((seconds(lambda: Cka().compute(data, None, 0)), pairs, alone))
    whole, pairs, alone = (statistics.median(times) for times in zip(*found, strict=True))
    print(
        f"{TAPS} taps of {data.taps[0].features} features: {whole:.2f} s with {Cka.permutations} permutations, pairs without "
        f"them {pairs:.2f} s, {pairs / alone:.2f} of the Gram matrices alone ({alone:.2f} s); the null is "
        f"{(whole - pairs) / whole:.0%} of the whole",
        flush=True,
    )
    return whole / alone


def main() -> None:
    small, few = Pooled(NULL_TAPS, NULL_ROWS, 384), Pooled(FEW_TAPS, ROWS, 384)
    seconds(lambda: Cka().compute(small, None, 0))  # warms up
    many = seconds(lambda: ManyPermutations().compute(few, None, 0))
    level = statistics.mean(passed(draw) for draw in range(DRAWS))
    finish(
        verdict(
            f"CKA of {FEW_TAPS} taps to the same with 99 permutations, CPU",
            seconds(lambda: Cka().compute(few, None, 0)) / many,
            0.5,
        ),
        verdict(f"unrelated runs whose best pair passes, of {DRAWS}", level, 0.05 + 2 * (0.05 * 0.95 / DRAWS) ** 0.5),
        *(
            verdict(
                f"CKA of 24 taps with its null to their Gram matrices alone, {features} features, CPU",
                ratio(Pooled(TAPS, ROWS, features)),
                2,
            )
            for features in (768, 384)
        ),
        verdict(
            "CKA of 12 taps with its null, n = 1000, CPU seconds", seconds(lambda: Cka().compute(small, None, 0)), 6
        ),
    )


if __name__ == "__main__":
    main()
