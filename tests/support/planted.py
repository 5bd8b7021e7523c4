"""Encoders in which each tap has one known property, and the samples that show it.

`planted_image_encoder()` reads `planted_images()`, `planted_series_encoder()` reads `planted_series()`. The taps of
either are one trunk's: a common representation, and modules that each do one thing to a copy of it, so that what one
of them destroys is there again at the next. With `planted=False` no module does anything, and all taps are equal.
"""

from __future__ import annotations

import hashlib
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diagnostics import Dataset, Grid, Site, Tap, Target, TorchEncoder

SIDE = 8
FEATURES = 23
"""No multiple of the side: gradients tell an axis of places from one of channels by what the grid divides."""
CELLS = SIDE * SIDE
GROUPS = 80
STEPS, VARIATES = 16, 6
OBJECT = 3
"""Side of the square object in cells."""

# What each channel of an image holds; `PLACE` is added by the encoder.
CLASS, VALUE, CAPTION, FIELD = slice(0, 3), 3, slice(4, 10), slice(10, 16)
THING, PLACE = 16, slice(20, 22)
DEPTH = 10
"""The first channel of the field, whose values at each cell are a target."""

STRIPE = 2
"""The column of the grid that `striped` fills with global tokens of `FAR_OUT` times the median norm."""
FAR_OUT = 20.0
CONSTANT, OFFSET = 5, 30.0
"""The feature that `offset` raises, and by how much."""
STAR = 27
"""The grid token that one head of `offset` looks at."""


def _orthogonal(seed: int, size: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.linalg.qr(rng.standard_normal((size, size)))[0]).float()


def _seed(sample: Tensor) -> int:
    """A number from the bytes of a sample: what looks random depends on the sample alone, not on its batch."""
    return int.from_bytes(hashlib.sha256(sample.detach().cpu().numpy().tobytes()).digest()[:7], "little")


def _generators(raw: Tensor) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(_seed(sample)) for sample in raw]


class Attending(nn.Module):
    """Attention whose heads look where `wanted` [head, token, token] says, in torch's fused kernel; adds `gain` of it."""

    scores: Tensor

    def __init__(self, wanted: Tensor, gain: float) -> None:
        super().__init__()
        self.register_buffer("scores", wanted.clamp(min=1e-15).log())
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        heads, tokens, _ = self.scores.shape
        # Queries times keys is what is wanted: the keys are one-hot.
        q = self.scores.expand(len(x), -1, -1, -1)
        k = torch.eye(tokens).expand(len(x), heads, -1, -1)
        v = x[:, None].expand(-1, heads, -1, -1)
        return x + self.gain * functional.scaled_dot_product_attention(q, k, v, scale=1.0).mean(dim=1)


def _looks(heads: int) -> Tensor:
    return torch.zeros(heads, CELLS + 1, CELLS + 1)


def everywhere() -> Tensor:
    """Two heads that look at all tokens alike, the prefix token too."""
    return torch.full((2, CELLS + 1, CELLS + 1), 1 / (CELLS + 1))


def to_the_right() -> Tensor:
    """Two heads that look at the right neighbour; the last column and the prefix token look at themselves."""
    wanted = _looks(2)
    for token in range(CELLS + 1):
        last = token == 0 or token % SIDE == 0
        wanted[:, token, token if last else token + 1] = 1
    return wanted


def at_global_tokens() -> Tensor:
    """A head that gives the prefix token .9 and itself .1, and one that gives the grid token `STAR` .8 and itself .2."""
    wanted = _looks(2)
    each = torch.arange(CELLS + 1)
    wanted[0, :, 0] += 0.9
    wanted[0, each, each] += 0.1
    wanted[1, :, STAR + 1] += 0.8
    wanted[1, each, each] += 0.2
    return wanted


class Act(nn.Module):
    """One thing done to tokens [sample, prefix and cell, feature]; `raw` [sample, ...] is what the encoder was given."""

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return x


class Erased(Act):
    """Class and value projected out."""

    keep: Tensor

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        gone = turn[: VALUE + 1]
        self.register_buffer("keep", torch.eye(FEATURES) - gone.T @ gone)

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return x @ self.keep


class Striped(Act):
    """A column of the grid holds tokens of one direction and `FAR_OUT` times the median norm, and nothing else."""

    direction: Tensor

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        self.register_buffer("direction", turn[-1])

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        norm = x[:, 1:].norm(dim=2).median(dim=1).values
        out = x.clone()
        out[:, 1 + STRIPE :: SIDE] = (FAR_OUT * norm[:, None] * self.direction)[:, None]
        return out


class Scrambled(Act):
    """The grid tokens of each sample in an order of its own."""

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        orders = torch.stack([torch.randperm(CELLS, generator=g) for g in _generators(raw)])
        return torch.cat([x[:, :1], x[:, 1:].take_along_dim(orders[:, :, None], dim=1)], dim=1)


