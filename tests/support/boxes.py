"""Tokens that hold boxes, classes alone, or neither, with the boxes of their samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from diagnostics import Grid, Tap
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.datasets.boxes import crop_boxes, pad_boxes
from diagnostics.measures.probes.detection import assign

SIDE = 8
CLASSES = ("cup", "hat", "key")


class Tokens(Activations):
    """Tokens of taps [sample, token, feature] on a square grid, as a run would hold them; each sample its own group."""

    poolings = ("mean",)

    def __init__(self, taps: dict[str, np.ndarray], split: Sequence[str], side: int = SIDE) -> None:
        self.tokens = {name: np.asarray(values, dtype=np.float32) for name, values in taps.items()}
        depths = np.linspace(0, 1, len(taps))
        self.taps = [
            Tap(name, float(depth), "trunk", values.shape[2], Grid((side, side), ("y", "x")))
            for (name, values), depth in zip(self.tokens.items(), depths, strict=True)
        ]
        self.output_tap = self.taps[-1].name
        self.split = np.array(split, dtype=object)
        self.ids = self.groups = np.array([f"s{i:05}" for i in range(len(self.split))], dtype=object)
        self.token_samples = len(self.ids)

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        return self.tokens[tap].mean(axis=1, dtype=np.float64)

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self.ids), 64):
            yield slice(start, min(start + 64, len(self.ids))), self.tokens[tap][start : start + 64]


def random_boxes(n: int, seed: int, most: int = 4) -> np.ndarray:
    """Boxes of `n` samples of 64 x 64 pixels, of three classes, as a grid that covers the samples sees them."""
    rng, rows = np.random.default_rng(seed), list[np.ndarray]()
    for _ in range(n):
        count = int(rng.integers(0, most + 1))
        sides = rng.uniform(12, 30, (count, 2))
        corners = rng.uniform(0, 64 - sides)
        rows.append(np.concatenate([corners, corners + sides, rng.integers(0, 3, (count, 1))], axis=1))
    return crop_boxes(pad_boxes(rows, [(64, 64)] * n), lambda extent: tuple((0.0, float(size)) for size in extent))


def box_target(boxes: np.ndarray) -> StoredTarget:
    return StoredTarget("boxes", "boxes", boxes, classes=CLASSES)


PHRASES = ("the red cup", "the red hat", "the blue cup", "the blue hat")


def phrase_target(n: int, seed: int) -> StoredTarget:
    """Two things in each of `n` samples, each with the one phrase that is true of it alone."""
    rng, rows = np.random.default_rng(seed), list[np.ndarray]()
    for _ in range(n):
        sides, of = rng.uniform(20, 30, (2, 2)), rng.permutation(4)[:2]
        corners = rng.uniform(0, 64 - sides)
        # Side by side: the first on the left.
        corners[:, 0] = corners[:, 0] / 64 * (32 - sides[:, 0].clip(max=31)) + [0, 32]
        rows.append(np.concatenate([corners, corners + sides, of[:, None]], axis=1))
    boxes = crop_boxes(pad_boxes(rows, [(64, 64)] * n), lambda extent: tuple((0.0, float(size)) for size in extent))
    return StoredTarget("phrases", "phrases", boxes, classes=PHRASES)


def box_tokens(boxes: np.ndarray, seed: int, noise: float = 0.0, side: int = SIDE) -> dict[str, np.ndarray]:
    """Taps that hold what stands at each token exactly, its class alone, and neither.

    With so much noise, in 16 features that are mixed.
    """
    rng = np.random.default_rng(seed)
    codes, sides = assign(boxes, (side, side))
    mix, shape = np.linalg.qr(rng.standard_normal((16, 16)))[0], (*codes.shape, 16)
    held = (codes > 0)[..., None]
    hot, none = np.eye(4)[np.maximum(codes, 0)], np.zeros((*codes.shape, 4))
    kinds = {"boxes": (hot, (sides + 2) * held), "classes": (hot, none), "neither": (none, none)}
    return {
        name: np.concatenate([*parts, np.zeros((*codes.shape, 8))], axis=2) @ mix
        + (noise if name != "neither" else 1.0) * rng.standard_normal(shape)
        for name, parts in kinds.items()
    }
