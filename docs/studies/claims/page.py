"""Writes index.md, full.md and verdicts.svg from claims.toml and results/: no number is typed by hand."""

from __future__ import annotations

import json
import sys
from collections import Counter
from html import escape
from typing import Any

import numpy as np
import rehearsal
from study import CLAIMS, HERE, RESULTS, cells, command
from verdicts import EXCLUDED, MISSING, SHOWN, UNDECIDED, Outcome, all_outcomes, over_encoders, read

sys.path[:0] = [str(HERE.parent)]
from common import fill, held  # noqa: E402  (the folder of studies)

COLOURS = {SHOWN: "#2a7f4f", EXCLUDED: "#b3432b", UNDECIDED: "#c9c9c9", MISSING: "#ffffff"}
MARKS = {SHOWN: "+", EXCLUDED: "−", UNDECIDED: "?", MISSING: ""}
ROW, LEFT, COLUMN, TOP = 20, 300, 34, 130
"""Of the figure, in pixels."""


def results() -> dict[str, list[Outcome]]:
    """Claim -> its outcomes."""
    return all_outcomes()


def number(value: float) -> str:
    """With its sign, three digits after the point; a dash where there is none."""
    return f"{value:+.3f}".replace("-", "−") if np.isfinite(value) else "–"


def interval(one: Outcome) -> str:
    """Value with its 95 % interval."""
    low, high = one.interval
    if not np.isfinite(one.error):
        return number(one.value)
    return f"{number(one.value)} [{number(low)}, {number(high)}]"


def figure(found: dict[str, list[Outcome]]) -> str:
    """Claims by cells, a mark in each: SVG."""
    columns = list(dict.fromkeys(base(one.cell) for each in found.values() for one in each))
    rows = list(found)
    width, height = LEFT + COLUMN * (len(columns) + 1) + 20, TOP + ROW * len(rows) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for j, name in enumerate([*columns, "all"]):
        x = LEFT + COLUMN * (j + 0.5)
        parts.append(
            f'<text x="{x + 4}" y="{TOP - 6}" fill="#222" transform="rotate(-60 {x} {TOP - 6})">{escape(name)}</text>'
        )
    for i, name in enumerate(rows):
        y = TOP + ROW * i
        parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" fill="#222" text-anchor="end">{escape(name)}</text>')
        for j, column in enumerate([*columns, "all"]):
            each = [one for one in found[name] if base(one.cell) == column] if column != "all" else found[name]
            if not each:
                continue
            verdict = over_encoders(each)
            x = LEFT + COLUMN * j
            said = escape("; ".join(f"{one.cell} {interval(one)}" for one in each))
            parts += [
                f'<rect x="{x + 2}" y="{y + 2}" width="{COLUMN - 4}" height="{ROW - 4}" fill="{COLOURS[verdict]}" stroke="#999">'
                f"<title>{escape(name)}: {verdict}. {said}</title></rect>",
                f'<text x="{x + COLUMN / 2}" y="{y + 14}" text-anchor="middle" fill="{"#222" if verdict in (UNDECIDED, MISSING) else "#fff"}">'
                f"{MARKS[verdict]}</text>",
            ]
    return "\n".join([*parts, "</svg>", ""])


def base(cell: str) -> str:
    """A cell without the number of its training."""
    name, _, last = cell.rpartition(".")
    return name if last.isdigit() else cell


def table(found: dict[str, list[Outcome]]) -> str:
    """One row a claim and cell."""
    lines = ["| claim | encoder and data | value | margin | draws | verdict |", "|---|---|---|---|---|---|"]
    for claim in CLAIMS["claims"]:
        if "kind" not in claim:
            lines.append(f"| **{claim['id']}**: {claim['says']} {claim['source']} | | | | | not testable here |")
            continue
        each = found[claim["id"]]
        lines.append(f"| **{claim['id']}**: {claim['says']} {claim['source']} | | | | | **{over_encoders(each)}** |")
        lines += [
            f"| | {one.cell} | {interval(one)} | {number(one.margin)} | {spread(one)} | {one.verdict}{f': {one.why}' if one.why else ''} |"
            for one in each
        ]
    return "\n".join(lines)


