"""The data set `shapes`: options checked, scenes rendered, what is known about them made into targets."""

import functools
import re

import numpy as np

from diagnostics.plugin import (
    Dataset,
    DiagnosticsError,
    Question,
    Target,
    check_known,
    pad_boxes,
    pad_matches,
    pad_phrases,
    split_groups,
)
from diagnostics_data.shapes.render import RENDERER_VERSION, Scene, render, render_views
from diagnostics_data.shapes.words import write
from diagnostics_data.shapes.world import COLOURS, MOST_OBJECTS, SHAPES, TEXTURES

# What a scene's caption says, and the caption's words as a vector.
#
# "two objects, from front to back: a red striped star at the upper left, and a blue plain disc in the middle". In clips
# each object is followed by where it goes: "moving left". Said of the objects that count as visible, in the order of
# their centres' depth in the first frame, and each in the third of the image, across and down, where its centre then
# is.

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
MOTIONS = ("moving up", "moving down", "moving left", "moving right", "hovering")
HOVERS = 0.02
"""The part of the image's side that an object must cover from the first frame to the last to be said to move."""
WORDS = (
    *NUMBERS, *COLOURS, *TEXTURES, *SHAPES, "upper", "lower", "left", "right", "top", "bottom", "middle",
    "up", "down", "hovering",
)  # fmt: skip
"""The words that `embedded` counts; the others (articles and the like) say nothing about a scene."""


def caption(scene: Scene) -> str:
    """One sentence about a scene, true by its own account of itself."""
    return _sentence([_phrase(scene, i, 0, moves=len(scene.masks) > 1) for i in _in_order(scene, 0, scene.seen)])


def frame_caption(scene: Scene, frame: int) -> str:
    """One sentence about a frame by itself.

    It tells of the objects that count as visible in it, where they then are, and no motion.
    """
    seen = scene.visible[frame] >= scene.least
    return _sentence([_phrase(scene, i, frame, moves=False) for i in _in_order(scene, frame, seen)])


def embedded(caption: str) -> np.ndarray:
    """Counts of each of `WORDS` in a caption, over the Euclidean length of that: float64 [word]."""
    words = re.findall("[a-z]+", caption)
    counts = np.array([words.count(word) for word in WORDS], dtype=np.float64)
    return counts / max(np.linalg.norm(counts), 1.0)


def place(y: float, x: float, size: int) -> str:
    """Place of a point in pixels within the image, in words."""
    row, column = (min(max(int(3 * at / size), 0), 2) for at in (y, x))
    if row == 1:
        return ("at the left", "in the middle", "at the right")[column]
    if column == 1:
        return ("at the top", "", "at the bottom")[row]
    return f"at the {('upper', '', 'lower')[row]} {('left', '', 'right')[column]}"


def motion(first: np.ndarray, last: np.ndarray, size: int) -> str:
    """The main direction from one place [y, x] to another, in words."""
    down, right = (last - first).tolist()
    if max(abs(down), abs(right)) < HOVERS * size:
        return MOTIONS[4]
    return MOTIONS[int(down > 0)] if abs(down) > abs(right) else MOTIONS[2 + int(right > 0)]


def _in_order(scene: Scene, frame: int, seen: np.ndarray) -> list[int]:
    """The objects of a mask, from front to back."""
    return [i for i in np.argsort(scene.distance[frame], kind="stable").tolist() if seen[i]]


def _sentence(phrases: list[str]) -> str:
    number = NUMBERS[len(phrases)]
    if len(phrases) < 2:
        return f"{number} object: {phrases[0]}" if phrases else f"{number} objects"
    return f"{number} objects, from front to back: {', '.join(phrases[:-1])}, and {phrases[-1]}"


def _phrase(scene: Scene, i: int, frame: int, moves: bool) -> str:
    thing, (frames, size, _) = scene.world.objects[i], scene.masks.shape
    noun = f"{thing.colour} {thing.texture.kind} {thing.shape}"
    article = "an" if noun[0] in "aeiou" else "a"
    y, x = scene.centres[frame, i].tolist()
    caption = f"{article} {noun} {place(y, x, size)}"
    return f"{caption} {motion(scene.centres[0, i], scene.centres[frames - 1, i], size)}" if moves else caption


