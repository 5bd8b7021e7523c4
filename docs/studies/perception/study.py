"""The study of this page: its commands, what is kept of what they find, and the page itself.

    python study.py run --work FOLDER      # gives the commands in FOLDER, and keeps results/*.json
    python study.py page                   # writes index.md, full.md and profiles.svg from results/

What is finished is left as it is, and a training that was interrupted goes on. No result on the page is typed by hand: all come from
`results/`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import along
import jinja2
import numpy as np

HERE = Path(__file__).parent
SCENES, LONG = -1, 0
"""In place of rows: `long.toml`, with as many pairs as the recipes have, of more scenes and of those of the rows."""
ROWS = {
    SCENES: "as `long`, of more scenes",
    LONG: "all pairs at 48 pixels, batch 64, AdamW, rotary positions, attention pooling",
    1: "baseline, one size, batch 64, AdamW",
    2: "three sizes, one after the other",
    3: "batch 128, twice the pairs",
    4: "LAMB",
    5: "a last stage at full size",
    6: "rotary positions too",
    7: "attention pooling",
    8: "augmentation",
    9: "mask regularisation",
}
RUNS = (
    [(row, 0) for row in (1, 9, 5, 7, 2, 4, 3, 6, 8)]
    + [(row, seed) for seed in (1, 2) for row in (1, 9)]
    + [(LONG, 0), (SCENES, 0)]
)
"""Row and seed of each training, in the order in which they are made."""
FEW, MANY = 98_304, 196_608
"""Pairs of rows 1 and 2 and of all others: four tenths of the recipes' own."""
DATA = "shapes?objects=1&split=pairs&n=12000&size=48&seed=1000"
"""Whose train split teaches: scenes of 40 of the 64 pairs of colour and shape."""
MORE_DATA = "shapes?objects=1&split=pairs&n=80000&size=48&seed=1000"
"""That of `scenes`."""
ASKED = "shapes?objects=1&split=pairs&n=2560&size=48"
"""Whose test split is asked by zero-shot and retrieval: other scenes, of 16 pairs that no training saw."""
PROMPTS = {
    "shape": [
        f"one object: a {kind} {{}} in the middle"
        for kind in ("red plain", "blue striped", "yellow checked", "green spotted")
    ],
    "colour": [
        f"one object: a {{}} {kind} in the middle"
        for kind in ("plain disc", "striped star", "checked ring", "spotted cross")
    ],
}
"""In the form of the captions: preferred on the val split of `scenes` to bare class names and to 'one object: a {} in the middle'."""
MEASURED = "shapes?objects=1&n=1280&size=48"
"""Other scenes of all pairs, which a run reads."""
GALLERY = 256
TARGETS = ("label", "y", "x")
CONTROLS = ("fresh_weights", "permuted_weights", "raw_input_kernel")
KEPT = {"best_tap": "chosen_tap", "best_score": "chosen_score"}
"""Key in results/ -> key of a profile, where they differ: the results are older than the rule that chooses a tap, and keep their keys."""
Json = Mapping[str, Any]


def label(row: int, seed: int) -> str:
    """The folder of a training."""
    if row < 1:
        return "long" if row == LONG else "scenes"
    return f"pe{row}-seed{seed}" if seed else f"pe{row}"


def train_command(row: int, seed: int) -> str:
    if row < 1:
        data = DATA if row == LONG else MORE_DATA
        return f"diagnostics train pe --size nano --config long.toml --data '{data}' --out models/{label(row, seed)}"
    more = f" --seed {seed}" if seed else ""
    samples = FEW if row < 3 else MANY
    return f"diagnostics train pe --size nano --recipe {row} --data '{DATA}' --samples {samples}{more} --out models/{label(row, seed)}"


def zeroshot_command(name: str, target: str, prompts: Sequence[str] = ()) -> str:
    more = "".join(f" --template '{prompt}'" for prompt in prompts)
    return f"diagnostics zeroshot models/{name} --data '{ASKED}' --for {target} --gallery {GALLERY}{more}"


def run_command(name: str) -> str:
    return (
        f"diagnostics run models/{name} --data '{MEASURED}' --measures linear_probe --token-budget 0 --out runs/{name}"
    )


