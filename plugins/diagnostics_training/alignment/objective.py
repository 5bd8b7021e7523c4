"""The objective of alignment: an encoder's tokens taught by those of frozen encoders.

Spatial alignment of Perception Encoder (Bolya et al., arXiv 2504.13181, section 5): the student begins as a copy of the frozen
teacher, and the mean over tokens of the cosine between its output and the teacher's tokens at the tap is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.plugin import DiagnosticsError, Encoder, Grid, Tap, TorchEncoder
from diagnostics_training.alignment.layer_scale import DropPath
from diagnostics_training.trainer.objective import Batch, Objective

# Who teaches: frozen encoders, each read at a tap, and how far a student's tokens agree with theirs.

OWN = "clean"
"""The section of a batch that holds whole samples as the student's base reads them."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder and the tap that teaches.

    section: under which name the batch holds what it reads.
    weight: of its cosine in the loss.
    mapped: whether the student's tokens meet its tokens through a linear map, which is trained and thrown away.
    """

    encoder: TorchEncoder
    tap: Tap
    section: str = OWN
    weight: float = 1.0
    mapped: bool = False


def taught(teacher: Teacher, batch: Batch) -> Tensor:
    """The teacher's tokens [B, T, F], without a gradient."""
    return teacher.encoder.capture(section_of(batch, teacher.section), [teacher.tap.name])[teacher.tap.name]


def agreement(tokens: Tensor, tap: Tap, target: Tensor, other: Tap, valid: Tensor | None = None) -> Tensor:
    """Cosine of tokens [B, T, F] at a tap with a target's, which are brought to the tap's grid: mean over a sample's tokens, then
    over samples.

    Prefix tokens count where both have as many; grid tokens that are not `valid` do not.
    """
    prefix = tap.grid.prefix if tap.grid.prefix == other.grid.prefix else 0
    tokens = tokens[:, tap.grid.prefix - prefix :].float()
    target = on_grid(target.float(), other.grid, tap.grid)[:, other.grid.prefix - prefix :]
    cosine = nn.functional.cosine_similarity(tokens, target, dim=-1)
    if valid is None:
        return cosine.mean()
    counted = nn.functional.pad(valid.to(cosine.dtype), (prefix, 0), value=1.0)
    return ((cosine * counted).sum(1) / counted.sum(1)).mean()


