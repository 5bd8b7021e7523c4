"""A surface seen through the pixels of an image: rays, where they hit, and where a point seen now is seen next."""

import math
from dataclasses import dataclass

import numpy as np

from diagnostics_data.shapes.patterns import reach
from diagnostics_data.shapes.world import FOCAL, Plane, Surface

FAR = 1e3
"""Depth given to rays that never hit a wall or floor; something else is always seen there."""

Crop = tuple[slice, slice]


@dataclass(frozen=True)
class Hits:
    """Where the rays through a crop hit a plane, each [y, x]: depth and plane coordinates."""

    z: np.ndarray
    p: np.ndarray
    q: np.ndarray


@dataclass(frozen=True)
class View:
    """A surface and its plane at one moment, in an image of `size` pixels a side."""

    surface: Surface
    plane: Plane
    size: int

    def crop(self) -> Crop:
        """Rows and columns of pixels outside which it is not seen, perhaps none."""
        if not self.surface.shape:
            return slice(0, self.size), slice(0, self.size)
        r = self.surface.radius * reach(self.surface.shape)
        x, y, z = self.plane.point(np.array([-r, r, r, -r]), np.array([-r, -r, r, r]))
        if z.min() <= 0:  # partly behind the camera, where nothing can be projected
            return slice(0, self.size), slice(0, self.size)
        return self._pixels(y / z), self._pixels(x / z)

    def _pixels(self, slope: np.ndarray) -> slice:
        ends = ((slope * FOCAL + 1) * (self.size / 2)).tolist()
        first = min(max(0, math.floor(min(ends))), self.size)
        return slice(first, max(first, min(self.size, math.ceil(max(ends)))))

    def depth(self, crop: Crop, points: int) -> np.ndarray:
        """Depth [y, x] at `points` x `points` regular points of each pixel of a crop; FAR where the plane is not hit."""
        towards = self._along(self.plane.normal, crop, points)
        away = float(self.plane.origin @ self.plane.normal)
        if away < 0:
            towards, away = -towards, -away
        return away / np.maximum(towards, away / FAR)

    def hits(self, crop: Crop, points: int) -> Hits:
        """Depth and plane coordinates at `points` x `points` regular points of each pixel of a crop."""
        z, plane = self.depth(crop, points), self.plane
        p = z * self._along(plane.right, crop, points) - float(plane.origin @ plane.right)
        q = z * self._along(plane.down, crop, points) - float(plane.origin @ plane.down)
        return Hits(z, p, q)

    def footprint(self, z: np.ndarray) -> np.ndarray:
        """What a pixel spans on the plane at depth z, in the direction in which it spans most; rays taken as unit long."""
        return (z * z) * (2 / (FOCAL * self.size * abs(float(self.plane.origin @ self.plane.normal))))

    def flow(self, hits: Hits, after: Plane, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
        """By how many pixels down and right what is hit at the pixels' centres moves until its plane is `after`."""
        x, y, z = after.point(hits.p, hits.q)
        v, u = rays(crop, 1, self.size)
        by = FOCAL * self.size / 2
        return by * (y / z - v[:, None]), by * (x / z - u)

    def _along(self, direction: np.ndarray, crop: Crop, points: int) -> np.ndarray:
        """The rays' (with z = 1) parts along a direction, [y, x]."""
        v, u = rays(crop, points, self.size)
        dx, dy, dz = direction.tolist()
        return (dy * v + dz)[:, None] + dx * u


def rays(crop: Crop, points: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """y / z of the rows and x / z of the columns of points."""
    v, u = (
        (np.arange(part.start * points, part.stop * points) + 0.5) * (2 / (points * size * FOCAL)) - 1 / FOCAL
        for part in crop
    )
    return v, u


def on_screen(point: np.ndarray, size: int) -> tuple[float, float]:
    """y and x in pixels of a point [3] in front of the camera."""
    x, y, z = point.tolist()
    return (FOCAL * y / z + 1) * size / 2, (FOCAL * x / z + 1) * size / 2
