"""The commands of this page, and what is kept of what they print.

    python study.py run tap --work FOLDER      # or spatial, language: gives the commands, keeps results/tap.json
    python study.py gather tap --work FOLDER   # keeps the results of what is finished there
    python rates.py                            # keeps results/rates.json
    python study.py page                       # writes index.md and its figures from results/

What is finished is left as it is, so that a study that was interrupted goes on. No result on the page is typed by hand.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BASE = "wheel:dinov2-small?size=112"
OUTPUT, TAP = "layernorm", "encoder.layer.8"
"""The base's output, and the tap that was the best one for depth on val, as `best_tap_command` said when this page was made."""
TRAINED_ON = "shapes?n=500&size=112&seed=1000"
"""Whose train split teaches, and whose val split chooses the rate and the best tap."""
MEASURED_ON = "shapes?n=800&size=112"
"""Other scenes, on which all numbers of the page are measured."""
FOLLOWED_IN = "shapes?n=24&frames=6&size=112&seed=7"
"""Clips in which objects are followed."""
HOW = f"--data '{TRAINED_ON}' --batch 12 --precision bf16"
ASKED_ABOUT = "shapes?n=4000&size=112&seed=1000"
"""Whose train split the decoder is asked about: it begins with random weights, for which 300 scenes are too few."""
RATE, STEPS, SPATIAL_STEPS = 1e-5, 50, 40
LANGUAGE_STEPS, DECODER_STEPS = 1200, 1100
"""In all, and before the encoder learns too, by when the rate of 1e-3 has fallen to twice that of the others."""
SEEDS = {"tap": (0, 1, 2), "spatial": (0, 1), "language": (0,)}
KEEP = ("0.3", "1")
TARGETS = ("label", "count", "y", "segmentation", "depth")
SPATIAL = {"tap alone": f"--to {TAP}", "relations alone": "--relations masks", "both": f"--to {TAP} --relations masks"}
"""The three ablations of figure 16 of the paper."""
CONTROL = "control"
KEPT = {
    "profile": "profile",
    "group": "group",
    "best": "chosen",
    "output": "output",
    "hidden_gap": "hidden_gap",
    "best_taps": "chosen_taps",
}
"""Key in results/ -> key of a comparison: the results are older than the rule that chooses a tap, and keep their keys."""


def best_tap_command() -> str:
    """Which tap is the best for depth on val, without a training."""
    return (
        f"diagnostics align tap --encoder '{BASE}' --to best-tap --for depth --data '{TRAINED_ON}' --batch 12 --steps 0 "
        "--out models/best-tap"
    )


def tap_command(seed: int) -> str:
    return (
        f"diagnostics align tap --encoder '{BASE}' --to {TAP} {HOW} --lr {RATE} --steps {STEPS} --seed {seed} "
        f"--out models/tap-{seed}"
    )


def keep_command(weight: str) -> str:
    """Its control would be that of the first seed: the same teacher, steps and samples."""
    return (
        f"diagnostics align tap --encoder '{BASE}' --to {TAP} --keep {weight} --no-control {HOW} --lr {RATE} --steps {STEPS} "
        f"--seed 0 --out models/keep-{weight}"
    )


def spatial_command(kind: str, seed: int) -> str:
    """One control is that of all three: the same views, hidden blocks and steps."""
    control = "" if kind == next(iter(SPATIAL)) else "--no-control "
    return (
        f"diagnostics align spatial --encoder '{BASE}' {SPATIAL[kind]} {control}{HOW} --optimiser adamw --lr {RATE} --warmup 0.1 "
        f"--mask 0.25 --layer-scale 1 --drop-path 0 --steps {SPATIAL_STEPS} --seed {seed} --out models/spatial-{folder(kind)}-{seed}"
    )


def language_command() -> str:
    return (
        f"diagnostics align language --encoder '{BASE}' --lm tiny --train-lm --projector-steps {DECODER_STEPS} "
        f"--data '{ASKED_ABOUT}' --batch 12 --precision bf16 --lr 1e-3 --steps {LANGUAGE_STEPS} --drop-path 0 --seed 0 --out models/language-0"
    )


