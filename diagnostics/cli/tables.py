"""What people see in a terminal: the tables of a run, an encoder, its checks, and the known answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from diagnostics.measures.statistics import Interval
from diagnostics.progress import duration, size
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole
from diagnostics.runs.controls import kinds as control
from diagnostics.runs.profile import INTERVALS, Profile, control_heading, lines_shown, similarity_said
from diagnostics.runs.run import Run

if TYPE_CHECKING:
    from diagnostics.checks.conformance import Conformance
    from diagnostics.checks.selftest import Outcome


def print_run(run: Run) -> None:
    """Best taps, output, hidden gap and controls of every target; then what needs no target; then where the report is."""
    console = terminal()
    profiles = run.profiles()
    probes = [p for p in profiles if p.is_probe]
    others = [p for p in profiles if not p.is_probe]
    n = run.n
    groups = run.store.attrs["dataset"]["groups"]
    units = f" (samples of {groups} independent groups)" if groups != sum(n.values()) else ""
    show(
        console,
        f"{whole(run.encoder)} on {whole(run.dataset)}, n = {n['train']} train, {n['val']} val, {n['test']} test{units}",
        "bold",
    )
    if run.untrained:
        show(console, printable(run.untrained), "yellow")
    if probes:
        show(console, f"Best tap chosen on val, scores read on test; {INTERVALS}")
        _print_probes(console, probes)
        for p in probes:
            show(console, f"{_named(p)}: {printable(p.reading)}", "dim", hanging=2)
        if any(p.controls for p in probes):
            _print_controls(console, probes)
            for name, found in run.redrawn.items():
                if found["note"]:
                    show(console, printable(f"{name.replace('_', ' ')}: {found['note']}"), "dim", hanging=2)
    if others:
        _print_others(console, others)
    for caution in dict.fromkeys(caution for p in profiles for caution in p.cautions):
        show(console, f"Beware: {printable(caution)}.", "yellow")
    for alike in run.similarity():
        show(console, printable(similarity_said(alike)), hanging=2)
    print_left_out(console, run.skipped)
    show(console, "")
    show(console, f"Report: {whole(run.path / 'report.html')}")


def print_left_out(console: Console, skipped: Mapping[str, str]) -> None:
    """What was left out, by why: equal reasons once."""
    by_reason: dict[str, list[str]] = {}
    for what, why in skipped.items():
        by_reason.setdefault(why, []).append(whole(what))
    for why, names in by_reason.items():
        show(console, f"left out: {', '.join(names)}: {printable(why)}", "dim", hanging=2)


def _print_probes(console: Console, probes: list[Profile]) -> None:
    rows = [
        [
            _named(p),
            whole(p.family),
            f"{whole(p.best_tap)} ({p.depth_of(p.best_tap):.2f})" if p.best_tap else "none",
            format_interval(p.best),
            format_interval(p.output),
            format_interval(p.hidden_gap, signed=True),
        ]
        for p in probes
    ]
    show_table(console, ["target", "family", "best tap (depth)", "score", "output", "hidden gap"], rows)


def _named(p: Profile) -> str:
    """The target, with what was scored."""
    probe = "" if p.measure == "linear_probe" or not p.target else f"{whole(p.measure)} "
    return f"{whole(p.target or p.measure)} ({probe}{printable(p.data.attrs['score_name'])})"


def _print_controls(console: Console, probes: list[Profile]) -> None:
    names = [name for name in control.NAMES if any(name in p.controls for p in probes)]
    rows = [[_named(p), _value(p.best), *(_control_value(p, name) for name in names)] for p in probes]
    columns = ["controls: the best they reach", "the encoder", *(control_heading(name, probes) for name in names)]
    show_table(console, columns, rows)


def _print_others(console: Console, others: list[Profile]) -> None:
    rows: list[list[str]] = []
    for p in others:
        score = p.data["score"].values
        known = np.isfinite(score).any()
        smallest, largest = (
            (f"{score[i]:.3g} at {whole(p.taps[i])}" for i in (int(np.nanargmin(score)), int(np.nanargmax(score))))
            if known
            else ("none", "none")
        )
        rows.append(
            [
                whole(p.measure), whole(p.family), smallest, largest, format_interval(p.output, digits=3),
                _control_value(p, "fresh_weights", digits=3),
                ", ".join(whole(line) for line in lines_shown(p).split(", ")),
            ]
        )  # fmt: skip
    show_table(
        console,
        [
            "measure without target",
            "family",
            "smallest",
            "largest",
            "output",
            control_heading("fresh_weights", others, chosen=False),
            "lines at output",
        ],
        rows,
    )


def format_interval(estimate: Interval | None, *, signed: bool = False, digits: int | None = None) -> str:
    """A value with its interval."""
    if estimate is None or estimate.value != estimate.value:
        return "none"
    value, low, high = (_number(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    value = f"+{value}" if signed and not value.startswith("-") else value
    return value if estimate.low != estimate.low else f"{value} [{low}, {high}]"


def _value(estimate: Interval | None, digits: int | None = None) -> str:
    if estimate is None or estimate.value != estimate.value:
        return "-"
    return _number(estimate.value, digits)


def _control_value(profile: Profile, name: str, digits: int | None = None) -> str:
    """What a control reaches, and of several draws the smallest and the largest."""
    said, spread = _value(profile.control(name), digits), profile.spread(name)
    return f"{said} ({' to '.join(_number(value, digits) for value in spread)})" if spread else said


def _number(value: float, digits: int | None) -> str:
    # The score of a fit gone wrong may be -1e100, which is a line long with three decimals.
    return f"{value:.{digits}g}" if digits else f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3e}"


def print_inspection(inspected: dict[str, Any]) -> None:
    """An encoder's taps, and what a sample costs."""
    console = terminal()
    parameters = f", {inspected['parameters']:,} parameters" if inspected["parameters"] else ""
    show(console, f"{whole(inspected['encoder'])}: {inspected['modality']}{parameters}", "bold")
    rows: list[list[str]] = []
    for tap in inspected["taps"]:
        cells = " x ".join(f"{n} {axis}" for n, axis in zip(tap["grid"], tap["axes"], strict=True))
        prefix = f" + {tap['prefix']} prefix" if tap["prefix"] else ""
        # One token stands for the whole sample, and not for a place in it.
        grid = "-" if not prefix and set(tap["grid"]) == {1} else cells + prefix
        mark = " (output)" if tap["name"] == inspected["output_tap"] else ""
        rows.append(
            [
                whole(tap["name"]) + mark, f"{tap['depth']:.2f}", printable(tap["part"]), str(tap["features"]),
                printable(grid), printable(tap["read"]),
            ]
        )  # fmt: skip
    show_table(console, ["tap", "depth", "part", "features", "grid", "read"], rows)
    configuration = inspected["identity"].get("configuration", "").removeprefix(inspected["encoder"]).strip()
    if configuration:
        show(console, f"Configuration: {printable(configuration)}.")
    lineage = inspected["lineage"]
    if how := lineage.get("how"):
        on = f", on {lineage['data']}" if lineage.get("data") else ""
        show(console, f"Made by: {printable(f'{how}{on}')}.")
    show(
        console,
        f"A sample takes {inspected['seconds_per_sample'] * 1e3:.1f} ms; it leaves "
        f"{size(inspected['pooled_bytes_per_sample'])} pooled ({' and '.join(inspected['pooling'])}) and "
        f"{size(inspected['token_bytes_per_sample'])} of tokens; 1,000 samples take about "
        f"{duration(inspected['seconds_per_sample'] * 1000)}.",
    )
    if placement := inspected.get("placement"):
        verdict, style = {True: ("right", "green"), False: ("WRONG", "bold red"), None: ("not verified", "")}[
            placement["right"]
        ]
        show(console, f"Grid {verdict}: {printable(placement['said'])}.", style)
        if placement.get("prefix_moved"):
            show(console, "Prefix tokens moved too: this tap has seen them mixed.")


