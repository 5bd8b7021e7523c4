"""What people see in a terminal: tables on stdout, cost and progress on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from diagnostics import controls as control
from diagnostics.profiles import Profile, lines_shown, similarity_said
from diagnostics.progress import Cost, Progress, Watch, duration, size
from diagnostics.runs import Run
from diagnostics.statistics import Interval

if TYPE_CHECKING:
    from diagnostics.conformance import Conformance
    from diagnostics.selftest import Outcome

# Columns of a table need room even where the output is a file or a pipe.
PIPE_WIDTH = 140
# Without a terminal, progress is a line now and then.
LINE_EVERY = 10.0


def terminal() -> Console:
    """The console that tables go to, wide enough where it is a file or a pipe."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


@contextlib.contextmanager
def watcher() -> Generator[Watch]:
    """Progress bars in a terminal, a line every ten seconds elsewhere; both on stderr."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def watch(event: Cost | Progress) -> None:
            if isinstance(event, Cost):
                console.print(str(event))
                return
            if event.step not in tasks:
                tasks[event.step] = bars.add_task(event.step, total=event.total)
            said = f"{event.step}: {event.now}" if event.now else event.step
            bars.update(tasks[event.step], completed=event.done, visible=event.done < event.total, description=said)

        yield watch


def _lines() -> Watch:
    said = time.monotonic()

    def watch(event: Cost | Progress) -> None:
        nonlocal said
        if isinstance(event, Cost):
            print(event, file=sys.stderr, flush=True)
        elif time.monotonic() - said > LINE_EVERY:
            said = time.monotonic()
            now = f", now {event.now}" if event.now else ""
            print(f"{event.step}: {event.done} of {event.total}{now}", file=sys.stderr, flush=True)

    return watch


def print_run(run: Run) -> None:
    """Best taps, output, hidden gap and controls of every target; then what needs no target; then where the report is."""
    console = terminal()
    profiles = run.profiles()
    probes = [p for p in profiles if p.is_probe]
    others = [p for p in profiles if not p.is_probe]
    n = run.n
    groups = run.store.attrs["dataset"]["groups"]
    units = f" (samples of {groups} independent groups)" if groups != sum(n.values()) else ""
    console.print(
        f"[bold]{safe(run.encoder)}[/bold] on [bold]{safe(run.dataset)}[/bold], n = {n['train']} train, {n['val']} val, "
        f"{n['test']} test{units}"
    )
    if run.untrained:
        console.print(Text(run.untrained, style="yellow"))
    if probes:
        console.print(
            "Best tap chosen on val, scores read on test, 95 % intervals over independent units, cut at no bound but 1"
        )
        console.print(_probe_table(probes))
        for p in probes:
            console.print(Text(f"{_named(p)}: {p.reading}", style="dim"))
        for caution in dict.fromkeys(caution for p in probes for caution in p.cautions):
            console.print(Text(f"Beware: {caution}.", style="yellow"))
        if any(p.controls for p in probes):
            console.print(_control_table(probes))
    if others:
        console.print(_other_table(others))
    for found in run.similarity():
        console.print(Text(similarity_said(found)))
    for why, names in by_reason(run.skipped).items():
        console.print(Text(f"left out: {', '.join(names)}: {why}", style="dim"))
    console.print(f"\nReport: {safe(str(run.path / 'report.html'))}")


def by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    """What was left out by why: equal reasons once."""
    found: dict[str, list[str]] = {}
    for what, why in skipped.items():
        found.setdefault(why, []).append(what)
    return found


def _probe_table(probes: list[Profile]) -> Table:
    table = plain_table("target", "family", "best tap (depth)", "score", "output", "hidden gap")
    for p in probes:
        best = f"{p.best_tap} ({p.depth_of(p.best_tap):.2f})" if p.best_tap else "none"
        table.add_row(
            _named(p),
            p.family,
            safe(best),
            interval_said(p.best),
            interval_said(p.output),
            interval_said(p.hidden_gap, signed=True),
        )
    return table


def _named(p: Profile) -> str:
    """The target, with what was scored."""
    probe = "" if p.measure == "linear_probe" or not p.target else f"{p.measure} "
    return f"{safe(p.target or p.measure)} ({probe}{p.data.attrs['score_name']})"


def _control_table(probes: list[Profile]) -> Table:
    names = [name for name in control.NAMES if any(name in p.controls for p in probes)]
    table = plain_table("controls: the best they reach", "the encoder", *(name.replace("_", " ") for name in names))
    for p in probes:
        table.add_row(_named(p), _value(p.best), *(_value(p.control(name)) for name in names))
    return table


def _other_table(others: list[Profile]) -> Table:
    table = plain_table(
        "measure without target", "family", "smallest", "largest", "output", "fresh weights", "lines at output"
    )
    table.columns[0].no_wrap, table.columns[-1].no_wrap = True, False
    for p in others:
        score = p.data["score"].values
        known = np.isfinite(score).any()
        smallest, largest = (
            (f"{score[i]:.3g} at {p.taps[i]}" for i in (int(np.nanargmin(score)), int(np.nanargmax(score))))
            if known
            else ("none", "none")
        )
        table.add_row(
            p.measure, p.family, safe(smallest), safe(largest), interval_said(p.output, digits=3),
            _value(p.control("fresh_weights"), digits=3), safe(lines_shown(p)),
        )  # fmt: skip
    return table


def plain_table(*columns: str, prose: bool = False) -> Table:
    """A table without lines; cells of all columns but the first stay on one line unless it holds `prose`."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=i > 0 and not prose)
    return table


