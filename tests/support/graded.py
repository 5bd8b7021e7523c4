"""Encoders whose every tap holds each target to a known degree: what a comparison must find is then known too.

A sample is a series of `STEPS` independent standard normal numbers; the first two are the targets `a` and `b`. At every
tap one feature is `gain * a + noise` and another `gain * b + noise`, so that the R2 of a linear probe is
gain^2 / (gain^2 + 1), and equal gains with equal noise are equal features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Dataset, Grid, Site, Tap, Target, TorchEncoder
from diagnostics.runs import job

STEPS = 16
GRID = Grid((1,), ("t",))


class Graded(nn.Module):
    """The two features of one tap, from the sample [B, STEPS].

    `noise` names the step that is the noise of the first, the next one is that of the second.
    """

    gains: Tensor

    def __init__(self, a: float, b: float, noise: int) -> None:
        super().__init__()
        self.register_buffer("gains", torch.tensor([a, b]))
        self.noise = noise

    def forward(self, raw: Tensor) -> Tensor:
        return (raw[:, :2] * self.gains + raw[:, self.noise : self.noise + 2])[:, None]


class Stages(nn.Module):
    def __init__(self, stages: Sequence[Graded]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, raw: Tensor) -> Tensor:
        return torch.stack([stage(raw) for stage in self.stages])


def graded_encoder(
    name: str,
    a: Sequence[float],
    b: Sequence[float],
    noise: Sequence[int] | int = 2,
    *,
    heads: int = 0,
    lineage: Mapping[str, Any] | None = None,
) -> TorchEncoder:
    """Taps `stage.0` ... at depths from 0 to 1 with these gains; the last `heads` ones are a head.

    The output is the last of the trunk.
    """
    noises = [noise] * len(a) if isinstance(noise, int) else noise
    module = Stages([Graded(*each) for each in zip(a, b, noises, strict=True)])
    trunk = len(a) - heads
    taps = [
        Tap(f"stage.{i}", i / (trunk - 1), "trunk" if i < trunk else "head", 2, GRID, Site(f"stages.{i}"))
        for i in range(len(a))
    ]
    encoder = TorchEncoder(name, "series", module, taps, f"stage.{trunk - 1}", example=np.zeros(STEPS, np.float32))
    return encoder.replace(lineage=dict(lineage or {}))


def graded_data(n: int = 600, seed: int = 0, *, sign: bool = False) -> Dataset:
    """Targets `a` and `b`, and where asked `sign`, the class that a's sign is."""
    samples = np.random.default_rng(seed).standard_normal((n, STEPS)).astype(np.float32)
    split = np.resize(["train"] * 6 + ["val"] * 2 + ["test"] * 2, n)
    targets = {
        "a": Target("value", samples[:, 0].astype(np.float64)),
        "b": Target("value", samples[:, 1].astype(np.float64)),
    }
    if sign:
        targets["sign"] = Target("label", (samples[:, 0] > 0).astype(np.int64), classes=("below", "above"))
    return Dataset("graded", "series", samples, [f"s{i}" for i in range(n)], list(split), targets)


@contextlib.contextmanager
def linear_alone() -> Generator[None]:
    """Leave out the kernel's reading beside `linear_probe`, which takes twice as long as all the rest of such a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "measure_nonlinear", lambda *_: None)
        yield


def known_r2(gain: float) -> float:
    """Of the linear probe, without the cost of fitting it."""
    return gain**2 / (gain**2 + 1)
