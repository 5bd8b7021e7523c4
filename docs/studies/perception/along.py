"""Profiles over depth along two trainings: `along.toml` says what is asked, this script trains, measures and judges.

    python along.py run --work FOLDER    # trains and measures what is not kept; resumes after a kill
    python along.py commands             # the command of each training and run

A training is a file of results/; `study.py page` shows them.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

HERE = Path(__file__).parent
ASKED = tomllib.loads((HERE / "along.toml").read_text(encoding="utf-8"))
PLACE = ("x", "y")
TARGETS = ("label", *PLACE)
KEYS = (
    "taps",
    "depth",
    "score",
    "low",
    "high",
    "chosen_tap",
    "chosen_score",
    "output_tap",
    "output_score",
    "hidden_gap",
)
LEVEL = 0.05


def trainings() -> Iterator[tuple[str, int]]:
    """Row and seed of each, in the order in which they are made."""
    return ((row, seed) for row in ASKED["rows"] for seed in range(ASKED["seeds"]))


def recipe_of(row: str) -> dict[str, Any]:
    return tomllib.loads((HERE / f"along-{row}.toml").read_text(encoding="utf-8"))


def steps_of(row: str, seed: int) -> list[int]:
    """Steps whose encoder is measured: all that are kept of the first seed, the first and the last of the others."""
    recipe = recipe_of(row)
    last = sum(stage["samples"] for stage in recipe["stages"]) // recipe["batch"]
    kept = list(range(ASKED["every"], last + 1, ASKED["every"]))
    return kept if not seed else [kept[0], kept[-1]]


def train_command(row: str, seed: int) -> str:
    return (
        f"diagnostics train pe --size nano --config along-{row}.toml --data '{ASKED['data']}' --seed {seed} "
        f"--encoder-every {ASKED['every']} --out models/{row}-{seed}"
    )


def run_command(row: str, seed: int, step: int) -> str:
    """The last encoder has controls."""
    controls = "" if step == steps_of(row, seed)[-1] else " --no-controls"
    encoder = f"models/{row}-{seed}/steps/{step}" if controls else f"models/{row}-{seed}"
    return (
        f"diagnostics run {encoder} --data '{ASKED['measured']}' --measures linear_probe --dense none"
        f"{controls} --out runs/{row}-{seed}-{step}"
    )


def make(row: str, seed: int, work: Path) -> None:
    """One training and the runs of its encoders, unless its results are kept."""
    from study import give, rounded

    file = HERE / "results" / f"along-{row}-{seed}.json"
    if file.is_file():
        return
    give(f"{train_command(row, seed)} --json", work)
    profiles, controls = {}, {}
    for step in steps_of(row, seed):
        run = json.loads(give(f"{run_command(row, seed, step)} --json", work))
        found = {one["target"]: one for one in run["profiles"] if one["measure"] == "linear_probe"}
        profiles[step] = {target: {key: found[target][key] for key in KEYS} for target in TARGETS}
        controls = {target: found[target]["controls"] for target in TARGETS}
    logged = [json.loads(line) for line in (work / f"models/{row}-{seed}/metrics.jsonl").read_text().splitlines()]
    kept = {
        "batch": recipe_of(row)["batch"],
        "n": run["n"],
        "contrast": [[line["step"], line["contrast"]] for line in logged[:: max(len(logged) // 30, 1)]],
        "last": float(np.mean([line["contrast"] for line in logged[-5:]])),
        "profiles": profiles,
        "controls": controls,
    }
    file.write_text(json.dumps(rounded(kept), indent=1) + "\n", encoding="utf-8")


# Judgement.


@dataclass
class Outcome:
    """What came out for a claim: `values` [seed] in the claimed direction."""

    says: str
    margin: float
    values: np.ndarray
    why: str = ""
    verdict: str = "undecided"

    @property
    def value(self) -> float:
        return float(self.values.mean()) if len(self.values) else math.nan

    @property
    def error(self) -> float:
        return float(self.values.std(ddof=1) / np.sqrt(len(self.values))) if len(self.values) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for this one alone."""
        away = float(student.ppf(0.975, max(len(self.values) - 1, 1))) * self.error
        return self.value - away, self.value + away

    @property
    def written(self) -> str:
        """Value and interval; a dash where there is none."""
        if not math.isfinite(self.value):
            return "–"
        ends = ", ".join(f"{end:+.2f}" for end in self.interval)
        return f"{self.value:+.2f}" + (f" [{ends}]" if math.isfinite(self.error) else "")


