"""How to train, whatever the objective."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diagnostics import DiagnosticsError


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the objective.

    lr: peak of the learning rate; it rises in the first share `warmup` of the steps and falls along a cosine to 0.
    weight_decay: of AdamW, on matrices only, never on biases, norms and single vectors.
    clip: longest gradient (Euclidean, over all parameters).
    precision: `bf16` computes the forward pass under autocast.
    compile: whether torch compiles the objective.
    """

    steps: int
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    log_every: int = 10
    look_every: int = 100
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "look_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise DiagnosticsError(f"Training cannot have {name} {getattr(self, name)}: give at least 1.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise DiagnosticsError(f"Training cannot have a learning rate of {self.lr}: give a number above 0.")
        if self.precision not in ("float32", "bf16"):
            raise DiagnosticsError(f"Training knows no precision {self.precision}: choose float32 or bf16.")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: a checkpoint of another one is refused."""
        apart = ("log_every", "look_every", "checkpoint_every", "compile")
        return {key: value for key, value in asdict(self).items() if key not in apart}