def on_grid(tokens: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Tokens [B, T, F] of a grid on another of the same axes, by linear interpolation along each axis, with weights that
    widen where there are fewer cells than before; prefix tokens stay as they are."""
    if grid.shape == wanted.shape:
        return tokens
    prefix, cells = tokens[:, : grid.prefix], tokens[:, grid.prefix :]
    cells = cells.movedim(-1, 1).unflatten(-1, grid.shape)
    for axis, count in enumerate(wanted.shape, start=2):
        lines = cells.movedim(axis, -1)
        # Of rows: torch 2.13 gives other numbers for columns of a width of 1, with antialiasing.
        row = lines.reshape(1, -1, 1, lines.shape[-1])
        resized = nn.functional.interpolate(row, (1, count), mode="bilinear", antialias=True)
        cells = resized.reshape(*lines.shape[:-1], count).movedim(-1, axis)
    return torch.cat([prefix, cells.flatten(2).movedim(1, -1)], dim=1)


def check_grids(tap: Tap, student: str, teacher: Teacher) -> None:
    """Raises where the tokens of a student's tap and of a teacher's cannot be compared place by place."""
    if not comparable(tap, teacher.tap):
        own, theirs = tap.grid, teacher.tap.grid
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {teacher.encoder.name} has {theirs} and {tap.name} of {student} has {own}, and tokens are "
            "compared place by place: choose a tap with a grid of the same axes for either (--at names the student's)."
        )


def comparable(tap: Tap, other: Tap) -> bool:
    """Whether the grids of two taps have the same axes, and none is one token for the whole sample where the other is not."""
    same = tap.grid.axes == other.grid.axes
    return same and (tap.grid.shape == other.grid.shape or min(tap.grid.tokens, other.grid.tokens) > 1)


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it exposes no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(f"{encoder.name} exposes no torch module, which aligning needs: name another encoder.")
    return encoder


def put_section(section: str, inputs: Any) -> dict[str, Tensor]:
    """What `preprocess` returns, a tensor or a mapping of them, as parts of a batch."""
    if isinstance(inputs, Mapping):
        return {f"{section}/{key}": value for key, value in inputs.items()}  # pyright: ignore[reportUnknownVariableType]  (of a library without types)
    return {section: inputs}


def section_of(batch: Batch, section: str) -> Any:
    """The same back from the batch."""
    if section in batch:
        return batch[section]
    return {key.removeprefix(f"{section}/"): v for key, v in batch.items() if key.startswith(f"{section}/")}


class Alignment(Objective):
    """Minus the mean over tokens and samples of the cosine to each teacher, times the teacher's weight, summed.

    Only DropPath behaves as in training: dropout is off and batch norm keeps its statistics, so that the student is the encoder
    that will be used. Teachers are no parts of this module: nothing can train them, and checkpoints hold none.

    student: its module is trained in place, all parameters of it that its output tap depends on.
    section: under which name the batch holds what it reads.
    parts: its residual blocks, which can be computed once more for the gradient.
    """

    def __init__(self, student: TorchEncoder, teachers: Sequence[Teacher], section: str = OWN) -> None:
        super().__init__()
        self.student, self.teachers, self.section = student, tuple(teachers), section
        self.tap = student.tap(student.output_tap)
        self.module = student.module
        self.parts: Sequence[nn.Module] = ()
        for teacher in teachers:
            check_grids(self.tap, student.name, teacher)
        self.maps = nn.ModuleList(
            nn.Linear(self.tap.features, teacher.tap.features, bias=False) if teacher.mapped else nn.Identity()
            for teacher in teachers
        )

    def tokens(self, batch: Batch) -> Tensor:
        """The student's [B, T, F], with gradients."""
        read = section_of(batch, self.section)
        return self.student.capture(read, [self.tap.name], gradient=True)[self.tap.name]

    def valid(self, batch: Batch) -> Tensor | None:
        """Which of the student's grid tokens stand for data, bool [B, T]; None where all do."""
        return self.student.valid(section_of(batch, self.section), self.tap)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.values(self.tokens(batch), batch)

    def values(self, tokens: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and each teacher's cosine, of the student's tokens."""
        valid = self.valid(batch)
        cosines = [
            agreement(change(tokens), self.tap, taught(teacher, batch), teacher.tap, valid)
            for teacher, change in zip(self.teachers, self.maps, strict=True)
        ]
        loss = tokens.new_zeros((), dtype=torch.float32)
        for teacher, cosine in zip(self.teachers, cosines, strict=True):
            loss = loss - teacher.weight * cosine
        return {"loss": loss, **{"cosine" if i == 0 else f"cosine_{i + 1}": cosine for i, cosine in enumerate(cosines)}}

    def output(self, batch: Batch) -> Tensor:
        tokens = self.student.capture(section_of(batch, self.section), [self.tap.name])[self.tap.name]
        return tokens[:, self.tap.grid.prefix :].float().mean(1)

    def blocks(self) -> Sequence[nn.Module]:
        return self.parts

    def train(self, mode: bool = True) -> Alignment:
        super().train(mode)
        self.module.eval()
        for part in self.module.modules():
            if isinstance(part, DropPath):
                part.train(mode)
        return self

    def free(self, batch: Batch) -> None:
        """Has gradients required of what the output depends on; raises where that is nothing."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        try:
            self(batch)["loss"].backward()
        except RuntimeError as error:
            raise DiagnosticsError(
                f"No gradient can be followed through {self.student.name} ({' '.join(str(error).split())[:200]}): it cannot be "
                "aligned."
            ) from error
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.maps.zero_grad()
