"""Targets of a dataset: the labels and values that probes predict from activations.

They may be maps that are read when they are asked for, and dense: on a tap's grid these are the mean, the most frequent
class or any event of each cell, where it covers a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diagnostics.datasets.boxes import misfit_of_boxes, pad_boxes
from diagnostics.datasets.matches import misfit_of_matches
from diagnostics.datasets.questions import misfit_of_questions
from diagnostics.errors import DiagnosticsError, few
from diagnostics.vocabulary import BOXED, BY_PLACE, DENSE, SPLITS, Family, Kind


class LazySamples(Sequence[Any]):
    """`n` samples, the i-th of which is `read(i)`; nothing is kept.

    An integer, from the end where it is negative, gives a sample; a slice, a mask or several integers give those
    samples, again read when they are asked for. Raises IndexError for what lies beyond the samples, as numpy does.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> def read(i):
        ...     print(f"reading sample {i}")
        ...     return np.full((2, 2), i)
        >>> samples = dx.LazySamples(1000, read)
        >>> ten = samples[100:110]
        >>> len(ten)
        10
        >>> print(ten[-1])
        reading sample 109
        [[109 109]
         [109 109]]
    """

    def __init__(self, n: int, read: Callable[[int], Any]) -> None:
        self._rows, self._read = np.arange(n, dtype=np.min_scalar_type(n)), read

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self._rows[index]
        if np.ndim(rows) == 0:
            return self._read(int(rows))
        if np.ndim(rows) > 1:
            raise IndexError(f"samples lie along one axis, and the index asks for {np.ndim(rows)}")
        chosen = LazySamples(0, self._read)
        chosen._rows = rows
        return chosen

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} samples>"


def pad_series(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Series or audio of unequal length as one array, float32 [sample, longest] or [sample, longest, variate].

    They are padded with NaN on the left, so that all end at the last step and a `state` or `future` refers to the same
    place. Raises DiagnosticsError where their numbers of axes or of variates differ.

    Examples:
        >>> import numpy as np
        >>> import diagnostics as dx
        >>> dx.pad_series([np.array([1.0, 2.0, 3.0]), np.array([4.0])])
        array([[ 1.,  2.,  3.],
               [nan, nan,  4.]], dtype=float32)
    """
    ranks = {np.ndim(sample) for sample in samples}
    variates = {np.shape(sample)[1:] for sample in samples}
    if len(ranks) != 1 or len(variates) != 1 or not ranks <= {1, 2}:
        raise DiagnosticsError(
            "Series can only be padded to one length where each is [time] or each is [time, variate] with as many "
            "variates.",
            code="bad-shape",
        )
    longest = max(len(sample) for sample in samples)
    array = np.full((len(samples), longest, *variates.pop()), np.nan, dtype=np.float32)
    for row, sample in zip(array, samples, strict=True):
        row[longest - len(sample) :] = sample
    return array


@dataclass(frozen=True, kw_only=True)
class TargetInfo:
    """Facts of a target besides its kind and values, in a dataset and in a store alike; see `Target`."""

    units: str = ""
    about: str = ""
    classes: tuple[str, ...] = ()
    period: float | None = None
    naive: np.ndarray | None = None


