"""Peak memory of an extraction, of intervals, and of the standard suite.

The extraction is of 512 and of 4,096 images, each in a process of its own, same token budget; the intervals are those
of 12 taps over 20,000 test units, beyond their losses; the suite runs on the pooled values of 10 taps x 384 of 1,000
and of 8,000 samples, which are read from disk tap by tap.
"""

from __future__ import annotations

import resource
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.measures.apply import measure_all
from diagnostics.measures.statistics import profile_intervals
from diagnostics.runs.setup import select_measures

from _common import SMALLEST, apart, finish, images, verdict, vit_tiny

BUDGET = 256 * 10**6
FEW, MANY = (5, 10) if SMALLEST else (512, 4096)
UNITS = 200 if SMALLEST else 20_000
SHORT, TALL = (60, 120) if SMALLEST else (1000, 8000)
TAPS, WIDTH, CLASSES = (2, 16, 3) if SMALLEST else (10, 384, 10)


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


class OnDisk(Activations):
    """Pooled values of a variance that falls, turned at each tap, in a file a tap."""

    poolings = ("mean",)
    token_samples = 0

    def __init__(self, folder: str, count: int) -> None:
        self.folder = Path(folder)
        rng = np.random.default_rng(0)
        common = rng.standard_normal((count, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.4
        self.taps = [Tap(f"b.{i}", (i + 1) / TAPS, "trunk", WIDTH, Grid((1,), ("t",))) for i in range(TAPS)]
        self.output_tap = self.taps[-1].name
        for tap in self.taps:
            turned = common @ np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
            noisy = turned + 0.5 * rng.standard_normal(turned.shape)
            np.save(self.folder / f"{tap.name}.npy", noisy.astype(np.float32))
        self.ids = self.groups = np.array([f"s{i}" for i in range(count)], dtype=object)
        self.split = np.resize(np.array(["train", "train", "train", "val", "test"], dtype=object), count)
        names = tuple(f"class {i}" for i in range(CLASSES))
        kinds = (common[:, :CLASSES] + 0.3 * rng.standard_normal((count, CLASSES))).argmax(axis=1)
        self.targets = {
            "kind": StoredTarget("kind", "label", kinds, classes=names),
            "size": StoredTarget("size", "value", common[:, 0]),
        }

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return np.load(self.folder / f"{tap}.npy").astype(np.float64)


def of_measuring(data: OnDisk) -> float:
    """Of a process that measures what another one wrote, in MB."""
    measure_all(select_measures(None)[0], data, data.targets)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    peaks = {count: apart(peak, count) for count in (FEW, MANY)}
    print(", ".join(f"{count} images: {megabytes:.0f} MB" for count, megabytes in peaks.items()))
    measuring: dict[int, float] = {}
    for count in (SHORT, TALL):
        with tempfile.TemporaryDirectory() as folder:
            measuring[count] = apart(of_measuring, apart(OnDisk, folder, count))
    print(", ".join(f"measures of {count} samples: {megabytes:.0f} MB" for count, megabytes in measuring.items()))
    finish(
        verdict(f"peak memory, {MANY:,} to {FEW} images", peaks[MANY] / peaks[FEW], 1.05),
        # A miss: one tap in float64 is a twentieth of the smaller peak, and probes hold several copies.
        verdict(
            f"peak memory of the standard suite, {TALL:,} to {SHORT:,} samples", measuring[TALL] / measuring[SHORT], 1.1
        ),
        verdict(f"intervals over {UNITS:,} units, MB", apart(of_intervals), 20),
    )


if __name__ == "__main__":
    main()
