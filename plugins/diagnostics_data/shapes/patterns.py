"""What surfaces look like from the front: outlines and textures, in plane coordinates.

Outlines are level functions, below 0 inside and 0 on the outline. Inside, near straight and round edges, a level is the
distance to the outline with a minus sign. All outlines have the area of a disc of radius 1, so that neither area nor the share
of pixels tells a class. Textures are patterns: a share in [0, 1] of the second of two tones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Level = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _half_planes(p: np.ndarray, q: np.ndarray, corners: int) -> list[np.ndarray]:
    """Signed distances to the sides of a regular polygon of inradius 1 with a corner straight up (towards -q)."""
    turns = [math.pi / 2 + 2 * math.pi * k / corners for k in range(corners)]
    return [p * math.cos(turn) + q * math.sin(turn) - 1 for turn in turns]


def _triangle(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    first, second, third = _half_planes(p, q, 3)
    return np.maximum(np.maximum(first, second), third)


def _star(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    # A pentagram is where at most one of the sides of its pentagon, which stands on a corner, is passed.
    sides = _half_planes(p, -q, 5)
    largest, second = np.maximum(sides[0], sides[1]), np.minimum(sides[0], sides[1])
    for side in sides[2:]:
        second = np.maximum(second, np.minimum(largest, side))
        largest = np.maximum(largest, side)
    return second


def _cross(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    p, q = np.abs(p), np.abs(q)
    return np.maximum(np.minimum(p, q) - 0.3, np.maximum(p, q) - 1)


def _crescent(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    p = p - 0.386  # its centre of mass, not the disc's middle, is at (0, 0)
    squared = p * p + q * q
    bite = 0.8 - np.sqrt(squared - p + 0.25)  # a disc of radius 0.8 around (0.5, 0)
    return np.maximum(np.sqrt(squared) - 1, bite)


def _arrow(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    p = np.abs(p)
    head = np.maximum((p - q - 1) * math.sqrt(0.5), q)  # corners (0, -1), (1, 0), (-1, 0)
    shaft = np.maximum(p - 0.3, np.maximum(q - 1, -q - 0.1))
    return np.minimum(head, shaft)


_DRAWN: dict[str, tuple[Level, float, float]] = {
    "disc": (lambda p, q: np.sqrt(p * p + q * q) - 1, math.pi, 1.0),
    "square": (lambda p, q: np.maximum(np.abs(p), np.abs(q)) - 1, 4.0, math.sqrt(2)),
    "triangle": (_triangle, 3 * math.tan(math.pi / 3), 2.0),
    "star": (
        _star,
        5 * math.tan(math.pi / 5) * (1 + math.tan(math.pi / 5) * math.tan(2 * math.pi / 5)),
        1 / math.cos(2 * math.pi / 5),
    ),
    "ring": (lambda p, q: np.abs(np.sqrt(p * p + q * q) - 0.75) - 0.25, math.pi * 0.75, 1.0),
    "cross": (_cross, 4 * 0.6 - 0.36, math.hypot(0.3, 1)),
    # The lens of the two discs is taken from the larger one.
    "crescent": (
        _crescent,
        math.pi
        - math.acos(0.61)
        - 0.64 * math.acos(-0.11 / 0.8)
        + 0.5 * math.sqrt((-0.5 + 1.8) * (0.5 + 0.2) * (0.5 - 0.2) * (0.5 + 1.8)),
        math.hypot(0.61 + 0.386, math.sqrt(1 - 0.61**2)),
    ),
    "arrow": (_arrow, 1.0 + 0.6, math.hypot(0.3, 1)),
}
"""Name -> level as drawn, the area of that, and the distance of its farthest point."""
SHAPES = tuple(_DRAWN)


def scale(shape: str) -> float:
    """What the drawing is stretched by to have the area of the unit disc."""
    return math.sqrt(math.pi / _DRAWN[shape][1])


def reach(shape: str) -> float:
    """Distance of the outline's farthest point from the centre, for an object of radius 1."""
    return _DRAWN[shape][2] * scale(shape)


def level(shape: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Below 0 inside the outline of an object of radius 1 around (0, 0), p to the right and q down."""
    by = scale(shape)
    return by * _DRAWN[shape][0](p / by, q / by)


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
        elif self.kind == "striped":
            pattern = 2.5 * np.sin((2 * math.pi) * s)
        elif self.kind == "checked":
            pattern = np.clip(3 * np.sin((2 * math.pi) * s), -1, 1) * np.clip(3 * np.sin((2 * math.pi) * t), -1, 1)
        else:
            pattern = 2.5 * (np.cos((2 * math.pi) * s) + np.cos((2 * math.pi) * t) - 0.5)
        sharp = np.clip(pattern, -1, 1) * np.clip(2 - (4 * self.frequency) * footprint, 0, 1)
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
