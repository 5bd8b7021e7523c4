"""The bundled commands on finished runs: `show`, `card`, `explore`, `runs`, `open` and `clean`."""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import diagnostics
from diagnostics.cli.app import RUNS, Json, RunFolder, command, working
from diagnostics.cli.commands import print_json
from diagnostics.errors import DiagnosticsError
from diagnostics.options import Option
from diagnostics.progress import size
from diagnostics.report.escaping import printable

if TYPE_CHECKING:
    from diagnostics.report.page import Page
    from diagnostics.runs.run import Run


class Format(enum.StrEnum):
    """How `show` writes a run."""

    table = "table"
    csv = "csv"
    json = "json"


@command(RUNS, "diagnostics show runs/fracast-lorenz --format csv -o scores.csv")
def show(
    run: RunFolder,
    full: Annotated[bool, Option("Print all sentences and tables of the report.", names=("--full",))] = False,
    margin: Annotated[
        float | None, Option("Smallest hidden gap that matters, in place of the run's own.", "GAP")
    ] = None,
    format: Annotated[
        Format,
        Option("table: what `run` prints at its end; csv: one row per score at a tap; json: what `run --json` prints."),
    ] = Format.table,
    out: Annotated[Path | None, Option("Write to this file and print nothing.", "FILE", ("--out", "-o"))] = None,
) -> None:
    """Print a finished run again, or write its scores as a table for other programs.

    The table has one row for each measure, target and tap, including those of controls.
    """
    from diagnostics.report.terminal import print_page
    from diagnostics.report.writing import write_whole

    with working():
        if format == Format.table:
            write = functools.partial(print_page, page_of(run, margin), run / "report.html", full=full)
        else:
            finished = diagnostics.open_run(run, margin)
            if format == Format.csv:
                write = functools.partial(print, finished.to_dataframe().to_csv(index=False), end="")
            else:
                write = functools.partial(print_json, finished.to_json())
        if out is not None:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                write()
            write_whole(out, text.getvalue())
            return
    write()


@command(RUNS, "diagnostics card runs/fracast-lorenz -o model/layers.md")
def card(
    run: RunFolder,
    out: Annotated[Path | None, Option("The Markdown file [card.md in the run].", "FILE.md", ("--out", "-o"))] = None,
) -> None:
    """Write a section for a model card: the layer to use for each target, with a picture and `model-index` metadata.

    The picture is an SVG file beside the Markdown file. The command prints the path of the Markdown file.
    """
    from diagnostics.runs.answer import write_card

    with working():
        finished = diagnostics.open_run(run)
        path = write_card(finished, out or finished.path / "card.md")
    print(printable(path))


@command(RUNS, "diagnostics explore runs -o runs.html")
def explore(
    runs: Annotated[list[Path], Option("Folders of runs, or folders that contain runs.", "RUN...", argument=True)],
    out: Annotated[Path, Option("The HTML file.", "FILE", ("--out", "-o"))] = Path("explore.html"),
) -> None:
    """Show any number of runs on one page that you can sort and filter: encoders, targets, best taps, outputs, gaps,
    controls.

    The page is one HTML file that needs no network, and links to the report of each run. The command prints its path.
    """
    from diagnostics.runs.explorer import explore as write_explorer
    from diagnostics.runs.record import finished_runs

    with working():
        paths, left_out = finished_runs(runs)
        path = write_explorer(paths, left_out, out)
    print(printable(path))


@command(RUNS, "diagnostics runs runs")
def runs(
    folder: Annotated[Path, Option("Folder that contains runs, at most 4 levels down.", "DIR", argument=True)] = Path(
        "runs"
    ),
    json: Json = False,
) -> None:
    """List the runs below a folder: encoder, dataset, measures, time, size on disk, and whether the run is finished.

    Folders that are not runs, and damaged or interrupted runs, are listed with the reason.
    """
    from diagnostics.runs.record import list_runs

    with working():
        rows = list_runs(folder)
    print_json({"folder": str(folder), "runs": rows}) if json else print_runs(rows, folder)


@command(RUNS, "diagnostics open runs/fracast-lorenz", name="open")
def open_(run: RunFolder) -> None:
    """Open a run's report in the browser and print its path; if results are newer, the report is written again.

    Without a display, as on a server, the command only prints the path.
    """
    with working():
        path = current_report(diagnostics.open_run(run))
        open_in_browser(path)
    print(printable(path))


@command(RUNS, "diagnostics clean runs/fracast-lorenz --tokens")
def clean(
    run: RunFolder,
    tokens: Annotated[
        bool, Option("Remove the stored tokens, including those of the controls.", names=("--tokens",))
    ] = False,
    json: Json = False,
) -> None:
    """Free disk space that a run no longer needs; all results and pooled activations are kept.

    If a later `diagnostics run` needs tokens, it extracts them again and includes this in the cost that it prints.
    """
    from diagnostics.activations.run_files import remove_tokens
    from diagnostics.report.layout import show as show_text
    from diagnostics.report.layout import terminal, whole

    if not tokens:
        raise DiagnosticsError(f"Nothing to remove is named: give `diagnostics clean {run} --tokens`.")
    with working():
        freed = remove_tokens(run)
    if json:
        print_json({"run": str(run), "freed_bytes": freed})
    elif freed:
        show_text(
            terminal(), f"{whole(run)}: {size(freed)} of tokens removed; all results and pooled activations stay."
        )
    else:
        show_text(terminal(), f"{whole(run)}: it holds no tokens, so nothing was removed.")


def page_of(path: Path, margin: float | None) -> Page:
    """The page of a run: the one that lies there, unless another margin is asked for."""
    from diagnostics.runs.record import stored_page

    if margin is None and (page := stored_page(path)):
        return page
    from diagnostics.runs.page import run_page

    return run_page(diagnostics.open_run(path, margin))


def current_report(run: Run) -> Path:
    """The report of a run, written where there is none or results are newer."""
    from diagnostics.activations.run_files import REPORT, index_file

    report, results = map(run.store.folder.head, (REPORT, index_file(run.store)))
    return run.path / REPORT if report and results and report.st_mtime >= results.st_mtime else run.report()


def open_in_browser(path: Path) -> bool:
    """Shows a file in the browser; False where there is no display, and so none that would not take over the
    terminal.
    """
    import webbrowser

    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform.startswith("linux") and not display:
        return False
    try:
        return webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        return False


def print_runs(rows: list[dict[str, Any]], folder: Path) -> None:
    """Rows of `list_runs` as a table, and below it what is wrong with those that are none or not whole."""
    from diagnostics.report.layout import show, show_table, terminal, whole

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
