"""The six tasks of Perception Encoder at small size: `study.toml` says what is claimed, this script measures and judges it.

    python study.py run --work FOLDER              # all cells that are not finished; resumes after a kill
    python study.py run dinov2-scenes --work FOLDER
    python study.py commands                       # the command of each run
    python study.py page                           # writes index.md from results/

A cell is an encoder on a kind of data; each of its draws is a run folder, and a row of results/CELL.json. What is finished is left as
it is; what fails is a row. No number of the page is typed by hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import re
import resource
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDY = tomllib.loads((HERE / "study.toml").read_text(encoding="utf-8"))
LEVEL = 0.05
SHOWN, EXCLUDED, UNDECIDED, MISSING = "shown", "excluded", "undecided", "no result"


def cells() -> list[str]:
    """Kinds of data in the order of their worth, each with all encoders."""
    return [f"{encoder}-{kind}" for kind, encoder in itertools.product(STUDY["data"], STUDY["encoders"])]


def encoder_of(name: str, kind: str) -> str:
    """As `diagnostics` takes it from this folder; of clips the code that applies it to their frames."""
    encoder = STUDY["encoders"][name]["image"]
    return f"clips.py:{name}" if kind == "clips" else encoder


def command(cell: str, draw: int) -> str:
    """The command that gives one run, from this folder."""
    name, _, kind = cell.partition("-")
    encoder, data = STUDY["encoders"][name], STUDY["data"][kind]
    parts = [
        "diagnostics run", shlex.quote(encoder_of(name, kind)), "--data",
        shlex.quote(f"data.py:drawn?kind={kind}&draw={draw}&size={encoder['size']}"), f"--measures {data['measures']}",
        f"--taps {encoder['taps']}" if "taps" in encoder else "",
        "--token-budget 6GB --precision float16 --no-controls --trust-code", f"-o runs/{cell}-{draw}",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def give(cell: str, draw: int, work: Path) -> dict[str, Any]:
    """One run and what is kept of it; its costs stand beside."""
    import diagnostics as dx

    folder, before = work / "runs" / f"{cell}-{draw}", resource.getrusage(resource.RUSAGE_CHILDREN)
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = command(cell, draw).replace(f"runs/{cell}-{draw}", shlex.quote(str(folder.resolve())))
    given = given.replace("diagnostics run pe ", f"diagnostics run {shlex.quote(str((work / 'pe').resolve()))} ")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SIX_TASKS_PE": str((work / "pe").resolve())}
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(given), "--jobs", "1"],
        cwd=HERE, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row: dict[str, Any] = {
        "command": command(cell, draw),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return row | {"failed": said[-1][:300] if said else str(done.returncode)}
    return row | {"tasks": kept_of(dx.open_run(folder), cell.partition("-")[2])}


def kept_of(run: Any, kind: str) -> dict[str, Any]:
    """Of each task of a kind of data the scores over depth, and at the best tap and the output."""
    kept = {}
    for name, task in STUDY["tasks"].items():
        if task["data"] != kind:
            continue
        profile = run.profile(task["key"])
        data, taps = profile.data, [str(tap) for tap in profile.data["tap"].values]
        score = np.mean([data[name].values.astype(float) for name in task.get("variables", ["score"])], axis=0)
        best = str(profile.best_tap or "")
        kept[name] = {
            "taps": taps,
            "depth": data["depth"].values.astype(float).tolist(),
            "score": score.tolist(),
            "best": best,
            "gap": float(score[taps.index(best)] - score[taps.index(profile.output_tap)]) if best in taps else None,
            "units": int(data.sizes["unit"]),
        }
    return kept


def rounded(value: Any) -> Any:
    """Four digits are more than any of these numbers has; what has no value is null."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def run_cell(cell: str, work: Path) -> None:
    """All draws of a cell that its file does not have."""
    file = RESULTS / f"{cell}.json"
    draws = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for draw in range(1, STUDY["draws"] + 1):
        if str(draw) in draws:
            continue
        draws[str(draw)] = row = rounded(give(cell, draw, work))
        print(f"{cell} {draw}: {row['cpu_seconds']:.0f} CPU s {row.get('failed', '')}", file=sys.stderr, flush=True)
        RESULTS.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(draws, separators=(",", ":")) + "\n", encoding="utf-8")
        part.replace(file)


