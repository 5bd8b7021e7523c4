"""What a claim costs whoever has the weights: the whole command at the full size of a PE-L with random weights.

`python rehearsal.py --work FOLDER` gives the command on 32 rendered images, keeps what it cost in results/rehearsal.json, and
extrapolates to 5,000: passes and judgement grow with the images, the sums and the fits of them do not.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGES, WANTED, SIDE = 32, 5000, 336
MEASURES = "linear_probe,segmentation_probe"


def command(n: int, out: str) -> str:
    """The run; with weights, `pe:core-l14-336?checkpoint=PE-Core-L14-336.pt` stands in place of the encoder."""
    return (
        f"diagnostics run 'pe:core-l14-336?pretrained=false' --data 'shapes?n={n}&size={SIDE}' --measures {MEASURES} "
        f"--dense streamed --token-budget 0 --no-controls --batch-size 4 --jobs 1 -v -o {out}"
    )


def stages(said: str) -> list[tuple[float, str]]:
    """Seconds and what began then, of the lines that `-v` prints."""
    found = []
    for line in said.splitlines():
        first, _, rest = line.strip().partition("  ")
        if first.endswith(" s"):
            found.append((float(first[:-2].replace(",", "")), rest.strip()))
    return found


def rehearse(work: Path) -> dict[str, Any]:
    """Give the command once and measure it."""
    given, began = command(IMAGES, "runs/pe-l"), time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(given)], cwd=work, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    folder = work / "runs" / "pe-l"
    return {
        "command": given,
        "images": IMAGES,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": time.time() - began,
        "memory_gib": after.ru_maxrss / 2**20,
        "disk_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "pooled_bytes": sum(file.stat().st_size for file in folder.glob("taps/*/pooled/**/*") if file.is_file()),
        "stages": stages(done.stderr),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("study"))
    found = rehearse(parser.parse_args().work)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "rehearsal.json").write_text(json.dumps(found) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key != "stages"}, indent=1))