@dataclass(frozen=True)
class Target(TargetInfo):
    """A property of the samples that a probe predicts.

    Parameters
    ----------
    kind:
        `label`: int class [sample];
        `value`, `state`: float [sample], a property of the whole sample, or of its last moment;
        `future`: float [sample] or [sample, horizon], moments after the sample;
        `token_label`, `token_value`, `event`: int class, float, or 0 and 1 [sample, *extent], dense over the sample's
        own grid axes (pixels, steps, frames and pixels);
        `boxes`: of each image any number of boxes around objects, as `plugin.pad_boxes` takes and gives them;
        `phrases`: of each image any number of texts with the boxes of what they name, as of `plugin.pad_phrases`;
        `questions`: what is asked of each image, with the answers, which a run makes of `Dataset.questions`;
        `matches`: of each image any number of points with the same points of its view, as `plugin.pad_matches` gives;
        `masks`: int [sample, *extent], which object a place belongs to (from 1; 0 background);
        `caption`: float [sample, feature], text embeddings of each sample's caption, equal rows for equal captions.
        Unknown values are NaN; unknown labels and masks are -1.
    values: the array; its first axis is the dataset's samples, in order. Maps of unequal extents are given as a list,
    those that
        are read when they are asked for as `LazySamples`; both are kept as an object array [sample], of which
        `np.asarray(values[i])` is a map.
    units: of the values, `""` where they have none.
    about: a description in a few words.
    classes: names of the classes of a `label`.
    family: replaces the family that follows from the kind.
    period: of a periodic `value` or `state` (2 pi of an angle): its sine and cosine are predicted.
    naive: forecasts without a model, shaped like the values of a `future` (see `dynamics.seasonal_naive`): the
    reference of
        its forecasting probe.

    Examples:
        A class that is not known for the last sample, and an angle, for which 0 and 2 pi are the same:

        >>> import numpy as np
        >>> import diagnostics as dx
        >>> animal = dx.Target("label", np.array([0, 1, 1, -1]), classes=("cat", "dog"))
        >>> animal
        <Target label: 4, classes cat, dog>
        >>> angle = dx.Target("value", np.array([0.1, 3.1, 6.2, 0.0]), period=2 * np.pi)
        >>> animal.dense, angle.dense
        (False, False)

        Masks of two photos of unequal extents, read one after another:

        >>> masks = dx.Target("masks", [np.zeros((2, 3), int), np.ones((4, 4), int)])
        >>> [block.shape for block in masks.blocks()]
        [(1, 2, 3), (1, 4, 4)]
    """

    kind: Kind
    values: np.ndarray
    family: Family | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        given: Any = self.values
        if self.kind == "boxes" and isinstance(given, (list, tuple)):
            given = pad_boxes(given)
        lazy = isinstance(given, LazySamples) or (isinstance(given, list) and len(set(map(np.shape, given))) > 1)
        values = one_by_one(given) if lazy and self.kind in BY_PLACE else np.asarray(given)
        classes = self.kind.endswith(("label", "masks"))
        # Maps of classes and objects stay as small as they come: eight bytes a pixel may be too much.
        if values.dtype.kind in "ub" or (values.dtype.kind == "i" and not (classes and values.ndim > 1)):
            values = values.astype(np.int64 if classes else np.float64)
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        of = f", classes {few(self.classes)}" if self.classes else f", in {self.units}" if self.units else ""
        return f"<{type(self).__name__} {self.kind}: {' x '.join(map(str, self.values.shape))}{of}>"

    @property
    def dense(self) -> bool:
        """True for a value at every place of a sample."""
        return self.kind in DENSE

    def blocks(self) -> Iterator[np.ndarray]:
        """The values in order, by blocks [sample, ...] of one shape: all at once, or map by map where they are kept so.

        Raises DiagnosticsError for a map that does not fit the kind.
        """
        if self.values.dtype != object:
            yield self.values
            return
        axes = np.ndim(self.values[0])
        for i in range(len(self.values)):
            one = self._alone(i)
            wrong = misfit(one)
            if wrong or one.values.ndim != 1 + axes:
                wrong = wrong or f"it has the shape {one.values.shape[1:]} and the first one {axes} axes"
                raise DiagnosticsError(f"Map {i} of a target is of kind {self.kind}, but {wrong}.", code="bad-target")
            yield one.values

    def _alone(self, sample: int) -> Target:
        return replace(self, values=np.asarray(self.values[sample])[None])


@dataclass(frozen=True, slots=True)
class _Map:
    """A map that is read when an array is made of it."""

    maps: Sequence[Any]
    sample: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.maps[self.sample], dtype=dtype)


def one_by_one(maps: Sequence[Any]) -> np.ndarray:
    """Maps of unequal extents, or read when they are asked for, as the values of a `Target`.

    They are an object array [sample].
    """
    return np.fromiter((_Map(maps, i) for i in range(len(maps))), dtype=object, count=len(maps))


def extremes(target: Target, split: np.ndarray) -> np.ndarray:
    """Lowest and highest known value [sample, 2] of maps that are read one by one.

    Those of each split are read until two values differ, and the others count as unknown.
    """
    classes = target.kind == "token_label"
    ends = np.full((len(split), 2), -1 if classes else np.nan)
    for part in SPLITS:
        rows, low, high = np.flatnonzero(split == part), np.inf, -np.inf
        for row, maps in zip(rows, replace(target, values=target.values[rows]).blocks(), strict=False):
            known = maps[maps >= 0 if classes else np.isfinite(maps)]
            if known.size:
                ends[row] = known.min(), known.max()
                low, high = min(low, ends[row, 0]), max(high, ends[row, 1])
            if low < high:
                break
    return ends


_FORMS = {
    "label": ((1,), "one integer class for each sample"),
    "value": ((1,), "one number for each sample"),
    "state": ((1,), "one number for each sample"),
    "future": ((1, 2), "a number for each sample, or for each sample and horizon"),
    "caption": ((2,), "a row of numbers for each sample"),
    "token_label": ((2, 3, 4), "an integer class for each place of each sample"),
    "masks": ((2, 3, 4), "the number of an object for each place of each sample"),
}
"""Kind -> the possible numbers of axes of its values, and these values in words."""


