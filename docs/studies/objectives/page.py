"""The page of the study from `results/`: values, verdicts, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import EXCLUDED, LEVEL, MISSING, SHOWN, UNDECIDED, Outcome, fill, judge, number, read_json, table
from power import GAP
from scipy.stats import nct
from scipy.stats import t as student
from study import (
    HERE,
    PLAN,
    RESULTS,
    cells,
    commands,
    complete,
    count_of,
    deeper,
    gaps,
    is_control,
    kind_of,
    readable,
    shuffled,
    targets_of,
    trainings,
)

SAYS = {
    "gap": "The best other layer beats the output",
    "more": "An objective hides more than another",
    "deeper": "Late layers beat middle ones",
    "shuffled": "An encoder needs the order of frames",
}


@dataclass
class Value:
    """A claim's value in a cell, or between two."""

    claim: str
    where: str
    target: str
    outcome: Outcome


def outcome_of(values: np.ndarray) -> Outcome:
    """Mean over trainings with Student's t."""
    if len(values) < 2:
        return Outcome(PLAN["margin"], why="not computed")
    error = float(values.std(ddof=1) / np.sqrt(len(values)))
    return Outcome(PLAN["margin"], float(values.mean()), error, len(values) - 1)


def asked() -> Iterator[tuple[str, str, str, Callable[[], np.ndarray]]]:
    """Claim, where, target, and what computes its values."""
    for cell in cells():
        if not complete(cell) or is_control(cell):
            continue
        there = trainings(cell)
        read = [target for target in kind_of(cell)["targets"] if readable(cell, target)]
        for target in read:
            yield "gap", cell, target, lambda cell=cell, target=target: gaps(cell, target)
            if len(there[0][target]["depth"]) > 3:
                yield "deeper", cell, target, lambda cell=cell, target=target: deeper(cell, target)
            if cell.startswith("video-"):
                yield "shuffled", cell, target, lambda cell=cell, target=target: shuffled(cell, target)
    for data in PLAN["data"]:
        for pair in PLAN["compared"]:
            first, second = (f"{data}-{name}" for name in pair)
            if complete(first) and complete(second):
                yield (
                    "more",
                    f"{first} − {second}",
                    "mean",
                    lambda first=first, second=second: differences(first, second),
                )


def differences(first: str, second: str) -> np.ndarray:
    """Mean gap over the targets that both read, training by training."""
    read = [target for target in kind_of(first)["targets"] if readable(first, target) and readable(second, target)]
    count = min(len(trainings(first)), len(trainings(second)))
    if not read:
        return np.empty(0)
    return np.mean([gaps(first, target)[:count] - gaps(second, target)[:count] for target in read], axis=0)


def values() -> list[Value]:
    """All values, judged together."""
    found = [Value(claim, where, target, outcome_of(compute())) for claim, where, target, compute in asked()]
    judge([one.outcome for one in found])
    return found


def counted(some: list[Value], brief: bool = False) -> str:
    """How some values were judged, and their mean; `brief` gives numbers alone."""
    count = {verdict: sum(one.outcome.verdict == verdict for one in some) for verdict in (SHOWN, EXCLUDED)}
    known = [one.outcome.value for one in some if np.isfinite(one.outcome.value)]
    mean = number(float(np.mean(known))) if known else "–"
    if brief:
        return f"{mean} ({count[SHOWN]}, {count[EXCLUDED]} of {len(some)})"
    return f"{mean} ({count[SHOWN]} of {len(some)} shown, {count[EXCLUDED]} excluded)"


def gap_table(found: list[Value]) -> str:
    """Of each objective, and each encoder of clips, the gaps on each kind of data."""
    gaps_of = [one for one in found if one.claim == "gap"]
    kinds = [*PLAN["data"], "video"]
    names = list(dict.fromkeys([*PLAN["objectives"], *PLAN["video"]["encoders"]]))
    rows = []
    for name in names:
        cell_of = {kind: f"{kind}-{name}" for kind in kinds}
        own = {kind: [one for one in gaps_of if one.where == cell] for kind, cell in cell_of.items()}
        rows.append([
            name,
            *(counted(own[kind], brief=True) if own[kind] else "–" if cell in cells() and not complete(cell) else "" for kind, cell in cell_of.items()),
        ])  # fmt: skip
    return table(["trained by", *kinds], rows)


