"""What `diagnostics align` is asked for, checked where it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagnostics import (
    DiagnosticsError,
)
from diagnostics_training.alignment.layer_scaled import check_start
from diagnostics_training.next_steps import command_of
from diagnostics_training.trainer.settings import Settings

BEST = "best-tap"


@dataclass(frozen=True)
class Job:
    """What `diagnostics align` was asked for; see its options."""

    encoder: str
    to: str
    target: str | None = None
    data: str | None = None
    out: Path | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 5e-4
    mask: float = 0.0
    layer_scale: float = 1.0
    drop_path: float = 0.0
    second_teacher: str | None = None
    seed: int | None = None
    device: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        if (self.to == BEST) != (self.target is not None):
            raise DiagnosticsError(
                f"--to {BEST} is the best tap for a target: name that with --for."
                if self.to == BEST
                else f"--for names the target of --to {BEST}, and --to names the tap {self.to}: leave one of them out."
            )
        for name in ("mask", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise DiagnosticsError(
                    f"--{name.replace('_', '-')} is a share, from 0 to below 1, not {getattr(self, name)}."
                )
        check_start(self.layer_scale)
        if self.seed is not None and self.seed < 0:
            raise DiagnosticsError(f"Seed {self.seed} is below 0: give 0 or more.")
        # What the trainer refuses, before the best tap is looked for.
        Settings(max(1, self.steps), self.lr)
        if self.steps < 0 or self.batch < 2:
            raise DiagnosticsError(f"Aligning takes batches of 2 or more, not {self.steps} steps of {self.batch}.")

    @property
    def folder(self) -> Path:
        """Where the encoder goes: beside its base where that is a file or folder."""
        if self.out is not None:
            return self.out
        own = Path(self.encoder).expanduser()
        if own.exists():
            return own.with_name(f"{own.name.removesuffix('.safetensors')}-aligned")
        return Path("models") / f"{'-'.join(_words(self.encoder))}-aligned"

    @property
    def command(self) -> str:
        """What to type for the same."""
        return command_of("align", self, ("out", "device", "trust_code"))


def _words(name: str) -> list[str]:
    return "".join(c if c.isalnum() or c in "_." else " " for c in name).split()
