"""Average precision of boxes by COCO's definition (Lin et al. 2014, 1405.0312; cocodataset.org/#detection-eval).

Which box that was found matches which that is there is said by pycocotools, once for each image. Curves are then summed
up here, for any number of times that each image is drawn: with each once they are those of pycocotools.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from diagnostics.datasets.boxes import AREA, ASIDE, CLASS, CROWD
from diagnostics.errors import importing
from diagnostics.measures.statistics import score_draws

IOUS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which a box is found."""
RECALLS = np.linspace(0, 1, 101)
AREAS: Mapping[str, tuple[float, float]] = {
    "": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
"""Ranges of areas in pixels of the sample; of all of them first."""
MOST_FOUND = 100
"""Boxes of an image that count, those of the highest scores."""


@dataclass(frozen=True)
class Found:
    """Boxes found in an image: `corners` [box, (x0, y0, x1, y1)], `scores` and `classes` [box]."""

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Boxes found in an image, and which of them match.

    Score and class [box], and, in bits over `IOUS`, whether each matches one that counts (`right`), or counts neither
    way (`aside`), uint8 [area, 2, box]; `counted` [area, class], how many there are to be found.
    """

    scores: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    aside: np.ndarray
    counted: np.ndarray


def pack_matches(matches: Sequence[Matches]) -> dict[str, np.ndarray]:
    """Arrays of several images' one after the other, and their shapes [image, axis]."""
    arrays = dict[str, np.ndarray]()
    for name in (field.name for field in fields(Matches)):
        each = [getattr(of, name) for of in matches]
        arrays[name] = np.concatenate([values.ravel() for values in each])
        arrays[f"{name} shape"] = np.array([values.shape for values in each])
    return arrays


def unpack_matches(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The `Matches` [image] that `pack_matches` made arrays of."""
    parts = list[list[np.ndarray]]()
    for name in (field.name for field in fields(Matches)):
        shapes = arrays[f"{name} shape"]
        each = np.split(arrays[name], np.cumsum(shapes.prod(axis=1))[:-1])
        parts.append([values.reshape(shape) for values, shape in zip(each, shapes, strict=True)])
    matches = np.empty(len(parts[0]), dtype=object)
    matches[:] = [Matches(*each) for each in zip(*parts, strict=True)]
    return matches


def require_pycocotools() -> None:
    """Raise where pycocotools or torchvision is not installed."""
    with importing("Detection needs", "pip install -e '.[images]'"):
        _evaluation()
        import torchvision  # noqa: F401


@functools.cache
def _evaluation() -> Any:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(iouType="bbox")
    evaluation.params.iouThrs = IOUS
    return evaluation


def match(found: Found, truth: np.ndarray, classes: int, areas: int) -> Matches:
    """The matches of boxes found in an image with those that are there, in the first few of `AREAS`.

    `truth` [1 + box, column] as of `crop_boxes`, whose unit (the part that is covered) the corners found share.
    """
    evaluation, size = _evaluation(), truth[0, 2:4]
    there = truth[1:][~np.isnan(truth[1:, CLASS])]
    pixels = (corners.reshape(-1, 2, 2) * size for corners in (found.corners.astype(np.float64), there[:, :4]))
    ours, theirs = (np.concatenate([box[:, 0], box[:, 1] - box[:, 0]], axis=1) for box in pixels)
    ranges = list(AREAS.values())[:areas]
    right, aside = np.zeros((2, areas, len(IOUS), len(ours)), dtype=bool)
    counted = np.zeros((areas, classes), dtype=np.int16)
    for of in np.unique(np.concatenate([found.classes, there[:, CLASS].astype(int)])):
        mine, known = np.flatnonzero(found.classes == of), np.flatnonzero(there[:, CLASS] == of)
        evaluation._dts[0, of] = [
            {"id": i + 1, "bbox": ours[i], "area": ours[i, 2] * ours[i, 3], "score": float(found.scores[i])}
            for i in mine.tolist()
        ]
        evaluation._gts[0, of] = [
            {
                "id": i + 1,
                "bbox": theirs[i],
                "area": there[i, AREA],
                "ignore": int(there[i, ASIDE] > 0),
                "iscrowd": int(there[i, ASIDE] == CROWD),
            }
            for i in known.tolist()
        ]
        evaluation.ious[0, of] = evaluation.computeIoU(0, of)
        for area, reach in enumerate(ranges):
            said = evaluation.evaluateImg(0, of, reach, MOST_FOUND)
            at = np.array(said["dtIds"], dtype=int) - 1
            aside[area][:, at] = said["dtIgnore"]
            right[area][:, at] = (said["dtMatches"] > 0) & ~aside[area][:, at]
            counted[area, of] = np.count_nonzero(said["gtIgnore"] == 0)
    bits = (np.packbits(each, axis=1) for each in (right, aside))
    return Matches(found.scores, found.classes.astype(np.int16), *bits, counted=counted)


class Curves:
    """Precision and recall of the matches of images, in one of `AREAS`, for any number of times that each is drawn."""

    def __init__(self, matches: Sequence[Matches], area: int = 0) -> None:
        self.counted = np.stack([each.counted[area] for each in matches]).astype(np.float64)
        image = np.repeat(np.arange(len(matches)), [len(each.scores) for each in matches])
        scores, of = (np.concatenate([getattr(each, name) for each in matches]) for name in ("scores", "classes"))
        # Images in their order where scores tie, as pycocotools has them.
        order = np.lexsort((-scores, of))
        right, aside = (
            np.concatenate([np.unpackbits(getattr(each, name)[area], axis=0) for each in matches], axis=1)[
                : len(IOUS), order
            ]
            for name in ("right", "aside")
        )
        image, of, size = image[order], of[order], max(len(of), 1)
        # Precision is asked for where a box is right: between, it only falls.
        iou, at = np.nonzero(right)
        first, classes = np.searchsorted(of, of[at]), self.counted.shape[1]
        self.image, self.image_right = image, image[at]
        self.shape, self.classes = (len(IOUS), classes), of[at]
        self.curve = iou * classes + self.classes
        self.begins = np.searchsorted(self.curve, self.curve)
        self.is_first = self.begins == np.arange(len(self.curve))
        self.found = first, at + 1
        places = np.flatnonzero(aside)
        self.image_aside = image[places % size]
        self.aside = tuple(np.searchsorted(places, iou * size + since) for since in (first, at))
        # Those behind a place in its curve are the largest there: other curves are lifted out of the way.
        self.lift = 2.0 * (self.shape[0] * classes - self.curve)

    def __call__(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average precision and the largest recall [iou, class], with each image `times` [image] as often.

        NaN for a class of which there is nothing to be found.
        """
        precision, gained, recall = self._steps(times)
        size, most = self.shape[0] * self.shape[1], np.zeros(self.shape[0] * self.shape[1])
        area = np.bincount(self.curve, precision * gained, minlength=size) / len(RECALLS)
        np.maximum.at(most, self.curve, recall)
        absent = np.where(times @ self.counted > 0, 0.0, np.nan)
        return area.reshape(self.shape) + absent, most.reshape(self.shape) + absent

    def mean(self, times: np.ndarray) -> float:
        """Average precision over `IOUS` and classes; NaN where there is nothing to be found."""
        precision, gained, _ = self._steps(times)
        curves = self.shape[0] * np.count_nonzero(times @ self.counted)
        return float(precision @ gained) / (len(RECALLS) * curves) if curves else float("nan")

    def _steps(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each box that is right: precision, how many of `RECALLS` it reaches first, and recall."""
        hits = _sums(times[self.image_right])
        hits = hits[1:] - hits[self.begins]
        seen = _sums(times[self.image])
        found = seen[self.found[1]] - seen[self.found[0]]
        if len(self.image_aside):
            seen = _sums(times[self.image_aside])
            found -= seen[self.aside[1]] - seen[self.aside[0]]
        precision = hits / np.maximum(found, 1)
        precision += self.lift
        precision = np.maximum.accumulate(precision[::-1])[::-1] - self.lift
        recall = hits / np.maximum(times @ self.counted, 1)[self.classes]
        reached = np.searchsorted(RECALLS, recall, side="right")
        gained = reached.copy()
        gained[1:] -= reached[:-1]
        # A recall of 0 is reached by what no image drawn has.
        return precision, np.where(self.is_first, reached, gained), recall


def precision_draws(curves: Sequence[Curves | None], unit_of: np.ndarray) -> np.ndarray:
    """The mean of average precision at each tap, and in resamples of the units: [tap, 1 + draw].

    None for taps without one. Resamples are as of `statistics.score_draws`.

    It is too high from few images, since each precision is the largest from there on, and higher still in resamples,
    which hold fewer of them. So resamples are moved by twice what they are too high by in the mean: about the value less
    its bias, as far as resampling tells it, as in the basic bootstrap.

    Where no box is right no resample has one, however few the units are. There the score is drawn as the share of units
    that have one may be by the data, whose upper end is 1 - .025^(1 / units): nearly 3.7 / units, as in the rule of three.
    """

    def score(times: np.ndarray) -> np.ndarray:
        return np.array([np.nan if each is None else each.mean(times) for each in curves])

    drawn = score_draws(score, unit_of)
    known = np.isfinite(drawn).any(axis=1)
    drawn[known, 1:] -= 2 * (np.nanmean(drawn[known, 1:], axis=1, keepdims=True) - drawn[known, :1])
    units, count = len(set(unit_of)), drawn.shape[1] - 1
    for i, each in enumerate(curves):
        if each is not None and np.isfinite(drawn[i, 0]) and not len(each.curve):
            # Otherwise ordered at each tap, since it is not known that two of them are alike.
            left = np.random.default_rng([i, len(each.image)]).permutation((np.arange(count) + 0.5) / count)
            drawn[i, 1:] = np.where(left < 0.5, 1 - left ** (1 / units), 0.0)
    return drawn


def _sums(values: np.ndarray) -> np.ndarray:
    """Of the first of some values, [0 to all of them]."""
    sums = np.zeros(len(values) + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def summary(matches: Sequence[Matches], areas: int = len(AREAS)) -> dict[str, float]:
    """The numbers that COCO prints beside the average precision, by name; NaN where nothing is of that area."""
    once, numbers = np.ones(len(matches)), dict[str, float]()
    for i, area in enumerate(list(AREAS)[:areas]):
        precision, recall = Curves(matches, i)(once)
        known = ~np.isnan(precision[0])
        mean, reached = (float(each[:, known].mean()) if known.any() else float("nan") for each in (precision, recall))
        if area:
            numbers[f"ap_{area}"] = mean
        else:
            numbers |= {
                "ap_50": float(precision[0, known].mean()) if known.any() else float("nan"),
                "ap_75": float(precision[5, known].mean()) if known.any() else float("nan"),
                "recall": reached,
            }
    return numbers