def spread(one: Outcome) -> str:
    """How many draws, with the lowest and the highest."""
    if not one.draws:
        return ""
    if len(one.draws) == 1:
        return "one draw"
    return f"{len(one.draws)}: {number(min(one.draws))} to {number(max(one.draws))}"


def untestable() -> str:
    """What cannot be tested here, why, and the command for whoever has the weights."""
    return "\n".join(
        f"- **{claim['id']}** ({claim['source']}): {claim['says']} {claim['untestable']}\n\n      {claim['command']}\n"
        for claim in CLAIMS["claims"]
        if "kind" not in claim
    )


def costs() -> dict[str, float]:
    """CPU minutes and largest memory of all runs that are there, how many they are, and test units a cell."""
    rows = [row for file in cell_files() for row in json.loads(file.read_text(encoding="utf-8"))["draws"].values()]
    return {
        "runs": len(rows),
        "failed": sum("failed" in row for row in rows),
        "minutes": sum(row["cpu_seconds"] for row in rows) / 60,
        "memory": max((row["memory_gib"] for row in rows), default=0.0),
    }


def lacking() -> str:
    """The cells without results, with what is reckoned that they take, as the end of a sentence."""
    names = [name for name in cells() if not (RESULTS / f"{name}.json").is_file()]
    cost = {name: f" (some {cells()[name]['minutes']} CPU minutes)" for name in names if "minutes" in cells()[name]}
    named = ", ".join(f"`{name}`{cost.get(name, '')}" for name in names)
    return f", not {named}" if named else ""


def cell_files() -> list[Any]:
    return [RESULTS / f"{name}.json" for name in cells() if (RESULTS / f"{name}.json").is_file()]


def units(name: str) -> int:
    """Independent test units of a cell, over its draws."""
    return sum(max((one["units"] for one in row["profiles"].values()), default=0) for row in read(name).values())