def results() -> dict[str, list[dict[str, Any]]]:
    """Row -> its trainings, by seed; of what is not asked any more (`earlier`), those that are kept."""
    files = {
        row: [HERE / "results" / f"along-{row}-{seed}.json" for seed in range(ASKED["seeds"])]
        for row in ASKED["rows"] | ASKED["earlier"]
    }
    return {
        row: [json.loads(file.read_text(encoding="utf-8")) for file in each if file.is_file()]
        for row, each in files.items()
    }


def fallen(one: Mapping[str, Any]) -> float:
    """Nats by which the contrast ends below knowing nothing, the logarithm of the batch."""
    return math.log(one["batch"]) - one["last"]


def at(one: Mapping[str, Any], first: bool = False) -> Mapping[str, Any]:
    """The profiles of the last step that is kept, or of the first."""
    return one["profiles"][(min if first else max)(one["profiles"], key=int)]


def gap(profiles: Mapping[str, Any]) -> float:
    """The place's hidden gap."""
    return float(np.mean([profiles[target]["hidden_gap"]["value"] for target in PLACE]))


def values_of(claim: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """Of each seed; pairs of seeds where rows are compared."""
    rows = found["row1"]
    if claim == "hidden":
        return np.array([gap(at(one)) for one in rows])
    if claim == "grows":
        return np.array([gap(at(one)) - gap(at(one, first=True)) for one in rows])
    if claim == "learns":
        return np.array(
            [at(one)["label"]["output_score"] - at(one, first=True)["label"]["output_score"] for one in rows]
        )
    return np.array([gap(at(one)) - gap(at(other)) for one, other in zip(rows, found["row9"], strict=False)])


def outcomes(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Outcome]:
    """Claims by name; those of rows that learned, by Holm (1979) over both tests of all of them."""
    judged = {}
    every = {}
    for name, claim in ASKED["claims"].items():
        one = every[name] = Outcome(claim["says"], claim["margin"], values_of(name, found))
        low = [fallen(each) for row in {"row1", claim["row"]} for each in found[row] if fallen(each) < ASKED["least"]]
        if len(one.values) < ASKED["seeds"]:
            one.why = f"{len(one.values)} of {ASKED['seeds']} seeds"
        elif low:
            one.why = f"a training ends {min(low):.2f} nats below knowing nothing, of {ASKED['least']:g} asked"
        else:
            judged[name] = one
    tests = []
    for name, one in judged.items():
        z = (one.value - one.margin) / max(one.error, 1e-12)
        tests += [
            (float(tail(z, len(one.values) - 1)), name, verdict)
            for tail, verdict in ((student.sf, "shown"), (student.cdf, "excluded"))
        ]
    for rank, (tail, name, verdict) in enumerate(sorted(tests)):
        if tail * (len(tests) - rank) > LEVEL:
            break
        judged[name].verdict = verdict
    return every


def counted(every: Mapping[str, Outcome]) -> str:
    """How many claims have each verdict."""
    verdicts = Counter("not judged" if one.why else one.verdict for one in every.values())
    words = ("shown", "excluded", "undecided", "not judged")
    return ", ".join(f"{verdicts[word]} {word}" for word in words if verdicts[word])


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """A panel for each target: score at the best earlier tap and at the output over the pairs seen, first seeds."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "diagnostics", "font.size": 9, "svg.fonttype": "none"}
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(10.8, 3.2), layout="constrained")
    for axis, target in zip(axes, TARGETS, strict=True):
        for (row, seeds), colour in zip(found.items(), ("#2468b4", "#e08e0b", "#5a8f29"), strict=True):
            if not seeds:
                continue
            steps = sorted(seeds[0]["profiles"], key=int)
            each = [seeds[0]["profiles"][step][target] for step in steps]
            pairs = [int(step) * seeds[0]["batch"] / 1000 for step in steps]
            best = [one["output_score"] + one["hidden_gap"]["value"] for one in each]
            axis.plot(pairs, best, color=colour, label=f"{row}, best earlier layer")
            axis.plot(pairs, [one["output_score"] for one in each], "--", color=colour, label=f"{row}, output")
            if (fresh := seeds[0]["controls"][target].get("fresh_weights")) is not None:
                axis.axhline(fresh, color=colour, linewidth=0.8, linestyle=":")
        axis.set_title(target, fontsize=10)
        axis.set_xlabel("thousand pairs seen")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy (label), R2 (x, y) on test")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    parts.add_parser("run").add_argument("--work", type=Path, default=Path("study"))
    parts.add_parser("commands")
    asked = parser.parse_args()
    for row, seed in trainings():
        if asked.what == "run":
            asked.work.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / f"along-{row}.toml", asked.work)
            make(row, seed, asked.work)
        else:
            print(train_command(row, seed), *(run_command(row, seed, step) for step in steps_of(row, seed)), sep="\n")


if __name__ == "__main__":
    main()
