"""The scenes of `shapes`, against a slow renderer that shares nothing with the fast one but the drawn world."""

from __future__ import annotations

import functools
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostics_data.plugin import datasets
from diagnostics_data.shapes import dataset as dataset_module
from diagnostics_data.shapes.dataset import (
    WORDINGS,
    WORDS,
    WRITTEN_WORDINGS,
    caption,
    embedded,
    motion,
    place,
    questions,
)
from diagnostics_data.shapes.render import Scene, render
from diagnostics_data.shapes.words import WRITTEN
from diagnostics_data.shapes.world import COLOURS, SHAPES, TEXTURES, Surface, World, level, reach
from torch import nn

import diagnostics as dx
from tests.support.refusals import refusal
from tests.support.tiny import Trunk, tiny_image_encoder

SIZE = 32


@functools.cache
def scene(index: int, size: int = SIZE, frames: int = 1, seed: int = 0) -> Scene:
    return render(seed, index, size, frames)


def make(**options: Any) -> Any:
    return datasets()["shapes"](**options)


# A slow renderer: rotation matrices, one ray at a time, outlines as lists of corners


def turned(axis: int, angle: float) -> np.ndarray:
    """Right-handed rotation about x, y or z."""
    cross = np.cross(np.eye(3)[axis], np.eye(3)).T
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross  # Rodrigues


def pose(world: World, surface: Surface, frame: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotation [3, 3] and centre [3] from the camera."""

    def moved(sway: Any) -> np.ndarray:
        return sway.reach * (np.sin(sway.rate * frame + sway.lag) - np.sin(sway.lag))

    yaw, pitch, roll = surface.turn
    rotation = turned(1, yaw) @ turned(0, pitch) @ turned(2, roll + surface.spin * frame)
    return rotation, surface.origin + moved(surface.sway) - moved(world.camera)


def ray(y: float, x: float, size: int) -> np.ndarray:
    """Towards a point in pixels; the image spans -1/2 to 1/2 at z = 1."""
    return np.array([x / size - 0.5, y / size - 0.5, 1.0])


class Slow:
    """A world at one frame, one ray at a time."""

    def __init__(self, world: World, frame: int, size: int) -> None:
        self.world, self.size = world, size
        self.poses = [pose(world, surface, frame) for surface in world.surfaces]

    def hit(self, i: int, y: float, x: float) -> tuple[float, float, float]:
        """Depth and plane coordinates of what a point in pixels shows of surface i's plane.

        The z is below 0 behind the camera: the unknowns of centre + p a + q b = z ray. The image spans -1/2 to 1/2 at z
        = 1.
        """
        rotation, centre = self.poses[i]
        ray = np.array([x / self.size - 0.5, y / self.size - 0.5, 1.0])
        z, p, q = np.linalg.solve(np.column_stack((ray, -rotation[:, 0], -rotation[:, 1])), centre)
        return float(z), float(p), float(q)

    def covers(self, i: int, y: float, x: float) -> tuple[float, float, float] | None:
        """The same, None where the outline does not reach."""
        z, p, q = self.hit(i, y, x)
        surface = self.world.surfaces[i]
        there = z > 0 and (not surface.shape or inside(surface.shape, p / surface.radius, q / surface.radius))
        return (z, p, q) if there else None

    def seen(self, y: float, x: float) -> list[tuple[float, int, float, float]]:
        """Depth, surface and plane coordinates of all that lies behind a point, the nearest first."""
        hits = [(i, self.covers(i, y, x)) for i in range(len(self.poses))]
        return sorted((h[0], i, h[1], h[2]) for i, h in hits if h)


def regular(corners: int, radius: float, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners around (0, 0), the first straight up or, with an even number of sides, as a square stands."""
    points = []
    for k in range(corners):
        points.append((radius, 2 * math.pi * k / corners))
        if inner is not None:
            points.append((inner, 2 * math.pi * (k + 0.5) / corners))
    return [(r * math.sin(angle), -r * math.cos(angle)) for r, angle in points]


GOLDEN = (1 + math.sqrt(5)) / 2
CORNERS = {
    "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "triangle": regular(3, 1.0),
    "star": regular(5, 1.0, 1 / GOLDEN**2),
    "cross": [
        (-0.3, -1),
        (0.3, -1),
        (0.3, -0.3),
        (1, -0.3),
        (1, 0.3),
        (0.3, 0.3),
        (0.3, 1),
        (-0.3, 1),
        (-0.3, 0.3),
        (-1, 0.3),
        (-1, -0.3),
        (-0.3, -0.3),
    ],
    "arrow": [(0, -1), (1, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-1, 0)],
}


def shoelace(corners: list[tuple[float, float]]) -> float:
    following = corners[1:] + corners[:1]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(corners, following, strict=True))) / 2


