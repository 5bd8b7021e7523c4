"""How many of timm's architecture modules and transformers' model types `diagnostics check` passes, and why not the others.

`python benchmarks/coverage [timm] [transformers] [--json FILE] [--docs] [--only NAME ...]`; `--docs` writes
`docs/reference/coverage.csv` and the page beside it anew for the zoos that ran. A zoo is a module beside this one with `TITLE`, `LEAST` (a share), `kinds()`,
`encoder(kind)` and optionally `outside(error)`: why a kind whose encoder cannot be made does not count, or "".
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from diagnostics.checks.conformance import check_encoder
from diagnostics.errors import describe

ZOOS = ("timm", "transformers")
SMALLEST = ("mambaout", "vit")
"""A kind of each zoo that takes a second."""
TABLE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.csv"


@dataclass
class Row:
    """What became of one kind: `verdict` is `passes`, `fails`, or `outside` (which does not count)."""

    kind: str
    model: str
    verdict: str
    reason: str
    taps: int
    seconds: float


def examined(zoo: Any, kind: str) -> Row:
    """The kind's encoder built and checked; seconds are of CPU time."""
    started = time.process_time()

    def row(model: str, verdict: str, reason: str = "", taps: int = 0) -> Row:
        # Some errors name the file of a module, which is of this machine alone.
        reason = re.sub(r" from '[^']*'", "", reason)
        return Row(kind, model, verdict, reason, taps, round(time.process_time() - started, 1))

    try:
        encoder = zoo.encoder(kind)
    except Exception as error:
        outside = getattr(zoo, "outside", lambda _: "")(error)
        return row("", "outside" if outside else "fails", outside or describe(error))
    try:
        outcomes = check_encoder(encoder).outcomes
    except Exception as error:
        return row(encoder.name, "fails", describe(error), len(encoder.taps))
    failed = [f"{outcome.check}: {outcome.message}" for outcome in outcomes if outcome.verdict == "failed"]
    return row(encoder.name, "fails" if failed else "passes", "; ".join(failed), len(encoder.taps))


def share(rows: list[Row]) -> float:
    """Of the kinds that count, the share that passes."""
    counted = [row for row in rows if row.verdict != "outside"]
    return sum(row.verdict == "passes" for row in counted) / max(1, len(counted))


def section(title: str, rows: list[Row]) -> str:
    """A section of the page: the share that passes, and how many kinds fail or do not count."""
    counts = Counter(row.verdict for row in rows)
    counted = counts["passes"] + counts["fails"]
    return f"""## {title}

{counts["passes"]} of {counted} pass ({share(rows):.1%}), {counts["fails"]} fail, and {counts["outside"]} do not count.
"""


INTRODUCTION = """# Coverage

[One table](coverage.csv) has a row for every architecture module of timm and every model type of transformers: the small model that stands for it, with random
weights, whether it passes [`diagnostics check`](../how-to/conformance.md), its number of taps, and why not if it does not. `python benchmarks/coverage --docs` writes it.

For timm, the model is the one with the fewest parameters, at 96 pixels if it takes them. For transformers, it is each type's default configuration with smaller
widths, depths, heads, vocabularies and images. `EXCEPTIONS` in `benchmarks/coverage/transformers_zoo.py` repairs configurations that this breaks, but never to get
around a check. A type does not count if it does not build here, or takes no image, video, audio, text or series by itself.
"""


def write_page(found: dict[str, list[Row]]) -> None:
    """The table and the page with these zoos' rows in place of their former ones."""
    rows = {zoo: list[Row]() for zoo in ZOOS}
    if TABLE.exists():
        with TABLE.open(newline="", encoding="utf-8") as file:
            for one in csv.DictReader(file):
                rows[one["zoo"]].append(
                    Row(one["kind"], one["model"], one["verdict"], one["reason"], int(one["taps"] or 0), 0.0)
                )
    rows |= found
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["zoo", "kind", "model", "verdict", "taps", "reason"])
        for zoo, own in rows.items():
            lines.writerows([zoo, one.kind, one.model, one.verdict, one.taps or "", one.reason] for one in own)
    sections = [section(importlib.import_module(f"{zoo}_zoo").TITLE, own) for zoo, own in rows.items() if own]
    TABLE.with_suffix(".md").write_text("\n".join([INTRODUCTION, *sections]), encoding="utf-8")


def main() -> int:
    """Exit status 0 where each zoo reaches its share."""
    parser = argparse.ArgumentParser(prog="coverage", description=__doc__)
    parser.add_argument("zoos", nargs="*", metavar="ZOO", help=f"one of {', '.join(ZOOS)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="kinds")
    parser.add_argument("--smallest", action="store_true", help="one kind of each zoo")
    given = parser.parse_args()
    if given.smallest:
        given.only = SMALLEST
    if unknown := set(given.zoos) - set(ZOOS):
        parser.error(f"there is no zoo {', '.join(sorted(unknown))}")
    if given.only and given.docs:
        parser.error("the table is of all kinds: leave --only out")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    everything: dict[str, Any] = {}
    found: dict[str, list[Row]] = {}
    held = True
    for name in given.zoos or ZOOS:
        zoo = importlib.import_module(f"{name}_zoo")
        began, rows = time.perf_counter(), list[Row]()
        for kind in zoo.kinds():
            if not given.only or kind in given.only:
                rows.append(examined(zoo, kind))
                last = rows[-1]
                print(f"{last.verdict:8} {kind:28} {last.seconds:6.1f} s  {last.reason}", flush=True)
        spent = sum(row.seconds for row in rows)
        reached = share(rows) >= zoo.LEAST
        held &= reached
        print(
            f"{'ok  ' if reached else 'MISS'} {zoo.TITLE}: {share(rows):.1%} pass (at least {zoo.LEAST:.0%}); "
            f"{spent:.0f} s of CPU time, {time.perf_counter() - began:.0f} s in all",
            flush=True,
        )
        everything[name] = {"share": share(rows), "seconds": round(spent, 1), "rows": [asdict(row) for row in rows]}
        found[name] = rows
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))
    if given.docs:
        write_page(found)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
