"""The objective of alignment: an encoder's output taught by one of its own earlier taps.

Spatial alignment of Perception Encoder (Bolya et al., arXiv 2504.13181, section 5): the student begins as a copy of the frozen
teacher, and the mean over tokens of the cosine between its output and the teacher's tokens at the tap is raised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnostics import Dataset, DiagnosticsError, Encoder, Tap, TorchEncoder, build
from diagnostics.encoders.trust import UntrustedCodeError
from diagnostics_training.alignment.data import check_modality
from diagnostics_training.alignment.layer_scale import DropPath
from diagnostics_training.trainer.objective import Batch, Objective


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder, the tap that teaches, and under which name the batch holds what it reads."""

    encoder: TorchEncoder
    tap: Tap
    section: str


class Alignment(Objective):
    """Mean over tokens and samples of minus the cosine to each teacher, teachers added with weight 1.

    Only DropPath behaves as in training: dropout is off and batch norm keeps its statistics, so that the student is the encoder
    that will be used. A teacher of another width is met by a linear map of the student's output, which is trained with it and
    thrown away. Teachers are no parts of this module: nothing can train them, and checkpoints hold none.

    student: its module is trained in place, all parameters of it that the output depends on.
    section: under which name the batch holds what it reads.
    """

    def __init__(self, student: TorchEncoder, teachers: Sequence[Teacher], section: str = "clean") -> None:
        super().__init__()
        self.student, self.teachers, self.section = student, tuple(teachers), section
        self.tap = student.tap(student.output_tap)
        self.module = student.module
        for teacher in teachers:
            check_grids(self.tap, student.name, teacher)
        self.maps = nn.ModuleList(
            nn.Identity()
            if teacher.tap.features == self.tap.features
            else nn.Linear(self.tap.features, teacher.tap.features, bias=False)
            for teacher in teachers
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        read = section_of(batch, self.section)
        tokens = self.student.capture(read, [self.tap.name], gradient=True)[self.tap.name]
        valid = self.student.valid(read, self.tap)
        cosines = [
            agreement(change(tokens), self.tap, taught(teacher, batch), teacher.tap, valid)
            for teacher, change in zip(self.teachers, self.maps, strict=True)
        ]
        named = {"cosine" if i == 0 else f"cosine_{i + 1}": cosine for i, cosine in enumerate(cosines)}
        return {"loss": -torch.stack(cosines).sum(), **named}

    def output(self, batch: Batch) -> Tensor:
        tokens = self.student.capture(section_of(batch, self.section), [self.tap.name])[self.tap.name]
        return tokens[:, self.tap.grid.prefix :].float().mean(1)

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


def check_grids(tap: Tap, student: str, teacher: Teacher) -> None:
    """Raises where the tokens of the student's output are not those of the teacher's tap, place by place."""
    own, theirs = tap.grid, teacher.tap.grid
    if (own.shape, own.axes) != (theirs.shape, theirs.axes):
        raise DiagnosticsError(
            f"Tap {teacher.tap.name} of {teacher.encoder.name} has {theirs} and the output {tap.name} of {student} has {own}, and "
            "tokens are compared one by one: choose a tap of the output's grid, or first cut the encoder at its last tap of "
            "that grid (`diagnostics cut`)."
        )


def taught(teacher: Teacher, batch: Batch) -> Tensor:
    """The teacher's tokens, without a gradient."""
    return teacher.encoder.capture(section_of(batch, teacher.section), [teacher.tap.name])[teacher.tap.name]


def agreement(tokens: Tensor, tap: Tap, target: Tensor, other: Tap, valid: Tensor | None = None) -> Tensor:
    """Mean cosine of tokens [B, T, F], prefix tokens too where both have as many; without grid tokens that are not `valid`."""
    prefix = tap.grid.prefix if tap.grid.prefix == other.grid.prefix else 0
    tokens = tokens[:, tap.grid.prefix - prefix :].float()
    target = target[:, other.grid.prefix - prefix :].float()
    cosine = nn.functional.cosine_similarity(tokens, target, dim=-1)
    if valid is None:
        return cosine.mean()
    counted = nn.functional.pad(valid.to(cosine.dtype), (prefix, 0), value=1.0)
    return (cosine * counted).sum() / counted.sum()


def put_section(section: str, inputs: Any) -> dict[str, Tensor]:
    """What `preprocess` returns, a tensor or a mapping of them, as parts of a batch."""
    if isinstance(inputs, Mapping):
        return {f"{section}/{key}": value for key, value in inputs.items()}  # pyright: ignore[reportUnknownVariableType]
    return {section: inputs}


def section_of(batch: Batch, section: str) -> Any:
    """The same back from the batch."""
    if section in batch:
        return batch[section]
    return {key.removeprefix(f"{section}/"): v for key, v in batch.items() if key.startswith(f"{section}/")}


def with_module(encoder: Encoder) -> TorchEncoder:
    """The encoder itself; raises where it shows no torch module."""
    if not isinstance(encoder, TorchEncoder):
        raise DiagnosticsError(f"{encoder.name} shows no torch module, which aligning needs: name another encoder.")
    return encoder


def second_teacher(name: str, sample: np.ndarray, dataset: Dataset, trust_code: bool = False) -> Teacher:
    """The encoder of `NAME` or `NAME:TAP`, and that tap or its output."""
    try:
        encoder, tap = build("encoder", name, trust_code=trust_code), ""
    except DiagnosticsError as error:
        whole, colon, tap = name.rpartition(":")
        if not colon or isinstance(error, UntrustedCodeError):
            raise
        try:
            encoder = build("encoder", whole, trust_code=trust_code)
        except UntrustedCodeError:
            raise
        except DiagnosticsError:
            raise error from None
    check_modality(encoder, dataset)
    sized = with_module(with_module(encoder).sized_for(sample))
    return Teacher(sized, sized.tap(tap or sized.output_tap), "second")
