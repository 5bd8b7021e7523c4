"""Rules by which a tap can be chosen, and in which direction a measure without labels is read.

A rule sees what `Evidence` holds, so that none can look at test. Nothing here loads numpy: the rules are known to every
command.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True)
class Direction:
    """The end of a measure at which its authors expect the tap that is best for tasks."""

    tap: Literal["largest", "smallest"]
    source: str


DIRECTIONS: dict[str, Direction] = {
    "rankme": Direction("largest", "Garrido et al. 2023 (2210.02885): a larger rank goes with better probes"),
    "lidar": Direction("largest", "Thilak et al. 2023 (2312.04000): a larger rank goes with better probes"),
    "dime": Direction("largest", "Skean et al. 2023 (2301.08164): more is shared by two views"),
    "infonce": Direction("smallest", "Oord et al. 2018 (1807.03748): a smaller loss bounds more mutual information"),
    "curvature": Direction("smallest", "Hosseini and Fedorenko 2023 (2311.04930): training straightens the path"),
    "matrix_entropy": Direction(
        "largest", "Skean et al. 2025 (2502.02013), theorem 1: more entropy, more diverse features"
    ),
    "two_nn": Direction("largest", "Cheng et al. 2024 (2405.15471): transfer is best where the dimension peaks"),
    "self_similarity": Direction("largest", "iREPA (2512.10794): LDS goes with the quality of generated images"),
    "linear_predictability": Direction(
        "largest", "Hénaff et al. 2019 (Nature Neuroscience 22, 984): straight paths predict"
    ),
}
"""By measure without labels, as published. Committed before any result was computed, and never fitted on what is reported. Where a
paper prints a correlation without a sign, as 2502.02013 does, the direction is that of its theory."""

WITH_LABELS: dict[str, Direction] = {
    "logme": Direction("largest", "You et al. 2021 (2102.11005): more evidence goes with better transfer")
}
"""The same of measures that read the labels of train and val."""

MOST_SETS = 200
"""Sets of other targets that a rule looks at; a draw of all where there are more."""


@dataclass(frozen=True)
class Evidence:
    """All that a rule may look at for a target of a run; nothing in it comes from test.

    A rule returns the name of a tap, of one of `sets`, or the share in which it takes each of several taps. Taps stand
    in order of execution, and are candidates: up to the output, with a score by what chooses.
    """

    taps: Sequence[str]
    output: str
    depth: Mapping[str, float]
    val: Mapping[str, float]
    """The score on val, by tap."""
    others: Sequence[Mapping[str, float]] = ()
    """Of each other target of the encoder, in this run or another, the loss by what chooses relative to its mean over
    taps.
    """
    measured: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """Measures without a target, and those of the target that read no test: name -> value by tap."""
    by_labels: Mapping[int, Mapping[str, float]] = field(default_factory=dict[int, Mapping[str, float]])
    """Number of labels -> the share of draws in which each tap is best with so many."""
    sets: Collection[str] = ()
    """Tap sets that were measured for the target."""


Chosen = str | Mapping[str, float]


def best_of_others(evidence: Evidence, count: int | None) -> dict[str, float]:
    """The best tap of so many other targets of the encoder, all where it is None: the least loss on average.

    Over all sets of them.
    """
    others = [other for other in evidence.others if other.keys() >= set(evidence.taps)]
    size = len(others) if count is None else count
    if not 0 < size <= len(others):
        raise DiagnosticsError(
            f"it needs {max(size, 1)} other targets of the encoder at the same taps, and there are {len(others)}: "
            f"name more runs.",
            code="too-few",
        )
    some = itertools.combinations(others, size)
    if math.comb(len(others), size) > MOST_SETS:
        draws = random.Random(0)
        some = (draws.sample(others, size) for _ in range(MOST_SETS))
    best = [min(evidence.taps, key=lambda tap, few=few: sum(other[tap] for other in few)) for few in some]
    return {tap: count / len(best) for tap, count in Counter(best).items()}


def second_last(evidence: Evidence) -> str:
    """The last tap that is less deep than the output."""
    return _last(evidence, [tap for tap in evidence.taps if evidence.depth[tap] < evidence.depth[evidence.output]])


def before_norm(evidence: Evidence) -> str:
    """The tap before the output at the output's depth.

    It is what a final normalisation, or another step that adds no depth, is given.
    """
    deep = [tap for tap in evidence.taps if evidence.depth[tap] == evidence.depth[evidence.output]]
    return _last(evidence, [tap for tap in deep if tap != evidence.output])


def _last(evidence: Evidence, taps: Sequence[str]) -> str:
    if not taps:
        raise DiagnosticsError(
            f"no tap stands so before the output {evidence.output}: run with more taps.", code="bad-tap"
        )
    return taps[-1]


def at_depth(evidence: Evidence, share: float) -> str:
    """The tap nearest a share of the output's depth, the first of equals."""
    wanted = share * evidence.depth[evidence.output]
    # Rounded, so that depths as 1/3 and 2/3 are equally far from 1/2.
    return min(evidence.taps, key=lambda tap: round(abs(evidence.depth[tap] - wanted), 9))


