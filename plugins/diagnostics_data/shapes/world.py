"""What there is before anyone looks: a wall, a floor and one to six flat objects in a room, their motion, and the light.

Units: the camera looks along z (x to the right, y down) and sees x / z and y / z between -1 / FOCAL and 1 / FOCAL; objects
have radii of 0.4 to 0.9. Time in frames. Nothing here knows the size of the image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diagnostics_data.shapes.patterns import CELLS, SHAPES, TEXTURES, Texture, reach

FOCAL = 2.0
MOST_OBJECTS = 6
NEAREST, FARTHEST = 3.0, 6.5
"""Between which depths the objects' centres start."""

COLOURS = {
    "red": (0.85, 0.13, 0.12), "orange": (0.95, 0.52, 0.10), "yellow": (0.93, 0.84, 0.20), "green": (0.20, 0.65, 0.22),
    "cyan": (0.20, 0.76, 0.78), "blue": (0.16, 0.33, 0.85), "purple": (0.50, 0.22, 0.70), "pink": (0.94, 0.52, 0.70),
}  # fmt: skip
"""As shown under full light, 0 to 1."""

_TRIES = 12


@dataclass(frozen=True)
class Plane:
    """A plane at one moment, seen from the camera: `origin`, the directions `right` and `down`, and `normal`, all [3]."""

    origin: np.ndarray
    right: np.ndarray
    down: np.ndarray
    normal: np.ndarray

    def point(self, p: np.ndarray | float, q: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and z of plane coordinates."""
        x, y, z = (o + p * a + q * b for o, a, b in zip(self.origin, self.right, self.down, strict=True))
        return x, y, z


@dataclass(frozen=True)
class Sway:
    """Motion to and fro: `reach` [3] times the sine of `rate` (rad a frame) and `lag`, from 0 at frame 0."""

    reach: np.ndarray
    rate: float
    lag: float

    def at(self, frame: float) -> np.ndarray:
        """Displacement [3] since frame 0."""
        return self.reach * (math.sin(self.rate * frame + self.lag) - math.sin(self.lag))

    @property
    def lowest(self) -> float:
        """How far down it ever goes."""
        return abs(self.reach[1]) - self.reach[1] * math.sin(self.lag)


STILL = Sway(np.zeros(3), 0.0, 0.0)


@dataclass(frozen=True)
class Surface:
    """A wall, the floor, or an object. `shape` is "" for what has no outline and goes on for ever.

    `tones` [2, 3]: the squares of the two colours of the texture (light adds up there); `turn`: yaw, pitch and roll in
    rad; `spin`: roll a frame; `gloss`: strength of the highlight.
    """

    shape: str
    colour: str
    texture: Texture
    tones: np.ndarray
    gloss: float
    radius: float
    origin: np.ndarray
    turn: tuple[float, float, float]
    spin: float
    sway: Sway

    def plane(self, frame: float, camera: Sway) -> Plane:
        """Where it is at a frame, from where the camera then is."""
        yaw, pitch, roll = self.turn
        roll += self.spin * frame
        (sy, cy), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in (yaw, pitch, roll))
        right, down = np.array([cy, 0.0, -sy]), np.array([sy * sp, cp, cy * sp])
        return Plane(
            self.origin + self.sway.at(frame) - camera.at(frame),
            cr * right + sr * down,
            cr * down - sr * right,
            np.array([sy * cp, -sp, cy * cp]),
        )


@dataclass(frozen=True)
class World:
    """`surfaces`: wall, floor, then the objects; `light` [3] points to the light; `ambient` and `lamp` are how bright it
    is everywhere and where light falls straight; `haze` [3] is what distance fades into, by `fading` a unit."""

    surfaces: tuple[Surface, ...]
    camera: Sway
    light: np.ndarray
    ambient: float
    lamp: float
    haze: np.ndarray
    fading: float

    @property
    def objects(self) -> tuple[Surface, ...]:
        """Object i has number i + 1 in masks."""
        return self.surfaces[2:]


class _Draws:
    """Numbers from a generator, one after the other; drawn at once, since single draws would take most of the time."""

    def __init__(self, seed: int, index: int) -> None:
        self._rng = np.random.default_rng([seed, index])
        self._next: Iterator[float] = iter(self._rng.random(512).tolist())

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._next)

    def one_of(self, names: tuple[str, ...]) -> str:
        return names[int(next(self._next) * len(names))]

    def lattice(self) -> np.ndarray:
        return self._rng.uniform(-1, 1, (CELLS, CELLS))


def draw(seed: int, index: int, objects: int = MOST_OBJECTS) -> World:
    """World `index` of a seed; each has a generator of its own, so that it is the same however many there are.

    objects: at most so many; a world with fewer holds the first ones of that with more.
    """
    draws = _Draws(seed, index)
    level = draws.uniform(1.1, 2.0)
    wall_at, wall_turn = np.array([0.0, 0.0, draws.uniform(10, 13)]), (draws.uniform(-0.4, 0.4), 0.0, 0.0)
    wall = _surface(draws, "", 0.6, wall_at, wall_turn, STILL)
    floor_turn = (0.0, math.pi / 2, draws.uniform(-0.6, 0.6))
    floor = _surface(draws, "", 0.8, np.array([0.0, level, 6.0]), floor_turn, STILL)
    camera = _sway(draws, 0.25, 0.2)
    toward = np.array([draws.uniform(-0.9, 0.9), draws.uniform(-1.2, -0.4), -1.0])
    haze = np.array([draws.uniform(0.1, 0.9) for _ in range(3)])
    light, ambient, lamp = toward / np.linalg.norm(toward), draws.uniform(0.25, 0.5), draws.uniform(0.7, 1.1)
    fading = draws.uniform(0.0, 0.06)
    things: list[Surface] = []
    places: list[tuple[float, float, float]] = []
    for _ in range(1 + int(draws.uniform(0, objects))):
        radius = 0.42 * math.exp(draws.uniform(0, math.log(2.2)))
        z = draws.uniform(NEAREST, FARTHEST)
        shape = draws.one_of(SHAPES)
        extent = FOCAL * radius * reach(shape) / z
        sway = _sway(draws, 0.6, 0.4)
        u, v = _place(draws, places, extent, FOCAL * (level - sway.lowest - radius * reach(shape)) / z)
        places.append((u, v, extent))
        origin = np.array([u * z / FOCAL, v * z / FOCAL, z])
        turn = (draws.uniform(-0.7, 0.7), draws.uniform(-0.6, 0.6), draws.uniform(-math.pi, math.pi))
        things.append(_surface(draws, shape, radius, origin, turn, sway))
    return World((wall, floor, *things), camera, light, ambient, lamp, haze * haze, fading)


def _surface(
    draws: _Draws, shape: str, radius: float, origin: np.ndarray, turn: tuple[float, float, float], sway: Sway
) -> Surface:
    colour = draws.one_of(tuple(COLOURS))
    shown = np.array(COLOURS[colour]) * draws.uniform(0.8, 1.05)
    # The second tone is a darker or lighter one, so that the name of the colour stays true.
    share = draws.uniform(0.45, 0.7)
    second = shown * (1 - share) if draws.uniform(0, 1) < 0.5 else shown + share * (1 - shown)
    kind = draws.one_of(TEXTURES)
    texture = Texture(
        kind,
        draws.uniform(0.7, 1.5) / radius * (1.0 if shape else 0.6),
        draws.uniform(0, math.pi),
        (draws.uniform(0, 1), draws.uniform(0, 1)),
        draws.lattice() if kind == "mottled" else np.zeros((CELLS, CELLS)),
    )
    spin, gloss = (draws.uniform(-0.12, 0.12), draws.uniform(0.0, 0.5)) if shape else (0.0, 0.0)
    return Surface(shape, colour, texture, np.stack([shown, second]) ** 2, gloss, radius, origin, turn, spin, sway)


def _sway(draws: _Draws, across: float, along: float) -> Sway:
    reach_3 = np.array([draws.uniform(-r, r) for r in (across, 0.4 * across, along)])
    return Sway(reach_3, 2 * math.pi / draws.uniform(16, 40), draws.uniform(-math.pi, math.pi))


def _place(draws: _Draws, taken: list[tuple[float, float, float]], extent: float, lowest: float) -> tuple[float, float]:
    """Where on the screen an object's centre goes: well inside, above the floor, and not right behind another one."""
    room = max(0.3, 1 - 0.7 * extent)
    best, spot = -1.0, (0.0, 0.0)
    # All tries are drawn, so that what comes later does not depend on how many were needed.
    for u, v in [(draws.uniform(-room, room), draws.uniform(-room, room)) for _ in range(_TRIES)]:
        v = min(v, lowest)
        apart = min((math.hypot(u - x, v - y) / (extent + other) for x, y, other in taken), default=1.0)
        if best < 0.6 and apart > best:
            best, spot = apart, (u, v)
    return spot