def score_of(cell: str, target: dict[str, Any]) -> float:
    """Of an encoder the score at the best layer before its output; of a control that of its output."""
    return target["score"][-1] if is_control(cell) else np.nan if target["best"] is None else target["best"]


def read_table() -> str:
    """How well each encoder of clips reads each target in order, with frames shuffled, and what a guess is."""
    rows = []
    for cell in (cell for cell in cells() if cell.startswith("video-") and complete(cell)):
        for target in targets_of(cell):
            each = [
                np.array([score_of(cell, one[target]) if key == "best" else one[target][key] for one in trainings(cell, which)], dtype=float)
                for key, which in (("best", "ordered"), ("best", "shuffled"), ("guess", "ordered"))
            ]  # fmt: skip
            shown = [
                f"{number(one.mean(), 2, sign=False)} ± {number(one.std(ddof=1), 2, sign=False)}"
                if len(one) > 1
                else "–"
                for one in each
            ]
            rows.append([cell.removeprefix("video-"), target, *shown])
    return (
        table(["reader", "target", "in order", "frames shuffled", "guess"], rows) if rows else "None is measured yet."
    )


def power_seen(found: list[Value]) -> float:
    """Share of gaps of .05 that the spreads seen over trainings show at the first step of Holm's correction, mean over gaps."""
    own = [one.outcome for one in found if one.claim == "gap" and np.isfinite(one.outcome.error)]
    bar = [student.isf(LEVEL / (2 * len(found)), one.freedom) for one in own]
    shown = [
        nct.sf(least, one.freedom, (GAP - PLAN["margin"]) / max(one.error, 1e-4))
        for least, one in zip(bar, own, strict=True)
    ]  # fmt: skip
    return float(np.mean(shown)) if shown else float("nan")


def control_reads() -> str:
    """What the control of clips reads in order, and with frames shuffled."""
    cell = next(f"video-{name}" for name in PLAN["video"]["control"])
    if not complete(cell):
        return "their control is not measured"
    ordered, mixed = (
        np.mean([score_of(cell, one["direction"]) for one in trainings(cell, which)]) for which in ("ordered", "shuffled")
    )  # fmt: skip
    return f"a reader made by hand reads direction by {number(ordered, 2, sign=False)} ({number(mixed, 2, sign=False)} in shuffled frames)"


def named(some: list[Value], name: Callable[[Value], str]) -> str:
    """The two largest values by name, the first with its interval."""
    first = [f"{name(one)}{f' ({one.outcome})' * (i == 0)}" for i, one in enumerate(some[:2])]
    return ", ".join([*first, *[f"{len(some) - 2} more"] * (len(some) > 2)])


def known(found: list[Value]) -> dict[str, str]:
    """The three sentences of what is known now."""
    gaps_of, more = ([one for one in found if one.claim == claim] for claim in ("gap", "more"))
    shown, hidden = (
        sorted((one for one in some if one.outcome.verdict == SHOWN), key=lambda one: -one.outcome.value) for some in (more, gaps_of)
    )  # fmt: skip
    moved = [one for one in found if one.claim == "shuffled"]
    clips = [cell for cell in cells() if cell.startswith("video-") and complete(cell) and not is_control(cell)]
    unread, asked_of = (
        sum(not readable(cell, target) for cell in clips for target in targets_of(cell)),
        sum(len(targets_of(cell)) for cell in clips),
    )
    control = control_reads()
    needs = [f"{one.target} of {one.where.removeprefix('video-')}" for one in moved if one.outcome.verdict == SHOWN]
    return {
        "known.gap": f"On the mean the best other layer beats the output by {counted(gaps_of)}: the output hides {named(hidden, lambda one: f'{one.target} of {one.where}') or 'nothing that is shown'}.",
        "known.more": (
            f"Of {len(more)} pairs of objectives {len(shown)} are shown to differ{': ' * bool(shown)}{named(shown, lambda one: one.where)}."
            if more else "No two objectives are measured on the same data yet."
        ),
        "known.video": (
            f"Of clips no layer reads {unread} of {asked_of} targets, though {control}; the order of frames is worth "
            f"{counted(moved)}{': ' * bool(needs)}{', '.join(needs)}."
            if moved else f"No encoder of clips is measured yet; {control}."
        ),
    }  # fmt: skip


