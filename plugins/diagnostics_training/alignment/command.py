"""`diagnostics align`; importing it imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics import printable
from diagnostics_training.next_steps import next_lines

Option = typer.Option


def align(
    encoder: Annotated[str, Option(help="The encoder to start from, by any name that `diagnostics run` takes.")],
    to: Annotated[str, Option(help="The tap whose features the output is to have, or best-tap (with --for).")],
    target: Annotated[
        str | None, Option("--for", metavar="TARGET", help="The target that best-tap is best for, chosen on val.")
    ] = None,
    data: Annotated[
        str | None, Option(help="A dataset, whose train split is used [what the encoder was trained on].")
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the aligned encoder [ENCODER-aligned].")] = None,
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
    """
    from diagnostics_training.alignment.align import align as do
    from diagnostics_training.alignment.job import Job

    row = do(
        Job(
            encoder,
            to,
            target,
            data,
            out,
            steps,
            batch,
            lr,
            mask,
            layer_scale,
            drop_path,
            second_teacher,
            seed,
            device,
            trust_code,
        )
    )
    if row:
        _print(row, json)


def _print(row: dict[str, Any], json: bool) -> None:
    if json:
        import json as lines

        print(lines.dumps(row, allow_nan=False))
        return
    cosine = row["cosine"]
    risen = (
        ""
        if cosine["after"] is None
        else f"; cosine of {row['output']} to it {cosine['before']:.3f} -> {cosine['after']:.3f}"
    )
    loss = "not trained" if row["loss"] is None else f"loss {row['loss']:.4g} after {row['steps']:,} steps"
    print(printable(f"{row['path']}: aligned to {row['to']}, {loss}{risen}"))
    if row["probed"]:
        probed = row["probed"]
        scores = ", ".join(f"{tap} {score:.3f}" for tap, score in probed["val_scores"].items())
        best = f"{row['to']} is the best tap for {row['for']} on val of {probed['data']}"
        above = f"{probed['gain']:.3f} of {probed['score']} above the output {row['output']} ({scores})"
        print(printable(f"{best}, {above}"))
    if not row["blocks"]:
        print("No block keeps the shape of what it takes: there is no LayerScale")
    if row["collapse"]:
        print(printable(f"BEWARE: its output collapsed ({row['collapse']})"))
    # What was recovered, and what it cost.
    for line in next_lines([row["base"], row["path"]], row["run_data"], row["trust_code"]):
        print(printable(line))
