"""How often intervals hold the truth: the table of docs/explanation/statistics.md, by simulation with known answers.

Readouts are fixed and `fit_units` is 4 times the test units, as the bundled splits have it. So the spread for the training
set's share, a factor of 1.118, is in the intervals and what it stands for is not in the draws: where all is well .972 holds.
Beside each: the bootstrap alone, without what `diagnostics.measures.statistics.resample_scores` adds for shares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from diagnostics.measures.statistics import OUTLYING, heaviest_units, profile_intervals

from _common import ARGUMENTS, SMALLEST, finish, paired_difference, verdict

DRAWS, MANY = (5, 2000) if SMALLEST else (1000, 200_000)
Losses = tuple[np.ndarray, np.ndarray]
Draw = Callable[[np.random.Generator], Losses]
"""Loss and reference of one test split, [unit] or [unit, part]."""


@dataclass(frozen=True)
class Setting:
    """A score with a known truth. `least`, `most`: what its coverage should be between."""

    name: str
    truth: float
    draw: Draw
    share: bool = True
    least: float = 0.93
    most: float = 1.0


def right(p: float, units: int) -> Draw:
    """Accuracy p of single samples."""
    return lambda rng: ((rng.random(units) > p).astype(float), np.ones(units))


def grouped(p: float, units: int, samples: int, correlation: float) -> Draw:
    """Accuracy p of units of several samples that go together (beta-binomial), or do not (correlation 0)."""
    a = (1 - correlation) / correlation if correlation else 0.0

    def draw(rng: np.random.Generator) -> Losses:
        each = rng.beta(p * a, (1 - p) * a, units) if correlation else np.full(units, p)
        return samples - rng.binomial(samples, each).astype(float), np.full(units, float(samples))

    return draw


def asked(accuracies: tuple[float, ...], images: int, apart: float) -> Draw:
    """Accuracy over the questions of images, one of each kind; how hard an image is differs by `apart` standard deviations."""
    limits = stats.norm.ppf(accuracies) * np.sqrt(1 + apart**2)

    def draw(rng: np.random.Generator) -> Losses:
        hard = apart * rng.standard_normal((images, 1)) + rng.standard_normal((images, len(limits)))
        return (hard > limits).sum(axis=1).astype(float), np.full(images, float(len(limits)))

    return draw


CROWDED = (0.7, 0.6, 0.5, 0.4)
"""P@.5 in images of one to four phrases."""


def phrases(images: int) -> Draw:
    """P@.5 of one to four phrases an image, of which those of crowded images are found less often, and together."""

    def draw(rng: np.random.Generator) -> Losses:
        count = rng.integers(1, len(CROWDED) + 1, images)
        p = np.array(CROWDED)[count - 1]
        return count - rng.binomial(count, rng.beta(2 * p, 2 * (1 - p))).astype(float), count.astype(float)

    return draw


OF_PHRASES = float(np.average(CROWDED, weights=np.arange(1, len(CROWDED) + 1)))


def balanced(recalls: tuple[float, ...], counts: tuple[int, ...]) -> Draw:
    """Balanced accuracy of classes with so many units each."""
    units = np.repeat(np.eye(len(counts)), counts, axis=0)
    return lambda rng: ((rng.random(units.shape) > recalls) * units, units)


def overlap(error: float, concentration: float, images: int, frequency: tuple[float, ...]) -> Draw:
    """Mean IoU: images of 64 tokens, two classes in each; a share of a class's tokens, beta, is taken for the other."""
    log = np.log(frequency)

    def draw(rng: np.random.Generator) -> Losses:
        classes = np.argsort(-(rng.gumbel(size=(images, len(log))) + log), axis=1)[:, :2]
        first = rng.integers(8, 56, images)
        tokens = np.stack([first, 64 - first], axis=1)
        missed = rng.binomial(tokens, rng.beta(error * concentration, (1 - error) * concentration, (images, 2)))
        loss, union = np.zeros((2, images, len(log)))
        rows = np.arange(images)[:, None]
        union[rows, classes] = tokens + missed[:, ::-1]
        loss[rows, classes] = missed.sum(axis=1, keepdims=True)
        return loss, union

    return draw


