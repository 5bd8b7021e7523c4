"""The study of this page: its commands, what is kept of what they find, and the page itself.

    python study.py run lorenz --work FOLDER     # gives the commands, in FOLDER, and keeps results/lorenz.json
    python study.py page                         # writes index.md and its figures from results/
    python study.py pack --work FOLDER           # the encoders that come with the training plugin, from FOLDER/models

What is finished is left as it is, so that a study that was interrupted goes on. No result on the page is typed by hand: all come
from `results/`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OBJECTIVES = ("forecast", "reconstruct", "contrastive", "jepa", "random", "supervised")
TRAINED = OBJECTIVES[:4]
SEEDS = (0, 1, 2)
WIDTH = 48
SHAPES = f"diagnostics train objectives --data shapes --objective {','.join(TRAINED)} --width {WIDTH} --steps 1000 --out models/shapes"
SAMPLES = 2000
"""Of which 400 are test: with the 80 of the default most gaps would be within their intervals."""
MEASURES = "linear_probe,effective_rank"


SYSTEMS = {"lorenz": "hidden_z", "pendulum": "energy", "damped_oscillator": "log_damping"}
"""Each with the target that every trained objective is aligned for, fixed before the comparison: what a window does not
show linearly and a forecast needs."""


def label(objective: str, seed: int) -> str:
    """The folder of a training."""
    return f"{objective}-seed{seed}" if seed else objective


def train_command(system: str) -> str:
    return f"diagnostics train objectives --data {system} --seeds {len(SEEDS)} --width {WIDTH} --out models/{system}"


def run_command(system: str, encoder: str, folder: str) -> str:
    data = shlex.quote(f"{system}?n={SAMPLES}")
    return f"diagnostics run {encoder} --data {data} --measures {MEASURES} --no-controls --token-budget 0 --out runs/{system}/{folder}"


def controls_command(system: str, objective: str) -> str:
    """The run of an objective's first seed once more, with encoders that should know nothing beside it."""
    command = run_command(system, f"models/{system}/{objective}", objective)
    return command.replace(" --no-controls", "").replace(f"runs/{system}/", f"runs/{system}-controls/")


def align_command(system: str, objective: str, seed: int) -> str:
    own = label(objective, seed)
    return f"diagnostics align tap --no-control --encoder models/{system}/{own} --to best-tap --for {SYSTEMS[system]} --out models/{system}/{own}-aligned"


def compare_command(system: str) -> str:
    """The taps of all pairs of 30 runs would take most of the time: how alike outputs are is asked of a few."""
    return f"diagnostics compare runs/{system}/* --similarity none --out {system}-comparison.html"


def alike_command(system: str) -> str:
    trained = " ".join(f"runs/{system}/{label(objective, seed)}" for objective in TRAINED for seed in SEEDS[:2])
    return f"diagnostics compare {trained} --out {system}-similarity.html"


FRACAST = (
    f"diagnostics run fracast --data 'lorenz?n={SAMPLES}' --measures {MEASURES} --token-budget 0 --out runs/fracast/fracast",
    "diagnostics align tap --no-control --encoder fracast --to best-tap --for hidden_z --data 'lorenz?n=600&seed=1000' --steps 200 --batch 8 "
    "--lr 1e-3 --out models/fracast-aligned",
    f"diagnostics run models/fracast-aligned --data 'lorenz?n={SAMPLES}' --measures {MEASURES} --token-budget 0 "
    "--no-controls --out runs/fracast/fracast-aligned",
)


NOTHING_HIDDEN = "there is nothing to align"
KEPT = {
    "chosen": "best",
    "chosen_taps": "best_taps",
    "chosen_depths": "best_depths",
    "chosen_tap": "best_tap",
    "chosen_score": "best_score",
}
"""Key of a comparison or a profile -> key in results/: the results are older than the rule that chooses a tap, and keep their keys."""


