"""`diagnostics recaption`; importing it imports nothing heavy."""

import importlib.util
import shlex
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

import typer

from diagnostics.plugin import DiagnosticsError, printable

Option = typer.Option


def recaption(
    data: Annotated[
        str,
        Option(help="A dataset of clips or images, as for `diagnostics run`: videos:FOLDER, 'shapes?frames=8', ..."),
    ],
    captioner: Annotated[
        str,
        Option(
            metavar="FOLDER|rules",
            help="An image- or video-text-to-text model of transformers, or rules (true captions of `shapes`, no model).",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", metavar="FILE.jsonl", help="The table of captions.")],
    table: Annotated[
        Path | None,
        Option(help="Table of titles and human captions, with the columns id and title, human_caption, or both."),
    ] = None,
    summary: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            help="Causal language model that writes the column `caption` from all others [the human caption, else the clip's].",
        ),
    ] = None,
    prompt: Annotated[str | None, Option(help="Prompt for the caption of a clip [see the docs].")] = None,
    frame_prompt: Annotated[str | None, Option(help="Prompt for the caption of a frame [see the docs].")] = None,
    tokens: Annotated[int, Option(metavar="N", help="Maximum number of tokens per caption.")] = 128,
    mistakes: Annotated[
        float | None,
        Option(
            metavar="SHARE",
            help="For rules: share of colours, textures and shapes that are replaced by wrong ones [0].",
        ),
    ] = None,
    seed: Annotated[int | None, Option(metavar="N", help="For rules: seed of the mistakes [0].")] = None,
    precision: Annotated[str, Option(metavar="NAME", help="Precision of the models: float32 or bf16.")] = "float32",
    device: Annotated[str | None, Option(metavar="NAME", help="cpu, cuda, ... [cuda if there is a GPU].")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Write a table of new captions to train on: of each whole clip, of each frame, and one from these and what people wrote.

    Each caption is stored beside the table as soon as it is generated, by clip, model and prompt. The same command
    resumes interrupted work; with another prompt or model, it generates only the captions that change.

    \b
    Example:
      diagnostics recaption --data 'shapes?frames=8' --captioner rules --mistakes 0.1 --out clips.jsonl
    """
    if (captioner != "rules" or summary is not None) and importlib.util.find_spec("transformers") is None:
        raise DiagnosticsError("Captioners are models of transformers: pip install -e '.[transformers]'.")
    from diagnostics_training.trainer.distributed import world

    from diagnostics_pretraining.recaption.captioner import CLIP_PROMPT, FRAME_PROMPT
    from diagnostics_pretraining.recaption.job import Job
    from diagnostics_pretraining.recaption.job import recaption as caption_clips

    with world(device) as where:
        captioned = caption_clips(
            Job(
                data, captioner, out.expanduser(), table, summary, CLIP_PROMPT if prompt is None else prompt,
                FRAME_PROMPT if frame_prompt is None else frame_prompt, tokens, mistakes, seed, precision, where.device,
            )
        )  # fmt: skip
    if json:
        print(to_json(asdict(captioned), allow_nan=False))
        return
    print(
        printable(
            f"{captioned.out}: {captioned.clips:,} clips; {captioned.new:,} captions made now, {captioned.kept:,} kept from before"
        )
    )
    for column, count in captioned.empty.items():
        print(printable(f"BEWARE: {column} is empty, or lacks frames, in {count:,} of {captioned.clips:,} clips"))
    inner = data.replace("%", "%25").replace("&", "%26")
    name = shlex.quote(f"recaptioned:{captioned.out}?data={inner}")
    print(printable(f"Next: train or measure on --data {name}"))
