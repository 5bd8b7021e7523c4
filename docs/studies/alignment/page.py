"""The page of the study from `plan.json` and `results/`: values over seeds, verdicts, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    EXCLUDED,
    MISSING,
    SHOWN,
    UNDECIDED,
    Outcome,
    fill,
    judge,
    number,
    pooled_error,
    read_json,
    table,
)
from study import HERE, PLAN, RESULTS, STUDY, cells, commands, kinds_of, pairs_of, rows_of

ROWS = ("base", "cut", "joined", "tap", "keep", "spatial", "control", "spatial-control")
SHORT = {
    "beats-cut": "alignment beats cut (chosen)",
    "beats-joined": "alignment beats joined (chosen)",
    "lifts": "alignment beats control (chosen)",
    "keeps": "alignment beats cut (others)",
    "cutting-costs": "base beats cut (others)",
    "price": "base beats alignment (others)",
    "keep-pays": "keep beats tap (others)",
}
"""The claims in few words; which targets."""


@dataclass
class Value:
    """A claim's value for an encoder, a pair of rows and a target."""

    claim: str
    encoder: str
    pair: tuple[str, str]
    target: str
    outcome: Outcome


def cells_of(name: str) -> list[dict[str, Any]]:
    """The seeds of an encoder that have results."""
    files = (read_json(RESULTS / f"{name}-{seed}.json") for seed in STUDY["seeds"])
    return [one for one in files if "targets" in one]


def targets_of(name: str, which: str) -> list[str]:
    """The targets that an alignment was made for, or the others."""
    plan = read_json(PLAN).get(name, {"gaps": {}, "chosen": []})
    return [target for target in plan["gaps"] if (target in plan["chosen"]) == (which == "chosen")]


def over_seeds(name: str, pair: tuple[str, str]) -> dict[str, Outcome]:
    """Target -> mean difference of two rows over seeds, with the error that the study's rule gives it."""
    key = " - ".join(pair)
    targets = [cell["targets"] for cell in cells_of(name)]
    targets = [one for one in targets if any(key in target["contrasts"] for target in one.values())]
    known = [target for target in targets[0] if key in targets[0][target]["contrasts"]] if targets else []
    if not known:
        return {}
    each = np.array([[one[target]["contrasts"][key] for target in known] for one in targets], dtype=float)
    errors = pooled_error(each[..., 0], each[..., 1])
    means = each[..., 0].mean(axis=0)
    return {
        target: Outcome(0.0, float(mean), float(error), len(known))
        for target, mean, error in zip(known, means, errors, strict=True)
    }


def values() -> list[Value]:
    """All values of all claims, judged together."""
    found = []
    for claim in STUDY["claims"]:
        for name in STUDY["encoders"]:
            rows = {*rows_of(name, 0), "cut", "joined"}
            for pair in pairs_of(claim):
                if not rows.issuperset(pair):
                    continue
                there = over_seeds(name, pair)
                for target in targets_of(name, claim["targets"]):
                    outcome = there.get(target, Outcome(claim["margin"], why="no result"))
                    outcome.margin = claim["margin"]
                    found.append(Value(claim["id"], name, pair, target, outcome))
    judge([one.outcome for one in found])
    return found


def counts(some: Iterable[Value]) -> dict[str, int]:
    each = [one.outcome.verdict for one in some]
    return {verdict: each.count(verdict) for verdict in (SHOWN, EXCLUDED, UNDECIDED, MISSING)}


def mean_of(some: Iterable[Value]) -> float:
    each = [one.outcome.value for one in some if np.isfinite(one.outcome.value)]
    return float(np.mean(each)) if each else float("nan")


def claim_table(found: list[Value]) -> str:
    """A row a claim: how its values were judged, and their mean."""
    rows = []
    for claim in STUDY["claims"]:
        own = [one for one in found if one.claim == claim["id"]]
        count = counts(own)
        rows.append(
            [
                SHORT[claim["id"]],
                *(str(count[verdict]) for verdict in (SHOWN, EXCLUDED, UNDECIDED)),
                number(mean_of(own)),
            ]
        )
    return table(["claim", SHOWN, EXCLUDED, UNDECIDED, "mean"], rows)