def train(name: str, work: Path) -> None:
    """The encoder that is trained here, unless it is there."""
    encoder = STUDY["encoders"][name]
    if "train" in encoder and not (work / "pe" / "encoder.json").is_file():
        given = shlex.split(encoder["train"])
        given[given.index("pe.toml")] = str(HERE / "pe.toml")
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", *given], cwd=work, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


# Judgement.


@dataclass
class Outcome:
    """What came out for a claim of an encoder: values [draw] in the claimed direction."""

    encoder: str
    margin: float
    values: np.ndarray
    why: str = ""
    verdict: str = MISSING

    @property
    def value(self) -> float:
        return float(self.values.mean()) if len(self.values) else math.nan

    @property
    def error(self) -> float:
        return float(self.values.std(ddof=1) / np.sqrt(len(self.values))) if len(self.values) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for this one alone."""
        away = float(student.ppf(0.975, len(self.values) - 1)) * self.error
        return self.value - away, self.value + away

    @property
    def tails(self) -> tuple[float, float]:
        """Of the hypotheses that the value is at most the margin, and that it is at least that."""
        z = (self.value - self.margin) / max(self.error, 1e-12)
        return float(student.sf(z, len(self.values) - 1)), float(student.cdf(z, len(self.values) - 1))


def rows_of(encoder: str, task: str) -> list[dict[str, Any]]:
    """What is kept of a task in each draw; raises LookupError with the reason where there is nothing."""
    file = RESULTS / f"{encoder}-{STUDY['tasks'][task]['data']}.json"
    if not file.is_file():
        raise LookupError("not computed")
    draws = json.loads(file.read_text(encoding="utf-8"))
    found = [draws[draw]["tasks"][task] for draw in sorted(draws) if "tasks" in draws[draw]]
    if len(found) < STUDY["draws"]:
        failed = [row["failed"] for row in draws.values() if "failed" in row]
        raise LookupError(failed[0] if failed else f"{len(found)} of {STUDY['draws']} draws")
    return found


def curve(encoder: str, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the trunk's taps, and scores there [draw, tap]."""
    rows = rows_of(encoder, task)
    depth = np.array(rows[0]["depth"], dtype=float)
    trunk = (depth > 0) & (depth <= 1)
    return depth[trunk], np.array([row["score"] for row in rows], dtype=float)[:, trunk]


def falls(encoder: str, task: str) -> np.ndarray:
    """Late minus middle in shares of the range of the mean curve, [draw]."""
    depth, scores = curve(encoder, task)
    mean = scores.mean(axis=0)
    spread = np.nanmax(mean) - np.nanmin(mean)
    if not spread > 0:
        raise LookupError(f"{task} is read alike at every tap")
    late, middle = depth > 2 / 3 + 1e-9, (depth > 1 / 3 + 1e-9) & (depth <= 2 / 3 + 1e-9)
    return (np.nanmean(scores[:, late], axis=1) - np.nanmean(scores[:, middle], axis=1)) / spread


def claims() -> dict[str, tuple[str, ...]]:
    """Name -> the two tasks of an order, or the one that the output hides."""
    layers = {name: task["layer"] for name, task in STUDY["tasks"].items() if "layer" in task}
    pairs = [(a, b) for a, b in itertools.permutations(layers, 2) if layers[b] - layers[a] >= STUDY["apart"]]
    hidden = [name for name, layer in layers.items() if 50 - layer >= STUDY["apart"]]
    return {f"{a} before {b}": (a, b) for a, b in pairs} | {f"the output hides {name}": (name,) for name in hidden}


