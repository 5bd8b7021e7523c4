"""Matches between two views of each sample: the same point in both, any number a sample in one array."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diagnostics.datasets.boxes import by_extent, first_wrong
from diagnostics.errors import DiagnosticsError
from diagnostics.vocabulary import SPLITS

LENGTH = 4
"""The column behind x and y in the sample and x and y in its view: a length in the view's pixels, of which a share is
how far off a point may be found.
"""
_COLUMNS = 5


def pad_matches(matches: Sequence[Any], extents: Any) -> np.ndarray:
    """Matches of each sample as the values of a target, float64 [sample, 1 + match, 5]; NaN where there are fewer.

    Parameters
    ----------
    matches: of each sample [match, 5], or nothing: x and y of a point in its pixels, x and y of the same point in the
        pixels of its view, and a length in those (the longer side of the view, or of the object).
    extents: [sample, 4], height and width of each sample, and of its view.

    The first row of a sample holds width and height of it and of its view. Raises DiagnosticsError for rows of other
    lengths.

    Examples:
        >>> from diagnostics.plugin import pad_matches
        >>> pad_matches([[[2, 3, 6, 5, 8]]], [(8, 8, 8, 8)])[0].tolist()
        [[8.0, 8.0, 8.0, 8.0, 0.0], [2.0, 3.0, 6.0, 5.0, 8.0]]
    """
    rows = [np.asarray(each, dtype=np.float64) if len(each) else np.empty((0, _COLUMNS)) for each in matches]
    if odd := [i for i, each in enumerate(rows) if each.ndim != 2 or each.shape[1] != _COLUMNS]:
        raise DiagnosticsError(
            f"Matches of sample {odd[0]} are not [match, {_COLUMNS}]: give of each x and y here, x and y in the view, "
            f"and a length.",
            code="bad-target",
        )
    padded = np.full((len(rows), 1 + max(map(len, rows), default=0), _COLUMNS), np.nan)
    padded[:, 0, :LENGTH] = np.asarray(extents, dtype=np.float64).reshape(len(rows), 4)[:, [1, 0, 3, 2]]
    padded[:, 0, LENGTH] = 0
    for to, each in zip(padded[:, 1:], rows, strict=True):
        to[: len(each)] = each
    return padded


def there(matches: np.ndarray) -> np.ndarray:
    """The places that hold a match, bool [sample, match], of matches [sample, 1 + match, column]."""
    return ~np.isnan(matches[:, 1:, LENGTH])


def misfit_of_matches(matches: np.ndarray) -> str:
    """The reason why values are no matches, in words; "" where they are."""
    if matches.ndim != 3 or matches.shape[2] != _COLUMNS or not matches.shape[1] or matches.dtype.kind != "f":
        return f"its values are {matches.dtype} of shape {matches.shape}, not the matches of each sample"
    if not (matches[:, 0, :LENGTH] > 0).all():
        return "it does not give the extents of every sample and of its view"
    given, known = matches[:, 1:], ~np.isnan(matches[:, 1:]).all(axis=2)
    inside = ((given[..., :LENGTH] >= 0) & (given[..., :LENGTH] <= matches[:, :1, :LENGTH])).all(axis=2)
    wrong = {
        "is not finite": ~np.isfinite(given).all(axis=2),
        "lies outside of its sample or of the view": ~inside,
        "has no length above 0": ~(given[..., LENGTH] > 0),
    }
    return first_wrong("match", given, wrong, known)


def why_no_matches(name: str, matches: np.ndarray, split: np.ndarray) -> str:
    """The reason why points of a target called so cannot be looked for, as a sentence; "" where they can."""
    # What looks for them is not fitted.
    lacking = [part for part in SPLITS[1:] if not there(matches[split == part]).any()]
    return f"Target {name} has no match in its {lacking[0]} samples: use more samples." if lacking else ""


def crop_matches(
    matches: np.ndarray, covers: Callable[[tuple[int, ...]], tuple[tuple[float, float], ...]]
) -> np.ndarray:
    """Matches as a grid sees them: points in shares of the part that it covers, of which both lie in that.

    Others are gone. The first row of a sample holds width and height of the covered part of it and of its view, in
    pixels.
    """
    seen = matches.copy()
    for first in (0, 2):
        for rows, (width, height) in by_extent(matches[:, 0, first : first + 2]):
            (top, bottom), (left, right) = covers((int(height), int(width)))
            size = np.array([right - left, bottom - top])
            seen[rows, 0, first : first + 2] = size
            seen[rows, 1:, first : first + 2] = (matches[rows, 1:, first : first + 2] - (left, top)) / size
    points = seen[:, 1:, :LENGTH]
    # A point on the edge lies in the last cell.
    seen[:, 1:][((points < 0) | (points > 1)).any(axis=2)] = np.nan
    return seen
