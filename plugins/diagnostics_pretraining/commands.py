"""`diagnostics train pe`; importing it imports nothing heavy."""

from collections.abc import Mapping
from json import dumps as to_json
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from diagnostics_training.commands import describe_collapse, describe_loss
from diagnostics_training.next_steps import next_lines
from diagnostics_training.options import (
    TRAINING,
    WHAT,
    Attention,
    Compile,
    Device,
    Precision,
    Recompute,
    Seed,
    WatchAttention,
    Workers,
)

from diagnostics.plugin import printable
from diagnostics_pretraining.export_commands import needs_open_clip

Option = typer.Option


def train_pe(
    data: Annotated[
        str,
        Option(help="A dataset of images (or clips) with texts; training uses its train split.", rich_help_panel=WHAT),
    ],
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            help="Folder of the image encoder; the text encoder is saved in FOLDER/text.",
            rich_help_panel=WHAT,
        ),
    ],
    size: Annotated[
        str | None, Option(help="Size of new encoders: nano, micro, b16-224, l14-336, ...", rich_help_panel=WHAT)
    ] = None,
    start: Annotated[
        str | None,
        Option("--from", metavar="FOLDER", help="Start from encoders saved by this command.", rich_help_panel=WHAT),
    ] = None,
    recipe: Annotated[
        str | None,
        Option(help="1 to 9 (the rows of Perception Encoder's ablation), video, or distil.", rich_help_panel=WHAT),
    ] = None,
    config: Annotated[
        Path | None,
        Option(metavar="FILE.toml", help="Your own recipe, instead of --recipe.", rich_help_panel=WHAT),
    ] = None,
    teacher: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            help="For distil: the image and text encoder whose similarities are learned.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    samples: Annotated[
        int | None, Option(metavar="N", help="Pairs over all stages [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    batch: Annotated[
        int | None,
        Option(metavar="N", help="Pairs per step, over all processes [the recipe's].", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[
        float | None, Option(metavar="RATE", help="Peak learning rate [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    optimiser: Annotated[
        str | None, Option(metavar="NAME", help="Optimiser: adamw or lamb [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    schedule: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="Learning rate after the warm-up: cosine or constant [the recipe's].",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    warmup: Annotated[
        float | None,
        Option(
            metavar="SHARE|N",
            help="Number of warm-up steps; below 1, their share of all steps [the recipe's].",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    cooldown: Annotated[
        float | None,
        Option(
            metavar="SHARE",
            help="Last share of the steps, in which a constant learning rate falls to 0 [the recipe's].",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    clip: Annotated[
        float | None, Option(metavar="LENGTH", help="Maximum gradient norm [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    seed: Seed = None,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train an image and a text encoder by contrastive learning.

    The method is that of Perception Encoder. Both results are encoders for `diagnostics run`. The same command resumes
    an interrupted training and skips a finished one. For `shapes` without n and seed, the command generates many scenes
    that `diagnostics run` does not use.

    \b
    Several processes:
      torchrun --no-python --nproc-per-node N diagnostics train pe ...

    \b
    Example:
      diagnostics train pe --size nano --recipe 9 --data shapes --out models/pe9
    """
    needs_open_clip()
    from diagnostics_pretraining.job import Job
    from diagnostics_pretraining.train import train

    row = train(
        Job(
            data=data, out=out, size=size, recipe=recipe, config=config, start=start, teacher=teacher, samples=samples, batch=batch, lr=lr,
            optimiser=optimiser, schedule=schedule, warmup=warmup, cooldown=cooldown, clip=clip, seed=seed, precision=precision,
            attention=attention, watch_attention=watch_attention, compile=compile, recompute=recompute, workers=workers,
            device=device,
        )
    )  # fmt: skip
    if json and row:
        print(to_json(row, allow_nan=False))
    elif row:
        _print_trained(row)


def _print_trained(row: Mapping[str, Any]) -> None:
    beware = f"; {describe_collapse(row)}" if row["collapse"] else ""
    lines = [f"{row['path']}: {describe_loss(row, 'untrained')} of {row['samples']:,} pairs in all{beware}"]
    lines += next_lines([row["path"]], row["run_data"])
    asked = f" --for {quote(target)}" if (target := row.get("target")) else ""
    lines.append(f"Or:   diagnostics zeroshot {quote(row['path'])} --data {quote(row['run_data'])}{asked}")
    for line in lines:
        print(printable(line))
