"""Writes index.md, full.md and regret.svg from plan.toml and results/: no number is typed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from common import EXCLUDED, SHOWN, fill, held, number, read_json, table
from scipy.special import stdtrit
from study import DRAWS, HERE, PLAN, RESULTS, cells, command, draws_of

TRAINED = "trained here"
OPEN, NONE, UNFINISHED = "open", "no such rule", "not judged"
CARRIES, FAILS = "carries over", "does not"
RULES = ("best on val", "logme", "64 labels", "16 labels", "best of all others", "best of 1 other", "second last", "random", "output", "rankme",
         "matrix_entropy", "infonce", "dime", "lidar", "self_similarity", "curvature", "linear_predictability", "two_nn")  # fmt: skip
SETS = (
    "greedy",
    "greedy.narrow",
    "evenly_spaced",
    "evenly_spaced.narrow",
    "random",
    "all",
    "all.narrow",
    "weighted_sum",
)
COLOURS = {"image": "#b3432b", "text": "#2a7f4f", "time series": "#2b5cb3", "audio": "#8a4fb0"}

Found = Mapping[str, Any]
"""A cell with its draws, as results/CELL.json holds it."""


@dataclass(frozen=True)
class Mean:
    """The mean over draws with Student's interval, NaN with less than two."""

    draws: tuple[float, ...]

    @property
    def value(self) -> float:
        return float(np.mean(self.draws)) if self.draws else math.nan

    @property
    def reach(self) -> float:
        n = len(self.draws)
        return float(stdtrit(n - 1, 0.975) * np.std(self.draws, ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    def __str__(self) -> str:
        if not self.draws:
            return "–"
        ends = (
            "" if math.isnan(self.reach) else f" [{number(self.value - self.reach)}, {number(self.value + self.reach)}]"
        )
        return number(self.value) + ends


def results() -> dict[str, Found]:
    """The cells that are there, in the plan's order."""
    return {name: found for name in cells() if (found := read_json(RESULTS / f"{name}.json"))}


def mean_of(found: Found, of: Any) -> Mean:
    """A function of a target that may be None, mean over the targets of each draw that have it."""
    by_draw = [[of(target) for target in draw.get("targets", {}).values()] for draw in found["draws"].values()]
    known = [[value for value in each if value is not None] for each in by_draw]
    return Mean(tuple(float(np.mean(each)) for each in known if each))


def difference(first: Mapping[str, float], name: str, second: Mapping[str, float], other: str | None) -> float | None:
    """One value less another where both are known; less nothing where no other is named."""
    if name not in first or (other is not None and other not in second):
        return None
    return first[name] - (second[other] if other is not None else 0.0)


def value_of(claim: Mapping[str, Any], found: Found) -> Mean:
    """The value of a claim in each draw of a cell, as the plan defines it."""
    sign = claim.get("sign", 1)

    def of(target: Mapping[str, Any]) -> float | None:
        key, name = ("gain", claim["set"]) if claim["kind"] == "gain" else ("regret", claim["rule"])
        less = difference(target[key], name, target[key], claim.get("than"))
        if less is None:
            return None
        return sign * (-less if claim["kind"] == "saves" else less)

    return mean_of(found, of)


def verdict(claim: Mapping[str, Any], value: Mean) -> str:
    """In one encoder."""
    margin = claim.get("sign", 1) * claim["margin"]
    if not value.draws:
        return NONE
    if len(value.draws) < len(DRAWS):
        # Judged once, when all draws are there: a look at each would find more than there is.
        return UNFINISHED
    if value.value - value.reach > margin:
        return SHOWN
    return EXCLUDED if value.value + value.reach < margin else OPEN


def judged(found: Mapping[str, Found]) -> dict[str, Found]:
    """The cells of encoders of wheels."""
    return {name: cell for name, cell in found.items() if cells()[name]["modality"] != TRAINED}


@dataclass(frozen=True)
class Outcome:
    """A claim over encoders: values and verdicts by cell, those of encoders that have its rule."""

    claim: Mapping[str, Any]
    values: Mapping[str, Mean]
    verdicts: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """Over all encoders."""
        each = list(self.verdicts.values())
        if EXCLUDED in each:
            return FAILS
        return CARRIES if each and set(each) == {SHOWN} else OPEN

    @property
    def mean(self) -> float:
        """The mean over encoders."""
        return float(np.mean([value.value for value in self.values.values()])) if self.values else math.nan

    @property
    def range(self) -> str:
        """From the least to the largest encoder."""
        each = [value.value for value in self.values.values()]
        return f"{number(min(each))} to {number(max(each))}" if each else "–"

    @property
    def shown(self) -> int:
        """Encoders in which it is shown."""
        return sum(each == SHOWN for each in self.verdicts.values())


def outcomes(found: Mapping[str, Found]) -> dict[str, Outcome]:
    """Claim -> what came of it."""
    made = {}
    for claim in PLAN["claims"]:
        values = {name: value for name, cell in judged(found).items() if (value := value_of(claim, cell)).draws}
        made[claim["id"]] = Outcome(claim, values, {name: verdict(claim, value) for name, value in values.items()})
    return made


def regret(found: Found, rule: str, than: str | None = None) -> Mean:
    """Of a rule, or by how much it is above another's."""
    return mean_of(found, lambda target: difference(target["regret"], rule, target["regret"], than))


def row(*parts: Any) -> list[str]:
    return [str(part) for part in parts]


def rules_table(found: Mapping[str, Found], than: str | None) -> str:
    """Regret of each rule by encoder, less that of a random tap where it is named."""
    rows = [row(rule, *(regret(cell, rule, than) for cell in found.values())) for rule in RULES if rule != than]
    return table(["rule", *found], rows)


def sets_table(found: Mapping[str, Found]) -> str:
    rows = [
        row(name, *(mean_of(cell, lambda t, name=name: t["gain"].get(name)) for cell in found.values()))
        for name in SETS
    ]
    chosen = [mean_of(cell, lambda t: float(t["chosen_set"] != "single")).value for cell in found.values()]
    gained = [mean_of(cell, lambda t: t["gain"].get(t["chosen_set"], 0.0)) for cell in found.values()]
    rows.append(row("the set that is chosen without test, or none", *gained))
    rows.append(row("targets for which one is chosen", *(f"{share:.0%}" for share in chosen)))
    return table(["set", *found], rows)


def labels_table(found: Mapping[str, Found]) -> str:
    """By number of labels the score of the tap that all labels choose and of the output, and how often these labels choose it."""
    rows = []
    for name, cell in found.items():
        sizes = sorted(
            {n for d in cell["draws"].values() for t in d.get("targets", {}).values() for n in t["curve"]["labels"]}
        )
        for size in sizes:
            each = [
                mean_of(cell, lambda t, key=key, size=size: at(t["curve"], key, size))
                for key in ("used", "output", "same")
            ]
            rows.append(row(name, size, number(each[0].value), number(each[1].value), f"{each[2].value:.0%}"))
    return table(["encoder", "labels", "tap that all labels choose", "output", "draws of labels that choose it"], rows)


def at(curve: Mapping[str, list[Any]], key: str, size: int) -> float | None:
    return curve[key][curve["labels"].index(size)] if size in curve["labels"] else None


def claims_table(found: Mapping[str, Found]) -> str:
    rows = []
    for one in outcomes(found).values():
        each = "; ".join(f"{name} {one.values[name]} {one.verdicts[name]}" for name in one.values)
        rows.append(
            row(f"{one.claim['says']} ({one.claim['source']})", number(one.mean), one.range, f"**{one.verdict}**", each)
        )
    return table(["claim", "mean over encoders", "from, to", "over encoders", "in each"], rows)


def figure(found: Mapping[str, Found]) -> str:
    """Regret of each rule, a mark for each encoder of a wheel: SVG."""
    some = judged(found)
    left, width, step, top = 170, 560, 22, 34
    means = {rule: {name: regret(cell, rule).value for name, cell in some.items()} for rule in RULES}
    means = {rule: each for rule, each in means.items() if any(math.isfinite(x) for x in each.values())}
    most = max((x for each in means.values() for x in each.values() if math.isfinite(x)), default=1.0)

    def x_of(value: float) -> float:
        return left + 20 + (width - left - 40) * max(value, 0.0) / most

    height = top + step * len(means) + 30
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" fill="#ffffff"/>']  # fmt: skip
    for i, (modality, colour) in enumerate(COLOURS.items()):
        parts.append(
            f'<circle cx="{left + 26 + 100 * i}" cy="14" r="4" fill="{colour}"/><text x="{left + 34 + 100 * i}" y="18" fill="#222">{modality}</text>'
        )
    for tick in np.arange(0, most, 0.1):
        x = x_of(float(tick))
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 26}" stroke="#ddd"/><text x="{x:.1f}" y="{height - 12}" fill="#222" text-anchor="middle">{tick:.1f}</text>'
        )
    for i, (rule, each) in enumerate(means.items()):
        y = top + step * i + step / 2
        parts.append(f'<text x="{left}" y="{y + 4:.1f}" fill="#222" text-anchor="end">{escape(rule)}</text>')
        for name, value in each.items():
            if math.isfinite(value):
                said = escape(f"{rule}, {name}: {number(value)}")
                parts.append(
                    f'<circle cx="{x_of(value):.1f}" cy="{y:.1f}" r="4.5" fill="{COLOURS[cells()[name]["modality"]]}" fill-opacity="0.8"><title>{said}</title></circle>'
                )
    return "\n".join([*parts, "</svg>", ""])


