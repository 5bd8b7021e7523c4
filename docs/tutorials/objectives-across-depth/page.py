"""The page of the study: index.md and its figures, from results/ and the commands of study.py."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

matplotlib.use("svg")
import matplotlib.pyplot as plt
from study import (
    FRACAST,
    HERE,
    OBJECTIVES,
    SAMPLES,
    SEEDS,
    SYSTEMS,
    TRAINED,
    WIDTH,
    align_command,
    alike_command,
    compare_command,
    controls_command,
    run_command,
    train_command,
)

from diagnostics.comparison.estimates import holm

LEAST = 0.01
"""Of a kept share: by less it is neither raised nor lowered, however sure that is."""
COLOURS = ("#1f5fa8", "#c2410c", "#2f7d4f", "#8a4fa3", "#5b6875", "#a6761d")
Json = Mapping[str, Any]


def results() -> dict[str, Any]:
    """What the study has found so far, by system."""
    files = {name: HERE / "results" / f"{name}.json" for name in (*SYSTEMS, "fracast")}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def write_page() -> None:
    """The page and a figure for each system."""
    found = results()
    for name in found:
        groups = OBJECTIVES if name in SYSTEMS else list(dict.fromkeys(run["group"] for run in found[name]["runs"]))
        draw(found[name], groups, HERE / f"{name}.svg")
    (HERE / "index.md").write_text(render(found))


def render(found: Mapping[str, Json]) -> str:
    """The page's text. Raises KeyError where a result lacks a part: give its `study.py run` again."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"interval": interval, "target": target}
    page = environment.get_template("page.md.j2").render(
        found=found,
        systems=[name for name in found if name in SYSTEMS],
        width=WIDTH,
        steps=steps(found),
        missing=[name for name in (*SYSTEMS, "fracast") if name not in found],
        objectives=OBJECTIVES,
        trained=TRAINED,
        seeds=len(SEEDS),
        samples=SAMPLES,
        train=train_command("lorenz"),
        run=run_command("lorenz", "models/lorenz/forecast", "forecast"),
        controls=controls_command("lorenz", "forecast"),
        compare=compare_command("lorenz"),
        alike=alike_command("lorenz"),
        align=align_command("lorenz", "forecast", 0),
        aligned_for=SYSTEMS,
        fracast=(*FRACAST, compare_command("fracast")),
        gaps=gaps,
        standing=standing,
        shares=shares,
        in_short=in_short(found),
        costs=costs,
        least=LEAST,
        control=control,
        untaught=untaught,
        targets=targets,
    )
    return page.rstrip() + "\n"


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


def interval(one: Json | None, digits: int = 2, signed: bool = False) -> str:
    """An estimate, or an interval, for a table; a dash where there is none."""
    if one is None:
        return "–"
    ends = one if "low" in one else best(one)
    if ends["value"] is None:
        return "–"
    sign = "+" if signed else ""
    said = f"{ends['value']:{sign}.{digits}f}"
    if ends["low"] is None:
        return said
    return f"{said} {bracket(ends['low'], ends['high'], digits)}"


def bracket(low: float, high: float, digits: int = 2) -> str:
    """Both ends, never parted at the end of a line."""
    return f"[{low:.{digits}f},\u00a0{high:.{digits}f}]"


def gaps(results: Json, groups: Sequence[str] = TRAINED) -> list[dict[str, Any]]:
    """Every hidden gap of these groups: whether its own interval shows it, whether it survives Holm's correction for all of
    them, and in how many trainings, each by itself and over samples alone, it is shown."""
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
    """Of each alignment: the tap that each seed lifted (a dash where nothing was hidden, so that there is none), its recovered
    share, and of how many other targets its own interval shows that output and best score rose or fell."""
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
        made.append({
            "base": base, "lifted": [lifted.get(seed) for seed in seeds],
            "recovered": next((one["recovered"] for one in own if one["made_for_it"]), None), "others": others,
        })  # fmt: skip
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


def control(one: Json, name: str) -> str:
    """What a control reaches, with its interval."""
    value, ends = one["controls"].get(name), one["control_intervals"].get(name)
    if value is None:
        return "–"
    return f"{value:.2f} {bracket(*ends)}" if ends and ends[0] is not None else f"{value:.2f}"


def draw(results: Json, shown: Sequence[str], path: Path) -> None:
    """A panel for each target: the mean over seeds of each group over depth, its seeds as thin lines."""
    profiles = targets(results)
    columns = min(3, len(profiles))
    rows = math.ceil(len(profiles) / columns)
    plt.rcParams |= {"svg.hashsalt": "diagnostics", "font.size": 9, "svg.fonttype": "none"}
    figure, axes = plt.subplots(rows, columns, figsize=(3.6 * columns, 2.6 * rows), squeeze=False, layout="constrained")
    depth = [float(value) for value in results["depth"]]
    groups = {run["name"]: run["group"] for run in results["runs"]}
    for axis, profile in zip(axes.flat, profiles, strict=False):
        found = next(one for one in results["profiles"] if one["profile"] == profile)["runs"]
        lowest = 1.0
        for label, colour in zip(shown, COLOURS, strict=False):
            curves = [found[name]["score"] for name, group in groups.items() if group == label]
            for curve in curves:
                _line(axis, depth, curve, color=colour, linewidth=0.5, alpha=0.5)
            mean = [
                None if any(value is None for value in values) else sum(values) / len(values)
                for values in zip(*curves, strict=True)
            ]
            _line(axis, depth, mean, color=colour, linewidth=1.8, label=label)
            lowest = min(
                [lowest, *(value for value, at in zip(mean, depth, strict=True) if value is not None and at > 0)]
            )
        axis.axvline(1.0, color="#9aa5b1", linewidth=0.8, linestyle=":")
        axis.set_ylim(max(lowest - 0.05, -0.3), 1.02)
        axis.set_title(target(profile), fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(profiles) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("relative depth (head beyond 1)")
    for row in axes:
        row[0].set_ylabel("R2 on test")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(shown), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _line(axis: Any, depth: Sequence[float], values: Sequence[float | None], **style: Any) -> None:
    known = [(at, value) for at, value in zip(depth, values, strict=True) if value is not None]
    axis.plot([at for at, _ in known], [value for _, value in known], **style)
