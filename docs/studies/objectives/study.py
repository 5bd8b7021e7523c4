"""Objectives across depth, with the power to answer: `plan.toml` says what is claimed, this script measures and judges it.

    python study.py run --work FOLDER                 # all cells that are not finished; resumes after a kill
    python study.py run lorenz-jepa --work FOLDER     # one of them
    python study.py commands                          # the commands of each cell
    python study.py page                              # writes index.md and full.md from results/

A cell is an objective on a kind of data, or an encoder on clips. What is finished is left as it is; what fails is a row of its own.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from common import costs, parse_command, read_json, write_json  # noqa: E402  (the folder of studies)

RESULTS = HERE / "results"
PLAN = tomllib.loads((HERE / "plan.toml").read_text(encoding="utf-8"))
ROOM = "docs/studies/objectives"
PROBES = {"segmentation": "segmentation_probe", "masks": "label_propagation"}
"""Targets that another probe than the linear one reads."""


def cells() -> list[str]:
    """Objectives on each kind of data, then encoders on clips."""
    return [
        *(f"{data}-{objective}" for data in PLAN["data"] for objective in PLAN["objectives"]),
        *(f"video-{name}" for name in PLAN["video"]["control"] | PLAN["video"]["encoders"]),
    ]  # fmt: skip


def kind_of(cell: str) -> dict[str, Any]:
    """Data, measures and targets of a cell."""
    data = cell.partition("-")[0]
    return PLAN["video"] if data == "video" else PLAN["data"][data]


def is_control(cell: str) -> bool:
    """Whether a cell shows that its clips' targets can be read, and is no encoder that claims are about."""
    return cell.partition("-")[2] in kind_of(cell).get("control", {})


def targets_of(cell: str) -> list[str]:
    """Targets of a cell; a control has no tokens to track by."""
    return [target for target in kind_of(cell)["targets"] if not (is_control(cell) and target in PROBES)]


def count_of(cell: str) -> int:
    """Trainings of a cell, or draws where its encoder is not trained here."""
    return kind_of(cell).get("trainings", PLAN["trainings"])


def train_command(cell: str) -> str:
    """The command of a cell's trainings; "" where its encoder is not trained here."""
    data, _, name = cell.partition("-")
    how = (
        (PLAN["video"]["control"] | PLAN["video"]["encoders"])[name]
        if data == "video"
        else f"{PLAN['data'][data]['train']} --objective {name}"
    )
    return (
        f"diagnostics train objectives {how} --seeds {count_of(cell)} --out models/{data}"
        if how.startswith("--")
        else ""
    )


def readings(cell: str, training: int, shuffled: bool) -> dict[str, tuple[str, str, str]]:
    """Name of each run of a training -> its encoder, data and measures, as `diagnostics run` takes them."""
    data, _, name = cell.partition("-")
    run, kind = f"{cell}-{training}{'-shuffled' * shuffled}", kind_of(cell)
    model = f"models/{data}/{name}{f'-seed{training}' * (training > 0)}"

    def spec(which: str) -> str:
        return f"{ROOM}/{kind[which].format(draw=PLAN['first_draw'] + training)}{'&shuffled=1' * shuffled}"

    if data != "video":
        return {run: (model, spec("measured"), kind["measures"])}
    if is_control(cell):
        return {run: (f"{ROOM}/{kind['control'][name]}", spec("measured"), "linear_probe")}
    own = (model, model) if train_command(cell) else ("dinov2", f"{ROOM}/{kind['encoders'][name]}")
    return {
        run: (f"{ROOM}/data.py:in_time?encoder={own[0]}", spec("measured"), "linear_probe"),
        f"{run}-tracked": (own[1], spec("tracked"), "label_propagation"),
    }


def budget_of(measures: str) -> str:
    """Room for tokens, where a measure reads them."""
    return "0" if measures == "linear_probe" else "1GB"


def orders(cell: str) -> tuple[bool, ...]:
    """Whether frames are shuffled, in each of the runs of a training."""
    return (False, True) if cell.startswith("video-") else (False,)


def commands(cell: str) -> list[str]:
    """All commands of a cell, from the root of the repository."""
    runs = [
        f"diagnostics run '{model}' --data '{data}' --measures {measures} --no-controls --token-budget {budget_of(measures)} -o runs/{name}"
        for training in range(count_of(cell)) for shuffled in orders(cell)
        for name, (model, data, measures) in readings(cell, training, shuffled).items()
    ]  # fmt: skip
    return [command for command in (train_command(cell), *runs) if command]


def give(command: str, work: Path) -> None:
    """Carry out the trainings of a cell."""
    work.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", *shlex.split(command.replace(ROOM, str(HERE)))]
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [str(done.returncode)])[-1][:300])


