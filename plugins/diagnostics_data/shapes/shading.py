"""The light that comes from a surface: texture, one lamp, rounded rims, a highlight, shadows on the room, haze.

Radiances [channel, y, x] add up; the square root shows them. All but the flat part of a surface is in the shading alone:
the rim bends the light, not the depth.
"""

import numpy as np

from diagnostics_data.shapes.patterns import level
from diagnostics_data.shapes.views import Crop, Hits, View, rays
from diagnostics_data.shapes.world import World

_RIM = 0.3
"""Width of the rounded rim, in radii."""
_BEND, _DOME = 1.3, 0.3
"""Slope of the rim at the outline, and of the whole at one radius from the centre."""
_STEP = 1e-3
_PENUMBRA = 0.12
"""Width of a shadow's soft edge, in radii, beside what it gains with distance."""


def radiance(world: World, view: View, hits: Hits, crop: Crop, casters: list[View]) -> np.ndarray:
    """Light from a surface at the pixels' centres of a crop, [3, y, x]; `casters` throw shadows on wall and floor."""
    surface = view.surface
    share = surface.texture.share(hits.p, hits.q, view.footprint(hits.z))
    first, second = surface.tones[:, :, None, None]
    base = first + share * (second - first)
    if surface.shape:
        diffuse, highlight = _rounded(world, view, hits)
        light = base * (world.ambient + world.lamp * diffuse)
        light += world.lamp * surface.gloss * highlight
    else:
        away = float(view.plane.origin @ view.plane.normal)
        falls = max(0.0, -float(np.copysign(1, away)) * float(view.plane.normal @ world.light))
        light = base * (world.ambient + world.lamp * falls * _lit(world, hits.z, crop, view.size, casters))
    clear = np.exp(-world.fading * hits.z)
    return light * clear + world.haze[:, None, None] * (1 - clear)


def _rounded(world: World, view: View, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse and mirrored share of the lamp's light on an object, [y, x]."""
    plane, p, q = view.plane, hits.p / view.surface.radius, hits.q / view.surface.radius
    shape, here = view.surface.shape, level(view.surface.shape, p, q)
    bend = _BEND * np.clip(1 + here / _RIM, 0, 1) / _STEP
    right = bend * (level(shape, p + _STEP, q) - here) + _DOME * p
    down = bend * (level(shape, p, q + _STEP) - here) + _DOME * q
    length = np.sqrt(1 + right * right + down * down)
    to_camera = -plane.origin / np.linalg.norm(plane.origin)
    between = world.light + to_camera
    between = between / np.linalg.norm(between)

    def facing(direction: np.ndarray) -> np.ndarray:
        # The normal leans outwards, from the flat surface's towards the outline.
        flat, a, b = (float(axis @ direction) for axis in (-plane.normal, plane.right, plane.down))
        return np.maximum((flat + a * right + b * down) / length, 0)

    mirrored = facing(between) ** 2
    mirrored = mirrored * mirrored
    mirrored = mirrored * mirrored
    return facing(world.light), mirrored * mirrored * mirrored


def _lit(world: World, z: np.ndarray, crop: Crop, size: int, casters: list[View]) -> np.ndarray:
    """Share of the lamp that no object hides from points of wall and floor at depth z, [y, x]."""
    v, u = rays(crop, 1, size)
    lit = np.ones_like(z)
    for caster in casters:
        plane, radius = caster.plane, caster.surface.radius
        rise = float(plane.normal @ world.light)
        if abs(rise) < 0.2:  # light along a flat object throws a thin line, which pixels would break up
            continue
        (a, oa), (b, ob), (n, on) = (
            (axis.tolist(), float(plane.origin @ axis)) for axis in (plane.right, plane.down, plane.normal)
        )
        way = (on - z * ((n[1] * v + n[2])[:, None] + n[0] * u)) / rise
        p = z * ((a[1] * v + a[2])[:, None] + a[0] * u) - oa + way * float(plane.right @ world.light)
        q = z * ((b[1] * v + b[2])[:, None] + b[0] * u) - ob + way * float(plane.down @ world.light)
        edge = _PENUMBRA + 0.04 * np.maximum(way, 0)
        hidden = np.clip(0.5 - level(caster.surface.shape, p / radius, q / radius) / edge, 0, 1)
        lit = np.minimum(lit, np.where(way > 0, 1 - hidden, 1))
    return lit
