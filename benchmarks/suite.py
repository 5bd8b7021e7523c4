"""What the standard suite costs beyond extraction: 12 taps, 1,000 images, by measure; and `all` with --all.

Limit: the standard suite, measures and their observations, in under a minute of wall time on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import diagnostics as dx
from diagnostics.measuring import chosen_measures, measure_all
from diagnostics.store import Store

from _common import cpu, finish, verdict, vit_tiny

SAMPLES, CLASSES = 1000, 10


class Stripes:
    """Images of stripes whose spacing tells the class, under noise; made on demand."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        wave = np.sin(2 * np.pi * (index % CLASSES + 2) * np.arange(224) / 224 + rng.uniform(0, 2 * np.pi))
        noisy = 128 + 60 * wave[:, None, None] + rng.normal(0, 40, (224, 224, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)


def data() -> dx.Dataset:
    split = np.resize(np.array(["train", "train", "train", "val", "test"], dtype=object), SAMPLES)
    rng = np.random.default_rng(0)
    order = rng.permutation(SAMPLES)
    targets = {
        "kind": dx.Target("label", np.arange(SAMPLES) % CLASSES),
        "spacing": dx.Target("value", 1.0 / (np.arange(SAMPLES) % CLASSES + 2)),
    }
    ids = [f"stripes-{i}" for i in range(SAMPLES)]
    samples = Stripes()
    return dx.Dataset("stripes", "image", samples, ids, split[order], targets, fingerprint="stripes")  # type: ignore[arg-type]


def main() -> None:
    suite = "all" if "--all" in sys.argv else "standard"
    encoder = vit_tiny()
    # 12 taps: all blocks but two, embed and norm.
    taps = ["embed", *(f"blocks.{i}" for i in range(1, 11)), "norm"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        start = time.perf_counter()
        dx.run(encoder, data(), out=out, taps=taps, measures=["participation_ratio"], controls=False, report=False)
        print(f"extraction and one measure: {time.perf_counter() - start:.1f} s", flush=True)
        start, used = time.perf_counter(), cpu()
        run = dx.run(encoder, data(), out=out, taps=taps, measures=[suite], controls=False, report=False)
        wall = time.perf_counter() - start
        for what, why in run.skipped.items():
            print(f"left out: {what}: {why}")
        store = Store(out)
        measures, _ = chosen_measures([suite])
        for measure in measures:
            begun = cpu()
            measure_all([measure], store, store.targets(), 0)
            print(f"{measure.name:24} {cpu() - begun:7.2f} CPU-s", flush=True)
    print(f"suite {suite}: {wall:.1f} s wall, {cpu() - used:.1f} CPU-s with the second pass above")
    if suite == "standard":
        finish(verdict("standard suite beyond extraction, seconds of wall time", wall, 60))


main()
