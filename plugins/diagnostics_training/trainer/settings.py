"""Options of training, whatever the objective: each once, with its default and whether it decides the numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from diagnostics.plugin import Kernel, Option, deciding, options, refuse_values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TRAINING, COST = "Training", "Cost"

# Options of which a job, or a recipe, has a default of its own.
Steps = Annotated[int, Option("Training steps.", "N", group=TRAINING)]
Batch = Annotated[int, Option("Samples per step, over all processes.", "N", group=TRAINING)]
LearningRate = Annotated[float, Option("Peak learning rate.", "RATE", group=TRAINING)]
Optimiser = Annotated[Literal["adamw", "lamb"], Option("Optimiser: adamw or lamb.", "NAME", group=TRAINING)]
Warmup = Annotated[
    float, Option("Number of warm-up steps; below 1, their share of all steps.", "SHARE|N", group=TRAINING)
]
Seed = Annotated[int | None, Option("Seed of batches and random draws [the encoder's, or 0].", "N", group=TRAINING)]


def identity_of(job: DataclassInstance, kind: type[DataclassInstance] | None = None) -> dict[str, Any]:
    """Values of the fields that decide, of a job or of what it has of `kind`, each under its name as it is typed."""
    typed = {name: option.flag for name, option in options(kind or type(job)).items()}
    return {typed.get(name, name): getattr(job, name) for name in deciding(kind or type(job))}


def part_of(job: DataclassInstance, kind: type[DataclassInstance]) -> dict[str, Any]:
    """Fields of a job that are those of `kind`, by name."""
    return {field.name: getattr(job, field.name) for field in fields(kind)}


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Length of a training; apart, so that it comes first."""

    steps: Steps


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """Rules by which weights follow their gradients.

    batch: samples of a step, over all processes.
    lr: peak of the learning rate.
    optimiser: `adamw`, or `lamb` (You et al., arXiv 1904.00962), timm's.
    schedule: of the rate after the warm-up: `cosine` (to 0) or `constant`.
    warmup: steps in which the rate rises to its peak: below 1 a share of all steps (at least one step, unless 0),
    otherwise
        their number.
    cooldown: share of the steps, the last ones, in which a constant rate falls to 0 along a line.
    clip: longest gradient (Euclidean, over all parameters); `math.inf` leaves them as they are.
    weight_decay: on matrices only, never on biases, norms and single vectors.
    """

    batch: Batch
    lr: LearningRate
    optimiser: Optimiser = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant"],
        Option("Learning rate after the warm-up: cosine or constant.", "NAME", group=TRAINING),
    ] = "cosine"
    warmup: Warmup = 0.1
    cooldown: Annotated[
        float,
        Option("Last share of the steps, in which a constant learning rate falls to 0.", "SHARE", group=TRAINING),
    ] = 0.0
    clip: Annotated[float, Option("Maximum gradient norm.", "LENGTH", group=TRAINING)] = 1.0
    weight_decay: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Computation:
    """Options of how steps are computed.

    precision: `bf16` computes the forward pass under autocast.
    attention: the kernel of forward and backward passes, and no other; `auto` leaves it to torch.
    watch_attention: steps from one look at every head's attention to the next; None for no looks.
    encoder_every: steps from one encoder that is kept to the next; None for the last alone.
    checkpoint_every: steps from one checkpoint to the next, which takes its place.
    keep_every: steps from one checkpoint that is kept beside it to the next; None for none.
    compile: whether torch compiles the objective.
    recompute: whether what the objective's blocks compute is kept for the backward pass, or computed once more in it.
    workers: processes that make batches; with 0 a thread makes the next one.
    device: for `objective.world`.
    """

    precision: Annotated[
        Literal["float32", "bf16"], Option("Precision of the forward pass: float32 or bf16.", "NAME", group=COST)
    ] = "float32"
    attention: Annotated[
        Kernel,
        Option("Attention kernel: auto, flash, cudnn, efficient or math.", "KERNEL", group=COST, decides=False),
    ] = "auto"
    watch_attention: Annotated[
        int | None,
        Option(
            "Log the entropy and largest logit of each attention head every N steps [never].",
            "N",
            group=TRAINING,
            decides=False,
        ),
    ] = None
    encoder_every: Annotated[
        int | None,
        Option(
            "Keep the encoder of every N-th step in `steps/` of --out, for `diagnostics run` [the last alone].",
            "N",
            group=TRAINING,
            decides=False,
        ),
    ] = None
    checkpoint_every: Annotated[
        int, Option("Write a checkpoint every N steps.", "N", ("--save-every",), TRAINING, decides=False)
    ] = 200
    keep_every: Annotated[
        int | None,
        Option(
            "Keep the checkpoint of every N-th step in `steps/` of --out [none].", "N", group=TRAINING, decides=False
        ),
    ] = None
    compile: Annotated[
        bool, Option("Compile the model with torch.compile.", names=("--compile",), group=COST, decides=False)
    ] = False
    recompute: Annotated[
        bool,
        Option(
            "Activation checkpointing: keep only the input of each block, and recompute it for the gradient.",
            names=("--recompute",),
            group=COST,
            decides=False,
        ),
    ] = False
    workers: Annotated[int, Option("Processes that prepare batches.", "N", group=COST, decides=False)] = 0
    device: Annotated[
        str | None, Option("cpu, cuda, ... [cuda if there is a GPU].", "NAME", group=COST, decides=False)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Settings(Computation, Optimisation, Duration):
    """Settings of a training, whatever the objective; jobs are settings with more options.

    accumulate: in how many parts, one after the other, a process computes its part of a batch; the loss is their mean.
    seed: of batches and of what is drawn; None for 0.
    evaluate_every: steps from one call of `Objective.evaluate` to the next, the last step always; None for no calls.

    Raises DiagnosticsError for values that cannot be.
    """

    batch: Batch = 64
    lr: LearningRate = 1e-3
    accumulate: Annotated[
        int,
        Option(
            "Gradient accumulation: number of parts in which a batch is computed, one after the other.", "N", group=COST
        ),
    ] = 1
    betas: tuple[float, float] = (0.9, 0.95)
    seed: Seed = None
    log_every: Annotated[int, Option(decides=False)] = 10
    look_every: Annotated[int, Option(decides=False)] = 100
    evaluate_every: Annotated[int | None, Option(decides=False)] = None

    def __post_init__(self) -> None:
        refuse_values(
            *(
                (
                    (value := getattr(self, name)) is not None and value < least,
                    f"Training cannot have {name} {value}: give at least {least}.",
                )
                for name, least in LEAST.items()
            ),
            (
                not (self.lr > 0 and math.isfinite(self.lr)),
                f"Training cannot have a learning rate of {self.lr}: give a number above 0.",
            ),
            (not self.clip > 0, f"Gradients cannot be clipped to a length of {self.clip}: give a number above 0."),
            (not 0 <= self.weight_decay < math.inf, f"Weights cannot decay by {self.weight_decay}: give 0 or more."),
            *(
                (
                    getattr(self, name) not in known,
                    f"Training knows no {name} {getattr(self, name)}: choose {' or '.join(known)}.",
                    "unknown-name",
                )
                for name, known in CHOICES.items()
            ),
            (
                not 0 <= self.warmup <= self.steps or (self.warmup > 1 and self.warmup % 1),
                f"A warm-up cannot take {self.warmup} of {self.steps} steps: give a share below 1, or a whole number "
                f"of steps, at most as many.",
            ),
            (
                not 0 <= self.cooldown <= 1,
                f"A cooldown cannot take {self.cooldown} of the steps: give a share, from 0 to 1.",
            ),
            (
                self.cooldown and self.schedule != "constant",
                f"A {self.schedule} schedule falls by itself and has no cooldown: leave it out, or choose a constant "
                f"schedule.",
                "no-effect",
            ),
        )
        refuse_values(
            (
                self._rising + self._falling > self.steps,
                f"Training of {self.steps} steps cannot have {self._rising} of warm-up and {self._falling} of "
                f"cooldown: give less of either.",
            )
        )

    @property
    def _rising(self) -> int:
        """Steps of the warm-up."""
        if self.warmup >= 1:
            return int(self.warmup)
        return max(1, round(self.warmup * self.steps)) if self.warmup else 0

    @property
    def _falling(self) -> int:
        """Steps of the cooldown."""
        return round(self.cooldown * self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self._rising:
            return self.lr * (step + 1) / self._rising
        if self.schedule == "constant":
            return self.lr * min(1.0, (self.steps - step) / max(1, self._falling))
        along = (step - self._rising) / max(1, self.steps - self._rising)
        return self.lr * 0.5 * (1 + math.cos(math.pi * along))

    @property
    def identity(self) -> dict[str, Any]:
        """Values that decide the numbers: a checkpoint with others is refused. What a job adds is not among them."""
        return identity_of(self, Settings) | {"--seed": self.seed or 0}


LEAST = {"steps": 1, "accumulate": 1, "workers": 0, "seed": 0} | dict.fromkeys(
    ("log_every", "look_every", "evaluate_every", "checkpoint_every", "watch_attention", "encoder_every", "keep_every"),
    1,
)
CHOICES = {name: get_args(hint) for name, hint in get_type_hints(Settings).items() if get_origin(hint) is Literal}
"""Values that an option has; what is typed is no `Literal` yet."""