def rows_of(found: Found) -> str:
    """What is found for one encoder, beside the mean over those of the study."""
    there, own = outcomes(results()), {"own": found}
    rows = [
        row(one.claim["says"], value := value_of(one.claim, found), verdict(one.claim, value), number(one.mean))
        for one in there.values()
    ]
    claims = table(["claim", "here", "", "mean over the study's encoders"], rows)
    failed = [draw["failed"] for draw in found["draws"].values() if "failed" in draw]
    return "\n\n".join([*failed, rules_table(own, None), sets_table(own), claims])


def costs(found: Mapping[str, Found]) -> dict[str, str]:
    draws = [draw for cell in found.values() for draw in cell["draws"].values()]
    wanted = sum(len(draws_of(cell)) for cell in cells().values())
    units = [
        t["units"] for cell in found.values() for d in cell["draws"].values() for t in d.get("targets", {}).values()
    ]
    unread = sum(len(draw.get("unread", ())) for draw in draws)
    return {
        "runs": str(len(draws)), "wanted": str(wanted), "minutes": f"{sum(d['cpu_seconds'] for d in draws) / 60:.0f}",
        "memory": f"{max((d['memory_gib'] for d in draws), default=0.0):.1f}", "units": str(min(units, default=0)), "unread": str(unread),
        "draws": str(len(DRAWS)), "encoders": str(len(judged(found))), "targets": str(len(units)),
    }  # fmt: skip


