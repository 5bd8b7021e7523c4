"""What can be done with runs that are finished: list them, write one as a table, open its report."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostics.errors import DiagnosticsError, enumerated
from diagnostics.report.escaping import printable

if TYPE_CHECKING:
    from diagnostics.report.page import Page
    from diagnostics.runs.run import Run

DEEPEST = 4
"""Levels of folders in which runs are looked for."""


def printed(show: Callable[[], None]) -> str:
    """What a function prints, as wide as a pipe."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        show()
    return text.getvalue()


def page_of(path: Path, margin: float | None) -> Page:
    """The page of a run: the one that lies there, unless another margin is asked for."""
    from diagnostics.runs.record import stored_page

    if margin is None and (page := stored_page(path)):
        return page
    from diagnostics.runs.page import run_page
    from diagnostics.runs.run import open_run

    return run_page(open_run(path, margin))


def current_report(run: Run) -> Path:
    """The report of a run, written where there is none or results are newer."""
    from diagnostics.activations.replacing import REPORT
    from diagnostics.activations.results import index_file

    report, results = map(run.store.folder.head, (REPORT, index_file(run.store)))
    return run.path / REPORT if report and results and report.st_mtime >= results.st_mtime else run.report()


def open_in_browser(path: Path) -> bool:
    """Shows a file in the browser; False where there is no display, and so none that would not take over the terminal."""
    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if sys.platform.startswith("linux") and not display:
        return False
    try:
        return webbrowser.open(path.resolve().as_uri())
    except webbrowser.Error:
        return False


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """A row for each run below a folder, and for each folder in it that holds none; raises where it is no folder."""
    if not folder.is_dir():
        raise DiagnosticsError(
            f"There is no folder {folder}: name the one in which your runs lie, or make a run (`diagnostics run --help`)."
        )
    if _is_run(folder):
        return [_row(folder)]
    rows: list[dict[str, Any]] = []
    for child in _folders(folder):
        found = list(_runs_below(child, DEEPEST))
        rows += [_row(path) for path in found] or [_named(child) | {"state": "not a run"}]
    return rows


def finished_runs(folders: list[Path]) -> tuple[list[Path], dict[str, str]]:
    """The finished runs that lie in folders or are these, each once, and of others why they are left out.

    Raises DiagnosticsError where none is finished.
    """
    rows = {row["run"]: row for folder in folders for row in list_runs(folder)}
    finished = [Path(name) for name, row in rows.items() if row["finished"]]
    left_out = {name: row["state"] for name, row in rows.items() if not row["finished"] and row["encoder"] is not None}
    if not finished:
        raise DiagnosticsError(
            f"There is no finished run in {enumerated(map(str, folders))}: `diagnostics runs` lists what a folder contains."
        )
    return finished, left_out


def _is_run(folder: Path) -> bool:
    from diagnostics.activations.folder import Folder
    from diagnostics.activations.store import is_run

    return is_run(Folder(folder))


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder but for hidden ones: runs that are made or removed lie in such."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _runs_below(folder: Path, levels: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif levels > 1 and not folder.is_symlink():
        for child in _folders(folder):
            yield from _runs_below(child, levels - 1)


def _named(path: Path) -> dict[str, Any]:
    """A row of which nothing is known but where it lies and how large it is."""
    unknown: dict[str, Any] = dict.fromkeys(("encoder", "dataset", "n", "measures", "when"))
    from diagnostics.activations.tokens import bytes_below

    return {"run": str(path), **unknown, "bytes": bytes_below(path), "token_bytes": None, "finished": False}


def _row(path: Path) -> dict[str, Any]:
    from diagnostics.activations.results import finished_index
    from diagnostics.activations.store import Store
    from diagnostics.activations.tokens import token_bytes
    from diagnostics.runs.record import Provenance

    row = _named(path)
    try:
        store = Store(path)
        record = Provenance.read(store)
        row |= {"encoder": record.encoder.name, "dataset": record.dataset.name, "n": sum(record.dataset.n.values())}
        row["token_bytes"] = token_bytes(store)
        index = finished_index(store)
    except DiagnosticsError as error:
        return row | {"state": str(error)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        # Whatever stands in a folder that only looks like a run.
        return row | {"state": f"{path} cannot be read ({type(error).__name__}): remove it or copy it again."}
    measures = {name.partition("/")[0] for name in index.names()}
    remarks = {", without tokens": store.tokens_removed, ", older, not resumed": store.older}
    return row | {
        "measures": len(measures), "when": index.calls[-1]["created"], "finished": True, "state": "finished" + "".join(remark for remark, true in remarks.items() if true),
    }  # fmt: skip


def print_runs(rows: list[dict[str, Any]], folder: Path) -> None:
    """Rows of `list_runs` as a table, and below it what is wrong with those that are none or not whole."""
    from diagnostics.progress import size
    from diagnostics.report.layout import show, show_table, terminal, whole

    console = terminal()
    runs = [row for row in rows if row["encoder"] is not None]
    if runs:
        cells = [
            [
                whole(row["run"]), whole(row["encoder"]), whole(row["dataset"]), str(row["n"]),
                "-" if row["measures"] is None else str(row["measures"]),
                "-" if row["when"] is None else whole(row["when"][:16].replace("T", " ")), whole(size(row["bytes"])),
                "-" if row["token_bytes"] is None else whole(size(row["token_bytes"])), "yes" if row["finished"] else "no",
            ]
            for row in runs
        ]  # fmt: skip
        show_table(console, ["run", "encoder", "dataset", "n", "measures", "when (UTC)", "size", "token size", "finished"], cells)  # fmt: skip
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
