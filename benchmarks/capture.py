"""Capturing all taps of a small ViT into the store, against a plain forward pass of the same prepared images."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch
from torch.utils.data import default_collate

from diagnostics.extract import BATCH, extract
from diagnostics.store import plan, row_order

from _common import cpu, finish, images, verdict, vit_tiny

COUNT, ROUNDS = 512, 3


def main() -> None:
    encoder, dataset = vit_tiny(), images(COUNT)
    order = row_order(COUNT)
    size = BATCH["cpu"]

    def plain() -> float:
        # The same preparation and batches, so that only taps and store differ.
        start = cpu()
        with torch.inference_mode():
            for i in range(0, COUNT, size):
                batch = default_collate([encoder.preprocess(dataset[int(j)]) for j in order[i : i + size]])
                encoder.module.forward_features(batch)  # type: ignore[attr-defined]
        return cpu() - start

    def captured(budget: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            wanted = plan(encoder, encoder.taps, COUNT, budget, "float32")
            start = cpu()
            extract(encoder, dataset, Path(folder) / "run", wanted)
            return cpu() - start

    plain()
    ratios: list[float] = []
    pooled: list[float] = []
    for _ in range(ROUNDS):
        base, everything, only_pooled = plain(), captured(10**12), captured(0)
        print(f"plain {base:.2f} s, with all tokens {everything:.2f} s, pooled only {only_pooled:.2f} s of CPU")
        ratios.append(everything / base)
        pooled.append(only_pooled / base)
    finish(
        verdict(f"all {len(encoder.taps)} taps, all tokens, to plain forward, CPU", statistics.median(ratios), 1.05),
        verdict("pooled only to plain forward, CPU", statistics.median(pooled), 1.05),
    )


main()
