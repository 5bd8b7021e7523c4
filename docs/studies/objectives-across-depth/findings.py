"""What the study found, counted from results/: which gaps are shown, what alignments did, what training did not teach."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from study import SYSTEMS, TRAINED

from diagnostics.runs.comparison.estimates import holm

LEAST = 0.01
"""Of a kept share: by less it is neither raised nor lowered, however sure that is."""
Json = Mapping[str, Any]


def targets(results: Json) -> list[str]:
    """Profiles of the linear probe, in order."""
    return [one["profile"] for one in results["profiles"] if one["profile"].startswith("linear_probe/")]


def target(profile: str) -> str:
    """Without the probe."""
    return profile.partition("/")[2]


def standing(results: Json, profile: str, group: str) -> Json | None:
    """What a group reaches in a profile."""
    return next((one for one in results["groups"] if (one["profile"], one["group"]) == (profile, group)), None)


def best(one: Mapping[str, Any]) -> Mapping[str, float | None]:
    """The interval to believe of an estimate."""
    return one["over_samples_and_seeds"] or one["over_samples"]


def gaps(results: Json, groups: Sequence[str] = TRAINED) -> list[dict[str, Any]]:
    """Every hidden gap of these groups, and what shows it.

    Whether its own interval shows it, whether it survives Holm's correction for all of them, and in how many trainings,
    each by itself and over samples alone, it is shown.
    """
    found = [one for one in results["groups"] if one["group"] in groups and one["profile"].startswith("linear_probe/")]
    corrected = holm(np.array([p_of(one) for one in found]))
    members = {group: [run["name"] for run in results["runs"] if run["group"] == group] for group in groups}
    made: list[dict[str, Any]] = []
    for one, p in zip(found, corrected, strict=True):
        low = best(one["hidden_gap"])["low"]
        runs = next(each for each in results["profiles"] if each["profile"] == one["profile"])["runs"]
        alone = [runs[name]["hidden_gap"][1] for name in members[one["group"]] if "hidden_gap" in runs[name]]
        made.append(
            {
                **one,
                "shown": low is not None and low > 0,
                "survives": bool(p < 0.05 and low is not None and low > 0),
                "alone": sum(value is not None and value > 0 for value in alone),
            }
        )
    return made


def shares(results: Json) -> list[Json]:
    """Recovered and kept shares of all alignments, by linear probe."""
    return [one for one in results["shares"] if one["profile"].startswith("linear_probe/")]


def in_short(found: Mapping[str, Json]) -> dict[str, Any]:
    """What all systems together say: hidden gaps shown, by Holm's correction over all of them, and what alignments did."""
    systems = [found[name] for name in found if name in SYSTEMS]
    every = [{**gap, "system": name} for name in found if name in SYSTEMS for gap in gaps(found[name])]
    corrected = holm(np.array([p_of(one) for one in every]))
    return {
        "gaps": len(every),
        "shown": [one for one in every if one["shown"]],
        "survive": [one for p, one in zip(corrected, every, strict=True) if p < 0.05 and one["shown"]],
        "random": sum(one["shown"] for results in systems for one in gaps(results, ("random",))),
        "of_random": sum(len(gaps(results, ("random",))) for results in systems),
        "fracast": gaps(found["fracast"], ("fracast",)) if "fracast" in found else [],
        "families": {name: {one["group"]: one for one in found[name]["families"]} for name in found if name in SYSTEMS},
    }


def alignments(found: Mapping[str, Json]) -> dict[str, Any]:
    """Of alignments for a gap that was shown the least recovered share, and what became of their other targets at the output."""
    every = [
        (one["base"], one["recovered"]["value"], results)
        for results in found.values()
        for one in costs(results)
        if one["recovered"]
    ]
    shown = [(base, value, results) for base, value, results in every if value is not None]
    others = [
        _side(one["kept_output"])
        for base, _, results in shown for one in shares(results) if one["base"] == base and not one["made_for_it"]
    ]  # fmt: skip
    return {
        "count": len(shown),
        "least": min(value for _, value, _ in shown),
        "others": len(others),
        "sides": Counter(others),
    }


def p_of(one: Json) -> float:
    """Of a hidden gap being 0; NaN where there is no test."""
    p = one["hidden_gap"]["p"]
    return math.nan if p is None else p


def steps(found: Mapping[str, Json]) -> int | None:
    """Of training, as the encoders tell; None before there is a result."""
    told = {
        run["lineage"].get("steps")
        for name in found
        if name in SYSTEMS
        for run in found[name]["runs"]
        if run["group"] in TRAINED
    }
    return told.pop() if len(told) == 1 else None


def costs(results: Json) -> list[dict[str, Any]]:
    """Of each alignment: the tap that each seed lifted, and what it cost.

    A dash where nothing was hidden, so that there is none; its recovered share, and of how many other targets its own
    interval shows that output and best score rose or fell.
    """
    made: list[dict[str, Any]] = []
    runs = [run for run in results["runs"] if run["lineage"].get("for")]
    bases = sorted({one["base"] for one in shares(results)})
    trained = [one for one in TRAINED if any(run["group"] == one for run in results["runs"])]
    for base in [*trained, *(one for one in bases if one not in trained)]:
        own = [one for one in shares(results) if one["base"] == base]
        seeds = [run["seed"] for run in results["runs"] if run["group"] == base]
        named = own[0]["alignment"] if own else ""
        lifted = {run["seed"]: run["lineage"]["to"] for run in runs if run["group"] == named}
        if len(seeds) == len(lifted) == 1:
            # Of weights that others trained no seed is known.
            seeds = list(lifted)
        others = {
            kind: _counted([_side(one[kind]) for one in own if not one["made_for_it"]])
            for kind in ("kept_output", "kept_best")
        }
        made.append(
            {
                "base": base,
                "lifted": [lifted.get(seed) for seed in seeds],
                "recovered": next((one["recovered"] for one in own if one["made_for_it"]), None),
                "others": others,
            }
        )
    return made


def _counted(sides: Sequence[str]) -> str:
    return ", ".join(f"{count} {side}" for side, count in Counter(sides).most_common()) or "–"


def _side(share: Mapping[str, float] | None) -> str:
    if share is None or share["low"] is None:
        return "unknown"
    return "raised" if share["low"] > 1 + LEAST else "lowered" if share["high"] < 1 - LEAST else "neither"


def untaught(results: Json) -> list[str]:
    """Each encoder with the targets that its best tap is not shown to hold better than fresh weights do (paired, 95 %)."""
    lines: list[str] = []
    for name, rows in results["controls"].items():
        margins = {one["target"]: one["over_controls"].get("fresh_weights") for one in rows}
        poor = [target for target, margin in margins.items() if margin is None or not (margin["low"] or 0.0) > 0]
        if poor:
            lines.append(f"{name} {', '.join(poor)}")
    return lines


def unneeded(results: Json) -> str:
    """In how many rows of how many the kernel on the raw input reaches at least the score of the encoder's best tap."""
    rows = [one for found in results["controls"].values() for one in found]
    return f"{sum(one['controls']['raw_input_kernel'] >= one['best_score'] for one in rows)} of {len(rows)}"
