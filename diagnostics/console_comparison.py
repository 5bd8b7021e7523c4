"""What a comparison says in a terminal: the findings in tables; everything else stands in its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diagnostics.comparison import Comparison
from diagnostics.comparison.differences import QUANTITIES
from diagnostics.comparison.estimates import Estimate
from diagnostics.comparison.words import (
    about_runs,
    along_depth_said,
    corrected_over,
    difference_said,
    differences_by_pair,
    families_said,
    few_said,
    heads_said,
    likeness_said,
    share_said,
    shown_profiles,
    target_said,
)
from diagnostics.console import by_reason, interval_said, plain_table, safe, terminal

MOST_ROWS = 30
"""Rows of differences in a terminal; the report has all."""


def print_comparison(found: Comparison, report: Path) -> None:
    """Standings by group, what alignments bought and cost, the differences that survive, and where taps correspond."""
    console = terminal()
    console.print(Text(about_runs(found), style="bold"))
    shown = shown_profiles(found)
    if found.standings:
        console.print(
            "Best tap chosen on val, scores read on test; 95 % intervals over test units, and over seeds where a label has "
            "several runs"
        )
        console.print(_standings(found, shown))
        for line in families_said(found):
            console.print(Text(f"mean hidden gap, {line}"))
        for line in heads_said(found, shown):
            console.print(Text(line))
        for few in few_said(found):
            console.print(Text(f"Beware: {few}.", style="yellow"))
    if found.shares:
        console.print("Alignments against what they started from (1: all of it)")
        console.print(_shares(found, shown))
        for reason in dict.fromkeys(why for one in found.shares for why in one.reasons.values()):
            console.print(Text(f"-: {reason}", style="dim"))
    _print_differences(console, found, shown)
    for one in found.likenesses:
        console.print(Text(likeness_said(one)))
    more = found.data.sizes["target"] - len(shown)
    if more > 0:
        console.print(
            Text(f"{more} further profiles (other probes, measures without a target) are in the report.", style="dim")
        )
    for why, names in by_reason(found.left_out).items():
        console.print(Text(f"left out: {', '.join(names)}: {why}", style="dim"))
    console.print(f"\nReport: {safe(str(report))}")


def _standings(found: Comparison, shown: Sequence[str]) -> Table:
    table = plain_table("target", "encoder", "best tap (depth)", "score", "output", "hidden gap")
    before = ""
    for one in found.standings:
        if one.profile not in shown:
            continue
        table.add_row(
            safe(target_said(found, one.profile)) if one.profile != before else "", safe(one.group), safe(one.best_tap_said),
            _said(one.best), _said(one.output), _said(one.hidden_gap, signed=True),
        )  # fmt: skip
        before = one.profile
    return table


def _shares(found: Comparison, shown: Sequence[str]) -> Table:
    table = plain_table("alignment", "target", "base's hidden gap", "recovered", "kept at best tap", "kept at output")
    before = ""
    for one in found.shares:
        if one.profile not in shown:
            continue
        target = target_said(found, one.profile) + (" (made for it)" if one.purpose else "")
        table.add_row(
            safe(f"{one.group} (from {one.base})") if one.group != before else "", safe(target),
            interval_said(one.gap, signed=True), *(safe(share_said(x)) for x in (one.recovered, one.kept_best, one.kept_output)),
        )  # fmt: skip
        before = one.group
    return table


def _print_differences(console: Console, found: Comparison, shown: Sequence[str]) -> None:
    rows = [row for row in differences_by_pair(found) if row.profile in shown]
    if not rows:
        return
    console.print(
        f"Paired differences, first minus second; * survives the correction for their number ({corrected_over(found)}); along "
        "the trunk: of these encoders, whatever other seeds give",
        markup=False,
    )
    if len(rows) > MOST_ROWS:
        kept = [row for row in rows if any(one.survives for one in row.differences) or row.curve.at is not None]
        console.print(
            Text(
                f"{min(MOST_ROWS, len(kept))} of {len(rows)} rows, those that differ first; all are in the report",
                "dim",
            )
        )
        rows = kept[:MOST_ROWS]
    table = plain_table("target", "first - second", *(f"{name}" for name in QUANTITIES), "along the trunk")
    table.columns[0].no_wrap, table.columns[-1].no_wrap = True, False
    before = ""
    for row in rows:
        table.add_row(
            safe(target_said(found, row.profile)) if row.profile != before else "", safe(f"{row.first} - {row.second}"),
            *(safe(difference_said(one)) for one in row.differences), safe(along_depth_said(row.curve)),
        )  # fmt: skip
        before = row.profile
    console.print(table)


def _said(found: Estimate, *, signed: bool = False) -> str:
    return interval_said(found.interval, signed=signed)