def outcome(encoder: str, tasks: Sequence[str]) -> Outcome:
    margin = STUDY["margin_of_order" if len(tasks) == 2 else "margin_of_gap"]
    try:
        if len(tasks) == 2:
            values = falls(encoder, tasks[1]) - falls(encoder, tasks[0])
        else:
            values = np.array([row["gap"] for row in rows_of(encoder, tasks[0])], dtype=float)
    except LookupError as error:
        return Outcome(encoder, margin, np.empty(0), str(error.args[0]))
    return Outcome(encoder, margin, values, "" if np.isfinite(values).all() else "no value in a draw")


def outcomes() -> dict[str, list[Outcome]]:
    """Claim -> its outcomes in all encoders, those that are judged by Holm (1979) over both tests of all of them."""
    found = {name: [outcome(encoder, tasks) for encoder in STUDY["encoders"]] for name, tasks in claims().items()}
    judged = [
        one for each in found.values() for one in each if STUDY["encoders"][one.encoder]["judged"] and not one.why
    ]
    tests = sorted((tail, i, side) for i, one in enumerate(judged) for side, tail in enumerate(one.tails))
    for one in judged:
        one.verdict = UNDECIDED
    for rank, (tail, i, side) in enumerate(tests):
        if tail * (len(tests) - rank) > LEVEL:
            break
        judged[i].verdict = (SHOWN, EXCLUDED)[side]
    return found


def over_encoders(each: Sequence[Outcome]) -> str:
    """Shown in every encoder with a result, excluded in one at least, or undecided."""
    verdicts = {one.verdict for one in each if one.verdict != MISSING}
    if EXCLUDED in verdicts:
        return EXCLUDED
    return MISSING if not verdicts else SHOWN if verdicts == {SHOWN} else UNDECIDED


# The page.


def number(value: float) -> str:
    """With its sign and two digits; a dash where there is none."""
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"


def shown(one: Outcome) -> str:
    """Value with its interval."""
    if one.why:
        return "–"
    low, high = one.interval
    return f"{number(one.value)} [{number(low)}, {number(high)}]"


def claim_table(found: Mapping[str, list[Outcome]]) -> str:
    """A row a claim, a column an encoder."""
    names = list(STUDY["encoders"])
    lines = [f"| claim | {' | '.join(names)} | verdict |", "|---" * (len(names) + 2) + "|"]
    marks = {SHOWN: " **+**", EXCLUDED: " **−**", UNDECIDED: "", MISSING: ""}
    for name, each in found.items():
        values = " | ".join(f"{shown(one)}{marks[one.verdict]}" for one in each)
        lines.append(f"| {name} | {values} | {over_encoders(each)} |")
    return "\n".join(lines)


def profile_table() -> str:
    """Of each task the depth of the highest mean curve and the scores there and at the end of the trunk."""
    lines = ["| task | paper | " + " | ".join(STUDY["encoders"]) + " |", "|---" * (len(STUDY["encoders"]) + 2) + "|"]
    for task, about in STUDY["tasks"].items():
        parts = []
        for encoder in STUDY["encoders"]:
            try:
                depth, scores = curve(encoder, task)
            except LookupError:
                parts.append("–")
                continue
            mean = scores.mean(axis=0)
            at = int(np.nanargmax(mean))
            parts.append(f"{depth[at]:.2f} ({mean[at]:.2f}, end {mean[-1]:.2f})")
        layer = f"{about['layer'] / 50:.2f}" if "layer" in about else ""
        lines.append(f"| {task} | {layer} | {' | '.join(parts)} |")
    return "\n".join(lines)


def missing() -> str:
    """The cells without a result, each with its command."""
    lines = []
    for cell in cells():
        file = RESULTS / f"{cell}.json"
        draws = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        done = sum("tasks" in row for row in draws.values())
        if done < STUDY["draws"]:
            failed = next((f"; {row['failed']}" for row in draws.values() if "failed" in row), "")
            lines.append(
                f"- {cell}: {done} of {STUDY['draws']} draws{failed}: `python docs/studies/six-tasks/study.py run {cell}`"
            )
    return "\n".join(lines) or "None."


