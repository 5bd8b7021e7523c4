"""The claim sheet: `claims.toml` says what is claimed and where it is tested, this script measures and judges it.

    python study.py run --work FOLDER              # all cells that are not finished; resumes after a kill
    python study.py run dinov2-scenes --work FOLDER
    python study.py gather --work FOLDER           # writes results/CELL.json from finished runs again
    python study.py commands                       # the command of each run
    python study.py page                           # writes verdicts.json, index.md and full.md from results/

A cell is an encoder on a kind of data; each of its draws is one run folder. What is finished is left as it is. A wheel
that is missing and a run that fails are rows of their own. No number of the page is typed by hand.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import shlex
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CLAIMS = tomllib.loads((HERE / "claims.toml").read_text(encoding="utf-8"))


def cells() -> dict[str, dict[str, Any]]:
    """Name -> what a cell is; one with several training seeds is several cells."""
    found = {}
    for name, cell in CLAIMS["cells"].items():
        if "seeds" not in cell:
            found[name] = cell
        for seed in range(cell.get("seeds", 0)):
            found[f"{name}.{seed}"] = {**cell, "encoder": cell["encoder"].format(seed=seed)}
    return found


def cells_of(names: Sequence[str]) -> list[str]:
    """The cells that a claim names, each training of one for itself."""
    return [full for name in names for full in cells() if full == name or full.rpartition(".")[0] == name]


def spec(name: str, draw: int | None = None) -> str:
    """A name of `claims.toml` as `diagnostics` takes it from the root of the repository."""
    path = f"docs/studies/claims/{name}" if name.startswith(("data.py", "encoders.py")) else name
    return path if draw is None else f"{path}{'&' if '?' in path else '?'}draw={draw}"


def command(name: str, draw: int) -> str:
    """The command that gives one run, from the root of the repository."""
    cell = cells()[name]
    controls = "" if cell.get("controls") and draw == 1 else "--no-controls"
    parts = [
        "diagnostics run", shlex.quote(spec(cell["encoder"])), "--data", shlex.quote(spec(cell["data"], draw)),
        f"--measures {cell['measures']}", cell["options"], controls, f"-o runs/{name}-{draw}",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


@functools.lru_cache(maxsize=6)
def dataset(name: str) -> Any:
    """Held for the cells that share it."""
    import diagnostics as dx

    return dx.build("dataset", name)


def absolute(name: str) -> str:
    """A spec whose path does not depend on the working directory."""
    return name.replace("docs/studies/claims/", f"{HERE}/")


def options(words: str) -> dict[str, Any]:
    """The options of a command as `diagnostics.run` takes them."""
    given = shlex.split(words)
    pairs = {
        key.removeprefix("--").replace("-", "_"): value for key, value in zip(given[::2], given[1::2], strict=True)
    }
    return {key: int(value) if value.isdigit() else value for key, value in pairs.items()}


def give(name: str, draw: int, work: Path) -> None:
    """One run, unless it is finished; its costs stand beside it."""
    import diagnostics as dx

    cell, folder = cells()[name], work / "runs" / f"{name}-{draw}"
    done = work / "runs" / f"{name}-{draw}.json"
    if done.is_file():
        return
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.time()
    row: dict[str, Any] = {"command": command(name, draw)}
    try:
        dx.run(
            dx.build("encoder", absolute(spec(cell["encoder"]))), dataset(absolute(spec(cell["data"], draw))), out=folder,
            measures=cell["measures"], controls=bool(cell.get("controls")) and draw == 1, jobs=1, watch=dx.silent,
            report=False, **options(cell["options"]),
        )  # fmt: skip
    except Exception as error:  # a failure is a row
        code = getattr(error, "code", "") or type(error).__name__
        row |= {"failed": f"{code}: {error}"[:300]}
        print(f"{name} {draw}: {row['failed']}", file=sys.stderr, flush=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    row |= {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": time.time() - began,
        "memory_gib": after.ru_maxrss / 2**20,
    }
    done.parent.mkdir(parents=True, exist_ok=True)
    part = done.with_suffix(".part")
    part.write_text(json.dumps(row))
    part.replace(done)
    print(f"{name} {draw}: {row['cpu_seconds']:.0f} CPU s, {row['memory_gib']:.1f} GiB", file=sys.stderr, flush=True)


def gather(name: str, work: Path) -> None:
    """Write results/CELL.json from the draws that are there."""
    import contrasts

    import diagnostics as dx

    cell, draws = cells()[name], {}
    testable = [
        claim for claim in CLAIMS["claims"] if name in cells_of([*claim.get("cells", []), *claim.get("others", [])])
    ]
    for draw in range(1, cell["draws"] + 1):
        done = work / "runs" / f"{name}-{draw}.json"
        if done.is_file():
            row = json.loads(done.read_text())
            kept = (
                {}
                if "failed" in row
                else contrasts.kept_of(dx.open_run(work / "runs" / f"{name}-{draw}"), testable, draw)
            )
            draws[str(draw)] = row | kept
    if draws:
        RESULTS.mkdir(exist_ok=True)
        said = {"cell": name, **{key: cell[key] for key in ("encoder", "data", "measures", "options")}, "draws": draws}
        (RESULTS / f"{name}.json").write_text(json.dumps(rounded(said), indent=None, separators=(",", ":")) + "\n")


def rounded(value: Any) -> Any:
    """Four digits are more than any of these numbers has; what has no value is null."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "gather", "commands", "page"))
    parser.add_argument("cells", nargs="*", help="all by default")
    parser.add_argument("--work", type=Path, default=Path("study"))
    asked = parser.parse_args()
    names = cells_of(asked.cells) if asked.cells else list(cells())
    if asked.what == "page":
        from page import write_page

        write_page()
    elif asked.what == "commands":
        print(*(command(name, draw) for name in names for draw in range(1, cells()[name]["draws"] + 1)), sep="\n")
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        sys.path[:0] = [str(HERE)]
        for name in names:
            if asked.what == "run":
                # The first draw has the controls, which cost most: a kill leaves more of the others.
                for draw in [*range(2, cells()[name]["draws"] + 1), 1]:
                    give(name, draw, asked.work)
            gather(name, asked.work)


if __name__ == "__main__":
    main()