# Questions about a scene, each with an answer of one word.
#
# A question has wordings to train on, and others that are held back: these use no word that the former do not, so that
# a model that learned the words from scratch can know them, in an order that it never saw.

WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shape": (
        ("which shape has the main object?", "what is the shape of the main object?", "name the shape of the main "
            "object."),
        ("the main object has which shape?", "what shape is the main object?"),
    ),
    "colour": (
        ("which colour has the main object?", "what is the colour of the main object?", "name the colour of the main "
            "object."),
        ("the main object has which colour?", "what colour is the main object?"),
    ),
    "count": (
        ("how many objects are there?", "what is the number of objects?", "name the number of objects."),
        ("there are how many objects?", "which number of objects is there?"),
    ),
    "upper_left": (
        (
            "what is in the upper left quarter?", "which shape is in the upper left quarter?",
            "name the shape in the upper left quarter.",
        ),
        ("the upper left quarter has which shape?", "in the upper left quarter is what?"),
    ),
}  # fmt: skip
"""Name of each question -> its wordings, and those that are held back."""
WRITTEN_WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "word": (
        ("which word is written?", "what is the written word?", "name the written word."),
        ("the written word is which?", "what word is written?"),
    ),
    "number": (
        ("which number is written?", "what is the written number?", "name the written number."),
        ("the written number is which?", "what number is written?"),
    ),
}
"""Those of what `shapes?words=1` writes."""
NOTHING = "nothing"


def questions(scene: Scene) -> tuple[Question, ...]:
    """Questions about a scene.

    Shape and colour of its main object, how many objects are visible, and the shape of the largest visible one whose
    centre is in the upper left quarter of the (first) image, or `NOTHING`.
    """
    main, count = scene.world.objects[scene.main], int(scene.seen.sum())
    pixels, half = scene.visible.sum(axis=0), scene.masks.shape[1] / 2
    there = [i for i, seen in enumerate(scene.seen) if seen and (scene.centres[0, i] < half).all()]
    corner = scene.world.objects[max(there, key=lambda i: pixels[i])].shape if there else NOTHING
    return (
        _question("shape", main.shape),
        _question("colour", main.colour),
        _question("count", NUMBERS[count]),
        _question("upper_left", corner),
    )


@functools.cache
def _question(name: str, answer: str) -> Question:
    """The same object for all scenes that share an answer."""
    return Question(name, answer, *(WORDINGS | WRITTEN_WORDINGS)[name])


MOST_BYTES = 2**32
"""What samples and dense targets may take in memory."""
PLACE_BYTES, CLIP_BYTES = 3 + 1 + 1 + 4, 8
"""A pixel's colours, number, class and depth, and, in clips, its flow."""


SPLITS_BY = ("samples", "pairs")
"""What is kept apart by train, val and test: samples, or pairs of the main object's shape and colour."""


class Shapes(Dataset):
    """A data set that also knows what no target can hold.

    centres: float32 [sample, frame, object, (y, x)], in pixels; visible: int32 [sample,
    frame, object], in pixels; objects that a scene lacks have NaN and 0. frame_texts: a caption of each frame by
    itself, [sample][frame].
    """

    centres: np.ndarray
    visible: np.ndarray
    frame_texts: tuple[tuple[str, ...], ...]


