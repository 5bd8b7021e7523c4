"""Questions about a scene, each with an answer of one word.

A question has wordings to train on, and others that are held back: these use no word that the former do not, so that a model
that learned the words from scratch can know them, in an order that it never saw.
"""

import functools

from diagnostics import Question
from diagnostics_data.shapes.captions import NUMBERS
from diagnostics_data.shapes.render import Scene

WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shape": (
        ("which shape has the main object?", "what is the shape of the main object?", "name the shape of the main object."),
        ("the main object has which shape?", "what shape is the main object?"),
    ),
    "colour": (
        ("which colour has the main object?", "what is the colour of the main object?", "name the colour of the main object."),
        ("the main object has which colour?", "what colour is the main object?"),
    ),
    "count": (
        ("how many objects are there?", "what is the number of objects?", "name the number of objects."),
        ("there are how many objects?", "which number of objects is there?"),
    ),
    "upper_left": (
        ("what is in the upper left quarter?", "which shape is in the upper left quarter?", "name the shape in the upper left quarter."),
        ("the upper left quarter has which shape?", "in the upper left quarter is what?"),
    ),
}  # fmt: skip
"""Name of each question -> its wordings, and those that are held back."""
NOTHING = "nothing"


def questions(scene: Scene) -> tuple[Question, ...]:
    """What can be asked about a scene: shape and colour of its main object, how many objects are visible, and the shape of the
    largest visible one whose centre is in the upper left quarter of the (first) image, or `NOTHING`."""
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
    return Question(name, answer, *WORDINGS[name])
