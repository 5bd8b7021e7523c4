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

Added after the first run (`_recommend_sets.py`): the set of taps not worse (it holds the best tap in .9 of draws), the upper end of the
largest gap on test (a gap of .05 or .06 is said to be below .05 in at most .025), and the intervals on test of what was chosen
out of fold (.93 to .985). `recommend.py bounds` judges the second alone; `recommend.py real [KEPT.npz]` confirms the rule on redraws of fracast on 2,400 Lorenz series.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
from _recommend_losses import GAPS, SHAPES, Setting, losses, population
from _recommend_real import judge_real, redraws
from _recommend_rules import RULE, choices, today
from _recommend_sets import Table, coverages, exclusions, sets

from _common import ARGUMENTS, SMALLEST, finish, verdict

DRAWS = 20
UNITS = (20, 80) if SMALLEST else (20, 40, 80, 200, 400)
GROUPS = {"normal": ("normal",), "heavy": ("t", "lognormal"), "classes": ("classes",), "rare": ("rare",)}


def settings(quick: bool) -> list[Setting]:
    """All that are drawn."""
    ladder = dict.fromkeys(("normal", "t", "lognormal", "classes", "rare"), UNITS)
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


def judge(drawn: list[tuple[Setting, dict[str, np.ndarray]]], rule: str, aloud: bool = True) -> int:
    """How many of the criteria a rule misses; prints every figure where asked."""
    missed = 0
    for group, families in GROUPS.items():
        for units, gap in itertools.product(UNITS, GAPS):
            cell = [x for s, x in drawn if s.family in families and s.units == units and s.gap == gap]
            if not cell:
                continue
            ours, val = (np.concatenate([x[name] for x in cell]) for name in (rule, "val"))
            name = f"{rule}: {group}, {units} units, gap {gap:g}"
            if gap:
                # Two standard errors of the paired mean.
                what, value = f"{name}, regret less that of best on val", (ours - val).mean()
                limit = 2 * (ours - val).std() / np.sqrt(len(ours))
            elif units >= 80:
                what, value, limit = f"{name}, regret", ours.mean(), 0.02 if units == 80 else 0.01
            else:
                continue
            missed += not (verdict(what, value, limit) if aloud else value <= limit)
    return missed


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


def print_means(title: str, names: tuple[str, ...], table: Table) -> None:
    """The means of each row's figures."""
    print(f"\n| {title} | draws | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    for key, rows in table.items():
        cells = (f"{rows[:, i][~np.isnan(rows[:, i])].mean():.3f}" for i in range(rows.shape[1]))
        print(f"| {', '.join(map(str, key))} | {len(rows)} | " + " | ".join(cells) + " |", flush=True)


def judge_sets(draws: int) -> bool:
    """The set of taps not worse holds the best tap."""
    table = sets(draws)
    print_means("set of taps", ("a given best", "all that tie", "size of 12", "size of 50"), table)
    held = [
        verdict(f"set of {' '.join(map(str, key))}: holds a given best tap", rows[:, 0].mean(), 0.9, at_least=True)
        for key, rows in table.items()
    ]
    return all(held)


def judge_bounds(draws: int) -> bool:
    """No gap is excluded that is there; by family and number of units, up to two standard errors of as many draws."""
    table = exclusions(draws)
    print_means(
        "excluded: family, test units, gap",
        ("no tap's own below Student's: the rule", "each tap's own", "bootstrap of the largest"),
        table,
    )
    held = True
    for family, units in dict.fromkeys(key[:2] for key in table):
        rows = np.concatenate([rows for key, rows in table.items() if key[:2] == (family, units) and key[2]])[:, 0]
        limit = 0.025 + 2 * np.sqrt(0.025 * 0.975 / len(rows))
        held &= verdict(f"{family}, {units} test units: excluded though it is there", rows.mean(), limit)
    return held


def judge_coverage(draws: int) -> bool:
    """Intervals on test of what was chosen without test hold the truth; up to three standard errors of as many draws."""
    table = coverages(draws)
    names = ("score", "gap of the best other", "gap, given another than the output")
    print_means("coverage: family, units of train and val", names, table)
    held = True
    for key, rows in table.items():
        for name, figures in zip(names, rows.T, strict=True):
            known = figures[~np.isnan(figures)]
            what = f"coverage, {key[0]}, {key[1]} units: {name}"
            held &= verdict(what, known.mean(), 0.93, at_least=True)
            if key[0] != "rare":
                held &= verdict(what, known.mean(), 0.985 + 3 * np.sqrt(0.985 * 0.015 / len(known)))
    return held


def main() -> bool:
    """Print the tables; False where a limit is missed."""
    if "real" in ARGUMENTS:
        cache = [Path(argument) for argument in ARGUMENTS if argument.endswith(".npz")]
        return judge_real(redraws(*cache))
    if "bounds" in ARGUMENTS:
        return judge_bounds(8)
    quick = "--quick" in ARGUMENTS or SMALLEST
    drawn = table(1 if quick else DRAWS, quick)
    print_regret(drawn)
    for rule in drawn[0][1]:
        print(f"{judge(drawn, rule, aloud=False)} limits missed: {rule}")
    held = judge(drawn, RULE) == 0
    if not quick:
        held = all([held, judge_sets(4), judge_bounds(8), judge_coverage(25)])
    return held


if __name__ == "__main__":
    finish(main())
