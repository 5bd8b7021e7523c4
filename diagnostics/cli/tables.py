"""Terminal tables of commands without a page: the checks of an encoder, and the self-test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole

if TYPE_CHECKING:
    from diagnostics.checks.conformance import Conformance
    from diagnostics.checks.selftest import Outcome


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
