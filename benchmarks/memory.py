"""Peak memory of an extraction of 512 and of 4,096 images, each in a process of its own, same token budget."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan

from _common import finish, images, verdict, vit_tiny

BUDGET = 256 * 10**6


def one(count: int) -> None:
    """The child: extract, then print the peak in MB."""
    encoder = vit_tiny()
    with tempfile.TemporaryDirectory() as folder:
        extract(encoder, images(count), Path(folder) / "run", plan(encoder, encoder.taps, count, BUDGET, "float32"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    peaks = {
        count: float(subprocess.run([sys.executable, __file__, str(count)], check=True, capture_output=True).stdout)
        for count in (512, 4096)
    }
    print(", ".join(f"{count} images: {peak:.0f} MB" for count, peak in peaks.items()))
    finish(verdict("peak memory, 4,096 to 512 images", peaks[4096] / peaks[512], 1.05))


one(int(sys.argv[1])) if len(sys.argv) > 1 else main()
