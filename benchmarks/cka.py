"""Exact CKA of 12 x 12 taps of two models on 512 images of 197 x 192: capture and comparison.

Beside them stand two bare forward passes, direct float64, torch-cka and, where it is installed, pytorch-cka (the `cka`
of PyPI's pytorch-cka).

Each batch that `extract` has finished is passed through the bare model once more, in the same process with the
same allocator; the rivals' bare passes likewise run in the rival's process. What
is counted is CPU time without preparing images: extraction into a store of all tokens, reading it again, and the matrix (the
median of three times; the store is read past the page cache each time). The rivals have no null, so it is left out of the
first limit and in the second, which is what users of this package pay. Each package runs in a process of its own, for its
peak memory; torch-cka on fewer images, its batches being alike.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import resource
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from diagnostics import Encoder
from diagnostics.activations.extract import extract
from diagnostics.activations.plan import plan
from diagnostics.activations.store import Store
from diagnostics.encoders.modules import BATCH
from diagnostics.measures.similarity.kernels import Cka

from _common import SMALLEST, BesideExtraction, apart, cpu, finish, images, verdict, vit_tiny

COUNT, RIVAL_COUNT, RIVAL_BATCH, ROUNDS = (5, 5, 5, 1) if SMALLEST else (512, 64, 64, 3)
FEW, SHIFTED = (5, 5) if SMALLEST else (64, 128)
"""Images that warm up, and those whose activations are shifted."""
LAYERS = [*(f"blocks.{i}" for i in range(1, 12)), "norm"]


class WithoutNull(Cka):
    """Cka without its permutations."""

    permutations = 0


@dataclass
class Spent:
    """CPU seconds: bare forward passes, and extractions without preparing images."""

    forward: float = 0.0
    extract: float = 0.0


def peak() -> float:
    """The process's peak memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def captured(encoder: Encoder, path: Path, spent: Spent, count: int = COUNT, taps: int = 12) -> Store:
    """A store of all tokens of the last taps, and what it took."""
    dataset = images(count)
    beside = BesideExtraction(encoder, dataset)
    last = [tap for tap in encoder.taps if tap.name in LAYERS][-taps:]
    start = cpu()
    store = extract(encoder, dataset, path, plan(encoder, last, count, 10**12, "float32"), watch=beside)
    spent.extract += cpu() - start - beside.forward - 2 * beside.preparing
    spent.forward += beside.forward
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