def r2(value: float, units: int, freedom: float | None = None, horizons: int = 1) -> Draw:
    """R2 of a value read with normal noise or noise of Student's t; the mean over horizons whose errors are alike."""

    def draw(rng: np.random.Generator) -> Losses:
        shape = units, horizons
        noise = rng.standard_normal(shape) if freedom is None else rng.standard_t(freedom, shape)
        noise /= 1.0 if freedom is None else np.sqrt(freedom / (freedom - 2))
        if horizons > 1:
            noise = np.sqrt(0.5) * (noise + rng.standard_normal((units, 1)))
        truth = np.sqrt(value / (1 - value)) * rng.standard_normal(shape) + noise
        loss, reference = noise**2, truth**2
        return (loss, reference) if horizons > 1 else (loss[:, 0], reference[:, 0])

    return draw


def limit_of(draw: Draw) -> float:
    """The score of very many units."""
    loss, reference = draw(np.random.default_rng(99))
    return 1 - float(np.mean(loss.sum(axis=0) / reference.sum(axis=0)))


SKEWED, EVEN = (0.3, 0.3, 0.2, 0.1, 0.07, 0.03), (0.25,) * 4
SETTINGS = [
    Setting("accuracy .5 of 20", 0.5, right(0.5, 20)),
    Setting("accuracy .7 of 100", 0.7, right(0.7, 100), most=0.98),
    Setting("accuracy .9 of 400", 0.9, right(0.9, 400), most=0.98),
    Setting("accuracy .97 of 20", 0.97, right(0.97, 20)),
    Setting("accuracy .95 of 80", 0.95, right(0.95, 80)),
    Setting("accuracy .99 of 400", 0.99, right(0.99, 400)),
    Setting("accuracy .98 of 50 units of 5, correlation .3", 0.98, grouped(0.98, 50, 5, 0.3)),
    Setting("accuracy .98 of 80 units of 5, correlation .3", 0.98, grouped(0.98, 80, 5, 0.3)),
    Setting("accuracy .95 of 50 units of 10, correlation .2", 0.95, grouped(0.95, 50, 10, 0.2)),
    Setting("accuracy .97 of 50 units of 10, no correlation", 0.97, grouped(0.97, 50, 10, 0.0)),
    Setting("accuracy .7 of 50 units of 10, correlation .2", 0.7, grouped(0.7, 50, 10, 0.2), most=0.98),
    *(
        Setting(f"{name} of {images} images", truth, draw(images), most=0.985)
        for images in (48, 150)
        for name, truth, draw in (
            ("questions .55", 0.55, lambda n: asked((0.85, 0.7, 0.5, 0.15), n, 0.7)),
            ("questions .22", 0.22, lambda n: asked((0.33, 0.28, 0.15, 0.12), n, 0.5)),
            ("phrases", OF_PHRASES, phrases),
        )
    ),
    Setting("balanced accuracy, recalls .95 and .9 of 190 and 10", 0.925, balanced((0.95, 0.9), (190, 10))),
    Setting("balanced accuracy, recalls .95 and .9 of 72 and 8", 0.925, balanced((0.95, 0.9), (72, 8))),
    Setting("balanced accuracy, recalls .95 and .9 of 21 and 4", 0.925, balanced((0.95, 0.9), (21, 4))),
    Setting("balanced accuracy, recalls .8 and .6 of 190 and 10", 0.7, balanced((0.8, 0.6), (190, 10))),
    Setting("balanced accuracy, recalls .9 and .9 of 24 and 1", 0.9, balanced((0.9, 0.9), (24, 1))),
    Setting("balanced accuracy, recalls .8 and .7 of 100 and 100", 0.75, balanced((0.8, 0.7), (100, 100)), most=0.98),
    Setting("balanced accuracy, recalls .99 of 8 and 8", 0.99, balanced((0.99, 0.99), (8, 8))),
    Setting("20 classes of 5, recalls .98", 0.98, balanced((0.98,) * 20, (5,) * 20)),
    Setting("100 classes of 4, recalls .9", 0.9, balanced((0.9,) * 100, (4,) * 100), most=0.98),
    Setting("10 classes of 2, recalls .8", 0.8, balanced((0.8,) * 10, (2,) * 10), least=0.9),
    *(
        Setting(f"mIoU {truth:.2f} of {images} images, {len(classes)} classes, {name}", truth, draw)
        for images, classes, name, error, concentration in (
            (12, SKEWED, "rare ones among them", 0.03, 2.0),
            (30, SKEWED, "rare ones among them", 0.03, 2.0),
            (30, SKEWED, "rare ones among them", 0.15, 3.0),
            (30, EVEN, "alike", 0.03, 2.0),
            (100, EVEN, "alike", 0.15, 3.0),
        )
        for truth in [limit_of(overlap(error, concentration, MANY, classes))]
        for draw in [overlap(error, concentration, images, classes)]
    ),
    Setting("R2 .75 of 20", 0.75, r2(0.75, 20), share=False),
    Setting("R2 .75 of 80", 0.75, r2(0.75, 80), share=False, most=0.985),
    Setting("R2 .75 of 400", 0.75, r2(0.75, 400), share=False, most=0.985),
    Setting("R2 .5 of 80, mean of 8 horizons", 0.5, r2(0.5, 80, horizons=8), share=False, most=0.985),
    *(
        Setting(f"R2 .75 of {n}, noise t({freedom})", 0.75, r2(0.75, n, freedom), share=False, least=0)
        for n, freedom in ((80, 2.5), (400, 2.5), (1000, 2.5), (1000, 4.0))
    ),
]