def inside(shape: str, p: float, q: float) -> bool:
    """Whether a point in radii lies in an outline that has the area of the unit disc."""
    if shape == "disc":
        return math.hypot(p, q) <= 1
    if shape == "ring":  # radii 1 to 1/2 have 3/4 of the disc's area
        return 0.5 <= math.hypot(p, q) * math.sqrt(0.75) <= 1
    if shape == "crescent":
        by = 1.4331931
        p, q = p / by - 0.386, q / by
        return math.hypot(p, q) <= 1 and math.hypot(p - 0.5, q) >= 0.8
    corners = CORNERS[shape]
    by = math.sqrt(math.pi / shoelace(corners))
    p, q, inside = p / by, q / by, False
    for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y > q) != (v > q) and p < x + (u - x) * (q - y) / (v - y):
            inside = not inside
    return inside


def crowded(count: int = 4, frames: int = 1) -> list[Scene]:
    """Scenes with objects of all shapes between them and much hidden."""
    scenes = [scene(i, SIZE, frames, 1) for i in range(60)]
    hidden = [float((s.whole - s.visible).sum()) for s in scenes]
    return [scenes[i] for i in np.argsort(hidden)[::-1][:count]]


def test_what_is_seen_is_what_a_slow_renderer_sees() -> None:
    """Masks, classes and depth of every pixel, and of every object the pixels that it covers, hidden or not."""
    shapes_seen, seen_behind = set[str](), 0
    for drawn in [*crowded(4), scene(0), scene(2)]:
        world, slow = drawn.world, Slow(drawn.world, 0, SIZE)
        shapes_seen |= {thing.shape for thing in world.objects}
        covered = np.zeros(len(world.surfaces), int)
        for row in range(SIZE):
            for column in range(SIZE):
                layers, at = slow.seen(row + 0.5, column + 0.5), (0, row, column)
                z, i, _, _ = layers[0]
                kind = world.surfaces[i].shape
                assert drawn.masks[at] == max(i - 1, 0), (row, column)
                assert drawn.classes[at] == (1 + SHAPES.index(kind) if kind else 0)
                assert drawn.depth[at] == pytest.approx(z, rel=1e-6)
                covered[[layer[1] for layer in layers]] += 1
                seen_behind += sum(layer[1] > 1 for layer in layers) > 1
        np.testing.assert_array_equal(drawn.whole[0], covered[2:])
    assert shapes_seen == set(SHAPES) and seen_behind > 100  # else occlusion was not tested


def test_counts_and_centres_follow_from_the_masks() -> None:
    for drawn in [*crowded(), *(scene(i, 64, 4) for i in range(6))]:
        frames, size, _ = drawn.masks.shape
        for i, thing in enumerate(drawn.world.objects):
            pixels = (drawn.masks == i + 1).sum(axis=(1, 2))
            np.testing.assert_array_equal(drawn.visible[:, i], pixels)
            assert (drawn.whole[:, i] >= pixels).all()
            assert drawn.seen[i] == (pixels.max() >= max(4, size**2 / 512))
            for t in range(frames + 1):
                _, (x, y, z) = pose(drawn.world, thing, t)
                np.testing.assert_allclose(drawn.centres[t, i], (size * (y / z + 0.5), size * (x / z + 0.5)), rtol=1e-9)
        assert drawn.visible[:, drawn.main].sum() == drawn.visible.sum(axis=0).max()


