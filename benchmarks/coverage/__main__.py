"""How many of timm's architecture modules and transformers' model types `diagnostics check` passes, and why not the others.

`python benchmarks/coverage [timm] [transformers] [--json FILE] [--docs] [--only NAME ...]`; `--docs` writes
`docs/reference/coverage.md` anew for the zoos that ran. A zoo is a module beside this one with `TITLE`, `LEAST` (a share), `kinds()`,
`encoder(kind)` and optionally `outside(error)`: why a kind whose encoder cannot be made does not count, or "".
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from diagnostics.checks.conformance import check_encoder
from diagnostics.errors import describe

ZOOS = ("timm", "transformers")
SMALLEST = ("mambaout", "vit")
"""A kind of each zoo that takes a second."""
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.md"


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


def table(title: str, rows: list[Row]) -> str:
    """A section of the page: the share, every failure with its reason, and what does not count."""
    counted = [row for row in rows if row.verdict != "outside"]
    passing = [row for row in rows if row.verdict == "passes"]
    lines = [f"## {title}", "", f"{len(passing)} of {len(counted)} pass ({share(rows):.1%})."]
    for heading, verdict in (("Fails", "fails"), ("Does not count", "outside")):
        some = [row for row in rows if row.verdict == verdict]
        if some:
            lines += ["", f"| {heading} | model | reason |", "|---|---|---|"]
            lines += [f"| `{row.kind}` | {_code(row.model)} | {_cell(row.reason)} |" for row in some]
    lines += ["", "| Passes | model | taps |", "|---|---|---|"]
    lines += [f"| `{row.kind}` | {_code(row.model)} | {row.taps} |" for row in passing]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


INTRODUCTION = """# Coverage

This page shows whether one small model of every architecture module of timm, and of every model type of transformers, passes
[`diagnostics check`](../how-to/conformance.md). All models have random weights. `python benchmarks/coverage --docs` writes the page.

For timm, the model is the one with the fewest parameters, at 96 pixels if it takes them. For transformers, it is each type's default configuration with smaller
widths, depths, heads, vocabularies and images, which are changed by the names of their settings. `EXCEPTIONS` in `transformers_zoo.py` repairs configurations that
this breaks, but never to get around a check:

- sizes that must fit one another: heads and rotary parts, experts, windows, codebooks, the maps of pyramids;
- settings that a type needs to build at all: `timm_backbone` is timm's `resnet18`, since its default names none (detectors whose default is a ResNet-50
  of timm get it too); SpeechT5 is built as `SpeechT5ForSpeechToText`, since its bare model has no prenet; the detectors of PP-OCRv6 get a backbone that
  halves its maps along both axes, since the defaults of transformers do not fit one another;
- lengths: forecasters read 32 steps and predict 8, with their default lags (1 to 7); texts have 40 tokens;
- depths at which something happens: MiniCPM-V merges its patches behind the first of two layers instead of the seventh of more.

A type does not count if it does not build here, or takes no image, video, audio, text or series by itself.
"""


def write_page(sections: dict[str, str]) -> None:
    """The page with these sections in place of their former selves."""
    old = PAGE.read_text().split("\n## ")[1:] if PAGE.exists() else []
    kept = {text.split("\n", 1)[0]: f"## {text.rstrip()}\n" for text in old}
    PAGE.write_text("\n".join([INTRODUCTION, *(kept | sections).values()]))


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
        parser.error("the page is of all kinds: leave --only out")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    everything: dict[str, Any] = {}
    sections: dict[str, str] = {}
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
        sections[zoo.TITLE] = table(zoo.TITLE, rows)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))
    if given.docs:
        write_page(sections)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
