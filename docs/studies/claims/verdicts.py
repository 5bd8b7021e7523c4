"""Verdicts from result files: value, error and one-sided tests of each claim and cell, Holm over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student
from study import CLAIMS, RESULTS, cells_of

LEVEL = 0.05
FREEDOM = 16
"""Degrees of freedom where the error is the larger of that over units and that over draws."""
SHOWN, EXCLUDED, UNDECIDED, MISSING = "shown", "excluded", "undecided", "no result"


@dataclass
class Outcome:
    """What came out for a claim in a cell: `value` is a mean over `draws`, in the claimed direction."""

    claim: str
    cell: str
    margin: float
    value: float = np.nan
    error: float = np.nan
    freedom: float = FREEDOM
    draws: tuple[float, ...] = ()
    why: str = ""
    """Why there is no result."""
    verdict: str = MISSING

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for this one alone."""
        away = float(student.ppf(0.975, self.freedom)) * self.error
        return self.value - away, self.value + away

    @property
    def tails(self) -> tuple[float, float]:
        """Of the hypotheses that the value is at most the margin, and that it is at least that."""
        if not np.isfinite(self.error):
            return 1.0, 1.0
        z = (self.value - self.margin) / max(self.error, 1e-12)
        return float(student.sf(z, self.freedom)), float(student.cdf(z, self.freedom))


class NoValueError(Exception):
    """Why a claim has no value in a cell."""


Pairs = list[tuple[float, float | None]]
"""Of each draw a value and its error over units; None where it has none."""


def read(cell: str) -> dict[str, Any]:
    """The draws of a cell that have results; raises with the reason where there is none."""
    file = RESULTS / f"{cell}.json"
    if not file.is_file():
        raise NoValueError("not computed")
    draws = json.loads(file.read_text(encoding="utf-8"))["draws"]
    there = {draw: row for draw, row in draws.items() if "failed" not in row}
    if not there:
        raise NoValueError(next(iter(draws.values()))["failed"])
    return there


def computed(names: Sequence[str]) -> list[str]:
    """The cells with results among those named; raises where there is none."""
    found = [cell for cell in cells_of(names) if (RESULTS / f"{cell}.json").is_file()]
    if not found:
        raise NoValueError("not computed")
    return found


def slopes(cell: str, key: str) -> tuple[Pairs, float]:
    """Late minus middle of a target in each draw, and the range over the trunk of its mean curve."""
    other, _, rest = key.rpartition(":")
    draws = read(other or cell)
    try:
        each = [row["profiles"][rest] for row in draws.values()]
    except KeyError as error:
        raise NoValueError(f"no probe read {error}") from None
    first = next(iter(draws.values()))
    depth = np.array(each[0].get("depth", first["depth"]), dtype=float)
    mean = np.nanmean(np.array([one["score"] for one in each], dtype=float), axis=0)[(depth > 0) & (depth <= 1.0)]
    spread = float(np.nanmax(mean) - np.nanmin(mean))
    if not spread > 0:
        raise NoValueError(f"{rest} is read alike at every tap ({float(np.nanmax(mean)):.3f})")
    return [tuple(one["late_minus_middle"]) for one in each], spread


def order(claim: Mapping[str, Any], cell: str) -> Pairs:
    """Late minus middle of the second target minus that of the first, both in shares of their range.

    Targets count as independent, which widens the error where scenes that are hard for one are hard for the other.
    """
    (first, range_1), (second, range_2) = (slopes(cell, claim[name]) for name in ("first", "second"))
    return [
        (b / range_2 - a / range_1, float(np.hypot(error_b / range_2, error_a / range_1)))
        for (a, error_a), (b, error_b) in zip(first, second, strict=False)
    ]


def rule(claim: Mapping[str, Any], cell: str) -> Pairs:
    """What rules save over a random tap: their mean, or with `sign = -1` the most that one saves on average."""
    each = [row["rules"] for row in read(cell).values()]
    known = [name for name in claim["rule"] if all(name in one for one in each)]
    if not known or "random" not in each[0]:
        raise NoValueError("the runs have no such rule")
    saved = np.array([[one["random"] - one[name] for name in known] for one in each])
    at = saved.mean(axis=0).argmax()
    return [(float(one), None) for one in (saved[:, at] if claim.get("sign") == -1 else saved.mean(axis=1))]


def measured(claim: Mapping[str, Any], cell: str) -> Pairs:
    """Contrasts over taps of a measure without a target."""
    found: Pairs = []
    for row in read(cell).values():
        one = row["measures"].get(claim["measure"])
        if one is None:
            raise NoValueError(f"the runs have no {claim['measure']}")
        depth, value = np.array(one["depth"], dtype=float), np.array(one["value"], dtype=float)
        inside = {"early": (depth > 0) & (depth <= 1 / 3 + 1e-6)}
        inside["middle"] = (depth > 1 / 3 + 1e-6) & (depth <= 2 / 3 + 1e-6)
        inside["late"] = (depth > 2 / 3 + 1e-6) & (depth <= 1 + 1e-6)
        mean = {
            name: float(np.nanmean(value[at])) if np.isfinite(value[at]).any() else np.nan
            for name, at in inside.items()
        }
        trunk = value[(depth <= 1 + 1e-6) & np.isfinite(value)]
        match claim["kind"]:
            case "value":
                found.append((mean[claim["a"]] - mean[claim["b"]], None))
            case "peak":
                found.append((mean["middle"] - max(mean["early"], mean["late"]), None))
            case "step":
                found.append((float(np.diff(trunk).max() / (trunk.max() - trunk.min())), None))
            case _:
                found.append((claim["below"] - float(trunk.max()), None))
    return found


