"""Boxes of objects: any number a sample in one array, and what a grid covers of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import SPLITS

CLASS, ASIDE, AREA = 4, 5, 6
"""Columns behind x0, y0, x1, y1: the class; 0 for a box that counts, or why not; the area of the object."""
CROWD, HIDDEN = 1, 2
"""A box around many objects, and one of which less than `LEAST_VISIBLE` is covered: to find them is neither right nor
wrong."""
LEAST_VISIBLE = 0.25
MOST_CLASSES = 2**15 - 1
"""Classes and background are told apart in two bytes a token."""
_COLUMNS = 7


def pad_boxes(boxes: Sequence[Any], extents: Any = None) -> np.ndarray:
    """Boxes of each sample as the values of a target, float64 [sample, 1 + box, column]; NaN where there are fewer.

    Parameters
    ----------
    boxes: of each sample [box, 5 to 7], or nothing: x0, y0, x1, y1 in its pixels, the number of a class, whether it is
        a crowd (0 or 1), and the area of the object in pixels (by default that of the box).
    extents: [sample, 2], height and width of each sample; without them they are seen when samples are read.

    The first row of a sample is its own extent, 0, 0, width, height, of class -1. Raises DiagnosticsError for rows of
    other lengths.

    Examples:
        >>> from diagnostics.plugin import pad_boxes
        >>> boxes = pad_boxes([[[2, 3, 6, 5, 0]], []], [(8, 8), (8, 8)])
        >>> boxes[0].tolist()
        [[0.0, 0.0, 8.0, 8.0, -1.0, 0.0, 64.0], [2.0, 3.0, 6.0, 5.0, 0.0, 0.0, 8.0]]
    """
    rows = [_rows(each, i) for i, each in enumerate(boxes)]
    padded = np.full((len(rows), 1 + max(map(len, rows), default=0), _COLUMNS), np.nan)
    padded[:, 0] = [0, 0, np.nan, np.nan, -1, 0, np.nan]
    if extents is not None:
        padded[:, 0, 2:4] = np.asarray(extents, dtype=np.float64).reshape(len(rows), 2)[:, ::-1]
        padded[:, 0, AREA] = padded[:, 0, 2] * padded[:, 0, 3]
    for to, each in zip(padded[:, 1:], rows, strict=True):
        given = to[: len(each)]
        given[:, ASIDE], given[:, AREA] = 0, (each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1])
        given[:, : each.shape[1]] = each
    return padded


def _rows(boxes: Any, sample: int) -> np.ndarray:
    try:
        rows = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):  # rows of unequal lengths, or no numbers
        rows = np.empty((1, 1))
    if rows.size == 0:
        return np.empty((0, 5))
    if rows.ndim != 2 or not 5 <= rows.shape[1] <= _COLUMNS:
        raise DiagnosticsError(
            f"Boxes of sample {sample} are not [box, 5 to 7]: give of each x0, y0, x1, y1 and a class, then whether it "
            "is a crowd, and an area.",
            code="bad-target",
        )
    return rows


def pad_phrases(
    phrases: Sequence[Sequence[tuple[str, Any]]], extents: Any = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Phrases of each sample and the boxes of what they name, as the values and the classes of a target `phrases`.

    phrases: of each sample (text, (x0, y0, x1, y1)) of any number, in its pixels; extents as in `pad_boxes`. A class is
    a text, without spaces around it. Raises DiagnosticsError for one without a letter or a number.

    Examples:
        >>> from diagnostics.plugin import pad_phrases
        >>> values, texts = pad_phrases([[("the red disc", (2, 3, 6, 5))], []], [(8, 8), (8, 8)])
        >>> values[0, 1, :5].tolist(), texts
        ([2.0, 3.0, 6.0, 5.0, 0.0], ('the red disc',))
    """
    stripped = [[(text.strip(), box) for text, box in of] for of in phrases]
    texts = sorted({text for of in stripped for text, _ in of})
    if odd := next((text for text in texts if not any(map(str.isalnum, text))), None):
        raise DiagnosticsError(f"A phrase is {odd!r}, which says nothing: leave it out.", code="bad-target")
    number = {text: i for i, text in enumerate(texts)}
    return pad_boxes([[[*box, number[text]] for text, box in of] for of in stripped], extents), tuple(texts)


def there(boxes: np.ndarray) -> np.ndarray:
    """The places that hold a box, bool [sample, box], of boxes [sample, 1 + box, column]."""
    return ~np.isnan(boxes[:, 1:, CLASS])


