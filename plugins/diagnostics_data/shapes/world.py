"""The world before anyone looks.

A wall, a floor and one to six flat objects in a room, their motion, and the light.

Units: the camera looks along z (x to the right, y down) and sees x / z and y / z between -1 / FOCAL and 1 / FOCAL;
objects have radii of 0.4 to 0.9. Time in frames. Nothing here knows the size of the image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

# What surfaces look like from the front: outlines and textures, in plane coordinates.
#
# Outlines are level functions, below 0 inside and 0 on the outline. Inside, near straight and round edges, a level is
# the distance to the outline with a minus sign. All outlines have the area of a disc of radius 1, so that neither area
# nor the share of pixels tells a class. Textures are patterns: a share in [0, 1] of the second of two tones.

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
    """Factor that gives the drawing the area of the unit disc."""
    return math.sqrt(math.pi / _DRAWN[shape][1])


def reach(shape: str) -> float:
    """Distance of the outline's farthest point from the centre, for an object of radius 1."""
    return _DRAWN[shape][2] * scale(shape)


def level(shape: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Below 0 inside the outline of an object of radius 1 around (0, 0), p to the right and q down."""
    by = scale(shape)
    return by * outline(shape, p / by, q / by)


def outline(shape: str, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The level as drawn, of an object whose radius is 1 over its scale."""
    return _DRAWN[shape][0](p, q)


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
        return 0.5 + 0.5 * (np.clip(pattern, -1, 1) * np.clip(2 - (4 * self.frequency) * footprint, 0, 1))

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


FOCAL = 2.0
MOST_OBJECTS = 6
NEAREST, FARTHEST = 3.0, 6.5
"""Between which depths the objects' centres start."""

COLOURS = {
    "red": (0.85, 0.13, 0.12),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.93, 0.84, 0.20),
    "green": (0.20, 0.65, 0.22),
    "cyan": (0.20, 0.76, 0.78),
    "blue": (0.16, 0.33, 0.85),
    "purple": (0.50, 0.22, 0.70),
    "pink": (0.94, 0.52, 0.70),
}
"""As shown under full light, 0 to 1."""

_TRIES = 12


@dataclass(frozen=True)
class Plane:
    """A plane at one moment, seen from the camera.

    `origin`, the directions `right` and `down`, and `normal`, all [3].
    """

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
        """The lowest point of its way."""
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
        """Its plane at a frame, from where the camera then is."""
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
    """`surfaces`: wall, floor, then the objects.

    `light` [3] points to the light; `ambient` and `lamp` are how bright it is everywhere and where light falls
    straight; `haze` [3] is what distance fades into, by `fading` a unit.
    """

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
    return World((wall, floor, *things), camera, light, ambient, lamp, haze=haze * haze, fading=fading)


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
    return Surface(
        shape,
        colour,
        texture,
        np.stack([shown, second]) ** 2,
        gloss=gloss,
        radius=radius,
        origin=origin,
        turn=turn,
        spin=spin,
        sway=sway,
    )


MOST_TURN, MOST_SHIFT = (0.4, 0.25, 1.0), (1.2, 0.6, 0.8)
"""By how much a second camera turns (yaw, pitch, roll, in rad) and stands aside (in units of the world) at most."""
_SECOND = 2**31
"""Sets the draws of second views apart from those of worlds."""


def second_view(world: World, seed: int, index: int) -> tuple[World, Callable[[Plane], Plane]]:
    """The same scene under a lamp of another colour, and what another camera makes of a plane.

    Both are a little or much different, evenly so.
    """
    rng = np.random.default_rng([seed, index, _SECOND])
    much = rng.random()
    yaw, pitch, roll = much * rng.uniform(-1, 1, 3) * MOST_TURN
    aside, tint = much * rng.uniform(-1, 1, 3) * MOST_SHIFT, np.exp(much * rng.uniform(-0.7, 0.7, 3))
    (sy, cy), (sp, cp), (sr, cr) = ((math.sin(a), math.cos(a)) for a in (yaw, pitch, roll))
    turn = (
        np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
        @ np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    )
    surfaces = tuple(replace(surface, tones=surface.tones * tint) for surface in world.surfaces)
    # The scene is turned about where its objects are, so that the camera still looks at them.
    middle = np.array([0.0, 0.0, (NEAREST + FARTHEST) / 2])

    def seen(plane: Plane) -> Plane:
        return Plane(
            turn @ (plane.origin - middle) + middle - aside, turn @ plane.right, turn @ plane.down, turn @ plane.normal
        )

    return replace(world, surfaces=surfaces, light=turn @ world.light, haze=world.haze * tint), seen


def _sway(draws: _Draws, across: float, along: float) -> Sway:
    reach_3 = np.array([draws.uniform(-r, r) for r in (across, 0.4 * across, along)])
    return Sway(reach_3, 2 * math.pi / draws.uniform(16, 40), draws.uniform(-math.pi, math.pi))


def _place(draws: _Draws, taken: list[tuple[float, float, float]], extent: float, lowest: float) -> tuple[float, float]:
    """Place of an object's centre on the screen: well inside, above the floor, and not right behind another one."""
    room = max(0.3, 1 - 0.7 * extent)
    best, spot = -1.0, (0.0, 0.0)
    # All tries are drawn, so that what comes later does not depend on how many were needed.
    for u, v in [(draws.uniform(-room, room), draws.uniform(-room, room)) for _ in range(_TRIES)]:
        v = min(v, lowest)
        apart = min((math.hypot(u - x, v - y) / (extent + other) for x, y, other in taken), default=1.0)
        if best < 0.6 and apart > best:
            best, spot = apart, (u, v)
    return spot
