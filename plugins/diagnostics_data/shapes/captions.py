"""What a scene's caption says, and the caption's words as a vector.

"two objects, from front to back: a red striped star at the upper left, and a blue plain disc in the middle". In clips
each object is followed by where it goes: "moving left". Said of the objects that count as visible, in the order of their
centres' depth in the first frame, and each in the third of the image, across and down, where its centre then is.
"""

import re

import numpy as np

from diagnostics_data.shapes.patterns import SHAPES, TEXTURES
from diagnostics_data.shapes.render import Scene
from diagnostics_data.shapes.world import COLOURS

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
    """One sentence about a frame by itself: of the objects that count as visible in it, where they then are, and no motion."""
    seen = scene.visible[frame] >= scene.least
    return _sentence([_phrase(scene, i, frame, moves=False) for i in _in_order(scene, frame, seen)])


def embedded(caption: str) -> np.ndarray:
    """How often each of `WORDS` stands in a caption, over the Euclidean length of that: float64 [word]."""
    words = re.findall("[a-z]+", caption)
    counts = np.array([words.count(word) for word in WORDS], dtype=np.float64)
    return counts / max(np.linalg.norm(counts), 1.0)


def place(y: float, x: float, size: int) -> str:
    """Where in the image a point in pixels is, in words."""
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
    if abs(down) > abs(right):
        return MOTIONS[1 if down > 0 else 0]
    return MOTIONS[3 if right > 0 else 2]


def _in_order(scene: Scene, frame: int, seen: np.ndarray) -> list[int]:
    """The objects of a mask, from front to back."""
    return [i for i in np.argsort(scene.distance[frame], kind="stable").tolist() if seen[i]]


def _sentence(phrases: list[str]) -> str:
    number = NUMBERS[len(phrases)]
    if len(phrases) == 0:
        return f"{number} objects"
    if len(phrases) == 1:
        return f"{number} object: {phrases[0]}"
    *front, back = phrases
    return f"{number} objects, from front to back: {', '.join(front)}, and {back}"


def _phrase(scene: Scene, i: int, frame: int, moves: bool) -> str:
    thing, (frames, size, _) = scene.world.objects[i], scene.masks.shape
    noun = f"{thing.colour} {thing.texture.kind} {thing.shape}"
    article = "an" if noun[0] in "aeiou" else "a"
    y, x = scene.centres[frame, i].tolist()
    caption = f"{article} {noun} {place(y, x, size)}"
    return f"{caption} {motion(scene.centres[0, i], scene.centres[frames - 1, i], size)}" if moves else caption