def similarity(claim: Mapping[str, Any], cell: str) -> Pairs:
    """Neighbouring taps minus distant ones; or the first cell minus the mean of the others, draw by draw."""
    own = [row["similar"] for row in read(cell).values()]
    if not own[0]:
        raise NoValueError("the runs have no CKA")
    if claim["kind"] == "near":
        return [(one["near"] - one["far"], None) for one in own]
    others = [
        [row["similar"]["quarter_with_output"] for row in read(other).values()] for other in computed(claim["others"])
    ]
    return [
        (one["quarter_with_output"] - float(np.mean(theirs)), None)
        for one, theirs in zip(own, zip(*others, strict=False), strict=False)
    ]


def kept(claim: Mapping[str, Any], cell: str) -> Pairs:
    """Values that the runs gave with their errors; of one draw with redraws, the spread of these is an error too."""
    draws = read(cell)
    found = [tuple(row["contrasts"][claim["id"]]) for row in draws.values() if claim["id"] in row["contrasts"]]
    found = [one for one in found if one[0] is not None]
    if not found:
        raise NoValueError("the runs have no such contrast")
    return found


HOW = {"order": order, "rule": rule, "near": similarity, "uniform": similarity} | dict.fromkeys(
    ("value", "peak", "step", "least"), measured
)


def outcome(claim: Mapping[str, Any], cell: str) -> Outcome:
    """A claim in one cell, before Holm."""
    sign = claim.get("sign", 1)
    made = Outcome(claim["id"], cell, claim["margin"])
    try:
        pairs = HOW.get(claim["kind"], kept)(claim, cell)
    except NoValueError as error:
        made.why = str(error)
        return made
    values = sign * np.array([one for one, _ in pairs], dtype=float)
    units = [error for _, error in pairs if error is not None]
    over_draws = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
    over_units = float(np.sqrt(np.sum(np.square(units))) / len(units)) if units else np.nan
    if len(values) == 1 and claim["kind"] == "gap":
        redraws = [
            one["redraw_gap"] for row in read(cell).values() for one in row["profiles"].values() if "redraw_gap" in one
        ]
        over_draws = float(np.std(redraws, ddof=1)) if redraws else np.nan
    errors = [error for error in (over_draws, over_units) if np.isfinite(error)]
    made.value, made.draws = float(values.mean()), tuple(values.tolist())
    if errors and np.isfinite(made.value):
        made.error, made.freedom = max(errors), FREEDOM if units else len(values) - 1
    made.why = "" if np.isfinite(made.error) else "no value in a draw"
    return made


def between(claim: Mapping[str, Any]) -> Outcome:
    """The gap of one group of encoders minus that of another, with the larger error of those over draws and trainings."""
    made = Outcome(claim["id"], " ".join(claim["cells"]), claim["margin"], freedom=4)
    try:
        groups = [
            [[one for one, _ in kept(claim, cell)] for cell in computed(claim[key])] for key in ("cells", "others")
        ]
    except NoValueError as error:
        made.why = str(error)
        return made
    # The draws that all of them have.
    least = min(len(draws) for group in groups for draws in group)
    first, second = (np.array([draws[:least] for draws in group]) for group in groups)
    draws = first.mean(axis=0) - second.mean(axis=0)
    trainings = np.sqrt(sum(each.mean(axis=1).var(ddof=1) / len(each) for each in (first, second)))
    made.value, made.draws = float(draws.mean()), tuple(draws.tolist())
    made.error = max(float(trainings), float(draws.std(ddof=1) / np.sqrt(len(draws))))
    return made


def judge(outcomes: Sequence[Outcome]) -> None:
    """Holm (1979) over both one-sided tests of all outcomes that have a value."""
    tests = sorted(
        (tail, i, side) for i, one in enumerate(outcomes) if not one.why for side, tail in enumerate(one.tails)
    )
    for one in outcomes:
        one.verdict = MISSING if one.why else UNDECIDED
    for rank, (tail, i, side) in enumerate(tests):
        if tail * (len(tests) - rank) > LEVEL:
            break
        outcomes[i].verdict = (SHOWN, EXCLUDED)[side]


def over_encoders(outcomes: Sequence[Outcome]) -> str:
    """Shown in every cell with a result, excluded in one at least, or undecided."""
    verdicts = {one.verdict for one in outcomes if one.verdict != MISSING}
    if not verdicts:
        return MISSING
    if EXCLUDED in verdicts:
        return EXCLUDED
    return SHOWN if verdicts == {SHOWN} else UNDECIDED


def all_outcomes() -> dict[str, list[Outcome]]:
    """Claim -> its outcomes, judged; none of what cannot be tested here."""
    found = {
        claim["id"]: [between(claim)]
        if claim["kind"] == "between"
        else [outcome(claim, cell) for cell in cells_of(claim["cells"])]
        for claim in CLAIMS["claims"]
        if "kind" in claim
    }
    judge([one for each in found.values() for one in each])
    return found


if __name__ == "__main__":
    for name, each in all_outcomes().items():
        print(f"{name}: {over_encoders(each)}")
        for one in each:
            low, high = one.interval
            print(
                f"   {one.cell:22} {one.value:+.3f} [{low:+.3f}, {high:+.3f}] margin {one.margin:g} {one.verdict} {one.why}"
            )