def test_flow_leads_to_the_same_point_of_the_surface() -> None:
    """Going by the flow and looking back along the ray there finds the same plane coordinates, by the slow renderer."""
    rng, checked, moved = np.random.default_rng(0), 0, 0.0
    for drawn in (scene(i, SIZE, 3) for i in range(12)):
        for t in range(3):  # the last frame's flow leads beyond the clip
            now, then = Slow(drawn.world, t, SIZE), Slow(drawn.world, t + 1, SIZE)
            on_objects = np.argwhere(drawn.masks[t] > 0)
            anywhere = rng.integers(0, SIZE, (20, 2))
            for row, column in [*rng.permutation(on_objects)[:20].tolist(), *anywhere.tolist()]:
                _, i, p, q = now.seen(row + 0.5, column + 0.5)[0]
                down, right = drawn.flow[t, row, column].tolist()
                landed = then.hit(i, row + 0.5 + down, column + 0.5 + right)
                assert landed[0] > 0
                np.testing.assert_allclose(landed[1:], (p, q), atol=2e-4 * (1 if i > 1 else 10))
                checked, moved = checked + 1, max(moved, math.hypot(down, right))
    assert checked > 1000 and moved > 1


def warped_difference(drawn: Scene, sign: float) -> float:
    """Mean absolute difference of colours between pixels and where the flow says that they go, both seen on one object."""
    size, total = drawn.masks.shape[1], []
    rows, columns = np.mgrid[:size, :size]
    for t in range(len(drawn.masks) - 1):
        y, x = rows + sign * drawn.flow[t, ..., 0], columns + sign * drawn.flow[t, ..., 1]
        y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
        fits = (y0 >= 0) & (x0 >= 0) & (y0 < size - 1) & (x0 < size - 1)
        y0, x0, fy, fx = y0[fits], x0[fits], (y - y0)[fits], (x - x0)[fits]
        corners = [(y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)]
        weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
        shown = sum(w[:, None] * drawn.pixels[t + 1][corner] for w, corner in zip(weights, corners, strict=True))
        same = np.all([drawn.masks[t + 1][corner] == drawn.masks[t][fits] for corner in corners], axis=0)
        total.append(np.abs(shown - drawn.pixels[t][fits])[same & (drawn.masks[t][fits] > 0)].ravel())
    return float(np.concatenate(total).mean())


def test_pictures_move_as_the_flow_says() -> None:
    clips = [scene(i, 64, 6) for i in range(10)]
    right, none, wrong = (np.mean([warped_difference(s, sign) for s in clips]) for sign in (1.0, 0.0, -1.0))
    assert right < 0.6 * none < none < wrong


def test_a_scene_is_the_same_at_every_size_and_length() -> None:
    """Where pixels' centres coincide (every third at three times the size) the truth is the same, to the last bit but one."""
    for i in range(6):
        small, large, clip = render(0, i, 32), render(0, i, 96), render(0, i, 32, 3)
        np.testing.assert_array_equal(small.masks, large.masks[:, 1::3, 1::3])
        np.testing.assert_allclose(small.depth, large.depth[:, 1::3, 1::3], rtol=1e-6)
        for name in ("pixels", "masks", "classes", "depth", "flow"):
            np.testing.assert_array_equal(getattr(small, name)[0], getattr(clip, name)[0])


def test_edges_are_smooth() -> None:
    """At the edge of an object a pixel is an average.

    It is nearer to the mean of the nine that show it at three times the size than to the middle one.
    """
    off: dict[str, list[np.ndarray]] = {"mean": [], "middle": []}
    for i in range(20):
        small, large = render(0, i, 32), render(0, i, 96)
        parts = large.masks[0].reshape(32, 3, 32, 3).transpose(0, 2, 1, 3).reshape(32, 32, 9)
        edge = (parts != parts[..., :1]).any(axis=2)
        shown = (large.pixels[0].astype(float) ** 2).reshape(32, 3, 32, 3, 3)  # light adds up, its roots do not
        for name, light in (("mean", shown.mean(axis=(1, 3))), ("middle", shown[:, 1, :, 1])):
            off[name].append(np.abs(np.sqrt(light) - small.pixels[0])[edge].ravel())
    mean = {name: float(np.concatenate(parts).mean()) for name, parts in off.items()}
    assert mean["mean"] < 0.5 * mean["middle"]