def give(command: str, work: Path, *, may_refuse: bool = False) -> str:
    """What a command prints.

    An alignment of which nothing is hidden says so, which is a finding: then it is "" with `may_refuse`; whatever else
    fails ends the study.
    """
    print(f"$ {command}", file=sys.stderr, flush=True)
    found = subprocess.run(
        ["sh", "-c", command],
        cwd=work,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if may_refuse else None,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    told = found.stderr or ""
    print(told, end="", file=sys.stderr, flush=True)
    if found.returncode and NOTHING_HIDDEN not in told:
        raise SystemExit(found.returncode)
    return found.stdout


def give_run(command: str, work: Path) -> None:
    """A run, unless it is finished, or of an alignment that is not there."""
    _, _, encoder, *words = shlex.split(command)
    there = not encoder.startswith("models/") or (work / encoder / "encoder.safetensors").is_file()
    if there and not (work / words[words.index("--out") + 1] / "report.html").exists():
        give(command, work)


def run_system(name: str, work: Path) -> None:
    """Give all commands of a system and keep what the comparison found."""
    if name == "fracast":
        give_run(FRACAST[0], work)
        give(FRACAST[1], work, may_refuse=True)
        give_run(FRACAST[2], work)
        asked = {"fracast": FRACAST[0]}
    else:
        give(train_command(name), work)
        for objective in OBJECTIVES:
            for seed in SEEDS:
                own = label(objective, seed)
                give_run(run_command(name, f"models/{name}/{own}", own), work)
        for objective in TRAINED:
            for seed in SEEDS:
                own = f"{label(objective, seed)}-aligned"
                give(align_command(name, objective, seed), work, may_refuse=True)
                give_run(run_command(name, f"models/{name}/{own}", own), work)
        asked = {objective: controls_command(name, objective) for objective in TRAINED}
    results = _kept(json.loads(give(f"{compare_command(name)} --json", work)))
    if name != "fracast":
        alike = give(f"{alike_command(name)} --json", work)
        results["similarity"] = _kept(json.loads(alike))["similarity"]
    results["controls"] = {one: _controls(json.loads(give(f"{how} --json", work))) for one, how in asked.items()}
    kept = HERE / "results" / f"{name}.json"
    kept.write_text(json.dumps(results) + "\n")
    print(kept)


def _kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the page reads of a comparison."""
    parts = {key: found[key] for key in ("dataset", "n", "pooling", "seed", "depth", "profiles", "groups", "families")}
    runs = [
        {key: run[key] for key in ("name", "group", "seed", "run", "output_tap", "lineage")} for run in found["runs"]
    ]
    likeness = [
        {key: one[key] for key in ("first", "second", "measure", "taps", "aligned_depth", "at_outputs")}
        for one in found["similarity"]
    ]
    return _renamed(_rounded(parts | {"runs": runs, "shares": found["shares"], "similarity": likeness}))


def _controls(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run's best taps reach, and its controls."""
    keys = ("target", "chosen_score", "controls", "control_intervals", "over_controls")
    return _renamed(
        _rounded([{key: one[key] for key in keys} for one in found["profiles"] if one["measure"] == "linear_probe"])
    )


def _renamed(value: Any) -> Any:
    """With the keys of `KEPT` at every level."""
    if isinstance(value, dict):
        return {KEPT.get(key, key): _renamed(each) for key, each in value.items()}
    return [_renamed(each) for each in value] if isinstance(value, list) else value


def _rounded(value: Any) -> Any:
    """Five digits are more than any of these numbers has."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def pack(work: Path) -> None:
    """Round the encoders of lorenz, of the other systems and of shapes to float16, into the training plugin.

    All seeds of lorenz, one of the others.
    """
    import diagnostics_training

    from diagnostics import load_encoder, save_encoder

    give(SHAPES, work)
    weights = Path(diagnostics_training.__file__).parent / "weights"
    seeds = {"lorenz": SEEDS, "pendulum": SEEDS[:1], "damped_oscillator": SEEDS[:1], "shapes": SEEDS[:1]}
    for system, own in ((name, label(one, seed)) for name in seeds for one in TRAINED for seed in seeds[name]):
        encoder = load_encoder(work / "models" / system / own)
        # The name by which `objectives:` finds it; its lineage has the command that made it.
        save_encoder(weights / f"{system}-{own}.safetensors", encoder, half=True)
    print(f"{sum(path.stat().st_size for path in weights.glob('*.safetensors')) / 1e6:.1f} MB in {weights}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    runs = parts.add_parser("run")
    runs.add_argument("system", choices=[*SYSTEMS, "fracast"])
    runs.add_argument("--work", type=Path, default=Path("study"))
    parts.add_parser("page")
    parts.add_parser("pack").add_argument("--work", type=Path, default=Path("study"))
    asked = parser.parse_args()
    if asked.what == "run":
        asked.work.mkdir(parents=True, exist_ok=True)
        run_system(asked.system, asked.work)
    elif asked.what == "pack":
        pack(asked.work)
    else:
        from page import write_page

        write_page()


if __name__ == "__main__":
    main()
