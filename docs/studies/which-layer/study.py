"""Which layer, measured: `plan.toml` says what is claimed of which encoders, this script measures and judges it.

    python study.py run --work FOLDER                 # all runs that are not finished; resumes after a kill
    python study.py run minilm-sentences --work FOLDER
    python study.py gather --work FOLDER              # writes results/CELL.json from finished runs again
    python study.py commands                          # the command of each run
    python study.py page                              # writes index.md and full.md from results/
    python study.py add ENCODER DATA --work FOLDER    # an encoder of your own beside these: prints its rows

A cell is an encoder on a kind of data; each of its draws is one run folder. What is finished is left as it is, and a run that fails is
a row of its own. `DATA` with `{draw}` in it (`mine.py:data?seed={draw}`) is drawn five times, otherwise once.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shlex
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from common import costs, read_json, rounded, write_json  # noqa: E402  (the folder of studies)

RESULTS = HERE / "results"
PLAN = tomllib.loads((HERE / "plan.toml").read_text(encoding="utf-8"))
DRAWS = (101, 102, 103, 104, 105)
MEASURES = "linear_probe,tap_set,label_efficiency,logme,rankme,two_nn"
"""Of a reader's encoder: what every cell has."""


def cells() -> dict[str, dict[str, Any]]:
    """Name -> what a cell is."""
    return PLAN["cells"]


def draws_of(cell: Mapping[str, Any]) -> Sequence[int]:
    """The draws of its data."""
    return DRAWS if "{draw}" in cell["data"] else DRAWS[:1]


def command(name: str, cell: Mapping[str, Any], draw: int) -> str:
    """The command that gives one run, from the root of the repository."""
    encoder, data = (shlex.quote(each) for each in (cell["encoder"], cell["data"].format(draw=draw)))
    parts = [
        "diagnostics run",
        encoder,
        "--data",
        data,
        f"--measures {cell['measures']}",
        "--no-controls",
        cell["options"],
    ]
    return " ".join(part for part in [*parts, f"-o runs/{name}-{draw}"] if part)


def absolute(spec: str) -> str:
    """A spec whose path does not depend on the working directory."""
    return spec.replace("docs/studies/", f"{HERE.parent}/")


@functools.lru_cache(maxsize=2)
def dataset(name: str) -> Any:
    """Held for the cells that share it."""
    import diagnostics as dx

    return dx.build("dataset", name)


def options(words: str) -> dict[str, str]:
    """The options of a command as `diagnostics.run` takes them."""
    given = shlex.split(words)
    return {key.removeprefix("--"): value for key, value in zip(given[::2], given[1::2], strict=True)}


def give(name: str, cell: Mapping[str, Any], draw: int, work: Path) -> None:
    """One run, unless it is finished; its costs stand beside it."""
    import diagnostics as dx

    done = work / "runs" / f"{name}-{draw}.json"
    if done.is_file():
        return
    row: dict[str, Any] = {"command": command(name, cell, draw)}
    with costs() as cost:
        try:
            dx.run(
                dx.build("encoder", absolute(cell["encoder"])), dataset(absolute(cell["data"].format(draw=draw))),
                out=done.with_suffix(""), measures=cell["measures"], controls=False, jobs=1, watch=dx.silent, report=False,
                **options(cell["options"]),
            )  # fmt: skip
        except Exception as error:  # a failure is a row
            row |= {"failed": f"{getattr(error, 'code', '') or type(error).__name__}: {error}"[:300]}
    row |= {**cost, "memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    write_json(done, row)
    print(f"{name} {draw}: {row['cpu_seconds']:.0f} CPU s, {row.get('failed', 'ok')}", file=sys.stderr, flush=True)


def gather(name: str, cell: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """The draws of a cell that are there."""
    from readings import kept_of

    import diagnostics as dx

    draws = {}
    for draw in draws_of(cell):
        done = work / "runs" / f"{name}-{draw}.json"
        if row := read_json(done):
            draws[str(draw)] = row | (
                {} if "failed" in row else kept_of(dx.open_run(done.with_suffix("")), PLAN["least"])
            )
    return rounded({"cell": name, "draws": draws})


def measure(some: Mapping[str, Mapping[str, Any]], work: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """All runs, one draw of every cell after the other, so that a kill leaves all cells with as many; then what is kept."""
    for i in range(len(DRAWS)):
        for name, cell in some.items():
            if i < len(draws_of(cell)):
                give(name, cell, draws_of(cell)[i], work)
    return ((name, gather(name, cell, work)) for name, cell in some.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "gather", "commands", "page", "add"))
    parser.add_argument("names", nargs="*", help="cells, all by default; of `add` an encoder and its data")
    parser.add_argument("--work", type=Path, default=Path("study"))
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:0] = [str(HERE)]
    if asked.what == "add":
        from page import rows_of

        encoder, data = asked.names
        own = {"own": {"encoder": encoder, "data": data, "measures": MEASURES, "options": "", "modality": ""}}
        ((_, found),) = measure(own, asked.work)
        print(rows_of(found))
        return
    some = {name: cell for name, cell in cells().items() if name in (asked.names or cells())}
    if asked.what == "page":
        from page import write_page

        write_page()
    elif asked.what == "commands":
        print(*(command(name, cell, draw) for name, cell in some.items() for draw in draws_of(cell)), sep="\n")
    else:
        kept = (
            measure(some, asked.work)
            if asked.what == "run"
            else ((n, gather(n, c, asked.work)) for n, c in some.items())
        )
        for name, found in kept:
            if found["draws"]:
                write_json(RESULTS / f"{name}.json", found)


if __name__ == "__main__":
    main()