def test_outlines_have_one_area_and_stay_within_reach() -> None:
    p, q = np.meshgrid(*[np.linspace(-2.6, 2.6, 1301)] * 2)
    for shape in SHAPES:
        within = level(shape, p, q) <= 0
        assert within.mean() * 5.2**2 == pytest.approx(math.pi, rel=6e-3), shape
        assert np.hypot(p, q)[within].max() == pytest.approx(reach(shape), rel=6e-3)
        step = p[0, 1] - p[0, 0]
        gradient = np.hypot(*np.gradient(level(shape, p, q), step))[within]
        assert np.median(gradient) == pytest.approx(1, abs=0.01)  # a distance


# What one pixel gives away


def features(scenes: list[Scene], each: int = 60) -> dict[str, np.ndarray]:
    """Of random pixels: colours and their squares and products, place, class, depth and number of the scene."""
    rng = np.random.default_rng(0)
    result: dict[str, list[np.ndarray]] = {name: [] for name in ("colour", "place", "class", "depth", "scene")}
    for number, drawn in enumerate(scenes):
        at = tuple(rng.integers(0, drawn.masks.shape[1], (2, each)))
        rgb = drawn.pixels[0][at] / 255
        products = rgb[:, [0, 0, 1]] * rgb[:, [1, 2, 2]]
        for name, values in (
            ("colour", np.concatenate([rgb, rgb**2, products], axis=1)),
            ("place", np.stack(at, axis=1)),
            ("class", drawn.classes[0][at]),
            ("depth", drawn.depth[0][at]),
            ("scene", np.full(each, number)),
        ):
            result[name].append(values)
    return {name: np.concatenate(parts) for name, parts in result.items()}


def held_out(model: Any, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """Accuracy or R2 on the last third of the scenes."""
    fit = groups < groups.max() * 2 / 3
    return float(model.fit(x[fit], y[fit]).score(x[~fit], y[~fit]))


def test_one_pixel_gives_away_neither_class_nor_depth_and_its_surroundings_do() -> None:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    scenes = [render(7, i, 48) for i in range(450)]
    f = features(scenes)
    tree, classes = DecisionTreeRegressor(min_samples_leaf=100, random_state=0), f["class"]
    objects = classes > 0
    readers = (LogisticRegression(max_iter=300), DecisionTreeClassifier(min_samples_leaf=100, random_state=0))
    for model in readers:
        assert held_out(model, f["colour"][objects], classes[objects], f["scene"][objects]) < 1 / 8 + 0.05
    by_place = held_out(tree, f["place"], f["depth"], f["scene"])
    both = held_out(tree, np.concatenate([f["place"], f["colour"]], axis=1), f["depth"], f["scene"])
    by_colour = held_out(tree, f["colour"], f["depth"], f["scene"])
    on_objects = held_out(tree, f["colour"][objects], f["depth"][objects], f["scene"][objects])
    assert by_colour < 0.05 and on_objects < 0.05 and both < by_place + 0.05
    assert by_place > 0.3  # floors are near at the bottom of the image
    # The same readers find what is planted: a tint of one part in seven by class.
    tint = np.concatenate(
        [f["colour"], (classes + np.random.default_rng(1).normal(0, 1, len(classes)))[:, None]], axis=1
    )
    assert held_out(readers[1], tint[objects], classes[objects], f["scene"][objects]) > 0.3
    # What surrounds a pixel does: the outline's moments tell shapes apart, size and place on the screen the depth.
    outline, kinds, near, depth, number = [], [], [], [], []
    for i, drawn in enumerate(scenes):
        for k, thing in enumerate(drawn.world.objects):
            mask = drawn.masks[0] == k + 1
            if drawn.visible[0, k] == drawn.whole[0, k] > 60:
                outline.append(profile(mask))
                kinds.append(thing.shape)
                near.append([np.log(mask.sum()), *drawn.centres[0, k]])
                depth.append(drawn.distance[0, k])
                number.append(i)
    which = np.array(number)
    scores = held_out(
        DecisionTreeClassifier(min_samples_leaf=5, random_state=0), np.array(outline), np.array(kinds), which
    )
    assert scores > 0.45
    assert held_out(RidgeCV(), np.array(near), np.array(depth), which) > 0.25


def profile(mask: np.ndarray) -> np.ndarray:
    """A mask's share of rings around its centre of mass, and how it varies along them, after undoing its slant."""
    at = np.argwhere(mask) - np.argwhere(mask).mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(at.T))
    y, x = (at @ axes / np.sqrt(values)).T
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    rings = np.histogram(radius, bins=np.linspace(0, 2.6, 9))[0] / len(at)
    waves = [np.abs(np.mean(radius**3 * np.exp(1j * m * angle))) for m in (3, 4, 5)]
    return np.concatenate([rings, waves])