def build(
    n: int,
    size: int,
    frames: int,
    seed: int,
    objects: int = MOST_OBJECTS,
    split: str = SPLITS_BY[0],
    views: int = 1,
    words: int = 0,
) -> Shapes:
    """The data set, held in memory; see `diagnostics_data.plugin.shapes`."""
    _check(n, size, frames, seed, objects=objects, split=split, views=views, words=words)
    shape = (n, frames, size, size)
    pixels = np.empty((*shape, 3), np.uint8)
    maps = {
        "masks": np.empty(shape, np.int8),
        "classes": np.empty(shape, np.int8),
        "depth": np.empty(shape, np.float32),
    }
    if frames > 1:
        maps |= {"flow_y": np.empty(shape, np.float32), "flow_x": np.empty(shape, np.float32)}
    centres = np.full((n, frames, MOST_OBJECTS, 2), np.nan, np.float32)
    visible = np.zeros((n, frames, MOST_OBJECTS), np.int32)
    texts: list[str] = []
    frame_texts: list[tuple[str, ...]] = []
    asked: list[tuple[Question, ...]] = []
    numbers: list[dict[str, float]] = []
    pairs: list[tuple[str, str]] = []
    boxes: list[np.ndarray] = []
    matches: list[np.ndarray] = []
    named: list[list[tuple[str, np.ndarray]]] = []
    seconds = np.empty((n if views > 1 else 0, size, size, 3), np.uint8)
    for i in range(n):
        if views > 1:
            scene, seconds[i], points = render_views(seed, i, size, objects)
            matches.append(points)
        else:
            scene = render(seed, i, size, frames, objects, flow=frames > 1)
        known = len(scene.world.objects)
        pixels[i] = scene.pixels
        written = write(pixels[i, 0], seed, i) if words else {}
        for name, values in maps.items():
            values[i] = scene.flow[..., 0 if name == "flow_y" else 1] if "flow" in name else getattr(scene, name)
        centres[i, :, :known], visible[i, :, :known] = scene.centres[:-1], scene.visible
        texts.append(caption(scene))
        frame_texts.append(tuple(frame_caption(scene, t) for t in range(frames)))
        asked.append((*questions(scene), *(_question(name, text) for name, text in written.items())))
        numbers.append(_numbers(scene))
        boxes.append(_boxes(scene))
        named.append(phrases(scene, boxes[-1]))
        main = scene.world.objects[scene.main]
        pairs.append((main.shape, main.colour))
    if frames == 1:
        pixels, maps = pixels[:, 0], {name: values[:, 0] for name, values in maps.items()}
    columns = {name: np.array([row[name] for row in numbers]) for name in numbers[0]}
    ids = [f"shapes-{seed}-{i:06d}" for i in range(n)]
    targets = _targets(maps, columns, texts, boxes)
    if frames == 1:
        values, said = pad_phrases(named, [(size, size)] * n)
        targets["phrases"] = Target("phrases", values, about="boxes of what a phrase alone names", classes=said)
    if views > 1:
        about = "points of objects in a second view, moved, turned and under another lamp"
        targets["matches"] = Target("matches", pad_matches(matches, [[size] * 4] * n), about=about)
    by_pair = split == "pairs"
    dataset = Shapes(
        "shapes",
        "image" if frames == 1 else "video",
        pixels,
        ids,
        [split_of_pair(*pair) for pair in pairs] if by_pair else list(split_groups(ids, seed)),
        targets,
        # No digest of pixels: in a few of them the last bit may differ from one processor to the next.
        fingerprint=f"shapes {RENDERER_VERSION} n={n} size={size} frames={frames} seed={seed}"
        + (f" objects={objects}" if objects != MOST_OBJECTS else "")
        + (" split=pairs" if by_pair else "")
        + (f" views={views}" if views > 1 else "")
        + (" words=1" if words else ""),
        about="procedural scenes with exact ground truth of every kind",
        texts=texts,
        questions=asked,
        views=list(seconds),
        groups=[f"{colour} {shape}" for shape, colour in pairs] if by_pair else None,
        # Captions name sides, and colours that other hues or contrasts would make false.
        extras={"text_survives": ("brightness", "saturation")},
        exchangeable=not by_pair,
    )
    dataset.centres, dataset.visible, dataset.frame_texts = centres, visible, tuple(frame_texts)
    return dataset


def split_of_pair(shape: str, colour: str) -> str:
    """In which split all scenes are whose main object has that shape and colour, whatever the seed.

    Of the 64 pairs 40 are in train, 8 in val and 16 in test. Each shape is in each split with equally many colours, and
    each colour with equally many shapes, so that a split shows all of them, and only their pairs are new.
    """
    diagonal = (SHAPES.index(shape) + tuple(COLOURS).index(colour)) % len(SHAPES)
    return "train" if diagonal < 5 else "val" if diagonal == 5 else "test"


def _numbers(scene: Scene) -> dict[str, float]:
    """Numbers of a whole scene: of its main object in the last frame, in sides of the image."""
    frames, size, _ = scene.masks.shape
    (y, x), (y_after, x_after) = (scene.centres[[frames - 1, frames], scene.main] / size).tolist()
    numbers: dict[str, float] = {
        "label": SHAPES.index(scene.world.objects[scene.main].shape),
        "count": int(scene.seen.sum()),
        "y": y,
        "x": x,
    }
    if frames > 1:
        numbers |= {"velocity_y": y_after - y, "velocity_x": x_after - x}
    return numbers


