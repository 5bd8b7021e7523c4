"""What a comparison says in a terminal: the findings in tables; everything else stands in its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from diagnostics.cli.tables import print_left_out
from diagnostics.measures.statistics import Interval
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.runs.comparison import Comparison
from diagnostics.runs.comparison.differences import QUANTITIES
from diagnostics.runs.comparison.words import (
    about_runs,
    alignment_said,
    along_depth_said,
    controls_said,
    corrected_over,
    difference_said,
    differences_by_pair,
    families_said,
    few_said,
    heads_said,
    interval_text,
    likeness_said,
    reasons_of,
    shares_said,
    shown_profiles,
    target_said,
)

MOST_ROWS = 30
"""Rows of differences in a terminal; the report has all."""


def print_comparison(found: Comparison, report: Path) -> None:
    """Standings by group, what alignments bought and cost, the differences that survive, and where taps correspond."""
    console = terminal()
    show(console, printable(about_runs(found)), "bold")
    shown = shown_profiles(found)
    if found.standings:
        several = any(len(members) > 1 for members in found.groups.values())
        show(
            console,
            "Best tap chosen on val, scores read on test; 95 % intervals over test units"
            + (" and, where a label has several seeds, over seeds; 2/3: the tap of 2 of 3 seeds" if several else ""),
        )
        _print_standings(console, found, shown)
        for line in controls_said(found, shown):
            show(console, printable(line), "dim", hanging=2)
        for line in families_said(found):
            show(console, f"mean hidden gap, {printable(line)}", hanging=2)
        for line in heads_said(found, shown):
            show(console, printable(line), hanging=2)
        for few in few_said(found):
            show(console, f"Beware: {printable(few)}.", "yellow")
    if found.shares:
        show(console, "")
        show(console, "Alignments against what they started from (1: all of it)")
        _print_shares(console, found, shown)
        for i, reason in enumerate(reasons_of(found), 1):
            show(console, f"({i}) {printable(reason)}", "dim", hanging=4)
    _print_differences(console, found, shown)
    for one in found.likenesses:
        show(console, printable(likeness_said(one)), hanging=2)
    more = found.data.sizes["target"] - len(shown)
    if more > 0:
        profiles = "profile (another probe, or a measure" if more == 1 else "profiles (other probes, measures"
        verb = "is" if more == 1 else "are"
        show(console, f"{more} further {profiles} without a target) {verb} in the report.", "dim")
    print_left_out(console, found.left_out)
    show(console, "")
    show(console, f"Report: {whole(report)}")


def _print_standings(console: Console, found: Comparison, shown: Sequence[str]) -> None:
    rows: list[list[str | Text]] = []
    before = ""
    for one in found.standings:
        if one.profile not in shown:
            continue
        if one.profile != before:
            rows.append([Text(printable(target_said(found, one.profile)), "bold")])
        before = one.profile
        same = all(
            tap == side.run.store.output_tap
            for (tap, _), side in zip(one.best_taps, found.groups[one.group], strict=True)
        )
        numbers = [_text(one.best.interval), _text(one.output.interval)]
        numbers.append("0: the same tap" if same else interval_text(one.hidden_gap.interval))
        rows.append([f"  {whole(one.group)}", printable(one.best_tap_said), *numbers])
    show_table(console, ["target and encoder", "best tap (depth)", "score", "output", "hidden gap"], rows)


def _text(found: Interval) -> str:
    return interval_text(found).lstrip("+")


def _print_shares(console: Console, found: Comparison, shown: Sequence[str]) -> None:
    rows: list[list[str | Text]] = []
    before, reasons = "", reasons_of(found)
    for one in found.shares:
        if one.profile not in shown:
            continue
        if one.group != before:
            rows.append([Text(printable(alignment_said(one)), "bold")])
        before = one.group
        target = target_said(found, one.profile) + (", made for it" if one.purpose else "")
        rows.append([f"  {printable(target)}", interval_text(one.gap), *shares_said(one, reasons)])
    columns = ["alignment and target", "base's hidden gap", "recovered", "kept at best tap", "kept at output"]
    show_table(console, columns, rows)


def _print_differences(console: Console, found: Comparison, shown: Sequence[str]) -> None:
    pairs = [pair for pair in differences_by_pair(found) if pair.profile in shown]
    if not pairs:
        return
    show(console, "")
    show(
        console,
        f"Paired differences, first minus second; * survives the correction for their number ({corrected_over(found)}). Along "
        "the trunk: where the curves of these trainings differ most, if it is shown that they do",
    )
    if len(pairs) > MOST_ROWS:
        kept = [pair for pair in pairs if any(one.survives for one in pair.differences) or pair.curve.at is not None]
        which = "the first of those" if len(kept) > MOST_ROWS else "those"
        show(
            console,
            f"{min(MOST_ROWS, len(kept))} of {len(pairs)} rows, {which} that differ; all are in the report",
            "dim",
        )
        pairs = kept[:MOST_ROWS]
    rows: list[list[str | Text]] = []
    before = ""
    for pair in pairs:
        if pair.profile != before:
            rows.append([Text(printable(target_said(found, pair.profile)), "bold")])
        before = pair.profile
        numbers = [difference_said(one) for one in pair.differences]
        rows.append([f"  {whole(pair.first)} - {whole(pair.second)}", *numbers, along_depth_said(pair.curve)])
    if rows:
        show_table(console, ["target, first - second", *QUANTITIES, "along the trunk"], rows)