# Captions


def test_captions_say_what_is_there() -> None:
    described = re.compile(r"an? (\w+) (\w+) (\w+) ((?:at|in) the [a-z ]+)")
    for drawn in [scene(i, 64) for i in range(40)] + [scene(i, 64, 6) for i in range(10)]:
        sentence = caption(drawn)
        head, _, rest = sentence.partition(": ")
        result = described.findall(rest)
        order = [i for i in np.argsort(drawn.distance[0]) if drawn.seen[i]]
        assert ("one", "two", "three", "four", "five", "six").index(head.split()[0]) + 1 == len(order) == len(result)
        for i, (colour, texture, shape, where) in zip(order, result, strict=True):
            thing = drawn.world.objects[i]
            assert (colour, texture, shape) == (thing.colour, thing.texture.kind, thing.shape)
            first, last = drawn.centres[0, i] / 64, drawn.centres[-2, i] / 64
            for word, axis, low in (("left", 1, True), ("right", 1, False), ("upper", 0, True), ("lower", 0, False)):
                if word in where.split(" moving")[0].split():
                    assert first[axis] < 1 / 3 if low else first[axis] > 2 / 3
            moves = re.search(r"moving (\w+)", where)
            if len(drawn.masks) == 1:
                assert moves is None and "hovering" not in where
            elif moves:
                axis, way = {"up": (0, -1), "down": (0, 1), "left": (1, -1), "right": (1, 1)}[moves[1]]
                assert way * (last - first)[axis] == np.abs(last - first).max() > 0.02
            else:
                assert where.endswith("hovering") and np.abs(last - first).max() < 0.02
        words = re.findall("[a-z]+", sentence)
        vector = embedded(sentence)
        assert np.linalg.norm(vector) == pytest.approx(1) and len(vector) == len(WORDS)
        assert {WORDS[i] for i in np.flatnonzero(vector)} == set(words) & set(WORDS)
    assert len(set(WORDS)) == len(WORDS) and {*COLOURS, *TEXTURES, *SHAPES} < set(WORDS)


def test_words_for_places_and_motions() -> None:
    assert [place(y, x, 30) for y in (5, 15, 25) for x in (-2, 15, 40)] == [
        "at the upper left",
        "at the top",
        "at the upper right",
        "at the left",
        "in the middle",
        "at the right",
        "at the lower left",
        "at the bottom",
        "at the lower right",
    ]
    ways = [
        motion(np.zeros(2), np.array(way), 50) for way in ((-2.0, 1.0), (2.0, 1.0), (1.0, -2.0), (1.0, 2.0), (0.9, 0.9))
    ]
    assert ways == ["moving up", "moving down", "moving left", "moving right", "hovering"]


def test_colours_are_true() -> None:
    """The named colour of plain objects is the one whose hue is nearest to that of their pixels."""

    def hue(rgb: np.ndarray) -> complex:
        linear = rgb.astype(float) ** 2
        angle = linear @ np.exp(2j * np.pi * np.arange(3) / 3)
        return complex(angle / abs(angle))

    right = total = 0
    for i in range(150):
        drawn = scene(i, 64)
        for k, thing in enumerate(drawn.world.objects):
            if thing.texture.kind == "plain" and drawn.visible[0, k] > 40 and drawn.world.fading < 0.03:
                shown = hue(np.median(drawn.pixels[0][drawn.masks[0] == k + 1], axis=0))
                nearest = min(COLOURS, key=lambda name: abs(hue(np.array(COLOURS[name])) - shown))
                right, total = right + (nearest == thing.colour), total + 1
    assert total > 15 and right > 0.75 * total


# Questions