def misfit_of_boxes(boxes: np.ndarray, classes: Sequence[str], phrases: bool = False) -> str:
    """The reason why values are no boxes, in words; "" where they are.

    Those of `phrases` may have an embedding behind each.
    """
    columns = boxes.shape[2] if phrases and boxes.ndim == 3 else _COLUMNS
    if boxes.ndim != 3 or boxes.shape[2] != max(columns, _COLUMNS) or not boxes.shape[1] or boxes.dtype.kind != "f":
        return f"its values are {boxes.dtype} of shape {boxes.shape}, not the boxes of each sample"
    frame, known = boxes[:, :1], ~np.isnan(boxes[:, 1:]).all(axis=2)
    x0, y0, x1, y1, of, crowd, area = np.moveaxis(boxes[:, 1:, :_COLUMNS], 2, 0)
    outside = (x1 <= 0) | (y1 <= 0) | (x0 >= frame[..., 2]) | (y0 >= frame[..., 3])
    wrong = {
        "is not finite": ~np.isfinite(boxes[:, 1:]).all(axis=2),
        "has no area": (x1 <= x0) | (y1 <= y0) | (area <= 0),
        "lies outside of its sample": outside,
        "has no class that is a whole number from 0": (of < 0) | (of != np.round(of)),
        f"has a class above {len(classes) - 1}, the last that is named": (len(classes) > 0) & (of >= len(classes)),
        f"has a class that is not below {MOST_CLASSES}": (of >= MOST_CLASSES) & (not phrases),
        "says other than 0 or 1 of whether it is a crowd": (crowd != 0) & (crowd != 1),
    }
    return first_wrong("box", boxes[:, 1:, :5], wrong, known)


def first_wrong(what: str, rows: np.ndarray, wrong: Mapping[str, Any], known: Any) -> str:
    """The first of the known rows [sample, row, value] that is wrong in one of these ways, in words; "" for none.

    Args:
        what: what a row is called.
        rows: the values that are shown of it.
        wrong: what is said of a row -> whether it is true of it, [sample, row].
        known: whether there is a row, [sample, row].
    """
    for why, found in wrong.items():
        if (at := np.argwhere(found & known)).size:
            sample, row = at[0].tolist()
            more = f" (and {len(at) - 1} more)" if len(at) > 1 else ""
            shown = ", ".join(f"{value:g}" for value in rows[sample, row])
            return f"{what} {row} of sample {sample}, {shown}, {why}{more}"
    return ""


def why_no_boxes(name: str, boxes: np.ndarray, split: np.ndarray) -> str:
    """The reason why no probe can find the boxes of a target called so, as a sentence; "" where one can."""
    for part in SPLITS:
        of = boxes[split == part]
        if not (there(of) & (of[:, 1:, ASIDE] == 0)).any():
            return f"Target {name} has no box in its {len(of)} {part} samples: leave it out or use more samples."
    return ""


def crop_boxes(boxes: np.ndarray, covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]]) -> np.ndarray:
    """Boxes of samples whose extents are known as a grid sees them, in shares of the part that it covers of each.

    They are clipped, and their areas, in pixels of the sample, with them. One of which less than `LEAST_VISIBLE` is
    left is `HIDDEN`, one of which nothing is left is gone. The first row of a sample holds the covered part, in pixels.
    """
    seen = boxes.copy()
    for rows, (width, height) in by_extent(boxes[:, 0, 2:4]):
        (top, bottom), (left, right) = covers((int(height), int(width)))
        size = np.array([right - left, bottom - top])
        seen[rows, 0, 2:4], seen[rows, 0, AREA] = size, size.prod()
        corners = boxes[rows, 1:, :4].reshape(len(rows), -1, 2, 2)
        clipped = ((corners - (left, top)) / size).clip(0, 1)
        sides = clipped[:, :, 1] - clipped[:, :, 0]
        whole = (corners[:, :, 1] - corners[:, :, 0]) / size
        share = sides.prod(axis=2) / whole.prod(axis=2)
        of = seen[rows, 1:]
        of[..., :4], of[..., AREA] = clipped.reshape(*of.shape[:2], 4), of[..., AREA] * share
        of[..., ASIDE] = np.where((share < LEAST_VISIBLE) & (of[..., ASIDE] == 0), HIDDEN, of[..., ASIDE])
        of[(sides <= 0).any(axis=2)] = np.nan
        seen[rows, 1:] = of
    return seen


def by_extent(extents: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples of one extent, and its width and height, of extents [sample, (width, height)]."""
    different, of = np.unique(extents, axis=0, return_inverse=True)
    for i, extent in enumerate(different):
        yield np.flatnonzero(of.ravel() == i), extent
