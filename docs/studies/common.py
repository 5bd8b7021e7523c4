"""What studies share: result files, costs, values with their verdicts, and templates."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

LEVEL = 0.05
SHOWN, EXCLUDED, UNDECIDED, MISSING = "shown", "excluded", "undecided", "no result"


def rounded(value: Any) -> Any:
    """Four digits are more than any of these numbers has; what has no value is null."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def write_json(file: Path, value: Any) -> None:
    """Write a result file at once, so that a kill leaves the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(rounded(value), separators=(",", ":")) + "\n", encoding="utf-8")
    part.replace(file)


def read_json(file: Path) -> Any:
    """What a file holds; nothing where there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


@contextlib.contextmanager
def costs() -> Iterator[dict[str, float]]:
    """CPU seconds of what is done inside, by this process and by those that it starts and that have ended."""
    row: dict[str, float] = {}
    before = _cpu()
    yield row
    row["cpu_seconds"] = _cpu() - before


def _cpu() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


@dataclass
class Outcome:
    """A claim's value in one place, with its error and degrees of freedom, or the reason why it has none."""

    margin: float
    value: float = math.nan
    error: float = math.nan
    freedom: float = 1.0
    why: str = ""
    verdict: str = MISSING

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for this one alone."""
        away = float(student.ppf(1 - LEVEL / 2, self.freedom)) * self.error
        return self.value - away, self.value + away

    @property
    def tails(self) -> tuple[float, float]:
        """Of the hypotheses that the value is at most the margin, and that it is at least that."""
        z = (self.value - self.margin) / max(self.error, 1e-12)
        return float(student.sf(z, self.freedom)), float(student.cdf(z, self.freedom))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{number(self.value)} [{number(low)}, {number(high)}]" if math.isfinite(self.value) else "–"


def judge(outcomes: Sequence[Outcome]) -> None:
    """Give verdicts by Holm (1979) over both one-sided tests of all outcomes that have a value."""
    there = [one for one in outcomes if math.isfinite(one.value) and math.isfinite(one.error)]
    tests = sorted((tail, i, side) for i, one in enumerate(there) for side, tail in enumerate(one.tails))
    for one in there:
        one.verdict = UNDECIDED
    for rank, (tail, i, side) in enumerate(tests):
        if tail * (len(tests) - rank) > LEVEL:
            break
        there[i].verdict = (SHOWN, EXCLUDED)[side]


def number(value: float, digits: int = 3, sign: bool = True) -> str:
    """With its sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(template: Path, places: Mapping[str, str]) -> str:
    """A template with its `{{places}}` filled; an unknown place raises KeyError."""
    return re.sub(r"\{\{([^}]+)\}\}", lambda place: places[place[1].strip()], template.read_text(encoding="utf-8"))


def held(verdicts: Mapping[str, str]) -> dict[str, str]:
    """Places `{{NAME is VERDICT}}` beside words that state a verdict: they show nothing, and are unknown with another one."""
    return {f"{name} is {verdict}": "" for name, verdict in verdicts.items()}


def pooled_error(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Errors [target] of means over seeds, of values and errors over units [seed, target].

    The spread over seeds of a single target has too few degrees of freedom to be judged by. So the ratio of the variance
    over seeds to that over units is averaged over targets (Birge's ratio, at least 1) and widens the error over units; a
    target whose own spread is larger than that has its own.
    """
    units = np.square(errors).mean(axis=0)
    spread = values.var(axis=0, ddof=1) if len(values) > 1 else np.full_like(units, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = max(1.0, float(np.mean(spread / units)))
    return np.sqrt(np.maximum(ratio * units, spread) / len(values))


def parse_command(description: str | None) -> argparse.Namespace:
    """What a study's command line asks for: `what` to do with which `cells`, and the folder `work` of its runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "commands", "page"))
    parser.add_argument("cells", nargs="*", help="all by default")
    parser.add_argument("--work", type=Path, default=Path("study"))
    return parser.parse_args()