def give(command: str, work: Path) -> str:
    """What a command prints; a failing one ends the study."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        ["sh", "-c", command], cwd=work, stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    if found.returncode:
        raise SystemExit(found.returncode)
    return found.stdout


def make(row: int, seed: int, work: Path) -> None:
    """One training and what is asked of it, unless its results are kept."""
    name = label(row, seed)
    file = HERE / "results" / f"{name}.json"
    if file.is_file():
        return
    trained = json.loads(give(f"{train_command(row, seed)} --json", work))
    asked = {
        target: json.loads(give(f"{zeroshot_command(name, target)} --json", work)) for target in ("shape", "colour")
    }
    prompted = {
        target: json.loads(give(f"{zeroshot_command(name, target, prompts)} --json", work))
        for target, prompts in PROMPTS.items()
    }
    run = json.loads(give(f"{run_command(name)} --json", work))
    logged = [json.loads(line) for line in (work / "models" / name / "metrics.jsonl").read_text().splitlines()]
    file.write_text(json.dumps(kept(row, trained, asked, prompted, run, logged), indent=1) + "\n")


def kept(
    row: int, trained: Json, asked: Mapping[str, Json], prompted: Mapping[str, Json], run: Json, logged: Sequence[Json]
) -> dict[str, Any]:
    """What the page reads of a training, of its zero-shot classifications and of a run."""
    keys = ("taps", "depth", "score", "low", "high", "best_tap", "best_score", "output_tap", "output_score", "hidden_gap", "controls", "control_intervals")  # fmt: skip
    profiles = {
        one["target"]: {key: one[KEPT.get(key, key)] for key in keys}
        for one in run["profiles"]
        if one["measure"] == "linear_probe" and one["target"] in TARGETS
    }
    zeroshot = {target: found["classification"]["accuracy"] for target, found in asked.items()}
    zeroshot["recall"] = asked["shape"]["retrieval"]["image_to_text"]["1"]
    zeroshot["n"] = asked["shape"]["classification"]["n"]
    return rounded(
        {
            "row": row,
            "seed": trained["seed"],
            "steps": trained["steps"],
            "samples": trained["samples"],
            "left_out": trained["left_out"],
            "collapse": trained["collapse"],
            "n": run["n"],
            "contrast": [[line["step"], line["contrast"]] for line in logged],
            "masked": logged[-1].get("masked"),
            "zeroshot": zeroshot,
            "profiles": profiles,
            "prompted": {target: found["classification"]["accuracy"] for target, found in prompted.items()},
        }
    )


def rounded(value: Any) -> Any:
    """Five digits are more than any of these numbers has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def results() -> dict[str, Json]:
    """What the study has found so far, by training, rows in order."""
    files = {label(row, seed): HERE / "results" / f"{label(row, seed)}.json" for row, seed in sorted(RUNS)}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}


def batch_of(one: Json) -> int:
    """Pairs in a step."""
    return one["samples"] // one["steps"]


def fallen(one: Json) -> float:
    """By how much the contrast lies below that of knowing nothing, the logarithm of the batch: mean of the last five logged."""
    last = [value for _, value in one["contrast"][-5:]]
    return math.log(batch_of(one)) - sum(last) / len(last)


def smoothed(values: Sequence[float], width: int = 9) -> list[float]:
    """The mean over so many values around each, fewer at both ends."""
    half = width // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def controls(profile: Json) -> list[str]:
    """What encoders that should know nothing reach."""
    values = [profile["controls"].get(name) for name in CONTROLS]
    return ["–" if value is None else f"{value:.2f}" for value in values]


def above(found: Mapping[str, Json], what: str, value: float | None = None) -> list[str]:
    """The trainings whose interval lies above a value, or above chance."""
    scores = {name: one["zeroshot"][what] for name, one in found.items()}
    return [
        name
        for name, one in scores.items()
        if one["low"] is not None and one["low"] > (one["chance"] if value is None else value)
    ]


def shown(found: Mapping[str, Json]) -> list[str]:
    """Targets whose hidden gap has an interval above 0, with their training."""
    return [
        f"{target} of {name}"
        for name, one in found.items()
        for target, profile in one["profiles"].items()
        if profile["hidden_gap"]["low"] is not None and profile["hidden_gap"]["low"] > 0
    ]


def taught(found: Mapping[str, Json]) -> list[str]:
    """Targets that the best tap reads better than any of fresh weights, the interval of whose score lies above theirs."""
    return [
        f"{target} of {name}"
        for name, one in found.items()
        for target, profile in one["profiles"].items()
        if (fresh := profile["controls"]["fresh_weights"]) is not None
        and profile["low"][profile["taps"].index(profile["best_tap"])] > fresh
    ]


def spread(found: Mapping[str, Json]) -> list[tuple[int, str, list[str]]]:
    """Of each row with three seeds, what each seed reached."""
    lines: list[tuple[int, str, list[str]]] = []
    for row in sorted({row for row, seed in RUNS if seed}):
        seeds = [found[name] for seed in range(3) if (name := label(row, seed)) in found]
        if len(seeds) < 3:
            continue
        lines.append((row, "contrast below knowing nothing", [f"{fallen(one):.2f}" for one in seeds]))
        lines += [
            (row, f"{what} by zero-shot", [f"{one['zeroshot'][what]['value']:.2f}" for one in seeds])
            for what in ("colour", "shape")
        ]
        for target in TARGETS:
            gaps = [one["profiles"][target]["hidden_gap"] for one in seeds]
            lines.append((row, f"hidden gap of {target}", [interval(gap, signed=True) for gap in gaps]))
    return lines


def interval(one: Json | None, digits: int = 2, signed: bool = False) -> str:
    """A value with its interval; a dash where there is none."""
    if one is None or one["value"] is None:
        return "–"
    written = f"{one['value']:{'+' if signed else ''}.{digits}f}"
    if one["low"] is None:
        return written
    return f"{written} [{one['low']:.{digits}f},\u00a0{one['high']:.{digits}f}]"