def minutes_of(cell: str) -> float:
    """CPU minutes that a cell takes, by the plan."""
    kind = kind_of(cell)
    return kind["minutes"][cell.partition("-")[2]] if cell.startswith("video-") else kind["minutes"]


def places() -> dict[str, str]:
    """Name of each place in the templates -> what stands there."""
    found = values()
    there = [read_json(RESULTS / f"{cell}.json") for cell in cells()]
    verdicts = [one.outcome.verdict for one in found]
    power = next(
        one for one in read_json(HERE / "power.json")["power"]
        if (one["trainings"], one["units"]) == (PLAN["trainings"], PLAN["units"])
    )  # fmt: skip
    rows = []
    for claim, says in SAYS.items():
        own = [one for one in found if one.claim == claim]
        each = [one.outcome.value for one in own if np.isfinite(one.outcome.value)]
        count = [str(sum(one.outcome.verdict == verdict for one in own)) for verdict in (SHOWN, EXCLUDED, UNDECIDED)]
        rows.append([says, str(len(own)), *count, number(float(np.mean(each))) if each else "–"])
    unread = [
        f"{cell}: {', '.join(left)}" for cell in cells()
        if complete(cell) and not is_control(cell) and (left := [target for target in kind_of(cell)["targets"] if not readable(cell, target)])
    ]  # fmt: skip
    missing = [
        f"- {cell}: {kept.get('failed', '') or f'{len(trainings(cell))} of {count_of(cell)} trainings'}, some {minutes_of(cell):.0f} CPU minutes: "
        f"`python docs/studies/objectives/study.py run {cell} --work FOLDER`"
        for cell, kept in zip(cells(), there, strict=True) if not complete(cell)
    ]  # fmt: skip
    left = [cell for cell in cells() if not complete(cell)]
    return {
        **known(found), "read": read_table(), "gaps": gap_table(found), "power.seen": number(power_seen(found), 2, sign=False),
        "claims": table(["claim", "values", SHOWN, EXCLUDED, UNDECIDED, "mean"], rows),
        "values": table(
            ["claim", "where", "target", "mean [95 % for it alone]", "verdict"],
            [[one.claim, one.where, one.target, str(one.outcome), one.outcome.verdict] for one in found],
        ),
        "n": str(len(found)), **{f"n.{each}": str(verdicts.count(each)) for each in (SHOWN, EXCLUDED, UNDECIDED, MISSING)},
        "left": str(len(left)), "video.trainings": str(PLAN["video"]["trainings"]),
        "video.units": str(PLAN["video"]["units"]), "trainings": str(PLAN["trainings"]), "units": str(PLAN["units"]), "power": number(power["shown"], 2, sign=False),
        "cells": str(len(cells())), "unread": "; ".join(unread) or "none", "n.unread": str(sum(one.count(",") + 1 for one in unread) or "No"),
        "there": str(sum(map(complete, cells()))), "missing": "\n".join(missing) or "None.",
        "minutes": f"{sum(one.get('cpu_seconds', 0) for one in there) / 60:.0f}",
        "commands": "\n".join(line for cell in cells() for line in commands(cell)[:2]),
    }  # fmt: skip


def render(name: str) -> str:
    """A page: `index`, or `full` with all tables."""
    return fill(HERE / f"{name}.md.in", places())


def write_page() -> None:
    """Write both pages."""
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(name), encoding="utf-8")
