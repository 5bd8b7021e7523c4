"""Which rule chooses the tap to use: a simulation at the level of losses, written down before it was first run.

**Populations** (`_recommend_losses.py`). The last of 12 or 50 taps is the output, with score .6; the best tap is 0, .02, .05,
.1, .15 or .3 above it. Shapes: *one* tap has the gap and the others are up to .2 below the output; a *ramp* from .3 below the
output to a peak and down to the output (at gap 0 the output is the peak); a *plateau*, half of the taps, the others .1 below
the output; *none*, at gap 0 alone, all .02 to .1 below the output. Errors of two taps on a unit are correlated by .5, .7
or .9. Families of losses: squared errors of *normal* noise; of *t*(2.5), hard units at every tap; *lognormal* noise in part each
tap's own; *classes*, wrong answers; *rare*, balanced accuracy over classes of 85, 10 and 5 %; *clusters* of 25 samples, where the
cluster is the unit; *ties*, normal, where each tap is a copy of its neighbour.

**Units.** 20, 40, 80, 200 and 400 of train and val, a quarter of them val, and a quarter as many again test; 4 and 8 clusters; one and
two units of normal noise. Out-of-fold losses are those of all units, val's those of the quarter. Readouts are fixed: what differs
between a fit without a unit and the last fit is left to the real run (`recommend.py real`).

**Rules** (`_recommend_rules.py`). The output always; the best on val; the same with one standard error (SE) in the output's
favour; today's (hidden gap on test); the best out of fold; the output if within .5, 1 or 2 SE of the best other tap, the best
other tap else; with a cap of .01; the earliest tap within 1 SE of the best, with and without cap; the output if within 1 SE of the
best, else the earliest that is. SE of the paired difference. Each out of fold also with clipped losses: each tap's losses
cut at that tap's own 95th percentile, for scores and SE alike; wrong answers never.

**Criteria.** Regret is the best population score up to the output minus that of the tap chosen. For each of the families
normal, heavy (t and lognormal), classes and rare, means over shapes, correlations and taps, at each number of units from 20:
wherever there is a gap at most that of best on val (by more than two standard errors of the paired mean: a miss); where the
output is best at most .02 at 80 units and .01 from 200. Clusters, ties and one unit: the same comparison with best on val is
reported. Of the rules that hold, the one with the least mean regret over all; of two within .001, the simpler.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict

import numpy as np

from _common import finish, verdict
from _recommend_losses import GAPS, SHAPES, Setting, losses, population
from _recommend_rules import choices, today

DRAWS = 20
UNITS = (20, 40, 80, 200, 400)
RULE = "out of fold, 1 SE, clipped"
"""Whose verdicts are printed."""
GROUPS = {"normal": ("normal",), "heavy": ("t", "lognormal"), "classes": ("classes",), "rare": ("rare",)}


def settings(quick: bool) -> list[Setting]:
    """All that are drawn."""
    ladder = {family: UNITS for family in ("normal", "t", "lognormal", "classes", "rare")}
    ladder |= {"clusters": (4, 8), "ties": (20, 80, 400), "one unit": (1, 2)}
    return [
        Setting("normal" if family == "one unit" else family, shape, gap, alike, taps, units)
        for family, units_of in ladder.items()
        for units, gap, shape, alike, taps in itertools.product(
            units_of, GAPS, SHAPES, (0.5, 0.7, 0.9), (12,) if quick else (12, 50)
        )
        if gap == 0 or shape != "none"
    ]


def regrets(setting: Setting, draws: int, seed: int) -> dict[str, np.ndarray]:
    """[draw], what each rule gives up of the best population score."""
    rng = np.random.default_rng([seed, 1])
    score = population(setting, draws, rng)
    test_units = setting.val_units
    (oof, reference), (test, test_reference) = (
        losses(setting, score, units, rng) for units in (setting.units, test_units)
    )
    val, val_reference = oof[:, :, : setting.val_units], reference[:, : setting.val_units]
    chosen = choices(oof, reference, val, val_reference, setting.share)
    chosen["today"] = today(val, val_reference, test, test_reference, setting.units, setting.share)
    return {rule: score.max(axis=1) - score[np.arange(draws), tap] for rule, tap in chosen.items()}


def table(draws: int, quick: bool) -> list[tuple[Setting, dict[str, np.ndarray]]]:
    """Each setting with its regrets."""
    return [(setting, regrets(setting, draws, seed)) for seed, setting in enumerate(settings(quick))]


def judge(drawn: list[tuple[Setting, dict[str, np.ndarray]]], rule: str, aloud: bool = True) -> bool:
    """Whether a rule holds the criteria; prints every figure where asked."""
    held = True
    for group, families in GROUPS.items():
        for units, gap in itertools.product(UNITS, GAPS):
            cell = [x for s, x in drawn if s.family in families and s.units == units and s.gap == gap]
            if not cell:
                continue
            ours, val = (np.concatenate([x[name] for x in cell]) for name in (rule, "val"))
            name = f"{rule}: {group}, {units} units, gap {gap:g}"
            if gap:
                slack = 2 * (ours - val).std() / np.sqrt(len(ours))
                what, value, limit = f"{name}, regret less that of best on val", (ours - val).mean() - slack, 0.0
            elif units >= 80:
                what, value, limit = f"{name}, regret", ours.mean(), 0.02 if units == 80 else 0.01
            else:
                continue
            held &= verdict(what, value, limit) if aloud else value <= limit
    return held


def print_regret(drawn: list[tuple[Setting, dict[str, np.ndarray]]]) -> None:
    """Mean regret by gap and number of units, of every rule; then by family."""
    rules = list(drawn[0][1])
    by: dict[tuple[str, str], dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for setting, found in drawn:
        family = "one unit" if setting.units < 4 else setting.family
        for rule, values in found.items():
            by[family, f"{setting.gap:g}"][rule].append(values)
            if family in sum(GROUPS.values(), ()):
                by[f"n {setting.units}", f"{setting.gap:g}"][rule].append(values)
                by["all", "all"][rule].append(values)
    for first in dict.fromkeys(key[0] for key in by):
        columns = [key for key in by if key[0] == first]
        print(f"\n| {first} | " + " | ".join(key[1] for key in columns) + " |\n|---|" + "---|" * len(columns))
        for rule in rules:
            cells = (f"{np.concatenate(by[key][rule]).mean():.4f}" for key in columns)
            print(f"| {rule} | " + " | ".join(cells) + " |")


def main() -> bool:
    """Prints the tables; False where a limit is missed."""
    quick = "--quick" in sys.argv or "--smallest" in sys.argv
    drawn = table(1 if quick else DRAWS, quick)
    print_regret(drawn)
    for rule in drawn[0][1]:
        print(f"{'holds' if judge(drawn, rule, aloud=False) else 'fails'}: {rule}")
    return judge(drawn, RULE)


if __name__ == "__main__":
    finish(main())
