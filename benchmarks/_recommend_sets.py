"""What is said beside the choice, for `recommend.py`: the set of taps not worse, the largest gap, and intervals on test."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
from _recommend_losses import SHAPES, Setting, losses, population
from _recommend_rules import clipped, favour

from diagnostics.measures.statistics import (
    Losses,
    effective_units,
    interval,
    profile_intervals,
    resample_counts,
    resample_scores,
    scores,
)
from diagnostics.measures.tap_choice import confidence_set

from _common import paired_difference

MARGIN = 0.05
Table = dict[tuple[str | int | float, ...], np.ndarray]
"""By what is varied, an array [draw, figure]."""


def of_draw(loss: np.ndarray, reference: np.ndarray) -> Losses:
    """Losses [tap, unit(, part)] of one draw, with the reference at every tap."""
    reference = np.broadcast_to(reference, loss.shape)
    return Losses(loss, reference) if loss.shape[2] > 1 else Losses(loss[..., 0], reference[..., 0])


def sets(draws: int) -> Table:
    """By family, units and clipping: whether the set holds a given best tap, and all of those that tie.

    Beside them its size of 12 taps and of 50 (NaN where it is the other).
    """
    found = defaultdict(list)
    six = ("normal", "t", "lognormal", "classes", "rare", "ties")
    ladder: dict[str, tuple[int, ...]] = {**dict.fromkeys(six, (20, 80, 400)), "clusters": (4, 8)}
    varied = itertools.product(ladder, SHAPES, (0.0, 0.05, 0.15), (0.5, 0.9), (12, 50))
    for seed, (family, shape, gap, alike, taps) in enumerate(varied):
        if gap and shape == "none":
            continue
        for units in ladder[family]:
            setting, rng = Setting(family, shape, gap, alike, taps, units), np.random.default_rng([seed, units, 2])
            score = population(setting, draws, rng)
            loss, reference = losses(setting, score, units, rng)
            for clip in (False,) if setting.share else (False, True):
                for i, each in enumerate(clipped(loss) if clip else loss):
                    kept = confidence_set(of_draw(each, reference[i]), np.arange(taps), 0)
                    best = np.isin(np.flatnonzero(score[i] == score[i].max()), kept)
                    size = (len(kept), np.nan) if taps == 12 else (np.nan, len(kept))
                    found[family, units, "clipped" if clip else "plain"].append((best[0], best.all(), *size))
    return {key: np.array(rows, dtype=float) for key, rows in found.items()}


def bounds(test: Losses, fit_units: int, share: bool) -> tuple[float, float, float]:
    """The largest gap's upper end, in three ways.

    The largest of each tap's own where none lies below Student's, the same without Student's, and that of one bootstrap
    of the largest.
    """
    units, output = test.loss.shape[1], len(test.loss) - 1
    counts = resample_counts(units, 0)
    ours = resample_scores(test.loss[:output], test.reference[:output], counts, 0, share)
    theirs = resample_scores(test.loss[output:], test.reference[output:], counts, 0, share, stream=1)
    score, effective = scores(test.loss, test.reference), effective_units(test.reference, share)
    gap, drawn = score[:output] - score[output], ours - theirs
    _, students = interval(gap, drawn, units, fit_units, effective, student=True)
    _, each = interval(gap, drawn, units, fit_units, effective)
    _, at_once = interval(gap.max(), drawn.max(axis=1), units, fit_units, effective)
    return float(students.max()), float(each.max()), float(at_once)


def exclusions(draws: int) -> Table:
    """By family, test units and largest gap: how often each of `bounds` lies below the margin."""
    found = defaultdict(list)
    varied = itertools.product(
        ("normal", "lognormal", "classes", "rare"),
        SHAPES,
        (0.0, MARGIN, 0.06),
        (0.5, 0.9),
        (2, 12, 50),
        (20, 30, 80, 200),
    )
    for seed, (family, shape, gap, alike, taps, units) in enumerate(varied):
        # Of two taps all shapes are one; what is said of them is wrong most often, so they have rows of their own.
        if (gap and shape == "none") or (taps == 2 and (shape != "one" or gap > MARGIN)):
            continue
        setting, rng = Setting(family, shape, gap, alike, taps, 4 * units), np.random.default_rng([seed, 3])
        few = taps == 2
        loss, reference = losses(setting, population(setting, 150 * draws if few else draws, rng), units, rng)
        for each, whole in zip(loss, reference, strict=True):
            ends = np.array(bounds(of_draw(each, whole), 4 * units, setting.share))
            found[f"{family}, 2 taps, alike by {alike}" if few else family, units, gap].append(ends < MARGIN)
    return {key: np.array(rows, dtype=float) for key, rows in found.items()}


def coverages(draws: int) -> Table:
    """By family, units of train and val: whether the intervals on test hold what they are of.

    That is the chosen tap's score, the gap of the best other tap, and the gap where another tap than the output was
    chosen (NaN where not).
    """
    found = defaultdict(list)
    varied = itertools.product(
        ("normal", "classes", "rare"), SHAPES, (0.0, 0.05, 0.15), (0.5, 0.9), (12, 50), (80, 400)
    )
    for seed, (family, shape, gap, alike, taps, units) in enumerate(varied):
        if gap and shape == "none":
            continue
        setting, rng = Setting(family, shape, gap, alike, taps, units), np.random.default_rng([seed, 4])
        score, output = population(setting, draws, rng), taps - 1
        oof, reference = losses(setting, score, units, rng)
        test, test_reference = losses(setting, score, setting.val_units, rng)
        cut = oof if setting.share else clipped(oof)
        chosen, other = favour(cut, reference, 1.0), favour(cut, reference, -np.inf)
        for i in range(draws):
            of = of_draw(test[i], test_reference[i])
            tap, best = chosen[i], other[i]
            _, low, high = profile_intervals(of.loss[[tap]], of.reference[[tap]], units, 0, setting.share)
            sides = (of.loss[best], of.reference[best], of.loss[output], of.reference[output])
            ends = paired_difference(*sides, units, setting.share)
            # The bootstrap of few counts ends on steps of 1 / units.
            holds = ends.low - 1e-9 <= score[i, best] - score[i, output] <= ends.high + 1e-9
            row = (low[0] <= score[i, tap] <= high[0], holds, np.nan if tap == output else holds)
            found[family, units].append(row)
    return {key: np.array(rows, dtype=float) for key, rows in found.items()}
