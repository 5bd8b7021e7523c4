"""What needs CUDA, checked and timed in one call.

The tests marked `gpu`, then a run of vit_tiny on 1,000 images on the GPU beside the same on the CPU, measure by
measure.

Wall time, since a GPU's work is in no process's CPU time. `gpu.py cpu` puts the CPU in the GPU's place, to try this script.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import diagnostics as dx

from _common import ARGUMENTS, SMALLEST, finish, images, verdict, vit_tiny

COUNT = 20 if SMALLEST else 1000
FITTED = ("linear_probe",) if SMALLEST else ("linear_probe", "attentive_probe")
MEASURES = ("rankme", "cka", *FITTED) if SMALLEST else ("rankme", "cka", "knn_probe", *FITTED)
TOGETHER = "rankme"
"""The measure whose time includes extraction, being the first."""


def timed(device: str, folder: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Seconds of wall time and scores [tap, ...] by measure."""
    encoder, dataset = vit_tiny(), images(COUNT)
    seconds: dict[str, float] = {}
    found: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        start = time.perf_counter()
        run = dx.run(
            encoder, dataset, out=folder / device, device=device, measures=[measure], controls=False, report=False
        )
        seconds[measure] = time.perf_counter() - start
        for profile in run.profiles():
            found[measure] = profile.data["score"].values
        for pairs in run.similarity():
            found[measure] = pairs["matrix"].values
    return seconds, found


def main() -> None:
    device = ARGUMENTS[0] if ARGUMENTS else "cpu" if SMALLEST else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU with CUDA is here, so nothing is checked or timed: run it where there is one.")
    tests = Path(__file__).parent.parent / "tests" / "test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", str(tests)]
    # At the smallest size, which has no GPU, all of them would be skipped.
    passed = SMALLEST or subprocess.run(command, cwd=tests.parent.parent).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        theirs, right = timed("cpu", Path(folder) / "cpu")
        ours, found = timed(device, Path(folder) / "other")
    for measure in MEASURES:
        what = f"{measure} with extraction" if measure == TOGETHER else measure
        off = np.nanmax(np.abs(found[measure] - right[measure]))
        print(
            f"{what}: {ours[measure]:.2f} s on {device}, {theirs[measure]:.2f} s on one core "
            f"({theirs[measure] / ours[measure]:.1f}x), scores apart by up to {off:.2g}"
        )
    fitted, alone = (sum(seconds[measure] for measure in FITTED) for seconds in (ours, theirs))
    finish(
        passed,
        verdict("probes on the GPU to one core, wall time", fitted / alone, 1),
        verdict("cka apart from the CPU's", float(np.abs(found["cka"] - right["cka"]).max()), 1e-3),
    )


if __name__ == "__main__":
    main()
