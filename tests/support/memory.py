"""Activations held in memory, for testing measures without a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError


class MemoryActivations(Activations):
    """Taps from arrays [sample, token, feature] on grids without prefix tokens unless `prefix` says so.

    The first `token_samples` rows keep their tokens; all rows are pooled.
    """

    def __init__(
        self,
        tokens: Mapping[str, np.ndarray],
        grids: Mapping[str, tuple[int, ...]] | None = None,
        *,
        split: Sequence[str] | np.ndarray | None = None,
        groups: Sequence[str] | np.ndarray | None = None,
        token_samples: int | None = None,
        poolings: Sequence[str] = ("mean",),
        prefix: int = 0,
        block: int = 7,
        observed: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        self.observations = observed or {}
        self.arrays, self.prefix, self.block = dict(tokens), prefix, block
        n = len(next(iter(self.arrays.values())))
        self.taps = tuple(
            Tap(
                name,
                i / max(1, len(self.arrays) - 1),
                "trunk",
                array.shape[2],
                self._grid(array, (grids or {}).get(name)),
            )
            for i, (name, array) in enumerate(self.arrays.items())
        )
        self.output_tap = self.taps[-1].name
        self.poolings = tuple(poolings)
        self.ids = np.array([f"s{i}" for i in range(n)], dtype=object)
        self.split = np.asarray(thirds(n) if split is None else split, dtype=object)
        self.groups = self.ids if groups is None else np.asarray(groups, dtype=object)
        self.token_samples = n if token_samples is None else token_samples

    def _grid(self, array: np.ndarray, shape: tuple[int, ...] | None) -> Grid:
        shape = shape or (array.shape[1] - self.prefix,)
        return Grid(shape, ("t", "y", "x")[-len(shape) :], self.prefix)

    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        grid = self.arrays[tap][:, self.prefix :].astype(np.float64)
        parts = {"mean": grid.mean(axis=1), "last": grid[:, -1]}
        return np.concatenate([parts[name] for name in ([pooling] if pooling else self.poolings)], axis=1)

    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, self.token_samples, self.block):
            rows = slice(start, min(start + self.block, self.token_samples))
            yield rows, self.arrays[tap][rows, self.prefix :].astype(np.float32)

    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        flat = self.arrays[tap][: self.token_samples].reshape(self.token_samples, -1)
        for start in range(0, flat.shape[1], self.block):
            yield flat[:, start : start + self.block].astype(np.float64)

    def observation_arrays(self, name: str) -> Mapping[str, np.ndarray]:
        if name not in self.observations:
            raise DiagnosticsError(f"No {name} was recorded.", code="not-measured")
        return self.observations[name]


def thirds(n: int) -> np.ndarray:
    """train, val, test in the shares 3 : 1 : 1, mixed along the rows."""
    return np.array([("train", "val", "train", "test", "train")[i % 5] for i in range(n)], dtype=object)


def label_target(labels: np.ndarray, name: str = "kind") -> StoredTarget:
    """A target of classes."""
    return StoredTarget(name, "label", np.asarray(labels), classes=tuple(f"c{i}" for i in range(int(max(labels)) + 1)))
