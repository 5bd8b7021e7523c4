"""Peak memory of an extraction of 512 and of 4,096 images, each in a process of its own, same token budget."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan

from _common import SMALLEST, apart, finish, images, verdict, vit_tiny

BUDGET = 256 * 10**6
FEW, MANY = (5, 10) if SMALLEST else (512, 4096)


def peak(count: int) -> float:
    """Of a process that extracts so many images, in MB."""
    encoder = vit_tiny()
    with tempfile.TemporaryDirectory() as folder:
        extract(encoder, images(count), Path(folder) / "run", plan(encoder, encoder.taps, count, BUDGET, "float32"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    peaks = {count: apart(peak, count) for count in (FEW, MANY)}
    print(", ".join(f"{count} images: {megabytes:.0f} MB" for count, megabytes in peaks.items()))
    finish(verdict(f"peak memory, {MANY:,} to {FEW} images", peaks[MANY] / peaks[FEW], 1.05))


if __name__ == "__main__":
    main()
