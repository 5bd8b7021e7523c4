"""Scenes as the camera sees them, and the truth about every pixel.

Which surface is seen is decided by depth at 3 x 3 points of each pixel, so that objects may pass through each other; a
pixel shows the surfaces' colours at its centre by the share of its points. The middle point is the pixel's centre, and
what is seen there is what `masks`, `classes`, `depth` and `flow` say of the pixel.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diagnostics_data.shapes.world import (
    FOCAL,
    MOST_OBJECTS,
    SHAPES,
    Plane,
    Surface,
    World,
    draw,
    level,
    outline,
    reach,
    scale,
    second_view,
)

# A surface seen through the pixels of an image: rays, where they hit, and where a point seen now is seen next.

FAR = 1e3
"""Depth given to rays that never hit a wall or floor; something else is always seen there."""

Crop = tuple[slice, slice]


@dataclass(frozen=True)
class Hits:
    """Hits of rays on a plane: depth and plane coordinates."""

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

    def nearness(self, v: np.ndarray, u: np.ndarray) -> np.ndarray:
        """One over the depth along rays with these y / z and x / z; not above 0 where the plane is not hit."""
        return _along(self.plane.normal / (self.plane.origin @ self.plane.normal), v, u)

    def hits(self, v: np.ndarray, u: np.ndarray, unit: float = 1.0) -> Hits:
        """Depth, and plane coordinates in a unit, along rays with these y / z and x / z."""
        z, origin = 1 / np.maximum(self.nearness(v, u), 1 / FAR), self.plane.origin
        axes = self.plane.right / unit, self.plane.down / unit
        return Hits(z, *(z * _along(axis, v, u) - float(origin @ axis) for axis in axes))

    def footprint(self, z: np.ndarray) -> np.ndarray:
        """Extent of a pixel on the plane at depth z, in the direction in which it spans most.

        Rays taken as unit long.
        """
        return (z * z) * (2 / (FOCAL * self.size * abs(float(self.plane.origin @ self.plane.normal))))

    def flow(self, hits: Hits, after: Plane, v: np.ndarray, u: np.ndarray) -> np.ndarray:
        """By how many pixels down and right [2, ray] what rays hit moves until its plane is `after`."""
        x, y, z = after.point(hits.p, hits.q)
        return FOCAL * self.size / 2 * np.stack([y / z - v, x / z - u])


def _along(direction: np.ndarray, v: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Parts along a direction of rays with these y / z and x / z, and z = 1."""
    dx, dy, dz = direction.tolist()
    return dy * v + dz + dx * u


def slopes(count: int) -> np.ndarray:
    """y / z of the rows, or x / z of the columns, of so many points a side."""
    return (np.arange(count) + 0.5) * (2 / (count * FOCAL)) - 1 / FOCAL


def on_screen(point: np.ndarray, size: int) -> tuple[float, float]:
    """y and x in pixels of a point [3] in front of the camera."""
    x, y, z = point.tolist()
    return (FOCAL * y / z + 1) * size / 2, (FOCAL * x / z + 1) * size / 2


# The light that comes from a surface: texture, one lamp, rounded rims, a highlight, shadows on the room, haze.
#
# Radiances [channel, ray] add up; the square root shows them. All but the flat part of a surface is in the shading
# alone: the rim bends the light, not the depth.

_RIM = 0.3
"""Width of the rounded rim, in radii."""
_BEND, _DOME = 1.3, 0.3
"""Slope of the rim at the outline, and of the whole at one radius from the centre."""
_STEP = 1e-3
_PENUMBRA = 0.12
"""Width of a shadow's soft edge, in radii, beside what it gains with distance."""


def radiance(world: World, view: View, hits: Hits, casters: list[View]) -> np.ndarray:
    """Light from a surface where rays hit it, [3, ray]; `casters` throw shadows on wall and floor."""
    surface = view.surface
    share = surface.texture.share(hits.p, hits.q, view.footprint(hits.z))
    first, second = surface.tones[:, :, None]
    base = first + share * (second - first)
    if surface.shape:
        diffuse, highlight = _rounded(world, view, hits)
        light = base * (world.ambient + world.lamp * diffuse)
        light += world.lamp * surface.gloss * highlight
    else:
        away = float(view.plane.origin @ view.plane.normal)
        falls = max(0.0, -float(np.copysign(1, away)) * float(view.plane.normal @ world.light))
        light = base * (world.ambient + world.lamp * falls * _lit(world, view.plane, hits, casters))
    clear = np.exp(-world.fading * hits.z)
    return light * clear + world.haze[:, None] * (1 - clear)


