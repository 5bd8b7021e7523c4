"""`diagnostics recaption`; importing it imports nothing heavy."""

import importlib.util
import shlex
from dataclasses import asdict
from json import dumps as to_json
from pathlib import Path
from typing import Annotated

import typer

from diagnostics import DiagnosticsError, printable

Option = typer.Option


def recaption(
    data: Annotated[str, Option(help="Clips (or images), as of `diagnostics run`: videos:FOLDER, 'shapes?frames=8'.")],
    captioner: Annotated[
        str,
        Option(
            metavar="FOLDER|rules",
            help="An image- or video-text-to-text model of transformers, or rules: the truth of `shapes`.",
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", metavar="FILE.jsonl", help="The table; the same call goes on.")],
    table: Annotated[
        Path | None,
        Option(help="Titles and people's captions: columns id, and title, human_caption, or both."),
    ] = None,
    summary: Annotated[
        str | None,
        Option(
            metavar="FOLDER",
            help="A causal model that writes `caption` from all others [a person's caption, else the clip's].",
        ),
    ] = None,
    prompt: Annotated[str | None, Option(help="What the captioner is asked about a clip [see the docs].")] = None,
    frame_prompt: Annotated[str | None, Option(help="What it is asked about a frame [see the docs].")] = None,
    tokens: Annotated[int, Option(metavar="N", help="Of a caption at most.")] = 128,
    mistakes: Annotated[
        float | None,
        Option(metavar="SHARE", help="Of rules: colours, textures and shapes that are wrong [0]."),
    ] = None,
    seed: Annotated[int | None, Option(metavar="N", help="Of rules: of the mistakes [0].")] = None,
    precision: Annotated[str, Option(metavar="NAME", help="Of the models: float32 or bf16.")] = "float32",
    device: Annotated[str | None, Option(metavar="NAME", help="cpu, cuda, ... [cuda where there is one].")] = None,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Caption clips anew: of the whole clip, of each frame, and one caption from all that is known, as a table to train on.

    Each caption is kept beside the table as soon as it is made, by clip, model and prompt: the same command goes on with what was
    interrupted, and another prompt or model makes only what it changes.

    \b
    Example:
      diagnostics recaption --data 'shapes?frames=8' --captioner rules --mistakes 0.1 --out clips.jsonl
    """
    if (captioner != "rules" or summary is not None) and importlib.util.find_spec("transformers") is None:
        raise DiagnosticsError(
            "Captioners are models of transformers: pip install 'encoder-diagnostics[transformers]'."
        )
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
