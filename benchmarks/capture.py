"""Capturing all taps of a small ViT into the store, against plain forward passes of the same images, batch by batch.

The ratio is all the CPU time of the extraction (taps, pooling, identity, writing) to that of passes beside it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan

from _common import SMALLEST, BesideExtraction, cpu, finish, images, verdict, vit_tiny

COUNT, ROUNDS = (5, 1) if SMALLEST else (512, 3)
KINDS = ((0, "float32"), (None, "float32"), (10**12, "float16"), (10**12, "float32"))


def ratio(budget: int, precision: str) -> tuple[float, float]:
    """CPU time of an extraction to that of plain passes, and the GB of tokens it wrote."""
    encoder, dataset = vit_tiny(), images(COUNT)
    beside = BesideExtraction(encoder, dataset)
    with tempfile.TemporaryDirectory() as folder:
        wanted = plan(encoder, encoder.taps, COUNT, budget, precision)  # type: ignore[arg-type]
        start = cpu()
        extract(encoder, dataset, Path(folder) / "run", wanted, watch=beside)
        whole = cpu() - start
    plain = beside.preparing + beside.forward
    return (whole - plain) / plain, wanted.token_bytes / 1e9


def bare_write(gigabytes: float) -> float:
    """CPU seconds of writing so many bytes to new files and nothing else."""
    block = os.urandom(2**23)
    with tempfile.TemporaryDirectory() as folder:
        start = cpu()
        for i in range(round(gigabytes * 1e9 / len(block))):
            (Path(folder) / str(i)).write_bytes(block)
        return cpu() - start


def main() -> None:
    ratio(0, "float32")  # warms up
    found = {key: [ratio(*key) for _ in range(ROUNDS)] for key in KINDS}
    for (budget, precision), rounds in found.items():
        tokens = "the default budget" if budget is None else f"a budget of {budget:,} bytes"
        print(f"{tokens} of {precision}: " + ", ".join(f"{r:.3f}" for r, _ in rounds))
    (pooled, _), (default, some), (half, half_size), (single, single_size) = (
        (statistics.median(r for r, _ in rounds), rounds[0][1]) for rounds in found.values()
    )
    for what, taken, written in (("float16", half, half_size), ("float32", single, single_size)):
        print(
            f"all tokens as {what}, {written:.2f} GB: {taken:.3f}; a bare write of it takes {bare_write(written):.2f} s"
        )
    finish(
        verdict("all taps pooled, no tokens, to plain forward, CPU", pooled, 1.05),
        verdict(f"all taps, default budget ({some:.2f} GB of tokens), to plain forward, CPU", default, 1.05),
    )


if __name__ == "__main__":
    main()
