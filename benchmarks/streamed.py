"""Dense targets read from sums: passes, the sums' own products, memory and disk, of stubs in the shapes of PE-L and PE-G.

A stub of 25 taps x 577 x 1,024 (PE-L/14 at 336 pixels), or of 50 x 1,025 x 1,536 (PE-G), whose activations cost next to
nothing, so that what is left is what streaming costs (`PE-L` or `PE-G`: one alone). Each run is a process of its own. The products are counted beside
the same matrix products alone, in the same process.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import diagnostics as dx
from diagnostics import Dataset, Grid, Tap, Target, TorchEncoder
from diagnostics.activations.run_files import bytes_below
from diagnostics.encoders.taps import Site

from _common import ARGUMENTS, SMALLEST, apart, cpu, finish, verdict

# taps, cells of a side, features, limit of the peak in GB
SHAPES = {"PE-L": (25, 24, 1024, 2.0), "PE-G": (50, 32, 1536, 4.0)}
if SMALLEST:
    SHAPES = {"PE-L": (3, 4, 16, 2.0)}
FEW, MANY = (20, 40) if SMALLEST else (20, 60)
CLASSES, PIXELS = 5, 16


class Stub(nn.Module):
    """Every block adds a fixed pattern to one map of tokens."""

    def __init__(self, taps: int, tokens: int, features: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(1, tokens, features, generator=generator))
        self.into = nn.Parameter(torch.randn(1, features, generator=generator))
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(taps))
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        x = self.first + x.flatten(1).mean(1)[:, None, None] * self.into
        for block in self.blocks:
            x = block(x + 0.01)
        return x


def stub(taps: int, side: int, features: int) -> TorchEncoder:
    """The encoder, one prefix token before `side` x `side` cells."""
    module = Stub(taps, side * side + 1, features)
    grid = Grid((side, side), ("y", "x"), 1)
    places = [Tap(f"b.{i}", i / (taps - 1), "trunk", features, grid, Site(f"blocks.{i}")) for i in range(taps)]
    example = np.zeros((PIXELS, PIXELS), np.float32)
    return TorchEncoder("stub", "image", module, places, places[-1].name, torch.from_numpy, example)


def data(count: int) -> Dataset:
    """Images with a class and a value for each pixel."""
    rng = np.random.default_rng(0)
    targets = {
        "scene": Target("token_label", rng.integers(0, CLASSES, (count, PIXELS, PIXELS)), classes=tuple("abcde")),
        "depth": Target("token_value", rng.uniform(1, 2, (count, PIXELS, PIXELS))),
    }
    split = [("train", "train", "train", "val", "test")[i % 5] for i in range(count)]
    samples = rng.standard_normal((count, PIXELS, PIXELS)).astype(np.float32)
    return Dataset("noise", "image", samples, [f"s{i}" for i in range(count)], split, targets)


def streamed(name: str, count: int) -> dict[str, float]:
    """CPU seconds, passes a sample, peak in GB and bytes of a run; seconds of the products alone."""
    taps, side, features, _ = SHAPES[name]
    encoder = stub(taps, side, features)
    measures = ["linear_probe", "segmentation_probe"]
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"controls": False, "report": False, "batch_size": 4, "watch": dx.silent}
        started, wall = cpu(), time.perf_counter()
        run = dx.run(
            encoder,
            data(count),
            out=Path(folder) / "run",
            dense="streamed",
            measures=measures,
            choose_on="val",
            **options,
        )
        spent, wall = cpu() - started, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        bytes_, tokens = bytes_below(Path(folder) / "run"), len(run.store.token_files)
    x = torch.randn(side * side, features)
    started = cpu()
    for _ in range(3):
        (x.T @ x).double()
    products = (cpu() - started) / 3 * taps * count * 0.8
    return {
        "CPU": spent, "wall": wall, "passes": encoder.module.passes / count, "peak": peak, "bytes": bytes_,
        "token files": tokens, "products": products,
    }  # fmt: skip


def main() -> None:
    held: list[bool] = []
    for name in ARGUMENTS or SHAPES:
        *_, limit = SHAPES[name]
        few, many = (apart(streamed, name, count) for count in (FEW, MANY))
        each = (many["CPU"] - few["CPU"]) / (MANY - FEW)
        print(
            f"{name}: {few['CPU']:.0f} CPU-s for {FEW} images, {each:.2f} for each more, of which the sums' own products "
            f"are {many['products'] / MANY:.2f}; 5,000 images: {(few['CPU'] + each * (5000 - FEW)) / 3600:.1f} h beside "
            f"the passes; disk {many['bytes'] / 1e6:.0f} MB, {many['token files']:.0f} files of tokens"
        )
        held += [
            # What few passes more or less: the check that an encoder repeats itself, the example.
            verdict(f"{name}: passes an image", (many["passes"] * MANY - few["passes"] * FEW) / (MANY - FEW), 2.2),
            verdict(f"{name}: peak memory in GB, {MANY} images", many["peak"], limit),
            verdict(f"{name}: peak of {MANY} to {FEW} images", many["peak"] / few["peak"], 1.1),
            verdict(f"{name}: files of tokens", many["token files"], 0),
        ]
    finish(*held)


if __name__ == "__main__":
    main()
