"""`diagnostics zeroshot`; importing it imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from json import dumps as to_json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diagnostics.plugin import printable
from diagnostics_pretraining.export_commands import needs_open_clip

if TYPE_CHECKING:
    from diagnostics_pretraining.zeroshot.job import Result, Score

Option = typer.Option


def zeroshot(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="An image encoder with its text encoder, saved by `diagnostics train pe`."
        ),
    ],
    data: Annotated[str, Option(help="A dataset of images or clips, as for `diagnostics run`; retrieval needs texts.")],
    target: Annotated[
        str | None,
        Option(
            "--for",
            metavar="TARGET",
            help="What to classify: a label, or a question with answers (of `shapes`: shape, colour, ...).",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        Option(metavar="TEXT", help="A prompt with {} for the class; repeatable ['{}', 'a {}', 'a photo of a {}']."),
    ] = None,
    split: Annotated[str, Option(help="Split to score: test, or val (to choose prompts).")] = "test",
    gallery: Annotated[
        int | None,
        Option(metavar="N", help="Number of pairs in a gallery for retrieval, drawn at random [all of the split]."),
    ] = None,
    frames: Annotated[int, Option(metavar="N", help="Frames read from each clip.")] = 8,
    seed: Annotated[int, Option(metavar="N", help="Seed of galleries and intervals.")] = 0,
    device: Annotated[str | None, Option(metavar="NAME", help="cpu, cuda, ... [cuda if there is a GPU].")] = None,
    trust_code: Annotated[
        bool, Option("--trust-code", help="Allow a saved encoder to run the Python file that builds it.")
    ] = False,
    json: Annotated[bool, Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Classify images by prompts of class names, and retrieve texts by images and images by texts, without any fitting.

    Images and texts are embedded by the two encoders of the folder. Scores are shown with chance and with
    95 % intervals over independent groups.

    \b
    Example:
      diagnostics zeroshot models/pe9 --data shapes --for shape
    """
    needs_open_clip()
    from diagnostics_pretraining.zeroshot.job import Job
    from diagnostics_pretraining.zeroshot.job import zeroshot as compare

    templates = tuple(template) if template else None
    result = compare(Job(folder, data, target, templates, split, gallery, frames, seed, device, trust_code))
    if json:
        print(to_json(_plain(asdict(result)), allow_nan=False))
        return
    for line in _lines(result):
        print(printable(line))


def _lines(result: Result) -> list[str]:
    lines: list[str] = []
    if (known := result.classification) is not None:
        prompts = ", ".join(f"'{template}'" for template in known.templates)
        lines += [
            f"{known.target} of {result.data} by zero-shot: {_spell(known.accuracy)} of {known.n:,} {result.split} samples "
            f"({known.groups:,} groups, {len(known.classes)} classes); commonest class {known.commonest:.3f}",
            f"  prompts: mean of {prompts}",
        ]
        if known.strange:
            lines.append(
                f"  BEWARE: its vocabulary lacks words of {len(known.strange)} classes: {', '.join(known.strange[:6])}"
            )
    if (pairs := result.retrieval) is not None:
        many = f"{pairs.galleries:,} random galleries of" if pairs.galleries > 1 else "one gallery of"
        lines.append(
            f"retrieval among {many} {pairs.gallery:,} pairs ({pairs.n:,} {result.split} pairs, {pairs.groups:,} groups)"
        )
        for way, scores in (("image to text", pairs.image_to_text), ("text to image", pairs.text_to_image)):
            lines += [f"  {way}, recall at {k}: {_spell(score)}" for k, score in scores.items()]
        if pairs.alike:
            lines.append(
                f"  {pairs.alike:,} pairs have the same text as another pair: finding any of these counts as right"
            )
        if pairs.repeated:
            lines.append(f"  {pairs.repeated:,} samples are repeated: the first text of each counts")
        if pairs.cut:
            lines.append(f"  BEWARE: {pairs.cut:,} texts are longer than its context and are cut")
    return lines


def _spell(score: Score) -> str:
    ends = "" if math.isnan(score.low) else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{ends}, chance {score.chance:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