def _rounded(world: World, view: View, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse and mirrored share of the lamp's light on an object, [ray]."""
    plane, p, q = view.plane, hits.p / view.surface.radius, hits.q / view.surface.radius
    shape, here = view.surface.shape, level(view.surface.shape, p, q)
    bend = _BEND * np.clip(1 + here / _RIM, 0, 1) / _STEP
    right = bend * (level(shape, p + _STEP, q) - here) + _DOME * p
    down = bend * (level(shape, p, q + _STEP) - here) + _DOME * q
    length = np.sqrt(1 + right * right + down * down)
    # Half way between the directions to the light and to the camera.
    between = world.light - plane.origin / np.linalg.norm(plane.origin)
    between = between / np.linalg.norm(between)

    def facing(direction: np.ndarray) -> np.ndarray:
        # The normal leans outwards, from the flat surface's towards the outline.
        flat, a, b = (float(axis @ direction) for axis in (-plane.normal, plane.right, plane.down))
        return np.maximum((flat + a * right + b * down) / length, 0)

    mirrored = facing(between) ** 2
    mirrored = mirrored * mirrored
    mirrored = mirrored * mirrored
    return facing(world.light), mirrored * mirrored * mirrored


def _lit(world: World, plane: Plane, hits: Hits, casters: list[View]) -> np.ndarray:
    """Share of the lamp that no object hides from points of wall or floor, [ray]."""
    lit = np.ones_like(hits.z)
    for caster in casters:
        thing, shape = caster.plane, caster.surface.shape
        rise = float(thing.normal @ world.light)
        if abs(rise) < 0.2:  # light along a flat object throws a thin line, which pixels would break up
            continue
        # How far light has come since the object's plane, and where it went through that: linear in p and q.
        back = -thing.normal / rise
        across = (
            (axis + (axis @ world.light) * back) / (caster.surface.radius * scale(shape))
            for axis in (thing.right, thing.down)
        )
        by = np.array([back, *across]) @ np.array([plane.origin - thing.origin, plane.right, plane.down]).T
        way, p, q = (first + of_p * hits.p + of_q * hits.q for first, of_p, of_q in by.tolist())
        edge = (_PENUMBRA + 0.04 * np.maximum(way, 0)) / scale(shape)
        hidden = np.clip(0.5 - outline(shape, p, q) / edge, 0, 1)
        lit = np.minimum(lit, np.where(way > 0, 1 - hidden, 1))
    return lit


BY_FRAME = ("pixels", "masks", "classes", "depth", "flow", "distance", "visible", "whole")
"""What of a scene has a row a frame."""
RENDERER_VERSION = 1
"""Part of every fingerprint: raise it whenever any pixel or truth of any scene changes."""

_POINTS = 3
"""Points along a pixel's side, odd so that one of them is the centre."""
_NEAR = 2**14
"""Numbers in an array that stays in the cache of a core."""
_NOISE = 2.5
"""Standard deviation of the sensor's noise, of 255."""


@dataclass(frozen=True)
class Scene:
    """A clip (with one frame, an image) and the truth about it.

    t: frames; k: objects; object i has number i + 1 in masks.

    pixels: uint8 [t, y, x, 3].
    masks: int8 [t, y, x], the object at the pixel's centre, the same number in all frames; 0 wall and floor.
    classes: int8 [t, y, x], 0 wall and floor, else 1 + where the object's shape stands in `SHAPES`.
    depth: float32 [t, y, x], distance along the camera's axis, in units of the world.
    flow: float32 [t, y, x, 2], by how many pixels the point seen there moves down and right until the next frame.
    centres: float64 [t + 1, k, 2], y and x of the objects' centres in pixels, seen or not (the centre of the first
        pixel is at 0.5, 0.5); the last row is the moment after the clip.
    distance: float64 [t, k], depth of the centres.
    visible: int [t, k], at how many pixels an object is seen.
    whole: int [t, k], at how many it would be if nothing stood before it.
    """

    world: World
    pixels: np.ndarray
    masks: np.ndarray
    classes: np.ndarray
    depth: np.ndarray
    flow: np.ndarray
    centres: np.ndarray
    distance: np.ndarray
    visible: np.ndarray
    whole: np.ndarray

    @property
    def least(self) -> float:
        """At how many pixels of a frame an object that counts as visible in it is seen."""
        return max(4, self.masks[0].size / 512)

    @property
    def seen(self) -> np.ndarray:
        """Mask of the objects that count as visible in some frame, bool [k]."""
        return np.asarray(self.visible.max(axis=0) >= self.least)

    @property
    def main(self) -> int:
        """The object seen at most pixels of all frames together, the first of equals."""
        return int(self.visible.sum(axis=0).argmax())


MOST_MATCHES = 32
"""Points of objects that are matched in two views of a scene."""


def render_views(seed: int, index: int, size: int, objects: int = MOST_OBJECTS) -> tuple[Scene, np.ndarray, np.ndarray]:
    """Scene `index` of a seed, its second view uint8 [y, x, 3], and [match, 5] as of `pad_matches`.

    Matches are points on objects that both views see, of which the same is seen in both by where a pixel is there and
    back.
    """
    world = draw(seed, index, objects)
    other, seen = second_view(world, seed, index)
    planes = [surface.plane(0, world.camera) for surface in world.surfaces]
    both = rendered([world, other], [planes, [seen(plane) for plane in planes], planes], seed, index, size)
    y, x = np.nonzero(both.masks[0])
    there = np.stack([y, x], axis=1) + 0.5 + both.flow[0, y, x]
    inside = ((there >= 0) & (there < size)).all(axis=1)
    y, x, there = y[inside], x[inside], there[inside]
    row, column = np.floor(there).astype(int).T
    back = both.flow[0, y, x] + both.flow[1, row, column]
    same = (both.masks[0, y, x] == both.masks[1, row, column]) & (np.abs(back).max(axis=1, initial=0) < 1)
    y, x, there = y[same], x[same], there[same]
    some = np.random.default_rng([seed, index, size]).permutation(len(y))[:MOST_MATCHES]
    points = np.column_stack([x[some] + 0.5, y[some] + 0.5, there[some, ::-1], np.full(len(some), size)])
    first = replace(both, **{name: getattr(both, name)[:1] for name in BY_FRAME}, centres=both.centres[[0, 2]])
    return first, both.pixels[1], points


def render(
    seed: int, index: int, size: int = 64, frames: int = 1, objects: int = MOST_OBJECTS, flow: bool = True
) -> Scene:
    """Scene `index` of a seed: the same world at any size, and the same first frames whatever their number.

    seed, index: 0 or more. size: pixels a side, 16 or more. objects: at most so many. It depends on nothing else, so
    that workers may share indices out as they like. Without `flow` that is empty.
    """
    world = draw(seed, index, objects)
    planes = [[surface.plane(t, world.camera) for surface in world.surfaces] for t in range(frames + 1)]
    return rendered([world] * frames, planes, seed, index, size, flow)


def rendered(
    worlds: Sequence[World], planes: Sequence[Sequence[Plane]], seed: int, index: int, size: int, flow: bool = True
) -> Scene:
    """The scene of worlds that differ in their light alone, from where their surfaces are in each frame and after."""
    world, frames = worlds[0], len(worlds)
    shape, k = (frames, size, size), len(world.objects)
    scene = Scene(
        world,
        pixels=np.empty((*shape, 3), np.uint8),
        masks=np.empty(shape, np.int8),
        classes=np.empty(shape, np.int8),
        depth=np.empty(shape, np.float32),
        flow=np.empty((*shape, 2 * flow), np.float32),
        centres=np.array([[on_screen(plane.origin, size) for plane in at[2:]] for at in planes]),
        distance=np.array([[plane.origin[2] for plane in at[2:]] for at in planes[:-1]]),
        visible=np.empty((frames, k), np.int64),
        whole=np.empty((frames, k), np.int64),
    )
    class_of = np.array([0, 0, *(1 + SHAPES.index(thing.shape) for thing in world.objects)], np.int8)
    middle, centres = (slice(_POINTS // 2, None, _POINTS),) * 2, slopes(size)
    for t in range(frames):
        views = [View(surface, plane, size) for surface, plane in zip(worlds[t].surfaces, planes[t], strict=True)]
        seen, scene.whole[t] = _visibility(views, size)
        top = seen[middle].copy()
        scene.masks[t], scene.classes[t] = np.maximum(top - 1, 0), class_of[top]
        scene.visible[t] = np.bincount(top.ravel(), minlength=k + 2)[2:]
        parts = list[tuple[np.ndarray, np.ndarray]]()
        for i, (view, after) in enumerate(zip(views, planes[t + 1], strict=True)):
            points = _points(seen == i)
            for some in np.array_split(np.flatnonzero(points), size * size // _NEAR + 1):
                v, u = (centres[place] for place in np.divmod(some, size))
                hits = view.hits(v, u)
                light = points.take(some) / _POINTS**2 * radiance(worlds[t], view, hits, views[2:])
                there = np.where(top.take(some) == i, [hits.z, *(view.flow(hits, after, v, u) if flow else ())], 0)
                parts.append((some, np.concatenate([light, there])))
        some, values = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
        images = np.array([np.bincount(some, row) for row in values]).reshape(-1, size, size)
        scene.depth[t], scene.flow[t] = images[3], np.moveaxis(images[4:], 0, -1)
        noise = np.random.default_rng([seed, index, t + 1]).standard_normal((size, size, 3), np.float32)
        for channel, radiances in enumerate(images[:3]):
            shown = np.sqrt(radiances) * 255 + _NOISE * noise[..., channel]
            scene.pixels[t, ..., channel] = np.clip(np.rint(shown), 0, 255)
    return scene


def _visibility(views: list[View], size: int) -> tuple[np.ndarray, list[int]]:
    """The nearest view at all points, int8 [y, x], and of objects the pixels if nothing hid them."""
    of_all, side = (slice(0, size), slice(0, size)), size * _POINTS
    seen, nearest, whole = np.empty((side, side), np.int8), np.empty((side, side)), [0] * (len(views) - 2)
    at = slopes(side)
    for rows, columns in _strips(of_all):
        wall, floor = (view.nearness(at[rows, None], at[columns]) for view in views[:2])
        seen[rows], nearest[rows] = floor > wall, np.maximum(wall, floor)
    for i, view in enumerate(views[2:], start=2):
        shape, unit = view.surface.shape, view.surface.radius * scale(view.surface.shape)
        for points in _strips(view.crop()):
            v, u = at[points[0], None], at[points[1]]
            hits = view.hits(v, u, unit)
            inside = outline(shape, hits.p, hits.q) <= 0
            whole[i - 2] += int(np.count_nonzero(inside[_POINTS // 2 :: _POINTS, _POINTS // 2 :: _POINTS]))
            nearer = inside & (hits.z * nearest[points] < 1)
            np.copyto(nearest[points], 1 / hits.z, where=nearer)
            np.copyto(seen[points], np.int8(i), where=nearer)
    return seen, whole


def _strips(crop: Crop) -> Iterator[Crop]:
    """Rows and columns of points of a crop, so few rows at once that arrays of them stay in the cache of a core."""
    rows, columns = (slice(part.start * _POINTS, part.stop * _POINTS) for part in crop)
    step = _POINTS * max(1, _NEAR // max(1, _POINTS * (columns.stop - columns.start)))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop)), columns


def _points(here: np.ndarray) -> np.ndarray:
    """The number of each pixel's points where something is, uint8 [y, x]."""
    rows = np.asarray(sum(here.view(np.uint8)[i::_POINTS] for i in range(_POINTS)))
    return np.asarray(sum(rows[:, i::_POINTS] for i in range(_POINTS)))
