"""Terminal tables of commands without a page: an encoder, its checks, the self-test, and the list of plugins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from diagnostics.encoders.taps import Grid
from diagnostics.progress import duration, size
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole

if TYPE_CHECKING:
    from diagnostics.checks.conformance import Conformance
    from diagnostics.checks.selftest import Outcome

_HOW = re.compile(r"(?: as |, \d+ rows | without ).*$")
"""What stands behind the place in the text of a `Site`."""


def print_inspection(inspected: dict[str, Any]) -> None:
    """An encoder's taps, and what a sample costs."""
    console = terminal()
    parameters = f", {inspected['parameters']:,} parameters" if inspected["parameters"] else ""
    show(console, f"{whole(inspected['encoder'])}: {inspected['modality']}{parameters}", "bold")
    alike = _same_for_all([tap["read"] for tap in inspected["taps"]])
    rows: list[list[str]] = []
    for tap in inspected["taps"]:
        # One token stands for the whole sample, and not for a place in it.
        placeless = not tap["prefix"] and set(tap["grid"]) == {1}
        grid = "-" if placeless else str(Grid(tuple(tap["grid"]), tuple(tap["axes"]), tap["prefix"]))
        mark = " (output)" if tap["name"] == inspected["output_tap"] else ""
        rows.append(
            [
                whole(tap["name"]) + mark, f"{tap['depth']:.2f}", printable(tap["part"]), str(tap["features"]),
                whole(grid), printable(tap["read"].removesuffix(alike)),
            ]
        )  # fmt: skip
    show_table(console, ["tap", "depth", "part", "features", "grid", "read"], rows)
    if alike:
        show(console, f"All taps are read{printable(alike)}.")
    show(console, printable(inspected["handed_out"]["sentence"]))
    configuration = inspected["identity"].get("configuration", "").removeprefix(inspected["encoder"]).strip()
    if configuration:
        show(console, f"Configuration: {printable(configuration)}.")
    lineage = inspected["lineage"]
    if how := lineage.get("how"):
        on = f", on {lineage['data']}" if lineage.get("data") else ""
        show(console, f"Made by: {printable(f'{how}{on}')}.")
    show(
        console,
        f"A sample takes {inspected['seconds_per_sample'] * 1e3:.1f} ms; it stores "
        f"{size(inspected['pooled_bytes_per_sample'])} pooled ({' and '.join(inspected['pooling'])}) and "
        f"{size(inspected['token_bytes_per_sample'])} of tokens; 1,000 samples take about "
        f"{duration(inspected['seconds_per_sample'] * 1000)}.",
    )
    if placement := inspected.get("placement"):
        verdicts = {True: ("right", "green"), False: ("WRONG", "bold red"), None: ("not verified", "")}
        verdict, style = verdicts[placement["right"]]
        show(console, f"Grid {verdict}: {printable(placement['said'])}.", style)
        if placement.get("prefix_moved"):
            show(console, "Prefix tokens changed too: tokens are already mixed at this tap.")


def _same_for_all(reads: Sequence[str]) -> str:
    """How the tensors of several taps become tokens (their layout, and what is dropped of them), where that is the same."""
    texts = {way[0] if (way := _HOW.search(read)) else "" for read in reads}
    return texts.pop() if len(texts) == 1 and len(reads) > 1 else ""


def print_conformance(conformance: Conformance) -> None:
    """Each check with its verdict and what was found; those that failed stand in red."""
    console = terminal()
    shown = {"ok": ("ok", "green"), "failed": ("FAILED", "bold red"), "not applicable": ("-", "dim")}
    rows: list[list[str | Text]] = []
    for outcome in conformance.outcomes:
        verdict, style = shown[outcome.verdict]
        prose = Text(printable(outcome.message), style="dim" if outcome.verdict == "not applicable" else "")
        rows.append([whole(outcome.check), Text(verdict, style), prose])
    show_table(console, ["check", "verdict", "found"], rows)
    passed = sum(outcome.verdict == "ok" for outcome in conformance.outcomes)
    idle = len(conformance.outcomes) - passed - conformance.failed
    show(
        console,
        f"{whole(conformance.encoder)}: {passed} ok, {conformance.failed} failed, {idle} not applicable, "
        f"from {conformance.passes} forward passes in {conformance.seconds:.1f} s.",
    )


def print_selftest(outcomes: list[Outcome], *, full: bool = False) -> None:
    """How many known answers each family of measures has, how many are right and how near; then those that are not.

    With `full` also every known answer with what came out, how near it must be, and its source.
    """
    console = terminal()
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.family, []).append(outcome)
    counts = [
        [family, str(len(own)), str(sum(outcome.right for outcome in own)), f"{max(o.deviation for o in own):.2g}"]
        for family, own in families.items()
    ]
    show_table(console, ["family", "known answers", "right", "largest deviation / tolerance"], counts)
    show(console, "")
    rows = [
        [
            whole(outcome.case.measure), printable(outcome.case.what), f"{outcome.case.expected:.6g}",
            f"{outcome.case.tolerance:.2g}", printable(outcome.error) if outcome.error else f"{outcome.computed:.6g}",
            Text("right", "green") if outcome.right else Text("OFF", "bold red"), printable(outcome.case.source),
        ]
        for outcome in outcomes if full
    ]  # fmt: skip
    if full:
        show_table(console, ["measure", "known answer", "expected", "within", "found", "verdict", "source"], rows)
    wrong = [outcome for outcome in outcomes if not outcome.right]
    for outcome in wrong:
        case, instead = outcome.case, outcome.error or f"found {outcome.computed:.9g}"
        expected = f"expected {case.expected:.9g} within {case.tolerance:g}"
        show(console, f"OFF  {printable(f'{case.measure}, {case.what}: {expected}, {instead}')}", "bold red", hanging=2)
    off = f", {len(wrong)} off: please report them with the output of `diagnostics selftest --json`" if wrong else ""
    each = "" if full else " Each with its source: `diagnostics selftest --full`"
    show(console, f"{len(outcomes)} known answers, {len(outcomes) - len(wrong)} right{off}.{each}")
