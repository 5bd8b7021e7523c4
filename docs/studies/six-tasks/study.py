"""The six tasks of Perception Encoder at small size: `study.toml` says what is claimed, this script measures and judges it.

    python study.py run --work FOLDER              # all cells that are not finished; resumes after a kill
    python study.py run dinov2-scenes --work FOLDER
    python study.py commands                       # the command of each run
    python study.py page                           # writes index.md from results/

A cell is an encoder on a kind of data; each of its draws is a run folder, and a row of results/CELL.json. What is finished is left as
it is; what fails is a row. No number of the page is typed by hand.
"""

from __future__ import annotations

import itertools
import math
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from common import (  # noqa: E402  (the folder of studies)
    EXCLUDED,
    MISSING,
    SHOWN,
    UNDECIDED,
    Outcome,
    costs,
    fill,
    held,
    judge,
    number,
    parse_command,
    read_json,
    table,
    write_json,
)

RESULTS = HERE / "results"
STUDY = tomllib.loads((HERE / "study.toml").read_text(encoding="utf-8"))


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

    folder = work / "runs" / f"{cell}-{draw}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    given = command(cell, draw).replace(f"runs/{cell}-{draw}", shlex.quote(str(folder.resolve())))
    given = given.replace("diagnostics run pe ", f"diagnostics run {shlex.quote(str((work / 'pe').resolve()))} ")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SIX_TASKS_PE": str((work / "pe").resolve())}
    with costs() as cost:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(given), "--jobs", "1"],
            cwd=HERE, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    row: dict[str, Any] = {"command": command(cell, draw), **cost}
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


def draws_of(cell: str) -> dict[str, Any]:
    """The draws of a cell that there are."""
    return read_json(RESULTS / f"{cell}.json")


def run_cell(cell: str, work: Path) -> None:
    """All draws of a cell that its file does not have."""
    draws = draws_of(cell)
    for draw in range(1, STUDY["draws"] + 1):
        if str(draw) in draws:
            continue
        draws[str(draw)] = row = give(cell, draw, work)
        print(f"{cell} {draw}: {row['cpu_seconds']:.0f} CPU s {row.get('failed', '')}", file=sys.stderr, flush=True)
        write_json(RESULTS / f"{cell}.json", draws)


def train(name: str, work: Path) -> None:
    """The encoder that is trained here, unless it is there."""
    encoder = STUDY["encoders"][name]
    if "train" in encoder and not (work / "pe" / "encoder.safetensors").is_file():
        given = shlex.split(encoder["train"])
        given[given.index("pe.toml")] = str(HERE / "pe.toml")
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", *given], cwd=work, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


# Judgement.


def rows_of(encoder: str, task: str) -> list[dict[str, Any]]:
    """What is kept of a task in each draw; raises LookupError with the reason where there is nothing."""
    draws = draws_of(f"{encoder}-{STUDY['tasks'][task]['data']}")
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
    """What came out for a claim of an encoder, over draws."""
    margin = STUDY["margin_of_order" if len(tasks) == 2 else "margin_of_gap"]
    try:
        if len(tasks) == 2:
            values = falls(encoder, tasks[1]) - falls(encoder, tasks[0])
        else:
            values = np.array([row["gap"] for row in rows_of(encoder, tasks[0])], dtype=float)
    except LookupError as error:
        return Outcome(margin, why=str(error.args[0]))
    draws = len(values)
    return Outcome(margin, float(values.mean()), float(values.std(ddof=1) / np.sqrt(draws)), draws - 1)


def outcomes() -> dict[str, dict[str, Outcome]]:
    """Claim -> its outcomes by encoder; those of encoders that are judged have verdicts, over all of them."""
    found = {name: {of: outcome(of, tasks) for of in STUDY["encoders"]} for name, tasks in claims().items()}
    judge([one for each in found.values() for of, one in each.items() if STUDY["encoders"][of]["judged"]])
    return found


def over_encoders(each: Mapping[str, Outcome]) -> str:
    """Shown in every encoder with a result, excluded in one at least, or undecided."""
    verdicts = {one.verdict for one in each.values() if one.verdict != MISSING}
    if EXCLUDED in verdicts:
        return EXCLUDED
    return MISSING if not verdicts else SHOWN if verdicts == {SHOWN} else UNDECIDED


# The page.


def written(one: Outcome) -> str:
    """Value with its interval, and the sign of its verdict."""
    if not math.isfinite(one.value):
        return "–"
    low, high = (number(end, 2) for end in one.interval)
    mark = {SHOWN: " **+**", EXCLUDED: " **−**"}.get(one.verdict, "")
    return f"{number(one.value, 2)} [{low}, {high}]{mark}"


def claim_table(found: Mapping[str, Mapping[str, Outcome]]) -> str:
    """A row a claim, a column an encoder."""
    rows = [[name, *map(written, each.values()), over_encoders(each)] for name, each in found.items()]
    return table(["claim", *STUDY["encoders"], "verdict"], rows)