def measured(cell: str, training: int, shuffled: bool, work: Path) -> dict[str, Any]:
    """Of each target of a training's runs the scores over depth, the best tap, and by how much it beats the output."""
    import diagnostics as dx

    def here(spec: str) -> str:
        return spec.replace("models/", f"{work}/models/").replace(ROOM, str(HERE))

    kept = {}
    for name, (model, data, measures) in readings(cell, training, shuffled).items():
        run = dx.run(
            dx.build("encoder", here(model)), dx.build("dataset", here(data)), out=work / "runs" / name, measures=measures,
            controls=False, token_budget=budget_of(measures), jobs=1, watch=dx.silent, report=False,
        )  # fmt: skip
        for target in targets_of(cell):
            probe = PROBES.get(target, "linear_probe")
            if probe in measures.split(","):
                kept[target] = kept_of(run, f"{probe}/{target}")
    return kept


def kept_of(run: Any, key: str) -> dict[str, Any]:
    """Scores over depth of a profile, where it is read best, and above what guess."""
    profile = run.profile(key)
    data, taps = profile.data, [str(tap) for tap in profile.data["tap"].values]
    score = data["score"].values.astype(float)
    best = str(profile.best_tap or "")
    guess = float(data["line_commonest"].values[0]) if "line_commonest" in data else 0.0
    return {
        "depth": data["depth"].values.astype(float).tolist(),
        "score": score.tolist(),
        "best": score[taps.index(best)] if best in taps else None,
        "gap": score[taps.index(best)] - score[taps.index(profile.output_tap)] if best in taps else None,
        "guess": guess,
        "units": int(data.sizes["unit"]),
    }


def run_cell(cell: str, work: Path) -> None:
    """Train and measure what a cell's file does not have; a failure is its row."""
    file = RESULTS / f"{cell}.json"
    kept = read_json(file) or {"trainings": {}, "cpu_seconds": 0.0}
    kept.pop("failed", None)
    todo = [str(each) for each in range(count_of(cell)) if str(each) not in kept["trainings"]]
    try:
        if todo and (command := train_command(cell)):
            with costs() as row:
                give(command, work)
            kept["cpu_seconds"] += row["cpu_seconds"]
        for training in todo:
            with costs() as row:
                found = {
                    "shuffled" if shuffled else "ordered": measured(cell, int(training), shuffled, work)
                    for shuffled in orders(cell)
                }
            kept["trainings"][training] = found
            kept["cpu_seconds"] += row["cpu_seconds"]
            write_json(file, kept)
    except Exception as error:  # a failure is a row
        write_json(file, kept | {"failed": f"{getattr(error, 'code', '') or type(error).__name__}: {error}"[:300]})
    print(f"{cell}: {len(kept['trainings'])} of {count_of(cell)}", file=sys.stderr, flush=True)


# Values.


def trainings(cell: str, which: str = "ordered") -> list[dict[str, Any]]:
    """The trainings of a cell that were measured."""
    there = read_json(RESULTS / f"{cell}.json").get("trainings", {})
    return [there[key][which] for key in sorted(there, key=int)]


def complete(cell: str) -> bool:
    """Whether all trainings of a cell were measured: it is judged once."""
    return len(trainings(cell)) >= count_of(cell)


def readable(cell: str, target: str) -> bool:
    """Whether the best tap reads a target `least` above a guess, mean over trainings."""
    each = [one[target]["best"] - one[target]["guess"] for one in trainings(cell) if one[target]["best"] is not None]
    return bool(each) and float(np.mean(each)) >= PLAN["least"]


def gaps(cell: str, target: str) -> np.ndarray:
    """[training]"""
    return np.array([one[target]["gap"] for one in trainings(cell)], dtype=float)


def deeper(cell: str, target: str) -> np.ndarray:
    """Last third of the trunk minus the middle one, [training]."""
    found = []
    for one in trainings(cell):
        depth, score = (np.array(one[target][key], dtype=float) for key in ("depth", "score"))
        late, middle = (depth > 2 / 3 + 1e-9) & (depth <= 1), (depth > 1 / 3 + 1e-9) & (depth <= 2 / 3 + 1e-9)
        found.append(float(score[late].mean() - score[middle].mean()))
    return np.array(found)


def shuffled(cell: str, target: str) -> np.ndarray:
    """Best tap in order minus best tap with frames shuffled, [training]."""
    both = zip(trainings(cell), trainings(cell, "shuffled"), strict=True)
    return np.array([one[target]["best"] - other[target]["best"] for one, other in both], dtype=float)


def main() -> None:
    asked = parse_command(__doc__)
    some = asked.cells or cells()
    if asked.what == "commands":
        print(*(line for cell in some for line in commands(cell)), sep="\n")
    elif asked.what == "page":
        sys.path[:0] = [str(HERE)]
        from page import write_page

        write_page()
    else:
        for cell in some:
            run_cell(cell, asked.work.resolve())


if __name__ == "__main__":
    main()