def run_command(encoder: str, name: str) -> str:
    """The base with some earlier taps and with controls, the others at the output and at the tap that was lifted."""
    taps = ",".join(f"encoder.layer.{i}" for i in (3, 5, 6, 7, 8, 9)) if encoder == BASE else TAP
    return (
        f"diagnostics run '{encoder}' --data '{MEASURED_ON}' --measures linear_probe,segmentation_probe --taps {taps} "
        f"--token-budget 2GB --compute bf16 {'' if encoder == BASE else '--no-controls '}--out runs/{name}"
    )


def folder(kind: str) -> str:
    return kind.replace(" ", "-")


def trainings(part: str) -> list[tuple[str, int, str, str]]:
    """Label, seed, folder of the encoder and command of each alignment of a part; a control comes with another one's command."""
    if part == "tap":
        made = [
            one
            for seed in SEEDS[part]
            for one in (("tap", seed, f"tap-{seed}", tap_command(seed)), (CONTROL, seed, f"tap-{seed}-control", ""))
        ]
        return [*made, *((f"keep {weight}", 0, f"keep-{weight}", keep_command(weight)) for weight in KEEP)]
    if part == "spatial":
        made = []
        for seed in SEEDS[part]:
            made += [(kind, seed, f"spatial-{folder(kind)}-{seed}", spatial_command(kind, seed)) for kind in SPATIAL]
            made.insert(len(made) - 2, (CONTROL, seed, f"spatial-{folder(next(iter(SPATIAL)))}-{seed}-control", ""))
        return made
    return [("language", 0, "language-0", language_command()), (CONTROL, 0, "language-0-control", "")]