def _boxes(scene: Scene) -> np.ndarray:
    """Around what is seen of each visible object in the first frame: x0, y0, x1, y1, its shape, no crowd, pixels."""
    boxes = np.zeros((len(scene.world.objects), 7))
    for i, thing in enumerate(scene.world.objects):
        rows, columns = np.nonzero(scene.masks[0] == i + 1)
        if len(rows) >= scene.least:
            corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            boxes[i] = *corners, SHAPES.index(thing.shape), 0, len(rows)
    return boxes[boxes[:, 6] > 0]


def phrases(scene: Scene, boxes: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Of each visible object colour and shape, with its texture where another has both, and its box; none of twins."""
    things = [scene.world.objects[i] for i in np.flatnonzero(scene.visible[0] >= scene.least)]
    ways = [(f"the {x.colour} {x.shape}", f"the {x.colour} {x.texture.kind} {x.shape}") for x in things]
    said = [text for each in ways for text in each]
    alone = [[text for text in each if said.count(text) == 1] for each in ways]
    return [(each[0], box[:4]) for each, box in zip(alone, boxes, strict=True) if each]


def _targets(
    maps: dict[str, np.ndarray], columns: dict[str, np.ndarray], texts: list[str], boxes: list[np.ndarray]
) -> dict[str, Target]:
    clip = "flow_y" in maps
    moment = "state" if clip else "value"
    last = " in the last frame" if clip else ""
    main = "the object seen at most pixels"
    targets = {
        "label": Target("label", columns["label"], about=f"shape of {main}", classes=SHAPES),
        "count": Target("value", columns["count"], units="objects", about="how many objects are visible"),
        **{
            axis: Target(
                moment,
                columns[axis],
                units="image sides",
                family="spatial",
                about=f"{axis} of the centre of {main}{last}",
            )
            for axis in ("y", "x")
        },
        "masks": Target("masks", maps["masks"], about="which object is seen, the same number in all frames"),
        "segmentation": Target(
            "token_label", maps["classes"], about="shape of what is seen", classes=("background", *SHAPES)
        ),
        "depth": Target("token_value", maps["depth"], units="world units", about="distance of what is seen"),
        "caption": Target(
            "caption", np.stack([embedded(text) for text in texts]), about="counts of the caption's words, normed"
        ),
    }
    if not clip:
        size = maps["masks"].shape[1:]
        targets["boxes"] = Target(
            "boxes", pad_boxes(boxes, [size] * len(boxes)), about="around what is seen of each object", classes=SHAPES
        )
    if clip:
        for axis, way in (("y", "down"), ("x", "right")):
            targets[f"velocity_{axis}"] = Target(
                "state",
                columns[f"velocity_{axis}"],
                units="image sides/frame",
                about=f"how far the centre of {main} moves {way} after the last frame",
            )
            targets[f"flow_{axis}"] = Target(
                "token_value",
                maps[f"flow_{axis}"],
                units="px/frame",
                about=f"how far what is seen moves {way} until the next frame",
            )
    return targets


def _check(n: int, size: int, frames: int, seed: int, objects: int, split: str, views: int, words: int) -> None:
    check_known("split", split, SPLITS_BY)
    for name, value, least, most in (
        ("n", n, 10, 1_000_000),
        ("size", size, 32, 512),
        ("frames", frames, 1, 64),
        ("objects", objects, 1, MOST_OBJECTS),
        ("views", views, 1, 2 if frames == 1 else 1),
        ("words", words, 0, 1 if frames == 1 else 0),
    ):
        if not least <= value <= most:
            raise DiagnosticsError(
                f"Dataset shapes cannot have {name}={value}: give {least} to {most}.", code="bad-value"
            )
    if seed < 0:
        raise DiagnosticsError(f"Dataset shapes cannot have seed={seed}: give 0 or more.", code="bad-value")
    each = frames * size**2 * (PLACE_BYTES if frames == 1 else PLACE_BYTES + CLIP_BYTES)
    if n * each > MOST_BYTES:
        raise DiagnosticsError(
            f"Dataset shapes with n={n}, size={size} and frames={frames} would take {n * each / 2**30:.1f} GiB of "
            f"memory: give n={MOST_BYTES // each} or less, or render scene by scene "
            f"(diagnostics_data.shapes.render.render).",
            code="too-large",
        )
