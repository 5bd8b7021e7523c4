"""Exact CKA of 12 x 12 taps of two models on 512 images of 197 x 192: capture and comparison, against two bare forward
passes, direct float64 and torch-cka.

Each batch that `extract` has finished is prepared and passed through the bare model once more, so both see the same state of
the machine. What is counted is CPU time without preparing images: extraction into a store of all tokens, reading it again,
and the matrix; the permutation null is counted apart. torch-cka runs on fewer images, its batches being alike.
"""

from __future__ import annotations

import contextlib
import io
import resource
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from diagnostics import Encoder
from diagnostics.extract import BATCH, extract
from diagnostics.measures.similarity.kernels import Cka
from diagnostics.store import Store, plan, row_order

from _common import cpu, finish, images, verdict, vit_tiny

COUNT, RIVAL_COUNT, RIVAL_BATCH = 512, 64, 64


class WithoutNull(Cka):
    """Cka without its permutations."""

    permutations = 0


@dataclass
class Spent:
    """CPU seconds: preparing images once, bare forward passes, and extractions without preparing."""

    prepare: float = 0.0
    forward: float = 0.0
    extract: float = 0.0


def peak() -> float:
    """The process's peak memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def captured(encoder: Encoder, path: Path, spent: Spent, count: int = COUNT, taps: int = 12) -> Store:
    """A store of all tokens of the blocks, and what it took."""
    dataset, order, size, seen = images(count), row_order(count), BATCH["cpu"], 0
    prepare = forward = 0.0

    def watch(event: object) -> None:
        nonlocal prepare, forward, seen
        start = cpu()
        batch = default_collate([encoder.preprocess(dataset[int(j)]) for j in order[seen : seen + size]])
        prepared = cpu()
        with torch.inference_mode():
            encoder.module.forward_features(batch)  # type: ignore[attr-defined]
        prepare, forward, seen = prepare + prepared - start, forward + cpu() - prepared, seen + size

    blocks = [tap for tap in encoder.taps if tap.name.startswith("blocks.")][:taps]
    start = cpu()
    store = extract(encoder, dataset, path, plan(encoder, blocks, count, 10**12, "float32"), watch=watch)
    spent.extract += cpu() - start - forward - 2 * prepare
    spent.forward += forward
    spent.prepare += prepare
    return store


def direct(store: Store, tap: str) -> np.ndarray:
    """The U-centred Gram of a tap, all at once in float64 from the stored values."""
    x = np.concatenate(list(store.feature_blocks(tap)), axis=1).astype(np.float64)
    x -= x.mean(axis=0)
    n = len(x)
    gram = x @ x.T
    np.fill_diagonal(gram, 0)
    row = gram.sum(axis=0) / (n - 2)
    centred = gram - row - row[:, None] + gram.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0)
    return centred


def largest_difference(first: Store, second: Store, matrix: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    worst = 0.0
    for i, j in pairs:
        k, m = direct(first, first.taps[i].name), direct(second, second.taps[j].name)
        worst = max(worst, abs(matrix[i, j] - (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())))
    return worst


def rival(encoders: list[Encoder]) -> float:
    """CPU time of torch-cka to that of two bare forward passes of the same images in the batches that `extract` takes."""
    from torch_cka import CKA

    dataset = images(RIVAL_COUNT)
    batch = default_collate([encoders[0].preprocess(dataset[j]) for j in range(RIVAL_COUNT)])
    modules = [encoder.module for encoder in encoders]  # type: ignore[attr-defined]
    start = cpu()
    with torch.inference_mode():
        for module in modules:
            for part in batch.split(BATCH["cpu"]):
                module.forward_features(part)
    bare = cpu() - start
    layers = [f"blocks.{i}" for i in range(12)]
    start = cpu()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = CKA(*modules, "first", "second", layers, list(layers))
        theirs.compare(DataLoader(TensorDataset(batch), batch_size=RIVAL_BATCH))
    return (cpu() - start) / bare


def main() -> None:
    encoders = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoders.append(vit_tiny())
    measure, spent = WithoutNull(), Spent()
    with tempfile.TemporaryDirectory() as folder:
        captured(encoders[0], Path(folder) / "warm", Spent(), 64)
        first, second = (captured(encoder, Path(folder) / str(i), spent) for i, encoder in enumerate(encoders))
        start = cpu()
        matrix = measure.between(first, second, 0)["matrix"].values
        compare = cpu() - start
        ours = peak()
        start = cpu()
        Cka().between(first, second, 0)
        with_null = cpu() - start
        off = largest_difference(first, second, matrix, [(0, 11), (3, 4), (11, 11)])
    print(
        f"two bare forward passes {spent.forward:.1f} s of CPU, extraction {spent.extract:.1f} s, "
        f"CKA of {matrix.shape[0]} x {matrix.shape[1]} taps {compare:.1f} s, with its null {with_null:.1f} s; "
        f"n = {COUNT}, peak memory {ours:.2f} GB"
    )
    # The same activations shifted by 1e4 before they are stored: what float32 then rounds away is gone for both.
    with tempfile.TemporaryDirectory() as folder:
        shifted = captured(Shifted(encoders[0]), Path(folder) / "run", Spent(), 128, taps=2)  # type: ignore[arg-type]
        matrix = measure.compute(shifted, None, 0)["matrix"].values
        off_shifted = largest_difference(shifted, shifted, matrix, [(0, 1), (0, 0)])
    theirs = rival(encoders)
    print(
        f"torch-cka on {RIVAL_COUNT} images in one batch of {RIVAL_BATCH}, an estimate: {theirs:.2f} of its two bare passes, "
        f"peak memory {peak():.2f} GB"
    )
    ratio = (spent.extract + compare) / spent.forward
    finish(
        verdict("capture and exact CKA of two models to two bare forward passes, CPU", ratio, 1.15),
        verdict("the same to torch-cka's share", ratio / theirs, 1),
        verdict("largest difference from direct float64", off, 1e-7),
        verdict("the same with every activation shifted by 1e4", off_shifted, 1e-7),
    )


class Shifted:
    """The encoder with 1e4 added to every activation."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str):
        return getattr(self._encoder, name)

    def to(self, device: str):
        return self

    def capture(self, batch, taps, reduce):
        return self._encoder.capture(batch, taps, lambda tap, tokens: reduce(tap, tokens + 1e4))


main()
