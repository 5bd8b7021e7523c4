"""How to train, whatever the objective."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diagnostics.plugin import KERNELS, DiagnosticsError, Kernel

CHOICES = {
    "optimiser": ("adamw", "lamb"),
    "schedule": ("cosine", "constant"),
    "precision": ("float32", "bf16"),
    "attention": KERNELS,
}
UNDECIDING = (
    "attention", "watch_attention", "compile", "recompute", "workers", "log_every", "look_every", "evaluate_every", "checkpoint_every",
)  # fmt: skip
"""What changes no number but by rounding."""


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the objective.

    lr: peak of the learning rate.
    optimiser: `adamw`, or `lamb` (You et al., arXiv 1904.00962), timm's.
    schedule: of the rate after the warm-up: `cosine` (to 0) or `constant`.
    warmup: steps in which the rate rises to its peak: below 1 a share of all steps (at least one step, unless 0), otherwise
        their number.
    cooldown: share of the steps, the last ones, in which a constant rate falls to 0 along a line.
    accumulate: in how many parts, one after the other, a process computes its part of a batch; the loss is their mean.
    weight_decay: on matrices only, never on biases, norms and single vectors.
    clip: longest gradient (Euclidean, over all parameters); `math.inf` leaves them as they are.
    precision: `bf16` computes the forward pass under autocast.
    attention: the kernel of forward and backward passes, and no other; `auto` leaves it to torch.
    watch_attention: steps from one look at every head's attention to the next; None for no looks.
    compile: whether torch compiles the objective.
    recompute: whether what the objective's blocks compute is kept for the backward pass, or computed once more in it.
    workers: processes that make batches; with 0 a thread makes the next one.
    evaluate_every: steps from one call of `Objective.evaluate` to the next, the last step always; None for no calls.

    Raises DiagnosticsError for values that cannot be.
    """

    steps: int
    lr: float = 1e-3
    optimiser: Literal["adamw", "lamb"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    cooldown: float = 0.0
    accumulate: int = 1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    attention: Kernel = "auto"
    watch_attention: int | None = None
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    log_every: int = 10
    look_every: int = 100
    evaluate_every: int | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name, least in (
            ("steps", 1), ("accumulate", 1), ("workers", 0), ("log_every", 1), ("look_every", 1), ("evaluate_every", 1),
            ("checkpoint_every", 1), ("watch_attention", 1), ("seed", 0),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None and value < least:
                raise DiagnosticsError(f"Training cannot have {name} {value}: give at least {least}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise DiagnosticsError(f"Training cannot have a learning rate of {self.lr}: give a number above 0.")
        if not self.clip > 0:
            raise DiagnosticsError(f"Gradients cannot be clipped to a length of {self.clip}: give a number above 0.")
        if not 0 <= self.weight_decay < math.inf:
            raise DiagnosticsError(f"Weights cannot decay by {self.weight_decay}: give 0 or more.")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise DiagnosticsError(f"Training knows no {name} {getattr(self, name)}: choose {' or '.join(known)}.")
        if not 0 <= self.warmup <= self.steps or (self.warmup > 1 and self.warmup % 1):
            raise DiagnosticsError(
                f"A warm-up cannot take {self.warmup} of {self.steps} steps: give a share below 1, or a whole number of steps, at "
                "most as many."
            )
        if not 0 <= self.cooldown <= 1:
            raise DiagnosticsError(f"A cooldown cannot take {self.cooldown} of the steps: give a share, from 0 to 1.")
        if self.cooldown and self.schedule != "constant":
            raise DiagnosticsError(
                f"A {self.schedule} schedule falls by itself and has no cooldown: leave it out, or choose a constant schedule."
            )
        if self._rising + self._falling > self.steps:
            raise DiagnosticsError(
                f"Training of {self.steps} steps cannot have {self._rising} of warm-up and {self._falling} of cooldown: give less of "
                "either."
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
        """What decides the numbers: a checkpoint of another one is refused."""
        return {key: value for key, value in asdict(self).items() if key not in UNDECIDING}
