"""Capturing all taps of a small ViT into the store, against plain forward passes of the same images, batch by batch.

Each batch that `extract` has finished is prepared and passed through the bare model once more, so both see the same state
of the machine; the ratio is all the CPU time of the extraction (taps, pooling, identity, writing) to that of these passes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

import torch
from torch.utils.data import default_collate

from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan, row_order
from diagnostics.encoders.devices import BATCH

from _common import cpu, finish, images, verdict, vit_tiny

COUNT, ROUNDS = 512, 3
KINDS = ((0, "float32"), (None, "float32"), (10**12, "float16"), (10**12, "float32"))


def ratio(budget: int, precision: str) -> tuple[float, float]:
    """CPU time of an extraction to that of plain passes, and the GB of tokens it wrote."""
    encoder, dataset, order = vit_tiny(), images(COUNT), row_order(COUNT)
    size, plain, seen = BATCH["cpu"], 0.0, 0

    def watch(event: object) -> None:
        nonlocal plain, seen
        start = cpu()
        batch = default_collate([encoder.preprocess(dataset[int(j)]) for j in order[seen : seen + size]])
        with torch.inference_mode():
            encoder.module.forward_features(batch)  # type: ignore[attr-defined]
        seen += size
        plain += cpu() - start

    with tempfile.TemporaryDirectory() as folder:
        wanted = plan(encoder, encoder.taps, COUNT, budget, precision)  # type: ignore[arg-type]
        start = cpu()
        extract(encoder, dataset, Path(folder) / "run", wanted, watch=watch)
        whole = cpu() - start
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
        print(f"budget {budget:,} bytes of {precision}: " + ", ".join(f"{r:.3f}" for r, _ in rounds))
    (pooled, _), (default, some), (half, half_size), (single, single_size) = (
        (statistics.median(r for r, _ in rounds), rounds[0][1]) for rounds in found.values()
    )
    for what, found, written in (("float16", half, half_size), ("float32", single, single_size)):
        print(
            f"all tokens as {what}, {written:.2f} GB: {found:.3f}; a bare write of it takes {bare_write(written):.2f} s"
        )
    finish(
        verdict("all taps pooled, no tokens, to plain forward, CPU", pooled, 1.05),
        verdict(f"all taps, default budget ({some:.2f} GB of tokens), to plain forward, CPU", default, 1.05),
    )


main()