def ends(one: Json, at: str) -> dict[str, Any]:
    """Score and interval of a profile at a tap."""
    i = one["taps"].index(at)
    return {"value": one["score"][i], "low": one["low"][i], "high": one["high"][i]}


def holds(fact: bool) -> str:
    """Stands in a template beside words that state a fact, and fails the page where results no longer say so."""
    if not fact:
        raise ValueError("The words of a page state what its results do not say.")
    return ""


def render(found: Mapping[str, Json], name: str = "index") -> str:
    """A page's text: `index`, or `full` with all tables."""
    baselines = json.loads((HERE / "results" / "baselines.json").read_text())
    learned = {name: one for name, one in found.items() if fallen(one) >= along.ASKED["least"]}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(interval=interval, log=math.log)
    environment.globals.update(holds=holds)
    page = environment.get_template(f"{name}.md.j2").render(
        found=found, rows=ROWS, more_data=MORE_DATA, prompted=[name for name, one in found.items() if "prompted" in one], prompts=PROMPTS, targets=TARGETS, few=FEW, many=MANY, data=DATA, asked=ASKED, measured=MEASURED, gallery=GALLERY,
        total=len(RUNS), baselines=baselines, above_trees=above(learned, "colour", baselines["trees"]["colour"]["value"]), missing=[label(row, seed) for row, seed in sorted(RUNS) if label(row, seed) not in found],
        train=train_command(9, 0), long=train_command(LONG, 0), zeroshot=zeroshot_command("pe9", "shape"), run=run_command("pe9"),
        above_chance=above, controls=controls, fallen=fallen, spread=spread(found),
        least=round(min(map(fallen, found.values())), 2) + 0.0, most=max(map(fallen, found.values())), shown=shown(learned), taught=taught(learned), learned=learned, short=[f"{name} ({fallen(one):.2f})" for name, one in found.items() if name not in learned], ends=ends,
        along=along, followed=(followed := along.results()), outcomes=along.outcomes(followed),
        n_asked=next(iter(found.values()))["zeroshot"]["n"], recall_chance=next(iter(found.values()))["zeroshot"]["recall"]["chance"],
    )  # fmt: skip
    return page.rstrip() + "\n"


def draw_contrast(found: Mapping[str, Json], path: Path) -> None:
    """How far each row's contrast has fallen below that of knowing nothing, over the pairs seen; later seeds thin."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "diagnostics", "font.size": 9, "svg.fonttype": "none"}
    figure, axis = plt.subplots(figsize=(7.2, 3.4), layout="constrained")
    for one in found.values():
        steps, values = zip(*one["contrast"], strict=True)
        gained = smoothed([math.log(batch_of(one)) - value for value in values])
        axis.plot(
            [step * batch_of(one) / 1000 for step in steps],
            gained,
            color=colour_of(one["row"]),
            linewidth=0.7 if one["seed"] else 1.6,
            label=None if one["seed"] else legend(one),
        )
    axis.set_xlabel("thousand pairs seen")
    axis.set_ylabel("nats below knowing nothing")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, ncols=2)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def legend(one: Json) -> str:
    """A training's name in figures."""
    return f"row {one['row']}" if one["row"] > 0 else label(one["row"], 0)


def colour_of(row: int) -> Any:
    """The same for a row in all figures."""
    import matplotlib

    return {SCENES: "#c0392b", LONG: "#e08e0b"}.get(row) or matplotlib.colormaps["viridis"]((row - 1) / 9)


def draw(found: Mapping[str, Json], path: Path) -> None:
    """A panel for each target: every row's first seed over depth, fresh weights of row 9 dotted."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "diagnostics", "font.size": 9, "svg.fonttype": "none"}
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(10.8, 3.2), layout="constrained")
    first = [one for one in found.values() if not one["seed"]]
    for axis, target in zip(axes, TARGETS, strict=True):
        for one in first:
            profile = one["profiles"][target]
            colour = colour_of(one["row"])
            axis.plot(profile["depth"], profile["score"], color=colour, linewidth=1.4, label=legend(one))
            axis.fill_between(profile["depth"], profile["low"], profile["high"], color=colour, alpha=0.08, linewidth=0)
        axis.axvline(1.0, color="#9aa5b1", linewidth=0.8, linestyle=":")
        axis.set_title(target, fontsize=10)
        axis.set_xlabel("relative depth (head beyond 1)")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy (label), R2 (y, x) on test")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(first), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    parts.add_parser("run").add_argument("--work", type=Path, default=Path("study"))
    parts.add_parser("page")
    asked = parser.parse_args()
    if asked.what == "run":
        asked.work.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "long.toml", asked.work)
        for row, seed in RUNS:
            make(row, seed, asked.work)
    else:
        found = results()
        draw(found, HERE / "profiles.svg")
        draw_contrast(found, HERE / "contrast.svg")
        along.draw(along.results(), HERE / "along.svg")
        for name in ("index", "full"):
            (HERE / f"{name}.md").write_text(render(found, name))


if __name__ == "__main__":
    main()
