"""Patterns that the surfaces bear, as a share in [0, 1] of the second of two tones, from plane coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TEXTURES = ("plain", "striped", "checked", "spotted", "mottled", "graded")
CELLS = 16
"""Sides of the lattice of random numbers behind a mottled surface; it repeats after that many cells."""


@dataclass(frozen=True)
class Texture:
    """`frequency` in periods a unit of the plane, `turn` in rad, `shift` [2] in periods, `lattice` [CELLS, CELLS]."""

    kind: str
    frequency: float
    turn: float
    shift: tuple[float, float]
    lattice: np.ndarray

    def share(self, p: np.ndarray, q: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """The pattern at plane coordinates; `footprint`: what a pixel spans there, in units of the plane.

        Where a period is hardly longer than a pixel the pattern fades into its mean.
        """
        if self.kind == "plain":
            return np.zeros_like(p)
        cos, sin = self.frequency * math.cos(self.turn), self.frequency * math.sin(self.turn)
        s, t = cos * p + sin * q + self.shift[0], cos * q - sin * p + self.shift[1]
        if self.kind == "graded":
            return 0.5 + 0.5 * np.sin((math.pi / 2) * s)
        if self.kind == "mottled":
            # The finer octave is turned, so that no lattice shows.
            pattern = 1.2 * self._noise(1.5 * s, 1.5 * t) + 0.8 * self._noise(2.4 * s + 1.8 * t, 2.4 * t - 1.8 * s)
            finest = self.frequency  # noise varies half as fast as its lattice
        elif self.kind == "striped":
            pattern, finest = 2.5 * np.sin((2 * math.pi) * s), self.frequency
        elif self.kind == "checked":
            pattern = np.clip(3 * np.sin((2 * math.pi) * s), -1, 1) * np.clip(3 * np.sin((2 * math.pi) * t), -1, 1)
            finest = self.frequency
        else:
            pattern = 2.5 * (np.cos((2 * math.pi) * s) + np.cos((2 * math.pi) * t) - 0.5)
            finest = self.frequency
        sharp = np.clip(pattern, -1, 1) * np.clip(2 - (4 * finest) * footprint, 0, 1)
        return 0.5 + 0.5 * sharp

    def _noise(self, s: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Random numbers of the lattice, interpolated smoothly between its cells (value noise), -1 to 1."""
        column, row = np.floor(s), np.floor(t)
        s, t = s - column, t - row
        s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
        column, row = column.astype(np.intp) % CELLS, row.astype(np.intp) % CELLS
        flat = self.lattice.ravel()
        right, here, below = (column + 1) % CELLS, row * CELLS, (row + 1) % CELLS * CELLS
        upper = flat[here + column] * (1 - s) + flat[here + right] * s
        lower = flat[below + column] * (1 - s) + flat[below + right] * s
        return upper * (1 - t) + lower * t