def cell_table() -> str:
    """One row a cell: what it is, what it cost."""
    lines = [
        "| cell | encoder | data | draws | test units | CPU minutes | command of draw 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, cell in cells().items():
        file = RESULTS / f"{name}.json"
        if not file.is_file():
            lines.append(
                f"| {name} | `{cell['encoder']}` | `{cell['data']}` | not computed | | | `{command(name, 1)}` |"
            )
            continue
        draws = json.loads(file.read_text(encoding="utf-8"))["draws"]
        minutes = sum(row["cpu_seconds"] for row in draws.values()) / 60
        failed = [row["failed"] for row in draws.values() if "failed" in row]
        count = f"{len(draws)}" if not failed else f"failed: {failed[0]}"
        tested = "" if failed else f"{units(name):,}"
        lines.append(
            f"| {name} | `{cell['encoder']}` | `{cell['data']}` | {count} | {tested} | {minutes:.1f} | `{command(name, 1)}` |"
        )
    return "\n".join(lines)


def profiles() -> str:
    """Of each cell and target the mean score over draws with its spread, at the output and at the chosen tap, with controls."""
    lines = [
        "| cell | target | chosen taps | at the chosen tap | at the output | controls (one draw) |",
        "|---|---|---|---|---|---|",
    ]
    for file in cell_files():
        said = json.loads(file.read_text(encoding="utf-8"))
        there = [row for row in said["draws"].values() if "failed" not in row]
        if not there:
            continue
        for key in there[0]["profiles"]:
            each = [row["profiles"][key] for row in there if key in row["profiles"]]
            chosen = Counter(one["chosen"][0] for one in each if one["chosen"] and one["chosen"][0])
            taps = ", ".join(f"{tap} {count}" for tap, count in chosen.most_common(3))
            controls = ", ".join(
                f"{name} {value:.2f}" for name, value in each[0]["controls"].items() if value is not None
            )
            lines.append(
                f"| {said['cell']} | {key} | {taps} | {over_draws([one['chosen'][1:2] for one in each])} "
                f"| {over_draws([one['output'][:1] for one in each])} | {controls} |"
            )
    return "\n".join(lines)


def over_draws(values: list[list[float | None]]) -> str:
    """Mean (lowest to highest) over draws, or the words `one draw`."""
    known = [one[0] for one in values if one and one[0] is not None]
    if not known:
        return "–"
    if len(known) == 1:
        return f"{known[0]:.3f} (one draw)"
    return f"{np.mean(known):.3f} ({min(known):.3f} to {max(known):.3f})"


def counts(found: dict[str, list[Outcome]]) -> Counter[str]:
    return Counter(one.verdict for each in found.values() for one in each)


def named(found: dict[str, list[Outcome]], verdict: str) -> str:
    """The claims with a verdict over encoders, as names."""
    names = [f"`{name}`" for name, each in found.items() if over_encoders(each) == verdict]
    return ", ".join(names) or "none"


def filled(found: dict[str, list[Outcome]]) -> dict[str, str]:
    """Name of each place in the templates -> what stands there."""
    tests, spent = counts(found), costs()
    verdicts = Counter(over_encoders(each) for each in found.values())
    places = {
        "claims": str(len(CLAIMS["claims"])),
        "tested": str(len(found)),
        "cells": str(sum(tests.values()) - tests[MISSING]),
        "computed": str(len(cell_files())),
        "of_cells": str(len(cells())),
        "lacking": lacking(),
        "n_shown": str(tests[SHOWN]),
        "n_excluded": str(tests[EXCLUDED]),
        "n_undecided": str(tests[UNDECIDED]),
        "n_missing": str(tests[MISSING]),
        **{f"claims_{verdict}": str(verdicts[verdict]) for verdict in (SHOWN, EXCLUDED, UNDECIDED)},
        "claims_unjudged": str(len(CLAIMS["claims"]) - len(found) + verdicts[MISSING]),
        "shown": named(found, SHOWN),
        "excluded": named(found, EXCLUDED),
        "undecided": named(found, UNDECIDED),
        "runs": str(spent["runs"]),
        "failed": str(spent["failed"]),
        "minutes": f"{spent['minutes']:.0f}",
        "memory": f"{spent['memory']:.1f}",
        "table": table(found),
        "untestable": untestable(),
        "cell_table": cell_table(),
        "profiles": profiles(),
        **rehearsed(),
        **held({name: over_encoders(each) for name, each in found.items()}),
        **held({f"{name}.{one.cell}": one.verdict for name, each in found.items() for one in each}),
    }
    for name, each in found.items():
        said = Counter(one.verdict for one in each)
        places[f"{name}.counts"] = ", ".join(
            f"{verdict} {said[verdict]}" for verdict in (SHOWN, EXCLUDED, UNDECIDED) if said[verdict]
        )
        for one in each:
            places[f"{name}.{one.cell}"] = interval(one)
            places[f"{name}.{one.cell}.value"] = number(one.value)
        known = [one.value for one in each if np.isfinite(one.value)]
        places[f"{name}.range"] = f"{number(min(known))} to {number(max(known))}" if known else "–"
        places[f"{name}.mean"] = number(float(np.mean(known))) if known else "–"
    return places


def rehearsed() -> dict[str, str]:
    """What the full size costs, from 32 images."""
    file = RESULTS / "rehearsal.json"
    if not file.is_file():
        return dict.fromkeys(
            ("pe.command", "pe.images", "pe.cpu", "pe.disk", "pe.hours", "pe.disk_wanted", "pe.passes", "pe.memory"),
            "–",
        )
    found = json.loads(file.read_text(encoding="utf-8"))
    times = rehearsal.WANTED / found["images"]
    return {
        "pe.command": found["command"],
        "pe.images": str(found["images"]),
        "pe.cpu": f"{found['cpu_seconds'] / 60:.1f}",
        "pe.disk": f"{found['disk_bytes'] / 1e9:.2f}",
        "pe.hours": f"{found['cpu_seconds'] * times / 3600:.0f}",
        "pe.disk_wanted": f"{(found['pooled_bytes'] * times + found['disk_bytes'] - found['pooled_bytes']) / 1e9:.1f}",
        "pe.passes": "2",
        "pe.memory": f"{found['memory_gib']:.1f}",
    }


def render(found: dict[str, list[Outcome]], name: str) -> str:
    """A template with its places filled; an unknown place raises KeyError."""
    return fill(HERE / f"{name}.md.in", filled(found))


def write_page() -> None:
    found = results()
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(found, name), encoding="utf-8")
    (HERE / "verdicts.svg").write_text(figure(found), encoding="utf-8")


if __name__ == "__main__":
    write_page()