def interval_said(found: Interval | None, *, signed: bool = False, digits: int | None = None) -> str:
    """A value with its interval, safe for rich."""
    if found is None or found.value != found.value:
        return "none"
    if found.low != found.low:
        return f"{found.value:.{digits}g}" if digits else f"{found.value:.3f}"
    if digits:
        return f"{found.value:.{digits}g} \\[{found.low:.{digits}g}, {found.high:.{digits}g}]"
    value = f"{found.value:+.3f}" if signed else f"{found.value:.3f}"
    return f"{value} \\[{found.low:.3f}, {found.high:.3f}]"


def _value(found: Interval | None, digits: int = 0) -> str:
    if found is None or found.value != found.value:
        return "-"
    return f"{found.value:.{digits}g}" if digits else f"{found.value:.3f}"


def safe(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", "\\[")


def print_inspection(found: dict[str, Any]) -> None:
    """An encoder's taps, and what a sample costs."""
    console = terminal()
    parameters = f", {found['parameters']:,} parameters" if found["parameters"] else ""
    console.print(f"[bold]{safe(found['encoder'])}[/bold]: {found['modality']}{parameters}")
    table = plain_table("tap", "depth", "part", "features", "grid", "read")
    for tap in found["taps"]:
        cells = " x ".join(f"{n} {axis}" for n, axis in zip(tap["grid"], tap["axes"], strict=True))
        prefix = f" + {tap['prefix']} prefix" if tap["prefix"] else ""
        # One token stands for the whole sample, and not for a place in it.
        grid = "-" if not prefix and set(tap["grid"]) == {1} else cells + prefix
        mark = " (output)" if tap["name"] == found["output_tap"] else ""
        table.add_row(tap["name"] + mark, f"{tap['depth']:.2f}", tap["part"], str(tap["features"]), grid, tap["read"])
    console.print(table)
    configuration = found["identity"].get("configuration", "").removeprefix(found["encoder"]).strip()
    if configuration:
        console.print(f"Configuration: {safe(configuration)}.")
    lineage = found["lineage"]
    if how := lineage.get("how"):
        on = f", on {lineage['data']}" if lineage.get("data") else ""
        console.print(f"Made by: {safe(str(how) + on)}.")
    console.print(
        f"A sample takes {found['seconds_per_sample'] * 1e3:.1f} ms; it leaves "
        f"{size(found['pooled_bytes_per_sample'])} pooled ({' and '.join(found['pooling'])}) and "
        f"{size(found['token_bytes_per_sample'])} of tokens; 1,000 samples take about "
        f"{duration(found['seconds_per_sample'] * 1000)}."
    )

    if placement := found.get("placement"):
        verdict = {True: "[green]right[/]", False: "[bold red]WRONG[/]", None: "not verified"}[placement["right"]]
        console.print(f"Grid {verdict}: {safe(placement['said'])}.")
        if placement.get("prefix_moved"):
            console.print("Prefix tokens moved too: this tap has seen them mixed.")


def print_conformance(found: Conformance) -> None:
    """Each check with its verdict and what was found; those that failed stand in red."""
    console = terminal()
    style = {"ok": "green", "failed": "bold red", "not applicable": "dim"}
    table = plain_table("check", "", "found", prose=True)
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for outcome in found.outcomes:
        verdict = "FAILED" if outcome.verdict == "failed" else "-" if outcome.verdict != "ok" else "ok"
        said = Text(outcome.said, style="" if outcome.verdict != "not applicable" else "dim")
        table.add_row(outcome.check, Text(verdict, style=style[outcome.verdict]), said)
    console.print(table)
    passed = sum(outcome.verdict == "ok" for outcome in found.outcomes)
    idle = len(found.outcomes) - passed - found.failed
    console.print(
        f"{found.encoder}: {passed} ok, {found.failed} failed, {idle} not applicable, "
        f"from {found.passes} forward passes in {found.seconds:.1f} s.",
        markup=False,
    )


def print_list(rows: dict[str, list[dict[str, Any]]]) -> None:
    """What plugins offer."""
    console = terminal()
    for what, found in rows.items():
        if what in ("encoders", "datasets"):
            table = plain_table(what, "options", "plugin", prose=True)
            for row in found:
                name = row["name"] + row["takes"].upper()
                options = ", ".join(f"{key}={value}" for key, value in row["options"].items())
                table.add_row(safe(name), safe(options), safe(row["plugin"]))
            if what == "encoders":
                table.add_row("path/to/file.py:function", "", "your own file")
        elif what == "measures":
            _print_measures(console, found)
            continue
        else:
            table = plain_table("plugins", "version", "module", "offers", prose=True)
            for row in found:
                offers = "; ".join(f"{what}s: {', '.join(names)}" for what, names in row["offers"].items())
                table.add_row(
                    safe(row["name"]),
                    row["version"],
                    row["module"],
                    safe((row["error"] and f"not loaded: {row['error']}") or offers),
                )
        console.print(table)
        console.print()


def _print_measures(console: Console, rows: list[dict[str, Any]]) -> None:
    """Name and question of each measure, and below it what it needs and where it is defined."""
    for standard, title in ((True, "standard: what a run measures"), (False, "all: what --measures adds")):
        console.print(f"[bold]measures, {title}[/bold]")
        for row in (row for row in rows if row["standard"] is standard):
            needs = f"{row['needs']}; target {', '.join(row['targets'])}" if row["targets"] else row["needs"]
            grid = Table.grid(padding=(0, 2))
            grid.add_column(width=22, no_wrap=True)
            grid.add_column()
            grid.add_row(safe(row["name"]), safe(row["answers"]))
            grid.add_row("", Text(f"{needs}. {row['source']}", style="dim"))
            console.print(grid)
        console.print()


def print_selftest(outcomes: list[Outcome]) -> None:
    """Every known answer with what came out and how near it must be, and how many are right, by family of measures."""
    console = terminal()
    table = plain_table("measure", "known answer", "expected", "within", "found", "", "source", prose=True)
    for outcome in outcomes:
        case = outcome.case
        table.add_row(
            case.measure, safe(case.what), f"{case.expected:.6g}", f"{case.tolerance:.2g}",
            safe(outcome.error) if outcome.error else f"{outcome.found:.6g}",
            Text("right", style="green") if outcome.right else Text("OFF", style="bold red"), safe(case.source),
        )  # fmt: skip
    console.print(table)
    families = {
        family: [o.right for o in outcomes if o.family == family]
        for family in dict.fromkeys(o.family for o in outcomes)
    }
    console.print(", ".join(f"{family} {sum(right)} of {len(right)} right" for family, right in families.items()) + ".")
    wrong = [outcome for outcome in outcomes if not outcome.right]
    for outcome in wrong:
        # Again below the table, where a reader who scrolled past looks.
        found = outcome.error or f"found {outcome.found:.9g}"
        console.print(
            f"[bold red]OFF[/]  {outcome.case.measure}, {safe(outcome.case.what)}: expected {outcome.case.expected:.9g} "
            f"within {outcome.case.tolerance:g}, {safe(found)}"
        )
    console.print(
        f"{len(outcomes)} known answers, {len(outcomes) - len(wrong)} right"
        + (
            f", {len(wrong)} off: please report them with the output of `diagnostics selftest --json`."
            if wrong
            else "."
        )
    )
