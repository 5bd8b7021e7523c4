"""What every alignment is asked for, whatever teaches."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from diagnostics.plugin import DiagnosticsError
from diagnostics_training.alignment.layer_scale import check_start
from diagnostics_training.next_steps import command_of
from diagnostics_training.options import APART, settings_of

if TYPE_CHECKING:
    from diagnostics_training.alignment.start import Start

UNASKED = ("encoder", "out", "control", "device", "trust_code", *APART)
"""Fields that change no number of what is trained, or stand in the identity by another name."""


@dataclass(frozen=True, kw_only=True)
class AlignmentJob:
    """The options that all commands of `diagnostics align` share; see them there."""

    command: ClassVar[str]

    encoder: str
    at: str | None = None
    data: str | None = None
    out: Path | None = None
    steps: int = 1000
    batch: int = 64
    lr: float = 5e-4
    optimiser: str = "adamw"
    schedule: str = "cosine"
    warmup: float = 0.1
    cooldown: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "float32"
    attention: str = "auto"
    watch_attention: int | None = None
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    mask: float = 0.0
    layer_scale: float = 1.0
    drop_path: float = 0.0
    control: bool = True
    seed: int | None = None
    device: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        for name in ("mask", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise DiagnosticsError(
                    f"--{name.replace('_', '-')} is a share, from 0 to below 1, not {getattr(self, name)}."
                )
        check_start(self.layer_scale)
        if self.seed is not None and self.seed < 0:
            raise DiagnosticsError(f"Seed {self.seed} is below 0: give 0 or more.")
        # What the trainer refuses, before anything is looked for.
        if self.steps < 0 or self.batch < 2:
            raise DiagnosticsError(f"Aligning takes batches of 2 or more, not {self.steps} steps of {self.batch}.")
        if self.steps:
            settings_of(self, 0)

    @property
    def folder(self) -> Path:
        """Where the encoder goes: beside its base where that is a file or folder."""
        if self.out is not None:
            return self.out
        own = Path(self.encoder).expanduser()
        if own.exists():
            return own.with_name(f"{own.name.removesuffix('.safetensors')}-aligned")
        return Path("models") / "-".join([*re.findall(r"[\w.]+", self.encoder), "aligned"])

    @property
    def control_folder(self) -> Path:
        """Where the control goes."""
        return self.folder.with_name(f"{self.folder.name}-control")

    @property
    def typed(self) -> str:
        """What to type for the same."""
        return command_of(self.command, self, ("out", "device", "trust_code", *APART))

    def identity(self, start: Start) -> dict[str, Any]:
        """All that decides the numbers, as plain values: what was made otherwise is refused."""
        names = [field.name for field in fields(self) if field.name not in UNASKED]
        asked: dict[str, Any] = {name: getattr(self, name) for name in names}
        if "target" in asked:
            asked["for"] = asked.pop("target")
        return asked | {
            "base": start.own.identity["weights"],
            "data": start.spec,
            "fingerprint": start.dataset.fingerprint,
            "seed": start.seed,
        }
