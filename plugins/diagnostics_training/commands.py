"""`diagnostics train objectives` and `diagnostics align`; importing it imports nothing heavy."""

from collections.abc import Mapping
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics import DiagnosticsError, printable
from diagnostics_training.next_steps import next_lines
from diagnostics_training.objectives import OBJECTIVES
from diagnostics_training.options import (
    WHAT,
    Accumulate,
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
    Workers,
)

Option = typer.Option


def train_objectives(
    data: Annotated[
        str, Option(help="A dataset, as of `diagnostics run`; only its train split is used.", rich_help_panel=WHAT)
    ],
    objective: Annotated[
        str,
        Option(help=f"{', '.join(OBJECTIVES)} (random: untrained), with commas; or all.", rich_help_panel=WHAT),
    ] = "all",
    modality: Annotated[
        str | None, Option(help="series, image or video, to be sure [the data's].", rich_help_panel=WHAT)
    ] = None,
    seeds: Annotated[int, Option(help="How many trainings of each, with seeds from 0.", rich_help_panel=WHAT)] = 1,
    out: Annotated[Path, Option("--out", "-o", help="Folder for models, each in a folder of its own.")] = Path(
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
    width: Annotated[int, Option(help="Features of a token.", rich_help_panel=WHAT)] = 64,
    depth: Annotated[int, Option(help="Blocks.", rich_help_panel=WHAT)] = 6,
    heads: Annotated[int, Option(help="Heads of attention.", rich_help_panel=WHAT)] = 4,
    patch: Annotated[
        int | None, Option(help="Steps of a series [16], pixels along a side [8] in a patch.", rich_help_panel=WHAT)
    ] = None,
    likelihood: Annotated[
        str | None,
        Option(help="Of forecast: quantile [of series] or gaussian [of images and clips].", rich_help_panel=WHAT),
    ] = None,
    positives: Annotated[
        str, Option(help="Of contrastive: views, or temporal (series only).", rich_help_panel=WHAT)
    ] = "views",
    regulariser: Annotated[str, Option(help="Of jepa: none, variance or sigreg.", rich_help_panel=WHAT)] = "none",
    accumulate: Accumulate = 1,
    precision: Precision = "float32",
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
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
        data, objective, modality, seeds, out, steps, batch, lr, optimiser, schedule, warmup, cooldown, clip, width, depth,
        heads, patch, likelihood, positives, regulariser, accumulate, precision, compile, recompute, workers, device,
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
        f"{row['path']}: {_loss(row, 'untrained')}{f'; {_collapse(row)}' if row['collapse'] else ''}" for row in rows
    ]
    for line in [*lines, *next_lines([row["path"] for row in rows], rows[0]["run_data"])]:
        print(printable(line))


def _loss(row: Mapping[str, Any], untrained: str) -> str:
    return untrained if row["loss"] is None else f"loss {row['loss']:.4g} after {row['steps']:,} steps"


def _collapse(row: Mapping[str, Any]) -> str:
    return f"BEWARE: its output collapsed ({row['collapse']})"


def align(
    encoder: Annotated[str, Option(help="The encoder to start from, by any name that `diagnostics run` takes.")],
    to: Annotated[str, Option(help="The tap whose features the output is to have, or best-tap (with --for).")],
    target: Annotated[
        str | None, Option("--for", metavar="TARGET", help="The target that best-tap is best for, chosen on val.")
    ] = None,
    data: Annotated[
        str | None, Option(help="A dataset, whose train split is used [what the encoder was trained on].")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder of the aligned encoder [ENCODER-aligned].")] = None,
    steps: Annotated[int, Option(help="Of training.")] = 1000,
    batch: Annotated[int, Option(help="Samples in a step, over all processes.")] = 64,
    lr: Annotated[float, Option(help="Highest learning rate.")] = 5e-4,
    mask: Annotated[float, Option(metavar="SHARE", help="Of the input that is hidden from the student.")] = 0.0,
    layer_scale: Annotated[
        float, Option(metavar="INIT", help="Factors of the residual branches at the start; PE: 0.1.")
    ] = 1.0,
    drop_path: Annotated[
        float, Option(metavar="RATE", help="How often a sample skips a residual branch in training.")
    ] = 0.0,
    second_teacher: Annotated[
        str | None, Option(metavar="NAME", help="Another encoder that teaches too; NAME:TAP, or its output.")
    ] = None,
    seed: Annotated[int | None, Option(help="Of batches, masks and DropPath [the encoder's, or 0].")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, ... [cuda where there is one].")] = None,
    trust_code: Annotated[
        bool, Option("--trust-code", help="Run a Python file that a saved encoder names to build it.")
    ] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Lift what a tap holds to the output: the encoder learns to give the frozen tap's tokens; the result is an encoder.

    The same command goes on with what was interrupted and leaves what is finished.

    \b
    Example:
      diagnostics align --encoder models/lorenz-jepa --to blocks.2
    """
    from diagnostics_training.alignment.align import Job
    from diagnostics_training.alignment.align import align as align_encoder

    job = Job(
        encoder, to, target, data, out, steps, batch, lr, mask, layer_scale, drop_path, second_teacher, seed, device,
        trust_code,
    )  # fmt: skip
    row = align_encoder(job)
    if json and row:
        print(to_json(row, allow_nan=False))
    elif row:
        _print_aligned(row)


def _print_aligned(row: dict[str, Any]) -> None:
    cosine, probed = row["cosine"], row["probed"]
    lines = [f"{row['path']}: aligned to {row['to']}, {_loss(row, 'not trained')}"]
    if cosine["after"] is not None:
        lines[0] += f"; cosine of {row['output']} to it {cosine['before']:.3f} -> {cosine['after']:.3f}"
    if probed:
        scores = ", ".join(f"{tap} {score:.3f}" for tap, score in probed["val_scores"].items())
        best = f"{row['to']} is the best tap for {row['for']} on val of {probed['data']}"
        lines.append(f"{best}, {probed['gain']:.3f} of {probed['score']} above the output {row['output']} ({scores})")
    if not row["blocks"]:
        lines.append("No block keeps the shape of what it takes: there is no LayerScale")
    if row["collapse"]:
        lines.append(_collapse(row))
    # What was recovered, and what it cost.
    for line in [*lines, *next_lines([row["base"], row["path"]], row["run_data"], row["trust_code"])]:
        print(printable(line))
