"""Known answers, computed on this machine: closed forms and published constants that measures must return.

A measure states its own on its class (`known_answers`); those that no measure owns, of intervals, of the choice of a
tap and of all that follows from it, stand here.
"""

import math
from dataclasses import dataclass
from typing import Any

from diagnostics.checks.selftest import answer
from diagnostics.errors import describe
from diagnostics.measures import load_bundled
from diagnostics.measures.base import Case
from diagnostics.measures.threads import one_thread
from diagnostics.progress import Progress, Watch
from diagnostics.report.numbers import number
from diagnostics.report.progress_bars import watching


@dataclass(frozen=True)
class Outcome:
    """A case with its value computed here; `computed` is NaN where it failed with `error`."""

    family: str
    case: Case
    computed: float
    error: str = ""

    @property
    def right(self) -> bool:
        """True if it is within the tolerance."""
        return bool(abs(self.computed - self.case.expected) <= self.case.tolerance)

    @property
    def deviation(self) -> float:
        """Distance from the answer in tolerances, above 1 where it is not right; infinite where there is no number."""
        off = abs(self.computed - self.case.expected) / self.case.tolerance
        return float("inf") if math.isnan(off) else off

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "family": self.family,
            "measure": self.case.measure,
            "case": self.case.what,
            "expected": self.case.expected,
            "found": number(self.computed),
            "tolerance": self.case.tolerance,
            "right": self.right,
            "source": self.case.source,
            "error": self.error,
        }


def all_cases() -> list[tuple[str, Case]]:
    """(family, case) of everything: what the bundled measures state, then what stands here."""
    known = [(measure.__module__.split(".")[2], measure.known_answers) for measure in load_bundled().values()]
    return [(family, case) for family, cases in [*known, ("answer", answer.cases())] for case in cases]


def check(family: str, case: Case) -> Outcome:
    """One case, computed."""
    try:
        return Outcome(family, case, float(case.compute()))
    except Exception as error:  # whatever a broken installation does is a result of the test
        return Outcome(family, case, float("nan"), describe(error))


def run_selftest(watch: Watch | None = None) -> list[Outcome]:
    """All cases, computed one by one; progress is shown where no `watch` is given."""
    cases = all_cases()
    outcomes: list[Outcome] = []
    with watching(watch) as shown, one_thread():
        for done, (family, case) in enumerate(cases):
            shown(Progress("known answers", done, len(cases)))
            outcomes.append(check(family, case))
        shown(Progress("known answers", len(cases), len(cases)))
    return outcomes
