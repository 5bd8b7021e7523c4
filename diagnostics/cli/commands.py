"""The bundled commands: each calls the library with the given options and prints tables or one JSON object.

One begins a plugin project from templates: an encoder, a dataset, and passing tests for both.

The options of `run` are declared in `diagnostics.runs.options`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import importlib.util
import io
import keyword
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any

import typer

import diagnostics
from diagnostics.cli.app import (
    CONFIG,
    MEASURE,
    OWN,
    RUNS,
    TYPED,
    EncoderName,
    Json,
    Quiet,
    RunFolder,
    Verbose,
    command,
    read_config,
    working,
)
from diagnostics.errors import DiagnosticsError, check_known, explaining, refuse_values
from diagnostics.options import Option
from diagnostics.progress import size
from diagnostics.report.escaping import printable
from diagnostics.runs.options import COST, DEVICES, HOW, SCREEN, Request, TrustCode
from diagnostics.vocabulary import Compute

if TYPE_CHECKING:
    from diagnostics.report.page import Page


@command(MEASURE, "diagnostics run fracast --data lorenz --measures linear_probe", Request)
def run(
    request: Request,
    context: typer.Context,
    on_error: Annotated[
        str | None, Option("What to do about a file that cannot be read [stop].", "stop|skip", group=HOW)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Read options from a file, including encoder and data; options on the command line take precedence.",
            callback=read_config,
            is_eager=True,
        ),
    ] = None,
    part: Annotated[
        str | None,
        Option(
            "Extract the share of launch I of N launches of this command (or auto), and measure nothing.",
            "I/N",
            group=COST,
        ),
    ] = None,
    full: Annotated[
        bool, Option("Print all sentences and tables of the report.", names=("--full",), group=SCREEN)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Extract an encoder's activations on a dataset, measure every tap, and write the report.

    The same command resumes an interrupted run. Earlier results of other measures and controls stay in the folder. The
    exit status is 1 if a measure failed; all other results are complete. With --part, several launches of the command
    extract a run together (status 3: one waits for others); the command without it then does what is missing. The
    folder `steps` of a training stands for all of its encoders: each gets a run, and they are compared.
    """
    from diagnostics.activations.parts import Launch
    from diagnostics.cli.encoders import measure_steps, requests_by_step
    from diagnostics.cli.tables import print_parts
    from diagnostics.report.terminal import print_page
    from diagnostics.runs.extraction import extract_parts
    from diagnostics.runs.job import perform
    from diagnostics.runs.pages.run import run_page
    from diagnostics.runs.results.record import record_command

    if on_error is not None:
        data = str(request.dataset)
        request = replace(request, dataset=f"{data}{'&' if '?' in data else '?'}on_error={on_error}")
    with working(quiet, verbose) as watch, record_command(context.meta.get(TYPED, ""), context.meta.get(CONFIG, {})):
        launch = None if part is None else Launch.of(part)
        if launch is None and (steps := requests_by_step(request)):
            finished = measure_steps(steps, watch)
        else:
            finished = perform(request, watch) if launch is None else extract_parts(request, launch, watch)
    if isinstance(finished, dict):
        print_json({"part": part, "stores": finished}) if json else print_parts(str(launch), finished)
        return
    if isinstance(finished, diagnostics.Run):
        page, path, made = functools.partial(run_page, finished), finished.path / "report.html", [finished]
    else:
        from diagnostics.runs.comparison.page import comparison_page

        page, path = functools.partial(comparison_page, finished), finished.default_path
        made = [member.run for member in finished.members]
    print_json(finished.to_json()) if json else print_page(page(), path, full=full)
    if failed := dict.fromkeys(name for each in made for name in each.failed):
        # Last, where a reader looks; the reasons stand among what is left out.
        where = sys.stderr if json else sys.stdout
        print(f"Failed, and left out: {', '.join(failed)}; all other results are kept.", file=where)
        raise typer.Exit(1)


