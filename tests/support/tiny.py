"""Small random-weight encoders and small datasets, in memory and made in milliseconds, for any test.

`tiny_encoder()` reads what `tiny_dataset()` holds, `tiny_image_encoder()` what `tiny_dataset(modality="image")` holds.
All are seeded: the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, DiagnosticsError, Grid, Target, TorchEncoder, stack_taps

LENGTH = 32
SIDE = 16
PATCH = 4
# Apart from the seeds of controls: `fresh(0)` of the encoder with seed 0 must not draw the same weights.
FIRST_SEED = 1000
LEVEL_IN_SERIES = 1.0
LEVEL_IN_PIXELS = 12.0
HEIGHT_IN_PIXELS = 40.0


class Block(nn.Module):
    """Residual block on [sample, token, feature]: a token sees itself and the mean of all, through an in-place ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.act = nn.ReLU(inplace=True)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.act(self.inner(x + x.mean(dim=1, keepdim=True))))


class Trunk(nn.Module):
    """`stem` (a convolution that cuts patches), prefix tokens, `blocks`, `norm`; `passes` counts its forward passes."""

    def __init__(self, stem: nn.Module, width: int, blocks: int, prefix: int = 0) -> None:
        super().__init__()
        self.stem = stem
        self.prefix = nn.Parameter(torch.randn(1, prefix, width)) if prefix else None
        self.blocks = nn.ModuleList([Block(width) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        x = self.stem(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def tiny_encoder(
    seed: int = 0,
    *,
    length: int = LENGTH,
    width: int = 8,
    blocks: int = 3,
    mean: float = 0.0,
    spread: float = 2.0,
    name: str = "tiny",
    **options: Any,
) -> TorchEncoder:
    """A series encoder: patches of 4 steps, `blocks` blocks, taps `embed`, `blocks.0` ..., `norm` (the output).

    Parameters
    ----------
    seed: of the weights.
    length: steps of a series, a multiple of 4; `sized_for` a sample of another length gives the same weights for that.
    mean, spread: constants of the preprocessing, `(series - mean) / spread`.
    options: handed to `TorchEncoder` (`fresh=`, `forward=`, `configuration=`, ...).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + seed)
        trunk = Trunk(nn.Conv1d(1, width, PATCH, PATCH), width, blocks)

    def for_length(length: int) -> TorchEncoder:
        def preprocess(sample: np.ndarray) -> Tensor:
            if np.shape(sample) != (length,):
                raise DiagnosticsError(f"it has shape {np.shape(sample)}, not ({length},).")
            return torch.from_numpy(((np.asarray(sample) - mean) / spread).astype(np.float32))[None]

        return TorchEncoder(
            name,
            "series",
            trunk,
            stack_taps("blocks", blocks, width, Grid((length // PATCH,), ("t",)), norm="norm"),
            "norm",
            preprocess,
            np.sin(np.arange(length, dtype=np.float32)),
            **{"sized_for": lambda sample: for_length(_fitting(len(sample))), **options},
        )

    return for_length(_fitting(length))


def _fitting(length: int) -> int:
    if length % PATCH:
        raise DiagnosticsError(f"a series of {length} steps cannot be cut into patches of {PATCH}: cut it first.")
    return length


def tiny_image_encoder(
    seed: int = 0,
    *,
    side: int = SIDE,
    width: int = 8,
    blocks: int = 3,
    prefix: int = 2,
    mean: float = 128.0,
    name: str = "tiny-image",
    **options: Any,
) -> TorchEncoder:
    """An image encoder: patches of 4 x 4 pixels on a 2-D grid after `prefix` tokens (class token, registers).

    Takes uint8 [side, side, 3] alone; preprocessing is `(image - mean) / 64`. Taps as `tiny_encoder`'s.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FIRST_SEED + seed)
        trunk = Trunk(nn.Conv2d(3, width, PATCH, PATCH), width, blocks, prefix)
    grid = Grid((side // PATCH, side // PATCH), ("y", "x"), prefix)

    def preprocess(sample: np.ndarray) -> Tensor:
        if np.shape(sample) != (side, side, 3):
            raise DiagnosticsError(f"it has shape {np.shape(sample)}, not {(side, side, 3)}: resize it first.")
        return torch.from_numpy((np.asarray(sample, dtype=np.float32) - mean) / 64).permute(2, 0, 1).contiguous()

    example = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return TorchEncoder(
        name,
        "image",
        trunk,
        stack_taps("blocks", blocks, width, grid, norm="norm"),
        "norm",
        preprocess,
        example,
        **options,
    )


def tiny_dataset(
    n: int = 24,
    modality: str = "series",
    *,
    seed: int = 0,
    length: int = LENGTH,
    side: int = SIDE,
    group_size: int = 1,
    name: str = "",
) -> Dataset:
    """`n` samples with the targets `kind` (`label`, 3 classes), `level` (`value`), and of images `height` (`token_value`).

    `level` is standard normal and added to all steps (times `LEVEL_IN_SERIES`) or pixels (times `LEVEL_IN_PIXELS`), so it
    is linear in the input. `height` [n, side, side] is a tilted plane between -1 and 1, added times `HEIGHT_IN_PIXELS`.
    `kind` decides the frequency of a wave. Splits are 3 : 1 : 1; `group_size` consecutive samples share a group.
    """
    rng = np.random.default_rng(seed)
    kind, level = np.arange(n) % 3, rng.standard_normal(n)
    phase = rng.uniform(0, 2 * np.pi, n)
    targets = {
        "kind": Target("label", kind, about="frequency of the wave", classes=("slow", "middle", "fast")),
        "level": Target("value", level, about="added to the whole sample"),
    }
    if modality == "series":
        wave = np.sin(2 * np.pi * (kind[:, None] * 2 + 1) * np.arange(length) / length + phase[:, None])
        noise = 0.2 * rng.standard_normal((n, length))
        samples = (0.5 * wave + noise + LEVEL_IN_SERIES * level[:, None]).astype(np.float32)
    elif modality == "image":
        across = np.linspace(-1, 1, side)
        tilt = rng.uniform(-0.5, 0.5, (n, 2))
        height = tilt[:, 0, None, None] * across[:, None] + tilt[:, 1, None, None] * across
        targets["height"] = Target("token_value", height, about="a tilted plane over the pixels")
        wave = np.sin(2 * np.pi * (kind[:, None] * 2 + 1) * np.arange(side) / side + phase[:, None])[:, None, :]
        grey = 128 + HEIGHT_IN_PIXELS * height + LEVEL_IN_PIXELS * level[:, None, None] + 10 * wave
        samples = grey[..., None] + 3 * rng.standard_normal((n, side, side, 3))
        samples = samples.round().clip(0, 255).astype(np.uint8)
    else:
        raise ValueError(f"no tiny samples of modality {modality}")
    group = np.arange(n) // group_size
    return Dataset(
        name or f"tiny-{modality}",
        modality,
        samples,
        [f"s{i}" for i in range(n)],
        [("train", "val", "train", "test", "train")[g % 5] for g in group],
        targets,
        groups=[f"g{g}" for g in group],
    )


def counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """The function, and a list whose only entry counts its calls."""
    calls = [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return function(*args, **kwargs)

    return counting, calls
