"""`diagnostics train objectives`; importing it imports nothing heavy."""

from collections.abc import Mapping
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics.plugin import DiagnosticsError, printable
from diagnostics_training.next_steps import next_lines
from diagnostics_training.objectives import OBJECTIVES
from diagnostics_training.options import (
    WHAT,
    Accumulate,
    Attention,
    Batch,
    Clip,
    Compile,
    Cooldown,
    Device,
    LearningRate,
    Optimiser,
    Precision,
    Recompute,
    Schedule,
    Steps,
    Warmup,
    WatchAttention,
    Workers,
)

Option = typer.Option


def train_objectives(
    data: Annotated[
        str, Option(help="A dataset, as for `diagnostics run`; only its train split is used.", rich_help_panel=WHAT)
    ],
    objective: Annotated[
        str,
        Option(
            help=f"Objectives separated by commas, or all: {', '.join(OBJECTIVES)}; random is untrained.",
            rich_help_panel=WHAT,
        ),
    ] = "all",
    modality: Annotated[
        str | None,
        Option(help="series, image or video: refuse data of another modality [the data's].", rich_help_panel=WHAT),
    ] = None,
    seeds: Annotated[
        int, Option(help="Number of trainings per objective, with seeds from 0.", rich_help_panel=WHAT)
    ] = 1,
    out: Annotated[Path, Option("--out", "-o", help="Folder of the models, each in its own subfolder.")] = Path(
        "models"
    ),
    steps: Steps = 2000,
    batch: Batch = 64,
    lr: LearningRate = 1e-3,
    optimiser: Optimiser = "adamw",
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.1,
    cooldown: Cooldown = 0.0,
    clip: Clip = 1.0,
    width: Annotated[int, Option(help="Features per token.", rich_help_panel=WHAT)] = 64,
    depth: Annotated[int, Option(help="Number of blocks.", rich_help_panel=WHAT)] = 6,
    heads: Annotated[int, Option(help="Attention heads per block.", rich_help_panel=WHAT)] = 4,
    patch: Annotated[
        int | None,
        Option(
            help="Patch size: steps of a series [16], or pixels along each side of an image [8].", rich_help_panel=WHAT
        ),
    ] = None,
    likelihood: Annotated[
        str | None,
        Option(help="For forecast: quantile [for series] or gaussian [for images and clips].", rich_help_panel=WHAT),
    ] = None,
    positives: Annotated[
        str, Option(help="For contrastive: views, or temporal (series only).", rich_help_panel=WHAT)
    ] = "views",
    regulariser: Annotated[str, Option(help="For jepa: none, variance or sigreg.", rich_help_panel=WHAT)] = "none",
    accumulate: Accumulate = 1,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train one backbone with several objectives on the same data.

    All trainings have the same steps and optimiser. Each result is an encoder for `diagnostics run`. The same command
    resumes interrupted trainings and skips finished ones. For simulated data without n and seed in the name (lorenz,
    shapes, ...), the command draws many samples that `diagnostics run` does not use.

    \b
    Several processes:
      torchrun --no-python --nproc-per-node N diagnostics train objectives ...

    \b
    Example:
      diagnostics train objectives --data lorenz --objective forecast,jepa
    """
    needs_timm()
    from diagnostics_training.train import Job, train

    job = Job(
        data, objective, modality, seeds, out, steps, batch, lr, optimiser, schedule, warmup, cooldown, clip, width, depth,
        heads, patch, likelihood, positives, regulariser, accumulate, precision, compile, recompute, workers, device, attention,
        watch_attention,
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