def test_questions_are_answered_by_what_is_there() -> None:
    """From masks and colours alone, by hand."""
    corners: set[str] = set()
    for i in range(40):
        drawn, asked = scene(i, 64), {question.name: question.answer for question in questions(scene(i, 64))}
        pixels = np.bincount(drawn.masks.ravel(), minlength=len(drawn.world.objects) + 1)[1:]
        main = drawn.world.objects[int(pixels.argmax())]
        assert (asked["shape"], asked["colour"]) == (main.shape, main.colour)
        assert asked["count"] == ("one", "two", "three", "four", "five", "six")[int((pixels >= 8).sum()) - 1]
        there = [k for k in np.argsort(-pixels) if pixels[k] >= 8 and (drawn.centres[0, k] < 32).all()]
        assert asked["upper_left"] == (drawn.world.objects[there[0]].shape if there else "nothing")
        corners.add(asked["upper_left"])
    assert "nothing" in corners and len(corners) > 3


def test_held_back_wordings_are_new_orders_of_known_words() -> None:
    every = WORDINGS | WRITTEN_WORDINGS
    known = {word for wordings, _ in every.values() for text in wordings for word in re.findall("[a-z]+", text)}
    for wordings, held_back in every.values():
        assert held_back and not set(wordings) & set(held_back)
        assert {word for text in held_back for word in re.findall("[a-z]+", text)} <= known
    one, two = questions(scene(0, 64))[:2]
    assert (one.wordings, one.held_back) == WORDINGS["shape"] and two.name == "colour"


# The data set


def test_a_word_and_a_number_are_written_and_asked_for() -> None:
    plain, written = (make(n=10, size=96, words=words) for words in (0, 1))
    assert written.fingerprint == f"{plain.fingerprint} words=1"
    for i in range(len(plain)):
        asked = {question.name: question.answer for question in written.questions[i]}
        assert {name: asked[name] in texts for name, texts in WRITTEN.items()} == {"word": True, "number": True}
        assert list(asked)[:4] == [question.name for question in plain.questions[i]]
        changed = (plain[i] != written[i]).any(axis=2)
        # One in each half, and most of the scene is as it was.
        assert min(changed[:48].sum(), changed[48:].sum()) > 40
        assert changed.mean() < 0.3
        np.testing.assert_array_equal(plain.targets["masks"].values[i], written.targets["masks"].values[i])
    # What is written is that of the seed, and looks different where it differs.
    again = make(n=10, size=48, words=1)
    assert [[q.answer for q in of] for of in again.questions] == [[q.answer for q in of] for of in written.questions]
    words = {asked[4].answer: written[i] for i, asked in enumerate(written.questions)}
    assert len(words) > 3
    assert {len(word) for word in WRITTEN["word"]} == {4}


def test_images_hold_what_the_scenes_say() -> None:
    data, more, other = make(n=12, size=SIZE), make(n=15, size=SIZE), make(n=12, size=SIZE, seed=1)
    targets = data.targets
    assert data.modality == "image" and list(targets) == [
        "label",
        "count",
        "y",
        "x",
        "masks",
        "segmentation",
        "depth",
        "caption",
        "boxes",
        "phrases",
    ]
    kinds = [targets[name].kind for name in targets]
    assert kinds == [
        "label",
        "value",
        "value",
        "value",
        "masks",
        "token_label",
        "token_value",
        "caption",
        "boxes",
        "phrases",
    ]
    for i in range(12):
        drawn = render(0, i, SIZE)
        assert data.ids[i] == f"shapes-0-{i:06d}" and data[i].dtype == np.uint8
        np.testing.assert_array_equal(data[i], drawn.pixels[0])
        np.testing.assert_array_equal(data[i], more[i])
        for name, array in (("masks", drawn.masks), ("segmentation", drawn.classes), ("depth", drawn.depth)):
            np.testing.assert_array_equal(targets[name].values[i], array[0])
            np.testing.assert_array_equal(more.targets[name].values[i], array[0])
        assert targets["label"].values[i] == SHAPES.index(drawn.world.objects[drawn.main].shape)
        assert targets["count"].values[i] == drawn.seen.sum() >= 1
        np.testing.assert_allclose([targets[a].values[i] for a in "yx"], drawn.centres[0, drawn.main] / SIZE)
        assert data.texts[i] == caption(drawn) == more.texts[i]
        assert data.questions[i] == questions(drawn)
        np.testing.assert_array_equal(targets["caption"].values[i], embedded(data.texts[i]))
        k = len(drawn.world.objects)
        np.testing.assert_array_equal(data.visible[i, :, :k], drawn.visible)
        np.testing.assert_allclose(data.centres[i, :, :k], drawn.centres[:-1], rtol=1e-6)
        assert np.isnan(data.centres[i, :, k:]).all() and not data.visible[i, :, k:].any()
    assert not np.array_equal(data[0], other[0]) and len({data.fingerprint, more.fingerprint, other.fingerprint}) == 3
    assert data.fingerprint == make(n=12, size=SIZE).fingerprint and tuple(data.counts().values()) == (7, 3, 2)
    # Small enough to keep: a byte a pixel.
    assert targets["masks"].values.dtype == targets["segmentation"].values.dtype == np.int8