class Offset(Act):
    """One feature large and constant; its heads look at global tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = Attending(at_global_tokens(), 0.0)

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return self.attend(x) + OFFSET * functional.one_hot(torch.tensor(CONSTANT), FEATURES)


class Collapsed(Act):
    """Two directions of the field, and nothing else."""

    kept: Tensor

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", turn[DEPTH : DEPTH + 2])

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return (x @ self.kept.T) @ self.kept


class Noise(Act):
    """Independent Gaussian features that depend on the sample, and say nothing of it."""

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        noise = [torch.randn(x.shape[1:], generator=g) for g in _generators(raw)]
        return torch.cat([x[:, :1], torch.stack(noise)[:, 1:]], dim=1)


class Things(Act):
    """An object's tokens point one way and all others the opposite way; its heads look at the right neighbour."""

    direction: Tensor

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        self.register_buffer("direction", turn[THING])
        self.attend = Attending(to_the_right(), 0.0)

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        inside = (raw[:, THING].flatten(1) > 0.5).to(x.dtype)
        marks = functional.pad(2 * inside - 1, (1, 0))
        return self.attend(0.05 * x) + marks[:, :, None] * self.direction


class Everywhere(Act):
    """Three times the mean of all tokens added, by heads that look at all alike."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.attend = Attending(everywhere(), gain)

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return self.attend(x)


class PlantedImages(nn.Module):
    """Embedding (places added), a rotation, and acts that each start from the rotated tokens."""

    names: ClassVar[tuple[str, ...]] = (
        "erased",
        "striped",
        "scrambled",
        "offset",
        "collapsed",
        "noise",
        "things",
        "everywhere",
    )

    turn: Tensor
    prefix: Tensor
    where: Tensor

    def __init__(self, planted: bool) -> None:
        super().__init__()
        turn = _orthogonal(1, FEATURES)
        self.register_buffer("turn", turn)
        # Constant over samples, and of the length of other tokens.
        self.register_buffer("prefix", 0.3 * torch.ones(1, 1, FEATURES))
        across = torch.linspace(-1, 1, SIDE)
        where = torch.zeros(CELLS, FEATURES)
        where[:, PLACE] = torch.cartesian_prod(across, across)
        self.register_buffer("where", where)
        self.embed, self.rotated = nn.Identity(), nn.Identity()
        acts = (
            Erased(turn),
            Striped(turn),
            Scrambled(),
            Offset(),
            Collapsed(turn),
            Noise(),
            Things(turn),
            Everywhere(3.0),
        )
        if not planted:
            acts = tuple(Everywhere(0.0) for _ in self.names)
        self.acts = nn.ModuleDict(dict(zip(self.names, acts, strict=True)))
        self.scale = 3.0 if planted else 1.0

    def forward(self, raw: Tensor) -> Tensor:
        x = raw.flatten(2).transpose(1, 2) + self.where
        x = self.embed(torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1))
        x = self.rotated(self.scale * (x @ self.turn))
        return [act(x, raw) for act in self.acts.values()][-1]


IMAGE_TAPS = ("embed", "rotated", *PlantedImages.names)


def planted_image_encoder(*, planted: bool = True) -> TorchEncoder:
    """Taps `IMAGE_TAPS`, 8 x 8 cells after one prefix token that holds nothing, 23 features.

    `rotated` is `embed` turned and scaled; all others start from `rotated` (see the classes of their names). Without
    what is planted there are `rotated` and some of the others, which equal it but for uniform attention that adds nothing.
    """
    grid = Grid((SIDE, SIDE), ("y", "x"), 1)
    names = IMAGE_TAPS if planted else ("rotated", "striped", "offset", "everywhere")
    taps = [
        Tap(
            name,
            i / (len(names) - 1),
            "trunk" if i else "embedding",
            FEATURES,
            grid,
            Site(f"acts.{name}" if name in PlantedImages.names else name),
        )
        for i, name in enumerate(names)
    ]

    def preprocess(sample: np.ndarray) -> Tensor:
        return torch.from_numpy((sample.astype(np.float32) - 128) / 32).permute(2, 0, 1).contiguous()

    return TorchEncoder(
        "planted" if planted else "not-planted",
        "image",
        PlantedImages(planted),
        taps,
        names[-1],
        preprocess,
        np.full((SIDE, SIDE, FEATURES), 128, dtype=np.uint8),
    )


def _fields(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """[n, y, x, count] of unit variance, in which neighbours are alike."""
    waves = np.fft.fftfreq(SIDE * 2)
    low = np.exp(-((waves[:, None] ** 2 + waves**2) / (2 * 0.06**2)))
    white = np.fft.fft2(rng.standard_normal((n, count, SIDE * 2, SIDE * 2)))
    smooth = np.fft.ifft2(white * low).real[:, :, :SIDE, :SIDE]
    return np.moveaxis(smooth / smooth.std(), 1, -1)


def planted_images(seed: int = 0) -> Dataset:
    """Two samples of each of `GROUPS` scenes: equal class, value and caption; field, object and noise of their own."""
    rng = np.random.default_rng(seed)
    scene = np.repeat(np.arange(GROUPS), 2)
    n = len(scene)
    kind, value = np.arange(GROUPS) % 3, rng.standard_normal(GROUPS)
    caption = rng.standard_normal((GROUPS, CAPTION.stop - CAPTION.start))
    x = np.zeros((n, SIDE, SIDE, FEATURES))
    x[..., CLASS] = (np.eye(3) - 1 / 3)[kind[scene]][:, None, None]
    x[..., VALUE] = 0.8 * value[scene][:, None, None]
    x[..., CAPTION] = 0.5 * caption[scene][:, None, None]
    x[..., FIELD] = field = _fields(rng, n, FIELD.stop - FIELD.start)
    masks = np.zeros((n, SIDE, SIDE), dtype=np.int64)
    for mask, (y, z) in zip(masks, rng.integers(0, SIDE - OBJECT + 1, (n, 2)), strict=True):
        mask[y : y + OBJECT, z : z + OBJECT] = 1
    x += 0.15 * rng.standard_normal(x.shape)
    x[..., THING] = masks
    return Dataset(
        "planted-images",
        "image",
        (128 + 32 * x).round().clip(0, 255).astype(np.uint8),
        [f"s{i}" for i in range(n)],
        [("train", "val", "train", "test", "train")[s % 5] for s in scene],
        {
            "kind": Target("label", kind[scene], classes=("a", "b", "c")),
            "value": Target("value", value[scene]),
            "caption": Target("caption", caption[scene]),
            "thing": Target("token_label", masks),
            "depth": Target("token_value", 5 + field[..., 0]),
            "object": Target("masks", masks),
        },
        groups=[f"g{s}" for s in scene],
    )


class Eventless(nn.Module):
    """Without the variate that shows events."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1, 0, 1, 1, 1])


