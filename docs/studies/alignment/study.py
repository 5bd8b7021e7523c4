"""Alignment against cutting: `study.toml` says what is claimed and how it is judged, this script measures and judges it.

    python study.py plan --work FOLDER              # chooses targets and taps on train and val: plan.json
    python study.py run --work FOLDER               # all cells that are not finished; resumes after a kill
    python study.py run dinov2-1 --work FOLDER      # one of them
    python study.py commands                        # the commands of each cell
    python study.py page                            # writes index.md and full.md from plan.json and results/

A cell is an encoder and a seed. What is finished is left as it is; what fails is a row of its own.
"""

from __future__ import annotations

import argparse
import functools
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
from common import costs, read_json, write_json  # noqa: E402  (the folder of studies)

RESULTS, PLAN = HERE / "results", HERE / "plan.json"
STUDY = tomllib.loads((HERE / "study.toml").read_text(encoding="utf-8"))
KINDS = ("tap", "keep", "spatial")
CONTROL_OF = {"tap": "control", "spatial": "spatial-control"}
PROBES = {"segmentation": "segmentation_probe"}
"""Targets that another probe than the linear one reads."""


def cells() -> list[str]:
    """The first seed of all encoders before the second."""
    return [f"{name}-{seed}" for seed in STUDY["seeds"] for name in STUDY["encoders"]]


def spec(name: str) -> str:
    """A name as `diagnostics` takes it from the root of the repository."""
    return name if ".py" not in name else f"docs/studies/alignment/{name}"


def absolute(name: str) -> str:
    return name.replace("docs/studies/alignment", str(HERE))


