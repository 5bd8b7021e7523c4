"""Commands: `train pe`, `recaption`, `zeroshot` and `export open_clip`, and text encoders.

Importing it imports nothing heavy.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from json import dumps, loads
from shlex import quote
from typing import TYPE_CHECKING, Any

from diagnostics_training.plugin import Json, describe_training, next_lines, show

from diagnostics.plugin import DiagnosticsError, Entry, hookimpl, importing, options_of
from diagnostics_pretraining.recipe import ExportJob, PretrainJob, RecaptionJob, ZeroshotJob

if TYPE_CHECKING:
    from diagnostics.plugin import Encoder
    from diagnostics_pretraining.zeroshot import Result, Score


# `diagnostics train pe`, `recaption`, `zeroshot` and `export open_clip`; importing it imports nothing heavy.


@options_of(PretrainJob)
def train_pe(job: PretrainJob, json: Json = False) -> None:
    """Train an image and a text encoder by contrastive learning.

    The method is that of Perception Encoder. Both results are encoders for `diagnostics run`. The same command resumes
    an interrupted training and skips a finished one. For `shapes` without n and seed, the command generates many scenes
    that `diagnostics run` does not use.

    \b
    Several processes:
      torchrun --no-python --nproc-per-node N diagnostics train pe ...

    \b
    Example:
      diagnostics train pe --size nano --recipe 1 --data shapes --out models/pe1
    """
    needs_open_clip()
    from diagnostics_pretraining.train import train

    if row := train(job):
        asked = f" --for {quote(target)}" if (target := row.get("target")) else ""
        lines = [describe_training(row, f" of {row['samples']:,} pairs in all")]
        lines += next_lines([row["path"]], row["run_data"])
        lines.append(f"Or:   diagnostics zeroshot {quote(row['path'])} --data {quote(row['run_data'])}{asked}")
        show(row, lines, json)


@options_of(RecaptionJob)
def recaption(job: RecaptionJob, json: Json = False) -> None:
    """Write a table of new captions to train on.

    Of each whole clip, of each frame, and one from these and what people wrote.

    Each caption is stored beside the table as soon as it is generated, by clip, model and prompt. The same command
    resumes interrupted work; with another prompt or model, it generates only the captions that change.

    \b
    Example:
      diagnostics recaption --data 'shapes?frames=8' --captioner rules --mistakes 0.1 --out clips.jsonl
    """
    if (job.captioner != "rules" or job.summary is not None) and importlib.util.find_spec("transformers") is None:
        raise DiagnosticsError(
            "Captioners are models of transformers: pip install -e '.[transformers]'.", code="missing-package"
        )
    from diagnostics_training.trainer.objective import world

    from diagnostics_pretraining.recaption import recaption

    with world(job.device) as where:
        done = recaption(replace(job, out=job.out.expanduser(), device=where.device))
    lines = [
        f"{done.out}: {done.clips:,} clips; {done.new:,} captions made now, {done.kept:,} kept from before",
        *(
            f"BEWARE: {column} is empty, or lacks frames, in {count:,} of {done.clips:,} clips"
            for column, count in done.empty.items()
        ),
    ]
    inner = job.data.replace("%", "%25").replace("&", "%26")
    lines.append(f"Next: train or measure on --data {quote(f'recaptioned:{done.out}?data={inner}')}")
    show(asdict(done), lines, json)


@options_of(ZeroshotJob)
def zeroshot(job: ZeroshotJob, json: Json = False) -> None:
    """Classify images by prompts of class names, and retrieve texts by images and images by texts, without any fitting.

    Images and texts are embedded by the two encoders of the folder. Scores are shown with chance and with
    95 % intervals over independent groups.

    \b
    Example:
      diagnostics zeroshot models/pe1 --data shapes --for colour
    """
    needs_open_clip()
    from diagnostics_pretraining.zeroshot import zeroshot

    result = zeroshot(job)
    # What is no number, as the end of an interval over a single group, is null.
    plain = loads(dumps(asdict(result)), parse_constant=lambda _: None)
    show(plain, zeroshot_lines(result), json)


@options_of(ExportJob)
def export_open_clip(job: ExportJob, json: Json = False) -> None:
    """Write an image encoder and its text encoder for open_clip.

    The folder gets the weights under open_clip's names and an open_clip configuration. An existing folder is refused.

    \b
    Example:
      diagnostics export open_clip models/pe1 --out models/pe1-open_clip
    """
    needs_open_clip()
    from diagnostics_pretraining.towers import export

    exported = export(job.folder, job.out, job.trust_code)
    lines = [f"{exported.folder}: {exported.encoder}, {exported.tensors:,} tensors, {exported.bytes:,} bytes"]
    if exported.unknown:
        lines.append(
            f"{exported.unknown:,} of CLIP's tokens, which its text tower does not know, have the row of the unknown"
        )
    code = f"import open_clip; open_clip.create_model_from_pretrained({exported.name!r})"
    show(asdict(exported), [*lines, f"Next: python -c {quote(code)}"], json)


def needs_open_clip() -> None:
    """Raise where what both towers are made of is missing."""
    with importing("Text towers of Perception Encoders need", "pip install -e '.[pretraining]'"):
        for needed in ("open_clip", "timm", "ftfy", "regex"):
            importlib.import_module(needed)


def zeroshot_lines(result: Result) -> list[str]:
    lines: list[str] = []
    if (known := result.classification) is not None:
        prompts = ", ".join(f"'{template}'" for template in known.templates)
        lines += [
            f"{known.target} of {result.data} by zero-shot: {_spell(known.accuracy)} of {known.n:,} {result.split} "
            f"samples ({known.groups:,} groups, {len(known.classes)} classes); commonest class {known.commonest:.3f}",
            f"  prompts: mean of {prompts}",
        ]
        if known.strange:
            lines.append(
                f"  BEWARE: its vocabulary lacks words of {len(known.strange)} classes: {', '.join(known.strange[:6])}"
            )
    if (pairs := result.retrieval) is not None:
        many = f"{pairs.galleries:,} random galleries of" if pairs.galleries > 1 else "one gallery of"
        lines.append(
            f"retrieval among {many} {pairs.gallery:,} pairs ({pairs.n:,} {result.split} pairs, {pairs.groups:,} "
            f"groups)"
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


# What this plugin offers; importing it imports nothing heavy.


PACKAGES = {"timm": "timm", "open_clip_torch": "open_clip"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Name or scheme -> builder."""
    return {"pe-text:": Entry(text, modalities=("text",))}


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {"export open_clip": export_open_clip, "recaption": recaption, "train pe": train_pe, "zeroshot": zeroshot}