def places() -> dict[str, str]:
    """Name of each place in the templates -> what stands there."""
    found = outcomes()
    said = {name: over_encoders(each) for name, each in found.items()}
    rows = [
        row for cell in cells() if (RESULTS / f"{cell}.json").is_file()
        for row in json.loads((RESULTS / f"{cell}.json").read_text(encoding="utf-8")).values()
    ]  # fmt: skip
    judged = [one.verdict for each in found.values() for one in each if one.verdict != MISSING]
    named = {
        verdict: ", ".join(name for name, each in said.items() if each == verdict) or "none"
        for verdict in (SHOWN, EXCLUDED, UNDECIDED)
    }
    by_encoder = {
        f"{encoder}.{verdict}": str(sum(one.verdict == verdict for each in found.values() for one in each if one.encoder == encoder))
        for encoder in STUDY["encoders"] for verdict in (SHOWN, EXCLUDED, UNDECIDED)
    }  # fmt: skip
    hidden = [
        one for name, each in found.items() for one in each if name.startswith("the output hides") and not one.why
    ]
    gaps = [one.value for one in hidden if one.encoder in ("dinov2", "lite0")]
    fresh = [one for each in found.values() for one in each if one.encoder == "fresh" and not one.why]
    return {
        **named, **by_encoder, "largest gap": f"{max(gaps, default=math.nan):.2f}",
        "both": str(sum(each[0].verdict == each[1].verdict == SHOWN for each in found.values())),
        "fresh.values": str(len(fresh)), "fresh.away": str(sum(one.interval[0] > 0 or one.interval[1] < 0 for one in fresh)),
        "fresh.gap": f"{max((one.interval[1] for one in hidden if one.encoder == 'fresh'), default=math.nan):.2f}",
        "pe": f"shows {by_encoder['pe.shown']} and excludes {by_encoder['pe.excluded']}"
        if any(one.encoder == "pe" and not one.why for each in found.values() for one in each) else "has no results yet",
        "claims": str(len(found)), "values": str(len(judged)), "claim_table": claim_table(found),
        **{f"n.{verdict}": str(judged.count(verdict)) for verdict in (SHOWN, EXCLUDED, UNDECIDED)},
        "profiles": profile_table(), "missing": missing(), "n_missing": str(missing().count("- ")), "cells": str(len(cells())),
        "runs": str(len(rows)), "minutes": f"{sum(row['cpu_seconds'] for row in rows) / 60:.0f}",
        "with_results": ", ".join(dict.fromkeys(one.encoder for each in found.values() for one in each if one.verdict != MISSING)) or "none yet",
        "encoders": "\n".join(f"- `{name}`: {each['about']}" for name, each in STUDY["encoders"].items()),
    }  # fmt: skip


def render(name: str) -> str:
    """A template with its places filled; an unknown place raises KeyError."""
    filled = places()
    text = (HERE / f"{name}.md.in").read_text(encoding="utf-8")
    return re.sub(r"\{\{([^}]+)\}\}", lambda place: filled[place[1].strip()], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "commands", "page"))
    parser.add_argument("cells", nargs="*", help="all by default")
    parser.add_argument("--work", type=Path, default=Path("study"))
    asked = parser.parse_args()
    names = asked.cells or cells()
    if asked.what == "page":
        for name in ("index", "full"):
            (HERE / f"{name}.md").write_text(render(name), encoding="utf-8")
    elif asked.what == "commands":
        print(*(command(cell, draw) for cell in names for draw in range(1, STUDY["draws"] + 1)), sep="\n")
    else:
        for cell in names:
            train(cell.partition("-")[0], asked.work)
            run_cell(cell, asked.work)


if __name__ == "__main__":
    main()
