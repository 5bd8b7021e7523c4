"""The bundled commands: each calls the library with the given options and prints tables or one JSON object."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics.cli.config import CONFIG, read_config
from diagnostics.cli.guard import guarded, working
from diagnostics.cli.options import (
    TYPED,
    Command,
    Commands,
    EncoderName,
    Json,
    Quiet,
    RunFolder,
    TrustCode,
    Verbose,
    example,
    names_starting,
    option,
)
from diagnostics.errors import unknown
from diagnostics.report.escaping import printable

app = typer.Typer(
    help="Which layer of an encoder should I use for my task, and what does the output hide?",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MEASURE, RUNS, OWN = "to measure encoders", "for finished runs", "for your own encoders and plugins"
WHAT, HOW, COST, SCREEN = "What is measured", "Method", "Cost and disk", "Output"
DEVICES = "cpu, cuda, ... [cuda if there is a GPU]."

NOT_OF_RUN = ("context", "encoder", "data", "on_error", "config", "json", "full", "quiet", "verbose")
"""Parameters of the command `run`; its others are arguments of `diagnostics.run`, by the same names."""


@app.command(
    cls=Command,
    rich_help_panel=MEASURE,
    epilog=example("diagnostics run fracast --data lorenz --measures linear_probe"),
)
@guarded
def run(
    context: typer.Context,
    encoder: EncoderName,
    data: Annotated[
        str,
        option(
            "DATASET",
            "A name or scheme:path, with options as in 'lorenz?n=800&seed=3'; `diagnostics list datasets` shows names.",
            panel=WHAT,
            autocompletion=names_starting("dataset"),
        ),
    ],
    taps: Annotated[
        str | None,
        option("NAMES", "Taps to measure, separated by commas [all]; the output tap is always measured.", panel=WHAT),
    ] = None,
    measures: Annotated[str, option("NAMES", "standard, all, or names separated by commas.", panel=WHAT)] = "standard",
    controls: Annotated[
        bool, option(None, "Also measure controls (baselines), to judge the scores of the encoder.", panel=WHAT)
    ] = True,
    control_draws: Annotated[int, option("N", "Number of draws of fresh and permuted weights.", panel=WHAT)] = 1,
    control_measures: Annotated[
        str, option("probes|all", "Measure targets alone of controls with other weights, or everything.", panel=WHAT)
    ] = "probes",
    redraws: Annotated[
        int, option("N", "Number of other random splits on which probes are fitted again.", panel=WHAT)
    ] = 0,
    redraw_controls: Annotated[
        bool,
        option(None, "Fit all controls again on these splits, not only raw_input.", "--redraw-controls", panel=WHAT),
    ] = False,
    pooling: Annotated[
        str | None,
        option(
            "NAMES",
            "How to pool the tokens of a sample: mean, last, prefix, separated by commas [all that the encoder has].",
            panel=HOW,
        ),
    ] = None,
    choose_on: Annotated[
        str | None,
        option(
            "val|fit",
            "Choose layers on val, or out of fold on train and val [fit if both were drawn at random from one pool].",
            panel=HOW,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        option(
            "GAP", "Smallest hidden gap that matters [.05 of what lies between chance and the best score].", panel=HOW
        ),
    ] = None,
    seed: Annotated[int, option("N", "Seed of the controls and the bootstrap.", panel=HOW)] = 0,
    on_error: Annotated[
        str | None, option("stop|skip", "What to do about a file that cannot be read [stop].", panel=HOW)
    ] = None,
    trust_code: TrustCode = False,
    config: Annotated[
        Path | None,
        option(
            "FILE.toml",
            "Read options from a file, including encoder and data; options on the command line take precedence.",
            callback=read_config,
            is_eager=True,
        ),
    ] = None,
    device: Annotated[str | None, option("NAME", DEVICES, panel=COST)] = None,
    batch_size: Annotated[int | None, option("N", "Samples per forward pass [16; 128 on a GPU].", panel=COST)] = None,
    workers: Annotated[int, option("N", "Processes that load and preprocess samples.", panel=COST)] = 0,
    token_budget: Annotated[
        str | None,
        option(
            "SIZE",
            "Disk space for the tokens of each encoder, such as 256MB, 2GB or 0 [64 samples, up to 2GB, if a measure reads them].",
            panel=COST,
        ),
    ] = None,
    precision: Annotated[
        str, option("NAME", "Precision of stored tokens: float32 or float16.", panel=COST)
    ] = "float32",
    compute: Annotated[
        str, option("NAME", "Precision of the forward pass: float32, tf32 or bf16.", panel=COST)
    ] = "float32",
    attention: Annotated[
        str, option("KERNEL", "Attention kernel: auto, flash, cudnn, efficient or math.", panel=COST)
    ] = "auto",
    out: Annotated[
        Path | None, option("FOLDER", "Folder of the run [runs/ENCODER-DATASET].", "--out", "-o", panel=SCREEN)
    ] = None,
    fresh: Annotated[
        bool, option(None, "Discard earlier results in the folder instead of adding to them.", "--fresh", panel=SCREEN)
    ] = False,
    full: Annotated[
        bool, option(None, "Print all sentences and tables of the report.", "--full", panel=SCREEN)
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Extract an encoder's activations on a dataset, measure every tap, and write the report.

    The same command resumes an interrupted run. Earlier results of other measures and controls stay in the folder. The
    exit status is 1 if a measure failed; all other results are complete.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name not in NOT_OF_RUN}
    from diagnostics.report.terminal import print_page
    from diagnostics.runs.job import run as run_it
    from diagnostics.runs.page import run_page
    from diagnostics.runs.provenance import typed

    if on_error is not None:
        data += f"{'&' if '?' in data else '?'}on_error={on_error}"
    with working(quiet, verbose) as watch, typed(context.meta.get(TYPED, ""), context.meta.get(CONFIG, {})):
        finished = run_it(encoder, data, **options, watch=watch)
    if json:
        print_json(finished.to_json())
    else:
        print_page(run_page(finished), finished.path / "report.html", full=full)
    if finished.failed:
        # Last, where a reader looks; the reasons stand among what is left out.
        print(
            f"Failed, and left out: {', '.join(finished.failed)}; all other results are kept.",
            file=sys.stderr if json else sys.stdout,
        )
        raise typer.Exit(1)


@app.command(
    cls=Command, rich_help_panel=RUNS, epilog=example("diagnostics report runs/fracast-lorenz -o fracast.html")
)
@guarded
def report(
    run: RunFolder,
    out: Annotated[Path | None, option("FILE", "The HTML file [report.html in the run].", "--out", "-o")] = None,
    json: Json = False,
) -> None:
    """Write the report of a finished run: one HTML file that needs no network."""
    from diagnostics.runs.run import open_run

    with working():
        finished = open_run(run)
        path = finished.report(out)
    print_json(finished.to_json() | {"report": str(path)}) if json else print(printable(path))


@app.command(
    cls=Command,
    rich_help_panel=RUNS,
    epilog=example("diagnostics compare fracast=runs/fracast-lorenz chronos=runs/chronos-lorenz"),
)
@guarded
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs, or LABEL=FOLDER.")],
    base: Annotated[
        str | None, option("LABEL", "Label of the encoder from which the others were aligned [as recorded].")
    ] = None,
    similarity: Annotated[str, option("NAME", "Measure that compares pairs of taps, or none.")] = "cka",
    out: Annotated[
        Path | None, option("FILE", "The HTML file [comparison-LABELS.html beside the first run].", "--out", "-o")
    ] = None,
    seed: Annotated[int, option("N", "Seed of the bootstrap and the permutations.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs of several encoders on one dataset by relative depth, and write an HTML comparison.

    Runs with the same label are seeds of one training. If an alignment and the encoder that it started from are among
    the runs, the comparison shows what the alignment recovered and what it kept.
    """
    from diagnostics.report.terminal import print_page
    from diagnostics.runs.comparison import compare as compare_them
    from diagnostics.runs.comparison.page import comparison_page

    with working(quiet, verbose) as watch:
        measure = None if similarity == "none" else similarity
        comparison = compare_them(runs, base=base, similarity=measure, seed=seed, watch=watch)
        path = comparison.report(out or comparison.default_path)
    print_json(comparison.to_json() | {"report": str(path)}) if json else print_page(comparison_page(comparison), path)


