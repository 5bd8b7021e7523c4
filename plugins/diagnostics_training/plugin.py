"""Entries of this plugin: encoders of objectives, and the commands `train objectives` and `align`.

Importing it imports nothing heavy.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from json import dumps as to_json
from typing import Annotated, Any

import diagnostics as dx
from diagnostics.plugin import DiagnosticsError, Entry, Option, default_folder, hookimpl, options_of, printable
from diagnostics_training.jobs import LanguageJob, SpatialJob, TapJob, TrainJob

# `diagnostics train objectives` and `diagnostics align`; importing it imports nothing heavy.


MOST_NAMED = 8
"""Taps whose scores are printed."""
STEADY = 0.98
"""Cosine of a control's tokens to the base's, below which training by itself bends the output."""

Json = Annotated[bool, Option("Print one JSON object instead of text.", names=("--json",))]


@options_of(TrainJob)
def train_objectives(job: TrainJob, json: Json = False) -> None:
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
    from diagnostics_training.train import train

    if rows := train(job):
        encoders = [row["path"] for row in rows]
        lines = [describe_training(row) for row in rows] + next_lines(encoders, rows[0]["run_data"])
        show({"encoders": rows}, lines, json)


@options_of(TapJob)
def align_tap(job: TapJob, json: Json = False) -> None:
    """Teach an encoder's output what an earlier tap holds.

    A frozen copy of the encoder gives the tokens of the tap, and the encoder learns to produce them at its output. The
    result is an encoder for `diagnostics run`. The same command resumes an interrupted alignment and skips a finished
    one.

    \b
    Example:
      diagnostics align tap --encoder models/lorenz-jepa --to blocks.2
    """
    from diagnostics_training.alignment.student import align_tap

    if row := align_tap(job):
        show(row, aligned_lines(row), json)


@options_of(SpatialJob)
def align_spatial(job: SpatialJob, json: Json = False) -> None:
    """Teach an encoder's tokens which places belong together.

    The tokens learn to match those of a frozen tap, a teacher's similarities between places, or both. The encoder
    must read images, which are augmented. The same command resumes an interrupted alignment and skips a finished one.

    \b
    Example:
      diagnostics align spatial --encoder wheel:dinov2-small --to best-tap --for segmentation --relations masks --data
      shapes
    """
    from diagnostics_training.alignment.spatial import align_spatial

    if row := align_spatial(job):
        show(row, aligned_lines(row), json)


@options_of(LanguageJob)
def align_language(job: LanguageJob, json: Json = False) -> None:
    """Align an encoder with a language model that reads its tokens.

    The language model, a decoder, answers questions about samples from the encoder's tokens. First a projector between
    the two is trained alone, then together with the encoder. At the end, test questions in held-out wordings are
    answered from each sample's own tokens, from those of another sample, and from none. The result is the encoder, cut
    at the tap. The same command resumes an interrupted alignment and skips a finished one.

    \b
    Example:
      diagnostics align language --encoder wheel:dinov2-small --at encoder.layer.8 --lm models/llama --data
      captions:pairs.tar
    """
    from diagnostics_training.alignment.language import align_language

    if row := align_language(job):
        show(row, aligned_lines(row), json)


def needs_timm() -> None:
    """Raise where what backbones are made of is missing."""
    import importlib.util

    if importlib.util.find_spec("timm") is None:
        raise DiagnosticsError(
            "Encoders of objectives are made of timm's blocks: pip install timm.", code="missing-package"
        )


def show(result: Mapping[str, Any], lines: Sequence[str], json: bool) -> None:
    """Print a result as JSON, or as lines for people."""
    for line in [to_json(result, allow_nan=False)] if json else map(printable, lines):
        print(line)


def describe_training(row: Mapping[str, Any], of: str = "") -> str:
    """Line for people: where an encoder lies, its loss, of what, and whether its output collapsed."""
    beware = f"; {describe_collapse(row)}" if row["collapse"] else ""
    return f"{row['path']}: {describe_loss(row, 'untrained')}{of}{beware}"


def describe_loss(row: Mapping[str, Any], untrained: str) -> str:
    return untrained if row["loss"] is None else f"loss {row['loss']:.4g} after {row['steps']:,} steps"


def describe_collapse(row: Mapping[str, Any]) -> str:
    return f"BEWARE: its output collapsed ({row['collapse']})"


def next_lines(encoders: Sequence[str], data: str, trusting: Sequence[str] = ()) -> list[str]:
    """Commands that run encoders on data, `trusting` the code of some, and compare the runs of several."""
    probe = [
        f"diagnostics run {shlex.quote(encoder)}{' --trust-code' if encoder in trusting else ''} --data "
        f"{shlex.quote(data)}"
        for encoder in encoders
    ]
    if len(encoders) == 1:
        return [f"Next: {probe[0]}"]
    first = f"Next: {' && '.join(probe)}"
    if len(encoders) > 2 and not trusting:
        names = shlex.join(encoders)
        first = f'Next: for model in {names}; do diagnostics run "$model" --data {shlex.quote(data)}; done'
    folders = shlex.join(str(default_folder(encoder, data)) for encoder in encoders)
    return [first, f"Then: diagnostics compare {folders}"]


def aligned_lines(row: dict[str, Any]) -> list[str]:
    """Lines on what an alignment came to, its control beside it, and the commands that are next."""
    probed, control = row["probed"], row["control"]
    lines = [_line(row)]
    if control:
        lines.append(f"Control: {_line(control)}")
        if (steady := control["cosine"]["after"]) is not None and steady < STEADY:
            lines.append(
                f"Beware: the control, which had nothing new to learn, fell to a cosine of {steady:.3f} to its own "
                f"tokens: training by itself changes the output at this learning rate; give a lower --lr and more "
                f"--steps"
            )
    if probed:
        scores = best_scores(probed["scores"])
        best = f"{probed['tap']} is the tap to use for {row['for']}, by {probed['chosen_on']} of {probed['data']}"
        lines.append(f"{best}, {probed['gain']:.3f} of {probed['score']} above {row['output']} ({scores})")
    if answers := row.get("answers"):
        lines += answer_lines(answers)
    if row.get("decoder"):
        lines.append(f"{row['decoder']}: the trained decoder, as --lm takes it")
    if not row["blocks"]:
        lines.append("No block keeps the shape of its input, so no LayerScale was added")
    lines += [describe_collapse(one) for one in (row, control) if one and one["collapse"]]
    # What was recovered, what it cost, and what training by itself does.
    encoders = [row["base"], row["path"], *([control["path"]] if control else [])]
    trusting = [*row["trust_code"], *(control["trust_code"] if control else [])]
    return [*lines, *next_lines(encoders, row["run_data"], trusting)]


def best_scores(scores: Mapping[str, float]) -> str:
    """Taps with their scores in order of depth; of many, the best ones alone."""
    named = sorted(scores, key=lambda tap: -scores[tap])[:MOST_NAMED]
    shown = ", ".join(f"{tap} {score:.3f}" for tap, score in scores.items() if tap in named)
    return shown if len(named) == len(scores) else f"{shown}; {len(scores) - len(named)} others are no higher"


def answer_lines(answers: Mapping[str, Any]) -> list[str]:
    """Lines on how often a decoder was right, for each question, and without the samples' own tokens."""
    names = {"own": "own tokens", "others": "other samples'", "none": "none", "commonest": "commonest answer"}
    rows = [["right", *names.values()]]
    rows += [[name, *(_ends(scores[key]) for key in names)] for name, scores in answers["scores"].items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    loss = ", ".join(f"{names[key]} {value:.3f}" for key, value in answers["loss"].items())
    return [
        f"{answers['questions']:,} questions about {answers['samples']:,} test samples, by what the decoder is shown:",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        f"Accuracy with own tokens minus that with other samples': {_ends(answers['from_samples'])}; nats per "
        f"token: {loss}",
    ]


def _ends(ends: Sequence[float | None]) -> str:
    value, *others = ("-" if end is None else f"{end:.3f}" for end in ends)
    return f"{value} [{', '.join(others)}]"


def _line(row: dict[str, Any]) -> str:
    line, cosine = f"{row['path']}: taught by {row['to']}, {describe_loss(row, 'not trained')}", row["cosine"]
    if cosine["after"] is not None:
        line += f"; cosine of {row['output']} to the teacher {cosine['before']:.3f} -> {cosine['after']:.3f}"
    return line


# What this plugin offers; importing it imports nothing heavy.


PACKAGES = {"timm": "timm"}
"""Distribution -> module of the code that its encoders come from; runs record their versions."""


def objective(
    name: str,
    modality: str = "series",
    length: int = 512,
    variates: int = 1,
    size: int = 64,
    frames: int = 8,
    width: int = 64,
    depth: int = 6,
    heads: int = 4,
    patch: int | None = None,
    likelihood: str | None = None,
    positives: str = "views",
    outputs: int = 1,
    seed: int = 0,
) -> dx.Encoder:
    """An untrained encoder of an objective (`forecast`, `reconstruct`, `contrastive`, `jepa`, `random`, `supervised`).

    Parameters
    ----------
    modality: `series` (of `length` steps and `variates`), `image` (of `size` pixels a side), `video` (and of `frames`).
    patch: steps of a series [16], pixels along a side [8]; of clips two frames deep.
    likelihood: of a forecast, `quantile` (default for series) or `gaussian` (otherwise).
    positives: of contrast, `views` or `temporal`.
    outputs: numbers that the supervised readout gives.
    seed: of the weights: those that training of this seed starts from.
    """
    needs_timm()
    from diagnostics_training.train import Architecture, default_likelihood, extent, untrained
    from diagnostics_training.trainer.data import default_patch

    architecture = Architecture(
        objective=name,
        modality=modality,
        extent=extent(modality, length, size, frames),
        channels=variates if modality == "series" else 3,
        width=width,
        depth=depth,
        heads=heads,
        patch=default_patch(modality) if patch is None else patch,
        likelihood=likelihood or default_likelihood(modality),
        positives=positives,
        outputs=outputs,
    )
    return untrained(architecture, seed)


def objectives(name: str, training_seed: int = 0) -> dx.Encoder:
    """A trained encoder that came with this plugin (`lorenz-jepa`); `training_seed` names a further seed of it."""
    needs_timm()
    from diagnostics_training.train import bundled

    return bundled(name, training_seed)


def aligned(base: str, layer_scale: float = 1.0) -> dx.Encoder:
    """The encoder `base` (its name, percent-encoded) with LayerScale in its blocks: what alignments start from.

    layer_scale: the factors at the start.
    """
    from diagnostics_training.alignment.objective import scaled

    return scaled(dx.build("encoder", base), layer_scale)[0]


def projected(base: str, at: str, width: int, cut: bool = False, pool: int = 1) -> dx.Encoder:
    """The encoder `base` (its name, percent-encoded) with a projector to a decoder behind its output tap `at`.

    width: features of the decoder's tokens. cut: whether it is cut at that tap. pool: 1 or 2, along each side of the
    grid.
    """
    from diagnostics.plugin import cut_encoder
    from diagnostics_training.alignment.decoder import with_projector

    encoder = dx.build("encoder", base)
    encoder = cut_encoder(encoder, at) if cut else encoder
    if not isinstance(encoder, dx.TorchEncoder) or encoder.output_tap != at or width < 1 or pool not in (1, 2):
        raise DiagnosticsError(
            f"{base} has no output {at} of a torch module that a projector of {width} features fits on.",
            code="other-weights",
        )
    return with_projector(encoder, width, pool)


def _path_hint(path: str) -> str:
    if not os.path.isfile(os.path.join(path, "checkpoint.safetensors")):
        return ""
    return "its training is not finished: give the command that started it again, which resumes it"


@hookimpl
def encoders() -> Mapping[str, Entry]:
    """Name or scheme -> builder."""
    return {
        "objective:": Entry(objective, modalities=("series", "image", "video"), path_hint=_path_hint),
        "objectives:": Entry(objectives, modalities=("series", "image")),
        "aligned": Entry(
            aligned,
            about="An encoder with LayerScale in its blocks: what alignments start from.",
            modalities=("series", "image", "video"),
        ),
        "projected": Entry(
            projected,
            about="An encoder with a projector to a decoder: what language alignment leaves.",
            modalities=("series", "image", "video"),
        ),
    }


@hookimpl
def commands() -> Mapping[str, Callable[..., Any]]:
    """Name -> command; a name of two words is a command of a group."""
    return {
        "train objectives": train_objectives,
        "align language": align_language,
        "align spatial": align_spatial,
        "align tap": align_tap,
    }
