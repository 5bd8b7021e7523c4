"""Options that every command that trains has, and the settings that they come to; importing it imports nothing heavy.

A command takes those it needs, each with a default of its own, and its job has fields of the same names.
"""

from dataclasses import fields
from typing import Annotated, Any

from typer import Option

from diagnostics_training.trainer.settings import Settings

WHAT, TRAINING, COST = "What is trained", "Training", "Cost"

Steps = Annotated[int, Option(metavar="N", help="Training steps.", rich_help_panel=TRAINING)]
Batch = Annotated[int, Option(metavar="N", help="Samples per step, over all processes.", rich_help_panel=TRAINING)]
LearningRate = Annotated[float, Option(metavar="RATE", help="Peak learning rate.", rich_help_panel=TRAINING)]
Optimiser = Annotated[str, Option(metavar="NAME", help="Optimiser: adamw or lamb.", rich_help_panel=TRAINING)]
Schedule = Annotated[
    str, Option(metavar="NAME", help="Learning rate after the warm-up: cosine or constant.", rich_help_panel=TRAINING)
]
Warmup = Annotated[
    float,
    Option(
        metavar="SHARE|N", help="Number of warm-up steps; below 1, their share of all steps.", rich_help_panel=TRAINING
    ),
]
Cooldown = Annotated[
    float,
    Option(
        metavar="SHARE",
        help="Last share of the steps, in which a constant learning rate falls to 0.",
        rich_help_panel=TRAINING,
    ),
]
Clip = Annotated[float, Option(metavar="LENGTH", help="Maximum gradient norm.", rich_help_panel=TRAINING)]
Seed = Annotated[
    int | None,
    Option(metavar="N", help="Seed of batches and random draws [the encoder's, or 0].", rich_help_panel=TRAINING),
]

Accumulate = Annotated[
    int,
    Option(
        metavar="N",
        help="Gradient accumulation: number of parts in which a batch is computed, one after the other.",
        rich_help_panel=COST,
    ),
]
Precision = Annotated[
    str, Option(metavar="NAME", help="Precision of the forward pass: float32 or bf16.", rich_help_panel=COST)
]
Attention = Annotated[
    str,
    Option(metavar="KERNEL", help="Attention kernel: auto, flash, cudnn, efficient or math.", rich_help_panel=COST),
]
WatchAttention = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Log the entropy and largest logit of each attention head every N steps [never].",
        rich_help_panel=TRAINING,
    ),
]
EvaluateEvery = Annotated[
    int | None,
    Option(
        metavar="N",
        help="Log the loss and the share of right answers on val every N steps [never].",
        rich_help_panel=TRAINING,
    ),
]
Compile = Annotated[bool, Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=COST)]
Recompute = Annotated[
    bool,
    Option(
        "--recompute",
        help="Activation checkpointing: keep only the input of each block, and recompute it for the gradient.",
        rich_help_panel=COST,
    ),
]
Workers = Annotated[int, Option(metavar="N", help="Processes that prepare batches.", rich_help_panel=COST)]
Device = Annotated[
    str | None, Option(metavar="NAME", help="cpu, cuda, ... [cuda if there is a GPU].", rich_help_panel=COST)
]

APART = ("attention", "watch_attention", "evaluate_every", "compile", "recompute", "workers")
"""Options that change no number but by rounding: no part of what a training is known by."""


def settings_of(job: Any, seed: int) -> Settings:
    """The settings of a job, a dataclass: each of its fields that `Settings` has too. Raises for what cannot be."""
    shared = {field.name for field in fields(job)} & {field.name for field in fields(Settings)}
    asked: dict[str, Any] = {name: getattr(job, name) for name in shared}
    asked["seed"] = seed
    return Settings(**asked)
