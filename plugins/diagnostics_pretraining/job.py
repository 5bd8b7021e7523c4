"""What `diagnostics train pe` was asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diagnostics_training.next_steps import command_of
from diagnostics_training.options import APART

from diagnostics.plugin import DiagnosticsError
from diagnostics_pretraining.recipe import Recipe, named_recipe, read_recipe

OVERRIDDEN = ("batch", "lr", "optimiser", "schedule", "warmup", "cooldown", "clip")
"""Options that take the place of the recipe's own values."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `diagnostics train pe` was asked for; see its options. None: the recipe's own value, or the base's size."""

    data: str
    out: Path
    size: str | None = None
    recipe: str | None = None
    config: Path | None = None
    start: str | None = None
    teacher: str | None = None
    samples: int | None = None
    batch: int | None = None
    lr: float | None = None
    optimiser: str | None = None
    schedule: str | None = None
    warmup: float | None = None
    cooldown: float | None = None
    clip: float | None = None
    seed: int | None = None
    precision: str = "float32"
    attention: str = "auto"
    watch_attention: int | None = None
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.config is None):
            raise DiagnosticsError(
                "A training has one recipe: name it with --recipe (1 to 9), or give a file of your own with --config."
            )
        if (self.size is None) == (self.start is None):
            raise DiagnosticsError(
                "Towers start from new weights of a --size, or from those of a folder (--from): give one of the two."
            )

    @property
    def asked(self) -> Recipe:
        """The recipe as it was asked for, for no model yet."""
        own = read_recipe(self.config) if self.config is not None else named_recipe(self.recipe or "")
        return replace(own, **{name: value for name in OVERRIDDEN if (value := getattr(self, name)) is not None})

    @property
    def typed(self) -> str:
        """What to type for the same."""
        return command_of("train pe", self, ("out", "device", *APART))
