"""What measures see: the stored activations and targets of a run, whatever they are stored in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diagnostics.dataset import FAMILY_OF, Family, Kind
from diagnostics.errors import DiagnosticsError
from diagnostics.taps import Grid, Tap


@dataclass(frozen=True)
class StoredTarget:
    """A target as the run stored it, row by row beside the activations.

    `values` is [sample] (int for `label`, -1 unknown; float otherwise, NaN unknown). A dense target has instead
    `on_grid`: grid shape -> float [sample, token], the mean over each cell (NaN: nothing known there).
    """

    name: str
    kind: Kind
    values: np.ndarray
    units: str = ""
    about: str = ""
    classes: tuple[str, ...] = ()
    family_override: Family | None = None
    on_grid: Mapping[tuple[int, ...], np.ndarray] = field(default_factory=dict[tuple[int, ...], np.ndarray])

    @property
    def family(self) -> Family:
        """The family that the target's probes are listed under."""
        return self.family_override or FAMILY_OF[self.kind]

    def tokens(self, grid: Grid) -> np.ndarray:
        """The dense target on a tap's grid, float [sample, token]."""
        if grid.shape not in self.on_grid:
            raise DiagnosticsError(f"Target {self.name} is not stored on a grid of {grid}.")
        return self.on_grid[grid.shape]


class Activations(ABC):
    """Stored activations of one encoder on one dataset, row by row.

    `taps` in order of execution, `output_tap` a name; `ids`, `split`, `groups` are object arrays [sample];
    `poolings` names what `pooled` holds side by side; tokens are stored for the first `token_samples` rows (rows are in
    random order, so they are a random subset).
    """

    taps: Sequence[Tap]
    output_tap: str
    poolings: Sequence[str]
    ids: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    token_samples: int

    @abstractmethod
    def pooled(self, tap: str, pooling: str | None = None) -> np.ndarray:
        """float64 [sample, feature]: one pooling, or all poolings side by side when None."""

    @abstractmethod
    def token_blocks(self, tap: str) -> Iterator[tuple[slice, np.ndarray]]:
        """(rows, float32 [row, grid token, feature]) through the `token_samples` rows in order, bounded in memory."""

    @abstractmethod
    def feature_blocks(self, tap: str) -> Iterator[np.ndarray]:
        """float64 [token_samples, block] through all features of all tokens, prefix tokens too, bounded in memory."""

    @property
    def pooling(self) -> str:
        """The poolings in words, as results state them."""
        return " and ".join(self.poolings) + (" side by side" if len(self.poolings) > 1 else "")