def print_conformance(conformance: Conformance) -> None:
    """Each check with its verdict and what was found; those that failed stand in red."""
    console = terminal()
    shown = {"ok": ("ok", "green"), "failed": ("FAILED", "bold red"), "not applicable": ("-", "dim")}
    rows: list[list[str | Text]] = []
    for outcome in conformance.outcomes:
        verdict, style = shown[outcome.verdict]
        prose = Text(printable(outcome.said), style="dim" if outcome.verdict == "not applicable" else "")
        rows.append([whole(outcome.check), Text(verdict, style), prose])
    show_table(console, ["check", "verdict", "found"], rows)
    passed = sum(outcome.verdict == "ok" for outcome in conformance.outcomes)
    idle = len(conformance.outcomes) - passed - conformance.failed
    show(
        console,
        f"{whole(conformance.encoder)}: {passed} ok, {conformance.failed} failed, {idle} not applicable, "
        f"from {conformance.passes} forward passes in {conformance.seconds:.1f} s.",
    )


def print_selftest(outcomes: list[Outcome]) -> None:
    """Every known answer with what came out and how near it must be, and how many are right, by family of measures."""
    console = terminal()
    rows: list[list[str | Text]] = []
    for outcome in outcomes:
        case = outcome.case
        rows.append(
            [
                whole(case.measure), printable(case.what), f"{case.expected:.6g}", f"{case.tolerance:.2g}",
                printable(outcome.error) if outcome.error else f"{outcome.found:.6g}",
                Text("right", "green") if outcome.right else Text("OFF", "bold red"), printable(case.source),
            ]
        )  # fmt: skip
    show_table(console, ["measure", "known answer", "expected", "within", "found", "verdict", "source"], rows)
    families = {
        family: [o.right for o in outcomes if o.family == family]
        for family in dict.fromkeys(o.family for o in outcomes)
    }
    show(console, ", ".join(f"{family} {sum(right)} of {len(right)} right" for family, right in families.items()) + ".")
    wrong = [outcome for outcome in outcomes if not outcome.right]
    for outcome in wrong:
        # Again below the table, where a reader who scrolled past looks.
        instead = outcome.error or f"found {outcome.found:.9g}"
        show(
            console,
            f"OFF  {outcome.case.measure}, {printable(outcome.case.what)}: expected {outcome.case.expected:.9g} "
            f"within {outcome.case.tolerance:g}, {printable(instead)}",
            "bold red",
            hanging=2,
        )
    off = f", {len(wrong)} off: please report them with the output of `diagnostics selftest --json`" if wrong else ""
    show(console, f"{len(outcomes)} known answers, {len(outcomes) - len(wrong)} right{off}.")