def test_clips_hold_motion_too() -> None:
    data = make(n=10, size=SIZE, frames=4)
    assert data.modality == "video" and data[0].shape == (4, SIZE, SIZE, 3)
    for i in range(10):
        drawn = render(0, i, SIZE, 4)
        np.testing.assert_array_equal(data[i], drawn.pixels)
        for a, axis in enumerate("yx"):
            place, after = drawn.centres[3:, drawn.main, a] / SIZE
            assert data.targets[axis].values[i] == pytest.approx(place)
            assert data.targets[f"velocity_{axis}"].values[i] == pytest.approx(after - place)
            np.testing.assert_array_equal(data.targets[f"flow_{axis}"].values[i], drawn.flow[..., a])
    assert {data.targets[name].kind for name in ("x", "velocity_y")} == {"state"}
    assert data.centres.shape == (10, 4, 6, 2) and "moving" in " ".join(data.texts)


def test_bounds_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, allowed in (
        ({"n": 9}, "10 to 1000000"),
        ({"size": 31}, "32 to 512"),
        ({"frames": 0}, "1 to 64"),
        ({"seed": -1}, "0 or more"),
    ):
        ((name, value),) = wrong.items()
        with refusal("bad-value", f"{name}={value}", allowed):
            make(**wrong)
    with refusal("too-large", "8.3", "481"):
        make(n=1000, size=512, frames=2)
    # The bound is what samples and dense targets really take.
    for frames in (1, 2):
        monkeypatch.undo()
        data = make(n=10, size=SIZE, frames=frames)
        maps = ("token_label", "token_value", "masks")
        held = data.samples.nbytes + sum(t.values.nbytes for t in data.targets.values() if t.kind in maps)
        limit = held - 1
        monkeypatch.setattr(dataset_module, "MOST_BYTES", limit)
        with refusal("too-large", "9"):
            make(n=10, size=SIZE, frames=frames)
        monkeypatch.setattr(dataset_module, "MOST_BYTES", held)
        make(n=10, size=SIZE, frames=frames)


def test_scenes_go_to_workers_and_back() -> None:
    drawn = pickle.loads(pickle.dumps(scene(3, SIZE, 2)))  # noqa: S301  (this process wrote it)
    np.testing.assert_array_equal(drawn.flow, render(0, 3, SIZE, 2).flow)


def test_the_renderer_has_not_changed_without_a_new_version() -> None:
    """Means over blocks of pixels, which see a change of a hundredth and not a last bit. Raise RENDERER_VERSION with them."""
    from diagnostics_data.shapes.render import RENDERER_VERSION

    assert FROZEN["version"] == RENDERER_VERSION
    for (index, frames), (colours, depths, masks, flows) in FROZEN["scenes"].items():
        drawn = render(11, index, 32, frames)
        last = frames - 1
        blocks = drawn.pixels[last].astype(float).reshape(2, 16, 2, 16, 3).mean(axis=(1, 3)).ravel()
        np.testing.assert_allclose(blocks, colours, atol=0.02)
        np.testing.assert_allclose(drawn.depth[last].reshape(2, 16, 2, 16).mean(axis=(1, 3)).ravel(), depths, atol=1e-4)
        np.testing.assert_array_equal(
            drawn.masks[last].reshape(2, 16, 2, 16).sum(axis=(1, 3), dtype=int).ravel(), masks
        )
        np.testing.assert_allclose(np.abs(drawn.flow[last]).mean(axis=(0, 1)), flows, atol=1e-5)


