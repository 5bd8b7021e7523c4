"""The pages of the study, index.md and full.md, and their figures, from results/ and the commands of study.py."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from findings import (
    LEAST,
    Json,
    alignments,
    best,
    costs,
    gaps,
    in_short,
    shares,
    standing,
    steps,
    target,
    targets,
    unneeded,
    untaught,
)
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

COLOURS = ("#1f5fa8", "#c2410c", "#2f7d4f", "#8a4fa3", "#5b6875", "#a6761d")


def results() -> dict[str, Any]:
    """What the study has found so far, by system."""
    files = {name: HERE / "results" / f"{name}.json" for name in (*SYSTEMS, "fracast")}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def write_page() -> None:
    """The pages and a figure for each system."""
    found = results()
    for name in found:
        groups = OBJECTIVES if name in SYSTEMS else list(dict.fromkeys(run["group"] for run in found[name]["runs"]))
        draw(found[name], groups, HERE / f"{name}.svg")
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(found, name))


def render(found: Mapping[str, Json], name: str = "index") -> str:
    """A page's text: `index`, or `full` with all tables. Raises KeyError where a result lacks a part: give its `study.py run` again."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"interval": interval, "target": target}
    page = environment.get_template(f"{name}.md.j2").render(
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
        aligned=alignments(found),
        least=LEAST,
        control=control,
        untaught=untaught,
        unneeded=unneeded,
        targets=targets,
    )
    return page.rstrip() + "\n"


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
