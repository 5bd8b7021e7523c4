"""Targets of a dataset: the labels and values that probes predict from activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from diagnostics.datasets.samples import LazySamples
from diagnostics.errors import DiagnosticsError, few
from diagnostics.vocabulary import BY_PLACE, DENSE, Family, Kind


@dataclass(frozen=True, kw_only=True)
class TargetInfo:
    """What a target has besides its kind and values, in a dataset and in a store alike; see `Target`."""

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
        `token_label`, `token_value`, `event`: int class, float, or 0 and 1 [sample, *extent], dense over the sample's own
        grid axes (pixels, steps, frames and pixels);
        `masks`: int [sample, *extent], which object a place belongs to (from 1; 0 background);
        `caption`: float [sample, feature], text embeddings of each sample's caption, equal rows for equal captions.
        Unknown values are NaN; unknown labels and masks are -1.
    values: the array; its first axis is the dataset's samples, in order. Maps of unequal extents are given as a list, those that
        are read when they are asked for as `LazySamples`; both are kept as an object array [sample], of which
        `np.asarray(values[i])` is a map.
    units: of the values, `""` where they have none.
    about: a description in a few words.
    classes: names of the classes of a `label`.
    family: replaces the family that follows from the kind.
    period: of a periodic `value` or `state` (2 pi of an angle): its sine and cosine are predicted.
    naive: forecasts without a model, shaped like the values of a `future` (see `dynamics.seasonal_naive`): the reference of
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
        """Whether the target has a value for every place of a sample."""
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
                raise DiagnosticsError(f"Map {i} of a target is of kind {self.kind}, but {wrong}.")
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
    """Maps of unequal extents, or read when they are asked for, as the values of a `Target`: an object array [sample]."""
    return np.fromiter((_Map(maps, i) for i in range(len(maps))), dtype=object, count=len(maps))


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
    """Why a target's values do not fit its kind, in words; "" where they do."""
    if target.values.dtype == object and target.kind in BY_PLACE and len(target.values):
        return misfit(target._alone(0))  # pyright: ignore[reportPrivateUsage]
    values, kind = target.values, target.kind
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
        return f"it has naive forecasts of shape {np.shape(target.naive)}: only a future can have them, shaped like its values"
    if kind == "event" and not ((values == 0) | (values == 1) | np.isnan(values)).all():
        return "it holds other values than 0 and 1: mark what is not known with NaN"
    return ""