def costs_of(part: str, work: Path) -> dict[str, float]:
    """CPU minutes of each command of a part that was given."""
    file = work / f"{part}-costs.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def give(command: str, work: Path, part: str = "") -> str:
    """What a command prints; its CPU minutes are added to the costs of a part. Whatever fails ends the study."""
    print(f"$ {command}", file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-m", *shlex.split(command)]
    given = subprocess.run(
        words, cwd=work, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if given.returncode:
        raise SystemExit(given.returncode)
    if part:
        costs = costs_of(part, work)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        costs[command] = costs.get(command, 0.0) + spent / 60
        (work / f"{part}-costs.json").write_text(json.dumps(costs))
    return given.stdout


def give_run(encoder: str, name: str, work: Path) -> None:
    """A run, unless it is finished."""
    if not (work / "runs" / name / "report.html").is_file():
        give(run_command(encoder, name), work)


def align(part: str, work: Path) -> None:
    """Give all alignments of a part that are not finished, and measure each."""
    give_run(BASE, "base", work)
    if part == "tap" and not (work / "models" / "best-tap" / "alignment.json").is_file():
        give(best_tap_command(), work, part)
    for _, _, name, command in trainings(part):
        if command and not (work / "models" / name / "alignment.json").is_file():
            give(command, work, part)
        give_run(f"models/{name}", name, work)


def finished(part: str, work: Path) -> list[tuple[str, int, str, str]]:
    """The alignments of a part that were measured."""
    return [one for one in trainings(part) if (work / "runs" / one[2] / "report.html").is_file()]


def row_of(name: str, work: Path) -> dict[str, Any]:
    """What a command said of a training."""
    return json.loads((work / "models" / name / "alignment.json").read_text())["row"]


def described(part: str, work: Path) -> dict[str, Any]:
    """What the commands said of the alignments, what they cost, and how far each output is from the base's."""
    costs = costs_of(part, work)
    asked = ("steps", "loss", "cosine", "collapse", "answers")
    made = [
        {
            "label": label,
            "seed": seed,
            "cpu_minutes": costs.get(command),
            "cosine_to_base": cosine_to_base(work / "models" / name),
            **{key: value for key, value in row_of(name, work).items() if key in asked},
        }
        for label, seed, name, command in finished(part, work)
    ]
    best = (
        {**row_of("best-tap", work)["probed"], "cpu_minutes": costs.get(best_tap_command())} if part == "tap" else None
    )
    return {"trainings": made, "best_tap": best}


def compared(part: str, work: Path) -> dict[str, Any]:
    """What the page reads of the comparison of a part's runs with the base's."""
    runs = ["base=runs/base", *(shlex.quote(f"{label}=runs/{name}") for label, _, name, _ in finished(part, work))]
    command = f"diagnostics compare {' '.join(runs)} --base base --similarity none --out {part}.html --json"
    found = json.loads(give(command, work))
    # What a kernel reads of a target stands beside what the other probes read.
    names = [one["profile"] for one in found["profiles"] if not one["profile"].startswith("kernel_probe/")]
    profiles = [name for name in names if name.split("/")[1] in TARGETS]
    groups = [{key: one[given] for key, given in KEPT.items()} for one in found["groups"] if one["profile"] in profiles]
    differences = [
        one
        for one in found["differences"]
        if one["profile"] in profiles and one["quantity"] == "output" and CONTROL in (one["first"], one["second"])
    ]
    base = next(run["name"] for run in found["runs"] if run["group"] == "base")
    depths = [[tap["name"], tap["depth"]] for run in found["runs"] if run["name"] == base for tap in run["taps"]]
    curves = {one["profile"]: one["runs"][base]["score"] for one in found["profiles"] if one["profile"] in profiles}
    return {
        "command": command,
        "n": found["n"],
        "seed": found["seed"],
        "pooling": found["pooling"],
        "groups": groups,
        "differences": differences,
        "shares": [one for one in found["shares"] if one["profile"] in profiles],
        "taps": depths,
        "depth": found["depth"],
        "curves": curves,
    }


@functools.cache
def seen_by_base(scenes: int = 60) -> tuple[Any, Any]:
    """Scenes of the val split of the training data as the base reads them, and its output."""
    from torch.utils.data import default_collate

    from diagnostics import build

    data, base = build("dataset", TRAINED_ON), build("encoder", BASE)
    rows = np.flatnonzero(data.split == "val")[:scenes]
    batch = default_collate([base.preprocess(data[int(row)]) for row in rows])
    return batch, base.capture(batch, [OUTPUT])[OUTPUT]


def cosine_to_base(path: Path) -> float:
    """Mean over tokens of the cosine between an encoder's output and the base's, on val scenes; kept beside the encoder."""
    from torch.nn.functional import cosine_similarity

    from diagnostics import load_encoder

    file = path / "cosine.json"
    if not file.is_file():
        batch, own = seen_by_base()
        given = load_encoder(path).capture(batch, [OUTPUT])[OUTPUT]
        file.write_text(json.dumps(float(cosine_similarity(given, own, dim=-1).mean())))
    return json.loads(file.read_text())


def followed(part: str, work: Path) -> list[dict[str, Any]]:
    """How well tokens of the output (and of the base's tap) follow each clip's objects: J of every clip."""
    from torch.utils.data import default_collate

    from diagnostics import build, load_encoder
    from diagnostics.measures.locality import j_and_f, label_propagation

    clips, base = build("dataset", FOLLOWED_IN), build("encoder", BASE)
    encoders = [("base", 0, base, OUTPUT), (TAP, 0, base, TAP)]
    encoders += [
        (label, seed, load_encoder(work / "models" / name), OUTPUT) for label, seed, name, _ in trainings(part)
    ]
    found: dict[tuple[str, int], list[float]] = {(label, seed): [] for label, seed, _, _ in encoders}
    masks = clips.targets["masks"].values
    for i in range(len(clips)):
        if not (masks[i][0] > 0).any():
            continue
        batch = default_collate([base.preprocess(frame) for frame in clips[i]])
        for label, seed, encoder, tap in encoders:
            grid = encoder.tap(tap).grid
            tokens = encoder.capture(batch, [tap])[tap][:, grid.prefix :]
            found[label, seed].append(j_and_f(label_propagation(tokens, grid.shape, masks[i][0]), masks[i]).j)
    return [{"label": label, "seed": seed, "j": values} for (label, seed), values in found.items()]


def gather(part: str, work: Path) -> None:
    """Keep what the finished runs of a part came to."""
    results = described(part, work) | compared(part, work)
    if part == "spatial":
        results["followed"] = followed(part, work)
    kept = HERE / "results" / f"{part}.json"
    kept.write_text(json.dumps(rounded(results)) + "\n")
    print(kept)


def rounded(value: Any) -> Any:
    """Four digits are more than any of these numbers has."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    for what in ("run", "gather"):
        one = parts.add_parser(what)
        one.add_argument("part", choices=list(SEEDS))
        one.add_argument("--work", type=Path, default=Path("study"))
    parts.add_parser("page")
    asked = parser.parse_args()
    if asked.what == "page":
        from page import write_page

        write_page()
        return
    if asked.what == "run":
        asked.work.mkdir(parents=True, exist_ok=True)
        align(asked.part, asked.work)
    gather(asked.part, asked.work)


if __name__ == "__main__":
    main()