def misfit(target: Target) -> str:
    """The reason why a target's values do not fit its kind, in words; "" where they do."""
    if target.values.dtype == object and target.kind in BY_PLACE and len(target.values):
        return misfit(target._alone(0))
    values, kind = target.values, target.kind
    if kind in BOXED:
        return misfit_of_boxes(values, target.classes, kind == "phrases")
    if kind == "matches":
        return misfit_of_matches(values)
    if kind == "questions":
        return misfit_of_questions(values, target.classes)
    ranks, form = _FORMS.get(kind, ((2, 3, 4), "a number for each place of each sample"))
    if values.ndim not in ranks or values.dtype.kind not in ("iu" if kind.endswith(("label", "masks")) else "fiu"):
        return f"its values are {values.dtype} of shape {values.shape}, not {form}"
    if values.dtype.itemsize > 8:
        return f"its values are {values.dtype}: give 64 bits at most"
    if target.classes and kind.endswith("label") and values.size and values.max() >= len(target.classes):
        return f"it names {len(target.classes)} classes and holds class {values.max()}"
    if target.period is not None and (kind not in ("value", "state") or not 0 < target.period < np.inf):
        return f"it has a period of {target.period}: only a value or state can have one, above 0"
    if target.naive is not None and (kind != "future" or np.shape(target.naive) != values.shape):
        return (
            f"it has naive forecasts of shape {np.shape(target.naive)}: only a future can have them, shaped "
            f"like its values"
        )
    if kind == "event" and not ((values == 0) | (values == 1) | np.isnan(values)).all():
        return "it holds other values than 0 and 1: mark what is not known with NaN"
    return ""


# A cell of which less than this share has known values is unknown.
KNOWN_SHARE = 0.5
MOST_CLASSES = 1 << 15

# Lengths and areas are sums of rounded numbers: what differs by less than this part of a place does not differ.
_ROUNDING = 1e-9
# Places held at once, beside the maps themselves.
_BLOCK = 1 << 21


