"""What a comparison says in a terminal: the findings in tables; everything else stands in its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diagnostics.comparison import Comparison
from diagnostics.comparison.differences import QUANTITIES
from diagnostics.comparison.words import (
    PairRow,
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
from diagnostics.console import by_reason, plain_table, safe, terminal
from diagnostics.statistics import Interval

MOST_ROWS = 30
"""Rows of differences in a terminal; the report has all."""


def print_comparison(found: Comparison, report: Path) -> None:
    """Standings by group, what alignments bought and cost, the differences that survive, and where taps correspond."""
    console = terminal()
    console.print(Text(about_runs(found), style="bold"))
    shown = shown_profiles(found)
    if found.standings:
        several = any(len(members) > 1 for members in found.groups.values())
        console.print(
            "Best tap chosen on val, scores read on test; 95 % intervals over test units"
            + (" and, where a label has several seeds, over seeds; 2/3: the tap of 2 of 3 seeds" if several else "")
        )
        _print_fitting(console, lambda gap: _standings(found, shown, gap))
        for line in controls_said(found, shown):
            console.print(Text(line, style="dim"))
        for line in families_said(found):
            console.print(Text(f"mean hidden gap, {line}"))
        for line in heads_said(found, shown):
            console.print(Text(line))
        for few in few_said(found):
            console.print(Text(f"Beware: {few}.", style="yellow"))
    if found.shares:
        console.print("\nAlignments against what they started from (1: all of it)")
        _print_fitting(console, lambda gap: _shares(found, shown, gap))
        for i, reason in enumerate(reasons_of(found), 1):
            console.print(Text(f"({i}) {reason}", style="dim"))
    _print_differences(console, found, shown)
    for one in found.likenesses:
        console.print(Text(likeness_said(one)))
    more = found.data.sizes["target"] - len(shown)
    if more > 0:
        profiles = "profile (another probe, or a measure" if more == 1 else "profiles (other probes, measures"
        verb = "is" if more == 1 else "are"
        console.print(Text(f"{more} further {profiles} without a target) {verb} in the report.", style="dim"))
    for why, names in by_reason(found.left_out).items():
        console.print(Text(f"left out: {', '.join(names)}: {why}", style="dim"))
    console.print(f"\nReport: {safe(str(report))}")


def _print_fitting(console: Console, build: Callable[[str], Table]) -> None:
    """A table whose numbers are never cut off: where it is too wide, intervals stand below their values."""
    table = build(" ")
    narrow = console.measure(table, options=console.options.update(max_width=1000)).maximum > console.width
    console.print(build("\n") if narrow else table)


def _broken(text: str, gap: str) -> str:
    """A value and its interval with that between them; on two lines there is nothing within an interval to break at."""
    if gap == "\n" and "[" in text:
        value, _, interval = text.partition(" [")
        text = f"{value}\n[{interval.replace(' ', '')}"
    return safe(text)


WORDS = ("best tap (depth)", "along the trunk")
"""Columns that may be folded, beside the first; those of numbers may not."""


def _grouped(*columns: str) -> Table:
    """A table whose first column holds a target, and below it the labels."""
    table = plain_table(*columns)
    for column in table.columns:
        column.no_wrap = column.header not in (columns[0], *WORDS)
    return table


def _standings(found: Comparison, shown: Sequence[str], gap: str) -> Table:
    table = _grouped("target and encoder", "best tap (depth)", "score", "output", "hidden gap")
    before = ""
    for one in found.standings:
        if one.profile not in shown:
            continue
        if one.profile != before:
            table.add_row(Text(target_said(found, one.profile), style="bold"))
        before = one.profile
        same = all(
            tap == side.run.store.output_tap
            for (tap, _), side in zip(one.best_taps, found.groups[one.group], strict=True)
        )
        numbers = [_text(one.best.interval), _text(one.output.interval)]
        numbers.append("0: the same tap" if same else interval_text(one.hidden_gap.interval))
        table.add_row(f"  {safe(one.group)}", safe(one.best_tap_said), *(_broken(text, gap) for text in numbers))
    return table


def _text(found: Interval) -> str:
    return interval_text(found).lstrip("+")


def _shares(found: Comparison, shown: Sequence[str], gap: str) -> Table:
    table = _grouped("alignment and target", "base's hidden gap", "recovered", "kept at best tap", "kept at output")
    before, reasons = "", reasons_of(found)
    for one in found.shares:
        if one.profile not in shown:
            continue
        if one.group != before:
            table.add_row(Text(alignment_said(one), style="bold"))
        before = one.group
        target = target_said(found, one.profile) + (", made for it" if one.purpose else "")
        numbers = [interval_text(one.gap), *shares_said(one, reasons)]
        table.add_row(f"  {safe(target)}", *(_broken(text, gap) for text in numbers))
    return table


def _print_differences(console: Console, found: Comparison, shown: Sequence[str]) -> None:
    rows = [row for row in differences_by_pair(found) if row.profile in shown]
    if not rows:
        return
    console.print(
        f"\nPaired differences, first minus second; * survives the correction for their number ({corrected_over(found)}). Along "
        "the trunk: where the curves of these trainings differ most, if it is shown that they do",
        markup=False,
    )
    if len(rows) > MOST_ROWS:
        kept = [row for row in rows if any(one.survives for one in row.differences) or row.curve.at is not None]
        which = "the first of those" if len(kept) > MOST_ROWS else "those"
        console.print(
            Text(f"{min(MOST_ROWS, len(kept))} of {len(rows)} rows, {which} that differ; all are in the report", "dim")
        )
        rows = kept[:MOST_ROWS]
    if rows:
        _print_fitting(console, lambda gap: _differences(found, rows, gap))


def _differences(found: Comparison, rows: Sequence[PairRow], gap: str) -> Table:
    table = _grouped("target, first - second", *QUANTITIES, "along the trunk")
    before = ""
    for row in rows:
        if row.profile != before:
            table.add_row(Text(target_said(found, row.profile), style="bold"))
        before = row.profile
        numbers = [difference_said(one) for one in row.differences]
        along = along_depth_said(row.curve)
        table.add_row(
            f"  {safe(row.first)} - {safe(row.second)}", *(_broken(text, gap) for text in numbers),
            safe(along.replace("; ", ";\n") if gap == "\n" else along),
        )  # fmt: skip
    return table