def value_table(found: list[Value]) -> str:
    """All values."""
    rows = [
        [one.claim, one.encoder, one.target, " − ".join(one.pair), str(one.outcome), one.outcome.why or one.outcome.verdict]
        for one in found
    ]  # fmt: skip
    return table(["claim", "encoder", "target", "difference", "mean over seeds [95 % for it alone]", "verdict"], rows)


def score_table(name: str) -> str:
    """Of each target the mean score over seeds of each row; differences that are judged beside."""
    there, plan = cells_of(name), read_json(PLAN).get(name)
    if not there or not plan:
        return "No result yet."
    seeds = {row: sum(any(row in one["scores"] for one in cell["targets"].values()) for cell in there) for row in ROWS}
    known, rows = [row for row in ROWS if seeds[row]], []
    for target in [*targets_of(name, "chosen"), *targets_of(name, "other")]:
        each = [
            number(mean_of_known(cell["targets"][target]["scores"].get(row) for cell in there), 2, sign=False)
            for row in known
        ]  # fmt: skip
        mark = f"**{target}**" if target in plan["chosen"] else target
        rows.append([mark, *each])
    share = there[0].get("passes", float("nan"))
    cost = {"cut": number(share, 2, sign=False)}
    rows.append(["*compute*", *(cost.get(row, "1") for row in known)])
    return table(["target", *(row + f" ({seeds[row]} seeds)" * (seeds[row] < len(there)) for row in known)], rows)