def any_tap(evidence: Evidence) -> dict[str, float]:
    """Every tap alike."""
    return dict.fromkeys(evidence.taps, 1 / len(evidence.taps))


def side_by_side(evidence: Evidence) -> str:
    """All taps at once."""
    if "all" not in evidence.sets:
        raise _unmeasured("tap_set")
    return "all"


def extreme(evidence: Evidence, measure: str) -> str:
    """The tap at which a measure is largest or smallest, as `DIRECTIONS` has it."""
    known = {tap: evidence.measured.get(measure, {}).get(tap, math.nan) for tap in evidence.taps}
    known = {tap: value for tap, value in known.items() if math.isfinite(value)}
    if not known:
        raise _unmeasured("this measure")
    return (max if (DIRECTIONS | WITH_LABELS)[measure].tap == "largest" else min)(known, key=lambda tap: known[tap])


def best_on_val(evidence: Evidence) -> str:
    """The tap with the highest score on val."""
    return max(evidence.taps, key=lambda tap: evidence.val[tap])


def best_with(evidence: Evidence, labels: int) -> Mapping[str, float]:
    """The tap that is best with so many labels, over the draws of them."""
    if not evidence.by_labels:
        raise _unmeasured("label_efficiency")
    if labels not in evidence.by_labels:
        raise DiagnosticsError(
            f"label_efficiency has no part of {labels} labels: use a dataset with more samples of each class.",
            code="too-few",
        )
    return evidence.by_labels[labels]


def _unmeasured(measure: str) -> DiagnosticsError:
    return DiagnosticsError(f"no run has {measure}: name it in --measures of a run.", code="not-measured")


DEPTHS = {"depth 1/2": 1 / 2, "depth 2/3": 2 / 3, "depth 3/4": 3 / 4}
LABELS = (16, 64, 256)
NO_LABELS, OF_OTHERS, OF_VAL = "none", "of others", "all"
"""The labels of the target that a rule takes."""
OTHERS = "best of all others"
RANDOM, OUTPUT = "random", "output"
"""The rules against which others are held."""


RULES: dict[str, tuple[Callable[[Evidence], Chosen], str]] = {
    "best of 1 other": (partial(best_of_others, count=1), OF_OTHERS),
    "best of 3 others": (partial(best_of_others, count=3), OF_OTHERS),
    OTHERS: (partial(best_of_others, count=None), OF_OTHERS),
    OUTPUT: (lambda evidence: evidence.output, NO_LABELS),
    "second last": (second_last, NO_LABELS),
    "before the norm": (before_norm, NO_LABELS),
    **{name: (partial(at_depth, share=share), NO_LABELS) for name, share in DEPTHS.items()},
    RANDOM: (any_tap, NO_LABELS),
    "all side by side": (side_by_side, OF_VAL),
    **{name: (partial(extreme, measure=name), NO_LABELS) for name in DIRECTIONS},
    **{name: (partial(extreme, measure=name), OF_VAL) for name in WITH_LABELS},
    "best on val": (best_on_val, OF_VAL),
    **{f"{count} labels": (partial(best_with, labels=count), str(count)) for count in LABELS},
}
"""Name -> a rule, and the labels of the target that it takes; in the order in which a table lists them."""
