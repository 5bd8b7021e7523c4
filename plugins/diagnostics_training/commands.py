"""`diagnostics train objectives`; importing it imports nothing heavy."""

from collections.abc import Mapping
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics import DiagnosticsError, printable
from diagnostics_training.next_steps import next_lines
from diagnostics_training.objectives import OBJECTIVES

Option = typer.Option


def train_objectives(
    data: Annotated[str, Option(help="A dataset, as of `diagnostics run`; only its train split is used.")],
    objective: Annotated[
        str,
        Option(help=f"{', '.join(OBJECTIVES)} (random: untrained), with commas; or all."),
    ] = "all",
    modality: Annotated[str | None, Option(help="series, image or video, to be sure [the data's].")] = None,
    seeds: Annotated[int, Option(help="How many trainings of each, with seeds from 0.")] = 1,
    out: Annotated[Path, Option("--out", "-o", help="Folder for models, each in a folder of its own.")] = Path(
        "models"
    ),
    steps: Annotated[int, Option(help="Of training.")] = 2000,
    batch: Annotated[int, Option(help="Samples in a step, over all processes.")] = 64,
    lr: Annotated[float, Option(help="Highest learning rate.")] = 1e-3,
    width: Annotated[int, Option(help="Features of a token.")] = 64,
    depth: Annotated[int, Option(help="Blocks.")] = 6,
    heads: Annotated[int, Option(help="Heads of attention.")] = 4,
    patch: Annotated[int | None, Option(help="Steps of a series [16], pixels along a side [8] in a patch.")] = None,
    likelihood: Annotated[
        str | None, Option(help="Of forecast: quantile [of series] or gaussian [of images and clips].")
    ] = None,
    positives: Annotated[str, Option(help="Of contrastive: views, or temporal (series only).")] = "views",
    regulariser: Annotated[str, Option(help="Of jepa: none, variance or sigreg.")] = "none",
    device: Annotated[str | None, Option(help="cpu, cuda, ... [cuda where there is one].")] = None,
    precision: Annotated[str, Option(help="Of the forward pass: float32 or bf16.")] = "float32",
    compile: Annotated[bool, Option("--compile", help="Compile the model with torch.")] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Train one backbone for several objectives on the same data, steps and optimiser; each is an encoder for `run`.

    The same command goes on with what was interrupted and leaves what is finished. Of simulated data named without n and seed
    (lorenz, shapes, ...) many fresh samples are drawn that `diagnostics run` does not show. Several processes:
    `torchrun --no-python --nproc-per-node N diagnostics train objectives ...`.

    \b
    Example:
      diagnostics train objectives --data lorenz --objective forecast,jepa
    """
    needs_timm()
    from diagnostics_training.train import Job, train

    job = Job(
        data, objective, modality, seeds, out, steps, batch, lr, width, depth, heads, patch, likelihood, positives,
        regulariser, device, precision, compile,
    )  # fmt: skip
    rows = train(job)
    if json and rows:
        print(to_json({"encoders": rows}, allow_nan=False))
    elif rows:
        _print_trained(rows)


def needs_timm() -> None:
    """Raises where what backbones are made of is missing."""
    import importlib.util

    if importlib.util.find_spec("timm") is None:
        raise DiagnosticsError("Encoders of objectives are made of timm's blocks: pip install timm.")


def _print_trained(rows: list[dict[str, Any]]) -> None:
    lines = [
        f"{row['path']}: {describe_loss(row, 'untrained')}{f'; {describe_collapse(row)}' if row['collapse'] else ''}"
        for row in rows
    ]
    for line in [*lines, *next_lines([row["path"] for row in rows], rows[0]["run_data"])]:
        print(printable(line))


def describe_loss(row: Mapping[str, Any], untrained: str) -> str:
    return untrained if row["loss"] is None else f"loss {row['loss']:.4g} after {row['steps']:,} steps"


def describe_collapse(row: Mapping[str, Any]) -> str:
    return f"BEWARE: its output collapsed ({row['collapse']})"
