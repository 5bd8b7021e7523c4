"""Exact CKA of 12 x 12 taps from a store of 512 images of 197 x 192, against a forward pass and direct float64."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from diagnostics.extract import BATCH, extract
from diagnostics.registry import offered
from diagnostics.store import Store, plan

from _common import cpu, finish, images, verdict, vit_tiny

COUNT = 512
# 18 CPU-seconds where a plain forward pass takes 28.
LIMIT = 18 / 28


def forward_seconds(encoder, dataset) -> float:
    """CPU seconds of a plain forward pass over the images, preparation not counted."""
    seconds = 0.0
    for i in range(0, COUNT, BATCH["cpu"]):
        batch = default_collate([encoder.preprocess(dataset[j]) for j in range(i, min(i + BATCH["cpu"], COUNT))])
        start = cpu()
        with torch.inference_mode():
            encoder.module.forward_features(batch)
        seconds += cpu() - start
    return seconds


def direct(store: Store, tap: str, shift: float = 0.0) -> np.ndarray:
    """The U-centred Gram of a tap, all at once in float64 from the stored values."""
    x = np.concatenate(list(store.feature_blocks(tap)), axis=1) + shift
    x -= x.mean(axis=0)
    n = len(x)
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    row = gram.sum(axis=0) / (n - 2)
    centred = gram - row - row[:, None] + gram.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


def largest_difference(store: Store, matrix: np.ndarray, pairs: list[tuple[int, int]], shift: float = 0.0) -> float:
    names = [tap.name for tap in store.taps]
    worst = 0.0
    for i, j in pairs:
        k, m = direct(store, names[i], shift), direct(store, names[j], shift)
        worst = max(worst, abs(matrix[i, j] - (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())))
    return worst


def main() -> None:
    encoder, dataset = vit_tiny(), images(COUNT)
    blocks = [tap for tap in encoder.taps if tap.name.startswith("blocks.")]
    base = forward_seconds(encoder, dataset)
    with tempfile.TemporaryDirectory() as folder:
        store = extract(encoder, dataset, Path(folder) / "run", plan(encoder, blocks, COUNT, 10**12, "float32"))
        measure = offered("measure")["cka"][1]()
        start = cpu()
        matrix = measure.compute(store, None, 0)["matrix"].values
        seconds = cpu() - start
        print(f"plain forward {base:.1f} s, CKA {seconds:.1f} s of CPU, {matrix.shape[0]} taps, n = {COUNT}")
        pairs = [(0, 11), (3, 4), (5, 9), (11, 11)]
        off = largest_difference(store, matrix, pairs)
    # The same activations shifted by 1e4 before they are stored: what float32 then rounds away is gone for both.
    with tempfile.TemporaryDirectory() as folder:
        shifted = Shifted(encoder)
        store = extract(shifted, dataset, Path(folder) / "run", plan(shifted, blocks[:2], COUNT, 10**12, "float32"))
        matrix = measure.compute(store, None, 0)["matrix"].values
        off_shifted = largest_difference(store, matrix, [(0, 1), (0, 0)])
    finish(
        verdict("exact CKA of 12 x 12 taps to one forward pass, CPU", seconds / base, LIMIT),
        verdict("exact CKA, CPU seconds", seconds, 18),
        verdict("largest difference from direct float64", off, 1e-9),
        verdict("the same with every activation shifted by 1e4", off_shifted, 1e-9),
    )


class Shifted:
    """The encoder with 1e4 added to every activation."""

    def __init__(self, encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str):
        return getattr(self._encoder, name)

    def to(self, device: str):
        return self

    def capture(self, batch, taps, reduce):
        return self._encoder.capture(batch, taps, lambda tap, tokens: reduce(tap, tokens + 1e4))


main()