def coverage(setting: Setting, share: bool) -> tuple[float, float]:
    """The share of draws whose interval holds the truth, and the median width."""
    rng = np.random.default_rng(0)
    held, width = [], []
    for _ in range(DRAWS):
        loss, reference = setting.draw(rng)
        _, low, high = profile_intervals(loss[None], reference[None], 4 * len(loss), 0, share)
        held.append(low[0] <= setting.truth <= high[0])
        width.append(high[0] - low[0])
    return float(np.mean(held)), float(np.median(width))


def noticed(setting: Setting) -> float:
    """How often "Beware" is said of a loss that few units carry."""
    rng = np.random.default_rng(0)
    return float(np.mean([max(heaviest_units(x)[1] for x in setting.draw(rng)) > OUTLYING for _ in range(DRAWS)]))


def two(
    one: float, other: float, counts: tuple[int, ...], alike: float
) -> Callable[[np.random.Generator], list[Losses]]:
    """Two taps on the same units, classes with so many of them; how they err on a unit is correlated by `alike`."""
    units = np.repeat(np.eye(len(counts)), counts, axis=0)
    limits = stats.norm.ppf([one, other])

    def draw(rng: np.random.Generator) -> list[Losses]:
        shared, own = rng.standard_normal((len(units), 1)), rng.standard_normal((2, len(units), 1))
        hard = np.sqrt(alike) * shared + np.sqrt(1 - alike) * own
        return [((x > limit) * units, units) for x, limit in zip(hard, limits, strict=True)]

    return draw


def two_r2(units: int) -> Callable[[np.random.Generator], list[Losses]]:
    """Two taps of R2 .75 with errors of their own."""

    def draw(rng: np.random.Generator) -> list[Losses]:
        values, noise = np.sqrt(3) * rng.standard_normal(units), rng.standard_normal((2, units))
        return [(x**2, 4 * values**2 / 3) for x in noise]

    return draw