def encoders() -> list[Encoder]:
    """The two models."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(vit_tiny())
    return made


def bare(modules: list[Any], batch: torch.Tensor) -> float:
    """CPU seconds of forward passes in the batches that `extract` takes."""
    start = cpu()
    with torch.inference_mode():
        for module in modules:
            for part in batch.split(BATCH["cpu"]):
                module.forward_features(part)
    return cpu() - start


def ours() -> dict[str, Any]:
    """What this package takes, and how far it is from direct float64."""
    models, measure, spent = encoders(), WithoutNull(), Spent()
    with tempfile.TemporaryDirectory() as folder:
        captured(models[0], Path(folder) / "warm", Spent(), FEW)
        first, second = (captured(encoder, Path(folder) / str(i), spent) for i, encoder in enumerate(models))
        times, matrix = [], np.empty(0)
        for _ in range(ROUNDS):
            start = cpu()
            matrix = measure.between(first, second, 0)["matrix"].values
            times.append(cpu() - start)
        compare, memory = statistics.median(times), peak()
        start = cpu()
        Cka().between(first, second, 0)
        with_null = cpu() - start
        off = largest_difference(first, second, matrix, [(0, 11), (3, 4), (11, 11)])
    # The same activations shifted by 1e4 before they are stored: what float32 then rounds away is gone for both.
    with tempfile.TemporaryDirectory() as folder:
        shifted = captured(Shifted(models[0]), Path(folder) / "run", Spent(), SHIFTED, taps=2)  # type: ignore[arg-type]  (what a pass asks of it, and no more)
        of_shifted = measure.compute(shifted, None, 0)["matrix"].values
        off_shifted = largest_difference(shifted, shifted, of_shifted, [(0, 1), (0, 0)])
    print(
        f"two bare forward passes {spent.forward:.1f} s of CPU, extraction {spent.extract:.1f} s, "
        f"CKA of {matrix.shape[0]} x {matrix.shape[1]} taps {compare:.1f} s, with its null {with_null:.1f} s; "
        f"n = {COUNT}, peak memory {memory:.2f} GB",
        flush=True,
    )
    return {
        "ratio": (spent.extract + compare) / spent.forward,
        "paid": (spent.extract + with_null) / spent.forward,
        "memory": memory,
        "off": off,
        "off_shifted": off_shifted,
        "matrix": matrix.tolist(),
    }


def torch_cka() -> dict[str, Any]:
    """CPU time of torch-cka to that of two bare forward passes of the same images."""
    from torch_cka import CKA

    models, dataset = encoders(), images(RIVAL_COUNT)
    batch = default_collate([models[0].preprocess(dataset[j]) for j in range(RIVAL_COUNT)])
    modules = [encoder.module for encoder in models]  # type: ignore[attr-defined]
    alone = bare(modules, batch)
    start = cpu()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        theirs = CKA(*modules, "first", "second", LAYERS, list(LAYERS))
        theirs.compare(DataLoader(TensorDataset(batch), batch_size=RIVAL_BATCH))
    return {"ratio": (cpu() - start) / alone, "memory": peak()}


class Batches:
    """All images in batches made on demand, each passed through the bare models before it is handed over."""

    def __init__(self, models: list[Encoder], modules: list[Any]) -> None:
        self.encoder, self.modules = models[0], modules
        self.prepare = self.forward = 0.0

    def __len__(self) -> int:
        return COUNT // RIVAL_BATCH

    def __iter__(self) -> Iterator[torch.Tensor]:
        # The images of a run of ours, in another order.
        dataset = images(COUNT)
        for i in range(len(self)):
            start = cpu()
            rows = range(i * RIVAL_BATCH, (i + 1) * RIVAL_BATCH)
            batch = default_collate([self.encoder.preprocess(dataset[j]) for j in rows])
            self.prepare += cpu() - start
            self.forward += bare(self.modules, batch)
            yield batch


def pytorch_cka() -> dict[str, Any] | None:
    """The same of pytorch-cka on all images; None where it is not installed."""
    # This file bears its name: what lies beside this file is imported already.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    if importlib.util.find_spec("cka") is None:
        return None
    package = importlib.import_module("cka")
    models = encoders()
    modules = [encoder.module for encoder in models]  # type: ignore[attr-defined]
    batches = Batches(models, modules)
    start = cpu()
    (matrix,) = package.compute_cka(*modules, batches, layers=LAYERS, device="cpu", progress=False)
    spent = cpu() - start - batches.prepare - batches.forward
    return {"ratio": spent / batches.forward, "memory": peak(), "matrix": matrix.tolist()}


def main() -> None:
    found, first, second = (apart(part) for part in (ours, torch_cka, pytorch_cka))
    print(
        f"torch-cka on {RIVAL_COUNT} images in one batch of {RIVAL_BATCH}, an estimate: {first['ratio']:.2f} of its two bare "
        f"passes, peak memory {first['memory']:.2f} GB"
    )
    held = [
        verdict("capture and exact CKA of two models to two bare forward passes, CPU", found["ratio"], 1.15),
        verdict("the same with its null", found["paid"], 1.15),
        verdict("without it, to torch-cka's share", found["ratio"] / first["ratio"], 1),
        verdict("largest difference from direct float64", found["off"], 1e-7),
        verdict("the same with every activation shifted by 1e4", found["off_shifted"], 1e-7),
    ]
    if second is None:
        print("pytorch-cka is not installed (`pip install pytorch-cka`), so nothing is compared with it")
    else:
        off = np.abs(np.array(found["matrix"]) - np.array(second["matrix"])).max()
        print(
            f"pytorch-cka on {COUNT} images in batches of {RIVAL_BATCH}, an estimate, off by up to {off:.3f}: "
            f"{second['ratio']:.2f} of its two bare passes"
        )
        held.append(verdict("peak memory to pytorch-cka's", found["memory"] / second["memory"], 1))
    finish(*held)


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


if __name__ == "__main__":
    main()