def align_command(name: str, kind: str, seed: int, out: str) -> str:
    """The command of an alignment; that to the tap keeps its encoder at half of its steps too."""
    encoder = STUDY["encoders"][name]
    how = encoder[kind].format(encoder=encoder["encoder"], tap=tap_of(name))
    spatial = "--optimiser adamw --warmup 0.1 --mask 0.25 --layer-scale 1 --drop-path 0" if kind == "spatial" else ""
    control = {"tap": f"--encoder-every {encoder['steps'] // 2}", "keep": "--no-control", "spatial": ""}[kind]
    data = encoder["training"].format(seed=STUDY["first_training"] + seed)
    parts = [
        f"diagnostics align {'spatial' if kind == 'spatial' else 'tap'} --encoder '{encoder['encoder']}'", how, spatial,
        f"--data '{data}' {encoder['options']} --lr {encoder['rate']} --steps {encoder['steps']} --seed {seed}", control,
        f"--out models/{out}",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def kinds_of(name: str) -> list[str]:
    return [kind for kind in KINDS if kind in STUDY["encoders"][name]]


def rows_of(name: str, seed: int) -> dict[str, str]:
    """Row that is measured by a run -> its encoder."""
    models = {"base": STUDY["encoders"][name]["encoder"]}
    for kind in kinds_of(name):
        models[kind] = f"models/{name}-{kind}-{seed}"
    for kind, control in CONTROL_OF.items():
        if kind in models:
            models[control] = f"{models[kind]}-control"
    return models


def run_command(name: str, row: str, seed: int) -> str:
    """The command of a run."""
    encoder, own = STUDY["encoders"][name], rows_of(name, seed)[row]
    taps = f"{tap_of(name)},{encoder['output']}" if row == "base" else encoder["output"]
    sets = ",tap_set" if row == "base" else ""
    data = spec(encoder["data"]).format(draw=STUDY["first_draw"] + seed)
    return (
        f"diagnostics run '{own}' --data '{data}' --measures {encoder['measures']}{sets} --taps {taps} --no-controls "
        f"--token-budget 1GB -o runs/{name}-{row}-{seed}"
    )


def tap_of(name: str) -> str:
    return read_json(PLAN)[name]["tap"]


def commands(cell: str) -> list[str]:
    """All commands of a cell, from the root of the repository."""
    name, _, seed = cell.rpartition("-")
    aligned = [align_command(name, kind, int(seed), f"{name}-{kind}-{seed}") for kind in kinds_of(name)]
    return [*aligned, *(run_command(name, row, int(seed)) for row in rows_of(name, int(seed)))]


def give(command: str, work: Path) -> float:
    """Carry out an alignment in a process of its own; what it took, in CPU seconds."""
    work.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", *shlex.split(command)]
    with costs() as row:
        done = subprocess.run(words, cwd=work, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip
    print(f"{row['cpu_seconds']:.0f} CPU s: {command}", file=sys.stderr, flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [str(done.returncode)])[-1][:300])
    return row["cpu_seconds"]


@functools.lru_cache(maxsize=2)
def dataset(name: str) -> Any:
    """Held for the runs of a cell."""
    import diagnostics as dx

    return dx.build("dataset", name)


def measured(model: str, data: str, measures: str, taps: Sequence[str], out: Path) -> dict[str, Any]:
    """`measure/target` -> result of a run."""
    import diagnostics as dx

    done = out.with_suffix(".done")
    if done.is_file():
        run = dx.open_run(out)
    else:
        run = dx.run(
            dx.build("encoder", model), dataset(absolute(data)), out=out, measures=measures, taps=list(taps), controls=False,
            token_budget="1GB", jobs=1, watch=dx.silent, report=False,
        )  # fmt: skip
        done.touch()
    tree = run.results
    names = [group.strip("/") for group in tree.groups if group.count("/") == 2]
    return {name: tree[name].to_dataset() for name in names}


def key_of(target: str) -> str:
    return f"{PROBES.get(target, 'linear_probe')}/{target}"


# What is chosen on train and val.


def plan(name: str, work: Path) -> None:
    """Choose targets and tap of an encoder, where they are not chosen yet."""
    if name not in read_json(PLAN):
        with costs() as row:
            chosen = choose(name, work)
        write_json(PLAN, read_json(PLAN) | {name: chosen | row})


def choose(name: str, work: Path) -> dict[str, Any]:
    """Gaps of all targets by the losses that choose, the targets that count, and the tap."""
    from diagnostics.measures.result import choosing_scores

    encoder = STUDY["encoders"][name]
    data = spec(encoder["data"]).format(draw=STUDY["plan_draw"])
    taps = [*encoder["taps"], encoder["output"]]
    found = measured(encoder["encoder"], data, encoder["measures"], taps, work / "runs" / f"{name}-plan")
    gaps: dict[str, list[float]] = {}
    samples = dataset(absolute(data))
    for target, about in samples.targets.items():
        scores = np.asarray(choosing_scores(found[key_of(target)]), dtype=float)
        guess = 0.0
        if about.kind == "label":
            guess = (
                np.unique(about.values[samples.split != "test"], return_counts=True)[1].max()
                / (samples.split != "test").sum()
            )
        gaps[target] = ((scores[:-1] - scores[-1]) / (1 - guess)).tolist()
    best = {target: max(each) for target, each in gaps.items()}
    chosen = [target for target, gap in best.items() if gap > STUDY["least"]]
    largest = max(best, key=lambda target: best[target])
    mean = np.mean([gaps[target] for target in chosen or [largest]], axis=0)
    return {
        "tap": encoder["taps"][int(mean.argmax())],
        "chosen": chosen or [largest],
        "empty": not chosen,
        "gaps": best,
        "best_taps": {target: encoder["taps"][int(np.argmax(each))] for target, each in gaps.items()},
    }


# Cells.


def agreements(name: str, seed: int, path: Path) -> dict[str, float]:
    """Agreement on val with what teaches, before, at half and at the end of an alignment; of its control with itself."""
    encoder = STUDY["encoders"][name]
    half = path / "steps" / str(encoder["steps"] // 2)
    control = path.with_name(f"{path.name}-control")
    return {
        "before": agreement(encoder, seed, encoder["encoder"], tap_of(name)),
        "half": agreement(encoder, seed, str(half), tap_of(name)),
        "end": agreement(encoder, seed, str(path), tap_of(name)),
        "control": agreement(encoder, seed, str(control), encoder["output"]),
    }


def agreement(encoder: Mapping[str, Any], seed: int, model: str, tap: str) -> float:
    """Mean cosine on val of an encoder's output with the base's tokens at a tap, through the least squares of train for another width."""
    import torch
    from diagnostics_training.alignment.objective import Alignment, Teacher
    from torch.utils.data import default_collate

    import diagnostics as dx

    data = dataset(encoder["training"].format(seed=STUDY["first_training"] + seed))
    base, student = (dx.build("encoder", each).sized_for(data[0]) for each in (encoder["encoder"], model))
    mapped = base.tap(tap).features != base.tap(encoder["output"]).features
    objective = Alignment(student, [Teacher(base, base.tap(tap), mapped=mapped)]).eval()

    def batch(part: str, count: int) -> dict[str, Any]:
        rows = np.flatnonzero(data.split == part)[:count]
        return {"clean": default_collate([base.preprocess(data[int(row)]) for row in rows])}

    with torch.no_grad():
        if mapped:
            objective.begin_maps([batch("train", 400)])
        return float(objective(batch("val", STUDY["val_samples"]))["cosine"])


def run_part(cell: str, kind: str, work: Path) -> None:
    """Measure the base, or align and measure a kind and its control, and keep the scores of all rows of a cell that are there.

    A failure is the part's row.
    """
    name, _, seed = cell.rpartition("-")
    file = RESULTS / f"{cell}.json"
    kept = {"parts": [], "failed": {}, "minutes": {}, "cpu_seconds": 0.0} | read_json(file)
    if kind in kept["parts"]:
        return
    kept["failed"].pop(kind, None)
    with costs() as row:
        try:
            if kind != "base":
                out = f"{name}-{kind}-{seed}"
                took = work / "models" / f"{out}.json"
                if not took.is_file():
                    write_json(took, give(align_command(name, kind, int(seed), out), work) / 60)
                kept["minutes"][kind] = read_json(took)
                if kind == "tap":
                    kept["agreement"] = agreements(name, int(seed), work / "models" / out)
            there = [row for part in (*kept["parts"], kind) for row in (part, CONTROL_OF.get(part)) if row]
            kept |= scores_of(name, {each: measure_row(name, each, int(seed), work) for each in there}, int(seed))
            kept |= {"passes": kept.get("passes") or passes(name), "parts": [*kept["parts"], kind]}
        except Exception as error:  # a failure is a row
            kept["failed"][kind] = f"{getattr(error, 'code', '') or type(error).__name__}: {error}"[:300]
    kept["cpu_seconds"] += row["cpu_seconds"]
    write_json(file, kept)
    print(
        f"{cell} {kind}: {kept['failed'].get(kind, 'ok')}, {row['cpu_seconds']:.0f} CPU s", file=sys.stderr, flush=True
    )


def measure_row(name: str, row: str, seed: int, work: Path) -> dict[str, Any]:
    """`measure/target` -> result of a row's run."""
    encoder, model = STUDY["encoders"][name], rows_of(name, seed)[row]
    data = spec(encoder["data"]).format(draw=STUDY["first_draw"] + seed)
    taps, more = ([tap_of(name), encoder["output"]], ",tap_set") if row == "base" else ([encoder["output"]], "")
    path = model if row == "base" else str(work / model)
    return measured(path, data, encoder["measures"] + more, taps, work / "runs" / f"{name}-{row}-{seed}")


def scores_of(name: str, rows: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Of each target the scores of all rows, and of each contrast of the claims its value and error over units."""
    targets = {}
    for key, data in rows["base"].items():
        measure, target = key.split("/")
        if measure == "tap_set" or key != key_of(target):
            continue
        drawn = resamples(rows, target, seed)
        contrasts = {}
        for first, second in pairs(name):
            if first in drawn and second in drawn:
                apart = drawn[first] - drawn[second]
                contrasts[f"{first} - {second}"] = [float(apart[0]), float(np.nanstd(apart[1:]))]
        scores = {row: float(each[0]) for row, each in drawn.items()}
        targets[target] = {"scores": scores, "contrasts": contrasts, "units": int(data.sizes["unit"])}
    return {"targets": targets}


def resamples(rows: Mapping[str, Mapping[str, Any]], target: str, seed: int) -> dict[str, np.ndarray]:
    """Row -> score on test, and in each resample of its units [1 + resample]; the same units are drawn of all rows.

    Resamples are widened for the units that probes were fitted on.
    """
    from diagnostics.measures.result import losses_of, units_fitted
    from diagnostics.measures.statistics import Losses

    key, found = key_of(target), {}
    base = rows["base"][key]
    width = np.sqrt(1 + base.sizes["unit"] / units_fitted(base))

    def widened(losses: Losses, at: int) -> np.ndarray:
        score = losses.scores[at]
        return np.concatenate([[score], score + width * (losses.resample(seed)[:, at] - score)])

    for row, results in rows.items():
        found[row] = widened(losses_of(results[key], "unit"), -1)
    found["cut"] = widened(losses_of(base, "unit"), 0)
    if (sets := rows["base"].get(f"tap_set/{target}")) is not None and "all" in sets["set"].values:
        at = [str(each) for each in sets["set"].values].index("all")
        loss, reference = (
            sets[one].transpose("set", "unit", ...).values[[at]] for one in ("set_loss", "set_reference")
        )
        found["joined"] = widened(Losses(loss, reference, base.attrs["losses"] == "counts"), 0)
    return found


def pairs(name: str) -> list[tuple[str, str]]:
    """The contrasts of all claims for an encoder."""
    rows = {*rows_of(name, 0), "cut", "joined"}
    return list(dict.fromkeys(pair for claim in STUDY["claims"] for pair in pairs_of(claim) if rows.issuperset(pair)))


def pairs_of(claim: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(first, second) of a claim; one second stands for all firsts, and one first for all seconds."""
    longest = max(len(claim["first"]), len(claim["second"]))
    first, second = (each * longest if len(each) == 1 else each for each in (claim["first"], claim["second"]))
    return list(zip(first, second, strict=True))


def passes(name: str) -> float:
    """Multiplications of the base cut at the tap, in shares of those of the base."""
    import torch
    from torch.utils.data import default_collate
    from torch.utils.flop_counter import FlopCounterMode

    import diagnostics as dx
    from diagnostics.plugin import cut_encoder

    encoder = STUDY["encoders"][name]
    base = dx.build("encoder", encoder["encoder"])
    batch = default_collate([base.preprocess(base.example())])
    counted = []
    for one, tap in ((cut_encoder(base, tap_of(name)), tap_of(name)), (base, encoder["output"])):
        one.capture(batch, [tap])  # the first pass over a set of taps is whole
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            one.capture(batch, [tap])
        counted.append(counter.get_total_flops())
    return counted[0] / counted[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "run", "commands", "page"))
    parser.add_argument("names", nargs="*", help="encoders of `plan`, else cells; all by default")
    parser.add_argument("--work", type=Path, default=Path("study"))
    parser.add_argument("--kinds", nargs="*", help="rows to compute, such as base or tap; all by default")
    asked = parser.parse_args()
    asked.work = asked.work.resolve()
    if asked.what == "plan":
        for name in asked.names or STUDY["encoders"]:
            plan(name, asked.work)
    elif asked.what == "commands":
        print(*(line for cell in asked.names or cells() for line in commands(cell)), sep="\n")
    elif asked.what == "page":
        sys.path[:0] = [str(HERE)]
        from page import write_page

        write_page()
    else:
        # Each kind in all cells before the next, so that a kill leaves all cells with as many rows.
        for kind in asked.kinds or ("base", *KINDS):
            for cell in asked.names or cells():
                if kind == "base" or kind in kinds_of(cell.rpartition("-")[0]):
                    run_part(cell, kind, asked.work)


if __name__ == "__main__":
    main()