class Futureless(nn.Module):
    """Without the variate that decides what comes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1, 1, 0, 1, 1])


class Rotor(nn.Module):
    """The two variates that turn at one speed, and nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([1.0, 1, 0, 0, 0, 0])


class Line(nn.Module):
    """Steps of many sizes along one direction of each sample's own."""

    def forward(self, x: Tensor) -> Tensor:
        made = []
        for g in _generators(x):
            along = torch.rand(x.shape[1], generator=g).cumsum(0)
            made.append(along[:, None] * torch.randn(x.shape[2], generator=g))
        return torch.stack(made)


class Restless(nn.Module):
    """Independent points, one after another."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=g) for g in _generators(x)])


class Same(nn.Module):
    """What it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class PlantedSeries(nn.Module):
    """Modules that each start from the series itself."""

    names: ClassVar[tuple[str, ...]] = ("held", "eventless", "futureless", "rotor", "line", "restless", "again")

    def __init__(self, planted: bool) -> None:
        super().__init__()
        made = (Same(), Eventless(), Futureless(), Rotor(), Line(), Restless(), Same())
        self.acts = nn.ModuleDict(
            {name: one if planted else Same() for name, one in zip(self.names, made, strict=True)}
        )

    def forward(self, x: Tensor) -> None:
        for act in self.acts.values():
            act(x)


def planted_series_encoder(*, planted: bool = True) -> TorchEncoder:
    """Taps `PlantedSeries.names`, 16 steps of 6 features."""
    grid = Grid((STEPS,), ("t",))
    names = PlantedSeries.names
    taps = [
        Tap(name, i / (len(names) - 1), "trunk", VARIATES, grid, Site(f"acts.{name}")) for i, name in enumerate(names)
    ]
    return TorchEncoder(
        "planted-series",
        "series",
        PlantedSeries(planted),
        taps,
        "again",
        torch.from_numpy,
        np.zeros((STEPS, VARIATES), dtype=np.float32),
        configuration="planted" if planted else "nothing planted",
    )


def planted_series(n: int = 100, seed: int = 0) -> Dataset:
    """Variates: two that turn, one that shows events, one that decides the future, two of noise.

    `ahead` is a future of three horizons with the naive forecast 0.
    """
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * math.pi, n)[:, None] + 0.7 * np.arange(STEPS)
    event = rng.random((n, STEPS)) < 0.25
    level = rng.standard_normal(n)
    x = 0.1 * rng.standard_normal((n, STEPS, VARIATES))
    x[..., 0] += np.cos(angle)
    x[..., 1] += np.sin(angle)
    x[..., 2] += event
    x[..., 3] += level[:, None]
    x[..., 4:] += rng.standard_normal((n, STEPS, 2))
    ahead = level[:, None] * np.array([1.0, 0.5, -1.0])
    return Dataset(
        "planted-series",
        "series",
        x.astype(np.float32),
        [f"s{i}" for i in range(n)],
        [("train", "val", "train", "test", "train")[i % 5] for i in range(n)],
        {
            "event": Target("event", event.astype(np.float64)),
            "ahead": Target("future", ahead, naive=np.zeros_like(ahead)),
        },
    )