def mean_of_known(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def kept_share(name: str, row: str) -> float:
    """Score of a row over that of the base's output, mean over seeds and other targets that the output reads (above .1)."""
    each = [
        one["scores"][row] / one["scores"]["base"]
        for cell in cells_of(name) for target, one in cell["targets"].items()
        if target in targets_of(name, "other") and row in one["scores"] and one["scores"]["base"] > 0.1
    ]  # fmt: skip
    return float(np.mean(each)) if each else float("nan")


def kept_table() -> str:
    """Kept share of other targets, with the compute a sample and the minutes of training."""
    rows = []
    for name in STUDY["encoders"]:
        for row in ("cut", "tap", "keep", "spatial", "control"):
            if not np.isfinite(share := kept_share(name, row)):
                continue
            there = cells_of(name)
            cost = there[0].get("passes", float("nan")) if row == "cut" else 1.0
            spent = [cell["minutes"][row] for cell in there if row in cell["minutes"]]
            rows.append([
                name, row, number(share, 2, sign=False), number(cost, 2, sign=False),
                number(float(np.mean(spent)), 1, sign=False) if spent else "0" if row == "cut" else "with tap",
            ])  # fmt: skip
    return table(["encoder", "row", "kept share of other targets", "compute a sample", "CPU minutes of training"], rows)


def looks_of(name: str) -> dict[str, float]:
    """Agreement on val along the alignment to the tap, mean over seeds."""
    each = [cell["agreement"] for cell in cells_of(name) if "agreement" in cell]
    return {when: mean_of_known(one[when] for one in each) for when in ("before", "half", "end", "control")}


def known(found: list[Value]) -> dict[str, str]:
    """The three sentences of what is known now, and one of how strong the rival is."""

    def own(claim: str) -> list[Value]:
        return [one for one in found if one.claim == claim and one.outcome.verdict != MISSING]

    def part(claim: str, sign: int = 1) -> str:
        each, count = [sign * one.outcome.value for one in own(claim)], counts(own(claim))
        span = f"{number(min(each), 2)} to {number(max(each), 2)}; " if each else ""
        return f"{number(sign * mean_of(own(claim)))} ({span}{count[SHOWN]} of {len(each)} shown, {count[EXCLUDED]} excluded)"

    def said(claim: str, shown: str, none: str) -> str:
        """One of two verbs, by whether any value of a claim is shown."""
        return shown if counts(own(claim))[SHOWN] else none

    passed = [cell["passes"] for name in STUDY["encoders"] for cell in cells_of(name)[:1]]
    cost = f", at {min(passed):.2f} to {max(passed):.2f} of the multiplications" if passed else ""
    cut = f"Reading the tap{cost}, {said('cutting-costs', 'costs other targets', 'costs other targets nothing that is shown')}: {part('cutting-costs', -1)}."
    if not own("beats-cut"):
        return {
            "known.cut": cut,
            "known.aligned": "No alignment is measured over seeds yet.",
            "known.price": "",
            "rival": "",
        }
    there = dict.fromkeys(one.encoder for one in own("beats-cut"))
    few = [f"{name} ({len(measured_seeds(name))})" for name in there if len(measured_seeds(name)) < len(STUDY["seeds"])]
    where = f"{len(there)} encoders" + (f", with fewer seeds: {', '.join(few)}" if few else "")
    pays = (
        f"; `--keep` {said('keep-pays', 'keeps more', 'is not shown to keep more')}: {part('keep-pays')}"
        if own("keep-pays")
        else ""
    )
    return {
        "known.aligned": f"Beside reading that tap, an alignment {said('beats-cut', 'gains on some chosen targets', 'gains nothing that is shown on the targets that it was made for')}: {part('beats-cut')}, over {where}; on other targets {part('keeps')}.",
        "known.cut": cut,
        "known.price": f"Beside the output, an alignment {said('price', 'has a price on other targets', 'has no price that is shown on other targets')}: {part('price', -1)}{pays}.",
        "rival": f"**A weak rival?** Over a [control](../../explanation/words.md#control), taught by the base's own output, chosen targets rise by {part('lifts')}. {control_gains()} {rising()} {elsewhere()}",
    }  # fmt: skip


def recovered(name: str, target: str, row: str) -> float:
    """Share of the gap between the base's output and the cut tap that an alignment's output closes, of means over seeds."""
    each = [one for cell in cells_of(name) if row in (one := cell["targets"][target]["scores"])]
    base, cut, aligned = (mean_of_known(one[key] for one in each) for key in ("base", "cut", row))
    return (aligned - base) / (cut - base) if each else float("nan")


def control_gains() -> str:
    """By how much the control of each encoder beats its base on chosen targets, mean over targets and seeds."""
    gains = {}
    for name in STUDY["encoders"]:
        chosen = targets_of(name, "chosen")
        each = [
            one["scores"]["control"] - one["scores"]["base"]
            for cell in cells_of(name) for target, one in cell["targets"].items()
            if target in chosen and "control" in one["scores"]
        ]  # fmt: skip
        if each:
            gains[name] = number(float(np.mean(each)), 2)
    return (
        f"The controls themselves gain {', '.join(f'{gain} in {name}' for name, gain in gains.items())} over the base."
    )


def elsewhere() -> str:
    """What a longer alignment of fracast recovered in another study, beside those of this one."""
    shares = read_json(HERE.parent / "objectives-across-depth" / "results" / "fracast.json")["shares"]
    longer = next(one["recovered"] for one in shares if one["made_for_it"])
    own = ", ".join(
        f"{number(recovered('fracast', 'hidden_z', row), 2, sign=False)} by {row}" for row in ("tap", "keep")
        if np.isfinite(recovered("fracast", "hidden_z", row))
    )  # fmt: skip
    ends = ", ".join(number(longer[end], 2, sign=False) for end in ("low", "high"))
    return (
        f"Of fracast's gap of hidden_z they recover {own}; [200 steps of 8](../objectives-across-depth/index.md) recovered "
        f"{number(longer['value'], 2, sign=False)} [{ends}] (one draw). So gains of alignments as short as these are excluded, not of longer ones."
    )


def measured_seeds(name: str) -> list[dict[str, Any]]:
    """Cells of an encoder whose alignment to the tap is measured."""
    return [cell for cell in cells_of(name) if "tap" in cell["parts"]]


def rising() -> str:
    """How much alignments to the tap have learned, and in which half of their steps."""
    looks = {name: looks_of(name) for name in STUDY["encoders"] if measured_seeds(name)}
    least = number(STUDY["flat"], 2, sign=False)
    weak = [name for name, one in looks.items() if one["end"] - one["before"] < STUDY["flat"]]
    still = [name for name, one in looks.items() if one["end"] - one["half"] > STUDY["flat"]]
    ended = [name for name in looks if name not in {*weak, *still}]
    judged = [
        f"{', '.join(names)} {text}"
        for names, text in (
            (weak, "hardly learns"),
            (still, f"still gains more than {least} in the second half"),
            (ended, f"gains less than {least} there, the limit set beforehand, and could learn more all the same"),
        ) if names
    ]  # fmt: skip
    return f"By agreement with the teacher on val {'; '.join(judged)}."


def plan_table() -> str:
    """What was chosen on train and val, and whether the alignments to the tap were long enough."""
    rows = []
    for name, encoder in STUDY["encoders"].items():
        plan = read_json(PLAN).get(name)
        if not plan:
            continue
        gaps = ", ".join(f"{target} {number(gap, 2)}" for target, gap in plan["gaps"].items())
        chosen = ", ".join(plan["chosen"]) + (" (no gap is above .1: the largest)" if plan["empty"] else "")
        looks = [*looks_of(name).values()]
        shown = ", ".join(number(look, 3, sign=False) for look in looks)
        rises = " (the second half adds more than the limit)" if looks[2] - looks[1] > STUDY["flat"] else ""
        rows.append(
            [name, gaps, chosen, f"`{plan['tap']}`", f"{encoder['rate']:g}", str(encoder["steps"]), shown + rises]
        )
    head = [
        "encoder",
        "gaps",
        "chosen",
        "tap",
        "rate",
        "steps",
        "agreement on val: before, half, end; control with itself",
    ]
    return table(head, rows)


def minutes_of(name: str) -> float:
    """CPU minutes of a part of a cell of an encoder, mean over those that are computed."""
    there = cells_of(name)
    parts = sum(len(one["parts"]) for one in there)
    return sum(one["cpu_seconds"] for one in there) / 60 / parts if parts else float("nan")


def missing() -> str:
    """Parts of cells without a result, each cell with the command that computes them."""
    lines = []
    for cell in cells():
        kept, name = read_json(RESULTS / f"{cell}.json"), cell.rpartition("-")[0]
        failed, parts = kept.get("failed", {}), kept.get("parts", [])
        left = [
            kind + (f" ({failed[kind]})" if kind in failed else "")
            for kind in ("base", *kinds_of(name))
            if kind not in parts
        ]
        if left:
            lines.append(
                f"- {cell}: {', '.join(left)} (some {minutes_of(name) * len(left):.0f} CPU minutes): `python docs/studies/alignment/study.py run {cell} --work FOLDER`"
            )
    return "\n".join(lines) or "None."


def places() -> dict[str, str]:
    """Name of each place in the templates -> what stands there."""
    found, plans = values(), read_json(PLAN)
    kept = [read_json(RESULTS / f"{cell}.json") for cell in cells()]
    there = [one for one in kept if "targets" in one]
    units = [target["units"] for one in there for target in one["targets"].values()]
    filled = {
        "claims": claim_table(found), "values": value_table(found), "plan": plan_table(), "kept": kept_table(), "missing": missing(), **known(found),
        "n.claims": str(len(STUDY["claims"])), "n.values": str(len(found)), "cells": str(len(cells())), "there": str(len(there)), "aligned": str(sum("tap" in one["parts"] for one in there)),
        "units": str(min(units, default=0)), "seeds": str(len(STUDY["seeds"])), "encoders": str(len(STUDY["encoders"])),
        "minutes": f"{sum(one.get('cpu_seconds', 0) for one in [*kept, *plans.values()]) / 60:.0f}",
        "about": "\n".join(f"- `{name}`: {one['about']}, {len(cells_of(name))} seeds" for name, one in STUDY["encoders"].items()),
        **{f"n.{verdict}": str(count) for verdict, count in counts(found).items()},
    }  # fmt: skip
    for name in STUDY["encoders"]:
        share = cells_of(name)[0].get("passes") if cells_of(name) else None
        filled |= {
            f"{name}.scores": score_table(name), f"{name}.passes": number(share, 2, sign=False) if share else "–",
            f"{name}.steps": str(STUDY["encoders"][name]["steps"]), f"{name}.seeds": str(len(cells_of(name))),
            f"{name}.commands": "\n".join(commands(f"{name}-{STUDY['seeds'][0]}")) if name in plans else "",
        }  # fmt: skip
    return filled


def render(name: str, filled: Mapping[str, str] | None = None) -> str:
    """A page: `index`, or `full` with all tables."""
    return fill(HERE / f"{name}.md.in", filled or places())


def write_page() -> None:
    """Write both pages."""
    filled = places()
    for name in ("index", "full"):
        Path(HERE / f"{name}.md").write_text(render(name, filled), encoding="utf-8")