GAPS = [
    ("accuracies .95 and .95 of 16", 0.0, two(0.95, 0.95, (16,), 0.7), True),
    ("accuracies .9 and .9 of 50", 0.0, two(0.9, 0.9, (50,), 0.7), True),
    ("accuracies .9 and .9 of 200", 0.0, two(0.9, 0.9, (200,), 0.7), True),
    ("accuracies .95 and .85 of 16", 0.1, two(0.95, 0.85, (16,), 0.7), True),
    ("balanced accuracies .9 and .9 of 190 and 10", 0.0, two(0.9, 0.9, (190, 10), 0.7), True),
    ("balanced accuracies .7 and .7 of 190 and 10", 0.0, two(0.7, 0.7, (190, 10), 0.5), True),
    ("balanced accuracies .75 and .75 of 100 and 100", 0.0, two(0.75, 0.75, (100, 100), 0.5), True),
    ("R2 .75 and .75 of 40", 0.0, two_r2(40), False),
    ("R2 .75 and .75 of 400", 0.0, two_r2(400), False),
]


def missed(truth: float, draw: Callable[[np.random.Generator], list[Losses]], share: bool) -> tuple[float, float]:
    """How often a paired difference does not hold its truth, and its median width."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(DRAWS):
        one, other = draw(rng)
        gap = paired_difference(*one, *other, 4 * len(one[0]), share)
        # The bootstrap of few counts ends on steps of 1 / units.
        found.append((not gap.low - 1e-9 <= truth <= gap.high + 1e-9, gap.high - gap.low))
    wrong, width = np.array(found).T
    return float(wrong.mean()), float(np.median(width))


def chosen(units: int) -> tuple[float, float, float]:
    """Twelve taps, one of R2 .8, the others, the output too, of .7, with errors of their own; as many val as test units.

    How often val chooses another tap than the best, how often the gap's interval holds the gap of the tap chosen, and how
    often the .1 of the best.
    """
    rng = np.random.default_rng(0)
    share = np.where(np.arange(12) == 5, 0.2, 0.3)
    found = []
    for _ in range(DRAWS):
        val, noise = (rng.standard_normal((units, 12)) * np.sqrt(share) for _ in range(2))
        best = int((val**2).sum(axis=0).argmin())
        reference = rng.chisquare(1, units)
        gap = paired_difference(noise[:, best] ** 2, reference, noise[:, 11] ** 2, reference, 4 * units)
        own = 0.1 * (best == 5)
        found.append((best != 5, best == 11 or gap.low <= own <= gap.high, gap.low <= 0.1 <= gap.high))
    return tuple(np.mean(found, axis=0).tolist())


def main() -> None:
    """All settings, or those whose name holds an argument."""
    asked = ARGUMENTS or [""]
    held: list[bool] = []
    for setting in SETTINGS:
        if not any(name in setting.name for name in asked):
            continue
        (now, width), (alone, narrow) = coverage(setting, setting.share), coverage(setting, False)
        told = "" if setting.share else f", Beware in {noticed(setting):.3f}"
        print(f"| {setting.name} | {alone:.3f} | {now:.3f} | {narrow:.3f} | {width:.3f} |{told}", flush=True)
        if setting.least:
            # Three standard errors of as many draws.
            spare = 3 * np.sqrt(setting.most * (1 - setting.most) / DRAWS)
            held.append(verdict("  coverage", now, setting.least, at_least=True))
            held.append(verdict("  coverage", now, min(1.0, setting.most + spare)))
    for name, truth, draw, share in GAPS:
        if any(part in name for part in asked):
            (now, width), (alone, narrow) = missed(truth, draw, share), missed(truth, draw, False)
            print(f"| difference {truth}: {name} | {alone:.3f} | {now:.3f} | {narrow:.3f} | {width:.3f} |", flush=True)
            held.append(verdict("  draws that miss it", now, 0.05 + 3 * np.sqrt(0.05 * 0.95 / DRAWS)))
    if "" in asked or "choice" in asked:
        for units in (20, 50, 80, 400):
            wrong, own, best = chosen(units)
            print(
                f"choice by {units}: another tap {wrong:.3f}; its gap held {own:.3f}; the best tap's {best:.3f}",
                flush=True,
            )
    finish(*held)


if __name__ == "__main__":
    main()