def on_grid(maps: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Maps [sample, *extent] averaged over the cells of a grid, as float64 [sample, token] in raster order.

    `covered` gives for each axis the (start, stop) of the sample that the grid spans. Places shared by two cells count
    for both by the share that lies in each; NaN places are left out, and a cell with less than half of it known is NaN.
    """
    overlaps = [_overlap(*ends, cells, n) for ends, cells, n in zip(covered, shape, maps.shape[1:], strict=True)]
    least = _least_known(covered, shape)
    means = np.empty((len(maps), math.prod(shape)))
    for rows in _blocks(maps):
        known = np.isfinite(maps[rows])
        total = _sum_cells(np.where(known, maps[rows], 0.0), overlaps)
        weight = _sum_cells(known.astype(np.float64), overlaps)
        mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=(weight >= least) & (weight > 0))
        means[rows] = mean.reshape(len(mean), -1)
    return means


def classes_on_grid(labels: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Int labels [sample, *extent] (-1 unknown) as the class of the largest share of each cell, int16 [sample, token].

    Of equal shares the lower class; -1 where less than half of the cell is known.
    """
    if labels.size and labels.max() >= MOST_CLASSES:
        raise DiagnosticsError(
            f"Labels reach {labels.max()}: number the classes of a token_label from 0 and below {MOST_CLASSES}.",
            code="bad-target",
        )
    # Each axis is cut where a place or a cell ends, so that every piece of a map lies in one place and in one cell.
    places: list[np.ndarray] = []
    area, cell = np.ones(()), np.zeros((), dtype=np.intp)
    for ends, cells, n in zip(covered, shape, labels.shape[1:], strict=True):
        place, cell_of_piece, length = _pieces(*ends, cells, n)
        places.append(place)
        area, cell = np.multiply.outer(area, length), np.add.outer(cell * cells, cell_of_piece)
    area, cell, least = area.ravel(), cell.ravel(), _least_known(covered, shape)
    classes = np.full((len(labels), math.prod(shape)), -1, dtype=np.int16)
    for sample, row in zip(labels, classes, strict=True):
        seen = sample[np.ix_(*places)].ravel()
        known = seen >= 0
        seen = seen[known]
        if len(seen) == 0:
            continue
        present = np.flatnonzero(np.bincount(seen))
        column = np.zeros(present[-1] + 1, dtype=np.intp)
        column[present] = np.arange(len(present))
        bins = cell[known] * len(present) + column[seen]
        share = np.bincount(bins, weights=area[known], minlength=len(row) * len(present)).reshape(len(row), -1)
        best = (share >= share.max(axis=1, keepdims=True) - _ROUNDING).argmax(axis=1)
        row[:] = np.where(share.sum(axis=1) >= least, present[best], -1)
    return classes


def events_on_grid(events: np.ndarray, covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> np.ndarray:
    """Events [sample, *extent] as 1 where any falls into a cell, 0 where none does.

    NaN where less than half is known.
    """
    share = on_grid(events, covered, shape)
    return np.where(np.isnan(share), np.nan, (share > 0).astype(np.float64))


def crop_maps(maps: np.ndarray, covered: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The part [sample, *extent] of int maps that a grid covers, cut at whole places.

    Beyond the maps it is -1, unknown, so that places stay where the grid's cells lie.
    """
    ends = [(round(start), round(stop)) for start, stop in covered]
    beyond = [(max(0, -start), max(0, stop - n)) for (start, stop), n in zip(ends, maps.shape[1:], strict=True)]
    inside = maps[(slice(None), *(slice(max(0, start), max(0, stop)) for start, stop in ends))]
    return np.pad(inside, [(0, 0), *beyond], constant_values=-1) if np.any(beyond) else inside


def join_maps(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Blocks of maps [sample, *extent] as one array.

    Where their extents differ, by the nearest places on the smallest along each axis.
    """
    smallest = np.min([maps.shape[1:] for maps in blocks], axis=0)
    near = [
        [
            ((np.arange(least) + 0.5) * n / least).astype(np.intp)
            for least, n in zip(smallest, maps.shape[1:], strict=True)
        ]
        for maps in blocks
    ]
    alike = [
        maps if maps.shape[1:] == tuple(smallest) else maps[np.ix_(range(len(maps)), *places)]
        for maps, places in zip(blocks, near, strict=True)
    ]
    return alike[0] if len(alike) == 1 else np.concatenate(alike)


def resample(tokens: np.ndarray, grid: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Tokens [row, token, feature] of a grid on another grid over the same part of the input.

    They are averaged by shared area.
    """
    shares = [_overlap(0.0, float(old), new, old) * (new / old) for old, new in zip(grid, shape, strict=True)]
    resampled = _sum_cells(tokens.reshape(len(tokens), *grid, -1), [share.astype(tokens.dtype) for share in shares])
    return resampled.reshape(len(tokens), -1, tokens.shape[2])


def _pieces(start: float, stop: float, cells: int, extent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The place and the cell that each piece of an axis lies in, and its length; each [piece]."""
    edges = _edges(start, stop, cells)
    cuts = np.unique(np.clip(np.concatenate([edges, np.arange(np.ceil(edges[0]), edges[-1])]), 0, extent))
    middle = (cuts[:-1] + cuts[1:]) / 2
    return middle.astype(np.intp), np.searchsorted(edges, middle) - 1, np.diff(cuts)


def _overlap(start: float, stop: float, cells: int, extent: int) -> np.ndarray:
    """Length of the overlap of each cell with each place, [cell, place]."""
    edges = _edges(start, stop, cells)
    places = np.arange(extent)
    low = np.maximum(edges[:-1, None], places)
    high = np.minimum(edges[1:, None], places + 1)
    return np.clip(high - low, 0.0, None)


def _edges(start: float, stop: float, cells: int) -> np.ndarray:
    """Ends of the cells, [cells + 1].

    On a place's end where only rounding parts them, so that no cell sees beyond it.
    """
    edges = np.linspace(start, stop, cells + 1)
    return np.where(np.abs(edges - edges.round()) < _ROUNDING, edges.round(), edges)


def _sum_cells(maps: np.ndarray, overlaps: Sequence[np.ndarray]) -> np.ndarray:
    """Maps [sample, *extent] summed over the cells of each axis, [sample, *shape]."""
    for axis, overlap in enumerate(overlaps, start=1):
        before, after = maps.shape[:axis], maps.shape[axis + 1 :]
        # Products of matrices, which copy nothing.
        rows = maps.reshape(math.prod(before), maps.shape[axis], math.prod(after))
        maps = (overlap @ rows).reshape(*before, len(overlap), *after)
    return maps


def _least_known(covered: tuple[tuple[float, float], ...], shape: tuple[int, ...]) -> float:
    """The area that must be known of a cell."""
    cell = math.prod((stop - start) / cells for (start, stop), cells in zip(covered, shape, strict=True))
    return KNOWN_SHARE * cell - _ROUNDING


def _blocks(maps: np.ndarray) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, math.prod(maps.shape[1:])))
    for start in range(0, len(maps), size):
        yield slice(start, start + size)