def missing(found: Mapping[str, Found]) -> str:
    """The runs that are not there, or failed, with their command."""
    lines = []
    for name, cell in cells().items():
        for draw in draws_of(cell):
            kept = found.get(name, {"draws": {}})["draws"].get(str(draw))
            if kept is None or "failed" in kept:
                lines.append(
                    f"- {name}, draw {draw}: {'not run' if kept is None else kept['failed']}\n\n      {command(name, cell, draw)}\n"
                )
    return "\n".join(lines) or "None."


def left_out(found: Mapping[str, Found]) -> str:
    """Rules that a cell has no answer of, by their reason."""
    lines = []
    for name, cell in found.items():
        reasons: dict[str, list[str]] = {}
        for rule, why in {k: v for d in cell["draws"].values() for k, v in d.get("left_out", {}).items()}.items():
            reasons.setdefault(why, []).append(rule)
        lines.append(
            f"- {name}: " + "; ".join(f"{why}: {', '.join(sorted(rules))}" for why, rules in sorted(reasons.items()))
        )
    return "\n".join(lines)


def render(found: Mapping[str, Found], name: str = "index") -> str:
    """A page: `index`, or `full` with all tables."""
    wheels, trained = judged(found), {key: cell for key, cell in found.items() if key not in judged(found)}
    made = outcomes(found)
    parts = {
        "claims": claims_table(found), "rules": rules_table(wheels, None), "less": rules_table(wheels, "random"),
        "rules.trained": rules_table(trained, None), "sets": sets_table(wheels), "sets.trained": sets_table(trained),
        "labels": labels_table(wheels), "missing": missing(found), "left_out": left_out(found), **costs(found),
        "commands": "\n".join(command(key, cell, draws_of(cell)[0]) for key, cell in cells().items()),
    }  # fmt: skip
    for rule in RULES:
        each = [value for cell in wheels.values() if math.isfinite(value := regret(cell, rule).value)]
        parts[f"regret.{rule}"] = number(float(np.mean(each))).replace("+", "") if each else "–"
    for verdict_ in (CARRIES, FAILS, OPEN):
        parts[f"n.{verdict_}"] = str(sum(one.verdict == verdict_ for one in made.values()))
    parts["n.claims"] = str(len(made))
    for key, one in made.items():
        parts |= {key: number(one.mean), f"{key}.range": one.range, f"{key}.verdict": one.verdict}
        parts[f"{key}.shown"] = f"{one.shown} of {len(one.values)}"
        parts |= {f"{key}.{cell}": str(value) for cell, value in one.values.items()}
    parts |= held({key: one.verdict for key, one in made.items()})
    return fill(HERE / f"{name}.md.in", parts)


def write_page() -> None:
    """Write both pages and the figure."""
    found = results()
    (HERE / "regret.svg").write_text(figure(found), encoding="utf-8")
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(found, name), encoding="utf-8")
