"""Peak memory of an extraction of 512 and of 4,096 images, each in a process of its own, same token budget; and of the intervals of
12 taps over 20,000 test units, beyond their losses."""

from __future__ import annotations

import resource
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan
from diagnostics.measures.statistics import profile_intervals

from _common import SMALLEST, apart, finish, images, verdict, vit_tiny

BUDGET = 256 * 10**6
FEW, MANY = (5, 10) if SMALLEST else (512, 4096)
UNITS = 200 if SMALLEST else 20_000


def peak(count: int) -> float:
    """Of a process that extracts so many images, in MB."""
    encoder = vit_tiny()
    with tempfile.TemporaryDirectory() as folder:
        extract(encoder, images(count), Path(folder) / "run", plan(encoder, encoder.taps, count, BUDGET, "float32"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_intervals() -> float:
    """Largest memory that the intervals of answers hold, in MB."""
    wrong = np.random.default_rng(0).integers(0, 2, (12, UNITS)).astype(np.float64)
    tracemalloc.start()
    profile_intervals(wrong, np.ones_like(wrong), UNITS, 0, share=True)
    return tracemalloc.get_traced_memory()[1] / 1e6


def main() -> None:
    peaks = {count: apart(peak, count) for count in (FEW, MANY)}
    print(", ".join(f"{count} images: {megabytes:.0f} MB" for count, megabytes in peaks.items()))
    finish(
        verdict(f"peak memory, {MANY:,} to {FEW} images", peaks[MANY] / peaks[FEW], 1.05),
        verdict(f"intervals over {UNITS:,} units, MB", apart(of_intervals), 20),
    )


if __name__ == "__main__":
    main()
