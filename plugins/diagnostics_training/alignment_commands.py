"""`diagnostics align tap`, `align spatial` and `align language`; importing it imports nothing heavy."""

from collections.abc import Mapping, Sequence
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any

import typer

from diagnostics.plugin import printable
from diagnostics_training.commands import describe_collapse, describe_loss
from diagnostics_training.next_steps import next_lines
from diagnostics_training.options import (
    TRAINING,
    WHAT,
    Accumulate,
    Attention,
    Batch,
    Clip,
    Compile,
    Cooldown,
    Device,
    EvaluateEvery,
    LearningRate,
    Optimiser,
    Precision,
    Recompute,
    Schedule,
    Seed,
    Steps,
    Warmup,
    WatchAttention,
    Workers,
)

Option = typer.Option

MOST_NAMED = 8
"""Taps whose scores are printed."""
STEADY = 0.98
"""Cosine of a control's tokens to the base's, below which training by itself bends the output."""

# What all commands of the group share.
Base = Annotated[
    str, Option(help="The encoder to start from, by any name that `diagnostics run` takes.", rich_help_panel=WHAT)
]
At = Annotated[
    str | None,
    Option(metavar="TAP", help="The tap that learns; the encoder is cut there [its output].", rich_help_panel=WHAT),
]
To = Annotated[str, Option(metavar="TAP", help="The tap that teaches, or best-tap (with --for).", rich_help_panel=WHAT)]
For = Annotated[
    str | None,
    Option(
        "--for", metavar="TARGET", help="The target for which best-tap is chosen, without test.", rich_help_panel=WHAT
    ),
]
Data = Annotated[
    str | None,
    Option(help="A dataset [the training data of the encoder]; training uses its train split.", rich_help_panel=WHAT),
]
Out = Annotated[
    Path | None,
    Option(
        "--out",
        "-o",
        help="Folder of the aligned encoder; its control is in FOLDER-control [ENCODER-aligned].",
        rich_help_panel=WHAT,
    ),
]
Mask = Annotated[
    float,
    Option(
        metavar="SHARE",
        help="Share of the input that is hidden from the encoder in training.",
        rich_help_panel=TRAINING,
    ),
]
LayerScale = Annotated[
    float,
    Option(
        metavar="INIT",
        help="Initial factors of the residual branches; Perception Encoder uses 0.1.",
        rich_help_panel=TRAINING,
    ),
]
DropPath = Annotated[
    float,
    Option(
        metavar="RATE", help="Probability that a sample skips a residual branch in training.", rich_help_panel=TRAINING
    ),
]
Teachers = Annotated[
    list[str] | None,
    Option(
        metavar="NAME[:TAP][@WEIGHT]",
        help="Another encoder as an additional teacher, by its output or a tap; repeatable.",
        rich_help_panel=WHAT,
    ),
]
Control = Annotated[
    bool,
    Option(
        "--control/--no-control",
        help="Also train a control, taught by the starting encoder's own tokens, to show what training does by itself.",
        rich_help_panel=WHAT,
    ),
]
TrustCode = Annotated[bool, Option("--trust-code", help="Allow a saved encoder to run the Python file that builds it.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]


def align_tap(
    encoder: Base,
    to: To,
    target: For = None,
    at: At = None,
    data: Data = None,
    out: Out = None,
    steps: Steps = 1000,
    batch: Batch = 64,
    lr: LearningRate = 5e-4,
    optimiser: Optimiser = "adamw",
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.1,
    cooldown: Cooldown = 0.0,
    clip: Clip = 1.0,
    mask: Mask = 0.0,
    layer_scale: LayerScale = 1.0,
    drop_path: DropPath = 0.0,
    teacher: Teachers = None,
    keep: Annotated[
        float,
        Option(
            metavar="WEIGHT",
            help="Weight of the starting encoder's output as an additional teacher, to keep its information.",
            rich_help_panel=WHAT,
        ),
    ] = 0.0,
    control: Control = True,
    seed: Seed = None,
    accumulate: Accumulate = 1,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Teach an encoder's output what an earlier tap holds.

    A frozen copy of the encoder gives the tokens of the tap, and the encoder learns to produce them at its output. The
    result is an encoder for `diagnostics run`. The same command resumes an interrupted alignment and skips a finished
    one.

    \b
    Example:
      diagnostics align tap --encoder models/lorenz-jepa --to blocks.2
    """
    from diagnostics_training.alignment.tap import TapJob
    from diagnostics_training.alignment.tap import align_tap as align

    row = align(
        TapJob(
            encoder=encoder, to=to, target=target, at=at, data=data, out=out, steps=steps, batch=batch, lr=lr,
            optimiser=optimiser, schedule=schedule, warmup=warmup, cooldown=cooldown, clip=clip, accumulate=accumulate,
            precision=precision, compile=compile, recompute=recompute, workers=workers, mask=mask, layer_scale=layer_scale, drop_path=drop_path, teacher=tuple(teacher or ()), keep=keep, control=control, seed=seed,
            device=device, trust_code=trust_code, attention=attention, watch_attention=watch_attention,
        )
    )  # fmt: skip
    show(row, json)


def align_spatial(
    encoder: Base,
    to: Annotated[
        str | None,
        Option(
            metavar="TAP",
            help="The tap that teaches, or best-tap (with --for) [none: relations alone].",
            rich_help_panel=WHAT,
        ),
    ] = None,
    target: For = None,
    relations: Annotated[
        str | None,
        Option(
            metavar="TEACHER",
            help="Teacher of which places belong together: masks (of the data), sam2:FOLDER, or an encoder NAME[:TAP] [none].",
            rich_help_panel=WHAT,
        ),
    ] = None,
    at: At = None,
    data: Data = None,
    out: Out = None,
    steps: Steps = 1000,
    batch: Batch = 64,
    lr: LearningRate = 5e-4,
    optimiser: Optimiser = "lamb",
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.0,
    cooldown: Cooldown = 0.0,
    clip: Clip = 1.0,
    mask: Mask = 0.75,
    mask_cell: Annotated[
        int,
        Option(metavar="TOKENS", help="Tokens along each side of a hidden block.", rich_help_panel=TRAINING),
    ] = 2,
    layer_scale: LayerScale = 0.1,
    drop_path: DropPath = 0.4,
    control: Control = True,
    seed: Seed = None,
    accumulate: Accumulate = 1,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Teach an encoder's tokens which places belong together.

    The tokens learn to match those of a frozen tap, a teacher's similarities between places, or both. The encoder
    must read images, which are augmented. The same command resumes an interrupted alignment and skips a finished one.

    \b
    Example:
      diagnostics align spatial --encoder wheel:dinov2-small --to best-tap --for segmentation --relations masks --data shapes
    """
    from diagnostics_training.alignment.spatial import SpatialJob
    from diagnostics_training.alignment.spatial import align_spatial as align

    row = align(
        SpatialJob(
            encoder=encoder, to=to, target=target, relations=relations, at=at, data=data, out=out, steps=steps, batch=batch,
            lr=lr, optimiser=optimiser, schedule=schedule, warmup=warmup, cooldown=cooldown, clip=clip, accumulate=accumulate,
            precision=precision, compile=compile, recompute=recompute, workers=workers, mask=mask, mask_cell=mask_cell,
            layer_scale=layer_scale, drop_path=drop_path, control=control, seed=seed, device=device, trust_code=trust_code,
            attention=attention, watch_attention=watch_attention,
        )
    )  # fmt: skip
    show(row, json)


def align_language(
    encoder: Base,
    lm: Annotated[
        str,
        Option(
            metavar="FOLDER",
            help="A causal decoder saved by transformers, or tiny (random weights, for trials).",
            rich_help_panel=WHAT,
        ),
    ],
    at: At = None,
    data: Data = None,
    out: Out = None,
    pool: Annotated[
        int,
        Option(metavar="N", help="Average tokens over 1 or 2 cells along each side of the grid.", rich_help_panel=WHAT),
    ] = 1,
    train_lm: Annotated[
        bool, Option("--train-lm", help="Also train the decoder, and save it.", rich_help_panel=WHAT)
    ] = False,
    steps: Steps = 1000,
    projector_steps: Annotated[
        int | None,
        Option(
            metavar="N",
            help="Number of first steps in which only the projector learns (with --lm tiny also the decoder) [a tenth of all].",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch: Batch = 64,
    lr: LearningRate = 5e-4,
    optimiser: Optimiser = "adamw",
    schedule: Schedule = "cosine",
    warmup: Warmup = 0.1,
    cooldown: Cooldown = 0.0,
    clip: Clip = 1.0,
    layer_scale: LayerScale = 1.0,
    drop_path: DropPath = 0.1,
    control: Control = True,
    seed: Seed = None,
    accumulate: Accumulate = 1,
    precision: Precision = "float32",
    attention: Attention = "auto",
    watch_attention: WatchAttention = None,
    evaluate_every: EvaluateEvery = None,
    compile: Compile = False,
    recompute: Recompute = False,
    workers: Workers = 0,
    device: Device = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Align an encoder with a language model that reads its tokens.

    The language model, a decoder, answers questions about samples from the encoder's tokens. First a projector between
    the two is trained alone, then together with the encoder. At the end, test questions in held-out wordings are
    answered from each sample's own tokens, from those of another sample, and from none. The result is the encoder, cut
    at the tap. The same command resumes an interrupted alignment and skips a finished one.

    \b
    Example:
      diagnostics align language --encoder wheel:dinov2-small --at encoder.layer.8 --lm models/llama --data captions:pairs.tar
    """
    from diagnostics_training.language.align import LanguageJob
    from diagnostics_training.language.align import align_language as align

    row = align(
        LanguageJob(
            encoder=encoder, lm=lm, at=at, data=data, out=out, pool=pool, train_lm=train_lm, steps=steps,
            projector_steps=projector_steps, batch=batch, lr=lr, optimiser=optimiser, schedule=schedule, warmup=warmup,
            cooldown=cooldown, clip=clip, accumulate=accumulate, precision=precision, compile=compile, recompute=recompute,
            workers=workers, layer_scale=layer_scale, drop_path=drop_path, control=control, seed=seed, device=device,
            trust_code=trust_code, attention=attention, watch_attention=watch_attention, evaluate_every=evaluate_every,
        )
    )  # fmt: skip
    show(row, json)


def show(row: dict[str, Any], json: bool) -> None:
    """Prints what an alignment came to; nothing in other processes than the first."""
    if json and row:
        print(to_json(row, allow_nan=False))
    elif row:
        for line in aligned_lines(row):
            print(printable(line))


def aligned_lines(row: dict[str, Any]) -> list[str]:
    """What an alignment came to, its control beside it, and the commands that are next."""
    probed, control = row["probed"], row["control"]
    lines = [_line(row)]
    if control:
        lines.append(f"Control: {_line(control)}")
        if (steady := control["cosine"]["after"]) is not None and steady < STEADY:
            lines.append(
                f"Beware: the control, which had nothing new to learn, fell to a cosine of {steady:.3f} to its own tokens: training by "
                "itself changes the output at this learning rate; give a lower --lr and more --steps"
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
    """How often a decoder was right, for each question, and without the samples' own tokens."""
    names = {"own": "own tokens", "others": "other samples'", "none": "none", "commonest": "commonest answer"}
    rows = [["right", *names.values()]]
    rows += [[name, *(_ends(scores[key]) for key in names)] for name, scores in answers["scores"].items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    loss = ", ".join(f"{names[key]} {value:.3f}" for key, value in answers["loss"].items())
    return [
        f"{answers['questions']:,} questions about {answers['samples']:,} test samples, by what the decoder is shown:",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        f"Accuracy with own tokens minus that with other samples': {_ends(answers['from_samples'])}; nats per token: {loss}",
    ]


def _ends(ends: Sequence[float | None]) -> str:
    value, *others = ("-" if end is None else f"{end:.3f}" for end in ends)
    return f"{value} [{', '.join(others)}]"


def _line(row: dict[str, Any]) -> str:
    line, cosine = f"{row['path']}: taught by {row['to']}, {describe_loss(row, 'not trained')}", row["cosine"]
    if cosine["after"] is not None:
        line += f"; cosine of {row['output']} to the teacher {cosine['before']:.3f} -> {cosine['after']:.3f}"
    return line
