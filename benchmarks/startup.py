"""CPU time of `diagnostics --help`, of the README's main job, and of `show` and `runs` on its run, as processes."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import SMALLEST, finish, verdict

JOB = ("lorenz?n=20", "--measures", "rankme", "--no-controls") if SMALLEST else ("lorenz",)
COMMAND = str(Path(sys.executable).with_name("diagnostics"))


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(*arguments: str, cwd: str | None = None) -> float:
    start = children()
    subprocess.run([COMMAND, *arguments], check=True, capture_output=True, cwd=cwd)
    return children() - start


def main() -> None:
    if not SMALLEST:
        seconds("--help")
    helps = [seconds("--help") for _ in range(1 if SMALLEST else 5)]
    print(f"--help: {min(helps):.3f} to {max(helps):.3f} s of CPU")
    with tempfile.TemporaryDirectory() as folder:
        job = seconds("run", "fracast", "--data", *JOB, "--out", "runs/main", cwd=folder)
        repeats = range(1 if SMALLEST else 9)
        show = statistics.median(seconds("show", "runs/main", cwd=folder) for _ in repeats)
        runs = statistics.median(seconds("runs", cwd=folder) for _ in repeats)
    finish(
        verdict("diagnostics --help, CPU seconds", statistics.median(helps), 0.35),
        verdict("diagnostics run fracast --data lorenz, CPU seconds", job, 110),
        verdict("diagnostics show, CPU seconds", show, 0.6),
        verdict("diagnostics runs, CPU seconds", runs, 0.6),
    )


if __name__ == "__main__":
    main()