@command(RUNS, "diagnostics report runs/fracast-lorenz -o fracast.html")
def report(
    run: RunFolder,
    out: Annotated[Path | None, Option("The HTML file [report.html in the run].", "FILE", ("--out", "-o"))] = None,
    json: Json = False,
) -> None:
    """Write the report of a finished run: one HTML file that needs no network."""
    with working():
        finished = diagnostics.open_run(run)
        path = finished.report(out)
    print_json(finished.to_json() | {"report": str(path)}) if json else print(printable(path))


@command(RUNS, "diagnostics compare fracast=runs/fracast-lorenz chronos=runs/chronos-lorenz")
def compare(
    runs: Annotated[list[str], Option("Folders of runs, or LABEL=FOLDER.", "RUN...", argument=True)],
    base: Annotated[
        str | None, Option("Label of the encoder from which the others were aligned [as recorded].", "LABEL")
    ] = None,
    similarity: Annotated[str, Option("Measure that compares pairs of taps, or none.", "NAME")] = "cka",
    out: Annotated[
        Path | None, Option("The HTML file [comparison-LABELS.html beside the first run].", "FILE", ("--out", "-o"))
    ] = None,
    seed: Annotated[int, Option("Seed of the bootstrap and the permutations.", "N")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs of several encoders on one dataset by relative depth, and write an HTML comparison.

    Runs with the same label are seeds of one training. If an alignment and the encoder that it started from are among
    the runs, the comparison shows what the alignment recovered and what it kept.
    """
    from diagnostics.report.terminal import print_page
    from diagnostics.runs.comparison.page import comparison_page

    with working(quiet, verbose) as watch:
        measure = None if similarity == "none" else similarity
        comparison = diagnostics.compare(runs, base=base, similarity=measure, seed=seed, watch=watch)
        path = comparison.report(out or comparison.default_path)
    print_json(comparison.to_json() | {"report": str(path)}) if json else print_page(comparison_page(comparison), path)


@command(MEASURE, "diagnostics inspect timm:resnet18 --data digits")
def inspect(
    encoder: EncoderName,
    data: Annotated[str | None, Option("Fit the grids to samples of this dataset.", "DATASET")] = None,
    device: Annotated[str | None, Option(DEVICES, "NAME")] = None,
    verify_grid: Annotated[
        bool, Option("Change single cells of the input and check which tokens change.", names=("--verify-grid",))
    ] = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Show an encoder's taps, their grids, and the cost of a sample, after one forward pass.

    The exit status is 1 if --verify-grid finds tokens in another order than declared.
    """
    from diagnostics.cli.encoders import inspect_encoder, print_inspection

    with working():
        inspected = inspect_encoder(encoder, data, device, verify=verify_grid, trust_code=trust_code)
    print_json(inspected) if json else print_inspection(inspected)
    if verify_grid and inspected["placement"]["right"] is False:
        raise typer.Exit(1)


@command(MEASURE, "diagnostics check my_encoder.py:build")
def check(
    encoder: EncoderName,
    data: Annotated[
        str | None, Option("Use samples of this dataset instead of the encoder's own example.", "DATASET")
    ] = None,
    trust_code: TrustCode = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check that an encoder is read correctly: order of taps, grids, identity and more, in about 15 forward passes.

    The exit status is 1 if a check fails.
    """
    from diagnostics.checks.conformance import check_encoder
    from diagnostics.cli.tables import print_conformance

    with working(quiet, verbose) as watch:
        conformance = check_encoder(encoder, data, watch, trust_code=trust_code)
    print_json(conformance.to_json()) if json else print_conformance(conformance)
    if conformance.failed:
        raise typer.Exit(1)


@command(OWN, "diagnostics cut timm:resnet18 --tap layer3.1 -o models/short", local="give a folder or a file")
def cut(
    encoder: EncoderName,
    tap: Annotated[str, Option("The tap that becomes the output, or several with commas: see `inspect`.", "NAMES")],
    out: Annotated[Path, Option("A folder, or a file whose name ends in .safetensors.", "FILE", ("--out", "-o"))],
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Save an encoder up to a tap: its forward pass ends there, and the weights of later layers are left out.

    The path of the folder or file is then the name of the cut encoder.
    """
    from diagnostics.cli.encoders import export, print_export

    with working():
        exported = export(encoder, tap, out, trust_code=trust_code)
    print_json(exported) if json else print_export(exported)


@command(OWN, "diagnostics features fracast --tap block.3 --data lorenz --out features/lorenz")
def features(
    encoder: EncoderName,
    data: Annotated[str, Option("The samples: a name or scheme:path, as for `run`.", "DATASET")],
    out: Annotated[Path, Option("Folder of the Parquet files.", "FOLDER", ("--out", "-o"))],
    tap: Annotated[str | None, Option("The tap to read [the output tap].", "NAME")] = None,
    pooling: Annotated[
        str | None, Option("How to pool tokens: mean, last, prefix, separated by commas [all].", "NAMES")
    ] = None,
    compute: Annotated[Compute, Option("Precision of the forward pass: float32, tf32 or bf16.", "NAME")] = "float32",
    device: Annotated[str | None, Option(DEVICES, "NAME")] = None,
    batch_size: Annotated[int | None, Option("Samples per forward pass [16; 128 on a GPU].", "N")] = None,
    workers: Annotated[int, Option("Processes that load and preprocess samples.", "N")] = 0,
    trust_code: TrustCode = False,
    part: Annotated[
        str | None, Option("Write the share of launch I of N launches of this command (or auto).", "I/N")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the features of one layer for any number of samples, as Parquet files.

    If the command is interrupted, the same command goes on after the last whole file.
    """
    from diagnostics.activations.features import write_features
    from diagnostics.activations.parts import Launch
    from diagnostics.specs import build

    with working(quiet, verbose) as watch:
        try:
            written = write_features(
                build("encoder", encoder, trust_code=trust_code),
                build("dataset", data),
                out,
                tap,
                None if pooling is None else [name.strip() for name in pooling.split(",")],
                batch_size=batch_size,
                workers=workers,
                device=device,
                compute=compute,
                launch=None if part is None else Launch.of(part),
                watch=watch,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"Interrupted; what is done is kept in {out}: give the same command again to continue."
            ) from None
    if json:
        print_json({"folder": str(out), **written})
    else:
        what = f"{written['features']:,} features of {written['samples']:,} samples at {written['tap']}"
        print(f"{printable(out)}: {what}\nNext: pandas.read_parquet({str(out)!r})")


@command(OWN, "diagnostics new-plugin my-plugin", name="new-plugin", local="give a folder")
def new_plugin(
    name: Annotated[str, Option("Name of the distribution, such as my-plugin.", "NAME", argument=True)],
    out: Annotated[
        Path, Option("Folder in which to create the folder of the project.", "FOLDER", ("--out", "-o"))
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a small plugin project: an encoder, a dataset, and passing tests for both."""

    with working():
        folder, files = write_plugin(name, out)
    if json:
        print_json({"folder": str(folder), "files": files})
    else:
        path = printable(shlex.quote(str(folder)))
        print(f"{printable(folder)}: {', '.join(files)}\nNext: pip install -e {path} pytest && python -m pytest {path}")


@command(MEASURE, "diagnostics list datasets", name="list")
def list_(
    what: Annotated[
        str | None,
        Option("What to list in full: encoders, datasets, measures or plugins.", "[WHAT]", argument=True),
    ] = None,
    json: Json = False,
) -> None:
    """List encoders, datasets, measures and plugins; a plugin that cannot be loaded is shown with its error."""
    from diagnostics.cli.tables import LISTED, list_all, print_list, print_overview

    check_known("list", what, LISTED)
    with working():
        rows = list_all()
    if json:
        print_json(rows if what is None else {what: rows[what]})
    else:
        print_list(what, rows[what]) if what else print_overview(rows)


@command(OWN, "diagnostics selftest --json")
def selftest(
    full: Annotated[bool, Option("Print every known answer with its source.", names=("--full",))] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Test the measures on this machine against known answers; the exit status is 1 if a result is wrong."""
    from diagnostics.checks.selftest import run_selftest
    from diagnostics.cli.tables import print_selftest

    with working(quiet, verbose) as watch:
        outcomes = run_selftest(watch)
    wrong = sum(not outcome.right for outcome in outcomes)
    if json:
        print_json({"cases": [outcome.to_json() for outcome in outcomes], "wrong": wrong})
    else:
        print_selftest(outcomes, full=full)
    if wrong:
        raise typer.Exit(1)


@command(RUNS, "diagnostics show runs/fracast-lorenz --csv -o scores.csv")
def show(
    run: RunFolder,
    full: Annotated[bool, Option("Print all sentences and tables of the report.", names=("--full",))] = False,
    margin: Annotated[
        float | None, Option("Smallest hidden gap that matters, in place of the run's own.", "GAP")
    ] = None,
    csv: Annotated[bool, Option("Print one row per score at a tap instead of a table.", names=("--csv",))] = False,
    json: Json = False,
    out: Annotated[Path | None, Option("Write to this file and print nothing.", "FILE", ("--out", "-o"))] = None,
) -> None:
    """Print a finished run again, or write its scores as a table for other programs.

    The CSV has one row for each measure, target and tap, including those of controls; the JSON is what `run --json`
    prints.
    """
    from diagnostics.report.terminal import print_page
    from diagnostics.report.writing import write_whole

    if csv + json + full > 1:
        raise DiagnosticsError("--full, --csv and --json are three forms of a run: give one of them.", code="bad-value")
    with working():
        if csv:
            table = diagnostics.open_run(run, margin).to_dataframe().to_csv(index=False)
            write = functools.partial(print, table, end="")
        elif json:
            write = functools.partial(print_json, diagnostics.open_run(run, margin).to_json())
        else:
            write = functools.partial(print_page, page_of(run, margin), run / "report.html", full=full)
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

    The picture is an SVG file beside the Markdown file; `.eval_results/` has the scores too. It prints the card's path.
    """
    from diagnostics.runs.pages.card import write_card

    with working():
        finished = diagnostics.open_run(run)
        path = write_card(finished, out or finished.path / "card.md")
    print(printable(path))


@command(RUNS, "diagnostics explore runs -o runs.html")
def explore(
    runs: Annotated[list[Path], Option("Folders of runs, or folders that contain runs.", "RUN...", argument=True)],
    out: Annotated[Path, Option("The HTML file.", "FILE", ("--out", "-o"))] = Path("explore.html"),
) -> None:
    """Show runs on one page that you can sort and filter: encoders, targets, best taps, outputs, gaps, controls.

    The page is one HTML file that needs no network, and links to the report of each run. The command prints its path.
    """
    from diagnostics.runs.pages.explorer import explore as write_explorer
    from diagnostics.runs.results.record import find_runs

    with working():
        paths, left_out = find_runs(runs)
        path = write_explorer(paths, left_out, out)
    print(printable(path))


@command(RUNS, "diagnostics choose runs/fracast-lorenz runs/fracast-arma")
def choose(
    runs: Annotated[list[Path] | None, Option("Folders of runs.", "[RUN...]", argument=True)] = None,
    seed: Annotated[int, Option("Seed of the resamples.", "N")] = 0,
    json: Json = False,
) -> None:
    """Advise which layer of an encoder to use for another target, and show what rules that choose one would have lost.

    Each rule chooses without test, and its regret is read on test. Without a run, the advice is that of a study of
    published scores.
    """
    from diagnostics.report.terminal import print_page

    with working():
        choice = diagnostics.choose(runs or (), seed)
    print_json(choice.to_json()) if json else print_page(choice.page, Path())


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
    from diagnostics.cli.tables import print_runs
    from diagnostics.runs.results.record import list_runs

    with working():
        rows = list_runs(folder)
    print_json({"folder": str(folder), "runs": rows}) if json else print_runs(rows, folder)


@command(RUNS, "diagnostics open runs/fracast-lorenz", name="open", local="give `diagnostics report -o FILE`")
def open_(run: RunFolder) -> None:
    """Open a run's report in the browser and print its path; if results are newer, the report is written again.

    Without a display, as on a server, the command only prints the path.
    """
    from diagnostics.activations.run_files import REPORT, index_file

    with working():
        finished = diagnostics.open_run(run)
        report, results = map(finished.store.folder.head, (REPORT, index_file(finished.store)))
        newest = report and results and report.st_mtime >= results.st_mtime
        path = run / REPORT if newest else finished.report()
        open_in_browser(path)
    print(printable(path))


@command(RUNS, "diagnostics clean runs/fracast-lorenz --tokens")
def clean(
    run: RunFolder,
    tokens: Annotated[
        bool, Option("Remove the stored tokens, including those of the controls.", names=("--tokens",))
    ] = False,
    force: Annotated[
        bool, Option("Also of a run of several launches (--part), of which none still works.", names=("--force",))
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
        raise DiagnosticsError(
            f"Nothing to remove is named: give `diagnostics clean {run} --tokens`.", code="missing-option"
        )
    with working():
        freed = remove_tokens(run, force)
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
    from diagnostics.runs.results.record import load_page

    if margin is None and (page := load_page(path)):
        return page
    from diagnostics.runs.pages.run import run_page

    return run_page(diagnostics.open_run(path, margin))


def open_in_browser(path: Any) -> None:
    """Show a file in the browser, if there is a display: without one, a browser would take over the terminal."""
    import webbrowser

    display = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    if display or not sys.platform.startswith("linux"):
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(path.resolve().as_uri())


def print_json(value: dict[str, Any]) -> None:
    """One object, the only line of a command's result."""
    import json

    print(json.dumps(value, allow_nan=False))


# The name of a distribution: https://packaging.python.org/en/latest/specifications/name-normalization/
_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def write_plugin(name: str, out: Path) -> tuple[Path, list[str]]:
    """Write the project into the folder `out`/`name`; returns that folder and the files in it.

    Raises DiagnosticsError where the name does not suit a distribution and a module, where a module of that name is
    installed, and where the folder exists. The write is atomic, and confined to the folder.
    """
    module = _module(name)
    folder = out / name
    refuse_values(
        (folder.exists(), f"{folder} is there already: choose another name or another --out.", "occupied"),
        (not out.is_dir(), f"There is no folder {out}: make it first, or choose another --out.", "missing-file"),
    )
    with explaining(f"{folder} cannot be written", "choose another --out", "unwritable", OSError):
        partial = out / f".{name}.{os.urandom(8).hex()}.partial"
        partial.mkdir()
        try:
            files = _write(partial, name, module)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder, files


def _module(name: str) -> str:
    """The name of the module for a distribution's name."""
    module = re.sub(r"[._-]+", "_", name).lower()
    if not _NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        raise DiagnosticsError(
            f"{name!r} cannot be the name of a plugin: start with a letter, continue with letters, "
            "digits, '-', '_' or '.', and do not use a keyword of Python.",
            code="bad-value",
        )
    if module == "tests" or importlib.util.find_spec(module) is not None:
        raise DiagnosticsError(
            f"A module {module} is there already, which {name!r} would hide: choose another name.", code="duplicate"
        )
    return module


def _write(folder: Path, name: str, module: str) -> list[str]:
    files: list[str] = []
    names = {"name": name, "module": module}
    for template in (importlib.resources.files("diagnostics.cli") / "templates").iterdir():
        # `tests~test_encoder.py.txt` becomes `tests/test_encoder.py`.
        path = Path(*template.name.removesuffix(".txt").replace("module", module).split("~"))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
        files.append(str(path))
    return sorted(files)
