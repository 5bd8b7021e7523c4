"""Options that every command that trains has, and the settings that they come to; importing it imports nothing heavy.

A command takes those it needs, each with a default of its own, and its job has fields of the same names.
"""

from dataclasses import fields
from typing import Annotated, Any

from typer import Option

from diagnostics_training.trainer.settings import Settings

WHAT, TRAINING, COST = "What is trained", "Training", "Cost"

Steps = Annotated[int, Option(metavar="N", help="Of training.", rich_help_panel=TRAINING)]
Batch = Annotated[int, Option(metavar="N", help="Samples in a step, over all processes.", rich_help_panel=TRAINING)]
LearningRate = Annotated[float, Option(metavar="RATE", help="Highest learning rate.", rich_help_panel=TRAINING)]
Optimiser = Annotated[str, Option(metavar="NAME", help="adamw or lamb.", rich_help_panel=TRAINING)]
Schedule = Annotated[
    str, Option(metavar="NAME", help="Of the rate after the warm-up: cosine or constant.", rich_help_panel=TRAINING)
]
Warmup = Annotated[
    float,
    Option(metavar="SHARE|N", help="Steps in which the rate rises; below 1 a share of them.", rich_help_panel=TRAINING),
]
Cooldown = Annotated[
    float,
    Option(
        metavar="SHARE", help="Last steps in which a constant rate falls to 0, as a share.", rich_help_panel=TRAINING
    ),
]
Clip = Annotated[float, Option(metavar="LENGTH", help="Longest gradient.", rich_help_panel=TRAINING)]
Seed = Annotated[
    int | None,
    Option(metavar="N", help="Of batches and random draws [the encoder's, or 0].", rich_help_panel=TRAINING),
]

Accumulate = Annotated[
    int, Option(metavar="N", help="Parts in which a batch is computed, one after the other.", rich_help_panel=COST)
]
Precision = Annotated[str, Option(metavar="NAME", help="Of the forward pass: float32 or bf16.", rich_help_panel=COST)]
Attention = Annotated[
    str,
    Option(metavar="KERNEL", help="Of attention: auto, flash, cudnn, efficient or math.", rich_help_panel=COST),
]
WatchAttention = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Every N steps log each head's entropy and largest logit [never].",
        rich_help_panel=TRAINING,
    ),
]
EvaluateEvery = Annotated[
    int | None,
    Option(metavar="N", help="Every N steps log loss and right answers on val [never].", rich_help_panel=TRAINING),
]
Compile = Annotated[bool, Option("--compile", help="Compile the model with torch.", rich_help_panel=COST)]
Recompute = Annotated[
    bool,
    Option(
        "--recompute",
        help="Keep only what blocks are given, and compute each once more for the gradient.",
        rich_help_panel=COST,
    ),
]
Workers = Annotated[int, Option(metavar="N", help="Processes that prepare batches.", rich_help_panel=COST)]
Device = Annotated[
    str | None, Option(metavar="NAME", help="cpu, cuda, ... [cuda where there is one].", rich_help_panel=COST)
]

APART = ("attention", "watch_attention", "evaluate_every", "compile", "recompute", "workers")
"""Options that change no number but by rounding: no part of what a training is known by."""


def settings_of(job: Any, seed: int) -> Settings:
    """The settings of a job, a dataclass: each of its fields that `Settings` has too. Raises for what cannot be."""
    shared = {field.name for field in fields(job)} & {field.name for field in fields(Settings)}
    asked: dict[str, Any] = {name: getattr(job, name) for name in shared}
    asked["seed"] = seed
    return Settings(**asked)