def best(encoder: str, task: str) -> str:
    """The highest score of a task's mean curve."""
    try:
        return f"{np.nanmax(curve(encoder, task)[1].mean(axis=0)):.2f}"
    except LookupError:
        return "–"


def profile_table() -> str:
    """Of each task the depth of the highest mean curve and the scores there and at the end of the trunk."""
    rows, tested = [], units()
    for task, about in STUDY["tasks"].items():
        parts = [task, tested.get(about["data"], "–"), f"{about['layer'] / 50:.2f}" if "layer" in about else ""]
        for encoder in STUDY["encoders"]:
            try:
                depth, scores = curve(encoder, task)
            except LookupError:
                parts.append("–")
                continue
            mean = scores.mean(axis=0)
            at = int(np.nanargmax(mean))
            parts.append(f"{depth[at]:.2f} ({mean[at]:.2f}, end {mean[-1]:.2f})")
        rows.append(parts)
    return table(["task", "test units a draw", "paper", *STUDY["encoders"]], rows)


def units() -> dict[str, str]:
    """Kind of data -> how many test units each of its draws has."""
    sizes: dict[str, set[int]] = {kind: set() for kind in STUDY["data"]}
    for cell in cells():
        for row in draws_of(cell).values():
            sizes[cell.partition("-")[2]] |= {task["units"] for task in row.get("tasks", {}).values()}
    return {kind: " to ".join(map(str, dict.fromkeys((min(of), max(of))))) for kind, of in sizes.items() if of}


def missing() -> list[str]:
    """The cells without a result, each with its command."""
    lines = []
    for cell in cells():
        draws = draws_of(cell)
        done = sum("tasks" in row for row in draws.values())
        if done < STUDY["draws"]:
            failed = next((f"; {row['failed']}" for row in draws.values() if "failed" in row), "")
            again = f"`python docs/studies/six-tasks/study.py run {cell}`"
            lines.append(f"- {cell}: {done} of {STUDY['draws']} draws{failed}: {again}")
    return lines


def places() -> dict[str, str]:
    """Name of each place in the templates -> what stands there."""
    found, lines = outcomes(), missing()
    rows = [row for cell in cells() for row in draws_of(cell).values()]
    judged = [one.verdict for each in found.values() for one in each.values() if one.verdict != MISSING]
    named = {
        verdict: ", ".join(name for name, each in found.items() if over_encoders(each) == verdict) or "none"
        for verdict in (SHOWN, EXCLUDED, UNDECIDED)
    }
    by_encoder = {
        f"{of}.{verdict}": str(sum(each[of].verdict == verdict for each in found.values()))
        for of in STUDY["encoders"] for verdict in (SHOWN, EXCLUDED, UNDECIDED)
    }  # fmt: skip
    both = [name for name, each in found.items() if each["dinov2"].verdict == each["lite0"].verdict == SHOWN]
    hidden = [each for name, each in found.items() if name.startswith("the output hides")]
    gaps = [each[of].value for each in hidden for of in ("dinov2", "lite0")]
    fresh = [each["fresh"] for each in found.values() if math.isfinite(each["fresh"].value)]
    ends = [each["fresh"].interval[1] for each in hidden]
    with_results = dict.fromkeys(of for each in found.values() for of, one in each.items() if one.verdict != MISSING)
    return {
        **named, **by_encoder, **held({f"{name}.{of}": one.verdict for name, each in found.items() for of, one in each.items()}),
        **held({f"{name}.both": SHOWN for name in both}), "largest gap": f"{np.nanmax(gaps):.2f}",
        "both": str(len(both)), "both.names": ", ".join(both) or "none",
        "fresh.values": str(len(fresh)), "fresh.away": str(sum(one.interval[0] > 0 or one.interval[1] < 0 for one in fresh)),
        "fresh.gap": f"{np.nanmax(ends):.2f}",
        "pe": f"shows {by_encoder['pe.shown']} and excludes {by_encoder['pe.excluded']}"
        if any(math.isfinite(each["pe"].value) for each in found.values()) else "has no results yet",
        "claims": str(len(found)), "values": str(len(judged)), "claim_table": claim_table(found),
        **{f"n.{verdict}": str(judged.count(verdict)) for verdict in (SHOWN, EXCLUDED, UNDECIDED)},
        "profiles": profile_table(), "missing": "\n".join(lines) or "None.", "lacking": f" {len(lines)} of {len(cells())} cells lack results." if lines else "",
        "runs": str(len(rows)), "minutes": f"{sum(row['cpu_seconds'] for row in rows) / 60:.0f}",
        **{f"best.{of}.{task}": best(of, task) for of in STUDY["encoders"] for task in STUDY["tasks"]},
        **{f"units.{kind}": of for kind, of in units().items()},
        "with_results": ", ".join(with_results) or "none yet",
        "encoders": "\n".join(f"- `{name}`: {each['about']}" for name, each in STUDY["encoders"].items()),
    }  # fmt: skip


def render(name: str) -> str:
    """A template with its places filled."""
    return fill(HERE / f"{name}.md.in", places())


def main() -> None:
    asked = parse_command(__doc__)
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
