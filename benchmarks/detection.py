"""How often the intervals of average precision hold the truth, and what resampling it costs, by simulation.

Two detectors find each box of an image with a chance, a little away from where it lies, and others that are not there; scores
of the right and the wrong ones overlap. Both are as good, but for luck. The truth is what they have on 4,000 images, from which
each draw takes a test split. As in `intervals.py`, `fit_units` is 4 times the test units, so that .972 is nominal; gaps are to miss
the truth in at most 5 %.
"""

from __future__ import annotations

import numpy as np

from diagnostics.datasets.boxes import crop_boxes, pad_boxes
from diagnostics.measures.probes.average_precision import Curves, Found, Matches, match, precision_draws
from diagnostics.measures.statistics import Losses
from diagnostics.measures.verdict import paired_differences

from _common import SMALLEST, cpu, finish, verdict

DRAWS, MANY = (2, 300) if SMALLEST else (200, 4000)
CLASSES, SIDE = 3, 128.0
SETTINGS = [(60, 0.5, "60 images, AP about .2"), (150, 0.12, "150 images, AP about .5")]
"""Test images, how far away boxes are found (in their sides), and a name."""


def boxes_of(rng: np.random.Generator) -> np.ndarray:
    """One to four boxes of an image, of three classes, one of them rare."""
    count = rng.integers(1, 5)
    sides = rng.uniform(20, 60, (count, 2))
    corners = rng.uniform(0, SIDE - sides)
    classes = rng.choice(CLASSES, (count, 1), p=[0.6, 0.3, 0.1])
    return np.concatenate([corners, corners + sides, classes], axis=1)


def find(rng: np.random.Generator, boxes: np.ndarray, away: float) -> Found:
    """What a detector says of an image."""
    there = boxes[rng.random(len(boxes)) < 0.8]
    sides = np.tile(there[:, 2:4] - there[:, :2], 2)
    near = there[:, :4] + away / 4 * sides * rng.standard_normal((len(there), 4))
    wrong = np.stack([boxes_of(rng)[0] for _ in range(rng.poisson(2) + 1)])
    corners = np.concatenate([near, wrong[:, :4]])
    corners = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:] - 1), corners[:, 2:]], axis=1) / SIDE
    scores = np.concatenate([1 + rng.standard_normal(len(near)), rng.standard_normal(len(wrong))])
    return Found(corners.clip(0, 1), scores, np.concatenate([there[:, 4], wrong[:, 4]]).astype(int))


def simulate(images: int, away: float, name: str) -> list[bool]:
    rng = np.random.default_rng(0)
    rows = [boxes_of(rng) for _ in range(MANY)]
    truth = crop_boxes(pad_boxes(rows, [(SIDE, SIDE)] * MANY), lambda extent: tuple((0.0, float(n)) for n in extent))
    matches: list[list[Matches]] = [
        [match(find(rng, boxes, away), seen, CLASSES, 1) for boxes, seen in zip(rows, truth, strict=True)]
        for _ in range(2)
    ]
    whole = [Curves(of).mean(np.ones(MANY)) for of in matches]
    units = np.array([f"{i:05}" for i in range(images)])
    held, width, missed, seconds = [], [], [], 0.0
    for _ in range(DRAWS):
        some = rng.choice(MANY, images, replace=False)
        curves = [Curves([of[i] for i in some]) for of in matches]
        start = cpu()
        drawn = precision_draws(curves, units)
        seconds += (cpu() - start) / 2
        losses = Losses(np.ones((2, images)), np.ones((2, images)), drawn=drawn)
        _, low, high = losses.intervals(4 * images, 0)
        held += [low[i] <= whole[i] <= high[i] for i in range(2)]
        width.append(high[0] - low[0])
        (gap,) = paired_differences(losses.at([0]), losses.at([1]), 4 * images, 0)
        missed.append(not gap.low <= whole[0] - whole[1] <= gap.high)
    share, wrong = float(np.mean(held)), float(np.mean(missed))
    print(
        f"{name}: AP {whole[0]:.3f}; held in {share:.3f}, median width {np.median(width):.3f}; gaps missed in {wrong:.3f}; "
        f"{seconds / DRAWS:.2f} s a tap for 2,000 resamples"
    )
    held_well = verdict(f"{name}: coverage at least", share, 0.93, at_least=True)
    return [held_well, verdict(f"{name}: coverage at most", share, 0.985), verdict(f"{name}: gaps missed", wrong, 0.05)]


def main() -> None:
    finish(*(each for setting in SETTINGS for each in simulate(*setting)))


if __name__ == "__main__":
    main()