FROZEN: dict[str, Any] = {
    "version": 1,
    # (index, frames): colours, depths, sums of masks, mean of |flow|
    "scenes": {
        (0, 1): (
            [164.25, 66.59, 47.86, 161.47, 69.94, 45.15, 165.96, 141.17, 83.05, 161.4, 139.55, 77.88],
            [11.7383, 9.8792, 6.2604, 4.6354],
            [0, 48, 0, 57],
            [0.05781, 0.06046],
        ),
        (1, 3): (
            [60.55, 124.79, 154.3, 39.32, 126.55, 138.32, 99.29, 43.75, 57.84, 99.4, 51.64, 64.4],
            [11.1079, 11.8391, 6.9756, 6.532],
            [77, 0, 0, 0],
            [0.03992, 0.08866],
        ),
        (2, 1): (
            [171.82, 131.94, 139.49, 161.38, 118.02, 140.72, 146.38, 53.8, 116.8, 157.53, 65.83, 116.54],
            [11.2043, 9.3687, 7.9097, 7.5917],
            [7, 56, 3, 9],
            [0.03643, 0.12953],
        ),
        (3, 2): (
            [126.27, 171.07, 122.2, 105.59, 167.4, 86.98, 84.02, 149.34, 101.54, 107.56, 161.89, 103.54],
            [7.7059, 10.4513, 6.5733, 7.322],
            [628, 393, 192, 355],
            [0.10961, 0.31801],
        ),
    },
}


# Through the whole instrument


def test_a_run_reads_every_kind_of_target_of_images(tmp_path: Path) -> None:
    data = make(n=30, size=SIZE)
    encoder = tiny_image_encoder(side=SIZE, blocks=1)
    measures = ["linear_probe", "segmentation_probe", "caption_probe", "object_discovery"]
    run = dx.run(encoder, data, out=tmp_path / "run", measures=measures, controls=False, report=False)
    result = {leaf.path.strip("/") for leaf in run.results.leaves}
    assert {"linear_probe/depth", "segmentation_probe/segmentation", "caption_probe/caption"} <= result
    assert {f"linear_probe/{name}" for name in ("label", "count", "x", "y")} <= result
    assert any(path.endswith("/masks") for path in result)


def test_a_run_reads_every_kind_of_target_of_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = Trunk(nn.Conv3d(3, 8, (1, 8, 8), (1, 8, 8)), 8, 1)
    taps = dx.stack_taps("blocks", 1, 8, dx.Grid((4, 4, 4), ("t", "y", "x")), norm="norm")

    def preprocess(sample: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(sample, np.float32) / 255 - 0.5).permute(3, 0, 1, 2).contiguous()

    encoder = dx.TorchEncoder(
        "tiny-video", "video", trunk, taps, "norm", preprocess, np.zeros((4, SIZE, SIZE, 3), np.uint8)
    )
    measures = ["linear_probe", "segmentation_probe", "label_propagation"]
    run = dx.run(
        encoder, make(n=30, size=SIZE, frames=4), out=tmp_path / "run", measures=measures, controls=False, report=False
    )
    result = {leaf.path.strip("/") for leaf in run.results.leaves}
    dense = {"linear_probe/flow_x", "linear_probe/flow_y", "linear_probe/depth", "segmentation_probe/segmentation"}
    assert dense | {"linear_probe/velocity_x", "linear_probe/label"} <= result
    assert any(path.endswith("/masks") for path in result)


def test_pairs_of_shape_and_colour_are_in_one_split_whatever_the_seed() -> None:
    """Shape and colour are read from the answers to questions, not from what decides the split."""
    seen: dict[str, set[str]] = {}
    for seed in (0, 1):
        data = make(n=400, size=SIZE, objects=1, split="pairs", seed=seed)
        for asked, split, group in zip(data.questions, data.split, data.groups, strict=True):
            answers = {question.name: question.answer for question in asked}
            assert group == f"{answers['colour']} {answers['shape']}"
            seen.setdefault(group, set()).add(split)
    assert len(seen) == 64 and all(len(splits) == 1 for splits in seen.values())
    for split, count in {"train": 5, "val": 1, "test": 2}.items():
        pairs = [pair.split() for pair, splits in seen.items() if splits == {split}]
        for names in zip(*pairs, strict=True):
            assert len(set(names)) == 8 and all(names.count(name) == count for name in names)


def test_an_unknown_way_to_split_is_refused_with_those_that_there_are() -> None:
    with refusal("unknown-name", "pair"):
        make(n=10, size=SIZE, split="pair")