def text(
    model: str,
    checkpoint: str | None = None,
    pretrained: bool = True,
    context: int | None = None,
    seed: int = 0,
) -> Encoder:
    """The text tower of a Perception Encoder, with taps from its embedding to its CLIP embedding.

    Parameters
    ----------
    model: `core-b16-224`, `nano`, ..., or a folder that describes one with a vocabulary of its own.
    checkpoint: a local file, Meta's .pt of the whole model; nothing is downloaded.
    pretrained: with false, initial weights.
    context: tokens of a text, start and end included, instead of the model's own.
    seed: of the initial weights.
    """
    needs_open_clip()
    from diagnostics_pretraining.text_encoder import build_text

    return build_text(model, checkpoint, pretrained, context, seed)


@hookimpl
def datasets() -> Mapping[str, Entry]:
    """Scheme -> builder."""
    return {"recaptioned:": Entry(recaptioned, modalities=("image", "video"))}


def recaptioned(table: str, data: str, caption: str = "caption") -> Any:
    """A dataset with the captions of a table in place of its own texts, joined by id.

    `diagnostics recaption` wrote the table.

    `data` is the dataset, as `recaptioned:clips.jsonl?data=shapes?frames=8`; in its own options `&` is written `%26`.
    `caption` names the column: caption, or video_caption.
    """
    # Annotated Any and imported here: listing datasets must not cost the import of numpy.
    from diagnostics_pretraining.recaption import recaptioned

    return recaptioned(table, data, caption)