@app.command(cls=Command, rich_help_panel=MEASURE, epilog=example("diagnostics inspect timm:resnet18 --data digits"))
@guarded
def inspect(
    encoder: EncoderName,
    data: Annotated[str | None, option("DATASET", "Fit the grids to samples of this dataset.")] = None,
    device: Annotated[str | None, option("NAME", DEVICES)] = None,
    verify_grid: Annotated[
        bool, option(None, "Change single cells of the input and check which tokens change.", "--verify-grid")
    ] = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Show an encoder's taps, their grids, and the cost of a sample, after one forward pass.

    The exit status is 1 if --verify-grid finds tokens in another order than declared.
    """
    from diagnostics.cli.inspection import inspect_encoder
    from diagnostics.cli.tables import print_inspection

    with working():
        inspected = inspect_encoder(encoder, data, device, verify=verify_grid, trust_code=trust_code)
    print_json(inspected) if json else print_inspection(inspected)
    if verify_grid and inspected["placement"]["right"] is False:
        raise typer.Exit(1)


@app.command(cls=Command, rich_help_panel=MEASURE, epilog=example("diagnostics check my_encoder.py:build"))
@guarded
def check(
    encoder: EncoderName,
    data: Annotated[
        str | None, option("DATASET", "Use samples of this dataset instead of the encoder's own example.")
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


@app.command(
    cls=Command, rich_help_panel=OWN, epilog=example("diagnostics cut timm:resnet18 --tap layer3.1 -o models/short")
)
@guarded
def cut(
    encoder: EncoderName,
    tap: Annotated[str, option("NAME", "The tap that becomes the output; `diagnostics inspect` shows all taps.")],
    out: Annotated[Path, option("FILE", "A folder, or a file whose name ends in .safetensors.", "--out", "-o")],
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Save an encoder up to a tap: its forward pass ends there, and the weights of later layers are left out.

    The path of the folder or file is then the name of the cut encoder.
    """
    from diagnostics.cli.cut import export

    with working():
        exported = export(encoder, tap, out, trust_code=trust_code)
    print_json(exported.to_json()) if json else print(exported)


@app.command("new-plugin", cls=Command, rich_help_panel=OWN, epilog=example("diagnostics new-plugin my-plugin"))
@guarded
def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the distribution, such as my-plugin.")],
    out: Annotated[
        Path, option("FOLDER", "Folder in which to create the folder of the project.", "--out", "-o")
    ] = Path(),
    json: Json = False,
) -> None:
    """Write a small plugin project: an encoder, a dataset, and passing tests for both."""
    from diagnostics.cli.scaffold import write_plugin

    with working():
        folder, files = write_plugin(name, out)
    if json:
        print_json({"folder": str(folder), "files": files})
    else:
        path = printable(shlex.quote(str(folder)))
        print(f"{printable(folder)}: {', '.join(files)}\nNext: pip install -e {path} pytest && python -m pytest {path}")


@app.command("list", cls=Command, rich_help_panel=MEASURE, epilog=example("diagnostics list datasets"))
@guarded
def list_(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[WHAT]", help="What to list in full: encoders, datasets, measures or plugins."),
    ] = None,
    json: Json = False,
) -> None:
    """List encoders, datasets, measures and plugins; a plugin that cannot be loaded is shown with its error."""
    from diagnostics.cli.listing import LISTED, list_all, print_list, print_overview

    if what is not None and what not in LISTED:
        raise unknown("list", what, LISTED)
    with working():
        rows = list_all()
    if json:
        print_json(rows if what is None else {what: rows[what]})
    else:
        print_list(what, rows[what]) if what else print_overview(rows)


@app.command(cls=Command, rich_help_panel=OWN, epilog=example("diagnostics selftest --json"))
@guarded
def selftest(
    full: Annotated[bool, option(None, "Print every known answer with its source.", "--full")] = False,
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


def print_json(value: dict[str, Any]) -> None:
    """One object, the only line of a command's result."""
    import json

    print(json.dumps(value, allow_nan=False))
