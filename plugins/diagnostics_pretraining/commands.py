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

from diagnostics import printable
from diagnostics_pretraining.export_commands import needs_open_clip

Option = typer.Option


def train_pe(
    data: Annotated[
        str, Option(help="A dataset of images (or clips) with texts, whose train split is used.", rich_help_panel=WHAT)
    ],
    out: Annotated[
        Path,
        Option(
            "--out", "-o", help="Folder of the image encoder; the text encoder's is FOLDER/text.", rich_help_panel=WHAT
        ),
    ],
    size: Annotated[
        str | None, Option(help="Of new towers: nano, micro, b16-224, l14-336, ...", rich_help_panel=WHAT)
    ] = None,
    start: Annotated[
        str | None,
        Option("--from", metavar="FOLDER", help="Train towers further that this command made.", rich_help_panel=WHAT),
    ] = None,
    recipe: Annotated[
        str | None,
        Option(help="1 to 9, the rows of Perception Encoder's ablation, video, or distil.", rich_help_panel=WHAT),
    ] = None,
    config: Annotated[
        Path | None,
        Option(metavar="FILE.toml", help="A recipe of your own, in place of --recipe.", rich_help_panel=WHAT),
    ] = None,
    teacher: Annotated[
        str | None,
        Option(metavar="FOLDER", help="Of distil: the pair whose similarities are learned.", rich_help_panel=WHAT),
    ] = None,
    samples: Annotated[
        int | None, Option(metavar="N", help="Pairs in all stages together [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    batch: Annotated[
        int | None,
        Option(metavar="N", help="Pairs in a step, over all processes [the recipe's].", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[
        float | None, Option(metavar="RATE", help="Highest learning rate [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    optimiser: Annotated[
        str | None, Option(metavar="NAME", help="adamw or lamb [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    schedule: Annotated[
        str | None,
        Option(metavar="NAME", help="Of the rate: cosine or constant [the recipe's].", rich_help_panel=TRAINING),
    ] = None,
    warmup: Annotated[
        float | None,
        Option(metavar="SHARE|N", help="Steps in which the rate rises [the recipe's].", rich_help_panel=TRAINING),
    ] = None,
    cooldown: Annotated[
        float | None,
        Option(
            metavar="SHARE", help="Last steps in which a constant rate falls [the recipe's].", rich_help_panel=TRAINING
        ),
    ] = None,
    clip: Annotated[
        float | None, Option(metavar="LENGTH", help="Longest gradient [the recipe's].", rich_help_panel=TRAINING)
    ] = None,
    seed: Seed = None,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Train an image and a text encoder by contrast, as Perception Encoders are; both are encoders for `run`.

    The same command goes on with what was interrupted and leaves what is finished. Of `shapes` named without n and seed many
    scenes are made that `diagnostics run` does not show. Several processes:
    `torchrun --no-python --nproc-per-node N diagnostics train pe ...`.

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
