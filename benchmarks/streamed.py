"""Dense targets read from sums: passes, the sums' own products, memory and disk, of stubs in the shapes of PE-L and PE-G.

A stub of 25 taps x 577 x 1,024 (PE-L/14 at 336 pixels), or of 50 x 1,025 x 1,536 (PE-G/14 at 448), whose activations cost next to
nothing, so that what is left is what streaming costs (`PE-L` or `PE-G`: one alone). Of PE-G 4 and 8 taps are run, and CPU time,
memory and disk of 50 follow from the difference. Each run is a process of its own. The products are counted beside
the same matrix products alone, in the same process. Passes out of fold, which do not depend on the shape, are counted on a small one.

`sets`: `tap_set` of 8 taps side by side in PE-L's shape, reckoned from taps of 256 and 512 features: products and memory grow with the
square, what is solved with the cube.
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
from diagnostics.activations.folder import Folder
from diagnostics.encoders.taps import Site

from _common import ARGUMENTS, SMALLEST, apart, cpu, finish, verdict

# taps, of which some are run, cells of a side, features, limit of the peak in GB
SHAPES = {"PE-L": (25, (25,), 24, 1024, 2.0), "PE-G": (50, (4, 8), 32, 1536, 4.0)}
TINY = (4, (3, 4), 4, 16, 2.0)
if SMALLEST:
    SHAPES = {"PE-L": TINY}
# taps, cells of a side, features run and reckoned, limit of the peak in GB
SETS = (3, 4, (8, 16), 32, 8.0) if SMALLEST else (8, 24, (256, 512), 1024, 8.0)
FEW, MANY = 10, 30
CLASSES, PIXELS = 5, 16
PROBES = ("linear_probe", "segmentation_probe")


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


def streamed(
    taps: int, side: int, features: int, count: int, choose_on: Any = "val", measures: Any = PROBES
) -> dict[str, float]:
    """CPU seconds, passes, peak in GB and bytes of a run; seconds of the products alone."""
    encoder = stub(taps, side, features)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"controls": False, "report": False, "batch_size": 4, "watch": dx.silent}
        started, wall = cpu(), time.perf_counter()
        run = dx.run(
            encoder,
            data(count),
            out=Path(folder) / "run",
            dense="streamed",
            measures=measures,
            choose_on=choose_on,
            **options,
        )
        spent, wall = cpu() - started, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        bytes_, tokens = Folder(Path(folder) / "run").size(), len(run.store.token_files)
    x = torch.randn(side * side, features)
    started = cpu()
    for _ in range(3):
        (x.T @ x).double()
    products = (cpu() - started) / 3 * taps * count * 0.8
    return {
        "CPU": spent, "wall": wall, "passes": encoder.module.passes, "peak": peak, "bytes": bytes_,
        "token files": tokens, "products": products,
    }  # fmt: skip


def passes(few: dict[str, float], many: dict[str, float]) -> float:
    """Pass of each further image: without those that check that an encoder repeats itself, and of the example."""
    return (many["passes"] - few["passes"]) / (MANY - FEW)


def sets() -> bool:
    """Print what `tap_set` costs at the size that is reckoned."""
    taps, side, (small, large), size, limit = SETS
    found = {
        (width, count): apart(streamed, taps, side, width, count, "fit", ("tap_set",))
        for width in (small, large)
        for count in (FEW, MANY)
    }
    each = (found[large, MANY]["CPU"] - found[large, FEW]["CPU"]) / (MANY - FEW)
    solved = found[large, FEW]["CPU"] - FEW * each
    grown = (size**2 - large**2) / (large**2 - small**2)
    peak, bytes_ = (
        found[large, MANY][of] + grown * (found[large, MANY][of] - found[small, MANY][of]) for of in ("peak", "bytes")
    )
    print(
        f"sets of {taps} taps of {large} features: {found[large, MANY]['peak']:.2f} GB, {each:.2f} CPU-s an image, {solved:.0f} "
        f"for what is solved of two targets; of {size}, reckoned: {each * (size / large) ** 2:.1f} and "
        f"{solved * (size / large) ** 3:.0f}, {bytes_ / 1e9:.2f} GB on disk"
    )
    return verdict(f"sets of {taps} taps of {size} features: peak memory in GB, reckoned", peak, limit)


def main() -> None:
    held: list[bool] = []
    if "sets" in ARGUMENTS or not ARGUMENTS:
        held.append(sets())
    for name in [name for name in ARGUMENTS if name != "sets"] if ARGUMENTS else SHAPES:
        taps, run, side, features, limit = SHAPES[name]
        few, many = (apart(streamed, run[-1], side, features, count) for count in (FEW, MANY))
        whole = dict(many)
        if run[-1] < taps:
            less = apart(streamed, run[0], side, features, MANY)
            share = (taps - run[-1]) / (run[-1] - run[0])
            whole |= {of: many[of] + share * (many[of] - less[of]) for of in ("CPU", "peak", "bytes", "products")}
        each = (many["CPU"] - few["CPU"]) / (MANY - FEW) * taps / run[-1]
        print(
            f"{name}, {taps} taps from {' and '.join(map(str, run))}: {whole['CPU']:.0f} CPU-s for {MANY} images, {each:.2f} for each "
            f"more, of which the sums' own products are {whole['products'] / MANY:.2f}; 5,000 images: "
            f"{(whole['CPU'] + each * (5000 - MANY)) / 3600:.1f} h beside the passes; disk {whole['bytes'] / 1e6:.0f} MB"
        )
        held += [
            verdict(f"{name}: passes an image, layers chosen on val", passes(few, many), 2.2),
            verdict(f"{name}: peak memory in GB, {MANY} images", whole["peak"], limit),
            verdict(f"{name}: peak of {MANY} to {FEW} images", many["peak"] / few["peak"], 1.1),
            verdict(f"{name}: files of tokens", many["token files"], 0),
        ]
    _, (_, taps), side, features, _ = TINY
    out_of_fold = [apart(streamed, taps, side, features, count, "fit") for count in (FEW, MANY)]
    held.append(verdict("passes an image, layers chosen out of fold", passes(*out_of_fold), 2.2))
    finish(*held)


if __name__ == "__main__":
    main()
