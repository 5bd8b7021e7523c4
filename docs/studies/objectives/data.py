"""The data of the study, as datasets of `diagnostics run`: `data.py:clips?draw=8200&shuffled=1`.

A draw is a data set of its own, half of it test.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool3d

import diagnostics as dx

PLAN = tomllib.loads((Path(__file__).parent / "plan.toml").read_text(encoding="utf-8"))
FRAMES, SIDE = 6, 48


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


def clips(draw: int = 8200, n: int = 2 * PLAN["video"]["units"], shuffled: int = 0) -> dx.Dataset:
    """Rendered clips; `shuffled=1` puts the frames of each in a random order of its own."""
    data = dx.build("dataset", f"shapes?n={n}&frames={FRAMES}&size={SIDE}&seed={draw}")
    rng, masks = np.random.default_rng(draw), data.targets["masks"].values
    y, x = (data.targets[f"velocity_{axis}"].values for axis in "yx")
    order = np.tile(np.arange(FRAMES), (n, 1))
    swapped = rng.integers(2, size=n)
    for row in np.flatnonzero(swapped):
        first, second = rng.choice(FRAMES, 2, replace=False)
        order[row, [first, second]] = order[row, [second, first]]
    if shuffled:
        order = np.stack([rng.permutation(FRAMES) for _ in range(n)])
    seen = [[frozenset(np.unique(frame)) for frame in clip] for clip in masks]
    event = np.array([len(set(each)) > 1 for each in seen]).astype(int)
    direction = np.where(np.abs(x) >= np.abs(y), np.where(x > 0, 0, 1), np.where(y > 0, 2, 3))
    direction[~np.isfinite(x) | ~np.isfinite(y)] = -1
    targets = {
        "direction": dx.Target("label", direction, classes=("right", "left", "down", "up"), about="in which the main object moves"),
        "speed": dx.Target("value", np.hypot(x, y), units="pixels/frame", about="how far the main object moves"),
        "order": dx.Target("label", swapped, classes=("rendered", "exchanged"), about="whether two frames are exchanged"),
        "event": dx.Target("label", event, classes=("none", "some"), about="whether an object comes into view or leaves it"),
        "masks": dx.Target("masks", np.take_along_axis(masks, order[:, :, None, None], axis=1), about="which object is seen"),
    }  # fmt: skip
    samples = np.stack([data[row][order[row]] for row in range(n)])
    return split(data, draw, samples, targets, f"clips shuffled={shuffled}")


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
